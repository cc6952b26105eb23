"""Storage classes and the networkx views."""

from __future__ import annotations

import networkx as nx
import pytest

from fusewright.ir import Builder
from fusewright.ir.alias import Aliases, may_alias, view_root
from fusewright.ir.view import digraph, dot, post_dominators


def test_views_share_a_class_and_nothing_else_does() -> None:
    b = Builder()
    x = b.input("x", "f32", (2, 6))
    y = b.relu(x)
    a, c = b.reshape(y, shape=(12,)), b.reshape(b.reshape(y, shape=(3, 4)), shape=(4, 3))
    z = b.neg(a)
    k = b.reshape(b.constant([1.0, 2.0], "f32"), shape=(2, 1))
    graph = b.build(c, z, b.reshape(x, shape=(12,)), k)
    aliases = Aliases(graph)
    assert aliases.root(c) is y and view_root(c) is y
    assert aliases.may_alias(a, c) and may_alias(a, c)
    assert not aliases.may_alias(a, z) and not may_alias(x, y)
    assert aliases.storage_class(a)[0] is y and len(aliases.storage_class(a)) == 4
    assert aliases.escapes(y) and aliases.escapes(z) and aliases.escapes(x)
    assert aliases.is_input(graph.outputs[2]) and aliases.is_constant(k) and not aliases.is_input(y)
    assert [n.op.name for n in aliases.readers(y)] == ["neg", "return"]
    assert sum(len(c) for c in aliases.classes()) == sum(len(n.results) for n in graph.nodes)


def test_networkx_views() -> None:
    b = Builder()
    x = b.input('x"', "f32", (4,))
    left, right = b.neg(x), b.relu(x)
    both = b.add(left, right)
    b.exp(x)  # dead
    graph = b.build(b.add(both, both))
    view = digraph(graph)
    assert view.number_of_edges() == 8 and nx.is_directed_acyclic_graph(view)
    with pytest.raises(nx.NetworkXError):
        view.add_node("other")
    after = post_dominators(graph)
    assert after[x.producer] is both.producer and after[left.producer] is both.producer
    assert all(n.op.name != "exp" for n in after)
    assert dot(graph).count("->") == 8 and r"input x\"" in dot(graph)
