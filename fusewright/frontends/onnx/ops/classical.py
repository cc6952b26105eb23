"""Classical machine learning: tree ensembles and n-gram counts.

Owns the walk down all trees at once and the counting of n-grams. Must not know the types that hold strings.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dtypes import BOOL, F32, I64
from ....ir.graph import Value
from ... import special
from ..call import Call, op

_COMPARED = ("le", "lt", "ge", "gt", "eq", "ne")
_MEMBER = 6
_DEEPEST = 256


@op("TfIdfVectorizer")
def _ngrams(c: Call, x: Value) -> Any:
    b = c.b
    pool, starts, columns = c.ints("pool_int64s"), c.ints("ngram_counts", ()), c.ints("ngram_indexes", ())
    least, most, skips = (c.integer(n, 1) for n in ("min_gram_length", "max_gram_length", "max_skip_count"))
    mode, weights = c.text("mode", "TF"), c.floats("weights")
    if pool is None:
        raise c.refuse("a pool of strings is not supported", "unsupported-dtype")
    if not x.dtype.is_int or x.rank not in (1, 2) or not isinstance(x.shape[-1], int):
        raise c.refuse(f"takes one or two axes of integers, the last of a fixed extent, not {x.type}")
    ends = (*starts[1:], len(pool))
    grams: list[tuple[int, ...]] = []
    for n, (start, end) in enumerate(zip(starts, ends, strict=True), 1):
        if not 0 <= start <= end <= len(pool) or (end - start) % n:
            raise c.refuse("ngram_counts does not divide the pool", "malformed")
        grams += [pool[i : i + n] for i in range(start, end, n)]
    bad = len(columns) != len(grams) or any(k < 0 or k > 1 << 20 for k in columns) or not columns
    if bad or mode not in ("TF", "IDF", "TFIDF") or weights is not None and len(weights) != len(grams):
        raise c.refuse("the attributes do not fit each other", "malformed")
    if most * (skips + 1) > 1 << 10:
        raise c.refuse(f"n-grams of up to {most} with up to {skips} skipped are not supported")
    lines = x if x.rank == 2 else b.reshape(x, shape=(1, *x.shape))
    lines = b.cast(lines, to=I64)
    length = x.shape[-1]
    # counts[:, j] of the n-gram at column j; a column without n-gram stays 0.
    total = b.full((lines.shape[0], max(columns) + 1), 0.0, F32)
    for n in range(max(least, 1), min(most, len(starts)) + 1):
        chosen = [i for i, g in enumerate(grams) if len(g) == n]
        if not chosen:
            continue
        table = np.array([grams[i] for i in chosen], np.int64)
        place = np.zeros((len(chosen), max(columns) + 1), np.float32)
        place[np.arange(len(chosen)), [columns[i] for i in chosen]] = 1
        for skip in range(skips + 1 if n > 1 else 1):
            windows = length - (n - 1) * (skip + 1)
            if windows < 1:
                continue
            same: Value | None = None
            for j in range(n):
                start = j * (skip + 1)
                piece = b.slice(lines, starts=(0, start), stops=(lines.shape[0], start + windows))
                equal = b.eq(b.reshape(piece, shape=(*piece.shape, 1)), b.constant(table[:, j]))
                same = equal if same is None else b.logical_and(same, equal)
            found = b.reduce_sum(b.cast(same, to=F32), axes=(1,))
            total = b.add(total, b.matmul(found, b.constant(place)))
    if mode == "IDF":
        total = b.minimum(total, b.constant(1.0, F32))
    if mode != "TF" and weights is not None:
        scale = np.ones(max(columns) + 1, np.float32)
        scale[list(columns)] = weights
        total = b.mul(total, b.constant(scale))
    return total if x.rank == 2 else b.reshape(total, shape=(max(columns) + 1,))


class _Trees:
    """The interior nodes and, behind them, the leaves of an ensemble as one table; a leaf leads to itself."""

    def __init__(self, c: Call, x: Value) -> None:
        def ints(name: str) -> np.ndarray:
            return np.array(c.ints(name, ()), np.int64)

        def numbers(name: str) -> np.ndarray:
            found = c.tensor(name)
            return np.zeros(0) if found is None else np.asarray(found.array, np.float64).ravel()

        self.mode, self.split = numbers("nodes_modes").astype(np.int64), numbers("nodes_splits")
        self.feature, self.roots = ints("nodes_featureids"), ints("tree_roots")
        self.weight, self.target = numbers("leaf_weights"), ints("leaf_targetids")
        n, leaves = len(self.mode), len(self.weight)
        self.count, self.leaves = n, leaves
        nan = ints("nodes_missing_value_tracks_true")
        self.nan = nan if len(nan) else np.zeros(n, np.int64)
        sides = []
        for side in ("true", "false"):
            node, leaf = ints(f"nodes_{side}nodeids"), ints(f"nodes_{side}leafs")
            if len(node) != n or len(leaf) != n:
                raise c.refuse("the attributes differ in length", "malformed")
            sides.append(np.where(leaf != 0, node + n, node))
        self.yes, self.no = sides
        same = {len(self.split), len(self.feature), len(self.nan), n} == {n} and len(self.target) == leaves
        every = np.concatenate([self.yes, self.no])
        inside = every.size and every.min() >= 0 and every.max() < n + leaves
        rooted = self.roots.size and self.roots.min() >= 0 and self.roots.max() < n
        if not (same and inside and rooted) or not ((self.mode >= 0) & (self.mode <= _MEMBER)).all():
            raise c.refuse("the attributes do not fit each other", "malformed")
        if self.feature.min() < 0 or not isinstance(x.shape[1], int) or self.feature.max() >= x.shape[1]:
            raise c.refuse(f"a node reads a feature that {x.type} does not have", "malformed")
        self.members = self._members(c, numbers("membership_values"))
        self.depth = self._depth(c)

    def _members(self, c: Call, values: np.ndarray) -> np.ndarray:
        """[node, member], padded with NaN, which equals nothing."""
        at = np.flatnonzero(self.mode == _MEMBER)
        sets: list[list[float]] = [[]]
        for v in values:
            if np.isnan(v):
                sets.append([])
            else:
                sets[-1].append(float(v))
        if len(at) > len(sets):
            raise c.refuse("there are fewer sets of members than nodes that test them", "malformed")
        out = np.full((self.count, max([1, *(len(s) for s in sets)])), np.nan)
        for node, members in zip(at, sets, strict=False):
            out[node, : len(members)] = members
        return out

    def _depth(self, c: Call) -> int:
        """Steps from a root to the furthest leaf."""
        level, steps = set(self.roots.tolist()), 0
        while level:
            steps += 1
            if steps > _DEEPEST:
                raise c.refuse(f"trees deeper than {_DEEPEST}, or a cycle", "limit")
            level = {int(k) for i in level for k in (self.yes[i], self.no[i]) if k < self.count}
        return steps

    def table(self, values: np.ndarray, leaf: Any) -> np.ndarray:
        """A table over interior nodes and leaves."""
        rest = np.full((self.leaves, *values.shape[1:]), leaf) if np.isscalar(leaf) else leaf
        return np.concatenate([values, rest])


@op("TreeEnsemble", domain="ai.onnx.ml")
def _trees(c: Call, x: Value) -> Any:
    b = c.b
    if x.rank != 2:
        raise c.refuse(f"takes a batch of features, not {x.type}", "malformed")
    t = _Trees(c, x)
    kind = x.dtype.compute

    def pick(values: np.ndarray, at: Value) -> Value:
        out: Value = b.gather(b.constant(values), at, axis=0)
        return out

    number = np.arange(t.count, t.count + t.leaves)
    at = b.broadcast_to(b.constant(t.roots), shape=(x.shape[0], len(t.roots)))
    for _ in range(t.depth):
        value = b.gather(x, pick(t.table(t.feature, 0), at), axis=1, batch_dims=1)
        split, mode = pick(t.table(t.split, 0.0).astype(kind), at), pick(t.table(t.mode, 0), at)
        test = b.full(value.shape, False, BOOL)
        for k, name in enumerate(_COMPARED):
            if (t.mode == k).any():
                test = b.where(b.eq(mode, k), getattr(b, name)(value, split), test)
        if (t.mode == _MEMBER).any():
            members = pick(t.table(t.members, np.nan).astype(kind), at)
            held = b.reduce_any(b.eq(b.reshape(value, shape=(*value.shape, 1)), members), axes=(2,))
            test = b.where(b.eq(mode, _MEMBER), held, test)
        if t.nan.any():
            test = b.logical_or(test, b.logical_and(b.isnan(value), b.ne(pick(t.table(t.nan, 0), at), 0)))
        at = b.where(test, pick(t.table(t.yes, number), at), pick(t.table(t.no, number), at))
    weight = pick(t.table(np.zeros(t.count), t.weight).astype(kind), at)
    target = pick(t.table(np.zeros(t.count, np.int64), t.target), at)
    return _scored(c, weight, target, x)


def _scored(c: Call, weight: Value, target: Value, x: Value) -> Value:
    """[N, tree] -> [N, target]."""
    b = c.b
    how, after, count = c.integer("aggregate_function", 1), c.integer("post_transform", 0), c.integer("n_targets", 1)
    if how not in range(4) or after not in (0, 1, 2, 4) or not 0 < count <= 1 << 16:
        raise c.refuse(f"aggregate_function {how} with post_transform {after} and {count} targets is not supported")
    hot = b.eq(b.reshape(target, shape=(*target.shape, 1)), b.constant(np.arange(count, dtype=np.int64)))
    wide = b.reshape(weight, shape=(*weight.shape, 1))
    if how in (0, 1):
        out = b.reduce_sum(b.where(hot, wide, c.like(0, x)), axes=(1,))
        if how == 0:
            out = b.div(out, c.like(target.shape[1], x))
    else:
        end = np.inf if how == 2 else -np.inf
        kept = b.where(hot, wide, c.like(end, x))
        best = b.reduce_min(kept, axes=(1,)) if how == 2 else b.reduce_max(kept, axes=(1,))
        out = b.where(b.reduce_any(hot, axes=(1,)), best, c.like(0, x))
    if after == 1:
        return b.softmax(out, axes=1)  # type: ignore[no-any-return]
    if after == 2:
        return b.sigmoid(out)  # type: ignore[no-any-return]
    return special.ndtri(b, out) if after == 4 else out
