"""Attention spelt out becomes one op.

Owns scores, scale, mask, softmax and the second product, as matmul and as einsum. Only what the op means exactly is
raised. Must not know how attention is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.graph import Value
from ...ir.ops.contract import parse_equation
from ..engine.pattern import one_of, op
from ..engine.rewrite import Declined, Match, Rewrite, rewrite


def _masked(scores: Any, mask: Any, hidden: Any, low: Any) -> Any:
    """Scores as they are, plus a float mask, or kept by a bool mask (hidden by its opposite)."""
    return one_of(op.where(mask, scores, low), op.where(hidden, low, scores), scores + mask, scores)


def _weights(scores: Any, axes: Any, scale: Any, mask: Any, hidden: Any, low: Any) -> Any:
    return op.softmax(_masked(one_of(scores * scale, scores), mask, hidden, low), axes=axes)


def _divided(scores: Any, axes: Any, scale: Any, mask: Any, hidden: Any, low: Any) -> Any:
    return op.softmax(_masked(scores / scale, mask, hidden, low), axes=axes)


def _attention(
    m: Match, q: Value, k: Value, v: Value, axes: tuple[int, ...], scale: Value | None, mask: Value | None,
    hidden: Value | None, low: Value | None, divided: bool,
) -> Any:  # fmt: skip
    """The op, or the reason why there is none. ``k`` is [..., keys, depth]."""
    factor = 1.0 if scale is None else m.number(scale)
    if factor is None or divided and not 1e-4 <= abs(factor) <= 1e4:
        return m.decline("the scale is no known number, or its reciprocal none of a half-precision type")
    if axes != (q.rank - 1,):
        return m.decline("the softmax does not run over the keys")
    masked = None if low is None else m.scalar(low)
    if low is not None and masked is None:
        return m.decline("masked scores do not become one known number")
    keep = m.op.logical_not(hidden) if hidden is not None else mask
    attrs = {} if masked is None else {"masked": masked}
    return m.op.attention(q, k, v, keep, scale=1.0 / factor if divided else float(factor), **attrs)


def _keys(m: Match, k: Value, turned: bool) -> Value | Declined:
    """The second factor as [..., keys, depth]; a transpose that made it otherwise is made anew."""
    if turned:
        return k
    producer = k.producer
    if producer.op.name != "transpose":
        return m.decline("the keys are stored transposed")
    perm = producer.attrs["perm"]
    found: Value = m.op.transpose(producer.operands[0], perm=(*perm[:-2], perm[-1], perm[-2]))
    return found


def _product(weights: Any, divided: bool) -> Rewrite:
    def pattern(q: Any, k: Any, v: Any, turned: Any, axes: Any, scale: Any, mask: Any, hidden: Any, low: Any) -> Any:
        return op.matmul(weights(op.matmul(q, k, transpose_b=turned), axes, scale, mask, hidden, low), v)

    def raised(
        m: Match, q: Value, k: Value, v: Value, turned: bool, axes: tuple[int, ...], scale: Value | None,
        mask: Value | None, hidden: Value | None, low: Value | None,
    ) -> Any:  # fmt: skip
        """softmax(q k^T * scale, masked) v, of matrix products."""
        keys = _keys(m, k, turned)
        if isinstance(keys, Declined):
            return keys
        return _attention(m, q, keys, v, axes, scale, mask, hidden, low, divided)

    name = "attention, divided" if divided else "attention"
    return rewrite(pattern, numerics="reassoc" if divided else "exact", name=name, closed=True)(raised)


def _order(letters: str, groups: Sequence[str]) -> tuple[int, ...] | None:
    """The permutation that brings a subscript into the order of ``groups``."""
    flat = "".join(groups)
    return tuple(letters.index(c) for c in flat) if sorted(flat) == sorted(letters) else None


def _moved(m: Match, v: Value, perm: tuple[int, ...]) -> Value:
    moved: Value = v if list(perm) == sorted(perm) else m.op.transpose(v, perm=perm)
    return moved


def _einsum(weights: Any, divided: bool) -> Rewrite:
    def pattern(
        q: Any, k: Any, v: Any, first: Any, second: Any, axes: Any, scale: Any, mask: Any, hidden: Any, low: Any
    ) -> Any:
        scores = op.einsum(q, k, equation=first)
        return op.einsum(weights(scores, axes, scale, mask, hidden, low), v, equation=second)

    def raised(
        m: Match, q: Value, k: Value, v: Value, first: str, second: str, axes: tuple[int, ...], scale: Value | None,
        mask: Value | None, hidden: Value | None, low: Value | None,
    ) -> Any:  # fmt: skip
        """softmax(q k^T * scale, masked) v, of einsums, in whatever order their axes come."""
        (left, right), scores = parse_equation(first, [q.type, k.type])
        (rows, values), result = parse_equation(second, [m.root.operands[0].type, v.type])
        if not 3 <= len(rows) == len(scores) or axes != (len(rows) - 1,):
            return m.decline("the softmax does not run over the keys")
        # Both equations in the letters of the first: the scores name their axes in both.
        names = dict(zip(rows, scores))
        spare = iter(c for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in left + right)
        for c in values:
            names[c] = names.get(c) or next(spare)
        values, result = ("".join(names[c] for c in s) for s in (values, result))
        batch, query, key = scores[:-2], scores[-2], scores[-1]
        if query in right:
            q, k, left, right = k, q, right, left
        depth = "".join(c for c in left if c in right and c not in batch)
        width = "".join(c for c in values if c not in scores)
        perms = (
            _order(left, (batch, query, depth)), _order(right, (batch, key, depth)),
            _order(values, (batch, key, width)), _order(batch + query + width, (result,)),
        )  # fmt: skip
        if len(depth) != 1 or len(width) != 1 or any(p is None for p in perms):
            return m.decline("the subscripts are not those of an attention")
        pq, pk, pv, out = (p for p in perms if p is not None)
        y = _attention(m, _moved(m, q, pq), _moved(m, k, pk), _moved(m, v, pv), axes, scale, mask, hidden, low, divided)
        return y if isinstance(y, Declined) else _moved(m, y, out)

    name = "attention of einsums, divided" if divided else "attention of einsums"
    return rewrite(pattern, numerics="reassoc", name=name, closed=True)(raised)


RULES: list[Rewrite] = [make(w, w is _divided) for make in (_product, _einsum) for w in (_weights, _divided)]
__all__ = ["RULES"]
