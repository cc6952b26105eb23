"""What the loader has the image's own code do: hashes and layouts, bit by bit what hashlib and NumPy make."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.numba_cpu.loading import (
    copy_source,
    hash_source,
    loader_sources,
    round_source,
    winograd_source,
)
from fusewright.backends.numba_cpu.templates.packing import ConvLayout, conv_layout, paired, rhs_layout
from fusewright.backends.numba_cpu.tiles.probe import aligned, run_twin
from fusewright.backends.numba_cpu.toolchain import build_image
from fusewright.backends.numba_cpu.variants import DEFAULT_VARIANTS, VARIANTS
from fusewright.core.layout import Layout
from fusewright.core.loadwords import HASH, HASH_LANES, HASH_SCRATCH, WINOGRAD, WINOGRAD_SCRATCH
from fusewright.core.manifest import BLOCK
from fusewright.core.plan import Constant, Plan
from fusewright.runtime import bundle as bundle_module
from fusewright.runtime import cpu, prepare
from fusewright.runtime.image import NativeImage
from fusewright.runtime.prepare import Helper

RUNNABLE = [v for v in DEFAULT_VARIANTS if not cpu.missing(v)]
WIDE = [v for v in RUNNABLE if VARIANTS[v].width == 4 * HASH_LANES]


def helper_of(variant: str, threads: int = 1) -> Helper:
    """All of the loader's entries."""
    sources = [copy_source(), round_source(), *(winograd_source(*kind) for kind in WINOGRAD)]
    sources += [hash_source()] if variant in WIDE else []
    image = build_image(sources, variant)
    return Helper(NativeImage(image.code, image.symbols), threads)


@pytest.fixture(scope="module", params=RUNNABLE)
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def changes() -> list[tuple[Layout, Layout, str]]:
    """(stored, wanted, dtype): panels of other widths, Winograd's transforms behind them, elements of 8 and 2 bytes."""
    shape = (3, 3, 48, 192)
    stored, narrow, wide = (conv_layout(shape, ConvLayout((3, 3), 48, 192, 1, nr, 16)) for nr in (64, 16, 32))
    moves = [("transpose", (3, 4, 0, 1, 2, 5, 6)), ("winograd", (2,)), ("transpose", (2, 0, 1, 3, 4, 5, 6))]
    out = [(stored, narrow, "f32"), (stored, narrow, "f64"), (stored, wide, "f16")]
    for to in (stored, narrow, wide):
        for side, rounds in WINOGRAD:
            at = [(kind, (side,) if kind == "winograd" else arg) for kind, arg in moves]
            made = Layout(shape, [*to.moves, *at])
            out.append((stored, paired(made) if rounds else made, "f32"))
    out += [(rhs_layout((40, 1000), 64, False), paired(rhs_layout((40, 1000), 64, False)), "f32")]  # zeros join in
    out += [(stored, paired(to), "f32") for to in (stored, narrow)]
    matrix = (40, 1000)
    out.append((rhs_layout(matrix, 64, False), rhs_layout(matrix, 16, False), "f32"))  # ragged: NumPy's
    return [*out, (rhs_layout((40, 1024), 64, False), rhs_layout((40, 1024), 16, False), "f32")]


def numbers(stored: Layout, dtype: str) -> np.ndarray:
    kind = {"f32": np.float32, "f64": np.float64, "f16": np.float16}[dtype]
    array = np.random.default_rng(3).standard_normal(stored.shape).astype(kind)
    flat = array.reshape(-1)
    special = [np.inf, -np.inf, np.nan, -0.0, np.finfo(kind).max, np.finfo(kind).smallest_subnormal, 0.0]
    flat[: 97 * len(special) : 97] = special
    return stored.pack(array)


@pytest.mark.parametrize("threads", [1, 3])
def test_layouts_are_made_as_numpy_makes_them(variant: str, threads: int) -> None:
    plan, pieces, at = Plan(), [], 0
    for stored, wanted, dtype in changes():
        packed = numbers(stored, dtype).reshape(-1).view(np.uint8)
        plan.constants.append(Constant(at, packed.nbytes, dtype, stored, wanted))
        pieces.append(np.concatenate([packed, np.zeros(-packed.nbytes % 64, np.uint8)]))
        at += pieces[-1].nbytes
    weights = aligned(at)
    weights[...] = np.concatenate(pieces)
    got, want = prepare.constants(plan, weights, helper_of(variant, threads)), prepare.constants(plan, weights)
    for c, a, b in zip(plan.constants, got, want, strict=True):
        assert a.nbytes == b.nbytes == c.size and a.ctypes.data % 64 == 0
        kind, bits = {"f32": ("f4", "u4"), "f64": ("f8", "u8"), "f16": ("f2", "u2")}[c.dtype]
        if c.wanted is not None and c.wanted.rounds:
            assert np.array_equal(a, b)
            continue
        nan = np.isnan(b.view(kind))
        assert np.array_equal(np.isnan(a.view(kind)), nan)
        assert np.array_equal(a.view(bits)[~nan], b.view(bits)[~nan])


def test_all_but_ragged_layouts_are_made_by_the_image(variant: str) -> None:
    helper = helper_of(variant)
    jobs = [prepare._job(Constant(0, math.prod(s.packed_shape), d, s, w), helper) for s, w, d in changes()]
    ragged = [i for i, (s, w, _) in enumerate(changes()) if s.shape == (40, 1000)]
    assert [i for i, job in enumerate(jobs) if job is None] == ragged


def test_what_has_no_loops_is_made_by_numpy(variant: str) -> None:
    plan = Plan()
    plan.constants = [Constant(0, 4, "f32", Layout((1,)), Layout((1,), moves)) for moves in ([("bf16", ())], [])]
    weights = np.float32([1.5]).view(np.uint8)
    one, same = prepare.constants(plan, weights, helper_of(variant))
    assert one.view(np.uint16).tolist() == [0x3FC0] and same.tobytes() == weights.tobytes()


def test_the_text_of_the_kernels_stays_inside_its_arrays(variant: str) -> None:
    shape = (3, 3, 16, 32)
    stored, narrow = (conv_layout(shape, ConvLayout((3, 3), 16, 32, 1, nr, 16)) for nr in (32, 16))
    turned = [("transpose", (3, 4, 0, 1, 2, 5, 6)), ("winograd", (2,)), ("transpose", (2, 3, 4, 0, 1, 5, 6))]
    for wanted, source in (
        (narrow, copy_source()),
        (paired(narrow), round_source()),
        (Layout(shape, [*narrow.moves, *turned]), winograd_source(2)),
        (paired(Layout(shape, [*narrow.moves, *turned])), winograd_source(2, True)),
    ):
        packed = np.ascontiguousarray(numbers(stored, "f32")).reshape(-1)
        c = Constant(0, packed.nbytes, "f32", stored, wanted)
        out = np.zeros(c.size // 4, np.uint32 if wanted.rounds else np.float32)
        job = prepare._job(c, helper_of(variant))
        assert job is not None
        entry, words, extent, _ = job(packed.ctypes.data, out.ctypes.data)
        with np.errstate(all="ignore"):
            run_twin(source.text, entry, list(words), [packed, out], extent, WINOGRAD_SCRATCH)
        want = wanted.repack(packed, stored).reshape(-1).view(out.dtype)
        assert np.array_equal(out, want, equal_nan=True) and (wanted.rounds or np.isnan(out).any())


@pytest.mark.parametrize("blocks", [1, 5, 6, 16, 19, 33])
@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_are_hashed_as_hashlib_does(blocks: int, threads: int) -> None:
    data = np.random.default_rng(blocks).integers(0, 256, blocks * BLOCK + 12345, dtype=np.uint8)
    want = [hashlib.sha256(data[i * BLOCK : (i + 1) * BLOCK]).digest() for i in range(blocks)]
    for name in WIDE:
        got = helper_of(name, threads).digests(data)
        assert got == want[: len(got)] and blocks - len(got) < 6


def test_the_twin_of_the_hash() -> None:
    data = np.random.default_rng(0).integers(0, 256, 3 * BLOCK, dtype=np.uint8)
    out = np.zeros((3, 8), np.uint32)
    run_twin(hash_source().text, HASH, [data.ctypes.data, 3, out.ctypes.data], [data, out], 1, HASH_SCRATCH)
    want = [hashlib.sha256(data[i * BLOCK : (i + 1) * BLOCK]).digest() for i in range(3)]
    assert [row.tobytes() for row in out] == want


@pytest.fixture(scope="module")
def large() -> bytes:
    """A bundle of 8.4 MB of weights, among them a convolution in Winograd's tiles."""
    b: Any = fw.Builder()
    rng = np.random.default_rng(7)
    x = b.input("x", "f32", ("N", 14, 14, 64))
    y = b.conv(x, b.constant(rng.standard_normal((3, 3, 64, 64)).astype("f4") / 24), pads=((1, 1), (1, 1)))
    y = b.reshape(y, shape=("N", 14 * 14 * 64))
    y = b.matmul(y, b.constant(rng.standard_normal((14 * 14 * 64, 160)).astype("f4") / 112))
    return bytes(fw.compile(b.build({"y": y}))._container.data)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_bundle_is_the_same_with_and_without_the_entries(
    large: bytes, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(8).standard_normal((2, 14, 14, 64)).astype("f4")
    bundle = fw.load(large, threads=threads)
    has = set(bundle._plan.entries)
    assert any(w in has for w in WINOGRAD.values()) and (HASH in has) == (bundle.target in WIDE)
    monkeypatch.setattr(Helper, "has", lambda self, entry: False)
    plain = fw.load(large, threads=threads)
    assert all(np.array_equal(a, b) for a, b in zip(bundle._constants, plain._constants, strict=True))
    assert np.array_equal(bundle(x), plain(x))


@pytest.mark.parametrize("verify", ["full", "lazy"])
def test_a_flipped_bit_in_any_block_is_found(large: bytes, verify: str) -> None:
    at, size = fw.load(large)._container._places["weights.bin"]
    x = np.zeros((1, 14, 14, 64), np.float32)
    for where in (0, 3 * BLOCK + 77, 6 * BLOCK - 1, size - 1):
        broken = bytearray(large)
        broken[at + where] ^= 4
        with pytest.raises(fw.BundleRefused, match="weights"):
            bundle = fw.load(bytes(broken), verify=verify)
            for t in threading.enumerate():
                if t.name == "fusewright-verify":
                    t.join()
            bundle(x)


def test_nothing_is_mapped_executable_before_code_and_plan_are_checked(
    large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("mapped")

    places = fw.load(large)._container._places
    target = fw.load(large).target
    monkeypatch.setattr(bundle_module, "NativeImage", never)
    for name in (f"native/{target}/code.bin", f"native/{target}/plan.json", "graph.txt", "report.json"):
        broken = bytearray(large)
        broken[places[name][0] + 9] ^= 1
        with pytest.raises(fw.BundleRefused, match=name):
            fw.load(bytes(broken))


def test_sources_are_made_for_what_there_is_to_do() -> None:
    wide, narrow = VARIANTS["cpu-avx512"], VARIANTS["cpu-avx2"]
    plan = Plan()
    assert loader_sources(plan, wide, 5 * BLOCK) == []
    assert [s.entry for s in loader_sources(plan, wide, 6 * BLOCK)] == [HASH]
    assert loader_sources(plan, narrow, 64 * BLOCK) == []  # 8 lanes are no faster than a CPU's own instructions
    stored, wanted, dtype = changes()[4]
    plan.constants.append(Constant(0, math.prod(stored.packed_shape) * 4, dtype, stored, wanted))
    assert [s.entry for s in loader_sources(plan, narrow, 0)] == [WINOGRAD[4, False]]
