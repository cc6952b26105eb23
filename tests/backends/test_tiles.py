"""Each compiled tile against its NumPy twin over drawn configurations, bit by bit up to one rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusewright.backends.numba_cpu.lines import tile_side
from fusewright.backends.numba_cpu.templates.template import contract_call, depthwise_call, pool_call, round_call
from fusewright.backends.numba_cpu.tiles.layout import packed, valid_rows
from fusewright.backends.numba_cpu.tiles.probe import compile_text, run_text, run_twin
from fusewright.backends.numba_cpu.twins import OutOfBounds
from fusewright.core.dtypes import bf16_to_f32, f32_to_bf16
from fusewright.runtime import cpu

DOTS = not cpu.missing("cpu-avx512bf16")
NAMES = ("a", "w", "out", "part", "e0", "e1", "e2", "e3")


def both(body: str, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Run ``body`` compiled and unjitted on copies of ``arrays``; the copies afterwards."""
    own, words = copies(arrays)
    run_text(compile_text(text_of(body), "k"), words, 1)
    return own, unjitted(body, arrays)


def unjitted(body: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    own, words = copies(arrays)
    run_twin(text_of(body), "k", words, list(own.values()), 1)
    return own


def copies(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[int]]:
    own = {name: arrays.get(name, np.zeros(1, np.float32)).copy() for name in NAMES}
    return own, [own[name].ctypes.data for name in NAMES]


def text_of(body: str) -> str:
    text = "def k(args, start, stop, scratch):\n"
    text += "".join(f"    {name} = args[{i}]\n" for i, name in enumerate(NAMES))
    return f"{text}    for u in range(start, stop):\n        {body}\n"


def agree(compiled: np.ndarray, twin: np.ndarray) -> None:
    """Equal but for the rare double rounding of the twin's emulated FMA."""
    scale = np.finfo(compiled.dtype).eps * (1 + np.abs(twin))
    assert np.array_equal(np.isnan(compiled), np.isnan(twin))
    same = (compiled == twin) | np.isnan(twin)
    with np.errstate(invalid="ignore"):
        assert np.all(same | (np.abs(compiled - twin) <= 8 * scale))
    assert same.mean() > 0.9 or compiled.dtype == np.float64


def draw(rng: np.random.Generator, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


# width, rows, vectors, tail, epilogue stages
CLIPPED = packed(1, 6)
CONTRACT = [
    (16, 1, 1, 0, 0), (16, 6, 4, 0, packed(1, 4)), (16, 8, 3, 1, packed(1, 2, 3, 4)), (16, 5, 2, 2, packed(1, 5)),
    (8, 6, 2, 0, CLIPPED), (8, 4, 3, 1, packed(7)), (16, 14, 2, 0, packed(3)), (8, 3, 1, 2, packed(2, 1)),
]  # fmt: skip


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("width,rows,vectors,tail,stages", CONTRACT)
def test_contract_tile(width: int, rows: int, vectors: int, tail: int, stages: int, size: int) -> None:
    width = width * 4 // size
    rng = np.random.default_rng(rows)
    dtype = np.float32 if size == 4 else np.float64
    n, k, taps = width * vectors, 5, 3
    cols = n - width // 2 - 1 if tail else n
    loads = cols if tail == 2 else n
    arrays = {
        "a": draw(rng, 2 * taps * (rows + taps) * k, dtype=dtype),
        "w": draw(rng, (2 * taps * taps * k - 1) * n + loads, dtype=dtype),
        "out": draw(rng, (rows - 1) * n + cols, dtype=dtype),
        **{f"e{i}": draw(rng, rows * n, dtype=dtype) for i in range(4)},
    }
    arrays["a"][7] = np.nan
    slots: dict[str, int | str] = {f"s{i}": f"e{i}" for i in range(4)}
    if stages == CLIPPED:
        slots["s1"] = int(np.array([-1.0, 0.5], "<f4").view("<i8")[0])
    call = {
        "out": "out", "a": "a", "w": "w", "cols": cols, "n0": 2, "a0": taps * (rows + taps) * k,
        "w0": taps * taps * k * n,
        "lo1": 1, "hi1": taps, "a1": (rows + taps) * k, "w1": taps * k * n, "lo2": 0, "hi2": taps, "a2": k, "w2": k * n,
        "nk": k, "nk_last": k - 2, "wk": n, "a_px": k, "o_px": n, "DT": size, "W": width, "P": rows, "NV": vectors,
        "TAIL": tail, "EPI": stages, **slots,
    }  # fmt: skip
    compiled, twin = both(contract_call(call), arrays)
    agree(compiled["out"], twin["out"])
    if cols < n:
        untouched = np.arange(len(arrays["out"])) % n >= cols
        assert np.array_equal(compiled["out"][untouched], arrays["out"][untouched])


@pytest.mark.parametrize(
    "left,right,step,tap_step", [(1, 6, 1, 1), (0, 4, 1, 1), (2, 9, 2, 1), (3, 5, 1, 2), (-2, 3, 1, -1)]
)
def test_contract_tile_at_borders_reads_only_the_image(left: int, right: int, step: int, tap_step: int) -> None:
    rng = np.random.default_rng(right)
    rows, k = 5, 4
    image = draw(rng, right * k)
    arrays = {"a": image, "w": draw(rng, 3 * k * 16), "out": draw(rng, rows * 16)}
    call = {
        "out": "out", "a": f"a - {left * k * 4}", "w": "w", "a2": tap_step * k, "w2": k * 16, "nk": k, "nk_last": k,
        "wk": 16, "a_px": step * k, "o_px": 16, "DT": 4, "W": 16, "P": rows, "NV": 1, "KW": 3, "LEFT": left,
        "RIGHT": right, "SPX": step, "DPX": tap_step,
    }  # fmt: skip
    compiled, twin = both(contract_call(call), arrays)
    agree(compiled["out"], twin["out"])
    want = np.zeros((rows, 16))
    weights = arrays["w"].reshape(3, k, 16).astype(np.float64)
    for p in range(rows):
        for t in range(3):
            column = p * step + t * tap_step - left
            if 0 <= column < right:
                want[p] += image.reshape(-1, k)[column].astype(np.float64) @ weights[t]
    assert np.allclose(compiled["out"].reshape(rows, 16), want, atol=1e-5)


def pairs(*values: np.ndarray) -> list[np.ndarray]:
    """bfloat16 patterns of float32 arrays, two to an element of 4 bytes."""
    return [f32_to_bf16(v).view(np.float32) for v in values]


SPECIAL = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 3e38, -3e38, 1e-40, 2e-38, 1.5], np.float32)


@pytest.mark.parametrize("width,rows,vectors,tail,stages", [c for c in CONTRACT if c[0] == 16])
@pytest.mark.parametrize("special", [False, True])
def test_contract_tile_of_pairs(width: int, rows: int, vectors: int, tail: int, stages: int, special: bool) -> None:
    rng = np.random.default_rng(rows)
    n, k, taps = width * vectors, 6, 3
    cols = n - width // 2 - 1 if tail else n
    wide_a, wide_w = draw(rng, taps * (rows + 1) * k * 2), draw(rng, taps * k * n * 2)
    if special:
        wide_a[: 3 * len(SPECIAL) : 3] = SPECIAL
    a, w = pairs(wide_a, wide_w)
    w = w[: (taps * k - 1) * n + (cols if tail == 2 else n)].copy()
    arrays = {"a": a, "w": w, "out": draw(rng, rows * n), **{f"e{i}": draw(rng, rows * n) for i in range(4)}}
    slots: dict[str, int | str] = {f"s{i}": f"e{i}" for i in range(4)}
    call = {
        "out": "out", "a": "a", "w": "w", "cols": cols, "hi2": taps, "a2": (rows + 1) * k, "w2": k * n, "nk": k,
        "nk_last": k, "wk": n, "a_px": k, "o_px": n, "DT": 4, "W": width, "P": rows, "NV": vectors, "TAIL": tail,
        "EPI": stages, "DOT": 1, **slots,
    }  # fmt: skip
    if stages == CLIPPED:
        slots["s1"] = int(np.array([-1.0, 0.5], "<f4").view("<i8")[0])
    if DOTS:
        compiled, twin = both(contract_call(call | slots), arrays)
        agree(compiled["out"], twin["out"])
    else:
        twin = unjitted(contract_call(call | slots), arrays)
    if stages or special:
        return
    exact = np.zeros((rows, n))
    left, right = (bf16_to_f32(v.view(np.uint16)).astype(np.float64).reshape(-1, 2) for v in (a, w))
    for t in range(taps):
        for p in range(rows):
            for kk in range(k):
                x = left[t * (rows + 1) * k + p * k + kk]
                exact[p] += right[(t * k + kk) * n :][:n] @ x
    assert np.allclose(twin["out"].reshape(rows, n), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
def test_round_tile(count: int) -> None:
    rng = np.random.default_rng(count)
    x = draw(rng, count + 1)
    x[: len(SPECIAL)] = SPECIAL[: count + 1]
    arrays = {"a": x[:count].copy(), "out": np.full(count // 2 + 1, 7.0, np.float32)}
    body = round_call({"x": "a", "y": "out", "count": count})
    results = both(body, arrays) if DOTS else [unjitted(body, arrays)]
    want = f32_to_bf16(np.where(np.abs(x) < 2.0**-126, np.copysign(0, x), x).astype(np.float32))[:count]
    for result in results:
        got = result["out"].view(np.uint16)
        assert np.array_equal(bf16_to_f32(got[:count]), bf16_to_f32(want), equal_nan=True)
        assert np.array_equal(np.signbit(bf16_to_f32(got[:count])), np.signbit(bf16_to_f32(want)))
        assert np.array_equal(got[count:], arrays["out"].view(np.uint16)[count:])


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_partial_sums(mode: int) -> None:
    rng = np.random.default_rng(mode)
    arrays = {"a": draw(rng, 30), "w": draw(rng, 10 * 32), "out": draw(rng, 96), "part": draw(rng, 96)}
    call = {
        "out": "out", "a": "a", "w": "w", "nk": 10, "nk_last": 10, "wk": 32, "a_px": 10, "o_px": 32, "part": "part",
        "mode": mode, "SPLIT": 1, "DT": 4, "W": 16, "P": 3, "NV": 2,
    }  # fmt: skip
    compiled, twin = both(contract_call(call), arrays)
    agree(compiled["out"], twin["out"])
    agree(compiled["part"], twin["part"])
    assert np.array_equal(compiled["out"], arrays["out"]) == bool(mode & 2)


def test_split_sums_have_the_bits_of_one_pass() -> None:
    rng = np.random.default_rng(5)
    arrays = {"a": draw(rng, 300), "w": draw(rng, 100 * 16), "out": draw(rng, 48), "part": draw(rng, 48)}
    base: dict[str, int | str] = {
        "out": "out", "wk": 16, "a_px": 100, "o_px": 16, "part": "part", "SPLIT": 1, "DT": 4, "W": 16, "P": 3, "NV": 1,
    }  # fmt: skip
    whole, _ = both(contract_call(base | {"a": "a", "w": "w", "nk": 100, "nk_last": 100}), arrays)
    first = contract_call(base | {"a": "a", "w": "w", "nk": 37, "nk_last": 37, "mode": 2})
    rest = contract_call(base | {"a": "a + 148", "w": "w + 2368", "nk": 63, "nk_last": 63, "mode": 1})
    split, _ = both(f"{first}\n        {rest}", arrays)
    assert np.array_equal(split["out"], whole["out"])


@pytest.mark.parametrize("width,rows,vectors,tail,unrolled,stages", [
    (16, 1, 1, 0, True, 0), (16, 12, 1, 0, True, packed(1, 4)), (8, 4, 2, 0, True, packed(1, 5)),
    (16, 5, 4, 1, False, packed(1, 2, 3)), (8, 3, 3, 1, True, packed(4)),
])  # fmt: skip
@pytest.mark.parametrize("border", [False, True])
def test_depthwise_tile(
    width: int, rows: int, vectors: int, tail: int, unrolled: bool, stages: int, border: bool
) -> None:
    rng = np.random.default_rng(rows)
    n = width * vectors
    cols = n - 3 if tail else n
    columns = rows + 2
    arrays = {
        "a": draw(rng, 3 * columns * n), "w": draw(rng, 9 * n), "out": draw(rng, rows * n),
        **{f"e{i}": draw(rng, rows * n) for i in range(4)},
    }  # fmt: skip
    call: dict[str, int | str] = {
        "out": "out", "a": "a", "w": "w", "cols": cols, "lo1": 1, "hi1": 3, "a1": columns * n, "w1": 3 * n, "px": n,
        "o_px": n, "DT": 4, "W": width, "P": rows, "NV": vectors, "TAIL": tail, "EPI": stages, "SPX": 1, "DPX": 1,
        "WTAP": n, **{f"s{i}": f"e{i}" for i in range(4)},
    }  # fmt: skip
    call |= {"KW": 3} if unrolled else {"hi2": 3}
    if border and unrolled:
        call |= {"LEFT": 1, "RIGHT": rows, "a": f"a - {n * 4}"}
    compiled, twin = both(depthwise_call(call), arrays)
    agree(compiled["out"], twin["out"])
    ahead, _ = both(depthwise_call(call | {"ASK": 1, "TAPS": 3, "ask": 64, "own": 1 << 46}), arrays)
    assert np.array_equal(ahead["out"], compiled["out"])  # nor need what it asks for be mapped


@pytest.mark.parametrize("width,rows,vectors,tail,size", [
    (16, 1, 1, 0, 4), (16, 14, 1, 0, 4), (8, 5, 2, 1, 4), (8, 3, 4, 0, 8), (4, 2, 1, 1, 8),
])  # fmt: skip
@pytest.mark.parametrize("most", [False, True])
@pytest.mark.parametrize("taps", ["all", "border", "some"])
def test_pool_tile(width: int, rows: int, vectors: int, tail: int, size: int, most: bool, taps: str) -> None:
    """Compiled and plain form agree bit by bit, NaN and infinities included, and the sums are right."""
    rng = np.random.default_rng(rows)
    n, step, dtype = width * vectors, 1 + rows % 2, np.float32 if size == 4 else np.float64
    columns, cols = (rows - 1) * step + 3, n - 3 if tail else n
    x = draw(rng, 3 * columns * n, dtype=dtype)
    x[rng.integers(0, x.size, 9)] = [np.nan, np.inf, -np.inf, 0, -0.0, 1e30, np.nan, np.inf, 3]
    call: dict[str, int | str] = {
        "out": "out", "a": "a", "cols": cols, "lo1": 1, "hi1": 3, "a1": columns * n, "px": n, "o_px": n, "DT": size,
        "W": width, "P": rows, "NV": vectors, "TAIL": tail, "SPX": step, "DPX": 1, "MAX": int(most),
    }  # fmt: skip
    left = 1 if taps == "border" else 0
    call |= {"lo2": 1, "hi2": 3} if taps == "some" else {"KW": 3}
    if left:
        call |= {"LEFT": left, "RIGHT": columns - 2, "a": f"a - {n * size}"}
    compiled, twin = both(pool_call(call), {"a": x, "out": np.zeros(rows * n, dtype)})
    assert np.array_equal(compiled["out"], twin["out"], equal_nan=True)
    image = x.reshape(3, columns, n)[1:].astype(np.float64)
    fixed, _ = both(pool_call(call | {"MAX": 0, "TAPS": 9}), {"a": np.ones_like(x), "out": np.zeros(rows * n, dtype)})
    for p in range(rows):
        at = [p * step + t - left for t in (range(1, 3) if taps == "some" else range(3))]
        under = image[:, [c for c in at if 0 <= c < (columns - 2 if left else columns)], :cols].reshape(-1, cols)
        assert np.all(fixed["out"][p * n : p * n + cols] == dtype(len(under)) / dtype(9))
        with np.errstate(invalid="ignore"):
            want = under.max(0) if most else under.mean(0)
        assert np.allclose(compiled["out"][p * n : p * n + cols], want, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_twins_see_every_address() -> None:
    arrays = {"a": np.zeros(10, np.float32), "w": np.zeros(10 * 16, np.float32), "out": np.zeros(15, np.float32)}
    call = {"out": "out", "a": "a", "w": "w", "nk": 10, "nk_last": 10, "wk": 16, "DT": 4, "W": 16, "P": 1, "NV": 1}
    words = [arrays[n].ctypes.data for n in ("a", "w", "out")]
    unpack = "    a = args[0]\n    w = args[1]\n    out = args[2]\n"
    text = f"def k(args, start, stop, scratch):\n{unpack}    {contract_call(call)}\n"
    with pytest.raises(OutOfBounds):
        run_twin(text, "k", words, list(arrays.values()), 1)


def test_border_rule() -> None:
    lit = {"P": 4, "SPX": 2, "DPX": 1, "LEFT": 1, "RIGHT": 6}
    assert [valid_rows(lit, t) for t in range(3)] == [[1, 2, 3], [0, 1, 2], [0, 1, 2]]


def test_unknown_argument_is_refused() -> None:
    with pytest.raises(KeyError, match="bogus"):
        contract_call({"bogus": 1})


@pytest.mark.parametrize("size,width", [(4, 16), (4, 8), (8, 8), (8, 4)])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 128, 131])
def test_reductions_of_a_row(n: int, width: int, size: int) -> None:
    """Compiled and plain form agree bit by bit, whatever the vectors' width, and no element past the row is read."""
    dtype, pointer = (np.float32, "pf32") if size == 4 else (np.float64, "pf64")
    row = draw(np.random.default_rng(n), n, dtype=dtype)
    how = f"16, {size}, {width})"
    put = f"{pointer}(out)"
    body = f"{put}[0] = lanes_sum(a, {n}, {how}; {put}[1] = lanes_max(a, {n}, {how}; "
    body += f"{put}[2] = lanes_squares(a, {n}, {pointer[1:]}(0.75), {how}"
    compiled, twin = both(body, {"a": row, "out": np.zeros(3, dtype)})
    assert np.array_equal(compiled["out"], twin["out"])
    exact = np.sum(row.astype(np.float64))
    assert abs(compiled["out"][0] - exact) <= 8 * np.finfo(dtype).eps * np.sum(np.abs(row), dtype=np.float64)
    assert compiled["out"][1] == np.max(row, initial=-np.inf)
    exact = np.sum((row.astype(np.float64) - 0.75) ** 2)
    assert abs(compiled["out"][2] - exact) <= 16 * np.finfo(dtype).eps * exact


@pytest.mark.parametrize("pointer,dtype", [("pf32", np.float32), ("pf64", np.float64), ("pu8", np.uint8)])
@pytest.mark.parametrize("rows,columns", [(16, 5), (5, 16), (16, 1), (3, 7), (16, 16)])
def test_part_of_a_transposed_tile(rows: int, columns: int, pointer: str, dtype: type) -> None:
    """Nothing beside the part is read (the source ends with it) or written."""
    side = tile_side(np.dtype(dtype).itemsize)
    rows, columns = min(rows, side), min(columns, side)
    source = np.arange(rows * (columns + 2), dtype=dtype)[: (rows - 1) * (columns + 2) + columns]
    body = f"transpose_part({pointer}(a), 0, {columns + 2}, {pointer}(out), 1, {rows + 1}, {rows}, {columns})"
    compiled, twin = both(body, {"a": source, "out": np.zeros(1 + columns * (rows + 1), dtype)})
    want = np.zeros(1 + columns * (rows + 1), dtype)
    for i in range(rows):
        for j in range(columns):
            want[1 + j * (rows + 1) + i] = source[i * (columns + 2) + j]
    assert np.array_equal(compiled["out"], want)
    assert np.array_equal(twin["out"], want)
