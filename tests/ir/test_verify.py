"""The verifier finds what is broken and says where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fusewright.core.dtypes import dtype
from fusewright.core.errors import VerifyError
from fusewright.ir import Builder, Const, Graph, Node, Origin, TensorType, get_op


def sample() -> Graph:
    b = Builder(origin=Origin("m.h5", "block/dense_1", "MatMul"))
    x = b.input("x", "f32", ("N", 4))
    y = b.relu(b.add(x, 1.0))
    body = b.region([y.type], lambda r, v: r.neg(v))
    z = b.apply("fused", [y], {}, [body])[0]
    return b.build(z, names=["z"])


def node(graph: Graph, name: str) -> Node:
    return next(n for n in graph.nodes if n.op.name == name)


def _late_use(g: Graph) -> None:
    node(g, "add").set_operand(0, node(g, "relu").result)


def _stale_use(g: Graph) -> None:
    node(g, "relu").result._uses[(node(g, "add"), 1)] = None


def _lost_use(g: Graph) -> None:
    node(g, "relu").result._uses.clear()


def _unlinked(g: Graph) -> None:
    relu = node(g, "relu")
    g.nodes.unlink(relu)
    relu.graph = None


def _return_moved(g: Graph) -> None:
    assert g.return_node is not None
    g.move(g.return_node, node(g, "relu"))


def _outer_value(g: Graph) -> None:
    inner = node(node(g, "fused").regions[0], "neg")
    inner.set_operand(0, node(g, "relu").result)


def _shared_region(g: Graph) -> None:
    fused = node(g, "fused")
    g.insert(Node(fused.op, fused.operands, fused.attrs, [fused.result.type], fused.regions))


def _names(g: Graph) -> None:
    g.output_names = ["a", "b"]


def _input_list(g: Graph) -> None:
    g.inputs.clear()


def _input_name(g: Graph) -> None:
    g.inputs[0].name = "other"


def _attrs(g: Graph) -> None:
    node(g, "relu").attrs["axis"] = 1


def _operand_count(g: Graph) -> None:
    relu = node(g, "relu")
    relu.set_operands([*relu.operands, relu.operands[0]])


def _constant(g: Graph) -> None:
    node(g, "constant").attrs["value"] = Const(np.zeros(3, "f4"), g.inputs[0].dtype)


def _two_returns(g: Graph) -> None:
    g.insert(Node(get_op("return"), [], {}, []))


def _bounds(g: Graph) -> None:
    g.bounds["N"] = (5, 2)


def _no_return(g: Graph) -> None:
    g.return_node = None


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_late_use, "defined after its use"), (_stale_use, "reads something else"), (_lost_use, "not list this use"),
        (_unlinked, "erased"), (_return_moved, "return node is not the last"), (_outer_value, "regions are closed"),
        (_shared_region, "belongs to two nodes"), (_names, "1 outputs have 2 names"), (_input_list, "input nodes"),
        (_input_name, "calls it 'x'"), (_attrs, "its attributes are"), (_operand_count, "it has 2 operands"),
        (_constant, "contents do not have its type"), (_two_returns, "second return"), (_bounds, "bounds of N"),
        (_no_return, "no return node"),
    ],
)  # fmt: skip
def test_broken_structure_is_found(break_it: Callable[[Graph], None], message: str) -> None:
    graph = sample()
    graph.verify(level=2)
    break_it(graph)
    graph.verify(level=0)
    with pytest.raises(VerifyError, match=message):
        graph.verify(level=1)


def test_wrong_types_are_found_at_level_2_only() -> None:
    graph = sample()
    node(graph, "relu").result.type = TensorType("f32", ("N", 5))
    graph.verify(level=1)
    with pytest.raises(VerifyError, match=r"carries f32\[N, 5\], inferred is f32\[N, 4\]"):
        graph.verify(level=2)


def test_the_message_shows_the_node_its_origin_and_a_hint() -> None:
    graph = sample()
    _late_use(graph)
    with pytest.raises(VerifyError) as caught:
        graph.verify()
    lines = str(caught.value).splitlines()
    arrow = next(i for i, line in enumerate(lines) if line.startswith("-->"))
    column = lines[arrow + 1].index("^")
    assert lines[arrow][column:].startswith("%2")
    assert any(line.startswith("origin: block/dense_1/MatMul") for line in lines)
    assert any(line.startswith("hint:") for line in lines)
    assert "add" in caught.value.where


def test_the_digest_of_a_splat_does_not_spread_it() -> None:
    # 2**50 elements: any copy would fail at once.
    huge = Const(np.broadcast_to(np.float32(3), (2**25, 2**25)), dtype("f32"))
    small = Const(np.broadcast_to(np.float32(3), (2, 2)), dtype("f32"))
    assert huge.is_splat and huge.digest != small.digest
    assert small.digest == Const(np.broadcast_to(np.float32(3), (2, 2)), dtype("f32")).digest
