"""More TensorFlow ops against what TensorFlow computes: complex arithmetic, searches, small decompositions."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import pytest
import tensorflow as tf

import fusewright as fw

RNG = np.random.default_rng(5)
raw = tf.raw_ops
A, B = (RNG.standard_normal((3, 4)).astype(np.float32) for _ in range(2))
I32 = RNG.integers(-5, 60, (3, 4)).astype(np.int32)


def check(fn: Callable[..., Any], *arrays: np.ndarray, rtol: float = 2e-5) -> fw.Graph:
    """The imported graph gives what TensorFlow gives: values, types, NaN and infinities."""
    graph = tf.Graph()
    with graph.as_default():
        places = [tf.compat.v1.placeholder(a.dtype, a.shape, name=f"x{i}") for i, a in enumerate(arrays)]
        out = fn(*places)
        outputs = list(out) if isinstance(out, (list, tuple)) else [out]
        with tf.compat.v1.Session(graph=graph) as session:
            want = session.run(outputs, dict(zip(places, arrays, strict=True)))
    names = [o.name for o in outputs]
    imported = fw.import_model(graph, inputs=[f"x{i}" for i in range(len(arrays))], outputs=list(dict.fromkeys(names)))
    got = imported.run({f"x{i}": a for i, a in enumerate(arrays)})
    for name, expected in zip(names, want, strict=True):
        assert got[name].dtype == expected.dtype and got[name].shape == expected.shape, name
        np.testing.assert_allclose(got[name], expected, rtol=rtol, atol=2e-5, err_msg=name)
    return imported


def two(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of two complex numbers as one of their four parts."""

    def parts(a: Any, b: Any, c: Any, d: Any) -> Any:
        z = fn(tf.complex(a, b), tf.complex(c, d))
        return [tf.math.real(z), tf.math.imag(z)]

    return parts


COMPLEX: dict[str, Callable[..., Any]] = {
    "multiply": two(lambda x, y: x * y), "divide": two(lambda x, y: x / y), "add": two(lambda x, y: x + y - 2 * y),
    "exp": two(lambda x, y: tf.exp(x)), "log": two(lambda x, y: tf.math.log(x)), "sqrt": two(lambda x, y: tf.sqrt(x)),
    "sin": two(lambda x, y: tf.sin(x)), "cos": two(lambda x, y: tf.cos(x)), "sinh": two(lambda x, y: tf.sinh(x)),
    "cosh": two(lambda x, y: tf.cosh(x)), "tanh": two(lambda x, y: tf.tanh(x)),
    "square": two(lambda x, y: tf.square(x)), "inverse": two(lambda x, y: tf.math.reciprocal(x)),
    "constant": two(lambda x, y: x * tf.constant([1 + 2j, -1j, 0.5, 3], tf.complex64) + tf.constant(1j, tf.complex64)),
    "filled": two(lambda x, y: x + tf.constant(2 - 1j, tf.complex64, (3, 4))),
    "reduce": two(lambda x, y: tf.reduce_sum(x * y, 1)), "stack": two(lambda x, y: tf.stack([x, y], 1)),
    "concat": two(lambda x, y: tf.concat([x[:, ::2], tf.transpose(tf.reshape(y, [4, 3]))], 1)),
    "select": two(lambda x, y: tf.where(tf.math.real(x) > 0, x, y)),
    "matmul": two(lambda x, y: tf.matmul(x, y, transpose_b=True)),
    "adjoint": two(lambda x, y: tf.raw_ops.BatchMatMulV2(x=x, y=y, adj_x=True, adj_y=False)),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPLEX)
def test_complex(name: str) -> None:
    assert check(COMPLEX[name], A, B, A[::-1].copy(), B + 1)


def test_complex_comparison() -> None:
    whole = np.float32([[0, 1], [1, 1]])
    assert check(
        lambda a, b: [tf.equal(tf.complex(a, b), tf.complex(b, b)), tf.not_equal(tf.complex(a, b), tf.complex(b, b))],
        whole, whole.T.copy(),
    )  # fmt: skip


SYMMETRIC = np.stack([m + m.T for m in RNG.standard_normal((3, 4, 4)).astype(np.float32)])
WIDE = RNG.standard_normal((2, 3, 5)).astype(np.float32)
CASES: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "bucketize": (
        lambda x: raw.Bucketize(input=x, boundaries=[-1, 0, 0.25, 2]),
        (np.float32([-2, -1, 0, 0.25, 5, np.nan, np.inf]),),
    ),
    "bucketize of integers": (lambda x: raw.Bucketize(input=x, boundaries=[-1, 0, 2.5]), (I32,)),
    "lower and upper bound": (
        lambda t, x: [raw.LowerBound(sorted_inputs=t, values=x), raw.UpperBound(sorted_inputs=t, values=x)],
        (np.sort(A, 1), np.concatenate([np.sort(A, 1)[:, 1:3], B[:, :2]], 1)),
    ),
    "in top k": (
        lambda x, t: [raw.InTopKV2(predictions=x, targets=t, k=k) for k in (1, 2, 4)],
        (np.concatenate([A, np.float32([[1, 1, 2, 0], [np.nan, 1, 2, 3]])]), np.int32([1, 0, 7, 1, 2])),
    ),
    "histogram": (lambda x: tf.histogram_fixed_width(x, [-1.0, 1.5], 5), (A,)),
    "histogram of integers": (lambda x: tf.histogram_fixed_width(x, [0, 50], 7), (I32,)),
    "unravel": (lambda x: tf.unravel_index(x, [3, 4, 5]), (np.int32([0, 7, 59, 23]),)),
    "near": (lambda x, y: raw.ApproximateEqual(x=x, y=y, tolerance=0.5), (A, B)),
    "population count": (
        lambda x: [raw.PopulationCount(x=tf.cast(x, t)) for t in (tf.int8, tf.uint8, tf.int16, tf.int32, tf.int64)],
        (I32 * 3,),
    ),
    "cumulative logsumexp": (
        lambda x: [
            raw.CumulativeLogsumexp(x=x * 30, axis=a, exclusive=e, reverse=r)
            for a in (0, -1) for e in (False, True) for r in (False, True)
        ],
        (A,),
    ),
    "sparse reshape": (
        lambda i: [
            t for n in ([4, 6], [2, -1, 3], [24])
            for t in raw.SparseReshape(input_indices=i, input_shape=[2, 3, 4], new_shape=tf.constant(n, tf.int64))
        ],
        (np.array([[0, 0, 0], [0, 2, 1], [1, 2, 3]], np.int64),),
    ),
    "what a list lacks": (
        lambda x: tf.transpose(x, tf.concat([raw.ListDiff(x=tf.range(3), y=tf.constant([1])).out, [1]], 0)),
        (WIDE,),
    ),
    "singular values": (
        lambda x: [tf.linalg.svd(x, compute_uv=False), tf.linalg.svd(tf.transpose(x, [0, 2, 1]), compute_uv=False)],
        (WIDE,),
    ),
    "sizes of singular vectors": (
        lambda x: [v for w in (x, tf.transpose(x, [0, 2, 1])) for s, u, t in [tf.linalg.svd(w)]
                   for v in (s, tf.abs(u), tf.square(t))],
        (WIDE,),
    ),
    "diagonals of tensors": (lambda x: [raw.DiagPart(input=raw.Diag(diagonal=x)), raw.Diag(diagonal=x)], (A[:2, :3],)),
    "eigenvalues": (lambda x: tf.linalg.eigvalsh(x), (SYMMETRIC,)),
    "eigenvalues in float64": (lambda x: tf.linalg.eigvalsh(x), (SYMMETRIC.astype(np.float64),)),
    "qr": (lambda x: [*tf.linalg.qr(x), *tf.linalg.qr(tf.transpose(x, [0, 2, 1]), full_matrices=True)], (WIDE,)),
    "qr of a square": (lambda x: tf.linalg.qr(x), (SYMMETRIC,)),
    "qr with zeros": (lambda x: tf.linalg.qr(x), (np.float32([[0, 1, 2], [0, 3, 4], [0, 0, 0]]),)),
    "log determinant": (lambda x: tf.linalg.slogdet(x), (SYMMETRIC,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_tensorflow(name: str) -> None:
    fn, arrays = CASES[name]
    assert check(fn, *arrays, rtol=1e-4 if "valu" in name or "sing" in name or "q" in name else 2e-5)


def test_equal_and_zero_singular_values() -> None:
    x = np.stack([np.eye(3), np.zeros((3, 3)), np.ones((3, 3)), np.diag([3.0, -2, 1e-6])]).astype(np.float32)
    graph = check(lambda a: tf.linalg.svd(a, compute_uv=False), x)
    np.testing.assert_allclose(next(iter(graph.run({"x0": x}).values()))[3], np.float32([3, 2, 1e-6]), rtol=1e-6)


def test_vectors_of_arbitrary_sign_are_refused() -> None:
    graph = tf.Graph()
    with graph.as_default():
        s, u, _ = tf.linalg.svd(tf.compat.v1.placeholder(tf.float32, (3, 3), name="x"))
        tf.matmul(u, tf.linalg.diag(s), name="y")
    for output in (u.name, "y"):
        with pytest.raises(fw.FusewrightError, match="sign"):
            fw.import_model(graph, outputs=[output])


def test_what_an_input_decides_by_way_of_open_extents_names_the_input() -> None:
    graph = tf.Graph()
    with graph.as_default():
        ids = tf.compat.v1.placeholder(tf.int32, (5,), name="ids")
        rows = tf.dynamic_partition(tf.range(5), ids % 2, 2)
        values = [tf.cast(r, tf.float32) * 2 for r in rows]
        tf.dynamic_stitch(rows, values, name="y")
    with pytest.raises(fw.FusewrightError) as refused:
        fw.import_model(graph, outputs=["y"])
    assert refused.value.code == "data-dependent"
    assert "feeds={'ids'" in refused.value.hint
    bound = fw.import_model(graph, outputs=["y"], feeds={"ids": np.int32([3, 0, 2, 5, 1])})
    np.testing.assert_array_equal(bound.run({})["y"], np.arange(5) * 2)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize("options", [{}, {"align_corners": True}, {"half_pixel_centers": True}])
def test_resizing_free_extents(method: str, options: dict[str, bool]) -> None:
    resize = raw.ResizeBilinear if method == "bilinear" else raw.ResizeNearestNeighbor
    free = [tf.TensorSpec([None, None, None, 2])]
    fixed = tf.function(lambda x: resize(images=x, size=[5, 11], **options), input_signature=free)
    twice = tf.function(
        lambda x: resize(images=x, size=tf.shape(x)[1:3] * 2 + 1, **options), input_signature=free, autograph=False
    )
    for f in (fixed, twice):
        graph = fw.import_model(f)
        for size in ((6, 7), (1, 4), (11, 5)):
            x = np.random.default_rng(size[0]).standard_normal((2, *size, 2)).astype(np.float32)
            (got,) = graph.run({graph.inputs[0].name: x}).values()
            np.testing.assert_allclose(got, f(x), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("method", "antialias"), [("lanczos3", False), ("lanczos5", True), ("bicubic", True)])
def test_samplers_of_whole_images(method: str, antialias: bool) -> None:
    x = RNG.standard_normal((2, 9, 6, 3)).astype(np.float32)
    check(lambda a: tf.image.resize(a, (4, 8), method=method, antialias=antialias), x, rtol=1e-4)


def test_what_fits_is_cast_as_in_tensorflow_and_the_rest_is_clipped() -> None:
    x = np.float32([2.9, -2.9, 127.5, -128.0, 0.0, np.inf, -np.inf, np.nan, 3e9, -300.0])
    cast = tf.function(lambda v: tf.cast(v, tf.int8), input_signature=[tf.TensorSpec([None], tf.float32)])
    graph = fw.import_model(cast)
    (got,) = graph.run({graph.inputs[0].name: x}).values()
    np.testing.assert_array_equal(got[:5], cast(x)[:5])
    np.testing.assert_array_equal(got[5:], [127, -128, 0, 127, -128])


def test_a_complex_number_divided_by_zero_is_nan_in_both_parts() -> None:
    def divided(a: tf.Tensor, b: tf.Tensor) -> list[tf.Tensor]:
        z = tf.complex(a, b) / tf.complex(tf.zeros_like(a), tf.zeros_like(a))
        return [tf.math.real(z), tf.math.imag(z)]

    traced = tf.function(divided, input_signature=[tf.TensorSpec([4], tf.float32)] * 2)
    a, b = np.float32([1, 0, -2, np.inf]), np.float32([0, 0, 3, 1])
    graph = fw.import_model(traced)
    got = graph.run(dict(zip([v.name for v in graph.inputs], (a, b), strict=True)))
    for part, want in zip(got.values(), traced(a, b), strict=True):
        assert np.isnan(part).all() and np.isnan(want).all()
