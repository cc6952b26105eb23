"""Discrete Fourier transforms as products with cosine and sine matrices; a complex tensor is its two parts.

Owns FFT, RFFT, IRFFT and their 2-D forms. Long transforms are refused: the matrix grows with the square.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import Dim
from ....ir.graph import Value
from ..lower import Ctx, op
from ..values import Complex, Item, Tensor

_LONGEST = 4096


def _fit(c: Ctx, x: Value, axis: int, n: int) -> Value:
    """The axis cut or padded with zeros to n elements."""
    size = x.shape[axis]
    if isinstance(size, Dim):
        raise c.refuse("the transformed axis is not fixed", "fix it with shapes=")
    if n > _LONGEST:
        raise c.refuse(f"a transform of {n} points is not supported; at most {_LONGEST}")
    if size > n:
        stops = list(x.shape)
        stops[axis] = n
        x = c.bld.slice(x, starts=(0,) * x.rank, stops=tuple(stops))
    elif size < n:
        high = [0] * x.rank
        high[axis] = n - size
        x = c.bld.pad(x, low=(0,) * x.rank, high=tuple(high))
    return x


def _angles(rows: int, cols: int, n: int) -> np.ndarray:
    """2 pi j k / n, exact in the turn: j k is reduced first."""
    turn: np.ndarray = (np.arange(rows)[:, None] * np.arange(cols)[None, :]) % n
    return turn * (2 * np.pi / n)


def _last(c: Ctx, x: Value, axis: int) -> Value:
    if axis == x.rank - 1:
        return x
    perm = [*range(x.rank)]
    perm[axis], perm[-1] = perm[-1], perm[axis]
    out: Value = c.bld.transpose(x, perm=tuple(perm))
    return out


def _times(c: Ctx, x: Value, matrix: np.ndarray) -> Value:
    if x.rank == 1:
        row = c.bld.reshape(x, shape=(1, *x.shape))
        out: Value = c.bld.reshape(c.bld.matmul(row, c.const(matrix, x)), shape=(matrix.shape[1],))
        return out
    out = c.bld.matmul(x, c.const(matrix, x))
    return out


def _along(c: Ctx, re: Value, im: Value | None, axis: int, n: int, keep: int, inverse: bool) -> tuple[Value, Value]:
    """The transform along one axis, its first ``keep`` results."""
    b = c.bld
    re = _last(c, _fit(c, re, axis, n), axis)
    angles = _angles(n, keep, n)
    cos, sin = np.cos(angles), np.sin(angles) * (1 if inverse else -1)
    if inverse:
        cos, sin = cos / n, sin / n
    out_re, out_im = _times(c, re, cos), _times(c, re, sin)
    if im is not None:
        im = _last(c, _fit(c, im, axis, n), axis)
        out_re, out_im = b.sub(out_re, _times(c, im, sin)), b.add(out_im, _times(c, im, cos))
    return _last(c, out_re, axis), _last(c, out_im, axis)


@op("RFFT", "RFFT2D", raw=True)
def _rfft(c: Ctx, item: Item, length: Item) -> Any:
    x, sizes = c.v(item), c.ints(length, "the transform's length")
    n = sizes[-1]
    re, im = _along(c, x, None, x.rank - 1, n, n // 2 + 1, False)
    if c.node.op == "RFFT2D":
        re, im = _along(c, re, im, x.rank - 2, sizes[0], sizes[0], False)
    return Complex(Tensor.of(re), Tensor.of(im))


@op("FFT", "IFFT", "FFT2D", "IFFT2D", raw=True)
def _fft(c: Ctx, item: Item) -> Any:
    if not isinstance(item, Complex):
        raise c.refuse("takes complex numbers")
    re, im = c.v(item.re), c.v(item.im)
    inverse = c.node.op.startswith("I")
    axes = (re.rank - 1, re.rank - 2) if c.node.op.endswith("2D") else (re.rank - 1,)
    for axis in axes:
        n = re.shape[axis]
        if isinstance(n, Dim):
            raise c.refuse("the transformed axis is not fixed", "fix it with shapes=")
        re, im = _along(c, re, im, axis, n, n, inverse)
    return Complex(Tensor.of(re), Tensor.of(im))


@op("IRFFT", "IRFFT2D", raw=True)
def _irfft(c: Ctx, item: Item, length: Item) -> Any:
    if not isinstance(item, Complex):
        raise c.refuse("takes complex numbers")
    re, im, sizes = c.v(item.re), c.v(item.im), c.ints(length, "the transform's length")
    axis, n = re.rank - 1, sizes[-1]
    if c.node.op == "IRFFT2D":
        re, im = _along(c, re, im, axis - 1, sizes[0], sizes[0], True)
    half = n // 2 + 1
    re, im = _last(c, _fit(c, re, axis, half), axis), _last(c, _fit(c, im, axis, half), axis)
    angles = _angles(half, n, n)
    # Every bin but the first (and the middle one of an even length) stands for itself and its mirror image.
    weight = np.full((half, 1), 2.0 / n)
    weight[0] = 1.0 / n
    if n % 2 == 0:
        weight[-1] = 1.0 / n
    return c.bld.sub(_times(c, re, np.cos(angles) * weight), _times(c, im, np.sin(angles) * weight))
