"""bitcast: element types of every size, in the interpreter and natively, and the types it refuses."""

from __future__ import annotations

import numpy as np
import pytest

import fusewright as fw
from fusewright.core.errors import TypeRefused

CASES = [
    ("f32", "i32", (3, 4)), ("f32", "u16", (3, 4)), ("i16", "f32", (5, 2)), ("u64", "f64", (3,)), ("f64", "i8", (2, 2)),
    ("f16", "u32", (3, 2)), ("i64", "i64", (2,)), ("u8", "i8", (0, 3)), ("i32", "f16", ()),
]  # fmt: skip


def _graph(of: str, to: str, shape: tuple[object, ...]) -> fw.Graph:
    b = fw.Builder()
    return b.build({"y": b.bitcast(b.input("x", of, shape), to=to)})


@pytest.mark.parametrize(("of", "to", "shape"), CASES)
def test_bits_are_those_of_numpy(of: str, to: str, shape: tuple[int, ...]) -> None:
    graph = _graph(of, to, shape)
    assert str(fw.parse_graph(str(graph))) == str(graph)
    source, target = graph.inputs[0].dtype.np, graph.outputs[0].dtype.np
    x = (np.random.default_rng(0).standard_normal(shape) * 90).astype(source)
    want = np.ascontiguousarray(x).reshape(*x.shape, 1).view(target) if target.itemsize < source.itemsize else x
    if target.itemsize >= source.itemsize:
        want = np.frombuffer(x.tobytes(), target).reshape(
            x.shape if target.itemsize == source.itemsize else x.shape[:-1]
        )
    np.testing.assert_array_equal(graph.run({"x": x})["y"], want)
    np.testing.assert_array_equal(fw.compile(graph).run({"x": x})["y"], want)


def test_bf16_crosses_as_float() -> None:
    x = np.float32([1.0, -2.5, np.inf, 0.0])
    assert _graph("bf16", "u16", (4,)).run({"x": x})["y"].tolist() == [0x3F80, 0xC020, 0x7F80, 0]


@pytest.mark.parametrize(("of", "to", "shape"), [("bool", "u8", (2,)), ("f32", "bool", (2,)), ("i16", "i32", (3,))])
def test_refusals(of: str, to: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(TypeRefused):
        _graph(of, to, shape)
