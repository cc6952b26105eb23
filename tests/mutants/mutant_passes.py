"""Faults in the source of the built-in passes, one exchanged expression each."""

# ruff: noqa: E501 - excerpts of source stand on one line, as they do there

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import numpy as np
from mutant import Kill, Mutant, changed, exchanged
from mutant_rules import hunted

import fusewright as fw
from fusewright.core.dtypes import F32
from fusewright.ir import TensorType, text
from fusewright.passes import (
    canonicalise,
    cse,
    dce,
    decompose,
    fold,
    fuse,
    layout,
    localise,
    outline,
    scale,
    sink,
)  # fmt: skip
from fusewright.testing import Maker

op = fw.op
MUTANTS: list[Mutant] = []
CONV = {"strides": ..., "pads": ..., "dilations": ..., "groups": ...}
POOL = {"window": ..., "strides": ..., "pads": ..., "dilations": ...}
MATMUL = {"transpose_a": ..., "transpose_b": ...}
PAD = {"low": ..., "high": ..., "mode": ...}
CUT = {"starts": ..., "stops": ..., "steps": ...}
REDUCE = {"axes": ..., "keepdims": ...}


def _turned(*args: Any) -> Any:
    return op.transpose(*args, perm=...)


MOVES = [
    lambda x: _turned(_turned(x)),
    lambda x: op.slice(op.slice(x, **CUT), **CUT),
    lambda x: op.reverse(op.reverse(x, axes=...), axes=...),
    lambda x, y, z: op.concat(op.concat(x, y, axis=...), z, axis=...),
    lambda x: op.cast(op.cast(x, to=...), to=...),
    lambda x: op.reshape(op.reshape(x, shape=...), shape=...),
    lambda x, y: op.broadcast_to(x, shape=...) + y,
]
PADS = [
    lambda x, w: op.conv(op.pad(x, **PAD), w, **CONV),
    lambda x, v, w: op.conv(op.pad(x, v, **PAD), w, **CONV),
    lambda x: op.max_pool(op.pad(op.relu(x), **PAD), **POOL),
    lambda x: op.max_pool(op.pad(x, **PAD), **POOL),
]
TURNS = [
    lambda x: op.relu(_turned(x)),
    lambda x, y: _turned(x) + y,
    lambda x: op.reduce_sum(_turned(x), **REDUCE),
    lambda x: op.reduce_max(_turned(x), **REDUCE),
    lambda x, y: op.concat(_turned(x), _turned(y), axis=...),
    lambda x: op.slice(_turned(x), **CUT),
    lambda x: op.pad(_turned(x), **PAD),
    lambda x, w: op.matmul(x, _turned(w), **MATMUL),
]
CHAINS = [
    lambda x, w, c: op.matmul(x, w, **MATMUL) * c,
    lambda x, w, c: c - op.matmul(x, w, **MATMUL) * 2.0,
    lambda x, w, c: op.conv(x, w, **CONV) * c + 1.0,
    lambda x, w, c: -op.conv(x, w, **CONV) / c,
    lambda x, w, c: op.matmul(x * c, w, **MATMUL),
    lambda x, m, v: op.batch_norm(x, m, v, axis=..., epsilon=..., has_gamma=False),
]
BLOCKS = [
    lambda x, w: op.relu(op.conv(x, w, **CONV)),
    lambda x, w: op.max_pool(op.conv(x, w, **CONV), **POOL),
    lambda x, w: op.slice(op.conv(x, w, **CONV), **CUT),
    lambda x, w, v: op.concat(op.conv(x, w, **CONV), op.conv(x, v, **CONV), axis=...),
    lambda x, w: op.reduce_mean(op.conv(x, w, **CONV), **REDUCE),
    lambda x, w: op.pad(op.conv(x, w, **CONV), **PAD),
    lambda x, w, c: op.conv(x, w, **CONV) + c,
]
EPILOGUES = [
    lambda x, w, c: op.relu(op.matmul(x, w, **MATMUL) + c),
    lambda x, y: op.relu(op.exp(x) + y) * y,
    lambda x: op.neg(op.relu(x) * x),
]


def fault(
    kind: str, name: str, p: Any, module: ModuleType, function: str, old: str, new: str,
    like: Sequence[Callable[..., Any]] = (), budget: int = 400,
) -> None:  # fmt: skip
    """``old`` becomes ``new`` in a function that the pass ``p`` runs."""
    within(kind, name, p, lambda: changed(module, function, old, new), like, budget)


def within(
    kind: str, name: str, p: Any, patch: Callable[[], AbstractContextManager[None]],
    like: Sequence[Callable[..., Any]] = (), budget: int = 400,
) -> None:  # fmt: skip
    """check_pass on ``p`` while ``patch`` is in force."""

    def hunt(budget: int) -> Kill:
        with patch():
            return hunted(lambda: p, like=like)(budget)

    MUTANTS.append(Mutant(f"{p.name}: {name}", kind, hunt, budget))


CSE, FORMS, SINK, SCALE = cse.cse, canonicalise.canonicalise, sink.sink, scale.scale
# Common subexpressions.
PAIRS = [lambda x, y: (x - y) * (y - x), lambda x, y: op.maximum(x, y) / op.maximum(y, x), lambda x, y: x / y - y / x]
for _name in ("sub", "div", "lt", "maximum"):
    within("logic", f"{_name} commutes", CSE,
           lambda n=_name: exchanged(cse, "_ORDER_FREE", cse._ORDER_FREE | {n}), [*PAIRS, lambda x, y: op.logical_and(
               x < y, y < x)])  # fmt: skip
fault("logic", "attributes do not count", CSE, cse, "_key", "node.op.name, tuple(operands), attrs,",
      "node.op.name, tuple(operands),")  # fmt: skip
fault("logic", "the last operand does not count", CSE, cse, "_key", "for v in node.operands]",
      "for v in node.operands[:2]]", [lambda c, x, y: op.where(c, x, y) - op.where(c, x, c * 1)])  # fmt: skip
fault("logic", "the op does not count", CSE, cse, "_key", "node.op.name, tuple", "len(node.operands), tuple")
within(
    "logic", "constants are compared at their corners", CSE, lambda: exchanged(cse, "_bytes_equal", lambda a, b: True)
)
fault("logic", "merges results crosswise", CSE, cse, "cse", "zip(node.results, first.results)",
      "zip(node.results, first.operands)")  # fmt: skip
# Dead code.
fault("error", "erases inputs", dce.dce, dce, "dce", 'node.op.name in ("input", "return")', 'node.op.name == "return"')
fault("error", "counts nothing", dce.dce, dce, "dce", 'ctx.rewrote("dead " + node.op.name)', "pass")
fault("error", "erases what is used once", dce.dce, dce, "dce", "any(v.uses for", "any(len(v.uses) > 1 for")
# Folding.
FOLDS = [lambda x: op.transpose(x, perm=...), lambda x, y: op.concat(x, y, axis=...)]
fault("logic", "takes the other branch", fold.fold, fold, "_branch", "0 if bool(condition.array) else 1",
      "1 if bool(condition.array) else 0", budget=1500)  # fmt: skip
fault("numeric", "goes by way of half precision", fold.fold, fold, "evaluate", "dt.compute).reshape(shape)",
      'np.float16 if dt.kind == "f" else dt.compute).astype(dt.compute).reshape(shape)')  # fmt: skip
fault("shape", "folds to the transposed bytes", fold.fold, fold, "evaluate", "np.ascontiguousarray(out, dt.compute)",
      "np.asarray(out, dt.compute).T.copy()", FOLDS)  # fmt: skip
fault("type", "a splat keeps the type of its operand", fold.fold, fold, "evaluate",
      "make_splat(elements[0], shape, dt)", "make_splat(elements[0] * 2, shape, dt)", FOLDS)  # fmt: skip
# Canonical forms.
fault("B12", "any transpose of one axis order is none", FORMS, canonicalise, "_identity_order",
      'list(node.attrs["perm"]) == list(range(x.rank))', "x.shape == node.result.shape", MOVES)  # fmt: skip
fault("shape", "one extent of 1 makes a reverse none", FORMS, canonicalise, "_identity_order",
      "if all(x.shape[a] == 1", "if any(x.shape[a] == 1", MOVES)  # fmt: skip
fault("type", "a cast of equal shape is none", FORMS, canonicalise, "_identity", "x.dtype is y.dtype and", "")
fault("shape", "transposes compose the other way", FORMS, canonicalise, "_transpose_of_transpose",
      'first[p] for p in node.attrs["perm"]', 'node.attrs["perm"][p] for p in first', MOVES)  # fmt: skip
fault("shape", "every transpose is a reshape", FORMS, canonicalise, "_transpose_of_ones", "kept == sorted(kept) and",
      "len(kept) < 4 and", MOVES)  # fmt: skip
fault("shape", "inner steps are forgotten", FORMS, canonicalise, "_slice_of_slice", "i_start + start * i_step",
      "i_start + start", MOVES)  # fmt: skip
fault("shape", "steps are added", FORMS, canonicalise, "_slice_of_slice", "i_step * step", "i_step + step - 1", MOVES)
fault("shape", "slices end one early", FORMS, canonicalise, "_slice_of_slice", "(size - 1) * steps[-1] + 1",
      "(size - 1) * steps[-1]", MOVES)  # fmt: skip
fault("shape", "any two reverses cancel", FORMS, canonicalise, "_reverse_of_reverse",
      'inner is not None and inner.attrs["axes"] == node.attrs["axes"]', "inner is not None", MOVES)  # fmt: skip
within(
    "type", "every type holds every other", FORMS, lambda: exchanged(canonicalise, "holds", lambda w, n: True), MOVES
)
fault("logic", "empty parts drop their neighbours", FORMS, canonicalise, "_concat_empty", "v.shape[axis] != 0",
      "v.shape[0] != 0", MOVES, 1500)  # fmt: skip
fault("shape", "concats of any axis are one", FORMS, canonicalise, "_concat_of_concat",
      'inner.attrs["axis"] == axis and', "", MOVES)  # fmt: skip
fault("shape", "parts of a concat change places", FORMS, canonicalise, "_concat_of_concat",
      "parts += inner.operands if", "parts += inner.operands[::-1] if", MOVES)  # fmt: skip
fault("logic", "chooses the other value", FORMS, canonicalise, "_where_constant", "1 if bool(condition) else 2",
      "2 if bool(condition) else 1", [lambda x, y: op.where(True, x, y)])  # fmt: skip
fault("shape", "chosen values are not spread", FORMS, canonicalise, "_where_constant",
      "same_shape(chosen.shape, node.result.shape)", "True", [lambda x, y: op.where(True, x, y)])  # fmt: skip
fault("shape", "spreading is always needless", FORMS, canonicalise, "_needless_spreading",
      "if same_shape(broadcast(shapes), node.result.shape):", "if True:", MOVES)  # fmt: skip
fault("shape", "views forget the outer shape", FORMS, canonicalise, "_view_of_view", "node.result.shape}",
      "inner.result.shape}", MOVES)  # fmt: skip
# Padding and pools.
# Sinking of transposes.
fault("shape", "constants are turned the wrong way", SINK, sink, "_before", "np.argsort(perm)", "perm", TURNS[1:2], 800)
fault("shape", "reduced axes are not mapped", SINK, sink, "_behind_reduction", "tuple(perm[a] for a in axes)",
      "tuple(axes)", TURNS)  # fmt: skip
fault("shape", "what is left keeps its order", SINK, sink, "_behind_reduction", "if left != sorted(left) else y",
      "if False else y", TURNS)  # fmt: skip
fault("shape", "kept axes are not turned back", SINK, sink, "_behind_reduction", "return b.transpose(y, perm=perm)",
      "return y", TURNS)  # fmt: skip
fault("shape", "a concat's axis is not mapped", SINK, sink, "_behind_concat", 'perm[node.attrs["axis"]]',
      'node.attrs["axis"]', TURNS)  # fmt: skip
fault("shape", "parts turned differently are joined", SINK, sink, "_behind_concat",
      "or len({_perm(v) for v in node.operands}) != 1", "", TURNS[4:5], 800)  # fmt: skip
fault("shape", "attributes per axis are not mapped", SINK, sink, "_spread", "out[p] = values[i]", "out[i] = values[p]",
      TURNS)  # fmt: skip
fault("shape", "results are turned the wrong way", SINK, sink, "_behind_elementwise",
      "node.attrs)[0], perm=perm)", "node.attrs)[0], perm=tuple(int(i) for i in np.argsort(perm)))", TURNS[:2], 800)  # fmt: skip
# Scales.
fault("logic", "a shift is not scaled", SCALE, scale, "_step", "chain.shift = chain.shift * factor if factor",
      "chain.shift = chain.shift if factor", [lambda x, w, c, d: (op.matmul(x, w, **MATMUL) + c) * d])  # fmt: skip
fault("logic", "a negation forgets the shift", SCALE, scale, "_step", "chain.shift, chain.scales = -chain.scale, -chain.shift",
      "chain.shift, chain.scales = -chain.scale, chain.shift", [lambda x, w, c: -(op.matmul(x, w, **MATMUL) + c)])  # fmt: skip
fault("shape", "rows of transposed weights are scaled", SCALE, scale, "_weight_factor",
      's[:, None] if attrs["transpose_b"] else s', "s", CHAINS)  # fmt: skip
fault("B10", "an inner value with other readers is folded", SCALE, scale, "_chain", "while len(value._uses) == 1:",
      "while value._uses:", CHAINS)  # fmt: skip
fault("logic", "batch norm without epsilon", SCALE, scale, "batch_norm_affine", 'var + node.attrs["epsilon"]', "var",
      CHAINS)  # fmt: skip
fault("logic", "batch norm forgets the mean", SCALE, scale, "batch_norm_affine", "-(mean * scale)", "0 * mean", CHAINS)
fault("shape", "batch norm along the last axis", SCALE, scale, "_spell_out", "(x.rank - axis - 1)", "0", CHAINS)
fault("shape", "the wrong axis of the weights before", SCALE, scale, "_fold_before",
      's if node.attrs["transpose_b"] else s[:, None]', 's[:, None] if node.attrs["transpose_b"] else s', CHAINS)  # fmt: skip
fault("B9", "weights are scaled where they lie", SCALE, scale, "_fold_behind", "last = chain.nodes[-1]",
      "last = chain.nodes[-1]; np.multiply(w, factor, out=weights.const.array.base)", CHAINS)  # fmt: skip
# Regions.
SCANNED = [lambda x: op.relu(x)]
fault("shape", "the wrong input of a branch", localise.localise, localise, "_sink",
      'index - 1 if node.op.name == "if" else index', "0", budget=3000)  # fmt: skip
fault("logic", "decompositions change places", decompose.decompose, decompose, "expand", "zip(node.results, values",
      "zip(node.results, [node.operands[0]]", [lambda x: op.softmax(x), lambda x: op.gelu(x)])  # fmt: skip
# Layout.
LAYOUT = layout.layout
fault("shape", "reduced axes are off by one", LAYOUT, layout, "_reduce", "tuple(a + 1 for a in axes)",
      "tuple(a + (a > 1) for a in axes)", BLOCKS)  # fmt: skip
fault("shape", "parts end inside a block", LAYOUT, layout, "_concat", "any(t.channels % s.block for t in parts[:-1])",
      "False", BLOCKS)  # fmt: skip
fault("shape", "channels cut inside a block", LAYOUT, layout, "_slice", "start % s.block or", "False and", BLOCKS, 1500)
fault("shape", "padding of channels is forgotten", LAYOUT, layout, "_pad", "or low[-1] != 0 or high[-1] != 0", "",
      BLOCKS)  # fmt: skip
fault("shape", "low padding for high", LAYOUT, layout, "_pad", '"high": _inner(high, 0, 0)', '"high": _inner(low, 0, 0)',
      BLOCKS)  # fmt: skip
fault("shape", "grouped inputs read plain", LAYOUT, layout, "_conv", 'node.attrs["groups"] == 1 and', "", BLOCKS, 1500)
fault("logic", "padding lanes are channels", LAYOUT, layout, "_Layout.unblock", "channels=twin.channels",
      "channels=min(twin.channels + 1, twin.value.shape[1] * self.block)", BLOCKS)  # fmt: skip
fault("shape", "a vector over space is one over channels", LAYOUT, layout, "_Layout.operand",
      "if full[-1] == 1 and channels != 1:", "if False:", BLOCKS, 1500)  # fmt: skip
# Fusion.
fault("logic", "operands of a region change places", fuse.fuse, outline, "build_region",
      "[mapping[v] for v in n.operands]", "[mapping[v] for v in n.operands[::-1]]", EPILOGUES)  # fmt: skip
fault("error", "members are read before the group", fuse.fuse, fuse, "_Fuser._joins",
      "if len(early) > MAX_SIBLINGS:", "if False: pass\n    early = []\n    if False:", EPILOGUES)  # fmt: skip
fault("B10", "only the last result leaves a group", fuse.fuse, outline, "fuse_nodes", "zip(outputs, results, strict=True)",
      "zip(outputs, results[::-1], strict=True)", EPILOGUES)  # fmt: skip
fault("error", "fused nodes without an origin", fuse.fuse, outline, "fuse_nodes", "Builder(graph, last, origin)",
      "Builder(graph, last)", EPILOGUES)  # fmt: skip
# The text form, seen by a pass that changes nothing.
IDLE = fw.graph_pass(numerics="exact", name="idle")(lambda graph, ctx: None)
within("type", "the text forgets attributes", IDLE, lambda: changed(
    text, "_Printer._attrs", "for name, value in node.attrs.items()",
    "for name, value in list(node.attrs.items())[:1]"))  # fmt: skip


# Faults that need graphs which are drawn too rarely so far (constant weights behind padding, a transposed second factor,
# two equal reductions): each waits for a generator move, none is known to be equivalent.
OPEN = (
    "cse: keepdims does not count", "cse: constants are compared by value", "fold: a concat of splats is the first",
    "canonicalise: any padding is zero padding", "canonicalise: reflected padding is zero padding",
    "canonicalise: low and high padding change places", "canonicalise: padded channels are forgotten",
    "canonicalise: padding beside infinite weights", "canonicalise: bf16 holds what f16 does",
    "simplify: zeros never win in a pool", "scale: c - x is x - c", "scale: x - c is x + c",
    "scale: groups share a scale", "sink: a product's flag stays", "sink: any transpose goes into a product",
    "sink: constants of lower rank are not turned", "localise: scanned values are sunk like constants",
)  # fmt: skip

EQUIVALENT = {
    "fuse: an epilogue of another shape": "a region means what its nodes mean; only a kernel minds shapes, and is asked",
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
        if node.op.name == "add" and node._next is not graph.return_node:
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
