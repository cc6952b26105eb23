"""Write docs/tensorflow-support.md from the tables of the TensorFlow frontend, so that the page cannot disagree.

python docs/generate_tensorflow.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

from fusewright.frontends.tensorflow.lower import CALLS, OPS, RANDOM, REFUSED

PAGE = Path(__file__).resolve().parent / "tensorflow-support.md"
_HEAD = """# What the TensorFlow frontend supports

Written by `python docs/generate_tensorflow.py` from the frontend's own tables.

TensorFlow is not needed: the files are read as data. An op that stands in no table is refused with its place, together
with every other; `fw.register_op("tf", "MyOp")` adds your own (it gets the node and its operands as values).

| source | how it is read |
| --- | --- |
| frozen graph `.pb` | inputs and outputs as asked for, at any tensor, else placeholders and what nobody reads |
| SavedModel folder | `signature=` (default `serving_default`, or the only one), names sorted; functions are inlined |
| TF1 checkpoint | prefix, its `.meta` file (which holds the graph) or its folder; name outputs with `outputs=` |
| `tf.function`, `ConcreteFunction`, `tf.Graph`, `GraphDef` | arguments in order, results by key, else `output_0`... |
| `tf.Module`, object of `tf.saved_model.load` | `signature=` names one of its functions or signatures |
| `keras.Model` with `signature="call"` | its call traced by TensorFlow: the other route, to compare |

A live function without an input signature is traced with `shapes=` (float32, or a `tf.TensorSpec` each) and `feeds=`;
if it was called for one kind of arguments, that trace is taken. Variables are read at import. A variable that a call
changes and its outputs read is refused (`stateful`); one that is only counted up is left alone.

`inputs=` and `outputs=` may name any tensor; one inside called functions by its path, as refusals and origins show it
(`StatefulPartitionedCall/dense/MatMul`): so the numeric part of a model behind a table or strings can be imported.
`feeds={"name": value}` binds a tensor at import: a switch such as `is_training`, or an operand that decides a shape.
Slices, reshapes, `Fill`, `Tile`, `Range` and `BroadcastTo` by numbers that are computed find their extents during the
run; where nothing bounds such a number the compiler asks for a bound: `dims={"K": (0, 1000)}`, `--dim K=0:1000`.
`shapes={"name": (...)}` gives a shape that the file leaves open, or fixes one. Every file may be in text form
(`.pbtxt`); a variable that a checkpoint stores in slices is put together. Of several graphs in a SavedModel the one for
serving is taken, else one that has the signature. Lookup tables and string tensors are refused.

Where TensorFlow promises nothing, every machine gives one answer here: a float that does not fit an integer type is
clipped into it and NaN becomes 0 (in TensorFlow the processor decides: x86 gives the least number, and small types
wrap). A complex number divided by zero is NaN in both parts. Boxes whose overlap is NaN do not suppress each other
(TensorFlow sets the score of the later one to 0, so that it comes last).

Control flow: `If`, `Case` and `While` become regions; the conditionals and loops of TensorFlow 1 (`Switch`, `Merge`,
`Enter`, `Exit`, `NextIteration`), nested in any way, are rebuilt into the same. Of a condition known at import only the
branch taken is left. Refused: a conditional whose branches differ in shape, a loop whose values change shape, and a
list that grows. Complex tensors live inside a graph (Fourier transforms), not at its inputs and outputs.
"""


def page() -> str:
    """The page's text."""
    families: dict[str, list[str]] = {}
    for name, lowering in OPS.items():
        families.setdefault(lowering.__module__.rpartition(".")[2], []).append(name)
    families.setdefault("control", []).extend(CALLS)
    lines = [_HEAD, f"## Ops ({len(OPS) + len(CALLS)})", "", "| family | ops |", "| --- | --- |"]
    lines += [
        f"| {family} | {', '.join(f'`{n}`' for n in sorted(names))} |" for family, names in sorted(families.items())
    ]
    lines += ["", "## Refused by name", "", "| op | why |", "| --- | --- |"]
    reasons: dict[str, list[str]] = {}
    for name, text in REFUSED.items():
        reasons.setdefault(text.partition(": ")[2], []).append(name)
    lines += [f"| {', '.join(f'`{n}`' for n in sorted(names))} | {why} |" for why, names in reasons.items()]
    lines += [
        "",
        f"Random ops ({len(RANDOM)} of these) are refused with the code `random`, the others with `unsupported-op`.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        fresh = PAGE.read_text() == page()
        print(
            "up to date"
            if fresh
            else "docs/tensorflow-support.md is out of date: run python docs/generate_tensorflow.py"
        )
        sys.exit(0 if fresh else 1)
    PAGE.write_text(page())
