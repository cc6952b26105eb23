"""What may be passed to a bundle, and what is refused with which words."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusewright.core.dtypes import dtype
from fusewright.core.errors import BundleRefused, InputRefused, VerifyError
from fusewright.core.manifest import Port, Symbol
from fusewright.runtime.bundle import Bundle, load
from fusewright.runtime.call import Matcher, Spec, convert
from fusewright.runtime.expressions import Expressions

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass")
X = np.arange(24, dtype="f4").reshape(3, 8)


@pytest.fixture(scope="module")
def add(tiny: Any) -> Bundle:
    return load(tiny.add(), threads=2)


def _unaligned(x: np.ndarray) -> np.ndarray:
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def _readonly(x: np.ndarray) -> np.ndarray:
    y = x.copy()
    y.flags.writeable = False
    return y


class _Foreign:
    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.x


class _Dlpack:
    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def __dlpack__(self, **more: Any) -> Any:
        return self.x.__dlpack__(**more)

    def __dlpack_device__(self) -> Any:
        return self.x.__dlpack_device__()


class _Sub(np.ndarray):
    pass


LAYOUTS = {
    "plain": lambda x: x,
    "fortran": np.asfortranarray,
    "swapped": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "negative": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "unaligned": _unaligned,
    "readonly": _readonly,
    "subclass": lambda x: x.view(_Sub),
    "matrix": lambda x: np.matrix(x),
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(map(tuple, x.tolist())),
    "protocol": _Foreign,
    "dlpack": _Dlpack,
    "memoryview": lambda x: memoryview(x),
    "rebuilt dtype": lambda x: x.view(np.dtype([("f", "f4")])["f"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_right_answer(add: Bundle, name: str) -> None:
    given_x = LAYOUTS[name](X)
    for result in (add(given_x, X), add(X, b=given_x), add.run({"a": given_x, "b": given_x})["c"]):
        np.testing.assert_array_equal(result, X + X)
        assert type(result) is np.ndarray and result.dtype == np.float32 and result.flags.c_contiguous


def test_broadcast_views_and_zero_rows(add: Bundle) -> None:
    flat = np.broadcast_to(np.float32(2.0), (3, 8))
    np.testing.assert_array_equal(add(flat, X), X + 2)
    for empty in (X[:0], np.empty((0, 8), "f4", order="F"), X[::-1][:0], [], ()):
        if isinstance(empty, np.ndarray):
            assert add(empty, empty).shape == (0, 8)
        else:
            with pytest.raises(InputRefused, match="rank 1"):
                add(empty, X[:0])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (X.astype("f8"), ["'a'", "float64", "f32 (N, 8)", "x.astype(np.float32)"]),
        (X.astype("f2"), ["float16"]),
        (X.astype("i4"), ["int32"]),
        (X.astype(">f8"), ["f8"]),
        (X.astype(bool), ["bool"]),
        (X.astype(complex), ["complex128"]),
        (X.astype(object), ["object"]),
        (X.astype("U"), ["'a'"]),
        (np.zeros((3, 8), "M8[s]"), ["datetime64"]),
        (np.zeros((3, 8), [("x", "f4")]), ["'a'"]),
        (np.longdouble(3), ["'a'"]),
        (np.ma.masked_array(X, X > 3), ["masked", "filled"]),
        (None, ["NoneType"]),
        ("text", ["str"]),
        (b"bytes", ["bytes"]),
        ({"a": 1}, ["dict"]),
        (object(), ["object"]),
        (np.ndarray, ["type"]),
        (iter([1, 2]), ["iterator"]),
        ([[1.0], [1.0, 2.0]], ["list"]),
        ([["x"] * 8], ["list", "<U1"]),
        ([[1e300] * 8], ["does not fit"]),
        ([[16777217] * 8], ["does not fit"]),
        ([[2**70] * 8], ["list"]),
        ([[True] * 8], ["list"]),
        ([[1j] * 8], ["list"]),
        (3.0, ["rank 0"]),
        (X[0], ["rank 1 (8,)", "rank 2"]),
        (X[None], ["rank 3"]),
        (X[:, :7], ["shape (3, 7)", "axis 1 must be 8"]),
    ],
)
def test_refusals_name_input_got_and_wanted(add: Bundle, value: Any, words: list[str]) -> None:
    with pytest.raises(InputRefused) as caught:
        add(value, X)
    for w in ["'a'", *words]:
        assert w in str(caught.value)


def test_a_foreign_object_that_raises(add: Bundle) -> None:
    class Bad:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            raise KeyError("inner")

    with pytest.raises(InputRefused, match="inner"):
        add(Bad(), X)


def test_names(add: Bundle) -> None:
    np.testing.assert_array_equal(add(b=X, a=X), X + X)
    for args, named, words in [
        ((X,), {}, "missing: 'b'"),
        ((X, X), {"a": X}, "given twice: 'a'"),
        ((X,), {"B": X}, "unknown: 'B'; missing: 'b'"),
        ((X, X, X), {}, "got 3 inputs, wanted 2"),
        ((), {}, "missing: 'a', 'b'"),
    ]:
        with pytest.raises(InputRefused, match=words):
            add(*args, **named)
    with pytest.raises(InputRefused, match="unknown: 5"):
        add.run({5: X, "a": X, "b": X})
    with pytest.raises(InputRefused, match="dict"):
        add.run([X, X])  # type: ignore[arg-type]


def test_symbols_must_agree(add: Bundle) -> None:
    with pytest.raises(
        InputRefused, match=r"input 'b'.*\(2, 8\).*axis 0 must be 3, as N is 3 as input 'a' axis 0 says"
    ):
        add(X, X[:2])


def test_bounds_and_fixed_symbols(tiny: Any) -> None:
    bounded = load(tiny.add(symbols=(Symbol("N", 2, 4),)))
    assert bounded(X, X).shape == (3, 8)
    for n, words in ((1, "from 2 to 4"), (5, "from 2 to 4")):
        with pytest.raises(InputRefused, match=f"symbol N is {n}.*{words}"):
            bounded(np.zeros((n, 8), "f4"), np.zeros((n, 8), "f4"))
    fixed = load(tiny.add(symbols=(Symbol("N", 3, 3),)))
    assert fixed(X, X).shape == (3, 8)
    with pytest.raises(InputRefused, match="axis 0 must be 3"):
        fixed(X[:2], X[:2])


def test_dicts_are_wanted_where_names_are_given(add: Bundle) -> None:
    y = np.empty((3, 8), "f4")
    for call in (lambda: add.run([X, X]), lambda: add.profile([X, X]), lambda: add.bind([X, X], {"c": y}),
                 lambda: add.bind({"a": X, "b": X}, [y])):  # fmt: skip
        with pytest.raises(InputRefused, match=r"a dict of (in|out)puts, not a list"):
            call()


def test_out(add: Bundle) -> None:
    y = np.empty((3, 8), "f4")
    assert add(X, X, out=y) is y and add(X, X, out=(y,))[0, 0] == 0
    np.testing.assert_array_equal(y, X + X)
    strided = np.zeros((3, 16), "f4")[:, ::2]
    swapped = np.zeros((3, 8), ">f4")
    for out in (strided, swapped, np.zeros((3, 8), "f4", order="F"), _unaligned(X * 0)):
        assert add(X, X, out=out) is out
        np.testing.assert_array_equal(out, X + X)
    own = X.copy()
    assert add(own, X, out=own) is own
    np.testing.assert_array_equal(own, X + X)
    line = np.arange(40, dtype="f4")
    a, out = line[:24].reshape(3, 8), line[8:32].reshape(3, 8)
    want = a + X
    np.testing.assert_array_equal(add(a, X, out=out), want)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (np.empty((2, 8), "f4"), "wanted float32 (3, 8)"),
        (np.empty((3, 8), "f8"), "float64"),
        (_readonly(X), "read-only"),
        ([1], "list|int"),
        ("x", "str"),
        ((np.empty((3, 8), "f4"),) * 2, "got 2 arrays, wanted 1"),
        ({"c": np.empty((3, 8), "f4")}, "got"),
    ],
)
def test_out_refusals(add: Bundle, out: Any, words: str) -> None:
    with pytest.raises(InputRefused, match=words if "|" in words else re.escape(words)):
        add(X, X, out=out)


def test_results_never_share_memory(tiny: Any, add: Bundle) -> None:
    first = add(X, X)
    keep = first.copy()
    second = add(first, first)
    assert not np.may_share_memory(first, second)
    np.testing.assert_array_equal(first, keep)
    np.testing.assert_array_equal(second, 4 * X)
    passing = load(tiny.passing())
    x = np.ones((2, 2), "f4")
    same, constant = passing(x)
    assert not np.may_share_memory(same, x) and constant.flags.writeable
    constant[...] = 9
    np.testing.assert_array_equal(passing(x)[1], [0, 1, 2])


def test_several_outputs(tiny: Any) -> None:
    passing = load(tiny.passing())
    x = np.arange(6, dtype="f4").reshape(3, 2)
    outs = np.empty((3, 2), "f4"), np.empty(3, "f4")
    result = passing(x, out=outs)
    assert isinstance(result, tuple) and result[0] is outs[0] and result[1] is outs[1]
    np.testing.assert_array_equal(outs[0], x)
    assert set(passing.run({"x": x})) == {"same", "constant"}
    shared = np.empty(9, "f4")
    with pytest.raises(InputRefused, match="overlap"):
        passing(x, out=(shared[:6].reshape(3, 2), shared[4:7]))
    with pytest.raises(InputRefused, match="got 1 arrays, wanted 2"):
        passing(x, out=outs[0])


@pytest.mark.parametrize("name", ["f16", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool"])
def test_every_element_type(tiny: Any, name: str) -> None:
    passing, kind = load(tiny.passing(name)), dtype(name).np
    x = np.array([[0, 1], [1, 0]]).astype(kind)
    for given_x in (x, x.astype(kind.newbyteorder(">")), x.tolist(), x[::-1][::-1]):
        same, _ = passing(given_x)
        assert same.dtype == kind
        np.testing.assert_array_equal(same, x)
    other = np.dtype("f4") if kind.kind != "f" else np.dtype("i4")
    with pytest.raises(InputRefused, match="'x'"):
        passing(x.astype(other))
    if kind.kind in "iu":
        with pytest.raises(InputRefused, match="'x'"):
            passing([[0.5, 1.0]])
        if kind.itemsize < 8:
            with pytest.raises(InputRefused, match="does not fit"):
                passing([[np.iinfo(kind).max + 1, 0]])


def test_bfloat16_crosses_as_float32_or_itself(tiny: Any) -> None:
    passing = load(tiny.passing("bf16"))
    x = np.array([[1.0, 1.00390625], [np.nan, -np.inf]], "f4")
    rounded = x.astype(ml_dtypes.bfloat16)
    same, _ = passing(x)
    assert same.dtype == np.float32
    np.testing.assert_array_equal(same, rounded.astype("f4"))
    same, _ = passing(rounded)
    assert same.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(same.view("u2")[0], rounded.view("u2")[0])
    assert np.isnan(same[1, 0].astype("f4"))
    same, _ = passing([[1, 2]])
    assert same.tolist() == [[1.0, 2.0]]
    for wrong in (x.astype("f8"), rounded.view("u2"), x.astype("f2")):
        with pytest.raises(InputRefused, match="float32"):
            passing(wrong)
    outs = np.empty((2, 2), ml_dtypes.bfloat16), np.empty(3, "f4")
    assert passing(x, out=outs)[0] is outs[0]
    np.testing.assert_array_equal(outs[0].astype("f4"), rounded.astype("f4"))


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 5), st.just(8)), elements=st.floats(width=32)), st.data())
def test_any_view_of_any_values(tiny: Any, x: np.ndarray, data: st.DataObject) -> None:
    bundle = load(_ADD.setdefault("add", tiny.add()))
    steps = data.draw(st.tuples(st.sampled_from([1, 2, -1, -2]), st.sampled_from([1, 3, -1])))
    wide = np.zeros((x.shape[0] * abs(steps[0]), 8 * abs(steps[1])), "f4")
    view = wide[:: steps[0], :: steps[1]]
    view[...] = x
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(bundle(view, x), x + x)


_ADD: dict[str, Any] = {}


def _matcher(*shapes: tuple[Any, ...], symbols: str = "N T") -> Matcher:
    specs = [Spec(Port(f"x{i}", dtype("f32"), s)) for i, s in enumerate(shapes)]
    return Matcher(specs, [Symbol(s) for s in symbols.split()])


def test_expressions_in_shapes_are_solved() -> None:
    with pytest.raises(BundleRefused, match="symbol T"):
        _matcher(("2*N + 1", "N*T + 3"))  # T is not to be had where N is 0
    m = _matcher(("2*N + 1", "T"), ("N + T",))
    assert m.solve([(7, 4), (7,)]) == {"N": 3, "T": 4}
    with pytest.raises(InputRefused, match="no N makes axis 0"):
        m.solve([(8, 4), (7,)])
    with pytest.raises(InputRefused, match=r"axis 0 must be N \+ T = 7, as T = 4, N = 3"):
        m.solve([(7, 4), (8,)])
    with pytest.raises(InputRefused, match="no N makes"):
        _matcher(("N + 5",), symbols="N").solve([(3,)])
    with pytest.raises(BundleRefused, match="symbol T"):
        _matcher(("N",))
    with pytest.raises(BundleRefused, match="symbol N"):
        _matcher(("(N) // 2",), symbols="N")


def test_a_plan_of_too_many_terms_is_refused() -> None:
    powers = [range(1, 20)] * 3
    texts = ["*".join("A" * a + "B" * b + "C" * c) for a, b, c in product(*powers)]
    assert Expressions(texts[:100], ["A", "B", "C"]).evaluate({"A": 2, "B": 1, "C": 1})[-1] == 2
    with pytest.raises(VerifyError, match="6859 expressions of 6860 different terms"):
        Expressions(texts, ["A", "B", "C"])


def test_scalars_and_conversion_copies() -> None:
    spec = Spec(Port("s", dtype("f32"), ()))
    assert convert(spec, 3).shape == () and convert(spec, np.float32(2)) == 2
    with pytest.raises(InputRefused, match="float64"):
        convert(spec, np.float64(2))
    ready = X.copy()
    assert convert(Spec(Port("x", dtype("f32"), ("N", 8))), ready) is ready
    zero_d = np.array(5, ">f4")
    assert convert(spec, zero_d).shape == () and convert(spec, zero_d) == 5
