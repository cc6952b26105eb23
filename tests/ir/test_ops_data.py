"""Movement, gathers, scatters, sorting, contractions and composites against NumPy and loops."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from fusewright.core.errors import InputRefused, TypeRefused
from fusewright.ir import Builder

RNG = np.random.default_rng(1)
NAN = np.nan


def run(op: str, *arrays: Any, precision: str = "f32", **attrs: Any) -> Any:
    b = Builder()
    given = [np.asarray(a) for a in arrays]
    values = [b.input(f"x{i}", a.dtype, a.shape) for i, a in enumerate(given)]
    graph = b.build(*b.apply(op, values, attrs))
    graph.verify()
    out = list(graph.run({f"x{i}": a for i, a in enumerate(given)}, precision).values())
    return out[0] if len(out) == 1 else out


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("f4")


X = np.arange(24, dtype="f4").reshape(2, 3, 4)


def test_movement_is_numpys() -> None:
    np.testing.assert_array_equal(run("reshape", X, shape=(4, -1)), X.reshape(4, 6))
    np.testing.assert_array_equal(run("transpose", X, perm=(2, 0, -2)), X.transpose(2, 0, 1))
    np.testing.assert_array_equal(run("reverse", X, axes=(0, -1)), X[::-1, :, ::-1])
    np.testing.assert_array_equal(
        run("broadcast_to", X[:, :1], shape=(5, 2, 3, 4)), np.broadcast_to(X[:, :1], (5, 2, 3, 4))
    )
    np.testing.assert_array_equal(run("concat", X, X[:, :1], axis=-2), np.concatenate([X, X[:, :1]], 1))
    got = run("slice", X, starts=(None, -2, 1), stops=(None, 99, -1), steps=(1, 1, 2))
    np.testing.assert_array_equal(got, X[:, -2:99, 1:-1:2])
    np.testing.assert_array_equal(run("slice", X, starts=(1, 3, 0), stops=(0, 2, 4)), X[1:0, 3:2])


@pytest.mark.parametrize("mode", ["constant", "reflect", "symmetric", "edge"])
def test_pad_is_numpys(mode: str) -> None:
    widths = ((1, 0), (2, 1), (0, 3))
    extra = {"constant_values": 7} if mode == "constant" else {}
    operands = (X, np.float32(7)) if mode == "constant" else (X,)
    got = run("pad", *operands, low=[w[0] for w in widths], high=[w[1] for w in widths], mode=mode)
    np.testing.assert_array_equal(got, np.pad(X, widths, mode=mode, **extra))  # type: ignore[call-overload]


def test_movement_refusals() -> None:
    for op, attrs in (
        ("reshape", {"shape": (5, -1)}), ("reshape", {"shape": (-1, -1)}), ("transpose", {"perm": (0, 0, 1)}),
        ("broadcast_to", {"shape": (2, 3, 5)}), ("slice", {"starts": (0,), "stops": (1,)}),
        ("pad", {"low": (0, 0, 0), "high": (0, 0, 9), "mode": "reflect"}), ("concat", {"axis": 3}),
        ("dynamic_slice", {"sizes": (1, 1, 1)}), ("broadcast_to", {"shape": (-1, 2, 3, 4)}), ("cumsum", {"axis": 3}),
    ):  # fmt: skip
        with pytest.raises(TypeRefused):
            run(op, X, **attrs)


def test_gather_clamps() -> None:
    i = np.array([[-5, 0], [2, 9]])
    np.testing.assert_array_equal(run("gather", X, i, axis=1), X[:, np.clip(i, 0, 2)])
    np.testing.assert_array_equal(run("gather", X[:, :0], np.zeros((2, 0), int), axis=1), np.zeros((2, 2, 0, 4)))
    batched = np.array([[2, 0], [1, 1]])
    want = np.stack([X[k][batched[k]] for k in range(2)])
    np.testing.assert_array_equal(run("gather", X, batched, axis=1, batch_dims=1), want)
    big = np.array([2**64 - 1], np.uint64)
    np.testing.assert_array_equal(run("gather", X, big, axis=0), X[1:])


def test_gather_nd() -> None:
    i = np.array([[0, 2], [1, -3], [7, 1]])
    np.testing.assert_array_equal(run("gather_nd", X, i), X[[0, 1, 1], [2, 0, 1]])
    np.testing.assert_array_equal(run("gather_nd", X, np.zeros((5, 0), int)), np.broadcast_to(X, (5, 2, 3, 4)))
    got = run("gather_nd", X, np.array([[[0]], [[2]]]), batch_dims=1)
    np.testing.assert_array_equal(got, np.stack([X[0, 0], X[1, 2]])[:, None])


@pytest.mark.parametrize("reduction", ["set", "add", "mul", "max", "min"])
def test_scatter_in_order_with_repeats(reduction: str) -> None:
    x = np.arange(8, dtype="f4").reshape(4, 2)
    rows, updates = [[1], [3], [1], [-1], [4]], np.array([[5, -5], [2, 2], [6, 0.5], [9, 9], [9, 9]], "f4")
    want = x.copy()
    combine = {"set": lambda a, b: b, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
    for (row,), update in zip(rows, updates):
        if 0 <= row < 4:
            want[row] = combine[reduction](want[row], update)
    np.testing.assert_array_equal(run("scatter_nd", x, np.array(rows), updates, reduction=reduction), want)


def test_dynamic_windows_clamp() -> None:
    got = run("dynamic_slice", X, np.int64(1), np.int32(9), np.int64(-4), sizes=(1, 2, 3))
    np.testing.assert_array_equal(got, X[1:2, 1:3, :3])
    want = X.copy()
    want[1:, 1:, 1:] = -1
    update = np.full((1, 2, 3), -1, "f4")
    np.testing.assert_array_equal(run("dynamic_update_slice", X, update, np.int64(5), np.int64(1), np.int64(3)), want)
    assert run("dynamic_update_slice", np.float32(1), np.float32(2)) == 2


@pytest.mark.parametrize(("exclusive", "reverse"), list(product([False, True], repeat=2)))
def test_cumulative(exclusive: bool, reverse: bool) -> None:
    x = np.array([[1, 2, 3], [4, 0, -2]], "f4")
    for op, start, combine in (("cumsum", 0.0, lambda a, b: a + b), ("cumprod", 1.0, lambda a, b: a * b)):
        want = np.zeros_like(x)
        for r in range(2):
            total = start
            for c in reversed(range(3)) if reverse else range(3):
                before, total = total, combine(total, x[r, c])
                want[r, c] = before if exclusive else total
        np.testing.assert_array_equal(run(op, x, axis=1, exclusive=exclusive, reverse=reverse), want)
    assert run("cumsum", np.zeros((0,), "f4"), axis=0).shape == (0,)


def test_sort_is_stable_and_nan_comes_last() -> None:
    x = np.array([3.0, NAN, 1.0, 3.0, -np.inf, NAN, 1.0], "f4")
    values, order = run("sort", x)
    np.testing.assert_array_equal(values, np.array([-np.inf, 1, 1, 3, 3, NAN, NAN], "f4"))
    assert order.tolist() == [4, 2, 6, 0, 3, 1, 5]
    values, order = run("sort", x, descending=True)
    np.testing.assert_array_equal(values, np.array([3, 3, 1, 1, -np.inf, NAN, NAN], "f4"))
    assert order.tolist() == [0, 3, 2, 6, 4, 1, 5]


def test_top_k_keeps_the_first_of_a_tie() -> None:
    values, order = run("top_k", np.array([[1, 5, 5, 2], [0, 0, 0, 0]], np.int32), k=2)
    assert values.tolist() == [[5, 5], [0, 0]] and order.tolist() == [[1, 2], [0, 1]] and order.dtype == np.int32
    values, order = run("top_k", np.array([4, 1, 3], "f4"), k=2, largest=False)
    assert values.tolist() == [1, 3] and order.tolist() == [1, 2]


def test_iota_and_an_empty_argmax() -> None:
    b = Builder()
    n = b.input("x", "f32", ("N", 3))
    graph = b.build(b.iota(shape=("N", 2), axis=0, dtype="i32"), b.argmax(n, axis=0))
    out = graph.run({"x": np.zeros((3, 3), "f4")})
    assert out["output_0"].tolist() == [[0, 0], [1, 1], [2, 2]]
    with pytest.raises(InputRefused, match="an extent is 0 where 1 is needed"):
        graph.run({"x": np.zeros((0, 3), "f4")})


def test_contractions() -> None:
    a, c = normal(2, 1, 3, 4), normal(5, 4, 6)
    np.testing.assert_allclose(run("matmul", a, c), a @ c, rtol=1e-6)
    np.testing.assert_allclose(run("matmul", a, c.transpose(0, 2, 1), transpose_b=True), a @ c, rtol=1e-5, atol=1e-6)
    flipped = np.ascontiguousarray(a.transpose(0, 1, 3, 2))
    np.testing.assert_allclose(run("matmul", flipped, c, transpose_a=True), a @ c, rtol=1e-5, atol=1e-6)
    assert run("matmul", np.zeros((2, 0), "f4"), np.zeros((0, 3), "f4")).tolist() == [[0, 0, 0], [0, 0, 0]]


EQUATIONS = [
    ("ab,bc->ac", (2, 3), (3, 4)), ("abc,cd->dab", (2, 3, 4), (4, 5)), ("ab,ab->", (2, 3), (2, 3)),
    ("a,b->ba", (2,), (3,)),
    ("...ab,...bc->...ac", (5, 2, 3), (5, 3, 4)), ("abc,abd->acd", (2, 3, 4), (2, 3, 5)), ("abc->ca", (2, 3, 4), None),
    ("ab->", (2, 3), None), ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("equation", "p", "q"), EQUATIONS)
def test_einsum_and_its_decomposition(equation: str, p: Any, q: Any) -> None:
    arrays = [normal(*p)] + ([normal(*q)] if q else [])
    want = np.einsum(equation, *arrays)
    np.testing.assert_allclose(run("einsum", *arrays, equation=equation), want, rtol=1e-5, atol=1e-5)
    b = Builder()
    values = [b.input(f"x{i}", "f32", a.shape) for i, a in enumerate(arrays)]
    node = b.einsum(*values, equation=equation).producer
    graph = b.build(node.op.decompose(b, values, node.attrs))
    got = next(iter(graph.run({f"x{i}": a for i, a in enumerate(arrays)}).values()))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_softmax_family() -> None:
    x = np.array([[1000.0, 1001.0, 999.0], [-np.inf, 0.0, 0.0]], "f4")
    wide = x.astype("f8")
    e = np.exp(wide - wide.max(-1, keepdims=True))
    np.testing.assert_allclose(run("softmax", x), e / e.sum(-1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(run("log_softmax", x[:1]), np.log(e[:1] / e[:1].sum()), rtol=1e-6)


def test_normalisations() -> None:
    x, g, h = normal(3, 4, 6), normal(6), normal(6)
    mean, var = normal(6), np.abs(normal(6))
    wide = x.astype("f8")
    want = (wide - mean) / np.sqrt(var + 1e-3) * g + h
    np.testing.assert_allclose(run("batch_norm", x, mean, var, g, h), want, rtol=1e-4, atol=1e-5)
    got = run("batch_norm", x, mean, var, h, has_gamma=False)
    np.testing.assert_allclose(got, (wide - mean) / np.sqrt(var + 1e-3) + h, rtol=1e-4, atol=1e-5)
    centred = wide - wide.mean(-1, keepdims=True)
    want = centred / np.sqrt(wide.var(-1, keepdims=True) + 1e-3) * g + h
    np.testing.assert_allclose(run("layer_norm", x, g, h), want, rtol=1e-4, atol=1e-5)
    want = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-3) * g
    np.testing.assert_allclose(run("rms_norm", x, g), want, rtol=1e-4, atol=1e-5)
    split = wide.reshape(3, 4, 2, 3)
    centred = split - split.mean((1, 3), keepdims=True)
    want = (centred / np.sqrt(split.var((1, 3), keepdims=True) + 1e-3)).reshape(x.shape) * g + h
    np.testing.assert_allclose(run("group_norm", x, g, h, groups=2), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masking", ["none", "bool", "add"])
def test_attention(causal: bool, masking: str) -> None:
    q, k, v = normal(2, 4, 8), normal(2, 5, 8), normal(2, 5, 3)
    keep = RNG.random((4, 5)) < 0.7
    scores = q.astype("f8") @ k.astype("f8").transpose(0, 2, 1) / np.sqrt(8)
    operands = [q, k, v]
    if masking == "bool":
        scores = np.where(keep, scores, -1e9)
        operands.append(keep)
    elif masking == "add":
        scores = scores + keep
        operands.append(keep.astype("f4"))
    if causal:
        scores = np.where(np.arange(4)[:, None] >= np.arange(5), scores, -1e9)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    want = e / e.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(run("attention", *operands, causal=causal), want, rtol=1e-4, atol=1e-5)


def test_a_symbol_that_no_input_binds_is_refused() -> None:
    b = Builder()
    graph = b.build(b.relu(b.input("x", "f32", ("3*M", 2))))
    with pytest.raises(InputRefused, match="cannot bind M"):
        graph.run({"x": np.zeros((6, 2), "f4")})
