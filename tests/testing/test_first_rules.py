"""What a newcomer writes first, right and wrong: the right form is one line, every wrong one is refused or caught."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.core.errors import FusewrightError
from fusewright.ir import OPS
from fusewright.passes import RuleSet
from fusewright.testing import PassFailure, check_pass, prove

op = fw.op
times_one = fw.rewrite(lambda x: x * 1, lambda x: x, numerics="exact")


@fw.rewrite(lambda x, c: x / c, numerics="exact")
def halves(m: Any, x: Any, c: Any) -> Any:
    return x * 0.5 if m.scalar(c) == 2 and x.dtype.name == "f32" else m.decline("not a division by two in f32")


def test_the_right_ones_pass() -> None:
    assert check_pass(times_one, 150).fired > 10 and prove(times_one).holds
    report = check_pass(halves, 150)
    assert report.fired and report.declined


def rule(pattern: Any, replacement: Any, numerics: str = "exact") -> Callable[[], Any]:
    return lambda: fw.rewrite(pattern, replacement, numerics=numerics, name="broken")


def function(pattern: Any, numerics: str = "exact") -> Callable[[Any], Callable[[], Any]]:
    return lambda f: lambda: fw.rewrite(pattern, numerics=numerics, name="broken")(f)


def whole(f: Any) -> Callable[[], Any]:
    return lambda: fw.graph_pass(numerics="exact", name="broken")(f)


@function(lambda x, c: x * c)
def dropped_guard(m: Any, x: Any, c: Any) -> Any:
    return x


@function(lambda x, c: x * c)
def guard_of_one_element(m: Any, x: Any, c: Any) -> Any:
    return x if c.const is not None and c.const.array.ravel()[:1] == 1 else m.decline("not 1")


@function(lambda x, c: x / c)
def dropped_type_guard(m: Any, x: Any, c: Any) -> Any:
    return m.op.mul(x, m.op.reciprocal(c))


@function(lambda x: op.relu(x))
def asks_for_a_number_of_a_symbol(m: Any, x: Any) -> Any:
    return m.op.maximum(x, 0) if range(x.shape[0]) else m.decline("empty")


@function(lambda x: op.relu(op.relu(x)))
def replaces_by_nothing(m: Any, x: Any) -> Any:
    return None


@whole
def in_place_on_a_constant(graph: Any, ctx: Any) -> None:
    for node in graph.nodes:
        if node.op.name == "constant" and node.attrs["value"].array.base is not None:
            array = node.attrs["value"].array.base
            if isinstance(array, np.ndarray) and array.flags.writeable and array.size:
                array *= 0
                ctx.rewrote()


@whole
def outermost_names_only(graph: Any, ctx: Any) -> None:
    """Takes the inner graph's inputs for the outer one's."""
    for g in [r for n in graph.walk() for r in n.regions]:
        for node in g.nodes:
            if node.op.name == "neg":
                g.replace(node.results[0], g.inputs[0])
                g.erase(node)
                ctx.rewrote()


@whole
def over_an_output(graph: Any, ctx: Any) -> None:
    """Computes over a value that is also an output."""
    for i, v in enumerate(graph.outputs):
        if v.producer.op.name == "relu":
            graph.return_node.set_operand(i, v.producer.operands[0])
            ctx.rewrote()


def undoing() -> Any:
    one = fw.rewrite(lambda x: op.neg(op.abs(x)), lambda x: 0 - op.abs(x), numerics="nsz", name="there")
    two = fw.rewrite(lambda x: 0 - op.abs(x), lambda x: op.neg(op.abs(x)), numerics="nsz", name="back")
    return RuleSet("broken", [one, two])


BROKEN: dict[str, Callable[[], Any]] = {
    "dropped guard": dropped_guard,
    "guard that looks at one element": guard_of_one_element,
    "wrong broadcast: the constant is the larger one": rule(lambda x, y: x * y, lambda x, y: x),
    "wrong dtype": rule(lambda x: x * 1, lambda x: op.cast(op.cast(x, to="i32"), to="f32")),
    "by way of a narrower type": rule(lambda x: x + x, lambda x: op.cast(op.cast(x, to="f16"), to="f32") * 2,
                                       "reassoc"),
    "wrong axis": rule(lambda x: op.reduce_sum(x, axes=(0,)), lambda x: op.reduce_sum(x, axes=(-1,)), "reassoc"),
    "reordered names": rule(lambda x, y: x - y, lambda y, x: y - x),
    "an unbound name": rule(lambda x: x + 0.5, lambda z: z),
    "one name too many": rule(lambda x: op.relu(x), lambda x, y: x + y),
    "exact, but rounds": rule(lambda x, y, z: (x + y) + z, lambda x, y, z: x + (y + z)),
    "exact, but the zero changes its sign": rule(lambda x: x + 0, lambda x: x),
    "ulp(1), but is far off": rule(lambda x: op.exp(x), lambda x: 1 + x + x * x * 0.5, "ulp(1)"),
    "no such numerics": rule(lambda x: x * 1, lambda x: x, "mostly"),
    "NaN": rule(lambda x: x - x, lambda x: 0),
    "infinity": rule(lambda x: x * 0, lambda x: 0, "nsz"),
    "NaN in a comparison": rule(lambda x, y: op.logical_not(x < y), lambda x, y: y <= x),
    "-0": rule(lambda x: 0 - x, lambda x: -x),
    "division of negative integers": rule(lambda x, y: op.floordiv(x, y), lambda x, y: op.truncdiv(x, y), "nsz"),
    "type guard": dropped_type_guard,
    "symbolic size": asks_for_a_number_of_a_symbol,
    "no value": replaces_by_nothing,
    "never ends": rule(lambda x: op.sigmoid(x), lambda x: op.sigmoid(x * 1)),
    "two that undo each other": undoing,
    "writes into a constant": in_place_on_a_constant,
    "regions": outermost_names_only,
    "over an output": over_an_output,
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_one_is_refused_or_caught(name: str) -> None:
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((FusewrightError, PassFailure)) as told:
            check_pass(BROKEN[name](), 400)
    seconds = time.process_time() - start
    print(f"{name}: {type(told.value).__name__} after {seconds:.1f} s")
    assert seconds <= 30


@pytest.fixture
def weighted() -> Iterator[str]:
    """An op as a user defines one: typed like a subtraction, and meaning x - 2 y."""
    fw.define_op(fw.OpDef(
        "weighted", ("x", "y"), "elementwise", OPS["sub"].infer,
        decompose=lambda b, operands, attrs: b.sub(operands[0], b.mul(operands[1], 2)), doc="x - 2 y",
    ))  # fmt: skip
    yield "weighted"
    del OPS["weighted"]


def test_a_users_op_appears_in_the_graphs_that_test_its_pass(weighted: str) -> None:
    right = fw.rewrite(lambda x: getattr(op, weighted)(x, 0), lambda x: x, numerics="nsz")
    assert check_pass(right, 150).fired > 10
    wrong = fw.rewrite(lambda x, y: getattr(op, weighted)(x, y), lambda x, y: getattr(op, weighted)(y, x),
                       numerics="exact")  # fmt: skip
    with pytest.raises(PassFailure) as told:
        check_pass(wrong, 150)
    assert "weighted" in told.value.repro
    blind = fw.graph_pass(numerics="exact", name="blind")(lambda graph, ctx: None)
    assert check_pass(blind, 60, ops=["weighted", "add"]).examples == 60


def test_patterns_of_an_op_of_which_only_types_are_known() -> None:
    """It stands inside the pattern and has no hint: operands of a plain kind do."""

    def infer(types: Any, attrs: Any, regions: Any) -> Any:
        if not types[0].dtype.is_float or types[0].rank == 0:
            raise fw.TypeRefused("takes rows of real numbers")
        return [types[0]]

    fw.define_op(
        fw.OpDef(
            "mean_free", ("x",), "reduce", infer,
            decompose=lambda b, v, a: b.sub(v[0], b.reduce_mean(v[0], axes=-1, keepdims=True)), doc="Test op.",
        )
    )  # fmt: skip
    try:
        pattern = lambda x: fw.op.mean_free(fw.op.neg(x))
        right = fw.rewrite(pattern, lambda x: fw.op.neg(fw.op.mean_free(x)), numerics="reassoc")
        assert check_pass(right, max_examples=40).fired > 5
        with pytest.raises(PassFailure, match="semantics"):
            check_pass(fw.rewrite(pattern, lambda x: fw.op.mean_free(x), numerics="reassoc", name="lost sign"))
    finally:
        del OPS["mean_free"]
