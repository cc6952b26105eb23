"""Discrete Fourier transforms as products with cosine and sine matrices: STFTSpectrogram, MelSpectrogram, FFT nodes.

Owns the matrices, windows and mel scale. A complex tensor is the pair of its parts. Long transforms are refused.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....core.dtypes import F32
from ....ir.graph import Value
from ..call import Call, layer, operation, static
from .ops import floats, option
from .ops_shape import along

_LONGEST = 8192
_EPSILON = 1e-7  # keras.config.epsilon() by default


def angles(rows: int, columns: int, n: int) -> np.ndarray:
    """2 pi j k / n, exact in the turn: j k is reduced first."""
    return ((np.arange(rows)[:, None] * np.arange(columns)[None, :]) % n) * (2 * np.pi / n)


def _fit(c: Call, x: Value, axis: int, n: int) -> Value:
    """The axis cut or padded with zeros to n elements."""
    size = static(c, x.shape[axis], "the transformed axis")
    if n > _LONGEST:
        raise c.refuse(f"a transform of {n} points is not supported, at most {_LONGEST}")
    if size >= n:
        return along(c, x, axis, 0, n) if size > n else x
    high = tuple(n - size if a == axis else 0 for a in range(x.rank))
    return c.b.pad(x, low=(0,) * x.rank, high=high)


def _times(c: Call, x: Value, axis: int, matrix: np.ndarray) -> Value:
    """One axis times a matrix."""
    last = (*(a for a in range(x.rank) if a != axis), axis)
    rows = c.b.transpose(x, perm=last)
    flat = c.b.reshape(rows, shape=(1, *rows.shape)) if x.rank == 1 else rows
    out = c.b.matmul(flat, c.b.constant(matrix, x.dtype))
    out = c.b.reshape(out, shape=out.shape[1:]) if x.rank == 1 else out
    return c.b.transpose(out, perm=tuple(last.index(a) for a in range(x.rank)))


def _along(c: Call, re: Value, im: Value | None, axis: int, keep: int, inverse: bool = False) -> tuple[Value, Value]:
    """The transform along one axis, its first ``keep`` results."""
    n = static(c, re.shape[axis], "the transformed axis")
    turn = angles(n, keep, n)
    cos, sin = np.cos(turn), np.sin(turn) * (1 if inverse else -1)
    if inverse:
        cos, sin = cos / n, sin / n
    out_re, out_im = _times(c, re, axis, cos), _times(c, re, axis, sin)
    if im is not None:
        out_re = c.b.sub(out_re, _times(c, im, axis, sin))
        out_im = c.b.add(out_im, _times(c, im, axis, cos))
    return out_re, out_im


def _parts(c: Call, x: Any) -> tuple[Value, Value]:
    if not isinstance(x, (list, tuple)) or len(x) != 2:
        raise c.refuse("takes the real and the imaginary part")
    return floats(c, x[0]), floats(c, x[1])


@operation("FFT", "FFT2", "IFFT2")
def _fft(c: Call, x: Any, **k: Any) -> list[Value]:
    re, im = _parts(c, x)
    inverse = c.spec.class_name.startswith("I")
    for axis in (re.rank - 1, re.rank - 2) if c.spec.class_name.endswith("2") else (re.rank - 1,):
        n = static(c, re.shape[axis], "the transformed axis")
        _fit(c, re, axis, n)
        re, im = _along(c, re, im, axis, n, inverse)
    return [re, im]


@operation("RFFT")
def _rfft(c: Call, x: Any, **k: Any) -> list[Value]:
    v = floats(c, x)
    n = option(c, k, "fft_length") or static(c, v.shape[-1], "the transformed axis")
    return list(_along(c, _fit(c, v, v.rank - 1, n), None, v.rank - 1, n // 2 + 1))


@operation("IRFFT")
def _irfft(c: Call, x: Any, **k: Any) -> Value:
    re, im = _parts(c, x)
    axis = re.rank - 1
    n = option(c, k, "fft_length") or 2 * (static(c, re.shape[axis], "the transformed axis") - 1)
    half = n // 2 + 1
    re, im = _fit(c, re, axis, half), _fit(c, im, axis, half)
    # Every bin but the first (and the middle one of an even length) stands for itself and its mirror image.
    weight = np.full((half, 1), 2.0 / n)
    weight[0] = 1.0 / n
    if n % 2 == 0:
        weight[-1] = 1.0 / n
    turn = angles(half, n, n)
    return c.b.sub(_times(c, re, axis, np.cos(turn) * weight), _times(c, im, axis, np.sin(turn) * weight))


def _window(c: Call, kind: Any, size: int) -> np.ndarray:
    """A periodic window as tf.signal has it."""
    if kind is None:
        return np.ones(size)
    if kind not in ("hann", "hamming"):
        raise c.refuse(f"window={kind!r} is not supported")
    share = 0.5 if kind == "hann" else 0.54
    return share - (1 - share) * np.cos(2 * np.pi * np.arange(size) / size)


def _stft(c: Call, x: Value, size: int, stride: int, length: int, window: Any, center: bool) -> tuple[Value, Value]:
    """[..., T] -> real and imaginary [..., frames, bins]: a strided convolution with windowed cosines and sines."""
    if length > _LONGEST or length < size:
        raise c.refuse(f"fft_length={length} is not supported for frames of {size}, at most {_LONGEST}")
    lead, b = x.shape[:-1], c.b
    if center:
        sides = (*(0 for _ in lead), length // 2)
        x = b.pad(x, low=sides, high=sides, mode="reflect")
    before = (length - size) // 2
    shape = np.pad(_window(c, window, size), (before, length - size - before))
    turn = angles(length, length // 2 + 1, length)
    bins = length // 2 + 1
    kernel = np.concatenate([np.cos(turn), -np.sin(turn)], axis=1) * shape[:, None]
    rows: Any = 1
    for d in lead:
        rows = rows * d
    signal = b.reshape(x, shape=(rows, x.shape[-1], 1))
    y = b.conv(signal, b.constant(kernel[:, None, :], x.dtype), strides=(stride,))
    y = b.reshape(y, shape=(*lead, *y.shape[1:]))
    return along(c, y, y.rank - 1, 0, bins), along(c, y, y.rank - 1, bins, 2 * bins)


@operation("STFT")
def _stft_node(c: Call, x: Any, **k: Any) -> list[Value]:
    return list(
        _stft(
            c, floats(c, x), int(option(c, k, "sequence_length")), int(option(c, k, "sequence_stride")),
            int(option(c, k, "fft_length")), option(c, k, "window", "hann") if "window" in c.config else "hann",
            bool(option(c, k, "center", True)),
        )
    )  # fmt: skip


def mel_matrix(bins: int, mels: int, rate: float, low: float, high: float) -> np.ndarray:
    """[bins, mels]: triangles that are even on the mel scale, mel(f) = 1127 ln(1 + f / 700), without the first bin."""
    mel = lambda f: 1127.0 * np.log(1.0 + np.asarray(f, np.float64) / 700.0)
    place = mel(np.linspace(0.0, rate / 2.0, bins)[1:])[:, None]
    edges = np.linspace(mel(low), mel(high), mels + 2)
    rising = (place - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - place) / (edges[2:] - edges[1:-1])
    return np.pad(np.maximum(0.0, np.minimum(rising, falling)), ((1, 0), (0, 0)))


@layer("MelSpectrogram")
def _mel(c: Call, x: Value) -> Value:
    b, length = c.b, c.integer("fft_length", 2048)
    x = c.cast(x, F32) if x.dtype.size < 4 else x
    size = c.config.get("sequence_length") or length
    real, imaginary = _stft(c, x, int(size), c.integer("sequence_stride", 512), length, c.get("window", "hann"), True)
    power = b.add(b.square(real), b.square(imaginary))
    exponent = c.number("mag_exp", 2.0)
    spectrum = power if exponent == 2.0 else b.pow(b.sqrt(power), exponent)
    rate = c.number("sampling_rate", 16000)
    high = c.config.get("max_freq") or int(rate / 2)
    matrix = mel_matrix(length // 2 + 1, c.integer("num_mel_bins", 128), rate, c.number("min_freq", 20.0), float(high))
    y = b.matmul(b.reshape(spectrum, shape=(1, *spectrum.shape)) if spectrum.rank == 2 else spectrum,
                 b.constant(matrix, spectrum.dtype))  # fmt: skip
    y = b.reshape(y, shape=(*spectrum.shape[:-1], y.shape[-1]))
    if c.flag("power_to_db", True):
        floor = c.number("min_power", 1e-10)
        y = b.mul(b.log(b.maximum(y, floor)), 10.0 / math.log(10.0))
        y = b.sub(y, 10.0 * math.log10(max(abs(c.number("ref_power", 1.0)), floor)))
        # The loudest value of the whole batch decides: rows are not independent here.
        top = b.reduce_max(y, axes=tuple(range(y.rank)), keepdims=True)
        y = b.maximum(y, b.sub(top, c.number("top_db", 80.0)))
    return c.float(b.transpose(y, perm=(*range(y.rank - 2), y.rank - 1, y.rank - 2)))


@layer("STFTSpectrogram")
def _spectrogram(c: Call, x: Value) -> Value:
    """A strided convolution of every channel with the stored windowed cosines and sines."""
    b, first = c.b, c.channels_first
    c.need_rank(x, 3)
    x = b.transpose(x, perm=(0, 2, 1)) if not first else x  # [N, channels, T]
    n, channels, steps = x.shape
    mode, padding = str(c.get("mode", "log")), str(c.get("padding", "valid"))
    size = c.integer("frame_length", 256)
    step = c.config.get("frame_step")
    step = size // 2 if step is None else int(step)
    if padding != "valid":
        raise c.refuse(f"padding={padding!r} is not supported")
    signal = b.reshape(x, shape=(n * channels, steps, 1))

    def part(name: str) -> Value:
        """[N, channels, bins, frames]."""
        y = b.transpose(b.conv(signal, c.w(name, (size, 1, None)), strides=(step,)), perm=(0, 2, 1))
        return b.reshape(y, shape=(n, channels, *y.shape[1:]))

    real = part("real_kernel") if mode != "imag" else None
    imaginary = part("imag_kernel") if mode != "real" else None
    if real is None or imaginary is None:
        y = real if real is not None else imaginary
    elif mode == "angle":
        y = b.atan2(imaginary, real)
    elif mode == "stft":
        y = b.concat(real, imaginary, axis=2)
    else:
        y = b.add(b.square(real), b.square(imaginary))
        if mode == "psd":
            middle = along(c, y, 2, 1, y.shape[2] - 1)
            y = b.add(y, b.pad(middle, low=(0, 0, 1, 0), high=(0, 0, 1, 0)))
        elif mode in ("magnitude", "log"):
            y = b.sqrt(b.maximum(y, _EPSILON))
            y = b.log(b.maximum(y, _EPSILON)) if mode == "log" else y
        else:
            raise c.refuse(f"mode={mode!r} is not known")
    assert y is not None
    if c.flag("expand_dims"):
        return b.transpose(y, perm=(0, 1, 3, 2) if first else (0, 3, 2, 1))
    y = b.reshape(y, shape=(n, y.shape[1] * y.shape[2], y.shape[3]))
    return y if first else b.transpose(y, perm=(0, 2, 1))
