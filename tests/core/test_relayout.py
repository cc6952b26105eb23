"""Changes of layout as nests of loops: run as plain loops they make what ``repack`` makes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusewright.backends.numba_cpu.templates.packing import ConvLayout, conv_layout, paired, rhs_layout
from fusewright.core.dtypes import f32_to_bf16
from fusewright.core.layout import Layout
from fusewright.core.relayout import Nest, nest
from fusewright.core.winograd import transform_kernel


def winograd(layout: Layout, side: int) -> Layout:
    """``layout`` [groups, panels, blocks, 3, 3, block, nr] with the taps transformed, and between panels and blocks."""
    moves = [("transpose", (3, 4, 0, 1, 2, 5, 6)), ("winograd", (side,)), ("transpose", (2, 3, 0, 1, 4, 5, 6))]
    return Layout(layout.shape, [*layout.moves, *moves])


def walk(found: Nest, packed: np.ndarray, size: int) -> np.ndarray:
    """The loops of ``found``, one element at a time."""
    out, edge = np.zeros(size, np.uint16 if found.rounds else packed.dtype), found.side + 2
    kept = f32_to_bf16 if found.rounds else np.asarray
    for index in np.ndindex(*[n for n, _, _ in found.loops]):
        s = sum(i * loop[1] for i, loop in zip(index, found.loops, strict=True))
        t = sum(i * loop[2] for i, loop in zip(index, found.loops, strict=True))
        if not found.side:
            out[t] = kept(packed[s])
            continue
        taps = [[packed[s + r * found.source_taps[0] + c * found.source_taps[1]] for c in range(3)] for r in range(3)]
        made = transform_kernel(np.array(taps), found.side, np.empty((edge, edge), packed.dtype))
        for r in range(edge):
            for c in range(edge):
                out[t + r * found.target_taps[0] + c * found.target_taps[1]] = kept(made[r, c])
    return out


def agree(stored: Layout, wanted: Layout) -> bool:
    """Is there a nest? If so it is right."""
    found = nest(stored, wanted)
    if found is None:
        return False
    array = np.random.default_rng(len(wanted.moves)).standard_normal(stored.shape).astype(np.float32)
    want = wanted.repack(stored.pack(array), stored).reshape(-1)
    got = walk(found, stored.pack(array).reshape(-1), math.prod(wanted.packed_shape))
    assert np.array_equal(got, want)
    return True


@given(st.integers(1, 6), st.integers(1, 70), *[st.sampled_from([1, 2, 3, 4, 8])] * 2, st.booleans())
def test_panels_of_matrices(k: int, n: int, before: int, after: int, turned: bool) -> None:
    shape = (n, k) if turned else (k, n)
    stored, wanted = rhs_layout(shape, 4 * before, turned), rhs_layout(shape, 4 * after, turned)
    there = agree(stored, wanted)
    small, large = sorted((before, after))
    assert there or n % (4 * small) or large % small


@pytest.mark.parametrize("side", [0, 2, 4])
@pytest.mark.parametrize("channels,outputs,before,after", [(32, 64, 32, 16), (16, 64, 32, 32), (5, 48, 48, 16)])
def test_kernels_of_convolutions(channels: int, outputs: int, before: int, after: int, side: int) -> None:
    shape, block = (3, 3, channels, outputs), 16
    stored, wanted = (conv_layout(shape, ConvLayout((3, 3), channels, outputs, 1, nr, block)) for nr in (before, after))
    wanted = winograd(wanted, side) if side else wanted
    assert agree(stored, wanted) and agree(stored, paired(wanted)) == (channels % 2 == 0)


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 9), st.integers(1, 4), st.integers(1, 9))
def test_no_nest_is_better_than_a_wrong_one(n: int, left: int, more: int, right: int, most: int) -> None:
    layouts = []
    for inner, pad in ((left, more), (right, most)):
        whole = -(-n // inner) * inner + inner * (pad % 3)
        moves = [("pad", (2, whole)), ("reshape", (2, whole // inner, inner)), ("transpose", (1, 0, 2))]
        layouts.append(Layout((2, n), moves))
    agree(*layouts)


def test_what_has_no_nest() -> None:
    shape = (3, 3, 16, 32)
    stored = conv_layout(shape, ConvLayout((3, 3), 16, 32, 1, 32, 16))
    assert nest(paired(stored), stored) is None  # there is no way back
    assert nest(winograd(stored, 2), stored) is None
    split = Layout((6,), [("reshape", (2, 3)), ("transpose", (1, 0))])
    assert nest(split, Layout((6,), [("reshape", (3, 2)), ("transpose", (1, 0))])) is None


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_needs_no_loops(shape: tuple[int, int]) -> None:
    assert nest(rhs_layout(shape, 32, False), rhs_layout(shape, 16, False)) is None


def test_loops_that_run_on_are_one() -> None:
    stored = conv_layout((3, 3, 32, 64), ConvLayout((3, 3), 32, 64, 1, 32, 16))
    found = nest(stored, winograd(stored, 2))
    assert found is not None and found.side == 2
    assert found.loops == ((2, 9216, 16384), (2, 4608, 512), (512, 1, 1))
    assert (found.source_taps, found.target_taps) == ((1536, 512), (4096, 1024))
