"""Layouts of stored constants: exact inverses, checked JSON."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusewright.core.errors import BundleRefused
from fusewright.core.layout import Layout


@st.composite
def layouts(draw):
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    at, moves = shape, []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["pad", "transpose", "split", "flat"]))
        if kind == "pad":
            at = tuple(n + draw(st.integers(0, 3)) for n in at)
            moves.append(("pad", at))
        elif kind == "transpose":
            perm = tuple(draw(st.permutations(range(len(at)))))
            at = tuple(at[p] for p in perm)
            moves.append(("transpose", perm))
        elif kind == "split" and len(at) < 6:
            divisors = [d for d in range(1, at[-1] + 1) if at[-1] % d == 0]
            d = draw(st.sampled_from(divisors))
            at = (*at[:-1], at[-1] // d, d)
            moves.append(("reshape", at))
        elif kind == "flat":
            at = (int(np.prod(at)),)
            moves.append(("reshape", at))
    return Layout(shape, moves)


@given(layouts())
def test_unpack_inverts_pack_bit_for_bit(layout):
    array = np.random.default_rng(0).integers(0, 2**32, layout.shape, dtype=np.uint32).view(np.float32)
    packed = layout.pack(array)
    assert packed.shape == layout.packed_shape and packed.flags.c_contiguous
    assert np.array_equal(layout.unpack(packed).view(np.uint32), array.view(np.uint32))


@given(layouts())
def test_json_round_trip(layout):
    assert Layout.from_json(layout.to_json()) == layout


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"shape": [2], "moves": [["reshape", [3]]]},
        {"shape": [2, 3], "moves": [["transpose", [0, 0]]]},
        {"shape": [2, 3], "moves": [["pad", [1, 3]]]},
        {"shape": [2, 3], "moves": [["pad", [2]]]},
        {"shape": [2], "moves": [["reshape", [-2]]]},
        {"shape": [2], "moves": [["exec", [2]]]},
        {"shape": [2], "moves": "pad"},
    ],
)
def test_malformed_layouts_are_refused(raw):
    with pytest.raises(BundleRefused):
        Layout.from_json(raw)
