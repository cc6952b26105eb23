"""check_pass: right passes pass, each property catches its fault, failures are small and can be pasted."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.core.errors import InputRefused
from fusewright.passes.engine.rewrite import Rewrite
from fusewright.passes.local.canonicalise import canonicalise
from fusewright.passes.local.cse import cse
from fusewright.passes.local.dce import dce
from fusewright.passes.local.fold import fold
from fusewright.passes.local.localise import localise
from fusewright.passes.local.scale import scale
from fusewright.passes.local.simplify import RULES, simplify
from fusewright.passes.local.sink import sink
from fusewright.passes.pipeline import default_pipeline, tidy
from fusewright.passes.target.decompose import decompose
from fusewright.passes.target.fuse import fuse
from fusewright.passes.target.layout import layout
from fusewright.testing import PROPERTIES, PassFailure, PlainTarget, check_graph, check_pass, feeds
from fusewright.testing.reduce import ops_of

CONV = {"strides": ..., "pads": ..., "dilations": ..., "groups": ...}
# What a pass without patterns should meet often.
LIKE: dict[str, list[Any]] = {
    "layout": [
        lambda x, w: fw.op.relu(fw.op.conv(x, w, **CONV)),
        lambda x, w, y: fw.op.max_pool(fw.op.conv(x, w, **CONV), window=..., strides=..., pads=..., dilations=...) + y,
    ],
    "scale": [
        lambda x, w, c: fw.op.conv(x, w, **CONV) * c,
        lambda x, w, c: fw.op.matmul(x, w, transpose_a=..., transpose_b=...) * c,
        lambda x, w, c: fw.op.matmul(x, w, transpose_a=..., transpose_b=...) + c,
    ],
    "fuse": [lambda x, w, c: fw.op.relu(fw.op.matmul(x, w, transpose_a=..., transpose_b=...) + c)],
}
BUILT_IN = [canonicalise, localise, fold, simplify, sink, cse, dce, scale, decompose, tidy, layout, fuse]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_every_rule_of_simplify(rule: Rewrite) -> None:
    report = check_pass(rule, 60)
    assert report.fired >= 5
    assert set(report.properties) == set(PROPERTIES)


@pytest.mark.parametrize("p", BUILT_IN, ids=lambda p: p.name)
def test_every_built_in_pass(p: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = check_pass(p, 150, seed=3, like=LIKE.get(p.name, ()))
    assert report.examples == 150
    assert report.fired >= (0 if p is localise else 10)


@pytest.mark.parametrize("target", [None, PlainTarget()])
def test_the_default_pipeline(target: Any) -> None:
    assert check_pass(default_pipeline(target), 80).fired > 40


def test_one_seed_is_one_search() -> None:
    rule = fw.rewrite(lambda x: x * 1, lambda x: x, numerics="exact")
    assert check_pass(rule, 30, seed=5) == check_pass(rule, 30, seed=5)
    assert check_pass(rule, 30, seed=5) != check_pass(rule, 30, seed=6)


def caught(p: Any, examples: int = 200, **options: Any) -> PassFailure:
    start = time.monotonic()
    with pytest.raises(PassFailure) as found:
        check_pass(p, examples, **options)
    assert time.monotonic() - start < 30
    failure = found.value
    assert failure.property in PROPERTIES and failure.property in str(failure)
    # The example fails by itself, and so does the pasted test.
    with pytest.raises(PassFailure) as again:
        check_graph(p, failure.graph, failure.feeds, target=options.get("target"), claims=options.get("claims", ()))
    assert isinstance(again.value, AssertionError)
    scope: dict[str, Any] = {"the_pass": p, p.name if p.name.isidentifier() else "_": p}
    lines = [line for line in failure.repro.splitlines() if not line.startswith("from tests")]
    exec("\n".join(lines), scope)
    if not options:
        with pytest.raises(PassFailure):
            scope[f"test_{failure.property}"]()
    return failure


def rule(pattern: Any, replacement: Any, numerics: str = "exact") -> Rewrite:
    return fw.rewrite(pattern, replacement, numerics=numerics, name="broken")


@pytest.mark.parametrize(
    "broken",
    [
        rule(lambda x: x + 0, lambda x: x),
        rule(lambda x: x * 0, lambda x: fw.op.relu(-fw.op.abs(x)), "nsz"),
        rule(lambda x, y: x - y, lambda x, y: x + y),
        rule(lambda x: fw.op.maximum(x, 0), lambda x: fw.op.where(fw.op.gt(x, 0), x, x * 0), "nsz"),
        rule(lambda x, low, high: fw.op.relu(fw.op.clip(x, low, high)), lambda x, low, high: fw.op.clip(x, 0, high)),
        rule(lambda x, y: fw.op.log(x) + fw.op.log(y), lambda x, y: fw.op.log(x * y), "ulp(2)"),
    ],
    ids=lambda r: r.pattern.text,
)  # fmt: skip
def test_wrong_rules(broken: Rewrite) -> None:
    failure = caught(broken)
    assert failure.property == "semantics"
    assert ops_of(failure.graph) <= 3


def test_signature_and_verification() -> None:
    @fw.graph_pass(numerics="exact")
    def rename_output(graph: Any, ctx: Any) -> None:
        graph.output_names = [f"{n}_" for n in graph.output_names]
        ctx.rewrote()

    @fw.graph_pass(numerics="exact")
    def forget_uses(graph: Any, ctx: Any) -> None:
        for node in graph.nodes:
            if node.op.name == "neg":
                graph.nodes.unlink(node)
                ctx.rewrote()

    assert caught(rename_output).property == "signature"
    assert caught(forget_uses, ops=["neg", "add"]).property == "verifies"


def test_honesty() -> None:
    @fw.graph_pass(numerics="exact")
    def silent(graph: Any, ctx: Any) -> None:
        for node in reversed(graph.nodes):
            if node.op.name not in ("input", "return") and not any(v.uses for v in node.results):
                graph.erase(node)

    @fw.graph_pass(numerics="exact")
    def boastful(graph: Any, ctx: Any) -> None:
        ctx.rewrote("nothing")

    failure = caught(silent)
    assert failure.property == "honest" and ops_of(failure.graph) <= 1
    assert caught(boastful).property == "honest"


def test_shared_constants_stay_as_they_are() -> None:
    @fw.graph_pass(numerics="exact")
    def in_place(graph: Any, ctx: Any) -> None:
        """Writes to contents that the graph given shares with the copy."""
        for node in graph.nodes:
            if node.op.name == "constant" and node.attrs["value"].array.base is not None:
                base = node.attrs["value"].array.base
                if base.flags.writeable and base.dtype.kind == "f":
                    base[...] = 7

    # The very first application ruins the graph given, so later ones have nothing left to change.
    failure = caught_once(in_place)
    assert failure.property in ("honest", "semantics")


def caught_once(p: Any, **options: Any) -> PassFailure:
    with pytest.raises(PassFailure) as found:
        check_pass(p, 200, reduce=False, **options)
    return found.value


def test_termination_names_what_goes_on() -> None:
    grows = fw.rewrite(lambda x: fw.op.relu(x), lambda x: fw.op.relu(fw.op.relu(x)), numerics="exact", name="grows")
    failure = caught(grows)
    assert failure.property == "terminates" and "grows" in failure.why

    @fw.graph_pass(numerics="exact")
    def raises(graph: Any, ctx: Any) -> None:
        if len(graph.outputs) > 1:
            raise KeyError("two outputs")

    failure = caught(raises)
    assert failure.property == "terminates" and "KeyError" in failure.why
    assert ops_of(failure.graph) == 0 and len(failure.graph.outputs) == 2


@pytest.mark.parametrize("raised", [RuntimeError, NotImplementedError, OSError, EOFError, Warning])
def test_whatever_a_pass_raises_is_a_finding(raised: type[Exception]) -> None:
    @fw.graph_pass(numerics="exact")
    def raises(graph: Any, ctx: Any) -> None:
        raise raised("of its own")

    failure = caught_once(raises)
    assert failure.property == "terminates" and f"it raised {raised.__name__}: of its own" in str(failure)


def test_a_pass_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusewright.testing.properties.SECONDS", 0.2)

    @fw.graph_pass(numerics="exact")
    def forever(graph: Any, ctx: Any) -> None:
        while True:
            pass

    with pytest.raises(PassFailure, match="it ran for"):
        check_pass(forever, 5, reduce=False)


def test_time_that_a_pass_does_not_compute_counts_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that is busy with other things; but whoever waits for ever is stopped as well."""
    monkeypatch.setattr("fusewright.testing.properties.SECONDS", 0.05)
    naps = [0.3]

    @fw.graph_pass(numerics="exact")
    def waits(graph: Any, ctx: Any) -> None:
        time.sleep(naps.pop() if naps else 0)

    check_pass(waits, 3)
    monkeypatch.setattr("fusewright.testing.properties.PATIENCE", 4)
    naps.append(60.0)
    start = time.monotonic()
    with pytest.raises(PassFailure, match="it ran for"):
        check_pass(waits, 3, reduce=False)
    assert not naps and time.monotonic() - start < 30


def test_provenance_cost_idempotence_and_determinism() -> None:
    @fw.graph_pass(numerics="exact")
    def nameless(graph: Any, ctx: Any) -> None:
        for node in graph.nodes:
            if node.op.name == "neg":
                twin = fw.Builder(graph, node).neg(node.operands[0])
                graph.replace(node.results[0], twin)
                graph.erase(node)
                ctx.rewrote()

    calls = [0]

    @fw.graph_pass(numerics="exact")
    def moody(graph: Any, ctx: Any) -> None:
        calls[0] += 1
        if calls[0] % 2:
            for node in reversed(graph.nodes):
                if node.op.name == "add" and not node.results[0].uses:
                    graph.erase(node)
                    ctx.rewrote()

    spread = fw.rewrite(
        lambda x, y: fw.op.neg(x + y), lambda x, y: fw.op.neg(x) + fw.op.neg(y), numerics="nsz", name="spread"
    )
    assert caught(spread, claims=("cost",)).property in ("cost", "semantics")
    assert caught_once(nameless).property in ("provenance", "honest")
    assert caught_once(moody, ops=["add", "neg"]).property in ("honest", "deterministic", "idempotent")


def test_metamorphic_variants_find_what_depends_on_names() -> None:
    @fw.graph_pass(numerics="exact")
    def superstitious(graph: Any, ctx: Any) -> None:
        for node in reversed(graph.nodes):
            if any(v.name.startswith("other") for v in node.results) and not any(v.uses for v in node.results):
                graph.erase(node)
                ctx.rewrote()

    assert caught_once(superstitious).property == "metamorphic"


def test_skipped_properties_are_not_asked() -> None:
    broken = rule(lambda x: x + 0, lambda x: x)
    report = check_pass(broken, 60, skip=("semantics", "metamorphic"))
    assert "semantics" not in report.properties and report.fired
    with pytest.raises(InputRefused, match="no property"):
        check_pass(broken, 1, skip=("semantic",))
    with pytest.raises(InputRefused, match="not a pass"):
        check_pass(lambda x: x)  # type: ignore[arg-type]


def test_a_pass_that_never_fires_is_told() -> None:
    never = fw.rewrite(lambda x: fw.op.erfc(fw.op.erf(x)), lambda x: x, numerics="exact")
    with pytest.warns(UserWarning, match="nothing was tested"):
        check_pass(fw.graph_pass(numerics="exact")(lambda graph, ctx: None), 60)
    with pytest.raises(PassFailure):
        check_pass(never, 60)


def test_a_pipeline_names_the_guilty_pass() -> None:
    broken = fw.rewrite(lambda x: x + 0, lambda x: -x, numerics="exact", name="culprit")
    pipeline = default_pipeline().before("fold", broken)
    with pytest.raises(PassFailure, match="first seen after pass 'culprit'"):
        check_pass(pipeline, 200)


def test_feeds_that_fail_are_part_of_the_failure() -> None:
    failure = caught(rule(lambda x: fw.op.minimum(x, x), lambda x: fw.op.clip(x, -1e30, 1e30)))
    (name, value), *rest = failure.feeds.items()
    assert not rest and not np.all(np.abs(value) <= 1e30) and name in failure.repro
    assert feeds is not None and "def test_semantics" in failure.repro
