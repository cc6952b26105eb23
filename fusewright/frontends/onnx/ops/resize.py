"""Resize and Upsample: ONNX's coordinate rules, where the IR's ``resize`` has them as its op, else as matrices.

Owns interpolation weights of the forms that are ONNX's alone (scales that do not fit the sizes, crop_and_resize...).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dims import Dim, Extent, floordiv
from ....core.dtypes import F32, F64
from ....ir.graph import Value
from ..call import Call, op
from .window import to_first, to_last

_MODES = {"nearest": "nearest", "linear": "linear", "cubic": "cubic"}
_COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)  # fmt: skip
_ROUNDING = {"round_prefer_floor": "round_half_down", "round_prefer_ceil": "round_half_up", "floor": "floor",
             "ceil": "ceil"}  # fmt: skip
_LIMIT = 1 << 24


@op("Upsample")
def _upsample(c: Call, x: Value, scales: Value | None = None) -> Value:
    factors = c.floats("scales") if scales is None else tuple(float(v) for v in c.const(scales, "scales").ravel())
    mode = c.text("mode", "nearest")
    return _resized(c, x, list(range(x.rank)), factors, None, None, mode, "asymmetric", "floor")


@op("Resize")
def _resize(
    c: Call, x: Value, roi: Value | None = None, scales: Value | None = None, sizes: Value | None = None
) -> Value:
    if c.opset < 11:
        # Opset 10: (X, scales), as Upsample.
        factors = tuple(float(v) for v in c.const(roi, "scales").ravel()) if roi is not None else None
        return _resized(
            c, x, list(range(x.rank)), factors, None, None, c.text("mode", "nearest"), "asymmetric", "floor"
        )
    given = c.ints("axes")
    axes = list(range(x.rank)) if given is None else [c.axis(a, x.rank) for a in given]
    factors = None
    if scales is not None and scales.type.size != 0:
        factors = tuple(float(v) for v in c.const(scales, "scales").ravel())
    wanted = None if sizes is None or sizes.type.size == 0 else c.extents(sizes, "sizes")
    coordinates = c.text("coordinate_transformation_mode", "half_pixel")
    if coordinates not in _COORDINATES:
        raise c.refuse(f"coordinate_transformation_mode {coordinates!r}", "malformed")
    window = None
    if coordinates == "tf_crop_and_resize":
        if roi is None:
            raise c.refuse("tf_crop_and_resize needs roi", "malformed")
        window = tuple(float(v) for v in c.const(roi, "roi").ravel())
        if len(window) != 2 * len(axes):
            raise c.refuse(f"roi {window} for {len(axes)} axes", "malformed")
    return _resized(
        c, x, axes, factors, wanted, window, c.text("mode", "nearest"), coordinates,
        c.text("nearest_mode", "round_prefer_floor"),
    )  # fmt: skip


def _resized(
    c: Call, x: Value, axes: list[int], factors: Any, wanted: Any, roi: Any, mode: str, coordinates: str, rounding: str
) -> Value:
    if mode not in _MODES or rounding not in _ROUNDING:
        raise c.refuse(f"mode {mode!r}, nearest_mode {rounding!r}", "malformed")
    if (factors is None) == (wanted is None) or len(factors or wanted) != len(axes):
        raise c.refuse(f"needs scales or sizes, one for each of {len(axes)} axes", "malformed")
    plan: dict[int, tuple[Extent, float]] = {}
    for i, axis in enumerate(axes):
        n = x.shape[axis]
        if factors is not None:
            plan[axis] = _scaled(c, n, factors[i]), factors[i]
        else:
            plan[axis] = wanted[i], _ratio(c, wanted[i], n)
    policy = c.text("keep_aspect_ratio_policy", "stretch")
    if wanted is not None and policy != "stretch":
        if policy not in ("not_larger", "not_smaller") or not x.type.is_static:
            raise c.refuse(f"keep_aspect_ratio_policy {policy!r} on {x.type}")
        scale = (min if policy == "not_larger" else max)(s for _, s in plan.values())
        plan = {a: (int(scale * x.shape[a] + 0.5), scale) for a in axes}  # type: ignore[operator]
    if coordinates != "tf_crop_and_resize":
        plan = {a: (n, s) for a, (n, s) in plan.items() if not (n == x.shape[a] and abs(s - 1.0) < 1e-9)}
    if not plan:
        return x
    whole = _as_op(c, x, plan, mode, coordinates, rounding)
    return whole if whole is not None else _by_axis(c, x, axes, plan, roi, mode, coordinates, rounding)


def _scaled(c: Call, n: Extent, scale: float) -> Extent:
    if not 0 < scale < 1e6:
        raise c.refuse(f"a scale of {scale}", "malformed")
    if isinstance(n, int):
        return int(np.floor(n * scale))
    if scale == int(scale):
        return n * int(scale)
    if 1 / scale == int(1 / scale):
        return floordiv(n, int(1 / scale))
    raise c.refuse(f"a scale of {scale} on the symbolic extent {n}", "unsupported-option", "fix it with shapes=")


def _ratio(c: Call, out: Extent, n: Extent) -> float:
    if isinstance(out, int) and isinstance(n, int):
        if n == 0 or out < 0:
            raise c.refuse(f"from {n} to {out}", "malformed")
        return out / n
    whole = floordiv(out, n)
    if isinstance(whole, int) and whole * n == out:
        return float(whole)
    raise c.refuse(f"from the symbolic extent {n} to {out}", "unsupported-option", "fix it with shapes=")


def _as_op(c: Call, x: Value, plan: Any, mode: str, coordinates: str, rounding: str) -> Value | None:
    """The IR's own op, where it means exactly this."""
    b = c.b
    if not 3 <= x.rank <= 5 or any(a < 2 for a in plan) or c.integer("antialias", 0) or c.integer("exclude_outside", 0):
        return None
    if mode != "nearest" and not x.dtype.is_float:
        return None
    sizes = []
    upscales = True
    for axis in range(2, x.rank):
        n = x.shape[axis]
        out, scale = plan.get(axis, (n, 1.0))
        upscales = upscales and scale >= 1 and scale == int(scale)
        if isinstance(n, int) and isinstance(out, int):
            if out == 0 or n == 0 or out != n * scale:
                return None
            if out == 1 and coordinates in ("pytorch_half_pixel", "align_corners") and n != 1:
                return None
        elif scale != int(scale):
            return None
        sizes.append(out)
    how = {"half_pixel_symmetric": "half_pixel", "pytorch_half_pixel": "half_pixel"}.get(coordinates, coordinates)
    if how not in ("half_pixel", "asymmetric", "align_corners"):
        return None
    turn = _ROUNDING[rounding]
    if mode == "nearest" and upscales and (how == "asymmetric" and turn == "floor" or how == "half_pixel" and (
        turn.startswith("round")
    )):  # fmt: skip
        # Each element is repeated: both rules say the same.
        how, turn = "asymmetric", "floor"
    elif mode == "nearest" and how == "half_pixel" and turn == "floor" or any(isinstance(s, Dim) for s in sizes):
        return None
    y = b.resize(
        to_last(b, x), sizes=tuple(sizes), method=_MODES[mode], coordinates=how, rounding=turn,
        cubic=c.number("cubic_coeff_a", -0.75),
    )  # fmt: skip
    return to_first(b, y)


def _by_axis(
    c: Call, x: Value, axes: list[int], plan: Any, roi: Any, mode: str, coordinates: str, rounding: str
) -> Value:
    b = c.b
    outside: Value | None = None
    y = x
    for i, axis in enumerate(axes):
        if axis not in plan:
            continue
        n, (out, scale) = x.shape[axis], plan[axis]
        if not isinstance(n, int) or not isinstance(out, int):
            raise c.refuse(
                f"{mode}/{coordinates} over the symbolic extent {n}", "unsupported-option", "fix it with shapes="
            )
        if n * out > _LIMIT or n == 0:
            raise c.refuse(f"from {n} to {out} elements")
        span = None if roi is None else (roi[i], roi[i + len(axes)])
        at = _positions(n, out, scale, coordinates, span)
        if coordinates == "tf_crop_and_resize":
            bad = (at < 0) | (at > n - 1)
            if bad.any():
                line = b.reshape(b.constant(bad), shape=(out, *(1,) * (x.rank - axis - 1)))
                outside = line if outside is None else b.logical_or(outside, line)
        if mode == "nearest":
            narrow = _positions(n, out, scale, coordinates, span, np.float32)
            y = b.gather(y, b.constant(_nearest(narrow, n, rounding)), axis=axis)
        else:
            y = _contract(c, y, _weights(c, at, n, scale, mode), axis)
    if outside is not None:
        y = b.where(outside, c.like(c.number("extrapolation_value", 0.0), y), y)
    return y


def _contract(c: Call, x: Value, matrix: np.ndarray, axis: int) -> Value:
    b = c.b
    if not x.dtype.is_float:
        raise c.refuse(f"interpolating {x.dtype}")
    wide = x if x.dtype in (F32, F64) else b.cast(x, to=F32)
    front: Extent = 1
    for d in x.shape[:axis]:
        front = front * d
    rest: Extent = 1
    for d in x.shape[axis + 1 :]:
        rest = rest * d
    flat = b.reshape(wide, shape=(front, x.shape[axis], rest))
    y = b.reshape(
        b.matmul(b.constant(matrix, wide.dtype), flat), shape=(*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :])
    )
    return y if wide is x else b.cast(y, to=x.dtype)


def _positions(n: int, out: int, scale: Any, coordinates: str, span: Any, real: Any = np.float64) -> np.ndarray:
    """Source coordinates as the ONNX operator page has them.

    Nearest asks for float32, in which a scale of 0.6 divides 3 into 5 as every runtime has it, not into 4.9999998.
    """
    i = np.arange(out, dtype=real)
    scale = real(scale)
    length = scale * n
    if coordinates == "align_corners":
        return i * 0 if length == 1 else i * (n - 1) / (length - 1)
    if coordinates == "asymmetric":
        return i / scale
    if coordinates == "tf_crop_and_resize":
        a, z = span
        if length == 1:
            return np.full(out, (z - a) * (n - 1) / 2, real) + a * (n - 1)
        return i * (z - a) * (n - 1) / (length - 1) + a * (n - 1)
    if coordinates == "tf_half_pixel_for_nn":
        return (i + 0.5) / scale
    if coordinates == "pytorch_half_pixel" and length == 1:
        return np.full(out, -0.5, real)
    shift = n / 2 * (1 - out / length) if coordinates == "half_pixel_symmetric" else 0.0
    return shift + (i + 0.5) / scale - 0.5


def _nearest(at: np.ndarray, n: int, rounding: str) -> np.ndarray:
    rules: dict[str, Any] = {
        "floor": np.floor, "ceil": np.ceil, "round_prefer_floor": lambda p: np.ceil(p - 0.5),
        "round_prefer_ceil": lambda p: np.floor(p + 0.5),
    }  # fmt: skip
    rounded = rules[rounding](at)
    return np.clip(rounded, 0, n - 1).astype(np.int64)


def _weights(c: Call, at: np.ndarray, n: int, scale: float, mode: str) -> np.ndarray:
    """Interpolation matrix [out, n]; outside elements repeat the border or are left out."""
    a = c.number("cubic_coeff_a", -0.75)
    stretch = min(scale, 1.0) if c.integer("antialias", 0) else 1.0
    radius = (1.0 if mode == "linear" else 2.0) / stretch
    reach = int(np.ceil(radius)) + 1
    base = np.floor(at).astype(np.int64)
    matrix = np.zeros((len(at), n))
    rows = np.arange(len(at))
    for k in range(-reach, reach + 1):
        index = base + k
        t = np.abs(index - at) * stretch
        if mode == "linear":
            w = np.maximum(1 - t, 0)
        else:
            near = ((a + 2) * t - (a + 3)) * t * t + 1
            far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
            w = np.where(t <= 1, near, np.where(t < 2, far, 0))
        if c.integer("exclude_outside", 0):
            w = np.where((index >= 0) & (index < n), w, 0)
        np.add.at(matrix, (rows, np.clip(index, 0, n - 1)), w)
    total = matrix.sum(1, keepdims=True)
    return matrix / np.where(total == 0, 1, total)
