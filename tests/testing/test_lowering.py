"""check_lowering: a right lowering passes, each kind of wrong one is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from onnx import TensorProto, helper

import fusewright as fw
from fusewright.frontends.registry import unregister_layer
from fusewright.testing import LoweringFailure, check_lowering


class Leak(keras.layers.Layer):
    """x where x > 0, else slope * x."""

    def __init__(self, slope: float = 0.25, **options: Any) -> None:
        super().__init__(**options)
        self.slope = slope

    def call(self, x: Any) -> Any:
        return keras.ops.where(x > 0, x, self.slope * x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "slope": self.slope}


@pytest.fixture
def registered() -> Iterator[Any]:
    yield lambda fn: fw.register_layer("Leak", replace=True)(fn)
    unregister_layer("Leak")


def model() -> Any:
    return keras.Sequential([keras.Input((3,)), Leak(0.25)])


def test_a_right_lowering(registered: Any) -> None:
    registered(lambda layer, x: fw.op.leaky_relu(x, alpha=layer.config["slope"]))
    report = check_lowering(model())
    assert report.examples == 50 and report.elements > 200


@pytest.mark.parametrize(
    ("lowering", "message"),
    [
        (lambda layer, x: fw.op.leaky_relu(x, alpha=0.2), "the reference says"),
        (lambda layer, x: fw.op.relu(x), "the reference says"),
        (lambda layer, x: fw.op.maximum(x, layer.config["slope"] * x + 1e-3), "the reference says"),
        # Right for numbers, not for NaN.
        (lambda layer, x: fw.op.where(fw.op.le(x, 0.0), x * 0.25, fw.op.where(fw.op.gt(x, 0.0), x, x * 0)), None),
        (lambda layer, x: fw.op.where(fw.op.isnan(x), x * 0 + 1, fw.op.leaky_relu(x, alpha=0.25)), None),
        (lambda layer, x: fw.op.where(fw.op.isnan(x), 0.0, fw.op.leaky_relu(x, alpha=0.25)), "nan"),
        (lambda layer, x: fw.op.reduce_sum(x, axes=-1, keepdims=True), "has shape"),
    ],
)
def test_wrong_lowerings(registered: Any, lowering: Any, message: str | None) -> None:
    registered(lowering)
    if message is None:
        assert check_lowering(model()).examples  # these are right, written in a roundabout way
        return
    with pytest.raises(LoweringFailure, match=message) as found:
        check_lowering(model())
    assert found.value.feeds and found.value.graph.nodes


def test_an_op_with_its_own_reference() -> None:
    fw.register_op("onnx", "Cube", replace=True)(lambda node, x: x * x * x)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Cube", ["x"], ["y"], domain="mine")], "g",
        [value("x", TensorProto.FLOAT, ["N", 4])], [value("y", TensorProto.FLOAT, ["N", 4])],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)])
    with np.errstate(all="ignore"):
        assert check_lowering(proto, lambda x: x**3).elements > 0
        with pytest.raises(LoweringFailure):
            check_lowering(proto, lambda x: x**2)
    with pytest.raises(fw.InputRefused, match="reference="):
        check_lowering(proto)


def test_extents_that_the_reference_refuses_are_counted() -> None:
    """A convolution over an image of no pixels is no model's business."""
    x = keras.Input((None, None, 2))
    report = check_lowering(keras.Model(x, keras.layers.Conv2D(3, 3, padding="same")(x)), max_examples=20)
    assert report.examples + report.refused == 20 and report.examples > 5


def test_what_nothing_decides_is_compared_in_shape() -> None:
    b = fw.Builder()
    v = b.input("x", "f32", (6,))
    graph = b.build({"y": b.argmax(b.exp(v), axis=0)})
    report = check_lowering(graph, lambda a: np.argmax(np.exp(a)))
    assert report.examples == 50 and report.undecided > 0
    with pytest.raises(LoweringFailure, match="has shape"):
        check_lowering(graph, lambda a: np.zeros(3))
    with pytest.raises(LoweringFailure, match="every drawn input was refused"):
        y = fw.Builder()
        check_lowering(y.build({"y": y.relu(y.input("x", "f32", ("N",)))}), lambda a: 1 / 0)
