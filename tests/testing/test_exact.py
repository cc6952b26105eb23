"""Rules on contractions that say exact: moved terms are, other roundings are not, whatever order NumPy adds in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.testing import PassFailure, check_pass
from fusewright.testing.exact import Exact

op = fw.op
CONV = {"strides": ..., "pads": ..., "dilations": ..., "groups": ...}


@fw.rewrite(lambda x, w: op.slice(op.matmul(x, w), starts=..., stops=..., steps=...), numerics="exact")
def fewer_rows(m: Any, x: Any, w: Any) -> Any:
    cut = m.root.attrs
    if x.rank != 2 or w.rank != 2 or m.result.shape[-1] != w.shape[-1]:
        return m.decline("cuts columns")
    columns = dict(starts=(cut["starts"][0], 0), stops=(cut["stops"][0], None), steps=(cut["steps"][0], 1))
    return op.matmul(op.slice(x, **columns), w)


@fw.rewrite(lambda x, w: op.conv(x, w, **CONV), numerics="exact")
def as_matmul(m: Any, x: Any, w: Any) -> Any:
    attrs = m.root.attrs
    if any(d != 1 for d in (*w.shape[:-2], *attrs["strides"], attrs["groups"])) or np.any(attrs["pads"]):
        return m.decline("more than channels")
    if not x.dtype.is_float:
        return m.decline("integers")
    return op.matmul(x, op.reshape(w, shape=w.shape[-2:]))


def conv_of_ones(m: Any) -> Any:
    """A convolution with a window of one element, which random windows seldom are."""
    x = m.value((fw.core.dtypes.F32,), ranks=(4, 4))
    return m.emit("conv", x, m.new(x.dtype, (1, 1, x.shape[-1], 3)), strides=1, pads=None)


def test_moved_terms_are_exact() -> None:
    assert check_pass(fewer_rows, 120).fired > 10
    assert check_pass(as_matmul, 120, extra=[conv_of_ones]).fired > 10


WRONG = [
    (lambda x, v, w: x @ v + x @ w, lambda x, v, w: x @ (v + w)),
    (
        lambda x, w: op.matmul(x, w, transpose_b=True) / 3,
        lambda x, w: op.matmul(x, op.transpose(w, perm=(1, 0))) * (1 / 3),
    ),
    (
        lambda x, w: op.reciprocal(op.sqrt(op.matmul(x, w, transpose_b=True))),
        lambda x, w: op.rsqrt(op.matmul(x, op.transpose(w, perm=(1, 0)))),
    ),
]


@pytest.mark.parametrize(("pattern", "replacement"), WRONG)
def test_other_roundings_are_not(pattern: Any, replacement: Any) -> None:
    rule = fw.rewrite(pattern, replacement, numerics="exact", name="rounds")
    with pytest.raises(PassFailure) as found:
        check_pass(rule, 250)
    assert found.value.property in ("semantics", "metamorphic")


def test_exact_sums_are_rounded_once_and_keep_classes() -> None:
    rng = np.random.default_rng(0)
    for dtype in ("f2", "f4", "f8"):
        b = fw.Builder()
        x, w = b.input("x", np.dtype(dtype), (5, 40)), b.input("w", np.dtype(dtype), (40, 3))
        graph = b.build(b.matmul(x, w))
        reach = 2 if dtype == "f2" else 10
        one = (rng.standard_normal((5, 40)) * 10.0 ** rng.uniform(-reach, reach, (5, 40))).astype(dtype)
        two = rng.standard_normal((40, 3)).astype(dtype)
        order = rng.permutation(40)
        (got,) = Exact(graph).run({"x": one, "w": two}).values()
        (again,) = Exact(graph).run({"x": one[:, order], "w": two[order]}).values()
        assert np.array_equal(got, again) and got.dtype == np.dtype(dtype)
        assert np.allclose(got, one.astype("f8") @ two.astype("f8"), rtol=2e-3 if dtype == "f2" else 1e-6)
    b = fw.Builder()
    graph = b.build(b.matmul(b.input("x", "f32", (4, 2)), b.input("w", "f32", (2, 1))))
    feeds = {
        "x": np.array([[np.inf, 1], [np.nan, 1], [np.inf, -np.inf], [3e38, 3e38]], "f4"),
        "w": np.ones((2, 1), "f4"),
    }
    (got,) = Exact(graph).run(feeds).values()
    assert got[0] == np.inf and np.isnan(got[1:3]).all() and got[3] == np.inf
