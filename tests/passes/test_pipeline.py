"""Pipelines: editing, stopping, verification that names the guilty pass, numerics modes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import cnn, lstm, transformer
from targets import FakeTarget

from fusewright.core.errors import RewriteError, VerifyError
from fusewright.ir import Builder, Graph
from fusewright.ir.graph import Node
from fusewright.passes import Pipeline, default_pipeline, graph_pass, op, rewrite

RULE = rewrite(lambda x: op.exp(op.log(x)), lambda x: x, numerics="ulp(2)", name="explog")


def small() -> Graph:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 4))
    return b.build({"y": b.relu(b.add(b.matmul(x, b.constant(np.eye(4, dtype=np.float32))), 1.0))})


def test_default_names_and_portable_cut() -> None:
    p = default_pipeline(FakeTarget())
    assert p.names == (
        "canonicalise", "localise", "fold", "simplify", "invariant", "loops", "carried", "hoist", "raise", "sink",
        "cse", "dce", "scale", "merge", "strides", "windows", "decompose", "tidy", "layout", "winograd", "winograd4",
        "gates", "bf16", "fuse", "thin",
    )  # fmt: skip
    assert p.portable_names == p.names[:14]
    assert all(p[name].numerics != "approx" for name in p.names if name not in ("winograd4", "bf16"))
    assert p.admitted == tuple(name for name in p.names if name not in ("winograd4", "bf16"))


def test_editing_gives_new_pipelines() -> None:
    p = default_pipeline(FakeTarget())
    q = p.after("simplify", RULE).before("fuse", RULE).without("cse")
    assert p.names == default_pipeline(FakeTarget()).names
    assert q.names[4] == "explog" and q.names[-3] == "explog (2)" and "cse" not in q.names
    assert "explog" in q.portable_names and "explog (2)" not in q.portable_names
    assert p.after("merge", RULE).portable_names[-1] == "explog"
    assert p.without("merge").portable_names[-1] == "scale"


@pytest.mark.parametrize("edit", [lambda p: p.after("nope", RULE), lambda p: p.without("nope"), lambda p: p["nope"]])
def test_unknown_names(edit: Any) -> None:
    with pytest.raises(RewriteError, match=r"no pass 'nope'; it has canonicalise"):
        edit(default_pipeline(FakeTarget()))


def test_only_passes_are_taken() -> None:
    with pytest.raises(RewriteError, match="not a pass"):
        Pipeline([lambda g: g])  # type: ignore[list-item]
    with pytest.raises(RewriteError, match="strict"):
        Pipeline([], numerics="loose")


def test_stop_and_start_meet() -> None:
    g, p = cnn(5, 8), default_pipeline(FakeTarget())
    cut, first = p.run(g, stop_after="scale")
    rest, second = p.run(cut, start_after="scale")
    whole, stats = p.run(g)
    assert rest.fingerprint == whole.fingerprint
    assert [s.name for s in first] + [s.name for s in second] == [s.name for s in stats] == list(p.names)
    assert not any(n.op.name in ("fused", "conv_blocked") for n in cut.walk())


def test_trace_sees_every_pass() -> None:
    seen: list[str] = []
    p = default_pipeline(FakeTarget())
    p.run(small(), trace=lambda name, graph: seen.append(name))
    assert seen == list(p.admitted)


def test_statistics() -> None:
    _, stats = default_pipeline(FakeTarget()).run(cnn(5, 8))
    assert stats["fuse"].rewritten > 0 and stats.rewritten >= stats["fuse"].rewritten
    declined = [d for d in stats.declined if d[0] != "pipeline"]  # a whole pass that the mode does not admit
    assert stats.matched == stats.rewritten + len(declined)
    assert "fuse (exact)" in stats.explain() and stats.seconds > 0
    with pytest.raises(KeyError):
        stats["nope"]


def test_broken_structure_names_the_pass() -> None:
    @graph_pass(numerics="exact")
    def breaks(graph: Graph, ctx: Any) -> None:
        first = graph.outputs[0].producer
        graph.move(first, next(iter(graph.nodes)))

    with pytest.raises(VerifyError, match="after pass 'breaks'"):
        Pipeline([breaks]).run(small())
    assert Pipeline([breaks]).run(small(), verify=0)[1].passes[0].name == "breaks"


def test_broken_types_need_level_two() -> None:
    @graph_pass(numerics="exact")
    def lies(graph: Graph, ctx: Any) -> None:
        node = graph.outputs[0].producer
        node.results[0].type = node.results[0].type.with_shape(("N", 5))

    Pipeline([lies]).run(small(), verify=1)
    with pytest.raises(VerifyError, match="after pass 'lies'"):
        Pipeline([lies]).run(small(), verify=2)


def test_changed_signature_is_refused() -> None:
    @graph_pass(numerics="exact")
    def renames(graph: Graph, ctx: Any) -> None:
        graph.output_names[0] = "z"

    with pytest.raises(VerifyError, match="'renames' changed the signature"):
        Pipeline([renames]).run(small())


def wrong(factor: float, numerics: str) -> Any:
    @graph_pass(numerics=numerics, name="wrong")
    def run(graph: Graph, ctx: Any) -> None:
        y = graph.outputs[0]
        b: Any = Builder(graph, graph.return_node)
        graph.return_node.set_operand(0, b.mul(y, factor))  # type: ignore[union-attr]

    return run


@pytest.mark.parametrize("numerics", ["exact", "ulp(1)", "nsz", "reassoc"])
def test_level_three_names_the_pass_that_changed_values(numerics: str) -> None:
    p = default_pipeline(FakeTarget()).after("cse", wrong(1.25, numerics))
    p.run(small(), verify=2)
    with pytest.raises(VerifyError, match="pass 'wrong' changed what the graph computes"):
        p.run(small(), verify=3)


def test_level_three_holds_exact_to_the_bit() -> None:
    g = one_relu()
    with pytest.raises(VerifyError, match="'wrong'"):
        Pipeline([wrong(1.0000001, "exact")]).run(g, verify=3)
    assert Pipeline([wrong(1.0000001, "approx")]).run(g, verify=3)[1].passes


def one_relu() -> Graph:
    b: Any = Builder()
    return b.build(b.relu(b.input("x", "f32", ("N", 4))))


@pytest.mark.parametrize("make", [cnn, transformer, lstm])
def test_default_pipeline_passes_level_three(make: Any) -> None:
    got, _ = default_pipeline(FakeTarget()).run(make(5), verify=3)
    assert any(n.op.name == "fused" for n in got.walk())


def test_strict_leaves_approx_out_and_says_so() -> None:
    rule = rewrite(lambda x: op.exp(x), lambda x: op.relu(x), numerics="approx", name="rough")
    b: Any = Builder()
    g = b.build({"y": b.exp(b.input("x", "f32", (3,)))})
    strict, stats = Pipeline([rule]).run(g)
    fast, _ = Pipeline([rule]).with_numerics("fast").run(g)
    assert strict.outputs[0].producer.op.name == "exp" and "approx" in stats.declined[0][1]
    assert fast.outputs[0].producer.op.name == "relu"


def test_graph_pass_must_edit_in_place() -> None:
    @graph_pass(numerics="exact")
    def copies(graph: Graph, ctx: Any) -> Graph:
        return graph.clone()

    with pytest.raises(RewriteError, match="another graph"):
        copies.apply(small())


def test_without_a_target_composites_are_spelt_out() -> None:
    got, _ = default_pipeline().run(transformer(0))
    assert not any(n.op.decompose is not None and n.op.scalar is None and n.op.eval is None for n in got.walk())


SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
from networks import cnn, lstm, transformer
from targets import FakeTarget
from fusewright.passes import default_pipeline
for make in (cnn, lstm, transformer):
    for seed in range(4):
        print(default_pipeline(FakeTarget()).run(make(seed))[0].fingerprint)
"""


def test_same_graph_under_any_hash_seed() -> None:
    texts = set()
    for seed in ("0", "1", "4711"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)]
        run = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        texts.add(run.stdout)
    assert len(texts) == 1 and len(texts.pop().split()) == 12


def chain(n: int) -> Graph:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 8, 8, 32))
    rng = np.random.default_rng(0)
    w, v = rng.standard_normal((3, 3, 32, 32)).astype(np.float32), np.abs(rng.standard_normal(32)).astype(np.float32)
    values = [x]
    while len(b.graph.nodes) < n:
        y = values[-1]
        y = b.conv(y, b.constant(w), pads=((1, 1), (1, 1)))
        y = b.relu(b.batch_norm(y, b.constant(v), b.constant(v + 1), b.constant(v), b.constant(v)))
        values.append(b.silu(b.add(y, values[max(0, len(values) - 3)])))
    return b.build(values[-1])


def test_ten_thousand_nodes() -> None:
    def computing(n: int) -> float:
        """Seconds of this thread: the machine may be shared."""
        graph, start = chain(n), time.thread_time()
        default_pipeline(FakeTarget()).run(graph)
        return time.thread_time() - start

    few, many = computing(1000), computing(10000)
    # A quadratic pass would be a hundred times slower, not thirty.
    assert many < 30 and many < 30 * max(few, 0.05)


def test_origins_survive() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 8, 8, 16))
    with b.origin(file="m.keras", layer="conv1"):
        y = b.conv(x, b.constant(np.ones((1, 1, 16, 16), np.float32)))
    with b.origin(layer="bn1"):
        v = b.constant(np.ones(16, np.float32))
        y = b.batch_norm(y, v, v, v, v)
    with b.origin(layer="relu1"):
        y = b.relu(y)
    got, _ = default_pipeline(FakeTarget()).run(b.build(y))
    fused = next(n for n in got.nodes if n.op.name == "fused")
    assert {"conv1", "bn1", "relu1"} <= set(fused.origin.layer.split(" + "))
    assert {"scale", "layout", "fuse"} <= set(fused.origin.rewrites) and fused.origin.file == "m.keras"


def computing(graph: Graph) -> list[Node]:
    return [n for n in graph.walk() if n.op.name not in ("input", "constant", "return")]


def test_every_node_has_an_origin_when_the_source_had() -> None:
    g = cnn(7)
    for node in g.walk():
        node.origin = type(node.origin)(layer="net", source=node.op.name)
    got, _ = default_pipeline(FakeTarget()).run(g)
    assert all(n.origin.layer == "net" for n in computing(got))
