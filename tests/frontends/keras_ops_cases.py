# ruff: noqa: B008, E501
"""Calls of every supported ``keras.ops`` class, written as a user writes them. Owns the calls; the test compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

k = keras.ops
Case = tuple[Callable[..., Any], tuple[str, ...]]
S, V, M, C = "x[2,3]", "x[5]", "x[3,3]", "x[2,3,4]"
IMAGE = "x[2,6,7,3]"
CASES: dict[str, list[Case]] = {}


def add(name: str, fn: Callable[..., Any], *specs: str) -> None:
    CASES.setdefault(name, []).append((fn, specs or (S,)))


# An operand is ``kind[shape]``: x any element type, f floats only, p positive floats, u between 0 and 1, i integers from
# 0, n small integers of either sign, b bool.
for _name in (
    "abs absolute negative sign square sqrt exp exp2 expm1 sin cos tan arctan sinh cosh tanh arcsinh floor ceil round "
    "trunc isnan isinf isfinite logical_not relu relu6 sigmoid softplus softsign silu selu hard_sigmoid hard_silu "
    "hard_tanh log_sigmoid tanh_shrink squareplus sparse_plus sparse_sigmoid erf erfc copy ones_like zeros_like "
    "empty_like elu celu gelu leaky_relu glu sparsemax softmax log_softmax sum max min prod mean var std any all argmax "
    "argmin amax amin cbrt deg2rad rad2deg sinc signbit isposinf isneginf isreal real imag conj conjugate angle "
    "nan_to_num nansum nanmax nanmin nanmean nanprod nanvar nanstd nanargmax nanargmin nancumsum nancumprod ptp "
    "count_nonzero median nanmedian ravel size flip fliplr flipud transpose squeeze sort argsort diff cumsum "
    "cumprod logsumexp soft_shrink hard_shrink trapezoid average rot90 i0 fabs diag diagflat diagonal trace tril triu "
    "stop_gradient convert_to_tensor array"
).split():
    _spec = {"glu": "x[2,4]", "isreal": S, "diagonal": M, "trace": M, "size": S}.get(_name, S)
    _fn = {
        "stop_gradient": k.stop_gradient, "convert_to_tensor": k.convert_to_tensor, "average": k.average,
    }.get(_name, getattr(k, _name, None))  # fmt: skip
    if _fn is not None:
        add(_name, _fn, _spec)
for _name in "log log1p log2 log10 rsqrt reciprocal arccosh".split():
    add(_name, getattr(k, _name), "p[2,3]")
for _name in "arcsin arccos arctanh erfinv".split():
    add(_name, getattr(k, _name), "u[2,3]")
for _name in (
    "add subtract multiply maximum minimum equal not_equal less less_equal greater greater_equal logical_and logical_or "
    "logical_xor arctan2 divide_no_nan logaddexp logaddexp2 hypot fmax fmin heaviside isclose inner "
    "squared_difference"
).split():
    _fn = getattr(k, _name, None)
    if _fn is not None:
        add(_name, _fn, S, S)
        add(_name, _fn, "x[2,3]", "x[3]" if _name != "inner" else "x[4,3]")
for _name in "divide true_divide floor_divide mod fmod power".split():
    add(_name, getattr(k, _name), "p[2,3]", "p[2,3]")
    add(_name, getattr(k, _name), "p[2,3]", "p[3]")
add("floor_divide", k.floor_divide, "n[40]", "i1[40]")
add("mod", k.mod, "n[40]", "i1[40]")
add("mod", k.mod, "f[40]", "p[40]")
add("fmod", k.fmod, "n[40]", "i1[40]")
add("fmod", k.fmod, "f[40]", "p[40]")
add("floor_divide", k.floor_divide, "f[40]", "p[40]")
for _name in "bitwise_and bitwise_or bitwise_xor".split():
    add(_name, getattr(k, _name), "n[6]", "n[6]")
for _name in "bitwise_left_shift bitwise_right_shift left_shift right_shift".split():
    add(_name, getattr(k, _name), "i[6]", "i[6]")
for _name in "bitwise_invert bitwise_not".split():
    add(_name, getattr(k, _name), "n[6]")
for _name in "gcd lcm".split():
    add(_name, getattr(k, _name), "n[40]", "n[40]")
add("ldexp", k.ldexp, "f[6]", "n[6]")
for _scalar in (2, 2.5, -1, True):
    for _name in "add subtract multiply divide maximum minimum less equal".split():
        add(_name, lambda x, _f=getattr(k, _name), _s=_scalar: _f(x, _s), S)
        add(_name, lambda x, _f=getattr(k, _name), _s=_scalar: _f(_s, x), S)
add("power", lambda x: k.power(x, 2), S)
add("power", lambda x: k.power(x, 0.5), "p[2,3]")

for _name in (
    "sum max min prod mean var std any all amax amin nansum nanmax nanmin nanmean nanprod nanvar nanstd median "
    "nanmedian logsumexp count_nonzero ptp"
).split():
    _f = getattr(k, _name, None)
    if _f is None:
        continue
    add(_name, lambda x, _f=_f: _f(x, axis=1), C)
    add(_name, lambda x, _f=_f: _f(x, axis=-1), "x[2,3,0]") if _name in ("sum", "prod", "any", "all") else None
    add(_name, lambda x, _f=_f: _f(x, axis=(0, -1)), C)
    if _name != "count_nonzero":
        add(_name, lambda x, _f=_f: _f(x, axis=1, keepdims=True), C)
for (
    _name
) in "nansum nanmax nanmin nanmean nanprod nanvar nanstd nanmedian nanargmax nanargmin nancumsum nancumprod".split():
    add(_name, lambda x, _f=getattr(k, _name): _f(x, axis=1), "nan[4,6]")
for _name in "argmax argmin nanargmax nanargmin".split():
    add(_name, lambda x, _f=getattr(k, _name): _f(x, axis=1), C)
    add(_name, lambda x, _f=getattr(k, _name): _f(x, axis=-1, keepdims=True), C)
for _name in "max min".split():
    add(_name, lambda x, _f=getattr(k, _name): _f(x, axis=1, initial=1), C)
for _name in "cumsum cumprod nancumsum nancumprod sort argsort flip softmax log_softmax sparsemax trapezoid".split():
    add(_name, lambda x, _f=getattr(k, _name): _f(x, axis=1), C)
add("cumsum", lambda x: k.cumsum(x, axis=0, dtype="float32"), S)
add("round", lambda x: k.round(x, decimals=2), "f[3,4]")
add("gelu", lambda x: k.gelu(x, approximate=False), "f[3,4]")
add("average", lambda x, w: k.average(x, axis=1, weights=w), "f[2,3]", "p[3]")
add("average", lambda x, w: k.average(x, weights=w), "f[2,3]", "p[2,3]")
add("clip", lambda x: k.clip(x, -1, 2), S)
add("clip", lambda x: k.clip(x, -0.5, 1.5), S)
add("where", lambda c, x, y: k.where(c, x, y), "b[2,3]", S, "x[3]")
add("cast", lambda x: k.cast(x, "int32"), S)
add("cast", lambda x: k.cast(x, "float16"), S)
add("saturate_cast", lambda x: k.saturate_cast(x, "int8"), "big[6]")
add("saturate_cast", lambda x: k.saturate_cast(x, "uint8"), "big[6]")
add("normalize", lambda x: k.normalize(x), "f[2,3]")
add("normalize", lambda x: k.normalize(x, axis=0, order=1), "f[2,3]")
add("normalize", lambda x: k.normalize(x, axis=-1, order=3), "f[2,3]")
for _order in (None, 1, 2, 3, 0, np.inf, -np.inf, -1):
    add("norm", lambda x, _o=_order: k.norm(x, ord=_o, axis=1), "f[3,4]")
for _order in (None, "fro", 1, -1, np.inf, -np.inf):
    add("norm", lambda x, _o=_order: k.norm(x, ord=_o, axis=(1, 2), keepdims=True), "f[2,3,4]")
add("norm", lambda x: k.norm(x), "f[3,4]")
add("nan_to_num", lambda x: k.nan_to_num(x, nan=1.0, posinf=5.0, neginf=-5.0), "inf[2,6]")
for _name in "isnan isinf isfinite isposinf isneginf nan_to_num signbit".split():
    add(_name, getattr(k, _name), "inf[2,6]")
add("threshold", lambda x: k.threshold(x, 0.3, -1.0), "f[3,4]")
add("soft_shrink", lambda x: k.soft_shrink(x, 0.3), "f[3,4]")
add("glu", lambda x: k.glu(x, axis=1), "f[2,4,3]")
add("elu", lambda x: k.elu(x, alpha=0.5), "f[3,4]")
add("celu", lambda x: k.celu(x, alpha=0.5), "f[3,4]")
add("leaky_relu", lambda x: k.leaky_relu(x, negative_slope=0.1), "f[3,4]")

# shape
add("reshape", lambda x: k.reshape(x, (3, -1)), "x[2,3]")
add("reshape", lambda x: k.reshape(x, (-1,)), "x[2,3]")
add("transpose", lambda x: k.transpose(x, (2, 0, 1)), C)
add("swapaxes", lambda x: k.swapaxes(x, 0, -1), C)
add("moveaxis", lambda x: k.moveaxis(x, 0, -1), C)
add("moveaxis", lambda x: k.moveaxis(x, (0, 1), (-1, 0)), C)
add("expand_dims", lambda x: k.expand_dims(x, 1), S)
add("expand_dims", lambda x: k.expand_dims(x, (0, -1)), S)
add("squeeze", lambda x: k.squeeze(x, 1), "x[2,1,3]")
add("concatenate", lambda x, y: k.concatenate([x, y], axis=1), "x[2,3]", "x[2,4]")
add("concatenate", lambda x, y: k.concatenate([x, k.cast(y, "float32")], axis=1), "x[2,3]", "x[2,4]")
for _name in "hstack vstack dstack".split():
    add(_name, lambda x, y, _f=getattr(k, _name, None): _f([x, y]), S, S) if hasattr(k, _name) else None
add("append", lambda x, y: k.append(x, y), S, "x[4]")
add("append", lambda x, y: k.append(x, y, axis=0), S, "x[1,3]")
add("stack", lambda x, y: k.stack([x, y], axis=1), S, S)
add("unstack", lambda x: k.unstack(x, axis=1), S)
add("split", lambda x: k.split(x, 3, axis=1), "x[2,6]")
add("split", lambda x: k.split(x, [1, 4], axis=1), "x[2,6]")
add("array_split", lambda x: k.array_split(x, 3, axis=1), "x[2,7]")
for _name, _spec in {"hsplit": "x[2,6]", "vsplit": "x[6,2]", "dsplit": "x[2,2,6]"}.items():
    if hasattr(k, _name):
        add(_name, lambda x, _f=getattr(k, _name): _f(x, 3), _spec)
        add(_name, lambda x, _f=getattr(k, _name): _f(x, [1, 4]), _spec)
add("flip", lambda x: k.flip(x, axis=(0, 2)), C)
add("roll", lambda x: k.roll(x, 2), S)
add("roll", lambda x: k.roll(x, -1, axis=1), C)
add("roll", lambda x: k.roll(x, (1, -2), axis=(0, 1)), C)
add("rot90", lambda x: k.rot90(x, k=3, axes=(0, 2)), C)
add("tile", lambda x: k.tile(x, (2, 1)), S)
add("tile", lambda x: k.tile(x, 3), S)
add("tile", lambda x: k.tile(x, (2, 1, 2)), S)
add("repeat", lambda x: k.repeat(x, 2, axis=1), S)
add("repeat", lambda x: k.repeat(x, 2), S)
add("repeat", lambda x: k.repeat(x, [1, 0, 3], axis=1), S)
add("broadcast_to", lambda x: k.broadcast_to(x, (4, 2, 3)), S)
add("pad", lambda x: k.pad(x, ((1, 2), (0, 1))), S)
add("pad", lambda x: k.pad(x, ((1, 1), (0, 2)), constant_values=2), S)
add("pad", lambda x: k.pad(x, ((1, 1), (2, 1)), mode="reflect"), "x[3,4]")
add("pad", lambda x: k.pad(x, ((1, 1), (2, 1)), mode="symmetric"), "x[3,4]")
add("get_item", lambda x: x[:, 1:], S)
add("get_item", lambda x: x[0, ..., ::-1], C)
add("get_item", lambda x: x[:, None, -1], C)
add("get_item", lambda x: x[..., 1:3], C)
add("slice", lambda x: k.slice(x, (0, 1), (2, 2)), S)
add("slice_update", lambda x, y: k.slice_update(x, (1, 0), y), "x[4,3]", "x[2,2]")
add("scatter_update", lambda x, u: k.scatter_update(x, [[0, 1], [1, 2]], u), S, "x[2]")
add("scatter", lambda i, v: k.scatter(i, v, (5, 3)), "i[4,1]", "f[4,3]")
add("full_like", lambda x: k.full_like(x, 3), S)
add("full", lambda x: k.full((2, 3), x), "x[]")
add("diag", lambda x: k.diag(x, k=1), V)
add("diag", lambda x: k.diag(x, k=-1), "x[3,4]")
add("diagflat", lambda x: k.diagflat(x, k=1), S)
add("diagonal", lambda x: k.diagonal(x, offset=1, axis1=1, axis2=2), "x[2,3,4]")
add("trace", lambda x: k.trace(x, offset=-1), "x[3,4]")
add("tril", lambda x: k.tril(x, k=-1), "x[2,3,4]")
add("triu", lambda x: k.triu(x, k=1), "x[2,3,4]")
add("vander", lambda x: k.vander(x), V)
add("vander", lambda x: k.vander(x, N=3, increasing=True), V)
add("meshgrid", lambda x, y: k.meshgrid(x, y), V, "x[3]")
add("meshgrid", lambda x, y: k.meshgrid(x, y, indexing="ij"), V, "x[3]")
add("arange", lambda x: x + k.arange(3, dtype="float32"), S)
add("linspace", lambda x, y: k.linspace(x, y, num=5), "f[3]", "f[3]")
add("linspace", lambda x, y: k.linspace(x, y, num=5, endpoint=False, axis=-1), "f[3]", "f[3]")
add("logspace", lambda x, y: k.logspace(x, y, num=5), "f[3]", "f[3]")
add("geomspace", lambda x, y: k.geomspace(x, y, num=5), "p[3]", "p[3]") if hasattr(k, "geomspace") else None
add("identity", lambda x: keras.layers.Identity()(x), S)

# indices, order, statistics
add("take", lambda x: k.take(x, [0, 2, -1], axis=1), S)
add("take", lambda x, i: k.take(x, i, axis=0), "x[5,2]", "i[2,3]")
add("take", lambda x: k.take(x, [0, 4]), S)
add("take_along_axis", lambda x, i: k.take_along_axis(x, i, axis=1), "x[3,5]", "i[3,2]")
add("take_along_axis", lambda x, i: k.take_along_axis(x, i), S, "i[4]")
add("one_hot", lambda i: k.one_hot(i, 6), "i[2,3]")
add("one_hot", lambda i: k.one_hot(i, 6, axis=1, dtype="int32"), "i[2,3]")
add("multi_hot", lambda i: k.multi_hot(i, 6), "i[2,3]")
add("top_k", lambda x: k.top_k(x, 2), "x[3,5]")
add("in_top_k", lambda t, p: k.in_top_k(t, p, 2), "i[3]", "f[3,5]")
add("searchsorted", lambda v: k.searchsorted(np.float32([-1, 0, 1.5]), v), "f[7]")
add("searchsorted", lambda v: k.searchsorted(np.float32([-1, 0, 1.5]), v, side="right"), "f[7]")
add("digitize", lambda x: k.digitize(x, np.float32([-1, 0, 1.5])), "f[2,4]")
add("isin", lambda x: k.isin(x, [0, 2, 3]), "n[2,5]")
add("isin", lambda x, y: k.isin(x, y, invert=True), "n[2,5]", "n[4]")
add("unravel_index", lambda i: k.unravel_index(i, (3, 4)), "i[7]")
add("quantile", lambda x: k.quantile(x, 0.3, axis=1), "f[3,5]")
add("quantile", lambda x: k.quantile(x, [0.0, 0.5, 0.9]), "f[3,5]")
for _method in ("lower", "higher", "midpoint", "nearest"):
    add("quantile", lambda x, _m=_method: k.quantile(x, 0.4, axis=1, method=_m, keepdims=True), "f[3,6]")
add("percentile", lambda x: k.percentile(x, 30, axis=1), "f[3,5]") if hasattr(k, "percentile") else None
add("nanquantile", lambda x: k.nanquantile(x, 0.3, axis=1), "nan[3,5]") if hasattr(k, "nanquantile") else None
add("nanpercentile", lambda x: k.nanpercentile(x, 30, axis=1), "nan[3,5]") if hasattr(k, "nanpercentile") else None
add("select", lambda c, d, x, y: k.select([c, d], [x, y], default=7), "b[4]", "b[4]", "x[4]", "x[4]")
add("diff", lambda x: k.diff(x, n=2, axis=1), "x[2,5]")
add("trapezoid", lambda x: k.trapezoid(x, dx=0.5), "f[2,5]") if hasattr(k, "trapezoid") else None
add("segment_sum", lambda x, i: k.segment_sum(x, i, num_segments=6), "f[5,2]", "i[5]")
add("segment_max", lambda x, i: k.segment_max(x, i, num_segments=6), "f[5,2]", "i[5]")
for _name in ("segment_min", "segment_prod"):
    if hasattr(k, _name):
        add(_name, lambda x, i, _f=getattr(k, _name): _f(x, i, num_segments=6), "f[5,2]", "i[5]")
add("corrcoef", k.corrcoef, "f[3,8]")
add("correlate", lambda x, y: k.correlate(x, y, mode="valid"), "f[6]", "f[3]")
add("correlate", lambda x, y: k.correlate(x, y, mode="full"), "f[6]", "f[3]")
add("correlate", lambda x, y: k.correlate(x, y, mode="same"), "f[6]", "f[3]")
add("extract_sequences", lambda x: k.extract_sequences(x, 4, 2), "f[2,11]")
add("allclose", lambda x, y: k.allclose(x, y), S, S) if hasattr(k, "allclose") else None
add("view", lambda x: k.view(x, "int32"), "f[2,3]") if hasattr(k, "view") else None

# contractions
add("matmul", k.matmul, "x[2,3]", "x[3,4]")
add("matmul", k.matmul, "x[5,2,3]", "x[3,4]")
add("matmul", k.matmul, "x[3]", "x[3,4]")
add("matmul", k.matmul, "x[2,3]", "x[3]")
add("matmul", k.matmul, "x[3]", "x[3]")
add("dot", k.dot, "x[2,3]", "x[3,4]")
add("dot", k.dot, "x[2,3]", "x[5,3,4]")
add("dot", k.dot, "x[3]", "x[3]")
add("vdot", k.vdot, "f[2,3]", "f[2,3]")
add("tensordot", lambda x, y: k.tensordot(x, y, axes=1), "f[2,3]", "f[3,4]")
add("tensordot", lambda x, y: k.tensordot(x, y, axes=[[0, 2], [1, 0]]), "f[2,5,3]", "f[3,2,4]")
add("outer", k.outer, "x[2,3]", "x[4]")
add("kron", k.kron, "x[2,3]", "x[3,2]")
add("einsum", lambda x, y: k.einsum("ij,jk->ki", x, y), "x[2,3]", "x[3,4]")
add("cross", k.cross, "f[4,3]", "f[4,3]")
add("cross", lambda x, y: k.cross(x, y, axis=0), "f[3,4]", "f[3,4]")
for _name in "det inv cholesky logdet slogdet cholesky_inverse".split():
    if hasattr(k, _name):
        add(_name, getattr(k, _name), "spd[2,4,4]")
add("solve", k.solve, "spd[4,4]", "f[4,2]")
add("solve", k.solve, "spd[2,4,4]", "f[2,4,2]")
add("solve_triangular", lambda a, b: k.solve_triangular(a, b, lower=True), "spd[4,4]", "f[4,2]")
add("solve_triangular", lambda a, b: k.solve_triangular(a, b), "spd[4,4]", "f[4,2]")
add("cdist", k.cdist, "f[4,3]", "f[5,3]") if hasattr(k, "cdist") else None

# networks
add("max_pool", lambda x: k.max_pool(x, 2), IMAGE)
add("max_pool", lambda x: k.max_pool(x, (3, 2), strides=2, padding="same"), "f[2,6,7,3]")
add("average_pool", lambda x: k.average_pool(x, (3, 2), strides=2, padding="same"), "f[2,6,7,3]")
add("adaptive_average_pool", lambda x: k.adaptive_average_pool(x, (4, 3)), "f[2,6,7,3]")
add("adaptive_max_pool", lambda x: k.adaptive_max_pool(x, (4, 3)), "f[2,6,7,3]")
add("conv", lambda x, w: k.conv(x, w), "f[2,6,7,3]", "f[3,2,3,4]")
add("conv", lambda x, w: k.conv(x, w, strides=2, padding="same"), "f[2,6,7,3]", "f[3,2,3,4]")
add("conv", lambda x, w: k.conv(x, w, dilation_rate=2), "f[2,9,3]", "f[3,3,4]")
add("depthwise_conv", lambda x, w: k.depthwise_conv(x, w, padding="same"), "f[2,6,7,3]", "f[3,2,3,2]")
add("separable_conv", lambda x, d, p: k.separable_conv(x, d, p), "f[2,6,7,3]", "f[3,2,3,2]", "f[1,1,6,5]")
for _name in ("binary_crossentropy", "categorical_crossentropy"):
    add(_name, getattr(k, _name), "u[3,4]", "u[3,4]")
    add(_name, lambda t, o, _f=getattr(k, _name): _f(t, o, from_logits=True), "u[3,4]", "f[3,4]")
add("sparse_categorical_crossentropy", k.sparse_categorical_crossentropy, "i[3]", "u[3,5]")
add("sparse_categorical_crossentropy", lambda t, o: k.sparse_categorical_crossentropy(t, o, True), "i[3]", "f[3,5]")
add("moments", lambda x: k.moments(x, [0, 1]), "f[2,3,4]")
add("moments", lambda x: k.moments(x, [1], keepdims=True), "f[2,3,4]")
add("batch_normalization", lambda x, m, v: k.batch_normalization(x, m, v, -1), "f[2,3]", "f[3]", "p[3]")
add(
    "batch_normalization", lambda x, m, v, o, s: k.batch_normalization(x, m, v, 1, offset=o, scale=s), "f[2,3,4]",
    "f[3]", "p[3]", "f[3]", "f[3]",
)  # fmt: skip
add("rms_normalization", lambda x: k.rms_normalization(x), "f[2,3]")
add("rms_normalization", lambda x, s: k.rms_normalization(x, s), "f[2,3]", "f[3]")
add("layer_normalization", lambda x: k.layer_normalization(x), "f[2,3]")
add("layer_normalization", lambda x, g, b: k.layer_normalization(x, g, b), "f[2,3]", "f[3]", "f[3]")
add("psnr", lambda x, y: k.psnr(x, y, 1.0), "u[2,3]", "u[2,3]")
add("dot_product_attention", lambda q, x, v: k.dot_product_attention(q, x, v), "f[2,4,2,3]", "f[2,5,2,3]", "f[2,5,2,3]")
add(
    "dot_product_attention", lambda q, x, v: k.dot_product_attention(q, x, v, is_causal=True), "f[2,4,2,3]",
    "f[2,4,2,3]", "f[2,4,2,3]",
)  # fmt: skip
add(
    "dot_product_attention", lambda q, x, v, m: k.dot_product_attention(q, x, v, mask=m, scale=0.3), "f[2,4,2,3]",
    "f[2,5,2,3]", "f[2,5,2,3]", "b[2,1,4,5]",
)  # fmt: skip
add("unfold", lambda x: k.unfold(x, 2, stride=2, padding=1), "f[2,3,5,6]") if hasattr(k, "unfold") else None
add("depth_to_space", lambda x: k.depth_to_space(x, 2), "x[2,3,2,8]") if hasattr(k, "depth_to_space") else None
add("space_to_depth", lambda x: k.space_to_depth(x, 2), "x[2,4,6,3]") if hasattr(k, "space_to_depth") else None

# images
add("rgb_to_grayscale", k.image.rgb_to_grayscale, "u[2,4,5,3]")
add("rgb_to_hsv", k.image.rgb_to_hsv, "u[2,4,5,3]")
add("hsv_to_rgb", k.image.hsv_to_rgb, "u[2,4,5,3]")
for _method in ("nearest", "bilinear", "bicubic", "lanczos3"):
    add("resize", lambda x, _m=_method: k.image.resize(x, (9, 4), interpolation=_m), "f[2,6,7,3]")
add("resize", lambda x: k.image.resize(x, (3, 4), antialias=True), "f[2,6,7,3]")
add("extract_patches", lambda x: k.image.extract_patches(x, 3, strides=2), "f[2,7,6,2]")
add("extract_patches", lambda x: k.image.extract_patches(x, (2, 3), padding="same"), "f[2,7,6,2]")
add("pad_images", lambda x: k.image.pad_images(x, 1, 2, 3, 0), "f[2,4,5,3]")
add("crop_images", lambda x: k.image.crop_images(x, 1, 2, 0, 1), "f[2,4,5,3]")
add("gaussian_blur", lambda x: k.image.gaussian_blur(x), "f[2,6,7,3]")
for _order in (0, 1):
    add(
        "map_coordinates", lambda x, c, _o=_order: k.image.map_coordinates(x, c, _o, fill_mode="nearest"), "f[5,6]",
        "coord[2,4]",
    )  # fmt: skip

# transforms
add("fft", lambda x, y: k.fft((x, y)), "f[2,10]", "f[2,10]")
add("fft2", lambda x, y: k.fft2((x, y)), "f[2,6,5]", "f[2,6,5]")
add("ifft2", lambda x, y: k.ifft2((x, y)), "f[2,6,5]", "f[2,6,5]")
for _length in (None, 8, 15):
    add("rfft", lambda x, _n=_length: k.rfft(x, fft_length=_n), "f[2,12]")
    add("irfft", lambda x, y, _n=_length: k.irfft((x, y), fft_length=_n), "f[2,7]", "f[2,7]")
add("stft", lambda x: k.stft(x, 16, 5, 20), "f[2,60]")
add("stft", lambda x: k.stft(x, 16, 5, 16, window="hamming", center=False), "f[2,60]")
