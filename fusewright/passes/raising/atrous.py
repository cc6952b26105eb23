"""A convolution between space-to-batch and batch-to-space becomes one dilated convolution.

Owns that form and the crop behind it. Padding in front joins by the rule that every convolution has. Must not know how
TensorFlow computes the amounts: they are extents, compared as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.dims import Extent, compare_eq, compare_le, product
from ...ir.graph import Const, Value
from ..engine.pattern import op
from ..engine.rewrite import Match, Rewrite, rewrite
from ..engine.values import same_shape

_ANY = {"strides": ..., "pads": ..., "dilations": ..., "groups": ...}


def _atrous(x: Any, w: Any, s: Any, p: Any, t: Any, u: Any, q: Any, z: Any) -> Any:
    batched = op.reshape(op.transpose(op.reshape(x, shape=s), perm=p), shape=t)
    return op.reshape(op.transpose(op.reshape(op.conv(batched, w, **_ANY), shape=u), perm=q), shape=z)


def _blocks(perm: Sequence[int]) -> dict[int, int] | None:
    """Axis -> axis of its block behind it, when ``perm`` moves blocks to the front, in order, and keeps the rest."""
    front = perm[: perm.index(0)] if 0 in perm else ()
    rest = perm[len(front) :]
    blocks = {axis - 1: axis for axis in front}
    in_order = list(front) == sorted(front) and list(rest) == sorted(rest)
    if not front or not in_order or not set(blocks) <= set(rest[1:-1]):
        return None
    return blocks


def _places(outer: Sequence[Extent], inner: Sequence[Extent]) -> list[int | None] | None:
    """For each axis of ``inner`` the axis of ``outer`` that it is; None for an axis of extent 1 put in between."""
    found: list[int | None] = []
    at = 0
    for i, d in enumerate(inner):
        last = i == len(inner) - 1
        if at < len(outer) and compare_eq(d, outer[at]) is True and (not last or at == len(outer) - 1):
            found.append(at)
            at += 1
        elif d == 1:
            found.append(None)
        else:
            return None
    return found if at == len(outer) else None


@rewrite(_atrous, numerics="reassoc", name="dilated convolution", closed=True)
def dilated(
    m: Match, x: Value, w: Value, s: tuple[Extent, ...], p: tuple[int, ...], t: tuple[Extent, ...],
    u: tuple[Extent, ...], q: tuple[int, ...],
) -> Any:  # fmt: skip
    """Space-to-batch, convolution of stride 1, batch-to-space (the form of ``tf.nn.with_space_to_batch``)."""
    conv = next(n for n in m.nodes if n.op.name == "conv")
    blocks = _blocks(p)
    if blocks is None:
        return m.decline("the first transpose is no space-to-batch")
    rest = p[len(blocks) :]
    sizes = [s[b] for b in blocks.values()]
    ways = _places([s[a] for a in rest[1:]], t[1:])
    if ways is None or compare_eq(t[0], product(sizes) * s[0]) is not True:
        return m.decline("the blocks do not join the batch")
    if any(d != 1 for d in conv.attrs["strides"]) or not all(isinstance(d, int) for d in sizes):
        return m.decline("only strides of 1 and fixed blocks")
    kept = [d for d, k in zip(conv.results[0].shape[1:], ways) if k is not None]
    back = [len(sizes)]
    for i, axis in enumerate(rest[1:]):
        back += [len(sizes) + 1 + i, *([list(blocks).index(axis)] if axis in blocks else [])]
    if list(q) != back or not same_shape(u, (*sizes, s[0], *kept)):
        return m.decline("what follows is not the matching batch-to-space")
    # An axis of extent 1 that was put in for the convolution's sake goes away again.
    ours = [i for i, k in enumerate(ways[:-1]) if k is not None]
    if any(w.shape[i] != 1 or conv.attrs["pads"][i] != (0, 0) for i, k in enumerate(ways[:-1]) if k is None):
        return m.decline("the window covers an axis of extent 1")
    # By axis of the convolution's operand: the block that it was split by.
    split = [1 if k is None else s[blocks[rest[1 + k]]] if rest[1 + k] in blocks else 1 for k in ways]
    shape = (*(w.shape[i] for i in ours), *w.shape[-2:])
    image = (s[0], *(d * n for d, n, k in zip(t[1:], split, ways) if k is not None))
    # Views before and behind may have been merged with others.
    out = m.op.conv(
        x if same_shape(x.shape, image) else m.op.reshape(x, shape=image),
        w if len(shape) == w.rank else _reshaped(m, w, shape),
        strides=1,
        dilations=tuple(conv.attrs["dilations"][i] * split[i] for i in ours),
        pads=tuple((conv.attrs["pads"][i][0] * split[i], conv.attrs["pads"][i][1] * split[i]) for i in ours),
        groups=conv.attrs["groups"],
    )
    return out if same_shape(out.shape, m.result.shape) else m.op.reshape(out, shape=m.result.shape)


def _reshaped(m: Match, w: Value, shape: tuple[Extent, ...]) -> Value:
    """Constant weights stay a constant: folding into them comes before the next constant folding."""
    made: Value = m.op.reshape(w, shape=shape)
    if w.const is not None and made.type.is_static:
        made = m.op.constant(Const(w.const.array.reshape(made.type.concrete({})), w.dtype))
    return made


@rewrite(
    lambda x, w, starts, stops: op.slice(op.conv(x, w, **_ANY), starts=starts, stops=stops, steps=...),
    numerics="reassoc", name="crop of convolution", closed=True,
)  # fmt: skip
def crop(m: Match, x: Value, w: Value, starts: tuple[Extent, ...], stops: tuple[Extent, ...]) -> Any:
    """What is cut off the borders of a convolution of stride 1 is padding that it need not have."""
    conv = m.nodes[1]
    shape, steps, pads = conv.results[0].shape, m.root.attrs["steps"], conv.attrs["pads"]
    if any(d != 1 for d in (*steps, *conv.attrs["strides"])):
        return m.decline("only steps and strides of 1")
    if not all(starts[i] == 0 and compare_eq(stops[i], shape[i]) is True for i in (0, -1)):
        return m.decline("only borders of the image")
    less = [(a - lo, b - (n - hi)) for (a, b), lo, hi, n in zip(pads, starts[1:], stops[1:], shape[1:])]
    if not all(compare_le(0, d) is True for pair in less for d in pair):
        return m.decline("more is cut off than was padded")
    return m.op.conv(x, w, **{**conv.attrs, "pads": tuple(less)})


RULES: list[Rewrite] = [dilated, crop]
__all__ = ["RULES"]
