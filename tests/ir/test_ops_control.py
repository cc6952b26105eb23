"""Control flow and recurrence: if, while, scan, fused; typing of their regions."""

from __future__ import annotations

import numpy as np
import pytest

from fusewright.core.errors import TypeRefused
from fusewright.ir import Builder, TensorType

F = TensorType("f32", ())
I = TensorType("i32", ())


def test_if_takes_one_branch() -> None:
    b = Builder()
    c, x = b.input("c", "bool", ()), b.input("x", "f32", ())
    then = b.region([F], lambda r, v: [r.add(v, 1.0), v])
    other = b.region([F], lambda r, v: [r.mul(v, 10.0), r.neg(v)])
    graph = b.build(*b.if_(c, x, regions=(then, other)))
    assert [float(v) for v in graph.run({"c": True, "x": np.float32(3)}).values()] == [4, 3]
    assert [float(v) for v in graph.run({"c": False, "x": np.float32(3)}).values()] == [30, -3]


def test_while_is_a_factorial() -> None:
    b = Builder()
    n = b.input("n", "i32", ())
    cond = b.region([I, I, I], lambda r, i, p, n: r.le(i, n))
    body = b.region([I, I, I], lambda r, i, p, n: [r.add(i, 1), r.mul(p, i)])
    start = b.constant(1, "i32")
    i, p = b.while_(start, start, n, regions=(cond, body), n_carry=2)
    graph = b.build({"i": i, "p": p})
    graph.verify()
    for k, want in ((0, 1), (1, 1), (5, 120)):
        out = graph.run({"n": np.int32(k)})
        assert out["p"] == want and out["i"] == k + 1


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_is_a_running_sum(reverse: bool) -> None:
    b = Builder()
    x, scale = b.input("x", "f32", ("T", 2)), b.input("scale", "f32", ())
    row = TensorType("f32", (2,))

    def step(r, total, x, scale):  # type: ignore[no-untyped-def]
        total = r.add(total, r.mul(x, scale))
        return [total, total, r.neg(x)]

    zero = b.constant(np.zeros(2, "f4"))
    total, sums, flipped = b.scan(
        zero, x, scale, regions=[b.region([row, row, F], step)], n_carry=1, n_xs=1, reverse=reverse
    )
    graph = b.build({"total": total, "sums": sums, "flipped": flipped})
    graph.verify()
    data = np.arange(8, dtype="f4").reshape(4, 2)
    out = graph.run({"x": data, "scale": np.float32(2)})
    want = np.cumsum(data[::-1], 0)[::-1] if reverse else np.cumsum(data, 0)
    np.testing.assert_array_equal(out["sums"], want * 2)
    np.testing.assert_array_equal(out["total"], data.sum(0) * 2)
    np.testing.assert_array_equal(out["flipped"], -data)
    empty = graph.run({"x": data[:0], "scale": np.float32(2)})
    assert empty["total"].tolist() == [0, 0] and empty["sums"].shape == (0, 2)


def test_scan_by_length_alone() -> None:
    b = Builder()
    one = b.constant(1.0)
    doubled, trail = b.scan(one, regions=[b.region([F], lambda r, v: [r.add(v, v), v])], n_carry=1, length=5)
    out = b.build({"end": doubled, "trail": trail}).run({})
    assert out["end"] == 32 and out["trail"].tolist() == [1, 2, 4, 8, 16]


def test_fused_means_its_region() -> None:
    b = Builder()
    x = b.input("x", "f32", ("N",))
    y, z = b.fused(x, regions=[b.region([x.type], lambda r, v: [r.exp(v), r.relu(v)])])
    out = b.build({"y": y, "z": z}).run({"x": np.array([-1, 2], "f4")})
    np.testing.assert_array_equal(out["y"], np.exp(np.array([-1, 2], "f4")))
    np.testing.assert_array_equal(out["z"], [0, 2])


def test_regions_are_typed() -> None:
    b = Builder()
    c, x, i = b.input("c", "bool", ()), b.input("x", "f32", ()), b.input("i", "i32", ())
    same = b.region([F], lambda r, v: r.neg(v))
    wider = b.region([F], lambda r, v: r.cast(v, to="f64"))
    loop = b.region([F], lambda r, v: r.lt(v, 0.0))
    for op, operands, regions, attrs, message in (
        ("if", (c, x), (same, wider), {}, "different types"),
        ("if", (x, x), (same, same.clone()), {}, "bool scalar"),
        ("if", (c, i), (same, same.clone()), {}, "input 0"),
        ("if", (c, x), (same,), {}, "two regions"),
        ("while", (x,), (same, same.clone()), {}, "one bool scalar"),
        ("while", (x,), (loop, wider), {}, "enters as"),
        ("scan", (x,), (same,), {"n_carry": 1}, "needs length"),
        ("scan", (x,), (same,), {"n_xs": 1}, "needs an axis"),
        ("scan", (x,), (same,), {"n_carry": 2}, "do not fit"),
    ):  # fmt: skip
        with pytest.raises(TypeRefused, match=message):
            b.apply(op, operands, attrs, regions)
