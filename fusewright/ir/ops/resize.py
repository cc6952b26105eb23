"""Resampling of spatial axes: the ``resize`` op.

Owns interpolation weights and coordinates. Formulas follow tf.image.resize (half-pixel centres) and ONNX Resize.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...core.dims import Extent, extent
from ...core.dtypes import F32, FLOATS, I64
from ...core.errors import TypeRefused
from ..graph import Graph, Node, Value
from ..opdef import REQUIRED, Attrs, BoundContext, Cost, EvalContext, OpDef, define_op
from ..types import TensorType
from ._common import Arrays, finite, summed
from .resample import along, bands
from .shape import moved_cost

METHODS = ("nearest", "linear", "cubic", "lanczos3", "lanczos5")
COORDINATES = ("half_pixel", "asymmetric", "align_corners")
ROUNDING = ("floor", "round_half_down", "round_half_up", "ceil")


def _kernel(method: str, cubic: float) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """(weight at distance, support radius)."""
    if method == "linear":
        return (lambda t: np.maximum(1 - np.abs(t), 0)), 1.0
    if method == "cubic":  # Keys, 1981

        def keys(t: np.ndarray) -> np.ndarray:
            t = np.abs(t)
            near = ((cubic + 2) * t - (cubic + 3)) * t * t + 1
            far = ((cubic * t - 5 * cubic) * t + 8 * cubic) * t - 4 * cubic
            return np.where(t <= 1, near, np.where(t < 2, far, 0))

        return keys, 2.0
    radius = float(method[-1])

    def lanczos(t: np.ndarray) -> np.ndarray:
        return np.where(np.abs(t) < radius, np.sinc(t) * np.sinc(t / radius), 0)

    return lanczos, radius


def positions(n_in: int, n_out: int, coordinates: str) -> np.ndarray:
    """Source coordinate (float64, in units of input elements) of every output element."""
    i = np.arange(n_out, dtype=np.float64)
    if coordinates == "align_corners":
        return i * ((n_in - 1) / (n_out - 1)) if n_out > 1 else i * 0
    scale = n_in / max(n_out, 1)
    return (i + 0.5) * scale - 0.5 if coordinates == "half_pixel" else i * scale


def nearest_index(n_in: int, n_out: int, coordinates: str, rounding: str) -> np.ndarray:
    """The input element that each output element copies."""
    p = positions(n_in, n_out, coordinates)
    if rounding == "floor":
        # tf.image.resize nearest: floor((i + 0.5) * scale), the centre's pixel.
        p = np.floor(p + 0.5) if coordinates == "half_pixel" else np.floor(p)
    elif rounding == "ceil":
        p = np.ceil(p)
    else:
        p = np.ceil(p - 0.5) if rounding == "round_half_down" else np.floor(p + 0.5)
    return np.clip(p, 0, n_in - 1).astype(np.int64)


def weights(n_in: int, n_out: int, attrs: Attrs) -> np.ndarray:
    """Interpolation matrix [n_out, n_in] in float64.

    ``edge='clamp'`` repeats the border element, ``edge='drop'`` leaves outside taps out and renormalises.
    """
    fn, radius = _kernel(attrs["method"], attrs["cubic"])
    p = positions(n_in, n_out, attrs["coordinates"])
    stretch = max(n_in / max(n_out, 1), 1.0) if attrs["antialias"] else 1.0
    reach = int(np.ceil(radius * stretch)) + 1
    first = np.floor(p).astype(np.int64) - reach
    matrix = np.zeros((n_out, n_in))
    rows = np.arange(n_out)
    for k in range(2 * reach + 2):
        at = first + k
        w = fn((at - p) / stretch)
        inside = (at >= 0) & (at < n_in)
        if attrs["edge"] == "drop":
            w = np.where(inside, w, 0)
        np.add.at(matrix, (rows, np.clip(at, 0, n_in - 1)), w)
    # sinc leaves 1e-17 where it is zero: as a weight that would turn an infinity into more than NaN.
    matrix[np.abs(matrix) < 1e-12] = 0.0
    total = matrix.sum(1, keepdims=True)
    return matrix / np.where(total == 0, 1, total) if attrs["edge"] == "drop" or stretch > 1 else matrix


def _infer(types: Sequence[TensorType], attrs: dict[str, Any], regions: Sequence[Graph]) -> list[TensorType]:
    x = types[0]
    if not 3 <= x.rank <= 5:
        raise TypeRefused(f"resize needs rank 3 to 5, got {x}")
    sizes = attrs["sizes"] = tuple(extent(s) for s in attrs["sizes"])
    if len(sizes) != x.rank - 2:
        raise TypeRefused(f"resize needs {x.rank - 2} sizes, got {sizes}")
    for name, allowed in (
        ("method", METHODS),
        ("coordinates", COORDINATES),
        ("rounding", ROUNDING),
        ("edge", ("clamp", "drop")),
    ):
        if attrs[name] not in allowed:
            raise TypeRefused(f"{name} {attrs[name]!r} is not one of {', '.join(allowed)}")
    if attrs["method"] != "nearest" and x.dtype not in FLOATS:
        raise TypeRefused(f"{attrs['method']} interpolation takes floats, not {x.dtype}")
    return [x.with_shape((x.shape[0], *sizes, x.shape[-1]))]


def _eval(a: Arrays, attrs: Attrs, ctx: EvalContext) -> np.ndarray:
    x = a[0]
    for axis, n in enumerate(attrs["sizes"], 1):
        if attrs["method"] == "nearest":
            x = np.take(x, nearest_index(x.shape[axis], n, attrs["coordinates"], attrs["rounding"]), axis)
        elif x.shape[axis] != n:
            x = _along(x, weights(x.shape[axis], n, attrs), axis)
    return x


def _along(x: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """Only the elements between the first and the last weight that is not 0 take part: an infinity stays near."""
    first, band = bands(matrix)
    with np.errstate(all="ignore"):
        return along(x, first, band.astype(x.dtype), axis)


def _bound(a: Arrays, e: Arrays, o: np.ndarray, bc: BoundContext) -> np.ndarray:
    err, x = np.broadcast_to(e[0], a[0].shape), finite(a[0])
    if bc.attrs["method"] == "nearest":
        return _eval([err], bc.attrs, bc.ctx)
    taps = 0
    special = ~np.isfinite(np.asarray(a[0], np.float64))
    lost = np.zeros(o.shape, bool)
    for axis, n in enumerate(bc.attrs["sizes"], 1):
        if x.shape[axis] != n:
            m = np.abs(weights(x.shape[axis], n, bc.attrs))
            # A weight too small for the type is 0 there, and 0 times an infinity is NaN.
            if np.any((m > 0) & (m < 2 * bc.eta)) and np.any(special):
                lost[...] = True
            taps += int(np.max(np.count_nonzero(m, axis=1), initial=0)) + 2
            x, err = _along(x, m, axis), _along(err.astype(np.float64), m, axis)
            # Large terms may cancel in the end, but not once an axis has overflowed.
            err = np.where(x + err < bc.top, err, np.inf)
    # The weights themselves are rounded to float32; coordinates near a sample lose a few units more.
    taps = max(taps, 1)
    with np.errstate(all="ignore"):
        return np.where(lost, np.inf, summed(taps + 16, x + err, np.where(np.isnan(err), np.inf, err), o, bc))


def decompose(b: Any, operands: Sequence[Value], attrs: Attrs) -> Value:
    """Nearest gathers along one axis after the other; the rest are banded products along two axes at a time."""
    x, sizes = operands[0], attrs["sizes"]
    if attrs["method"] == "nearest":
        for axis, n in enumerate(sizes, 1):
            x = b.gather(x, _nearest(b, x.shape[axis], n, attrs), axis=axis)
        return x
    dtype = x.dtype
    if dtype.size < 4:
        # Weights and steps in between are float32, as in the interpreter.
        x = b.cast(x, to=F32)
    todo = [axis for axis, n in enumerate(sizes, 1) if x.shape[axis] != n]
    while todo:
        axes = todo[:2] if len(todo) == 2 and todo[1] == todo[0] + 1 else todo[:1]
        tables = [table for axis in axes for table in _tables(b, x, axis, sizes[axis - 1], attrs)]
        x, todo = b.resample(x, *tables, axes=tuple(axes)), todo[len(axes) :]
    return x if x.dtype is dtype else b.cast(x, to=dtype)


def _tables(b: Any, x: Value, axis: int, n: Extent, attrs: Attrs) -> tuple[Value, Value]:
    size = x.shape[axis]
    if not (isinstance(size, int) and isinstance(n, int)):
        raise TypeRefused(
            f"{attrs['method']} resize of a symbolic extent {size} to {n} is not supported; fix it with dims="
        )
    first, band = bands(weights(size, n, attrs))
    return b.constant(first), b.constant(band, x.dtype)


def _nearest(b: Any, size: Extent, n: Extent, attrs: Attrs) -> Value:
    if isinstance(size, int) and isinstance(n, int):
        index: Value = b.constant(nearest_index(size, n, attrs["coordinates"], attrs["rounding"]))
        return index
    return _symbolic_nearest(b, size, n, attrs)


def _symbolic_nearest(b: Any, size: Extent, n: Extent, attrs: Attrs) -> Value:
    """Integer arithmetic on run-time extents: exact where the float formula is."""
    if attrs["coordinates"] == "align_corners" or attrs["rounding"] != "floor":
        raise TypeRefused(
            f"nearest resize of a symbolic extent {size} with these options is not supported; fix it with dims="
        )
    i = b.iota(shape=(n,), axis=0, dtype=I64)
    whole = n // size if isinstance(n // size, int) and (n // size) * size == n else None
    if whole:
        return b.floordiv(i, whole)
    raise TypeRefused(f"nearest resize of a symbolic extent {size} to {n} is not supported; fix it with dims=")


define_op(
    OpDef(
        "resize", ("x",), "opaque", _infer, _eval,
        attrs={
            "sizes": REQUIRED, "method": "nearest", "coordinates": "half_pixel", "rounding": "floor",
            "antialias": False, "cubic": -0.5, "edge": "clamp",
        },
        bound=_bound, cost=moved_cost, decompose=decompose,
        doc="Resample the spatial axes of [N, spatial..., C] to ``sizes``.",
    )
)  # fmt: skip
__all__ = ["Node", "Cost"]
