"""The reference figure of memory against its definition, worked out with plain sets."""

import time

import numpy as np
import pytest

from fusewright.core.dims import compare_eq, evaluate
from fusewright.ir import Builder
from fusewright.ir.alias import Aliases
from fusewright.ir.footprint import footprint
from fusewright.testing import random_graph


def need(extents, **env):
    return max(evaluate(e, env) for e in extents)


def by_definition(graph, env):
    """Operands, results and what every order keeps across each op, less what the op may overwrite."""
    aliases = Aliases(graph)
    nodes = [n for n in graph.nodes if n.op.name not in ("input", "constant", "return")]
    before = {}
    for n in graph.nodes:
        before[n] = set().union(*({v.producer} | before[v.producer] for v in n.operands), set())
    after = {n: {m for m in nodes if n in before[m]} for n in nodes}
    given = {aliases.root(v) for v in graph.outputs}
    counted = {
        aliases.root(v) for n in nodes for v in n.results
        if not aliases.is_constant(v) and not aliases.is_input(v) and aliases.root(v) not in given
    }  # fmt: skip
    most = 0
    for n in nodes:
        held = {aliases.root(v) for v in (*n.operands, *n.results)}
        read = {aliases.root(v) for m in after[n] for v in m.operands}
        held |= {v for v in counted if v.producer in before[n] and v in read}
        total = sum(evaluate(v.type.nbytes, env) for v in held & counted)
        spare = [0]
        for k in n.op.overwrites:
            if k < len(n.operands):
                root = aliases.root(n.operands[k])
                same = compare_eq(root.type.nbytes, n.results[0].type.nbytes)
                if root in counted and root not in read and same is True:
                    spare.append(evaluate(root.type.nbytes, env))
        inner = max((by_definition(r, env) for r in n.regions if n.op.name != "fused"), default=0)
        most = max(most, total - max(spare) + inner)
    return most


@pytest.mark.parametrize("seed", range(150))
def test_random_graphs_need_what_the_definition_says(seed, monkeypatch):
    if seed % 2:
        monkeypatch.setattr("fusewright.ir.footprint.BLOCK", 4)
    graph = random_graph(seed, max_nodes=4 + seed % 12, dead_code=seed % 3 == 0)
    for value in (1, 3, 7):
        env = {s: value for s in graph.symbols}
        assert need(footprint(graph), **env) == by_definition(graph, env)


def test_a_chain_works_in_one_buffer_and_a_product_needs_both():
    b = Builder()
    x = b.input("x", "f32", ("N", 8))
    y = b.exp(b.exp(b.exp(x)))
    z = b.matmul(y, np.ones((8, 16), np.float32))
    assert footprint(b.build(b.neg(b.exp(z)))) == (b.input("n", "f32", ("N", 24)).type.nbytes,)


def test_what_no_order_keeps_alive_is_not_counted():
    # Two branches: while one runs, only the result of the other may be alive, and need not be.
    b = Builder()
    x = b.exp(b.input("x", "f32", (100,)))
    left = b.reduce_sum(b.concat(x, x, axis=0), axes=0)
    right = b.reduce_sum(b.concat(x, x, x, axis=0), axes=0)
    # concat of x to 300 elements, with x beside it and nothing of the left branch for certain
    assert need(footprint(b.build(b.add(left, right)))) == 4 * (100 + 300)


def test_sizes_that_cross_are_both_kept():
    b = Builder()
    x, y = b.input("x", "f32", ("N", 4)), b.input("y", "f32", ("M", 4))
    extents = footprint(b.build(b.neg(b.cumsum(x, axis=0)), b.neg(b.cumsum(y, axis=0))))
    assert need(extents, N=10, M=1) == 160 and need(extents, N=1, M=20) == 320


def test_a_body_adds_what_it_needs_beyond_its_borders():
    b = Builder()
    x = b.input("x", "f32", ("T", 4))
    start = b.exp(b.input("h", "f32", (4,)))
    region = b.region([start.type, start.type], lambda r, h, s: r.add(h, r.reduce_sum(r.concat(h, s, axis=0), axes=0)))
    out = b.scan(start, x, n_carry=1, n_xs=1, regions=[region])
    assert need(footprint(b.build(b.neg(out))), T=5) == 16 + 16 + (32 + 4)


def test_ten_thousand_nodes_take_seconds():
    b = Builder()
    kept = [b.exp(b.input(f"x{i}", "f32", ("N", 8))) for i in range(8)]
    for _ in range(5000):
        kept.append(b.add(b.tanh(kept[-1]), kept[-8]))
    graph = b.build(*(b.neg(v) for v in kept[-8:]))
    start = time.process_time()
    # tanh: the eight last values are read later, and its result lies over none of them
    assert need(footprint(graph), N=1) == 9 * 32
    assert time.process_time() - start < 10
