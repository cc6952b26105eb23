"""Faults in the source of the built-in passes, one exchanged expression each."""

# ruff: noqa: E501 - excerpts of source stand on one line, as they do there

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import numpy as np
from mutant import Kill, Mutant, changed, exchanged
from mutant_rules import hunted, sound
from strided import strided_reader

import fusewright as fw
from fusewright.core.dtypes import BF16, F16, F32, I64
from fusewright.ir import TensorType, text
from fusewright.passes.engine.base import GraphPass
from fusewright.passes.local import canonicalise, cse, dce, fold, localise, scale, simplify, sink, strides, windows
from fusewright.passes.target import decompose, fuse, layout, outline, thin
from fusewright.testing import Maker
from fusewright.testing.likes import CHAINS, CONSTANTS, MATMUL, MOVES, PADS, PAIRS, WINDOWS

op = fw.op
MUTANTS: list[Mutant] = []


def twins(m: Maker) -> Any:
    """A constant and another one that is nearly or wholly the same."""
    made = m.new(m.dtype((F32, F16)), m.shape(m.draw.pick((1, 2)), True, 4), constant=True)
    m.again()
    return made


def hollow(m: Maker) -> Any:
    """Parts without elements, joined along the empty axis and then along another."""
    rows = m.draw.integer(1, 3)
    inner = m.emit("concat", m.new(F32, (rows, 0)), m.new(F32, (rows, 0)), axis=1)[0]
    return m.emit("concat", inner, m.new(F32, (m.draw.integer(1, 3), 0)), axis=0)


def beside(m: Maker) -> Any:
    """A transposed value and a constant that it meets, of its rank or of fewer axes."""
    rank = m.draw.pick((3, 2, 4))
    perm = list(range(rank))
    at = m.draw.integer(0, rank - 2)
    perm[at], perm[-1] = perm[-1], perm[at]
    perm = perm[1:] + perm[:1] if m.draw.chance(0.5) else perm
    # Equal extents: an order of axes that is wrong still has the right shape.
    y = m.emit("transpose", m.new(F32, (3,) * rank, constant=False), perm=tuple(perm))[0]
    return m.emit("add", y, m.new(F32, y.shape[m.draw.integer(0, rank - 1) :], constant=True))


def around(m: Maker) -> Any:
    """A strided 1x1 convolution around a pool, both from one value."""
    n = m.draw.pick((6, 5, 8))
    x = m.emit("relu", m.new(F32, (1, n, n, 2), constant=False))[0]
    strides, near = m.draw.pick(((2, 2), (1, 2), (2, 1))), ((1, 1), (1, 1))
    edge = int(n % 2 == 0 and strides == (2, 2) and m.draw.chance(0.3))
    y = m.emit("conv", x, m.new(F32, (3, 3, 2, 2), constant=True), pads=near)[0]
    beyond = ((1, 1 + edge), (1, 1 + edge))
    pool = m.emit("max_pool", m.emit("relu", y)[0], window=(3, 3), strides=strides, pads=beyond)[0]
    other = m.emit("conv", x, m.new(F32, (1, 1, 2, 2), constant=True), strides=strides, pads=((edge, 0), (edge, 0)))[0]
    return m.emit("add", pool, other) if other.shape == pool.shape else None


def enlarged(m: Maker) -> Any:
    """A transposed convolution of stride 2, with or without a row more at the end."""
    x = m.new(F32, (1, m.draw.pick((2, 3)), 2, 4), constant=False)
    w = m.new(F32, (2, 2, m.draw.pick((4, 5)), 4), constant=True)
    return m.emit("conv_transpose", x, w, strides=(2, 2), output_padding=(m.draw.integer(0, 1), 0))


def interpolated(m: Maker) -> Any:
    """A banded product along two axes between convolutions."""
    n, w = m.draw.pick((2, 3)), m.new(F32, (1, 1, 4, 4), constant=True)
    x = m.emit("conv", m.new(F32, (1, n, n, 4), constant=False), w)[0]
    tables = [m.new(I64, (n,), constant=True), m.new(F32, (n, 1), constant=True)] * 2
    return m.emit("conv", m.emit("resample", x, *tables, axes=(1, 2))[0], w)


def sampled(m: Maker) -> Any:
    """A pool along two axes, over one or three elements of each."""
    x = m.new(F32, (1, m.draw.pick((3, 4, 6)), m.draw.pick((3, 4, 6)), 1), constant=False)
    window = m.draw.pick(((1, 3), (3, 1), (1, 1), (1, 1)))
    pads = m.draw.pick((((0, 0), (0, 0)), ((1, 0), (0, 0))))
    return m.emit(m.draw.pick(("max_pool", "avg_pool")), x, window=window, strides=(3, 3), pads=pads)


def fault(
    kind: str, name: str, p: Any, module: ModuleType, function: str, old: str, new: str,
    like: Sequence[Callable[..., Any]] = (), budget: int = 250, extra: Sequence[Callable[[Maker], Any]] = (),
) -> None:  # fmt: skip
    """``old`` becomes ``new`` in a function that the pass ``p`` runs."""
    within(kind, name, p, lambda: changed(module, function, old, new), like, budget, extra)


def within(
    kind: str, name: str, p: Any, patch: Callable[[], AbstractContextManager[None]],
    like: Sequence[Callable[..., Any]] = (), budget: int = 250, extra: Sequence[Callable[[Maker], Any]] = (),
) -> None:  # fmt: skip
    """check_pass on ``p`` while ``patch`` is in force."""

    def hunt(budget: int) -> Kill:
        with patch():
            return hunted(lambda: p, like=like, extra=extra)(budget)

    MUTANTS.append(Mutant(f"{p.name}: {name}", kind, hunt, budget, sound(p, like=like, extra=extra)))


CSE, FORMS, SINK, SCALE = cse.cse, canonicalise.canonicalise, sink.sink, scale.scale
# Common subexpressions.
for _name, _at in (("sub", 0), ("maximum", 1), ("div", 2), ("lt", 3)):
    within("logic", f"{_name} commutes", CSE,
           lambda n=_name: exchanged(cse, "_ORDER_FREE", cse._ORDER_FREE | {n}), like=PAIRS[_at : _at + 1])  # fmt: skip
fault("logic", "attributes do not count", CSE, cse, "_key", "node.op.name, tuple(operands), attrs,",
      "node.op.name, tuple(operands),", like=PAIRS[5:6])  # fmt: skip
fault("logic", "the last operand does not count", CSE, cse, "_key", "for v in node.operands]",
      "for v in node.operands[:2]]", [lambda c, x, y: op.where(c, x, y) - op.where(c, x, y * 2)])  # fmt: skip
fault("logic", "the op does not count", CSE, cse, "_key", "node.op.name, tuple", "len(node.operands), tuple")
within(
    "logic",
    "constants are compared at their corners",
    CSE,
    lambda: exchanged(cse, "_bytes_equal", lambda a, b: True),
    extra=[twins],
)
fault("type", "neither keepdims nor types count", CSE, cse, "_key", "attrs, tuple(v.type for v in node.results))",
      'tuple(a for a in attrs if a[0] != "keepdims"))',
      [lambda x, a: op.reduce_sum(x, axes=a, keepdims=True) + op.reduce_sum(x, axes=a, keepdims=False)])  # fmt: skip
within("numeric", "constants are compared by value", CSE, lambda: exchanged(
    cse, "_bytes_equal", lambda a, b: np.array_equal(a.array, b.array)), extra=[twins])  # fmt: skip
fault("logic", "merges results crosswise", CSE, cse, "cse", "zip(node.results, first.results)",
      "zip(node.results, first.operands)")  # fmt: skip
# Dead code.
fault("error", "erases inputs", dce.dce, dce, "dce", 'node.op.name in ("input", "return")', 'node.op.name == "return"')
fault("error", "counts nothing", dce.dce, dce, "dce", "ctx.rewrote(", "dict(")
fault("error", "erases what is used once", dce.dce, dce, "dce", "any(v.uses for", "any(len(v.uses) > 1 for")
# Folding.
fault("logic", "takes the other branch", fold.fold, fold, "_branch", "0 if bool(condition.array) else 1",
      "1 if bool(condition.array) else 0", budget=900)  # fmt: skip
fault("numeric", "goes by way of half precision", fold.fold, fold, "evaluate", "dt.compute).reshape(shape)",
      'np.float16 if dt.kind == "f" else dt.compute).astype(dt.compute).reshape(shape)')  # fmt: skip
fault("shape", "folds to the transposed bytes", fold.fold, fold, "evaluate", "np.ascontiguousarray(out, dt.compute)",
      "np.asarray(out, dt.compute).T.copy()")  # fmt: skip
fault("type", "a splat keeps the type of its operand", fold.fold, fold, "evaluate",
      "make_splat(elements[0], shape, dt)", "make_splat(elements[0] * 2, shape, dt)")  # fmt: skip
fault("logic", "a concat of splats is the first", fold.fold, fold, "_splats", '"slice", "reverse")',
      '"slice", "reverse", "concat")', like=CONSTANTS[1:2])  # fmt: skip
# Canonical forms.
fault("B12", "any transpose of one axis order is none", FORMS, canonicalise, "_identity_order",
      'list(node.attrs["perm"]) == list(range(x.rank))', "x.shape == node.result.shape")  # fmt: skip
fault("shape", "one extent of 1 makes a reverse none", FORMS, canonicalise, "_identity_order",
      "if all(x.shape[a] == 1", "if any(x.shape[a] == 1", like=MOVES[2:3])  # fmt: skip
fault("type", "a cast of equal shape is none", FORMS, canonicalise, "_identity", "x.dtype is y.dtype and", "")
fault("shape", "transposes compose the other way", FORMS, canonicalise, "_transpose_of_transpose",
      'first[p] for p in node.attrs["perm"]', 'node.attrs["perm"][p] for p in first')  # fmt: skip
fault("shape", "every transpose is a reshape", FORMS, canonicalise, "_transpose_of_ones", "kept == sorted(kept) and",
      "len(kept) < 4 and")  # fmt: skip
fault("shape", "inner steps are forgotten", FORMS, canonicalise, "_slice_of_slice", "i_start + start * i_step",
      "i_start + start", like=MOVES[1:2])  # fmt: skip
fault(
    "shape",
    "steps are added",
    FORMS,
    canonicalise,
    "_slice_of_slice",
    "i_step * step",
    "i_step + step - 1",
    like=MOVES[1:2],
)
fault("shape", "slices end one early", FORMS, canonicalise, "_slice_of_slice", "(size - 1) * steps[-1] + 1",
      "(size - 1) * steps[-1]", like=MOVES[1:2])  # fmt: skip
fault("shape", "any two reverses cancel", FORMS, canonicalise, "_reverse_of_reverse",
      'inner is not None and inner.attrs["axes"] == node.attrs["axes"]', "inner is not None", like=MOVES[2:3])  # fmt: skip
within("type", "every type holds every other", FORMS, lambda: exchanged(canonicalise, "holds", lambda w, n: True))
fault("shape", "concats of any axis are one", FORMS, canonicalise, "_concat_of_concat",
      'inner.attrs["axis"] == axis and', "", extra=[hollow])  # fmt: skip
fault("shape", "parts of a concat change places", FORMS, canonicalise, "_concat_of_concat",
      "parts += inner.operands if", "parts += inner.operands[::-1] if", like=MOVES[3:4])  # fmt: skip
fault("logic", "chooses the other value", FORMS, canonicalise, "_where_constant", "1 if bool(condition) else 2",
      "2 if bool(condition) else 1", [lambda x, y: op.where(True, x, y)])  # fmt: skip
fault("shape", "chosen values are not spread", FORMS, canonicalise, "_where_constant",
      "same_shape(chosen.shape, node.result.shape)", "True", [lambda x, y: op.where(True, x, y)])  # fmt: skip
fault("shape", "spreading is always needless", FORMS, canonicalise, "_needless_spreading",
      "if same_shape(broadcast(shapes), node.result.shape):", "if True:")  # fmt: skip
fault("shape", "views forget the outer shape", FORMS, canonicalise, "_view_of_view", "node.result.shape}",
      "inner.result.shape}")  # fmt: skip
within("type", "bf16 holds what f16 does", FORMS, lambda: exchanged(
    canonicalise, "holds", lambda w, n, holds=canonicalise.holds: (w, n) == (BF16, F16) or holds(w, n)), like=[lambda x: op.cast(op.cast(x, to="bf16"), to=...)])  # fmt: skip
# Padding and pools.
fault("logic", "any padding is zero padding", FORMS, canonicalise, "zero_padding",
      "value is not None and same_scalar(value, 0, node.result.dtype)", "True", like=PADS[1:2])  # fmt: skip
fault("logic", "reflected padding is zero padding", FORMS, canonicalise, "zero_padding",
      'or node.attrs["mode"] != "constant"', "", like=PADS[:1])  # fmt: skip
fault("shape", "low and high padding change places", FORMS, canonicalise, "_pad_into_conv", "(a + p, c + q)",
      "(a + q, c + p)", like=PADS[:1])  # fmt: skip
fault("numeric", "padding beside infinite weights", FORMS, canonicalise, "_pad_into_conv",
      "or not np.isfinite(decode(weights.array, weights.dtype)).all()", "", like=PADS[:1])  # fmt: skip
fault("numeric", "zeros never win in a pool", simplify.simplify, simplify, "_pad_into_max_pool",
      "not not_negative(pad.operands[0])", "False", like=PADS[3:])  # fmt: skip
# Windows and edges.
EDGES = windows.windows
fault("shape", "pools of one element along one axis", EDGES, windows, "_pool_of_one", "if any(k != 1 for",
      "if all(k != 1 for", extra=[sampled])  # fmt: skip
fault("shape", "padded pools of one element", EDGES, windows, "_pool_of_one",
      " or any(compare_eq(p, 0) is not True for p in padding)", "", extra=[sampled])  # fmt: skip
fault("shape", "steps over the operand are rounded down", EDGES, windows, "_cut", "max(-((start - low - size) // step), 0)",
      "max((low + size - start) // step, 0)", like=WINDOWS[:2])  # fmt: skip
fault("shape", "steps over the padding count one", EDGES, windows, "_cut", "start + before * step - low",
      "start + before - low", like=WINDOWS[:2])  # fmt: skip
fault("logic", "every padding is a constant", EDGES, windows, "_cut", 'pad.attrs["mode"] != "constant" or', "",
      like=WINDOWS[:1])  # fmt: skip
fault("logic", "the value of a padding is zero", EDGES, windows, "_slice_of_pad", "[y, *pad.operands[1:]]", "[y]",
      like=WINDOWS[1:2])  # fmt: skip
# Strides that go backwards.
BACK = strides.strides
fault("shape", "windows of two are windows of one", BACK, strides, "skipping", "all(k == 1 for k in window)",
      "any(k == 1 for k in window)", extra=[strided_reader])  # fmt: skip
fault("shape", "padded readers take every second position", BACK, strides, "skipping", "and all(p == 0 for p in pads)",
      "", extra=[strided_reader])  # fmt: skip
fault("logic", "whoever else reads it", BACK, strides, "_move", "len(found) != 1 or", "", extra=[strided_reader])
fault("shape", "strides are added", BACK, strides, "_Thinning._of", "a * s for", "a + s - 1 for",
      extra=[strided_reader])  # fmt: skip
fault("shape", "the reader skips again", BACK, strides, "_move", '"strides": (1,) * len(strides)', '"strides": strides',
      extra=[strided_reader])  # fmt: skip
fault("shape", "rows of operands are not cut", BACK, strides, "_Thinning._operand", "all(d == 1", "any(d == 1",
      extra=[strided_reader])  # fmt: skip
# Sinking of transposes.
fault(
    "shape",
    "constants are turned the wrong way",
    SINK,
    sink,
    "_before",
    "np.argsort(perm)",
    "perm",
    extra=[beside],
)
fault("shape", "reduced axes are not mapped", SINK, sink, "_behind_reduction", "tuple(perm[a] for a in axes)",
      "tuple(axes)")  # fmt: skip
fault("shape", "what is left keeps its order", SINK, sink, "_behind_reduction", "if left != sorted(left) else y",
      "if False else y")  # fmt: skip
fault("shape", "kept axes are not turned back", SINK, sink, "_behind_reduction", "return b.transpose(y, perm=perm)",
      "return y")  # fmt: skip
fault("shape", "a concat's axis is not mapped", SINK, sink, "_behind_concat", 'perm[node.attrs["axis"]]',
      'node.attrs["axis"]')  # fmt: skip
fault("shape", "parts turned differently are joined", SINK, sink, "_behind_concat",
      "or len({_perm(v) for v in node.operands}) != 1", "")  # fmt: skip
fault("shape", "attributes per axis are not mapped", SINK, sink, "_spread", "out[p] = values[i]", "out[i] = values[p]")  # fmt: skip
fault("shape", "results are turned the wrong way", SINK, sink, "_behind_elementwise",
      "node.attrs)[0], perm=perm)", "node.attrs)[0], perm=tuple(int(i) for i in np.argsort(perm)))")  # fmt: skip
fault("shape", "a product's flag stays", SINK, sink, "_into_matmul", 'not node.attrs["transpose_b"]',
      'node.attrs["transpose_b"]')  # fmt: skip
fault("shape", "any transpose goes into a product", SINK, sink, "_into_matmul", "if _perm(x) != swap:", "if False:")  # fmt: skip
fault("shape", "constants of lower rank are not turned", SINK, sink, "_before", "if v.rank == 0:",
      "if v.rank < len(perm):", extra=[beside])  # fmt: skip
# Scales.
fault(
    "logic",
    "c - x is x - c",
    SCALE,
    scale,
    "_step",
    '-1.0 if name == "sub" and index == 1 else 1.0',
    "1.0",
    like=CHAINS[1:2],
)
fault(
    "logic",
    "x - c is x + c",
    SCALE,
    scale,
    "_step",
    '(-c if name == "sub" and index == 0 else c)',
    "c",
    like=CHAINS[6:7],
)
fault("shape", "groups of a transposed convolution share a scale", SCALE, scale, "_weight_factor",
      "np.repeat(s.reshape(groups, out), per_group, axis=0)",
      "np.repeat(s.reshape(groups, out)[:1], w.shape[-1], axis=0)", like=CHAINS[-1:])  # fmt: skip
fault("shape", "groups before a convolution share a scale", SCALE, scale, "_fold_before",
      "np.repeat(s.reshape(groups, -1), w.shape[-1] // groups, axis=0)",
      "np.repeat(s.reshape(groups, -1)[:1], w.shape[-1], axis=0)", like=CHAINS[-2:-1], budget=400)  # fmt: skip
fault("logic", "a shift is not scaled", SCALE, scale, "_step", "chain.shift = chain.shift * factor if factor",
      "chain.shift = chain.shift if factor", [lambda x, w, c, d: (op.matmul(x, w, **MATMUL) + c) * d])  # fmt: skip
fault("logic", "a negation forgets the shift", SCALE, scale, "_step", "chain.shift, chain.scales = -chain.scale, -chain.shift",
      "chain.shift, chain.scales = -chain.scale, chain.shift", [lambda x, w, c: -(op.matmul(x, w, **MATMUL) + c)])  # fmt: skip
fault("shape", "rows of transposed weights are scaled", SCALE, scale, "_weight_factor",
      's[:, None] if attrs["transpose_b"] else s', "s")  # fmt: skip
fault("B10", "an inner value with other readers is folded", SCALE, scale, "_chain", "while value.use_count == 1:",
      "while value.use_count:")  # fmt: skip
fault("logic", "batch norm without epsilon", SCALE, scale, "batch_norm_affine", "var + epsilon", "var")  # fmt: skip
fault("logic", "batch norm forgets the mean", SCALE, scale, "batch_norm_affine", "-(mean * scale)", "0 * mean")
fault("shape", "batch norm along the last axis", SCALE, scale, "_spell_out", "(x.rank - axis - 1)", "0")
fault("shape", "the wrong axis of the weights before", SCALE, scale, "_fold_before",
      's if node.attrs["transpose_b"] else s[:, None]', 's[:, None] if node.attrs["transpose_b"] else s')  # fmt: skip
fault("B9", "weights are scaled where they lie", SCALE, scale, "_fold_behind", "last = chain.nodes[-1]",
      "last = chain.nodes[-1]; np.multiply(w, factor, out=weights.const.array.base)")  # fmt: skip
# Regions.
fault("shape", "the wrong input of a branch", localise.localise, localise, "_sink",
      'index - 1 if node.op.name == "if" else index', "0")  # fmt: skip
fault("shape", "scanned values are sunk like constants", localise.localise, localise, "_first_constant_operand",
      'node.attrs["n_carry"] + node.attrs["n_xs"]', 'node.attrs["n_carry"]', budget=400)  # fmt: skip
fault("logic", "decompositions change places", decompose.decompose, decompose, "expand", "zip(node.results, values",
      "zip(node.results, [node.operands[0]]", [lambda x: op.softmax(x), lambda x: op.gelu(x)])  # fmt: skip
# Layout.
LAYOUT = layout.layout
fault("shape", "reduced axes are off by one", LAYOUT, layout, "_reduce", "tuple(a + 1 for a in axes)",
      "tuple(a + (a > 1) for a in axes)")  # fmt: skip
fault("shape", "parts end inside a block", LAYOUT, layout, "_concat",
      "any(not isinstance(c, int) or c % s.block for c in widths[:-1])", "False")  # fmt: skip
fault(
    "shape",
    "channels cut inside a block",
    LAYOUT,
    layout,
    "_slice",
    "start % s.block or",
    "False and",
)
fault("shape", "padding of channels is forgotten", LAYOUT, layout, "_pad", "or low[-1] != 0 or high[-1] != 0", "")  # fmt: skip
fault("shape", "low padding for high", LAYOUT, layout, "_pad", '"high": _inner(high, 0, 0)', '"high": _inner(low, 0, 0)')  # fmt: skip
fault("logic", "padding lanes are channels", LAYOUT, layout, "_Layout.unblock", "channels=twin.channels",
      "channels=min(twin.channels + 1, twin.value.shape[1] * self.block)")  # fmt: skip
fault("shape", "a vector over space is one over channels", LAYOUT, layout, "_Layout.operand",
      "if full[-1] == 1 and channels != 1:", "if False:")  # fmt: skip
fault("shape", "extra rows of a transposed window are lost", LAYOUT, layout, "_conv", "{**node.attrs, ",
      '{**{k: v for k, v in node.attrs.items() if k != "output_padding"}, ', extra=[enlarged])  # fmt: skip
fault("shape", "blocks are interpolated along another axis", LAYOUT, layout, "_resample", "a + 1 for a in axes",
      "a + 2 - len(axes) for a in axes", extra=[interpolated])  # fmt: skip
# Fusion.
fault("logic", "operands of a region change places", fuse.fuse, outline, "build_region",
      "[mapping[v] for v in n.operands]", "[mapping[v] for v in n.operands[::-1]]")  # fmt: skip
fault("error", "members are read before the group", fuse.fuse, fuse, "_Fuser._joins",
      "if len(early) > MAX_SIBLINGS:", "if False: pass\n    early = []\n    if False:")  # fmt: skip
fault("B10", "only the last result leaves a group", fuse.fuse, outline, "fuse_nodes", "zip(outputs, results, strict=True)",
      "zip(outputs, results[::-1], strict=True)")  # fmt: skip
fault("error", "fused nodes without an origin", fuse.fuse, outline, "fuse_nodes", "Builder(graph, last, origin)",
      "Builder(graph, last)")  # fmt: skip
# Thinning, of what fusion left.
THIN = GraphPass(lambda graph, ctx: [p.run(graph, ctx) for p in (fuse.fuse, thin.thin)] and None, "thin", "exact")
fault("shape", "the other axis is thinned", THIN, thin, "_replace", 'anchor.attrs["strides"])', 'anchor.attrs["strides"][::-1])',
      extra=[around])  # fmt: skip
fault("shape", "a padding is thinned as well", THIN, strides, "skipping", "and all(p == 0 for p in pads)", "",
      extra=[around])  # fmt: skip
# The text form, seen by a pass that changes nothing.
IDLE = fw.graph_pass(numerics="exact", name="idle")(lambda graph, ctx: None)
within("type", "the text forgets attributes", IDLE, lambda: changed(
    text, "_Printer._attrs", "for name, value in node.attrs.items()",
    "for name, value in list(node.attrs.items())[:1]"))  # fmt: skip


EQUIVALENT = {
    "canonicalise: padded channels are forgotten": "the weights' type refuses other channels, and the driver declines",
    "canonicalise: empty parts drop their neighbours": "parts share every extent but one: none or all would be dropped",
    "layout: grouped inputs read plain": "conv_blocked takes groups of a plain operand too; only a kernel minds",
    "fuse: an epilogue of another shape": "a region means what its nodes mean; only a kernel minds shapes, and is asked",
    "cse: keepdims does not count": "result types are part of the key, and keepdims changes them wherever axes are reduced",
}


# Passes as users write them.
def user_pass(
    kind: str, name: str, ops: Sequence[str] | None = None, like: Sequence[Callable[..., Any]] = ()
) -> Callable[[Any], None]:
    """A broken graph pass."""
    return lambda f: MUTANTS.append(
        Mutant(name, kind, hunted(lambda: fw.graph_pass(numerics="exact", name="mutant")(f), ops=ops, like=like))
    )


@user_pass("B12", "x * ones -> x loses the spreading", ["mul", "add", "relu"], [lambda x: x * 1])
def _times_ones(graph: Any, ctx: Any) -> None:
    for node in graph.nodes:
        if node.op.name == "mul" and node.operands[1].const is not None and (node.operands[1].const.array == 1).all():
            graph.replace(node.results[0], node.operands[0])
            graph.erase(node)
            ctx.rewrote()


@user_pass("B2", "removes reshapes by rank", ["reshape", "add"])
def _no_reshape(graph: Any, ctx: Any) -> None:
    for node in graph.nodes:
        if node.op.name == "reshape" and node.operands[0].rank == node.results[0].rank:
            graph.replace(node.results[0], node.operands[0])
            graph.erase(node)
            ctx.rewrote()


@user_pass("B3", "returns the input for its copy", ["neg", "reshape"])
def _wrong_output(graph: Any, ctx: Any) -> None:
    for i, v in enumerate(graph.outputs):
        if v.producer.op.name == "neg":
            graph.return_node.set_operand(i, v.producer.operands[0])
            ctx.rewrote()


@user_pass("error", "edits operands behind the use lists", ["add", "neg"])
def _behind(graph: Any, ctx: Any) -> None:
    for node in graph.nodes:
        if node.op.name == "neg" and node.operands[0].producer.op.name == "neg":
            node._operands[0] = node.operands[0].producer.operands[0]
            ctx.rewrote()


@user_pass("error", "inserts behind the use", ["neg", "add"])
def _late(graph: Any, ctx: Any) -> None:
    for node in list(graph.nodes):
        if node.op.name == "add" and node.next is not graph.return_node:
            graph.move(node, graph.return_node)
            ctx.rewrote()


@user_pass("type", "changes a type in place", ["add", "cast"])
def _retyped(graph: Any, ctx: Any) -> None:
    for node in graph.nodes:
        if node.op.name == "add" and node.results[0].dtype is not F32:
            node.results[0].type = TensorType(F32, node.results[0].shape)
            ctx.rewrote()


@user_pass("error", "forgets what the caller called the inputs", ["add"])
def _renamed(graph: Any, ctx: Any) -> None:
    for v in graph.inputs:
        v.name = v.producer.attrs["name"] = v.name + "_"
        ctx.rewrote()


__all__ = ["MUTANTS", "Maker", "np"]
