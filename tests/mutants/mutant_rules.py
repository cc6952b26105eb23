"""Broken rewrites: each reads like something a pass author might well write."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mutant import Control, Kill, Mutant

import fusewright as fw
from fusewright.core.errors import RewriteError
from fusewright.testing import PassFailure, check_pass
from fusewright.testing.reduce import ops_of

op = fw.op
RULES: list[Mutant] = []


def hunted(make: Callable[[], Any], **options: Any) -> Callable[[int], Kill]:
    """check_pass on what ``make`` gives; a rule refused when it is declared is caught at once."""

    def hunt(budget: int) -> Kill:
        start = time.thread_time()
        try:
            check_pass(make(), budget, **options)
        except RewriteError:
            return Kill(0, "refused when declared", 0, time.thread_time() - start)
        except PassFailure as failure:
            return Kill(failure.examples, failure.property, ops_of(failure.graph), time.thread_time() - start)
        return Kill(None)

    return hunt


def sound(p: Any, **options: Any) -> Control:
    """check_pass on a pass as it is; what it finds is raised, with a test to paste."""

    def hunt(budget: int) -> Kill:
        check_pass(p, budget, **options)
        return Kill(None)

    chosen = [(k, tuple(map(id, v)) if isinstance(v, (list, tuple)) else id(v)) for k, v in sorted(options.items())]
    return Control((p.name, *(entry for entry in chosen if entry[1] != ())), hunt)


def rule(kind: str, name: str, pattern: Any, replacement: Any, numerics: str = "exact") -> None:
    RULES.append(Mutant(name, kind, hunted(lambda: fw.rewrite(pattern, replacement, numerics=numerics, name="mutant"))))


def function(kind: str, name: str, pattern: Any, numerics: str = "exact") -> Callable[[Any], None]:
    """A rule given as a function of the match."""
    return lambda f: RULES.append(
        Mutant(name, kind, hunted(lambda: fw.rewrite(pattern, numerics=numerics, name="mutant")(f)))
    )


ANY_WINDOW = {"strides": ..., "pads": ..., "dilations": ..., "groups": ...}
# Zeros, NaN and infinities.
rule("B12", "x + 0 -> x, exact", lambda x: x + 0, lambda x: x)
rule("B12", "x * 0 -> 0", lambda x: x * 0, lambda x: 0, "nsz")
rule("numeric", "x - x -> 0", lambda x: x - x, lambda x: 0)
rule("numeric", "x / x -> 1", lambda x: x / x, lambda x: 1)
rule("numeric", "max(x, 0) -> where(x > 0)", lambda x: op.maximum(x, 0), lambda x: op.where(op.gt(x, 0), x, 0), "nsz")
rule("numeric", "max(x, y) -> where(x >= y)", lambda x, y: op.maximum(x, y),
     lambda x, y: op.where(op.ge(x, y), x, y), "nsz")  # fmt: skip
rule("numeric", "not x < y -> x >= y", lambda x, y: op.logical_not(x < y), lambda x, y: op.ge(x, y))
rule("numeric", "x == x -> true", lambda x: op.eq(x, x), lambda x: True)
rule("numeric", "x != x -> false", lambda x: op.ne(x, x), lambda x: False)
rule("numeric", "-(x - y) -> y - x, exact", lambda x, y: -(x - y), lambda x, y: y - x)
rule("numeric", "0 - x -> -x, exact", lambda x: 0 - x, lambda x: -x)
rule("numeric", "sqrt(x * x) -> |x|, exact", lambda x: op.sqrt(x * x), lambda x: op.abs(x))
rule("numeric", "isfinite(x) -> not isnan(x)", lambda x: op.isfinite(x), lambda x: op.logical_not(op.isnan(x)))
rule("numeric", "relu(x) -> max(x, 0) of the other zero", lambda x: op.maximum(x, -0.0), lambda x: op.relu(x))
# Rounding and order.
rule("numeric", "(x - y) + y -> x", lambda x, y: (x - y) + y, lambda x, y: x)
rule("numeric", "(x * y) / y -> x", lambda x, y: (x * y) / y, lambda x, y: x, "reassoc")
rule("numeric", "x c + y c -> (x + y) c, exact", lambda x, y, c: x * c + y * c, lambda x, y, c: (x + y) * c)
rule("numeric", "round(x) -> floor(x + 0.5)", lambda x: op.round(x), lambda x: op.floor(x + 0.5), "nsz")
rule("numeric", "x / 3 -> x * (1 / 3), exact", lambda x: x / 3, lambda x: x * (1 / 3))
rule("numeric", "1 / sqrt(x) -> sqrt(1 / x), exact", lambda x: op.reciprocal(op.sqrt(x)),
     lambda x: op.sqrt(op.reciprocal(x)))  # fmt: skip
rule("numeric", "sum in half precision", lambda x: op.reduce_sum(x),
     lambda x: op.cast(op.reduce_sum(op.cast(x, to="f16")), to="f32"), "reassoc")  # fmt: skip
rule("numeric", "exp by a short series", lambda x: op.exp(x), lambda x: op.square(op.square(x * 0.25 + 1)), "reassoc")
rule("numeric", "tanh(x) -> x near zero everywhere", lambda x: op.tanh(x), lambda x: op.clip(x, -1, 1), "reassoc")
rule("numeric", "exp(log(x)) -> x", lambda x: op.exp(op.log(x)), lambda x: x, "reassoc")
rule("numeric", "log(exp(x)) -> x, exact", lambda x: op.log(op.exp(x)), lambda x: x)
rule("numeric", "sqrt(square(x)) -> x", lambda x: op.sqrt(op.square(x)), lambda x: x, "reassoc")
rule("numeric", "a b^T / 3 -> a b * (1 / 3), exact", lambda a, b: op.matmul(a, b, transpose_b=True) / 3,
     lambda a, b: op.matmul(a, op.transpose(b, perm=(1, 0))) * (1 / 3))  # fmt: skip
rule("numeric", "a b + a c -> a (b + c), exact", lambda a, b, c: op.matmul(a, b) + op.matmul(a, c),
     lambda a, b, c: op.matmul(a, b + c))  # fmt: skip
# Logic.
rule("B7", "relu(clip(x, l, h)) -> clip(x, 0, h)", lambda x, low, high: op.relu(op.clip(x, low, high)),
     lambda x, low, high: op.clip(x, 0, high), "nsz")  # fmt: skip
rule("B11", "min(x - y, x - z) -> x - min(y, z)", lambda x, y, z: op.minimum(x - y, x - z),
     lambda x, y, z: x - op.minimum(y, z), "reassoc")  # fmt: skip
rule("logic", "clip(relu(x), l, h) -> clip(x, l, h)", lambda x, low, high: op.clip(op.relu(x), low, high),
     lambda x, low, high: op.clip(x, low, high), "nsz")  # fmt: skip
rule("logic", "min(max(x, l), h) -> clip(x, h, l)", lambda x, low, high: op.minimum(op.maximum(x, low), high),
     lambda x, low, high: op.clip(x, high, low), "nsz")  # fmt: skip
rule("logic", "where(not c, x, y) -> where(c, x, y)", lambda c, x, y: op.where(op.logical_not(c), x, y),
     lambda c, x, y: op.where(c, x, y))  # fmt: skip
rule("logic", "where(c, x, x) -> c ? x : 0", lambda c, x: op.where(c, x, x), lambda c, x: op.where(c, x, 0))
rule("logic", "x and true -> true", lambda x: op.logical_and(x, True), lambda x: True)
rule("logic", "x or false -> false", lambda x: op.logical_or(x, False), lambda x: False)
rule("logic", "x xor x -> x", lambda x: op.logical_xor(x, x), lambda x: x)
rule("logic", "x <= y -> x < y", lambda x, y: x <= y, lambda x, y: x < y)
rule("logic", "not not x -> not x", lambda x: op.logical_not(op.logical_not(x)), lambda x: op.logical_not(x))
rule("logic", "-(-x) -> -x", lambda x: op.neg(op.neg(x)), lambda x: op.neg(x))
rule("logic", "x - -y -> x - y", lambda x, y: x - -y, lambda x, y: x - y)
rule("logic", "x + -y -> y - x", lambda x, y: x + -y, lambda x, y: y - x)
rule("logic", "|x y| -> |x| y", lambda x, y: op.abs(x * y), lambda x, y: op.abs(x) * y)
rule("logic", "|-x| -> |x| of unsigned", lambda x: op.abs(-x), lambda x: op.abs(x))
rule("logic", "tanh(-x) -> tanh(x)", lambda x: op.tanh(-x), lambda x: op.tanh(x), "reassoc")
rule("logic", "cos(-x) -> -cos(x)", lambda x: op.cos(-x), lambda x: -op.cos(x), "reassoc")
rule("logic", "sigmoid(-x) -> -sigmoid(x)", lambda x: op.sigmoid(-x), lambda x: -op.sigmoid(x), "reassoc")
rule("logic", "x ** 2 -> x * 2", lambda x: x**2, lambda x: x * 2, "ulp(4)")
rule("logic", "relu(x) -> |x|", lambda x: op.relu(x), lambda x: op.abs(x))
rule("logic", "ceil(x) -> -floor(x)", lambda x: op.ceil(x), lambda x: -op.floor(x))
rule("logic", "trunc(x) -> floor(x)", lambda x: op.trunc(x), lambda x: op.floor(x))
rule("B12", "x // y -> trunc(x / y)", lambda x, y: op.floordiv(x, y), lambda x, y: op.truncdiv(x, y), "nsz")
rule("B12", "mod(x, y) -> rem(x, y)", lambda x, y: op.mod(x, y), lambda x, y: op.rem(x, y), "nsz")
rule("logic", "x & y -> x | y", lambda x, y: op.bitwise_and(x, y), lambda x, y: op.bitwise_or(x, y))
rule("logic", "sum(relu(x)) -> relu(sum(x))", lambda x: op.reduce_sum(op.relu(x)),
     lambda x: op.relu(op.reduce_sum(x)), "reassoc")  # fmt: skip
rule("logic", "max(-x) -> -max(x)", lambda x: op.reduce_max(-x), lambda x: -op.reduce_max(x))
rule("logic", "softmax(-x) -> softmax(x)", lambda x: op.softmax(-x), lambda x: op.softmax(x), "reassoc")
# Shapes.
rule("shape", "transpose of transpose -> x", lambda x: op.transpose(op.transpose(x, perm=...), perm=...), lambda x: x)
rule("shape", "reverse of reverse -> x", lambda x: op.reverse(op.reverse(x, axes=...), axes=...), lambda x: x)
rule("shape", "a b -> b a", lambda a, b: op.matmul(a, b), lambda a, b: op.matmul(b, a), "reassoc")
rule("shape", "a b^T -> a b", lambda a, b: op.matmul(a, b, transpose_b=True), lambda a, b: op.matmul(a, b), "reassoc")


@function("shape", "reshape of transpose -> reshape", lambda x: op.reshape(op.transpose(x, perm=...), shape=...))
def _reshape_of_transpose(m: Any, x: Any) -> Any:
    return op.reshape(x, shape=m.result.shape)


@function("shape", "inclusive for exclusive cumsum", lambda x: op.cumsum(x, axis=..., exclusive=..., reverse=...))
def _cumsum(m: Any, x: Any) -> Any:
    if not m.root.attrs["exclusive"]:
        return m.decline("inclusive")
    return op.cumsum(x, axis=m.root.attrs["axis"], reverse=m.root.attrs["reverse"])


@function("B12", "mean as sum over the first extent", lambda x: op.reduce_mean(x, axes=..., keepdims=...), "reassoc")
def _mean(m: Any, x: Any) -> Any:
    if not x.rank or not isinstance(x.shape[0], int) or not x.shape[0]:
        return m.decline("no first extent")
    return op.reduce_sum(x, axes=m.root.attrs["axes"], keepdims=m.root.attrs["keepdims"]) * (1 / x.shape[0])


@function("shape", "concat in the other order", lambda x, y: op.concat(x, y, axis=...))
def _concat(m: Any, x: Any, y: Any) -> Any:
    if x is y or "twice" in m.root.origin.rewrites or "mutant" in m.root.origin.rewrites:
        return m.decline("done")
    return op.concat(y, x, axis=m.root.attrs["axis"])


@function("type", "cast through a narrow type -> x", lambda x: op.cast(op.cast(x, to=...), to=...))
def _cast(m: Any, x: Any) -> Any:
    return x if x.dtype is m.result.dtype else m.decline("another type")


@function("type", "cast of cast -> one cast", lambda x: op.cast(op.cast(x, to=...), to=...))
def _cast_of_cast(m: Any, x: Any) -> Any:
    return op.cast(x, to=m.result.dtype)


@function("type", "x * 2 -> x + x in float32 only, by casting", lambda x: x * 2)
def _cast_down(m: Any, x: Any) -> Any:
    return op.cast(op.cast(x, to="f32") * 2.0, to=x.dtype) if x.dtype.name != "f32" else m.decline("f32")


@function("B8", "compares a limit that may be unknown", lambda x, low, high: op.relu(op.clip(x, low, high)), "nsz")
def _unknown_limit(m: Any, x: Any, low: Any, high: Any) -> Any:
    return op.clip(x, low, high) if m.scalar(low) >= 0 else m.decline("below 0")


@function("B8", "takes the last extent of any rank", lambda x: op.relu(op.relu(x)))
def _last_extent(m: Any, x: Any) -> Any:
    return op.relu(x) if x.shape[-1] != 1 else m.decline("one")


@function("B8", "counts with a symbolic extent", lambda x: op.relu(op.relu(x)))
def _symbolic(m: Any, x: Any) -> Any:
    return op.relu(x) if all(int(d) >= 0 for d in x.shape) else m.decline("empty")


@function("error", "returns nothing at times", lambda x: op.abs(op.abs(x)))
def _nothing(m: Any, x: Any) -> Any:
    return op.abs(x) if x.rank else None


@function("B10", "replaces the inner value as well", lambda x: op.relu(op.neg(x)))
def _inner(m: Any, x: Any) -> Any:
    inner = m.root.operands[0]
    m.graph.replace(inner, op.abs(x))
    return op.relu(op.neg(x))


@function("error", "keeps matching what it made", lambda x: op.sigmoid(x), "reassoc")
def _endless(m: Any, x: Any) -> Any:
    return op.sigmoid(op.add(x, 0))


@function("error", "random", lambda x, y: x + y)
def _random(m: Any, x: Any, y: Any) -> Any:
    return op.add(y, x) if id(m.root) % 32 < 16 and "mutant" not in m.root.origin.rewrites else m.decline("luck")


@function("shape", "convolution forgets its padding", lambda x, w: op.conv(x, w, **ANY_WINDOW), "reassoc")
def _conv(m: Any, x: Any, w: Any) -> Any:
    attrs = {**m.root.attrs, "pads": tuple((low + high, 0) for low, high in m.root.attrs["pads"])}
    return m.op.apply("conv", [x, w], attrs)[0] if attrs != m.root.attrs else m.decline("nothing to forget")


@function("shape", "max pool of relu ignores padding", lambda x: op.relu(op.max_pool(
    x, window=..., strides=..., pads=..., dilations=...)))  # fmt: skip
def _pool(m: Any, x: Any) -> Any:
    attrs = m.root.operands[0].producer.attrs
    return m.op.apply("max_pool", [op.abs(x)], attrs)[0]


# Looked like mutants, but are right wherever they apply: the driver refuses what would make them wrong.
EQUIVALENT = {
    "reshape of reshape -> x": "only fires where the last shape is the first, and then it is the identity",
    "sum over all axes -> over the last, then the first": "the type only fits at rank 2, where this is all of them",
    "shift_left(x, 1) -> x * 2": "integers wrap alike",
    "max(x, x) -> clip(x, x, x)": "slower, not wrong",
    "exp(x) - 1 for expm1": "inside the sum of both error bounds, which is what reassoc promises",
    "merge of equal constants by digest": "digests are of the bytes",
}
