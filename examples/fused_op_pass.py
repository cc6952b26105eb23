"""For the pass author: a whole-graph pass that makes a new op, and the CPU kernel of that op.

python examples/fused_op_pass.py

`mean(x)` and `mean(x * x)` of the same rows read x twice. The new op `moments` gives both in one reading. No pattern
can say this: the two means are siblings, not one tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import fusewright as fw
from fusewright.backends.numba_cpu.templates.template import Template, TextBuilder
from fusewright.core.dims import product
from fusewright.testing import check_pass


# The op: its type, and what it means in ops that exist. Interpreter, error bound, other targets and the test generator
# all follow from these two.
def infer(types: Sequence[fw.TensorType], attrs: dict[str, Any], regions: Sequence[fw.Graph]) -> list[fw.TensorType]:
    if not types[0].dtype.is_float or types[0].rank == 0:
        raise fw.TypeRefused(f"takes rows of real numbers, not {types[0]}")
    rows = fw.TensorType(types[0].dtype, types[0].shape[:-1])
    return [rows, rows]


def meaning(b: Any, operands: Sequence[Any], attrs: Any) -> tuple[Any, Any]:
    x = operands[0]
    return b.reduce_mean(x, axes=-1), b.reduce_mean(b.square(x), axes=-1)


fw.define_op(
    fw.OpDef("moments", ("x",), "reduce", infer, decompose=meaning, doc="Mean, and mean of squares, of the last axis.")
)


# The pass: it walks the graph (and the regions of loops) and looks at all readers of a value at once.
@fw.graph_pass(numerics="reassoc")
def merge_moments(graph: fw.Graph, ctx: Any) -> None:
    """The mean and the mean of the squares of the same rows become one op."""
    for node in graph.walk():
        for x in node.results:
            if x.dtype.name != "f32" or x.rank == 0:
                continue
            means = [n for n in x.users if rowwise_mean(n)]
            squares = [n for u in x.users if u.op.name == "square" for n in u.results[0].users if rowwise_mean(n)]
            if not means or not squares:
                continue
            if not isinstance(x.shape[-1], int) or x.shape[-1] == 0:
                ctx.decline(means[0], "the length of the rows is not known")
                continue
            merged = {m: 0 for m in means} | {s: 1 for s in squares}
            first = next(n for n in node.graph.nodes if n in merged)
            made = fw.Builder(node.graph, first, first.origin).moments(x)
            for old, new in ((n, made[i]) for n, i in merged.items()):
                node.graph.replace(old.results[0], new)
                node.graph.erase(old)
            ctx.rewrote("moments")


def rowwise_mean(node: Any) -> bool:
    x = node.operands[0] if node.operands else None
    return node.op.name == "reduce_mean" and node.attrs["axes"] == (x.rank - 1,) and not node.attrs["keepdims"]


# The kernel: text in the subset of Python that Numba compiles. `args` holds addresses, and work is the rows
# [start, stop) out of `extent`, so that threads share it in any way.
@fw.register_kernel("moments")
def moments_kernel(node: Any, variant: Any) -> Template:
    x = node.operands[0]
    t = TextBuilder("moments")
    t.pointer("x", "operand", 0)
    t.pointer("m", "output", 0)
    t.pointer("q", "output", 1)
    n = t.dim(x.shape[-1])
    t.add(0, "xs = pf32(x)\nms = pf32(m)\nqs = pf32(q)")
    t.add(0, "for row in range(start, stop):")
    t.add(1, f"total = f64(0)\nsquares = f64(0)\nfor i in range({n}):")
    t.add(2, f"v = f64(xs[row * {n} + i])\ntotal += v\nsquares += v * v")
    t.add(1, f"ms[row] = f32(total / {n})\nqs[row] = f32(squares / {n})")
    return Template(t.source(), t.entry, tuple(t.args), extent=product(x.shape[:-1]), grain=64)


def test_merge_moments() -> None:
    """The property test: generated graphs around what the pass looks for, special values included."""
    report = check_pass(
        merge_moments,
        like=[lambda x: fw.op.sub(fw.op.reduce_mean(fw.op.square(x), axes=-1), fw.op.reduce_mean(x, axes=-1))],
    )
    assert report.fired > 0


def main() -> None:
    test_merge_moments()

    b = fw.Builder()
    x = b.input("x", "f32", ("N", 256))
    mean = b.reduce_mean(x, axes=-1)
    variance = b.sub(b.reduce_mean(b.square(x), axes=-1), b.square(mean))
    graph = b.build({"mean": mean, "variance": variance})

    # After the portable part: a bundle's portable graph stays readable where nobody defined this op.
    pipeline = fw.default_pipeline("cpu").before("decompose", merge_moments)
    bundle = fw.compile(graph, pipeline=pipeline)
    print("kernels:", ", ".join(k["name"] for k in bundle.report().kernels))

    sample = {"x": np.random.default_rng(0).standard_normal((5, 256)).astype(np.float32)}
    exact, got = graph.run(sample, precision="f64"), bundle.run(sample)
    assert all(np.allclose(got[k], exact[k], rtol=1e-6, atol=1e-6) for k in exact)


if __name__ == "__main__":
    main()
