"""Write docs/keras-support.md from the tables of the Keras frontend, so that the page cannot disagree with the code.

python docs/generate.py [--check]
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from fusewright.frontends.keras import layers
from fusewright.frontends.keras.call import CELLS, LAYERS, OPERATIONS, REFUSED

PAGE = Path(__file__).resolve().parent / "keras-support.md"
HEAD = """# What the Keras frontend supports

Written by `python docs/generate.py` from the frontend's own tables.

Model files: `.keras` (Keras 3, and the early archives of Keras 2), full-model `.h5`/`.hdf5` of Keras 2,
architecture `.json` with `weights=`, and live `keras.Model` objects. A layer class that stands in no table is refused
with its path, together with everything else that is refused; `fw.register_layer` adds your own.

An option that a layer class has but that cannot be honoured (`stateful=True`, quantised or LoRA weights...) is refused
by name, never ignored.
"""


def wrapped(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def page() -> str:
    families: dict[str, list[str]] = defaultdict(list)
    for name, lowering in LAYERS.items():
        families[lowering.fn.__module__.rpartition(".")[2]].append(name)
    lines = [HEAD, "## Layers", "", "| family | classes |", "| --- | --- |"]
    lines += [f"| {family} | {wrapped(families[family])} |" for family in layers.__all__ if families[family]]
    if CELLS:
        lines += ["", "Cells inside `RNN`, `StackedRNNCells` and wrappers: " + wrapped(CELLS) + "."]
    if OPERATIONS:
        lines += ["", "## Operations of `keras.ops` in functional models", "", wrapped(OPERATIONS) + "."]
    lines += ["", "## Refused by name", "", "| class | why |", "| --- | --- |"]
    lines += [f"| `{name}` | {why} |" for name, why in sorted(REFUSED.items())]
    return "\n".join(lines) + "\n"


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        fresh = PAGE.exists() and PAGE.read_text() == text
        print("up to date" if fresh else "docs/keras-support.md is out of date: run python docs/generate.py")
        return 0 if fresh else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
