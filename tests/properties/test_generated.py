"""Properties of every generated graph: it verifies, prints and parses back, and float32 stays inside its bounds."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusewright.core.errors import FusewrightError, InputRefused
from fusewright.ir import OPS, BoundedInterpreter, Builder, Graph, Interpreter, Node, Value, parse_graph
from fusewright.testing import (
    Maker,
    Mismatch,
    SeededDraw,
    Verdict,
    assert_equivalent,
    check_outputs,
    feeds,
    graphs,
    random_graph,
)

# Seconds of the seeded loop; FUSEWRIGHT_FUZZ_SECONDS and _SEED make it longer and move it on.
SECONDS = float(os.environ.get("FUSEWRIGHT_FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("FUSEWRIGHT_FUZZ_SEED", "0"))


@given(graphs())
def test_every_graph_verifies_and_round_trips(graph: Graph) -> None:
    graph.verify(level=2)
    text = str(graph)
    again = parse_graph(text)
    assert str(again) == text
    assert again.fingerprint == graph.fingerprint
    again.verify(level=2)
    # Inputs come first in the text; all else keeps its order.
    for g, h in ((again, graph), *zip(_regions(again), _regions(graph), strict=True)):
        assert [v.producer.origin for v in g.inputs] == [v.producer.origin for v in h.inputs]
        assert [(n.op, n.origin) for n in _inner(g)] == [(n.op, n.origin) for n in _inner(h)]


def _inner(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if n.op.name != "input"]


def _regions(graph: Graph) -> list[Graph]:
    return [r for n in graph.walk() for r in n.regions]


@given(graphs(max_nodes=8), st.data())
def test_float32_stays_inside_the_bounds(graph: Graph, data: st.DataObject) -> None:
    given_feeds = data.draw(feeds(graph))
    check_outputs(graph, given_feeds, graph.run(given_feeds))


@given(graphs(), st.data())
def test_a_parsed_or_cloned_graph_computes_the_same_bits(graph: Graph, data: st.DataObject) -> None:
    given_feeds = data.draw(feeds(graph))
    assert_equivalent(graph, parse_graph(str(graph)), given_feeds)
    assert_equivalent(graph, graph.clone(), given_feeds)


def test_seeded_graphs_in_volume() -> None:
    """Thousands of graphs: bounds hold, little is undecided, every op occurs, nothing but errors of ours is raised."""
    stop = time.monotonic() + SECONDS
    seen: Counter[str] = Counter()
    total = Verdict()
    seed = SEED
    while seed < SEED + 300 or time.monotonic() < stop:
        draw = SeededDraw(seed)
        graph = random_graph(seed)
        graph.verify()
        text = str(graph)
        assert str(parse_graph(text)) == text, f"seed {seed}"
        given_feeds = feeds(graph, draw)
        try:
            total.add(check_outputs(graph, given_feeds, graph.run(given_feeds)))
        except Mismatch as error:
            raise AssertionError(f"seed {seed}: {error}\n{text}") from error
        seen.update(node.op.name for node in graph.walk())
        seed += 1
    # Ops of value-dependent extents are drawn on request (test_dependent_graphs.py); other tests define ops of theirs.
    apart = {"symbol_of", "view_as", "nonzero", "unique", "non_max_suppression"}
    own = {name for name, op in OPS.items() if op.infer.__module__.startswith("fusewright.")}
    missing = [name for name in OPS if name in own - apart and not seen[name]]
    print(f"seeds {SEED} to {seed}: {total.elements} elements, {total.share:.2%} undecided, worst {total.worst:.3f}")
    assert seed < SEED + 1500 or not missing, f"ops that never occur: {missing}"
    assert total.share < 0.05


def test_a_seed_is_one_graph() -> None:
    assert str(random_graph(7)) == str(random_graph(7))
    assert len({random_graph(s).fingerprint for s in range(50)}) > 30
    one, two = feeds(random_graph(7), SeededDraw(1)), feeds(random_graph(7), SeededDraw(1))
    assert all(np.array_equal(one[k], two[k], equal_nan=one[k].dtype.kind == "f") for k in one)


def test_generated_feeds_are_read_only_and_every_output_is_fresh() -> None:
    for seed in range(60):
        graph = random_graph(seed)
        given_feeds = feeds(graph, SeededDraw(seed))
        assert not any(a.flags.writeable for a in given_feeds.values())
        outputs = list(graph.run(given_feeds).values())
        for i, out in enumerate(outputs):
            assert not any(np.shares_memory(out, a) for a in given_feeds.values())
            assert not any(np.shares_memory(out, other) for other in outputs[:i])


class _Mutant(Interpreter):
    """The interpreter with one op replaced: a miscompile that the oracle has to see."""

    def __init__(self, graph: Graph, op: str, change: object) -> None:
        super().__init__(graph, "f32")
        self.op, self.change = op, change

    def evaluate(self, node, operands, ctx):  # type: ignore[no-untyped-def]
        out = super().evaluate(node, operands, ctx)
        return [self.change(node, operands, o) for o in out] if node.op.name == self.op else out  # type: ignore[operator]


def _scaled(factor: float):  # type: ignore[no-untyped-def]
    return lambda node, args, out: (out * np.asarray(factor, out.dtype)).astype(out.dtype)


MUTANTS = {
    "exp is 3e-5 off": ("exp", _scaled(1 + 3e-5)),
    "sigmoid is 1e-5 off": ("sigmoid", _scaled(1 + 1e-5)),
    "sum loses an element": ("reduce_sum", lambda n, a, o: o - a[0].ravel()[:1].sum() if a[0].size > 1 else o),
    "floor truncates": ("floor", lambda n, a, o: np.trunc(a[0])),
    "relu drops NaN": ("relu", lambda n, a, o: np.fmax(a[0], np.zeros((), a[0].dtype)) if o.dtype.kind == "f" else o),
    "x - x is 0": ("sub", lambda n, a, o: np.zeros_like(o) if n.operands[0] is n.operands[1] else o),
    "where chooses the other": ("where", lambda n, a, o: np.where(a[0], a[2], a[1]) + np.zeros_like(o)),
    "mod has the sign of the dividend": ("mod", lambda n, a, o: np.fmod(a[0], a[1]).astype(o.dtype)),
    "round is half up": ("round", lambda n, a, o: np.floor(a[0] + 0.5).astype(o.dtype)),
    "matmul in half precision": ("matmul", lambda n, a, o: o.astype("f2").astype(o.dtype) if o.dtype == "f4" else o),
    "clip ignores its upper end": ("clip", lambda n, a, o: np.maximum(a[0], a[1]) + np.zeros_like(o)),
    "cumsum forgets to be exclusive": (
        "cumsum", lambda n, a, o: o + a[0] if n.attrs["exclusive"] else o,
    ),
    "argmax takes the last": ("argmax", lambda n, a, o: np.where(o == 0, a[0].shape[n.attrs["axis"]] - 1, o)),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_the_oracle_sees_seeded_miscompiles(name: str) -> None:
    op, change = MUTANTS[name]
    tried = 0
    with np.errstate(all="ignore"):
        for seed in range(3000):
            graph = random_graph(seed, ops=[op, "add", "mul"], max_nodes=4, control=False)
            if not any(n.op.name == op for n in graph.nodes):
                continue
            tried += 1
            given_feeds = feeds(graph, SeededDraw(seed))
            mutant = _Mutant(graph, op, change).run(given_feeds)
            try:
                check_outputs(graph, given_feeds, mutant)
            except Mismatch:
                break
        else:
            pytest.fail(f"{name}: {tried} graphs and the oracle saw nothing")
    assert tried >= 1


@settings(max_examples=50)
@given(graphs(max_nodes=6, ops=["add", "mul", "reduce_sum", "matmul", "exp"]), st.data())
def test_bounds_cover_float64_itself(graph: Graph, data: st.DataObject) -> None:
    """The reference and its own values agree: the bounded run computes what the wide run computes."""
    given_feeds = data.draw(feeds(graph))
    bounded, wide = BoundedInterpreter(graph).run_bounded(given_feeds), graph.run(given_feeds, precision="f64")
    for name, (value, err) in bounded.items():
        assert np.array_equal(value, wide[name], equal_nan=value.dtype.kind == "f")
        assert not np.isnan(err).any() and (err >= 0).all()


def test_injected_patterns_occur_and_user_ops_are_sampled_by_their_hint() -> None:
    def times_one(maker: Maker) -> object:
        v = maker.value(ranks=(0, 3))
        return maker.emit("mul", v, maker.b.constant(1, v.dtype)) if v.dtype.name != "bool" else None

    found = 0
    for seed in range(40):
        graph = random_graph(seed, inject=[times_one], max_nodes=8)
        graph.verify()
        found += any(n.op.name == "mul" and n.operands[1].const is not None for n in graph.nodes)
    assert found > 10
    names = {n.op.name for s in range(30) for n in random_graph(s, ops=["exp"]).nodes}
    assert names <= {"input", "constant", "exp", "return"}
    with pytest.raises(FusewrightError, match="no op"):
        random_graph(0, ops=["nope"])


def test_equivalence_at_each_level_of_numerics() -> None:
    def one(build: Callable[[Builder, Value], Value]) -> Graph:
        b = Builder()
        return b.build({"y": build(b, b.input("x", "f32", (4,)))})

    x = {"x": np.array([0.1, -0.0, 3.0, np.nan], "f4")}
    base = one(lambda b, v: v)
    assert_equivalent(base, one(lambda b, v: b.mul(v, 1.0)), x, "exact")
    zeros = one(lambda b, v: b.add(v, 0.0))
    assert_equivalent(base, zeros, x, "nsz")
    with pytest.raises(Mismatch):
        assert_equivalent(base, zeros, x, "exact")
    third = one(lambda b, v: b.mul(b.div(v, 3.0), 3.0))
    assert_equivalent(base, third, x, "reassoc")
    assert_equivalent(base, one(lambda b, v: b.mul(v, 1.0 + 2.0**-23)), x, "ulp(1)")
    for level in ("reassoc", "ulp(2)"):
        with pytest.raises(Mismatch):
            assert_equivalent(base, one(lambda b, v: b.mul(v, 1.00001)), x, level)
    with pytest.raises(InputRefused):
        assert_equivalent(base, base, x, "roughly")
    with pytest.raises(Mismatch, match="inputs differ"):
        assert_equivalent(base, one(lambda b, v: b.input("z", "f32", ())), x)
