"""The rewrite engine: what users declare, what matches, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from left import ops

from fusewright.core.errors import RewriteError
from fusewright.ir import Builder, Graph
from fusewright.passes import Match, RuleSet, about, graph_pass, one_of, op, rewrite
from fusewright.passes.engine.pattern import alternatives


def one(build: Any, *inputs: tuple[str, tuple[Any, ...]]) -> Graph:
    b: Any = Builder()
    values = [b.input(f"x{i}", dt, shape) for i, (dt, shape) in enumerate(inputs or (("f32", ("N", 4)),))]
    out = build(b, *values)
    return b.build(*(out if isinstance(out, tuple) else (out,)))


TIMES_ONE = rewrite(lambda x: x * 1, lambda x: x, numerics="exact")


@pytest.mark.parametrize(
    "ones", [1.0, np.ones((), np.float32), np.ones(1, np.float32), np.ones((1, 4), np.float32),
             np.broadcast_to(np.float32(1), (4,))]
)  # fmt: skip
def test_times_one_of_any_rank_in_both_orders(ones: Any) -> None:
    for swap in (False, True):
        g = one(lambda b, x, s=swap: b.mul(b.constant(ones, "f32"), x) if s else b.mul(x, b.constant(ones, "f32")))
        got, stats = TIMES_ONE.apply(g)
        # Spread-out ones are no repeated element, so they are left to constant folding.
        stored_once = np.asarray(ones).size == 1 or not any(np.asarray(ones).strides)
        assert (ops(got) == []) == stored_once
        assert stats.rewritten == int(stored_once)


def test_broadcasting_constant_is_not_dropped() -> None:
    g = one(lambda b, x: b.mul(x, b.constant(np.broadcast_to(np.float32(1), (3, 4)))), ("f32", (4,)))
    got, stats = TIMES_ONE.apply(g)
    assert ops(got) == ["mul"]
    assert "type" in stats.declined[0][1] and "mul" in stats.declined[0][0]


def test_broadcast_scalar_matches() -> None:
    g = one(lambda b, x: b.mul(x, b.full(("N", 4), 1.0, "f32")))
    assert ops(TIMES_ONE.apply(g)[0]) == []


def test_input_graph_is_untouched_and_signature_kept() -> None:
    g = one(lambda b, x: b.mul(x, 1.0))
    before = str(g)
    got, _ = TIMES_ONE.apply(g)
    assert str(g) == before
    assert got.output_names == g.output_names and got.outputs[0] is got.inputs[0]


def test_integers_and_wrong_sign_of_zero() -> None:
    minus = rewrite(lambda x: x - 0, lambda x: x, numerics="exact")
    assert ops(minus.apply(one(lambda b, x: b.sub(x, 0), ("i32", (3,))))[0]) == []
    assert ops(minus.apply(one(lambda b, x: b.sub(x, 0.0)))[0]) == []
    assert ops(minus.apply(one(lambda b, x: b.sub(x, -0.0)))[0]) == ["sub"]


def test_same_variable_twice() -> None:
    rule = rewrite(lambda x: x + x, lambda x: x * 2, numerics="exact")
    assert ops(rule.apply(one(lambda b, x: b.add(x, x)))[0]) == ["mul"]
    assert ops(rule.apply(one(lambda b, x, y: b.add(x, y), ("f32", (3,)), ("f32", (3,))))[0]) == ["add"]


def test_inner_commutativity_is_tried() -> None:
    rule = rewrite(lambda x, y: op.relu(x) + op.neg(y), lambda x, y: op.relu(x) - y, numerics="exact")
    g = one(lambda b, x: b.add(b.neg(x), b.relu(x)))
    assert ops(rule.apply(g)[0]) == ["relu", "sub"]


def test_attributes_defaults_given_and_any() -> None:
    default = rewrite(lambda x: op.softmax(op.softmax(x)), lambda x: op.softmax(x), numerics="approx")
    last = one(lambda b, x: b.softmax(b.softmax(x, axes=1)))
    first = one(lambda b, x: b.softmax(b.softmax(x, axes=0), axes=0))
    assert ops(default.apply(last)[0]) == ["softmax"]
    assert ops(default.apply(first)[0]) == ["softmax", "softmax"]
    anything = rewrite(lambda x: op.softmax(op.softmax(x, axes=...), axes=...), lambda x: x, numerics="approx")
    assert ops(anything.apply(first)[0]) == []


def test_missing_required_attribute_says_how() -> None:
    with pytest.raises(RewriteError, match=r"perm=\.\.\."):
        rewrite(lambda x: op.transpose(x), lambda x: x, numerics="exact")


def test_inner_value_with_other_users_is_kept() -> None:
    # B10: the inner relu is an output of its own.
    rule = rewrite(lambda x: op.exp(op.relu(x)), lambda x: op.tanh(op.abs(x)), numerics="approx")
    g = one(lambda b, x: (b.exp(r := b.relu(x)), r))
    got, stats = rule.apply(g)
    assert ops(got) == ["relu", "exp"]
    assert "other users" in stats.declined[0][1]
    # No work is added here, so the inner value may stay for its other reader.
    free = rewrite(lambda x: op.neg(op.neg(x)), lambda x: x, numerics="exact")
    got, _ = free.apply(one(lambda b, x: (b.neg(n := b.neg(x)), n)))
    assert ops(got) == ["neg"]


def test_root_that_is_an_output_and_read_inside() -> None:
    g = one(lambda b, x: (y := b.mul(x, 1.0), b.exp(y), y))
    got, _ = TIMES_ONE.apply(g)
    got.verify(2)
    assert ops(got) == ["exp"]
    feeds = {"x0": np.array([[1, np.nan, -0.0, np.inf]], np.float32)}
    for name, want in g.run(feeds).items():
        np.testing.assert_array_equal(got.run(feeds)[name], want)


def test_decorated_rule_declines_with_reasons() -> None:
    @rewrite(lambda x, low, high: op.relu(op.clip(x, low, high)), numerics="nsz")
    def relu_clip(m: Match, x: Any, high: Any) -> Any:
        # B7: relu(clip(x, -1, -1)) is no clip(x, 0, -1).
        limit = m.scalar(high)
        if limit is None:
            return m.decline("the limit is not known")
        return m.decline("hi < 0") if limit < 0 else m.op.clip(x, 0.0, high)

    got, stats = relu_clip.apply(one(lambda b, x: b.relu(b.clip(x, -1.0, -1.0))))
    assert ops(got) == ["clip", "relu"] and stats.declined[0][1] == "hi < 0"
    got, stats = relu_clip.apply(one(lambda b, x: b.relu(b.clip(x, -1.0, 6.0))))
    assert ops(got) == ["clip"] and stats.rewritten == 1
    # B8: limits that are no constants.
    got, stats = relu_clip.apply(one(lambda b, x, h: b.relu(b.clip(x, -1.0, h)), ("f32", (3,)), ("f32", ())))
    assert ops(got) == ["clip", "relu"] and "not known" in stats.explain()
    assert relu_clip.name == "relu_clip"


def test_fw_op_inserts_before_the_match() -> None:
    @rewrite(lambda x: op.square(x), numerics="exact")
    def spell(m: Match, x: Any) -> Any:
        return op.mul(x, x)

    got, _ = spell.apply(one(lambda b, x: b.exp(b.square(x))))
    got.verify(2)
    assert ops(got) == ["mul", "exp"]


def test_origins_are_merged_and_named() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", (4,))
    with b.origin(layer="act1"):
        y = b.relu(x)
    with b.origin(layer="act2"):
        z = b.relu(y)
    rule = rewrite(lambda x: op.relu(op.relu(x)), lambda x: op.relu(x), numerics="exact", name="twice")
    got, _ = rule.apply(b.build(z))
    origin = got.outputs[0].producer.origin
    assert origin.layer == "act2 + act1" and origin.rewrites == ("twice",)


def test_regions_are_rewritten_too() -> None:
    b: Any = Builder()
    c, x = b.input("c", "bool", ()), b.input("x", "f32", (4,))
    then = b.region([x.type], lambda i, v: i.mul(v, 1.0))
    other = b.region([x.type], lambda i, v: i.neg(v))
    got, stats = TIMES_ONE.apply(b.build(b.if_(c, x, regions=[then, other])))
    got.verify(2)
    assert stats.rewritten == 1 and ops(got.outputs[0].producer.regions[0]) == []


@pytest.mark.parametrize("numerics", ["", "ulp", "ulp(x)", "fast", None, "Exact"])
def test_numerics_is_checked(numerics: Any) -> None:
    with pytest.raises(RewriteError, match="numerics"):
        rewrite(lambda x: x * 1, lambda x: x, numerics=numerics)
    with pytest.raises(RewriteError, match="numerics"):
        graph_pass(numerics=numerics)


def test_numerics_is_mandatory() -> None:
    with pytest.raises(TypeError):
        rewrite(lambda x: x * 1, lambda x: x)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("pattern", "replacement", "said"),
    [
        (lambda x: x, lambda x: x, "one op"),
        (lambda x: 3, lambda x: x, "one op"),
        (lambda x, y: op.relu(x), lambda x, y: x, "does not use"),
        (lambda x: op.relu(x), lambda x, y: x, "replacement"),
        (lambda x: op.isnan(x), lambda x: x, "type"),
        (lambda x: op.argmax(x), lambda x: x, "type"),
        (lambda x: op.relu(x), lambda x: op.logical_not(x), "does not type"),
        (lambda x: op.relu(x, axis=1), lambda x: x, "no attribute"),
        (lambda x: op.add(x), lambda x: x, "takes"),
        (lambda x: op.reduce_sum(x, axes=(0,), keepdims=True), lambda x: op.reduce_sum(x, axes=(0,)), "type"),
        (lambda x: op.slice(x, starts=(1, 0), stops=(3, 3), steps=(1, 1)), lambda x: x, "type"),
        (lambda *x: op.relu(x[0]), lambda x: x, "positional"),
        (lambda x: op.relu(x) + "a", lambda x: x, "scalars"),
    ],
)
def test_wrong_rules_are_refused_when_declared(pattern: Any, replacement: Any, said: str) -> None:
    with pytest.raises(RewriteError, match=said):
        rewrite(pattern, replacement, numerics="exact")


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (lambda x: op.slice(x, starts=(0, 0), stops=(2, 3), steps=(1, 1)), lambda x: x),
        (lambda x: op.broadcast_to(x, shape=(5, 3)), lambda x: x),
        (lambda x: op.cast(x, to="i8"), lambda x: x),
        # Wrong, but of one type where all extents are equal: only values show it.
        (lambda x: op.transpose(x, perm=(1, 2, 0)), lambda x: op.transpose(x, perm=(2, 0, 1))),
        (
            lambda x, w: op.conv(x, w, strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1),
            lambda x, w: op.matmul(x, w),
        ),
    ],
)
def test_a_rule_that_fits_some_types_is_declared(pattern: Any, replacement: Any) -> None:
    assert rewrite(pattern, replacement, numerics="reassoc").numerics == "reassoc"


def test_rule_that_matches_what_it_makes() -> None:
    rule = rewrite(lambda x: op.exp(x), lambda x: op.exp(op.neg(op.neg(x))), numerics="exact", name="forever")
    with pytest.raises(RewriteError, match=r"'forever' does not terminate"):
        rule.apply(one(lambda b, x: b.exp(x)))


def test_rules_that_undo_each_other_are_named() -> None:
    left = rewrite(lambda x, y: x - y, lambda x, y: x + -y, numerics="exact", name="spell")
    right = rewrite(lambda x, y: x + -y, lambda x, y: x - y, numerics="exact", name="unspell")
    with pytest.raises(RewriteError, match=r"'(un)?spell' and '(un)?spell' undo each other"):
        RuleSet("both", [left, right]).apply(one(lambda b, x: b.sub(x, b.exp(x))))


def test_scalar_replacement_is_spread() -> None:
    rule = rewrite(lambda x: op.isnan(op.isnan(x)), lambda x: True, numerics="exact", name="never")
    assert rule.apply(one(lambda b, x: b.exp(x)))[1].rewritten == 0
    zero = rewrite(lambda x: x * 0, lambda x: 0, numerics="approx")
    got, _ = zero.apply(one(lambda b, x: b.mul(x, 0.0)))
    got.verify(2)
    np.testing.assert_array_equal(got.run({"x0": np.ones((2, 4), np.float32)})[got.output_names[0]], 0)


def test_function_that_returns_nothing() -> None:
    @rewrite(lambda x: op.relu(x), numerics="exact")
    def forgot(m: Match, x: Any) -> Any:
        return None

    with pytest.raises(RewriteError, match=r"m\.decline"):
        forgot.apply(one(lambda b, x: b.relu(x)))


def test_ruleset_takes_the_loosest_numerics() -> None:
    a = rewrite(lambda x: x * 1, lambda x: x, numerics="exact")
    b = rewrite(lambda x: x + 0, lambda x: x, numerics="nsz")
    c = rewrite(lambda x: x**1, lambda x: x, numerics="ulp(2)")
    assert RuleSet("ab", [a, b]).numerics == "nsz"
    assert RuleSet("ac", [a, c]).numerics == "ulp(2)"
    assert RuleSet("abc", [a, b, c]).numerics == "reassoc"


def test_long_chain_is_linear() -> None:
    b: Any = Builder()
    y = b.input("x", "f32", (4,))
    for _ in range(3000):
        y = b.mul(y, 1.0)
    got, stats = TIMES_ONE.apply(b.build(y))
    assert ops(got) == [] and stats.rewritten == 3000 and stats.seconds < 5


def test_patterns_do_not_branch_on_values() -> None:
    with pytest.raises(RewriteError, match="branch"):
        rewrite(lambda x: op.relu(x) if x > 0 else x, lambda x: x, numerics="exact")


def test_a_constant_as_models_store_it() -> None:
    rule = rewrite(lambda x: x * about(0.7978845608028654), lambda x: op.relu(x), numerics="reassoc")
    for stored, hit in ((0.7978845608028654, True), (0.79788458, True), (0.7979, False), (-0.7978845608028654, False)):
        assert rule.apply(one(lambda b, x, c=stored: b.mul(x, c)))[1].rewritten == int(hit)
    # Rounded to half precision it is as near as half precision is.
    assert rule.apply(one(lambda b, x: b.mul(x, 0.7979), ("f16", (3,))))[1].rewritten == 1
    wide = one(lambda b, x: b.mul(x, 0.7978845608), ("f64", (3,)))
    assert rule.apply(wide)[1].rewritten == 0


def test_one_of_several_patterns() -> None:
    def pattern(x: Any, y: Any) -> Any:
        inv = one_of(op.rsqrt(x), op.rsqrt(x) * y)
        return inv + op.neg(inv)

    rule = rewrite(pattern, lambda x, y: x if y is None else x * y, numerics="approx")
    assert ops(rule.apply(one(lambda b, x: b.add(b.rsqrt(x), b.neg(b.rsqrt(x)))))[0]) == []
    both = ("f32", (3,)), ("f32", (3,))
    scaled = one(lambda b, x, y: b.add(b.mul(b.rsqrt(x), y), b.neg(b.mul(b.rsqrt(x), y))), *both)
    assert ops(rule.apply(scaled)[0]) == ["mul"]
    # Used twice it is the same one of them both times.
    mixed = one(lambda b, x, y: b.add(b.rsqrt(x), b.neg(b.mul(b.rsqrt(x), y))), *both)
    assert rule.apply(mixed)[1].rewritten == 0
    assert len(list(alternatives(rule.pattern.root))) == 2


def test_several_roots() -> None:
    rule = rewrite(lambda x: one_of(op.neg(op.neg(x)), op.abs(op.neg(x))), lambda x: x, numerics="approx")
    assert rule.roots == {"neg", "abs"}
    assert ops(rule.apply(one(lambda b, x: b.abs(b.neg(x))))[0]) == []
    with pytest.raises(RewriteError, match="result of one op"):
        rewrite(lambda x: one_of(x, op.neg(x)), lambda x: x, numerics="exact")


def test_a_variable_as_an_attribute() -> None:
    def pattern(x: Any, axes: Any) -> Any:
        return x - op.reduce_max(op.reduce_max(x, axes=axes, keepdims=True), axes=axes, keepdims=True)

    rule = rewrite(pattern, lambda x, axes: op.softmax(x, axes=axes), numerics="approx")
    for second, hit in (((-1,), 1), ((0,), 0)):
        g = one(lambda b, x, s=second: b.sub(
            x, b.reduce_max(b.reduce_max(x, axes=(1,), keepdims=True), axes=s, keepdims=True)
        ))  # fmt: skip
        assert rule.apply(g)[1].rewritten == hit
    with pytest.raises(RewriteError, match="as a value and as an attribute"):
        rewrite(lambda x: op.reduce_max(x, axes=x), lambda x: x, numerics="exact")


def test_a_closed_match_has_no_readers_inside() -> None:
    def rule(closed: bool) -> Any:
        pattern = lambda x: op.exp(op.neg(op.exp(op.neg(x))))
        return rewrite(pattern, lambda x: op.sigmoid(x), numerics="approx", closed=closed)

    def shared(b: Any, x: Any) -> Any:
        inner = b.exp(b.neg(x))
        return b.exp(b.neg(inner)), b.abs(inner)

    g = one(shared)
    assert rule(False).apply(g)[1].rewritten == 1
    got, stats = rule(True).apply(g)
    assert stats.rewritten == 0 and "other users" in stats.declined[0][1] and got.fingerprint == g.fingerprint


def test_a_match_that_becomes_closed_is_tried_again() -> None:
    deep = rewrite(lambda x: op.exp(op.neg(op.neg(op.neg(x)))), lambda x: x, numerics="approx", closed=True)
    drop = rewrite(lambda x, y: op.abs(x) * 0 + y, lambda x, y: y, numerics="approx")

    def build(b: Any, x: Any) -> Any:
        inner = b.neg(x)
        return b.exp(b.neg(b.neg(inner))), b.add(b.mul(b.abs(inner), 0.0), x)

    got, stats = RuleSet("both", [deep, drop]).apply(one(build))
    assert stats.rewritten == 2 and ops(got) == []
