"""The reducer: what it leaves still fails, and is as small as its moves can make it."""

from __future__ import annotations

import numpy as np
import pytest

import fusewright as fw
from fusewright.ir import Graph
from fusewright.ir.interpreter import Interpreter
from fusewright.ir.ops.control import at_most
from fusewright.testing.reduce import ops_of, reduce_graph

LOOP = """graph(%x: f32[2, 3], %s: f32[2, 3], %n: i32[]) -> (a: f32[2, 3], b: f32[2, 3]) {
  %0 = constant 0 : i32[]
  %1, %2, %3, %4 = while %0, %x, %s, %s, %n, %x {n_carry = 4} : i32[], f32[2, 3], f32[2, 3], f32[2, 3] regions {
    graph(%i: i32[], %p: f32[2, 3], %q: f32[2, 3], %r: f32[2, 3], %n: i32[], %c: f32[2, 3]) -> (go: bool[]) {
      %0 = lt %i, %n : bool[]
      return go = %0
    }
    graph(%i: i32[], %p: f32[2, 3], %q: f32[2, 3], %r: f32[2, 3], %n: i32[], %c: f32[2, 3]) -> (o0: i32[], o1: f32[2, 3], o2: f32[2, 3], o3: f32[2, 3]) {
      %0 = constant 1 : i32[]
      %1 = add %i, %0 : i32[]
      %2 = tanh %p : f32[2, 3]
      %3 = mul %2, %c : f32[2, 3]
      %4 = exp %q : f32[2, 3]
      %5 = sub %4, %r : f32[2, 3]
      return o0 = %1, o1 = %3, o2 = %5, o3 = %r
    }
  }
  %5 = relu %2 : f32[2, 3]
  %6 = neg %3 : f32[2, 3]
  return a = %5, b = %6
}
"""  # noqa: E501
FEEDS = {"x": np.full((2, 3), 0.5, np.float32), "s": np.ones((2, 3), np.float32), "n": np.array(2, np.int32)}


@pytest.mark.parametrize(
    ("name", "ops", "carried"), [("exp", 3, [2]), ("tanh", 3, [2]), ("mul", 3, [2]), ("relu", 1, [])]
)
def test_a_loop_keeps_only_what_fails(name: str, ops: int, carried: list[int]) -> None:
    """The counter, which ends the loop, and the one value that the op makes; no loop at all where none is needed."""
    graph = fw.parse_graph(LOOP)

    def fails(g: Graph, feeds: dict[str, np.ndarray]) -> bool:
        with at_most(100):
            Interpreter(g).run(feeds)
        return any(n.op.name == name for n in g.walk())

    small, feeds = reduce_graph(graph, FEEDS, fails, seconds=60)
    assert fails(small, feeds)
    assert ops_of(small) <= ops
    assert [n.attrs["n_carry"] for n in small.nodes if n.op.name == "while"] == carried
    assert len(small.inputs) <= 3


def test_what_nothing_reads_is_kept_where_that_fails() -> None:
    graph = fw.parse_graph(LOOP.replace("return a = %5, b = %6", "return a = %5, b = %5"))

    def fails(g: Graph, feeds: dict[str, np.ndarray]) -> bool:
        return any(n.op.name == "neg" and not n.results[0].uses for n in g.nodes)

    small, _ = reduce_graph(graph, FEEDS, fails, seconds=60)
    assert fails(small, {})
    assert ops_of(small) == 1
