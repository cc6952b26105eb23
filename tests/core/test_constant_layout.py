"""Layouts of stored constants: exact inverses, checked JSON."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusewright.core.dtypes import bf16_to_f32, f32_to_bf16
from fusewright.core.errors import BundleRefused, VerifyError
from fusewright.core.layout import Layout
from fusewright.core.plan import Constant
from fusewright.core.winograd import TILES, input_matrix, kernel_matrix, output_matrix


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
        {"shape": [3, 3, 2], "moves": [["winograd", [3]]]},
        {"shape": [3, 3, 2], "moves": [["winograd", []]]},
        {"shape": [4, 3, 2], "moves": [["winograd", [2]]]},
        {"shape": [3], "moves": [["winograd", [2]]]},
        {"shape": [3], "moves": [["bf16", [2]]]},
        {"shape": [3], "moves": [["bf16", []], ["bf16", []]]},
        {"shape": [-4, -4, 32], "moves": [["transpose", [1, 0, 2]]]},  # a product like that of a true shape
        {"shape": [4.0, 32], "moves": []},
        {"shape": [True, 32], "moves": []},
        {"shape": [1] * 33, "moves": []},
        {"shape": [1 << 40], "moves": []},
        {"shape": [4, 32], "moves": [["pad", [4.5, 32]]]},
        {"shape": [4, 32], "moves": [["pad", ["4", 32]]]},
        {"shape": [2, 2], "moves": [["transpose", [1, 0]]] * 33},
    ],
)
def test_malformed_layouts_are_refused(raw):
    with pytest.raises(BundleRefused):
        Layout.from_json(raw)


# -- Winograd's transform, which is made at load ---
@pytest.mark.parametrize("m", TILES)
def test_tiles_compute_a_correlation(m):
    """The matrices: A^T [(G g G^T) * (B^T d B)] A is the correlation of d and g, up to rounding."""
    rng = np.random.default_rng(m)
    d, g = rng.standard_normal((m + 2, m + 2)), rng.standard_normal((3, 3))
    a, b, k = (np.asarray(f(m), np.float64) for f in (output_matrix, input_matrix, kernel_matrix))
    got = a @ ((k @ g @ k.T) * (b @ d @ b.T)) @ a.T
    want = [[np.sum(d[i : i + 3, j : j + 3] * g) for j in range(m)] for i in range(m)]
    assert np.allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("m", TILES)
@pytest.mark.parametrize("filters", [4, 40_000])
def test_a_transform_is_made_of_any_stored_form(m, filters):
    """Large ones go in pieces, straight into the room given."""
    shape = (3, 3, 5, filters)
    stored = Layout(shape, [("pad", (3, 3, 6, filters)), ("transpose", (2, 0, 1, 3))])
    wanted = Layout(
        shape, [*stored.moves, ("transpose", (1, 2, 0, 3)), ("winograd", (m,)), ("transpose", (2, 0, 1, 3))]
    )
    other = Layout(shape, [("transpose", (0, 1, 3, 2)), ("winograd", (m,))])
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    k = np.asarray(kernel_matrix(m))
    want = np.einsum("pi,qj,ijcf->pqcf", k, k, w.astype(np.float64))
    rooms = []

    def room(shape, dtype):
        rooms.append(np.empty(shape, dtype))
        return rooms[-1]

    made = wanted.repack(stored.pack(w), stored, room)
    assert made is rooms[-1] and made.shape == wanted.packed_shape and made.dtype == np.float32
    assert np.allclose(made[:5], np.moveaxis(want, 2, 0), rtol=1e-5, atol=1e-6) and not made[5:].any()
    assert np.array_equal(made, wanted.pack(w))
    assert np.allclose(other.repack(stored.pack(w), stored), want.swapaxes(2, 3), rtol=1e-5, atol=1e-6)


def test_a_transform_has_no_way_back_and_is_never_what_is_stored():
    plain, made = Layout((3, 3, 5, 4)), Layout((3, 3, 5, 4), [("winograd", (2,))])
    assert made.derived and not plain.derived and Layout.from_json(made.to_json()) == made
    with pytest.raises(ValueError, match="cannot be unpacked"):
        made.unpack(np.zeros(made.packed_shape))
    Constant(0, 720, "f32", plain, made).verify()
    for dtype, stored, wanted in (("f32", made, plain), ("i32", plain, made)):
        with pytest.raises(VerifyError, match="no inverse"):
            Constant(0, 720, dtype, stored, wanted).verify()


# -- rounding to bfloat16, which is made at load as well ---
def test_rounded_pairs_are_made_of_any_stored_form():
    w = np.random.default_rng(1).standard_normal((300, 200)).astype(np.float32)
    w[0, :3] = np.nan, np.inf, 3.4e38
    stored, moves = Layout(w.shape, [("transpose", (1, 0))]), [("bf16", ()), ("reshape", (150, 2, 200))]
    wanted = Layout(w.shape, [*moves, ("transpose", (0, 2, 1))])
    made = wanted.repack(stored.pack(w), stored)
    assert made.dtype == np.uint16 and made.shape == wanted.packed_shape == (150, 200, 2) and wanted.rounds
    assert np.array_equal(bf16_to_f32(made[:, :, 1]), bf16_to_f32(f32_to_bf16(w[1::2])), equal_nan=True)
    assert np.array_equal(made, wanted.pack(w)) and Layout.from_json(wanted.to_json()) == wanted
    constant = Constant(0, w.nbytes, "f32", stored, wanted)
    constant.verify()
    assert constant.size == made.nbytes == w.nbytes // 2
    for dtype, first, second in (("f32", wanted, stored), ("f64", stored, wanted)):
        with pytest.raises(VerifyError, match="no inverse"):
            Constant(0, w.nbytes * (2 if dtype == "f64" else 1), dtype, first, second).verify()
