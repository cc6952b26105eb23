"""The journal of rewrites, stopping after a number of them, and the search for the guilty one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn_loops import counted_loop, recurrence
from networks import around, cnn, lstm, shifted, skipped, transformer
from targets import FakeTarget

from fusewright.core.errors import RewriteError
from fusewright.ir import Builder, Graph
from fusewright.passes import Journal, Pipeline, default_pipeline, graph_pass, op, rewrite
from fusewright.testing.graphs import random_graph

SQUARE = rewrite(lambda x: x * x, lambda x: op.square(x), numerics="exact", name="to_square")
WRONG = rewrite(lambda x: op.square(x), lambda x: x * 2.0, numerics="reassoc", name="not_a_square")


def chain(length: int = 6) -> Graph:
    """tanh(x)^2, then tanh of that squared, and so on: ``length`` products."""
    b: Any = Builder()
    v = b.input("x", "f32", ("N", 4))
    for i in range(length):
        with b.origin(layer=f"layer{i}"):
            t = b.tanh(v)
            v = b.mul(t, t)
    return b.build({"y": v})


def test_a_journal_has_an_entry_per_rewrite() -> None:
    journal = Journal()
    _, stats = SQUARE.apply(chain(3), journal=journal)
    assert [(e.pass_name, e.number, e.rule) for e in journal] == [("to_square", i, "to_square") for i in (1, 2, 3)]
    assert stats.rewritten == len(journal) == 3
    assert journal[1].where == "layer1"
    assert journal[1].before == ("%mul = mul %tanh, %tanh : f32[N, 4]",)
    assert journal[1].after == ("%square = square %tanh : f32[N, 4]",)
    assert str(journal.about("layer2")).startswith("to_square #3: to_square at layer2\n  - %mul")


def test_a_value_that_stands_for_another_is_said() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N",))
    journal = Journal()
    rewrite(lambda x: x * 1, lambda x: x, numerics="exact").apply(b.build({"y": b.mul(x, 1.0)}), journal=journal)
    assert journal[0].after == ("%mul is now %x",)


def test_every_pass_of_a_pipeline_writes() -> None:
    journal = Journal()
    _, stats = default_pipeline().run(chain(), journal=journal)
    assert len(journal) == stats.rewritten > 0
    assert {e.pass_name for e in journal} == {s.name for s in stats if s.rewritten}


def test_every_entry_of_every_built_in_pass_says_rule_place_before_and_after() -> None:
    pipeline = default_pipeline(FakeTarget())
    drawn = [make(seed) for make in (cnn, transformer, lstm) for seed in range(12)]
    drawn += [
        around(),
        shifted(),
        skipped(),
        *(random_graph(seed, inject=[counted_loop, recurrence]) for seed in range(60)),
    ]
    journal = Journal()
    for graph in drawn:
        pipeline.run(graph, verify=0, journal=journal)
        for name in ("simplify", "dce"):  # which find their work done when they come
            pipeline[name].apply(graph, journal=journal)
    for entry in journal:
        assert entry.rule and entry.where and entry.before and entry.after, str(entry)
    assert {e.pass_name for e in journal} == set(pipeline.admitted) - {"merge"}  # what merge writes: test_merge.py


def test_the_entry_of_a_group_shows_its_members_and_what_stands_for_them() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 4))
    w = b.constant(np.ones((4, 4), np.float32))
    journal = Journal()
    with b.origin(layer="dense"):
        y = b.relu(b.matmul(x, w))
    default_pipeline(FakeTarget()).run(b.build({"y": y}), journal=journal)
    (entry,) = [e for e in journal if e.pass_name == "fuse"]
    assert entry.where == "dense"
    assert [line.split(" = ")[1].split()[0] for line in entry.before] == ["matmul", "relu"]
    assert len(entry.after) == 1 and " = fused %x, %constant" in entry.after[0]


def test_passes_of_others_get_their_lines_for_nothing() -> None:
    @graph_pass(numerics="reassoc")
    def mine(graph: Graph, ctx: Any) -> None:
        for node in graph.nodes:
            if node.op.name == "tanh":
                b = Builder(graph, node, node.origin)
                b.exp(node.operands[0])  # a try that is taken back leaves no trace
                graph.erase(b.exp(node.operands[0]).producer)
                graph.replace(node.results[0], b.sigmoid(node.operands[0]))
                graph.erase(node)
                ctx.rewrote("tanh as sigmoid")
            if node.op.name == "mul":
                node.set_operand(1, graph.inputs[0])
                ctx.rewrote()

    journal = Journal()
    out, _ = mine.apply(chain(1), journal=journal)
    assert [str(e) for e in journal] == [
        "mine #1: tanh as sigmoid at layer0\n"
        "  - %tanh = tanh %x : f32[N, 4]\n"
        "  + %exp = exp %x : f32[N, 4]\n"
        "  + %sigmoid = sigmoid %x : f32[N, 4]",
        "mine #2: mine at layer0\n"
        "  - %mul = mul %sigmoid, %sigmoid : f32[N, 4]\n"
        "  + %mul = mul %sigmoid, %x : f32[N, 4]",
    ]
    assert out.watcher is None


@pytest.mark.parametrize("limit", range(4))
def test_a_limit_stops_after_that_many(limit: int) -> None:
    out, stats = SQUARE.apply(chain(3), limit=limit)
    out.verify(level=2)
    assert stats.rewritten == limit == sum(n.op.name == "square" for n in out.nodes)


def test_bisect_names_pass_and_rewrite() -> None:
    pipeline = Pipeline([SQUARE, WRONG])
    graph = chain()
    culprit = pipeline.bisect(graph)
    assert culprit is not None
    assert (culprit.pass_name, culprit.number) == ("not_a_square", 1)
    assert "not_a_square #1" in str(culprit)
    x = np.full((1, 4), 0.5, np.float32)
    before, after = (g.run({"x": x})["y"] for g in (culprit.before, culprit.after))
    assert np.allclose(before, graph.run({"x": x})["y"]) and not np.allclose(before, after)


def test_bisect_finds_the_third_of_many() -> None:
    def wrong(g: Graph) -> bool:
        """From the third product on."""
        return sum(n.op.name == "square" for n in g.nodes) >= 3

    questions: list[int] = []
    culprit = Pipeline([SQUARE]).bisect(chain(40), lambda g: questions.append(1) or wrong(g))
    assert culprit is not None and culprit.number == 3
    assert culprit.entry is not None and culprit.entry.where == "layer2"
    assert len(questions) <= 12


def test_a_pass_that_does_not_count_is_named_as_a_whole() -> None:
    @graph_pass(numerics="exact")
    def sly(graph: Graph, ctx: Any) -> None:
        for node in graph.nodes:
            if node.op.name == "tanh":
                graph.replace(node.results[0], node.operands[0])

    culprit = Pipeline([SQUARE, sly]).bisect(chain(2))
    assert culprit is not None and culprit.number is None and str(culprit) == "sly: the pass as a whole"


def test_nothing_wrong_and_wrong_from_the_start() -> None:
    assert default_pipeline().bisect(chain(2)) is None
    with pytest.raises(RewriteError, match="before the first pass"):
        default_pipeline().bisect(chain(2), lambda g: True)


@pytest.mark.parametrize("level", [-1, 4, 9])
def test_verification_levels(level: int) -> None:
    with pytest.raises(RewriteError, match="verify="):
        default_pipeline().run(chain(1), verify=level)


def test_an_error_in_a_rule_names_rule_place_and_pass() -> None:
    @rewrite(lambda x: op.tanh(x), numerics="exact")
    def broken(m: Any, x: Any) -> Any:
        return x.no_such_thing

    with pytest.raises(AttributeError) as found:
        Pipeline([broken]).run(chain(1))
    notes = "\n".join(found.value.__notes__)
    assert "in rule 'broken' at tanh (layer0)" in notes and "in pass 'broken'" in notes


def test_replacements_bind_by_name() -> None:
    b: Any = Builder()
    x, y = b.input("x", "f32", (4,)), b.input("y", "f32", (4,))
    graph = b.build({"z": b.sub(x, y)})
    swapped = rewrite(lambda a, b: a - b, lambda b, a: a + (-b), numerics="exact")
    out, stats = swapped.apply(graph)
    feed = {"x": np.arange(4, dtype=np.float32), "y": np.ones(4, np.float32)}
    assert stats.rewritten == 1 and np.array_equal(out.run(feed)["z"], feed["x"] - 1)
    with pytest.raises(RewriteError, match="same names"):
        rewrite(lambda a, b: a - b, lambda b, c: b, numerics="exact")


def test_numpy_functions_in_a_pattern() -> None:
    rule = rewrite(lambda x: np.exp(np.float32(2) * x), lambda x: op.exp(x + x), numerics="exact")
    b: Any = Builder()
    x = b.input("x", "f32", (4,))
    assert rule.apply(b.build({"y": b.exp(b.mul(x, 2.0))}))[1].rewritten == 1
    with pytest.raises(RewriteError, match=r"np\.heaviside"):
        rewrite(lambda x: np.heaviside(x, 1), lambda x: x, numerics="exact")
