"""Write docs/targets.md: which ops have kernels on which target, asked of the targets themselves on generated graphs.

python docs/generate_targets.py [--check]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fusewright.backends.numba_cpu.loops import DEDICATED
from fusewright.backends.targets import target_of
from fusewright.ir import OPS
from fusewright.passes.engine.base import subgraphs
from fusewright.testing.graphs import SAMPLERS, from_hint, random_graph

PAGE = Path(__file__).resolve().parent / "targets.md"
FAMILIES = ("cpu", "cuda")
SEEDS = 24
STRUCTURE = ("input", "constant", "return", "if", "while", "scan", "fused", "symbol_of", "view_as")
HEAD = """# What runs on which target

Written by `python docs/generate_targets.py`: each target is asked about nodes of generated graphs.

`kernel`: there is one for the op as it stands, in some or all of its forms. `pieces`: the op is always taken apart into
simpler ones, which fusion puts into kernels with what stands beside them. `view`: nothing is computed. Dtypes and
shapes are as in [ops.md](ops.md) on both targets; symbols may stay free on both. Control flow (`if`, `while`, `scan`)
is the runtime's on both, and so are extents that a call finds out (`symbol_of`, `view_as`).

| op | cpu | cuda |
| --- | --- | --- |
"""
WHY = {
    "blocked": "Blocked layouts serve the vectors of a CPU; on a GPU neighbouring threads read neighbouring channels.",
    "winograd": "The Winograd transforms work on blocked tensors.",
}


def reason(op: str) -> str:
    """The key of WHY for an op that the targets differ in."""
    return next((key for key in WHY if key in op), "")


def answers() -> dict[str, dict[str, str]]:
    """What each target says of each op."""
    targets = {family: target_of(family) for family in FAMILIES}
    out: dict[str, dict[str, str]] = {}
    for name, op in sorted(OPS.items()):
        if name in STRUCTURE:
            continue
        drawn = name in SAMPLERS or from_hint(op) is not None
        yes = dict.fromkeys(FAMILIES, not drawn and name in DEDICATED)
        for seed in range(SEEDS if drawn else 0):
            graph = random_graph(seed, ops=[name], max_nodes=3, max_elements=400)
            for g in subgraphs(graph):
                for node in g.nodes:
                    if node.op is op:
                        for family, target in targets.items():
                            yes[family] = yes[family] or target.supports(node)
        pointwise = op.decompose is not None and op.kind == "elementwise" and op.scalar is None
        row = {}
        for family in FAMILIES:
            if op.kind == "view":
                row[family] = "view"
            elif pointwise or (not yes[family] and op.decompose is not None):
                row[family] = "pieces"
            else:
                row[family] = "kernel" if yes[family] else "none"
        out[name] = row
    return out


def page() -> str:
    """The page's text. Raises SystemExit for a difference without a reason."""
    rows = answers()
    lines = [f"| `{name}` | {row['cpu']} | {row['cuda']} |" for name, row in rows.items()]
    different = [name for name, row in rows.items() if row["cpu"] != row["cuda"]]
    missing = [name for name in different if not reason(name)]
    if missing:
        raise SystemExit(f"no reason is given why the targets differ in {', '.join(missing)}")
    text = HEAD + "\n".join(lines) + "\n\n## Where they differ\n\n"
    for key, why in WHY.items():
        names = [f"`{name}`" for name in different if reason(name) == key]
        if names:
            text += f"* {', '.join(names)}: {why}\n"
    return text


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":  # the generator's draws follow the order of sets
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
        return 0
    if PAGE.read_text() != text:
        print(f"{PAGE.name} is out of date: run python docs/generate_targets.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
