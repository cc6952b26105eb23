"""What JAX computes beside a case of `gpu_cases.py`: functions of arrays, jitted and timed by `gpu.py` where JAX is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Work = tuple[Callable[..., Any], tuple[Any, ...]]  # a function and its operands


def _normal(jax: Any, seed: int, shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.random.normal(jax.random.PRNGKey(seed), shape, dtype)


def add(jax: Any, n: int, dtype: Any) -> Work:
    """Two operands of 4096 columns."""
    return lambda x, y: x + y, tuple(_normal(jax, i, (n, 4096), jax.numpy.float32) for i in range(2))


def softmax(jax: Any, n: int, dtype: Any) -> Work:
    """Rows of 1024."""
    return lambda x: jax.nn.softmax(x, axis=-1), (_normal(jax, 0, (n, 1024), jax.numpy.float32),)


def layer_norm(jax: Any, n: int, dtype: Any) -> Work:
    """Rows of 1024, with scale and offset."""
    x, scale, offset = (_normal(jax, i, s, jax.numpy.float32) for i, s in enumerate(((n, 1024), (1024,), (1024,))))
    return lambda x, s, o: _norm(jax, x) * s + o, (x, scale, offset)


def _norm(jax: Any, x: Any) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def dense(depth: int, columns: int) -> Callable[[Any, int, Any], Work]:
    """A product with offset and ReLU."""

    def make(jax: Any, n: int, dtype: Any) -> Work:
        given = ((n, depth), (depth, columns), (columns,))
        return lambda x, w, b: jax.nn.relu(x @ w + b), tuple(_normal(jax, i, s, dtype) for i, s in enumerate(given))

    return make


def conv(size: int, cin: int, cout: int, window: int, stride: int) -> Callable[[Any, int, Any], Work]:
    """A convolution over NHWC with offset and ReLU."""

    def make(jax: Any, n: int, dtype: Any) -> Work:
        given = ((n, size, size, cin), (window, window, cin, cout), (cout,))
        pads = [(window // 2, window // 2)] * 2

        def run(x: Any, w: Any, b: Any) -> Any:
            y = jax.lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return jax.nn.relu(y + b)

        return run, tuple(_normal(jax, i, s, dtype) for i, s in enumerate(given))

    return make


def attention(heads: int, length: int, depth: int, causal: bool) -> Callable[[Any, int, Any], Work]:
    """Scaled dot products of every head."""

    def make(jax: Any, n: int, dtype: Any) -> Work:
        given = tuple(_normal(jax, i, (n, length, heads, depth), dtype) for i in range(3))
        return lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=causal), given

    return make


def encoder(layers: int, width: int, heads: int, length: int) -> Callable[[Any, int, Any], Work]:
    """The encoder of BERT: post-norm blocks over vectors."""

    def make(jax: Any, n: int, dtype: Any) -> Work:
        shapes = ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
        weights = [tuple(_normal(jax, i, s, dtype) / s[0] ** 0.5 for i, s in enumerate(shapes)) for _ in range(layers)]

        def run(x: Any, weights: Any) -> Any:
            for qkv, mix, up, down in weights:
                parts = (x @ qkv).reshape(n, length, 3, heads, width // heads)
                mixed = jax.nn.dot_product_attention(*(parts[:, :, i] for i in range(3)))
                x = _norm(jax, x + mixed.reshape(n, length, width) @ mix)
                x = _norm(jax, x + jax.nn.gelu(x @ up, approximate=False) @ down)
            return x

        return run, (_normal(jax, 9, (n, length, width), dtype), weights)

    return make


def milliseconds(jax: Any, make: Callable[[Any, int, Any], Work], n: int, half: bool, repeats: int) -> float:
    """Per call, jitted, operands on the device: the best of five samples of ``repeats`` calls, one wait per sample."""
    dtype = jax.numpy.bfloat16 if half else jax.numpy.float32
    with jax.default_matmul_precision("default" if half else "highest"):
        function, given = make(jax, n, dtype)
        run = jax.jit(function)
        jax.block_until_ready(run(*given))
        times = []
        for _ in range(5):
            start = time.perf_counter()
            out = None
            for _ in range(repeats):
                out = run(*given)
            jax.block_until_ready(out)
            times.append((time.perf_counter() - start) / repeats)
    return 1e3 * min(times)
