"""Equal extents found while typing become one symbol."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from fusewright.core.dims import parse
from fusewright.core.errors import ImportRefused
from fusewright.frontends.keras import import_keras
from fusewright.frontends.symbols import Unequal, solve, unequal
from fusewright.ir.builder import Builder

L = keras.layers


def test_solve() -> None:
    a, b = parse("a_1"), parse("b_1")
    assert solve(a, b, {}) == {"b_1": a}
    assert solve(parse("a_1 - 2"), parse("b_1 - 3"), {}) == {"b_1": parse("a_1 + 1")}
    assert solve(a, 5, {}) == {"a_1": 5}
    assert solve(parse("N"), parse("x_0"), {}) == {"x_0": parse("N")}
    assert solve(parse("N"), 3, {}) is None
    assert solve(4, 5, {}) is None
    assert solve(parse("a_1 // 2"), parse("a_1 // 3"), {}) is None
    assert solve(b, parse("c_1"), {"b_1": a}) == {"b_1": a, "c_1": a}


def test_the_type_error_says_which_extents() -> None:
    """The wording of the IR's type errors is what the solver reads: this test holds the two together."""
    builder = Builder()
    x, y = builder.input("x", "f32", ("N", "S", 2)), builder.input("y", "f32", ("N", "U - 1", 2))
    with pytest.raises(Exception, match="not known to be equal") as caught:
        builder.add(x, y)
    error = unequal(str(caught.value), "here", "why")
    assert isinstance(error, Unequal)
    assert {str(error.left), str(error.right)} == {"S", "U - 1"}


def test_two_sequences_of_one_length() -> None:
    a, b = keras.Input((None, 4), name="a"), keras.Input((None, 4), name="b")
    model = keras.Model([a, b], L.Add()([L.Conv1D(4, 3)(a), L.Cropping1D(1)(b)]))
    graph = import_keras(model)
    assert [str(v.shape[1]) for v in graph.inputs] == ["a_1", "a_1"]
    x = np.random.default_rng(0).normal(size=(2, 7, 4)).astype(np.float32)
    got = graph.run({"a": x, "b": x})[graph.output_names[0]]
    np.testing.assert_allclose(got, np.asarray(model([x, x])), rtol=1e-4, atol=1e-5)


def test_extents_that_cannot_agree(scratch: object) -> None:
    a, b = keras.Input((None, 4), name="a"), keras.Input((None, 4), name="b")
    model = keras.Model([a, b], L.Concatenate(axis=-1)([L.MaxPooling1D(2)(a), L.MaxPooling1D(3)(b)]))
    with pytest.raises(ImportRefused) as caught:
        import_keras(model)
    assert caught.value.code == "ill-typed"
    assert "shapes=" in caught.value.hint


def test_sizes_of_same_windows_stay_short() -> None:
    """Five in a row, as in a network for images of any size: each extent is one rounded share of the input."""
    x = keras.Input((None, None, 3), name="image")
    y = L.Conv2D(2, 3, 2, padding="same")(x)
    y = L.MaxPooling2D(3, 2, padding="same")(L.DepthwiseConv2D(5, 2, padding="same")(y))
    y = L.AveragePooling2D(2, 2)(L.Conv2D(2, 3, padding="same")(y))
    y = L.Add()([y, L.Conv2D(2, 3, padding="same")(y)])
    model = keras.Model(x, L.Conv2DTranspose(2, 3, 2, padding="same")(y))
    graph = import_keras(model)
    assert [str(d) for d in graph.outputs[0].shape[1:3]] == ["2*((image_1 + 7)//16)", "2*((image_2 + 7)//16)"]
    pads = [str(p) for n in graph.nodes for pair in n.attrs.get("pads", ()) for p in pair]
    assert pads and not [p for p in pads if "max" in p or len(p) > 60]
    for size in ((16, 23), (33, 40)):
        image = np.random.default_rng(0).normal(size=(1, *size, 3)).astype(np.float32)
        got = graph.run({"image": image})[graph.output_names[0]]
        np.testing.assert_allclose(got, np.asarray(model(image)), rtol=1e-4, atol=1e-5)
