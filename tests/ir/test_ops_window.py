"""Convolution, pooling and resizing against loops written from their definitions."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from fusewright.core.errors import TypeRefused
from fusewright.ir import Builder
from fusewright.ir.ops.blocked import from_blocked_array, to_blocked_array
from fusewright.ir.ops.resample import along, bands
from fusewright.ir.ops.window import same_pads

RNG = np.random.default_rng(0)


def run(op: str, *arrays: np.ndarray, **attrs: Any) -> np.ndarray:
    b = Builder()
    values = [b.input(f"x{i}", a.dtype, a.shape) for i, a in enumerate(arrays)]
    graph = b.build(*b.apply(op, values, attrs))
    graph.verify()
    return next(iter(graph.run({f"x{i}": a for i, a in enumerate(arrays)}).values()))


def dyadic(*shape: int) -> np.ndarray:
    """Small halves: sums and products are exact, so any difference is a bug."""
    return (RNG.integers(-8, 9, shape) / 2).astype("f4")


def conv_loops(x: np.ndarray, w: np.ndarray, strides: Any, pads: Any, dilations: Any, groups: int) -> np.ndarray:
    rank = x.ndim - 2
    n, cout, per = x.shape[0], w.shape[-1], w.shape[-1] // groups
    out = [(x.shape[1 + i] + sum(pads[i]) - (w.shape[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(rank)]
    y = np.zeros((n, *out, cout))
    for at in product(range(n), *map(range, out), range(cout)):
        group = at[-1] // per
        total = 0.0
        for tap in product(*map(range, w.shape[:-2])):
            source = [at[1 + i] * strides[i] - pads[i][0] + tap[i] * dilations[i] for i in range(rank)]
            if all(0 <= s < x.shape[1 + i] for i, s in enumerate(source)):
                for c in range(w.shape[-2]):
                    total += float(x[(at[0], *source, group * w.shape[-2] + c)]) * float(w[(*tap, c, at[-1])])
        y[at] = total
    return y


CONVS = [
    ((1, 5, 1), (3, 1, 1), (1,), ((0, 0),), (1,), 1),
    ((2, 7, 4), (3, 2, 6), (2,), ((1, 2),), (2,), 2),
    ((1, 5, 6, 2), (3, 2, 2, 3), (1, 2), ((1, 1), (0, 1)), (1, 1), 1),
    ((2, 4, 4, 3), (2, 2, 1, 6), (1, 1), ((0, 1), (1, 0)), (2, 1), 3),
    ((1, 3, 4, 3, 2), (2, 2, 2, 2, 2), (1, 2, 1), ((0, 1), (1, 1), (0, 0)), (1, 1, 2), 1),
    ((0, 5, 2), (3, 2, 2), (1,), ((0, 0),), (1,), 1),
]


@pytest.mark.parametrize(("xs", "ws", "strides", "pads", "dilations", "groups"), CONVS)
def test_conv(xs: Any, ws: Any, strides: Any, pads: Any, dilations: Any, groups: int) -> None:
    x, w = dyadic(*xs), dyadic(*ws)
    attrs = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
    want = conv_loops(x, w, **attrs)
    np.testing.assert_array_equal(run("conv", x, w, **attrs), want)
    blocked = run("conv_blocked", to_blocked_array(x, 4), w, block=4, **attrs)
    np.testing.assert_array_equal(from_blocked_array(blocked, ws[-1]), want)
    assert not blocked[:, -1, ..., ws[-1] - (blocked.shape[1] - 1) * 4 :].any()


@pytest.mark.parametrize(
    ("xs", "ws", "strides", "pads", "output_padding", "dilations", "groups"),
    [
        ((1, 4, 2), (3, 3, 2), (2,), ((0, 0),), (0,), (1,), 1),
        ((2, 3, 4), (2, 1, 4), (3,), ((1, 0),), (2,), (2,), 2),
        ((1, 3, 2, 2), (3, 2, 2, 2), (2, 1), ((1, 1), (0, 0)), (1, 0), (1, 2), 1),
    ],
)
def test_conv_transpose(
    xs: Any, ws: Any, strides: Any, pads: Any, output_padding: Any, dilations: Any, groups: int
) -> None:
    x, w = dyadic(*xs), dyadic(*ws)
    rank = x.ndim - 2
    cin, cout = x.shape[-1] // groups, w.shape[-2]
    size = [
        (xs[1 + i] - 1) * strides[i] + (ws[i] - 1) * dilations[i] + 1 - sum(pads[i]) + output_padding[i]
        for i in range(rank)
    ]
    want = np.zeros((xs[0], *size, cout * groups))
    for at in product(range(xs[0]), *map(range, xs[1:-1]), range(xs[-1])):
        for tap in product(*map(range, ws[:-2])):
            target = [at[1 + i] * strides[i] + tap[i] * dilations[i] - pads[i][0] for i in range(rank)]
            if all(0 <= t < size[i] for i, t in enumerate(target)):
                for c in range(cout):
                    want[(at[0], *target, at[-1] // cin * cout + c)] += float(x[at]) * float(w[(*tap, c, at[-1])])
    attrs = {"strides": strides, "pads": pads, "output_padding": output_padding, "dilations": dilations}
    np.testing.assert_array_equal(run("conv_transpose", x, w, groups=groups, **attrs), want)
    blocked = run("conv_transpose_blocked", to_blocked_array(x, 4), w, block=4, groups=groups, **attrs)
    np.testing.assert_array_equal(from_blocked_array(blocked, want.shape[-1]), want)
    plain = run("conv_transpose_blocked", x, w, block=4, x_blocked=False, groups=groups, **attrs)
    np.testing.assert_array_equal(plain, blocked)


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize(
    ("xs", "window", "strides", "pads", "dilations"),
    [
        ((1, 5, 2), (2,), (2,), ((0, 0),), (1,)),
        ((2, 5, 4, 3), (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2)),
        ((1, 3, 3, 3, 1), (2, 2, 2), (1, 1, 1), ((1, 0), (0, 0), (0, 1)), (1, 1, 1)),
    ],
)
def test_pools(xs: Any, window: Any, strides: Any, pads: Any, dilations: Any, count_include_pad: bool) -> None:
    x = dyadic(*xs)
    rank = x.ndim - 2
    attrs = {"window": window, "strides": strides, "pads": pads, "dilations": dilations}
    out = [(xs[1 + i] + sum(pads[i]) - (window[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(rank)]
    most, mean = np.zeros((xs[0], *out, xs[-1]), "f4"), np.zeros((xs[0], *out, xs[-1]), "f4")
    for at in product(range(xs[0]), *map(range, out), range(xs[-1])):
        seen = []
        for tap in product(*map(range, window)):
            source = [at[1 + i] * strides[i] - pads[i][0] + tap[i] * dilations[i] for i in range(rank)]
            if all(0 <= s < xs[1 + i] for i, s in enumerate(source)):
                seen.append(float(x[(at[0], *source, at[-1])]))
        most[at] = max(seen)
        mean[at] = sum(seen) / (np.prod(window) if count_include_pad else len(seen))
    np.testing.assert_array_equal(run("max_pool", x, **attrs), most)
    np.testing.assert_allclose(run("avg_pool", x, count_include_pad=count_include_pad, **attrs), mean, rtol=1e-6)
    blocked = run("max_pool_blocked", to_blocked_array(x, 4), **attrs)
    np.testing.assert_array_equal(from_blocked_array(blocked, xs[-1]), most)


def test_nan_wins_and_padding_never_does() -> None:
    x = np.array([-5.0, np.nan, -3.0, -2.0], "f4").reshape(1, 4, 1)
    got = run("max_pool", x, window=(2,), strides=(2,), pads=((1, 1),)).ravel()
    assert got[0] == -5 and np.isnan(got[1]) and got[2] == -2


@pytest.mark.parametrize(("size", "window", "stride", "want"), [
    (5, 3, 1, (1, 1)), (5, 2, 1, (0, 1)), (5, 3, 2, (1, 1)), (6, 3, 2, (0, 1)), (4, 2, 3, (0, 1)), (7, 1, 2, (0, 0)),
])  # fmt: skip
def test_tensorflows_same_padding(size: int, window: int, stride: int, want: tuple[int, int]) -> None:
    assert same_pads(size, window, stride) == want


def test_windows_that_do_not_fit_are_refused() -> None:
    b = Builder()
    x, w = b.input("x", "f32", ("N", 2, 2, 3)), b.input("w", "f32", (3, 3, 3, 4))
    with pytest.raises(TypeRefused, match="does not fit"):
        b.conv(x, w)
    with pytest.raises(TypeRefused, match="groups"):
        b.conv(x, b.input("v", "f32", (1, 1, 1, 4)), groups=3)
    with pytest.raises(TypeRefused, match="negative"):
        b.conv(x, w, pads=((-1, 2), (2, 2)))


def line(values: list[float], n: int, **attrs: Any) -> list[float]:
    x = np.array(values, "f4").reshape(1, -1, 1)
    return run("resize", x, sizes=(n,), **attrs).ravel().tolist()


@pytest.mark.parametrize(
    ("values", "n", "attrs", "want"),
    [
        ([1, 2], 4, {"method": "linear"}, [1, 1.25, 1.75, 2]),
        ([1, 2], 3, {"method": "linear", "coordinates": "align_corners"}, [1, 1.5, 2]),
        ([1, 2], 4, {"method": "linear", "coordinates": "asymmetric"}, [1, 1.5, 2, 2]),
        ([1, 2, 3, 4], 2, {"method": "linear"}, [1.5, 3.5]),
        # The triangle of radius 2: weights 3/8 3/8 1/8 of the inside taps, renormalised by 7/8.
        ([1, 2, 3, 4], 2, {"method": "linear", "antialias": True, "edge": "drop"}, [12 / 7, 23 / 7]),
        ([1, 2], 4, {}, [1, 1, 2, 2]),
        ([1, 2, 3], 2, {}, [1, 3]),
        ([1, 2, 3], 2, {"coordinates": "asymmetric"}, [1, 2]),
        ([1, 2, 3], 5, {"coordinates": "align_corners", "rounding": "round_half_up"}, [1, 2, 2, 3, 3]),
        ([1, 2, 3], 5, {"coordinates": "align_corners", "rounding": "round_half_down"}, [1, 1, 2, 2, 3]),
        ([1, 2, 3], 5, {"coordinates": "align_corners", "rounding": "ceil"}, [1, 2, 2, 3, 3]),
    ],
)
def test_resize_by_hand(values: list[float], n: int, attrs: dict[str, Any], want: list[float]) -> None:
    np.testing.assert_allclose(line(values, n, **attrs), want, rtol=1e-6)


def test_an_infinity_stays_with_its_neighbours() -> None:
    got = line([1, np.inf, 2, 3, 5], 10, method="linear")
    assert np.isposinf(got[1:5]).all() and np.isfinite(got[5:]).all()


def test_resample_by_hand() -> None:
    x = dyadic(2, 3, 4, 2)
    first, weights = np.array([-5, 1, 9, 0]), dyadic(4, 2)
    taps = np.clip(first, 0, 1)[:, None] + np.arange(2)
    want = np.einsum("ot,notwc->nowc", weights, x[:, taps])
    np.testing.assert_array_equal(run("resample", x, first, weights, axes=(1,)), want)
    taps = np.clip(first, 0, 2)[:, None] + np.arange(2)
    again = np.einsum("pt,noptc->nopc", weights, want[:, :, taps])
    np.testing.assert_array_equal(run("resample", x, first, weights, first, weights, axes=(1, 2)), again)


@pytest.mark.parametrize(
    ("axes", "taps", "why"),
    [((0,), 3, "do not fit"), ((1, 3), 2, "neighbours"), ((1, 2), 2, "tables"), ((4,), 2, "must be one or two")],
)
def test_resample_refuses(axes: tuple[int, ...], taps: int, why: str) -> None:
    b: Any = Builder()
    x = b.input("x", "f32", (2, 3, 4, 5))
    with pytest.raises(TypeRefused, match=why):
        b.resample(x, b.constant(np.zeros(5, np.int64)), b.constant(np.zeros((5, taps), "f4")), axes=axes)


def test_bands_hold_the_matrix() -> None:
    matrix = np.array([[0, 1, 2, 0], [0, 0, 0, 3], [0, 0, 0, 0], [4, 0, 5, 0]], "f4")
    first, weights = bands(matrix)
    assert weights.shape == (4, 3)
    np.testing.assert_array_equal(along(np.eye(4, dtype="f4"), first, weights, 0), matrix)
    assert bands(np.zeros((0, 3)))[1].shape == (0, 1)


def test_cubic_resize_is_keys_kernel() -> None:
    values = [1.0, 4.0, 2.0, 8.0, 5.0]

    def keys(t: float, a: float) -> float:
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    for a in (-0.5, -0.75):
        want = []
        for i in range(8):
            p = (i + 0.5) * 5 / 8 - 0.5
            taps = range(int(np.floor(p)) - 1, int(np.floor(p)) + 3)
            want.append(sum(values[min(max(t, 0), 4)] * keys(t - p, a) for t in taps))
        np.testing.assert_allclose(line(values, 8, method="cubic", cubic=a), want, rtol=1e-5)


def test_blocks_there_and_back() -> None:
    for channels in (1, 3, 4, 5, 8):
        x = dyadic(2, 3, channels)
        blocked = run("to_blocked", x, block=4)
        assert blocked.shape == (2, -(-channels // 4), 3, 4)
        np.testing.assert_array_equal(run("from_blocked", blocked, channels=channels), x)
