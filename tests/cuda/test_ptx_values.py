"""Scalar opcodes of the PTX interpreter against NumPy and the texts of the PTX ISA."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ptx.machine import Loaded
from ptx.memory import Memory
from ptx.parse import PtxError
from ptx_kernels import entry, module

RNG = np.random.default_rng(3)
TYPES = {"f4": "f32", "f8": "f64", "u4": "u32", "i4": "s32", "u8": "u64", "i8": "s64", "u2": "u16", "i2": "s16"}
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 1.0, -1.0, 3.4e38]
F32 = np.concatenate([RNG.normal(size=200), np.exp(RNG.uniform(-80, 80, 200)), SPECIAL]).astype("f4")
OTHER = RNG.permutation(F32)
I32 = np.concatenate([RNG.integers(-(2**31), 2**31, 200), [0, 1, -1, 2**31 - 1, -(2**31), 7, -7]]).astype("i4")
J32 = RNG.permutation(I32)
I64 = np.concatenate([RNG.integers(-(2**63), 2**63 - 1, 200), [0, 1, -1, 2**63 - 1, -(2**63), 5]]).astype("i8")
J64 = RNG.permutation(I64)


def apply(code: str, out: str, *arrays: np.ndarray, declare: str = "") -> np.ndarray:
    """``code`` on one thread per element, from %x0, %x1... to %y, both of the arrays' types."""
    n = len(arrays[0])
    regs = "\n".join(f".reg .{TYPES[a.dtype.str[1:]]} %x{i};" for i, a in enumerate(arrays))
    loads = "\n".join(
        f"mul.lo.s64 %p, %i, {a.itemsize};\nadd.s64 %p, %p, %a{i};\nld.global.{TYPES[a.dtype.str[1:]]} %x{i}, [%p];"
        for i, a in enumerate(arrays)
    )
    to = np.dtype(out)
    body = f"""
.reg .b64 %i, %p; .reg .pred %out, %q; .reg .{TYPES[out]} %y; {regs} {declare}
mad.lo.s64 %i, %bid, %ntid, %thread;
setp.ge.s64 %out, %i, %stop;
@%out ret;
{loads}
{code}
mul.lo.s64 %p, %i, {to.itemsize};
add.s64 %p, %p, %a{len(arrays)};
st.global.{TYPES[out]} [%p], %y;
ret;"""
    memory = Memory()
    loaded = Loaded(module(entry("k", len(arrays) + 1, body)), memory)
    addresses = []
    for a in arrays:
        addresses.append(memory.alloc(a.nbytes))
        memory.write(addresses[-1], np.ascontiguousarray(a).view("u1"))
    addresses.append(memory.alloc(n * to.itemsize))
    loaded.launch("k", (n + 63) // 64, 64, 0, [*addresses, 0, n, 0])
    return memory.read(addresses[-1], n * to.itemsize).view(to)


def same(got: np.ndarray, want: Any) -> None:
    """Bits equal, but for NaN payloads."""
    want = np.asarray(want)
    assert got.dtype == want.dtype
    nan = np.isnan(want) if want.dtype.kind == "f" else np.zeros(len(want), bool)
    assert np.array_equal(np.isnan(got) if want.dtype.kind == "f" else nan, nan)
    unsigned = f"u{want.itemsize}"
    np.testing.assert_array_equal(got[~nan].view(unsigned), want[~nan].view(unsigned))


@pytest.mark.parametrize(
    "op,function", [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div.rn", np.divide)]
)
def test_float_arithmetic_rounds_to_nearest(op: str, function: Any) -> None:
    with np.errstate(all="ignore"):
        same(apply(f"{op}.f32 %y, %x0, %x1;", "f4", F32, OTHER), function(F32, OTHER))
        same(
            apply(f"{op}.f64 %y, %x0, %x1;", "f8", F32.astype("f8"), OTHER.astype("f8")),
            function(F32.astype("f8"), OTHER.astype("f8")),
        )


def _exact(x: float, y: float, z: float) -> Any:
    from fractions import Fraction

    return Fraction(x) * Fraction(y) + Fraction(z)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_fma_rounds_once_and_as_told(mode: str) -> None:
    near = np.concatenate([RNG.normal(size=300), [1 + 2**-12, 1 + 2**-23, 3.0, 2**-140]]).astype("f4")
    y, z = RNG.permutation(near), (RNG.permutation(near) * 2.0**-24).astype("f4")
    got = apply(f"fma.{mode}.f32 %y, %x0, %x1, %x2;", "f4", near, y, z)
    for a, b, c, r in zip(near, y, z, got):
        exact = _exact(float(a), float(b), float(c))
        down = [
            v
            for v in (np.nextafter(r, np.float32(-np.inf)), r, np.nextafter(r, np.float32(np.inf)))
            if _exact(float(v), 1, 0) <= exact
        ]
        up = [
            v
            for v in (np.nextafter(r, np.float32(-np.inf)), r, np.nextafter(r, np.float32(np.inf)))
            if _exact(float(v), 1, 0) >= exact
        ]
        low, high = max(down), min(up)
        if mode == "rn":
            distance = abs(_exact(float(r), 1, 0) - exact)
            assert distance <= min(exact - _exact(float(low), 1, 0), _exact(float(high), 1, 0) - exact) or low == high
        elif mode == "rz":
            assert r == (low if exact > 0 else high)
        else:
            assert r == (low if mode == "rm" else high)


def test_fma_is_right_where_two_roundings_would_not_be() -> None:
    # a b is halfway between two floats, and c, far below a double's last bit, decides.
    a, b = np.array([1 + 2**-12] * 2, "f4"), np.array([1 + 2**-12] * 2, "f4")
    c = np.array([2.0**-100, -(2.0**-100)], "f4")
    exact = 1 + 2**-11 + 2**-24
    same(
        apply("fma.rn.f32 %y, %x0, %x1, %x2;", "f4", a, b, c),
        np.array([exact + 2**-24, exact - 2**-24], "f8").astype("f4"),
    )


def test_flush_and_saturation() -> None:
    tiny = np.array([1e-40, -1e-40, 2e-38, 0.5], "f4")
    same(apply("add.ftz.f32 %y, %x0, 0f00000000;", "f4", tiny), np.array([0.0, 0.0, 2e-38, 0.5], "f4"))
    same(apply("mul.ftz.f32 %y, %x0, 0f3F800000;", "f4", tiny), np.array([0.0, -0.0, 2e-38, 0.5], "f4"))
    same(apply("mul.f32 %y, %x0, 0f3F800000;", "f4", tiny), tiny)
    x = np.array([-3, 0.25, 7, np.nan, -np.inf], "f4")
    same(apply("add.sat.f32 %y, %x0, 0f00000000;", "f4", x), np.array([0, 0.25, 1, 0, 0], "f4"))


def test_min_and_max_of_nan_and_zeros() -> None:
    x, y = np.array([np.nan, 1, -0.0, 0.0, 2], "f4"), np.array([3, np.nan, 0.0, -0.0, 5], "f4")
    same(apply("max.f32 %y, %x0, %x1;", "f4", x, y), np.array([3, 1, 0.0, 0.0, 5], "f4"))
    same(apply("min.f32 %y, %x0, %x1;", "f4", x, y), np.array([3, 1, -0.0, -0.0, 2], "f4"))
    same(apply("max.NaN.f32 %y, %x0, %x1;", "f4", x, y), np.array([np.nan, np.nan, 0.0, 0.0, 5], "f4"))


@pytest.mark.parametrize(
    "op,function,relative,absolute",
    [("rcp", lambda x: 1 / x, 2.0**-22, 0), ("sqrt", np.sqrt, 2.0**-22, 0), ("ex2", np.exp2, 2.0**-21, 0),
     ("rsqrt", lambda x: 1 / np.sqrt(x), 2.0**-22, 0), ("lg2", np.log2, 2.0**-23, 2.0**-22),
     ("sin", np.sin, 0, 2.0**-20), ("cos", np.cos, 0, 2.0**-20), ("tanh", np.tanh, 2.0**-10.9, 0)],
)  # fmt: skip
def test_approximate_functions_are_as_far_off_as_the_isa_says(
    op: str, function: Any, relative: float, absolute: float
) -> None:
    x = RNG.uniform(0.01, 3, 4000).astype("f4")
    got, want = apply(f"{op}.approx.f32 %y, %x0;", "f4", x).astype("f8"), function(x.astype("f8"))
    error = np.abs(got - want)
    assert (error <= relative * np.abs(want) + absolute).all()
    assert (error > 0.4 * (relative / 2 * np.abs(want) + absolute / 2)).any()  # and not better than a kernel may expect
    special = np.array([0.0, np.inf], "f4")
    with np.errstate(all="ignore"):
        if op in ("rcp", "sqrt", "rsqrt", "tanh"):
            np.testing.assert_array_equal(apply(f"{op}.approx.f32 %y, %x0;", "f4", special), function(special))


@pytest.mark.parametrize("x,y,kind", [(I32, J32, "32"), (I64, J64, "64")])
def test_integer_arithmetic_wraps(x: np.ndarray, y: np.ndarray, kind: str) -> None:
    s, out = f"s{kind}", x.dtype.str[1:]
    with np.errstate(all="ignore"):
        same(apply(f"add.{s} %y, %x0, %x1;", out, x, y), x + y)
        same(apply(f"sub.{s} %y, %x0, %x1;", out, x, y), x - y)
        same(apply(f"mul.lo.{s} %y, %x0, %x1;", out, x, y), x * y)
        same(apply(f"mad.lo.{s} %y, %x0, %x1, %x0;", out, x, y), x * y + x)
        same(apply(f"min.{s} %y, %x0, %x1;", out, x, y), np.minimum(x, y))
        same(apply(f"neg.{s} %y, %x0;", out, x), -x)
        same(apply(f"abs.{s} %y, %x0;", out, x), np.abs(x))
        same(apply(f"xor.b{kind} %y, %x0, %x1;", out, x, y), x ^ y)
        same(apply(f"not.b{kind} %y, %x0;", out, x), ~x)


@pytest.mark.parametrize("x,y,s,u", [(I32, J32, "s32", "u32"), (I64, J64, "s64", "u64")])
def test_upper_halves_division_and_remainder(x: np.ndarray, y: np.ndarray, s: str, u: str) -> None:
    bits, out = 8 * x.itemsize, x.dtype.str[1:]
    unsigned = out.replace("i", "u")

    def wrap(numbers: list[int], dtype: str) -> np.ndarray:
        return np.array([n & ((1 << bits) - 1) for n in numbers], f"u{x.itemsize}").view(dtype)

    pairs = [(int(a), int(b)) for a, b in zip(x, y)]
    same(apply(f"mul.hi.{s} %y, %x0, %x1;", out, x, y), wrap([a * b >> bits for a, b in pairs], out))
    m = (1 << bits) - 1
    ux, uy = x.view(unsigned), y.view(unsigned)
    same(
        apply(f"mul.hi.{u} %y, %x0, %x1;", unsigned, ux, uy),
        wrap([(a & m) * (b & m) >> bits for a, b in pairs], unsigned),
    )
    keep = y != 0
    pairs = [p for p, k in zip(pairs, keep) if k]
    truncated = [abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) for a, b in pairs]
    same(apply(f"div.{s} %y, %x0, %x1;", out, x, y)[keep], wrap(truncated, out))
    same(
        apply(f"rem.{s} %y, %x0, %x1;", out, x, y)[keep], wrap([a - q * b for (a, b), q in zip(pairs, truncated)], out)
    )
    same(
        apply(f"div.{u} %y, %x0, %x1;", unsigned, ux, uy)[keep], wrap([(a & m) // (b & m) for a, b in pairs], unsigned)
    )
    same(apply(f"rem.{u} %y, %x0, %x1;", unsigned, ux, uy)[keep], wrap([(a & m) % (b & m) for a, b in pairs], unsigned))


def test_wide_products() -> None:
    same(apply("mul.wide.s32 %y, %x0, %x1;", "i8", I32, J32), I32.astype("i8") * J32)
    ux, uy = I32.view("u4"), J32.view("u4")
    same(apply("mul.wide.u32 %y, %x0, %x1;", "u8", ux, uy), ux.astype("u8") * uy)
    same(
        apply("mad.wide.s32 %y, %x0, 12, %x1;", "i8", I32, I64[: len(I32)].repeat(2)[: len(I32)]),
        I32.astype("i8") * 12 + I64[: len(I32)].repeat(2)[: len(I32)],
    )


def test_shifts_past_the_width() -> None:
    n = np.resize(np.array([0, 1, 5, 31, 32, 33, 200], "u4"), len(I32))
    want = [int(a) << int(c) & 0xFFFFFFFF if c < 32 else 0 for a, c in zip(I32.view("u4"), n)]
    same(apply("shl.b32 %y, %x0, %x1;", "u4", I32.view("u4"), n), np.array(want, "u4"))
    same(
        apply("shr.s32 %y, %x0, %x1;", "i4", I32, n),
        np.array([int(a) >> min(int(c), 31) for a, c in zip(I32, n)], "i4"),
    )
    want = [int(a) >> int(c) if c < 32 else 0 for a, c in zip(I32.view("u4"), n)]
    same(apply("shr.u32 %y, %x0, %x1;", "u4", I32.view("u4"), n), np.array(want, "u4"))
    both = [(int(h) << 32 | int(low)) for h, low in zip(J32.view("u4"), I32.view("u4"))]
    same(apply("shf.r.wrap.b32 %y, %x0, %x1, %x2;", "u4", I32.view("u4"), J32.view("u4"), n),
         np.array([b >> (int(c) & 31) & 0xFFFFFFFF for b, c in zip(both, n)], "u4"))  # fmt: skip
    same(apply("shf.l.clamp.b32 %y, %x0, %x1, %x2;", "u4", I32.view("u4"), J32.view("u4"), n),
         np.array([b << min(int(c), 32) >> 32 & 0xFFFFFFFF for b, c in zip(both, n)], "u4"))  # fmt: skip


def test_bits() -> None:
    u, w = I32.view("u4"), J32.view("u4")
    same(apply("popc.b32 %y, %x0;", "u4", u), np.array([int(a).bit_count() for a in u], "u4"))
    same(apply("clz.b32 %y, %x0;", "u4", u), np.array([32 - int(a).bit_length() for a in u], "u4"))
    same(apply("brev.b32 %y, %x0;", "u4", u), np.array([int(f"{int(a):032b}"[::-1], 2) for a in u], "u4"))
    same(apply("bfe.u32 %y, %x0, 7, 9;", "u4", u), (u >> 7) & 0x1FF)
    same(apply("bfe.s32 %y, %x0, 7, 9;", "i4", I32), ((I32 << 16) >> 23))
    same(apply("bfe.s32 %y, %x0, 28, 16;", "i4", I32), I32 >> 28)
    same(apply("bfi.b32 %y, %x0, %x1, 4, 8;", "u4", u, w), (w & ~np.uint32(0xFF0)) | ((u & 0xFF) << 4))
    same(apply("prmt.b32 %y, %x0, %x1, 0x7632;", "u4", u, w), (u >> 16) | (w & np.uint32(0xFFFF0000)))
    same(apply("prmt.b32 %y, %x0, %x1, 0x0123;", "u4", u, w), u.byteswap())
    same(
        apply("lop3.b32 %y, %x0, %x1, 0x0F0F0F0F, 0xE8;", "u4", u, w),
        (u & w) | (u & np.uint32(0x0F0F0F0F)) | (w & np.uint32(0x0F0F0F0F)),
    )


def test_carries_make_wide_sums() -> None:
    code = "add.cc.u32 %s, %x0, %x2; addc.u32 %t, %x1, %x3; mov.b64 %y, {%s, %t};"
    parts = [
        I64.view("u8").view("u4")[0::2],
        I64.view("u8").view("u4")[1::2],
        J64.view("u8").view("u4")[0::2],
        J64.view("u8").view("u4")[1::2],
    ]
    parts = [np.ascontiguousarray(p) for p in parts]
    with np.errstate(all="ignore"):
        same(apply(code, "u8", *parts, declare=".reg .u32 %s, %t;"), I64.view("u8") + J64.view("u8"))
        minus = code.replace("add.cc", "sub.cc").replace("addc", "subc")
        same(apply(minus, "u8", *parts, declare=".reg .u32 %s, %t;"), I64.view("u8") - J64.view("u8"))
        code = "mad.lo.cc.u32 %s, %x0, %x2, %x1; madc.hi.u32 %t, %x0, %x2, 0; mov.b64 %y, {%s, %t};"
        same(apply(code, "u8", *parts[:3], declare=".reg .u32 %s, %t;"), parts[0].astype("u8") * parts[2] + parts[1])


def test_comparisons_of_numbers_and_nan() -> None:
    x, y = np.array([1, 2, np.nan, 3, -0.0], "f4"), np.array([2, 1, 1, np.nan, 0.0], "f4")
    want = {
        "lt": x < y,
        "eq": x == y,
        "ne": (x != y) & ~np.isnan(x + y),
        "ltu": ~(x >= y),
        "neu": x != y,
        "num": ~np.isnan(x + y),
        "nan": np.isnan(x + y),
    }
    for op, w in want.items():
        same(apply(f"setp.{op}.f32 %q, %x0, %x1; selp.u32 %y, 1, 0, %q;", "u4", x, y), w.astype("u4"))
    code = "setp.lt.and.f32 %q|%r, %x0, %x1, %q; selp.u32 %y, 1, 0, %r;"
    set_q = "setp.gt.f32 %q, %x0, 0f3FC00000; "
    same(apply(set_q + code, "u4", x, y, declare=".reg .pred %r;"), (~(x < y) & (x > 1.5)).astype("u4"))
    same(
        apply("setp.lo.u32 %q, %x0, %x1; selp.u32 %y, 1, 0, %q;", "u4", I32.view("u4"), J32.view("u4")),
        (I32.view("u4") < J32.view("u4")).astype("u4"),
    )
    same(
        apply("setp.ge.s32 %q, %x0, %x1; @!%q mov.u32 %y, 5; @%q mov.u32 %y, 6;", "u4", I32, J32),
        np.where(I32 >= J32, 6, 5).astype("u4"),
    )


def test_conversions_between_floats_and_integers() -> None:
    x = np.array([2.5, 3.5, -2.5, 0.7, -0.7, 3e9, -3e9, np.nan, np.inf, 1e-30], "f4")
    limit = lambda v: np.array([0 if math.isnan(a) else int(min(max(a, -(2**31)), 2**31 - 1)) for a in v], "i4")
    for mode, function in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)):
        same(apply(f"cvt.{mode}.s32.f32 %y, %x0;", "i4", x), limit(function(x.astype("f8"))))
        same(apply(f"cvt.{mode}.f32.f32 %y, %x0;", "f4", x), function(x))
    same(
        apply("cvt.rzi.u32.f32 %y, %x0;", "u4", x),
        np.array([2, 3, 0, 0, 0, 3e9, 0, 0, 2**32 - 1, 0], "f8").astype("u4"),
    )
    same(apply("cvt.rn.f32.s32 %y, %x0;", "f4", I32), I32.astype("f4"))
    same(
        apply("cvt.rn.f32.u64 %y, %x0;", "f4", I64.view("u8")),
        np.array([np.float32(int(a)) for a in I64.view("u8")], "f4"),
    )
    same(apply("cvt.rn.f64.s64 %y, %x0;", "f8", I64), I64.astype("f8"))
    big = np.array([2**24 + 1, -(2**24) - 1, 3], "i4")
    same(apply("cvt.rz.f32.s32 %y, %x0;", "f4", big), np.array([2**24, -(2**24), 3], "f4"))
    same(apply("cvt.rp.f32.s32 %y, %x0;", "f4", big), np.array([2**24 + 2, -(2**24), 3], "f4"))


def test_conversions_between_widths() -> None:
    same(apply("cvt.s64.s32 %y, %x0;", "i8", I32), I32.astype("i8"))
    same(apply("cvt.u64.u32 %y, %x0;", "u8", I32.view("u4")), I32.view("u4").astype("u8"))
    same(apply("cvt.u32.u64 %y, %x0;", "u4", I64.view("u8")), I64.view("u8").astype("u4"))
    same(apply("cvt.s32.s8 %y, %x0;", "i4", I32), I32.astype("i1").astype("i4"))
    same(apply("cvt.sat.s16.s32 %y, %x0;", "i2", I32), np.clip(I32, -(2**15), 2**15 - 1).astype("i2"))
    doubles = np.concatenate([F32.astype("f8") * (1 + 2**-30), [1e300, 1e-320]])
    with np.errstate(all="ignore"):
        same(apply("cvt.rn.f32.f64 %y, %x0;", "f4", doubles), doubles.astype("f4"))
        same(apply("cvt.f64.f32 %y, %x0;", "f8", F32), F32.astype("f8"))


def test_small_floats() -> None:
    import ml_dtypes

    with np.errstate(all="ignore"):
        wanted = F32.astype(ml_dtypes.bfloat16).view("u2")
        got = apply("cvt.rn.bf16.f32 %h, %x0; mov.b16 %y, %h;", "u2", F32, declare=".reg .b16 %h;")
        finite = ~np.isnan(F32)
        np.testing.assert_array_equal(got[finite], wanted[finite])
        same(
            apply("cvt.rn.f16.f32 %h, %x0; mov.b16 %y, %h;", "u2", F32[finite], declare=".reg .b16 %h;"),
            F32[finite].astype("f2").view("u2"),
        )
        halves = np.arange(0x7C00, dtype="u2")[::37]
        same(
            apply("mov.b16 %h, %x0; cvt.f32.f16 %y, %h;", "f4", halves, declare=".reg .b16 %h;"),
            halves.view("f2").astype("f4"),
        )
        pair = apply("cvt.rn.bf16x2.f32 %y, %x0, %x1;", "u4", F32[finite], OTHER[: finite.sum()] * 0 + 1)
        np.testing.assert_array_equal(pair >> 16, wanted[finite])
        back = apply("shl.b32 %t, %x0, 16; mov.b32 %y, %t;", "f4", wanted[finite].astype("u4"), declare=".reg .b32 %t;")
        same(back, wanted[finite].view(ml_dtypes.bfloat16).astype("f4"))
        rounded = apply(
            "cvt.rna.tf32.f32 %t, %x0; mov.b32 %y, %t;", "u4", F32[np.isfinite(F32)], declare=".reg .b32 %t;"
        )
        assert not (rounded & 0x1FFF).any()
        a, b = RNG.normal(size=64).astype("f2"), RNG.normal(size=64).astype("f2")
        sums = apply("add.rn.f16x2 %y, %x0, %x1;", "u4", a.view("u4"), b.view("u4"))
        same(sums.view("f2"), a + b)
        products = apply(
            "fma.rn.bf16x2 %y, %x0, %x1, %x0;",
            "u4",
            a.astype(ml_dtypes.bfloat16).view("u4"),
            b.astype(ml_dtypes.bfloat16).view("u4"),
        )
        x, y = a.astype(ml_dtypes.bfloat16).astype("f4"), b.astype(ml_dtypes.bfloat16).astype("f4")
        np.testing.assert_array_equal(products.view(ml_dtypes.bfloat16), (x * y + x).astype(ml_dtypes.bfloat16))


def test_signs_and_tests() -> None:
    same(apply("copysign.f32 %y, %x0, %x1;", "f4", F32, OTHER), np.copysign(OTHER, F32))
    same(apply("abs.f32 %y, %x0;", "f4", F32), np.abs(F32))
    same(apply("neg.f32 %y, %x0;", "f4", F32), -F32)
    same(apply("testp.finite.f32 %q, %x0; selp.u32 %y, 1, 0, %q;", "u4", F32), np.isfinite(F32).astype("u4"))
    same(
        apply("slct.f32.s32 %y, %x0, %x1, %x2;", "f4", F32[: len(I32)], OTHER[: len(I32)], I32),
        np.where(I32 >= 0, F32[: len(I32)], OTHER[: len(I32)]),
    )


@pytest.mark.parametrize(
    "code",
    ["frobnicate.f32 %y, %x0;", "add.f33 %y, %x0, %x0;", "add.rq.f32 %y, %x0, %x0;", "cvt.f32.s32 %y, 3;",
     "setp.lt.xnor.f32 %q, %x0, %x0, %q;", "mov.u32 %nowhere, 3;", "add.f32 %y, %elsewhere, %x0;",
     "wgmma.fence.sync.aligned;", "mul.s32 %y, 1, 2;", "tanh.rn.f32 %y, %x0;"],
)  # fmt: skip
def test_what_is_not_known_raises(code: str) -> None:
    with pytest.raises(PtxError):
        apply(code + " mov.f32 %y, %x0;", "f4", F32[:4])
