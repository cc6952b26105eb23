"""Results that are written past the caches: the same bits as plain kernels give, wherever they lie and however cut."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from fusewright.backends.numba_cpu import loops
from fusewright.backends.numba_cpu.loops import sink
from fusewright.backends.numba_cpu.templates.template import Template
from fusewright.backends.numba_cpu.tiles.probe import aligned, run_text, run_twin
from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image
from fusewright.backends.numba_cpu.variants import DEFAULT_VARIANTS
from fusewright.core.dims import evaluate
from fusewright.ir.builder import Builder
from fusewright.runtime.cpu import missing
from fusewright.runtime.image import NativeImage

HERE = [v for v in DEFAULT_VARIANTS if not missing(v)]
LINES = "def k(args, start, stop, scratch):\n    stream_lines(args[0], args[1], stop)\n    streamed()\n"
MOVE = "def k(args, start, stop, scratch):\n    stream(args[0], args[1], stop)\n    streamed()\n"
FUSED = ("prologue, softmax", "prologue, log_softmax", "prologue, rms_norm")
ROWS, WIDTH = 5, 1037  # rows that begin at every place of a line


@cache
def native(variant: str, *texts: str) -> NativeImage:
    built = build_image([KernelSource(f"k{i}", text) for i, text in enumerate(texts)], variant)
    image = NativeImage(built.code, built.symbols)
    image.pin()
    return image


@pytest.mark.parametrize("variant", HERE)
def test_stream_writes_its_bytes_and_no_others(variant: str) -> None:
    source = np.random.default_rng(0).integers(1, 255, 512).astype(np.uint8)
    kernel = native(variant, MOVE).kernel("k0")
    for offset in range(64):
        for count in (0, 1, 3, 63, 64, 65, 128, 200):
            room = aligned(448)
            words = np.array([room.ctypes.data + 64 + offset, source.ctypes.data + offset % 7], np.int64)
            kernel(words.ctypes.data, 0, count, 0)
            wanted = np.zeros(448, np.uint8)
            wanted[64 + offset : 64 + offset + count] = source[offset % 7 : offset % 7 + count]
            assert np.array_equal(room, wanted), (offset, count)


@pytest.mark.parametrize("variant", HERE)
def test_whole_lines_are_streamed_and_no_others(variant: str) -> None:
    source = np.random.default_rng(0).integers(1, 255, 512).astype(np.uint8)
    kernel = native(variant, MOVE, LINES).kernel("k1")
    for count in (0, 64, 192):
        room = aligned(448)
        words = np.array([room.ctypes.data + 64, source.ctypes.data + 5], np.int64)
        kernel(words.ctypes.data, 0, count, 0)
        wanted = np.zeros(448, np.uint8)
        wanted[64 : 64 + count] = source[5 : 5 + count]
        assert np.array_equal(room, wanted), count


def case(name: str, symbolic: bool) -> tuple[Any, list[tuple[int, ...]]]:
    """A node and the shapes of its operands."""
    b: Any = Builder()
    x = b.input("x", "f32", ("N" if symbolic else ROWS, WIDTH))
    v = b.input("v", "f32", (WIDTH,))
    if name == "flat":
        y = b.relu(x)
    elif name == "row by row":
        y = b.add(x, v)
    elif name in ("layer_norm", "rms_norm"):
        extras = (v, v) if name == "layer_norm" else (v,)
        y = getattr(b, name)(x, *extras, axes=(1,), epsilon=1e-3)
    elif name.startswith("prologue, "):
        y = fused(b, x, v, name.removeprefix("prologue, "))
    else:
        y = getattr(b, name)(x, axes=(1,))
    b.build({"y": y})
    return y.producer, [(ROWS, WIDTH) if o.rank == 2 else (WIDTH,) for o in y.producer.operands]


def fused(b: Any, x: Any, v: Any, name: str) -> Any:
    """``x + v``, normalised in one node."""
    inner: Any = Builder()
    p, q = (inner.input(n, o.dtype, o.shape) for n, o in (("p", x), ("q", v)))
    extras = {"epsilon": 1e-3} if name == "rms_norm" else {}
    region = inner.build({"y": getattr(inner, name)(p + q, axes=(1,), **extras)})
    return b.apply("fused", [x, v], {"kind": "rows"}, [region])[0]


def words_of(t: Template, operands: list[np.ndarray], out: int) -> list[int]:
    named = {"N": ROWS}
    return [
        evaluate(a.value, named) if a.kind == "dim" else out if a.kind == "output" else operands[a.index].ctypes.data
        for a in t.args
    ]


def put_at(array: np.ndarray, offset: int) -> np.ndarray:
    """A copy ``offset`` bytes behind a line."""
    place = aligned(array.nbytes + 64)[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
    place[...] = array
    return place


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", ["flat", "row by row", "softmax", "log_softmax", "layer_norm", "rms_norm", *FUSED])
def test_streamed_results_have_the_bits_of_plain_ones(
    name: str, symbolic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, shapes = case(name, symbolic)
    (plain,) = loops.generate(node)
    monkeypatch.setattr(sink, "STREAMED", 4096)
    (streamed,) = loops.generate(node)
    assert "stream(" in streamed.text and (symbolic or "stream(" not in plain.text)
    rng = np.random.default_rng(1)
    operands = [rng.standard_normal(shape, np.float32) for shape in shapes]
    extent, room = evaluate(plain.extent, {"N": ROWS}), int(evaluate(streamed.scratch_bytes, {"N": ROWS}))
    for variant in HERE:
        image = native(variant, plain.text, streamed.text)
        wanted = np.zeros((ROWS, WIDTH), np.float32)
        run_text(image.kernel("k0"), words_of(plain, operands, wanted.ctypes.data), extent, max(room, 1 << 16))
        for offset in (0, 4, 16, 60):
            for chunks in (1, 2, 3):
                guarded = aligned(wanted.nbytes + 192)
                start = 64 + offset
                words = words_of(streamed, operands, guarded.ctypes.data + start)
                run_text(image.kernel("k1"), words, extent, room, chunks)
                assert guarded[start : start + wanted.nbytes].tobytes() == wanted.tobytes(), (variant, offset, chunks)
                assert not guarded[:start].any() and not guarded[start + wanted.nbytes :].any()
            if 0 in streamed.overwrites:
                mine = [put_at(operands[0], offset), *operands[1:]]
                run_text(image.kernel("k1"), words_of(streamed, mine, mine[0].ctypes.data), extent, room, 2)
                assert mine[0].tobytes() == wanted.tobytes(), (variant, offset, "in place")
    out = np.zeros((ROWS, WIDTH), np.float32)
    run_twin(
        streamed.text, streamed.entry, words_of(streamed, operands, out.ctypes.data), [*operands, out], extent, room
    )
    assert np.allclose(out, wanted, rtol=1e-5, atol=1e-6)


def test_only_large_results_are_streamed() -> None:
    for rows, streams in ((ROWS, False), (sink.STREAMED // (4 * WIDTH) + 1, True)):
        b: Any = Builder()
        y = b.softmax(b.input("x", "f32", (rows, WIDTH)), axes=(1,))
        b.build({"y": y})
        assert ("stream(" in loops.generate(y.producer)[0].text) is streams
