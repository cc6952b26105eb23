"""Raising: every rule fires and holds on drawn graphs, every guard declines, and real forms come out as one op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import spelt
from left import ops

from fusewright.ir import Builder, Graph
from fusewright.passes import Rewrite, default_pipeline
from fusewright.passes.raising import RULES, activations, raising
from fusewright.testing import assert_equivalent, check_pass, prove

BY_NAME = {r.name: r for r in RULES}


def graph(build: Callable[..., Any], *inputs: Any) -> Graph:
    """A graph over inputs given as shapes (f32), or as (dtype, shape)."""
    b: Any = Builder()
    types = [i if i and isinstance(i[-1], tuple) else ("f32", i) for i in inputs or [("N", 4)]]
    return b.build({"y": build(b, *(b.input(f"x{i}", *t) for i, t in enumerate(types)))})


def data(g: Graph, seed: int = 0, n: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = lambda v: tuple(d if isinstance(d, int) else n for d in v.shape)
    return {
        v.name: rng.random(shape(v)) < 0.7 if v.dtype.kind == "b" else rng.normal(0, 2, shape(v)).astype(v.dtype.np)
        for v in g.inputs
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_rule_holds_on_drawn_graphs(rule: Rewrite) -> None:
    report = check_pass(rule, 100, extra=spelt.SAMPLERS.get(rule.name, ()))
    assert report.fired >= 3 and report.declined >= 3


def test_the_pass_holds_on_drawn_graphs() -> None:
    report = check_pass(raising, 120, extra=spelt.ALL)
    assert report.fired >= 40


@pytest.mark.parametrize("rule", activations.RULES, ids=lambda r: r.name)
def test_elementwise_rules_hold_for_every_half(rule: Rewrite) -> None:
    proof = prove(rule)
    assert proof.holds and proof.exhaustive == ("f16",), proof.counterexample or proof.reason


def test_hard_sigmoid_where_it_turns() -> None:
    """1/6 is no float: near the ends of the slope every value of the grid is tried."""
    g = graph(lambda b, x: b.div(b.clip(b.add(x, 3.0), 0.0, 6.0), 6.0), ("N",))
    got, _ = BY_NAME["hard_sigmoid by relu6"].apply(g)
    assert ops(got) == ["hard_sigmoid"]
    near = [np.float32(c).view(np.int32) + np.arange(-20000, 20000) for c in (-3, 3, -2.9999, 1.5)]
    assert_equivalent(g, got, {"x0": np.concatenate(near).astype(np.int32).view(np.float32)}, "reassoc")


# Guards: a graph each, and what the rule says of it.
def centred(b: Any, x: Any, axes: Any = (-1,), eps: Any = 1e-3, norm: str = "rsqrt") -> Any:
    d = b.sub(x, b.reduce_mean(x, axes=axes, keepdims=True))
    var = b.add(b.reduce_mean(b.square(d), axes=axes, keepdims=True), eps)
    return b.mul(d, b.rsqrt(var)) if norm == "rsqrt" else b.div(d, b.sqrt(var))


def folded(b: Any, x: Any, gamma: Any, beta: Any, eps: float = 1e-3, axes: Any = (-1,)) -> Any:
    mean = b.reduce_mean(x, axes=axes, keepdims=True)
    var = b.reduce_mean(b.square(b.sub(x, mean)), axes=axes, keepdims=True)
    inv = b.mul(b.rsqrt(b.add(var, eps)), gamma)
    return b.add(b.mul(x, inv), b.sub(beta, b.mul(mean, inv)))


def root_mean_square(b: Any, x: Any, eps: float = 1e-3, square_too: bool = False) -> Any:
    square = b.square(x)
    y = b.mul(x, b.rsqrt(b.add(b.reduce_mean(square, axes=(1,), keepdims=True), eps)))
    return b.add(y, square) if square_too else y


def normalised(b: Any, x: Any, mean: Any, var: Any, eps: float = 1e-3) -> Any:
    inv = b.rsqrt(b.add(var, eps))
    return b.sub(b.mul(x, inv), b.mul(mean, inv))


def trained(b: Any, x: Any, gamma: Any, beta: Any, axes: Any = (0,), eps: float = 1e-3) -> Any:
    mean = b.reduce_mean(x, axes=axes)
    var = b.reduce_mean(b.square(b.sub(x, mean)), axes=axes)
    return b.batch_norm(x, mean, var, gamma, beta, axis=-1, epsilon=eps)


def shared_sigmoid(b: Any, x: Any) -> Any:
    y = b.sigmoid(x)
    return b.add(b.mul(x, y), b.exp(y))


def attends(
    b: Any, q: Any, k: Any, v: Any, mask: Any = None, axes: Any = -1, scale: Any = 0.5, low: Any = -1e9,
    how: str = "mul", turned: bool = True,
) -> Any:  # fmt: skip
    scores = getattr(b, how)(b.matmul(q, k, transpose_b=turned), scale)
    if mask is not None:
        scores = b.where(mask, scores, low) if mask.dtype.kind == "b" else b.add(scores, mask)
    return b.matmul(b.softmax(scores, axes=axes), v)


def einsums(b: Any, q: Any, k: Any, v: Any, first: str, second: str, axes: Any = -1) -> Any:
    return b.einsum(b.softmax(b.einsum(q, k, equation=first), axes=axes), v, equation=second)


def batched(b: Any, x: Any, w: Any, p: Any = (2, 4, 0, 1, 3, 5), q: Any = (2, 3, 0, 4, 1, 5), **attrs: Any) -> Any:
    n, h, width, c = x.shape
    y = b.transpose(b.reshape(x, shape=(n, h // 2, 2, width // 2, 2, c)), perm=p)
    y = b.conv(b.reshape(y, shape=(4 * n, h // 2, width // 2, c)), w, **attrs)
    _, a, d, o = y.shape
    y = b.transpose(b.reshape(y, shape=(2, 2, n, a, d, o)), perm=q)
    return b.reshape(y, shape=(n, 2 * a, 2 * d, o))


def lined(b: Any, x: Any, w: Any, order: Any = (2, 0, 1, 3), joined: Any = None, **attrs: Any) -> Any:
    """One axis, and one of extent 1 put in for the convolution's sake."""
    n, size, c = x.shape
    y = b.transpose(b.reshape(x, shape=(n, size // 2, 2, c)), perm=order)
    y = b.conv(b.reshape(y, shape=joined or (2 * n, 1, size // 2, c)), w, **attrs)
    y = b.reshape(y, shape=(2, n, y.type.size // (2 * n * y.shape[-1]), y.shape[-1]))
    y = b.transpose(y, perm=(1, 2, 0, 3))
    return b.reshape(y, shape=(n, 2 * y.shape[1], y.shape[-1]))


def crops(b: Any, x: Any, w: Any, pad: int = 1, lead: int = 0, step: int = 1, **attrs: Any) -> Any:
    y = b.conv(x, w, pads=((pad, pad), (pad, pad)), **attrs)
    stops = (y.shape[0], y.shape[1] - 2, *y.shape[2:])
    return b.slice(y, starts=(lead, 0, 0, 0), stops=stops, steps=(1, 1, step, 1))


def grouped(
    b: Any, x: Any, inner: Any, axes: Any, *own: Any, gamma: Any = None, beta: Any = None, back: Any = None
) -> Any:
    """A norm of groups between two reshapes; gamma and beta meet the groups."""
    y = b.layer_norm(b.reshape(x, shape=inner), *own, axes=axes, epsilon=1e-3)
    y = y if gamma is None else b.mul(y, gamma)
    y = y if beta is None else b.add(y, beta)
    return b.reshape(y, shape=x.shape if back is None else back)


def in_groups(b: Any, x: Any, gamma: Any, beta: Any) -> Any:
    """As Keras and TensorFlow trace it: moments, and everything folded into one product and one sum."""
    n, h, w, c = x.shape
    y = b.reshape(x, shape=(n, h, w, 2, c // 2))
    split = [b.constant(np.reshape(v, (1, 1, 1, 2, c // 2)).astype(np.float32)) for v in (gamma, beta)]
    return b.reshape(folded(b, y, *split, axes=(1, 2, 4)), shape=x.shape)


def triangle(b: Any, t: Any, s: Any, **attrs: Any) -> Any:
    return b.ge(b.iota(shape=(t, s), axis=0, **attrs), b.iota(shape=(t, s), axis=1, **attrs))


def banded(b: Any, t: Any) -> Any:
    """As TensorFlow's band part spells it, with the constants that it drags along."""
    near = b.le(b.sub(b.iota(shape=(t, t), axis=1), b.iota(shape=(t, t), axis=0)), b.constant(0, "i64"))
    keep = b.reshape(b.where(near, b.full((t, t), True, "bool"), b.constant(False)), shape=(1, 1, t, t))
    return b.logical_and(b.full(("N", 2, t, t), True, "bool"), keep)


def halves(b: Any, x: Any, slopes: np.ndarray) -> Any:
    return b.sub(b.relu(x), b.mul(b.relu(b.neg(x)), slopes))


INF = np.array([1, np.inf, 1, 1], np.float32)
ONES = np.ones(4, np.float32)
QKV = ((2, 3, 4), (2, 5, 4), (2, 5, 6))
GROUPED = (2, 3, 3, 4)
HEADS = (("N", 2, "T", 4), ("N", 2, "T", 4), ("N", 2, "T", 4))
IMAGE = ((2, 6, 6, 2), (2, 2, 2, 3))
DECLINES: list[tuple[str, Graph, str]] = [
    ("hard_sigmoid", graph(lambda b, x, a: b.clip(b.add(b.mul(x, a), 0.5), 0.0, 1.0), (4,), (4,)), "slope"),
    ("elu", graph(lambda b, x, a: b.where(b.gt(x, 0.0), x, b.mul(b.expm1(x), a)), (4,), (4,)), "alpha"),
    ("leaky_relu", graph(lambda b, x, a: b.where(b.gt(x, 0.0), x, b.mul(x, a)), (4,), (4,)), "alpha"),
    ("leaky_relu by maximum", graph(lambda b, x: b.maximum(x, b.mul(x, 1.5))), "(0, 1]"),
    ("leaky_relu by maximum", graph(lambda b, x: b.maximum(x, b.mul(x, -0.5))), "(0, 1]"),
    ("leaky_relu of two halves", graph(lambda b, x: b.sub(b.relu(x), b.mul(b.relu(b.neg(x)), np.inf))), "alpha"),
    ("leaky_relu of two halves", graph(lambda b, x: halves(b, x, INF)), "alpha"),
    ("leaky_relu of two halves", graph(lambda b, x: halves(b, x, np.array([1, 2], "i1")), ("i8", (4, 2))), "integer"),
    ("silu", graph(shared_sigmoid), "other users"),
    ("layer_norm", graph(lambda b, x: centred(b, x, eps=-1e-3)), "epsilon"),
    ("layer_norm", graph(lambda b, x, e: centred(b, x, eps=e), ("N", 4), (4,)), "epsilon"),
    ("rms_norm", graph(lambda b, x: root_mean_square(b, x, square_too=True)), "other users"),
    ("rms_norm", graph(lambda b, x: root_mean_square(b, x, 0.0)), "epsilon"),
    ("layer_norm, folded", graph(lambda b, x: folded(b, x, b.constant(INF), b.constant(ONES))), "finite"),
    ("layer_norm, folded", graph(lambda b, x, g: folded(b, x, g, b.constant(ONES)), ("N", 4), (4,)), "finite"),
    ("layer_norm, folded", graph(lambda b, x: folded(b, x, b.constant(ONES), 0.0, -1.0)), "epsilon"),
    ("scale into norm", graph(lambda b, x, g: b.mul(b.layer_norm(x, axes=(1,)), g), (3, 4), (3, 1)), "not normalised"),
    ("shift into norm", graph(lambda b, x, g: b.add(b.layer_norm(x), g), (4,), (3, 4)), "not normalised"),
    ("scale into norm", graph(lambda b, x, g: b.mul(b.rms_norm(x, axes=(1, 2)), g), (2, 3, 4), (4,)), "only some"),
    ("shift into scaled norm", graph(lambda b, x, g, h: b.add(b.layer_norm(x, g), h), (3, 4), (4,), (3, 4)),
     "not normalised"),
    ("rows between transposes", graph(
        lambda b, x: b.transpose(b.softmax(b.transpose(x, perm=(1, 2, 0))), perm=(1, 2, 0)), (2, 2, 2)), "undo"),
    ("rows between reshapes", graph(
        lambda b, x: b.reshape(b.softmax(b.reshape(x, shape=(4, 6)), axes=0), shape=(2, 3, 4)), (2, 3, 4)),
     "last axes"),
    ("rows between reshapes", graph(
        lambda b, x: b.reshape(b.softmax(b.reshape(x, shape=(6, 4))), shape=(4, 6)), (2, 3, 4)), "undo the first"),
    ("rows between reshapes", graph(
        lambda b, x: b.reshape(b.softmax(b.reshape(x, shape=(8, 3))), shape=(6, 4)), (6, 4)), "whole axes"),
    ("batch_norm", graph(normalised, (3, 4), (3, 1), (4,)), "several axes"),
    ("batch_norm", graph(normalised, (3, 4), (4,), (1,)), "per channel"),
    ("batch_norm", graph(lambda b, x, m, v: normalised(b, x, m, v, 0.0), (3, 4), (4,), (4,)), "epsilon"),
    ("batch_norm of own statistics", graph(trained, (3, 4), (4,), (4,)), "finite"),
    ("attention", graph(lambda b, q, k, v, s: attends(b, q, k, v, scale=s), *QKV, (5,)), "no known number"),
    ("attention, divided", graph(lambda b, q, k, v: attends(b, q, k, v, scale=1e-6, how="div"), *QKV), "reciprocal"),
    ("attention", graph(lambda b, q, k, v: attends(b, q, k, v, axes=1), *QKV), "over the keys"),
    ("attention", graph(lambda b, q, k, v, m, low: attends(b, q, k, v, m, low=low), *QKV, ("bool", (3, 5)), (5,)),
     "masked scores"),
    ("attention", graph(lambda b, q, k, v: attends(b, q, k, v, turned=False), (2, 3, 4), (2, 4, 5), (2, 5, 6)),
     "stored transposed"),
    ("attention", graph(attends, (1, 3, 4), (1, 5, 4), (1, 5, 6), (2, 3, 5)), "does not broadcast to scores"),
    ("attention", graph(attends, (3, 4), (5, 4), (5, 6)), "rank >= 3"),
    ("attention of einsums", graph(lambda b, q, k, v: einsums(b, q, k, v, "btd,bsd->bts", "bts,bsv->btv", 1), *QKV),
     "over the keys"),
    ("attention of einsums", graph(
        lambda b, q, k, v: einsums(b, q, k, v, "btd,bsd->bst", "bst,bsv->btv"), *QKV), "subscripts"),
    ("group_norm", graph(lambda b, x: grouped(b, x, (2, 3, 3, 2, 2), (1, 2, 3)), GROUPED), "do not split"),
    ("group_norm", graph(lambda b, x: grouped(b, x, (2, 3, 3, 2, 2), (1, 4)), GROUPED), "do not split"),
    ("group_norm", graph(lambda b, x: grouped(b, x, (2, 3, 3, 2, 2), (1, 2, 4), back=(2, 9, 4)), GROUPED),
     "do not split"),
    ("group_norm", graph(lambda b, x: grouped(b, x, (2, 2, 18), (2,)), GROUPED), "do not split"),
    ("group_norm", graph(lambda b, x, g: grouped(b, x, (2, 3, 3, 2, 2), (1, 2, 4), gamma=g), GROUPED, (3, 1, 1)),
     "other axes"),
    ("group_norm", graph(lambda b, x, g, h: grouped(b, x, (2, 2, 18), (2,), g, h), (2, 4, 3, 3), (2, 1), (2, 1)),
     "of its own"),
    ("scale into group_norm", graph(lambda b, x, g: b.mul(b.group_norm(x, groups=2), g), GROUPED, (3, 1)),
     "other axes"),
    ("shift into group_norm", graph(lambda b, x, g: b.add(b.group_norm(x, groups=1), g), (2, 3, 1), (4,)),
     "per channel"),
    ("shift into scaled group_norm", graph(
        lambda b, x, g, h: b.add(b.group_norm(x, g, groups=2), h), GROUPED, (4,), (3, 3, 1)), "other axes"),
    *(("causal attention", graph(lambda b, q, k, v, how=how: b.attention(q, k, v, how(b)), *QKV), "below the diagonal")
      for how in (
          lambda b: b.logical_not(triangle(b, 3, 5)),
          lambda b: b.gt(b.iota(shape=(3, 5), axis=0), b.iota(shape=(3, 5), axis=1)),
          lambda b: b.ge(b.iota(shape=(3, 5), axis=1), b.iota(shape=(3, 5), axis=0)),
          lambda b: triangle(b, 3, 5, dtype="f16"),
          lambda b: b.ge(b.constant(1, "i64"), b.iota(shape=(3, 5), axis=1)),
          lambda b: b.slice(triangle(b, 3, 5), starts=(0, 0), stops=(1, 5)),
          lambda b: b.logical_or(triangle(b, 3, 5), triangle(b, 3, 5)),
          lambda b: b.full((3, 5), True, "bool"),
      )),
    ("dilated convolution", graph(lambda b, x, w: batched(b, x, w, p=(4, 2, 0, 1, 3, 5)), *IMAGE), "no space-to-batch"),
    ("dilated convolution", graph(lambda b, x, w: batched(b, x, w, q=(2, 3, 1, 4, 0, 5)), *IMAGE), "batch-to-space"),
    ("dilated convolution", graph(lambda b, x, w: batched(b, x, w, strides=2), *IMAGE), "strides of 1"),
    ("dilated convolution", graph(lambda b, x, w: lined(b, x, w, joined=(2, 2, 3, 2)), (2, 6, 2), (1, 2, 2, 3)),
     "join the batch"),
    ("dilated convolution", graph(
        lambda b, x, w: lined(b, x, w, pads=((1, 0), (0, 0))), (2, 6, 2), (2, 2, 2, 3)), "axis of extent 1"),
    ("crop of convolution", graph(lambda b, x, w: crops(b, x, w), *IMAGE), "more is cut off"),
    ("crop of convolution", graph(lambda b, x, w: crops(b, x, w, 2, lead=1), *IMAGE), "borders of the image"),
    ("crop of convolution", graph(lambda b, x, w: crops(b, x, w, 2, strides=2), *IMAGE), "strides of 1"),
    ("crop of convolution", graph(lambda b, x, w: crops(b, x, w, 2, step=2), *IMAGE), "steps and strides"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "g", "why"), DECLINES, ids=lambda v: v if isinstance(v, str) else "")
def test_guards_decline(name: str, g: Graph, why: str) -> None:
    got, stats = BY_NAME[name].apply(g)
    assert got.fingerprint == g.fingerprint and stats.rewritten == 0
    assert any(why in reason for _, reason in stats.declined), stats.explain()


def test_statistics_of_other_axes_are_no_layer_norm() -> None:
    """Of a square tensor the statistics may well be those of another axis."""
    b: Any = Builder()
    x = b.input("x", "f32", (3, 3))
    mean = b.reduce_mean(x, axes=(1,))
    var = b.reduce_mean(b.square(b.sub(x, mean)), axes=(1,))
    v = b.constant(np.ones(3, np.float32))
    g = b.build({"y": b.batch_norm(x, mean, var, v, v, axis=-1)})
    _, stats = BY_NAME["batch_norm of own statistics"].apply(g)
    assert stats.rewritten == 0 and "other axes" in stats.declined[0][1]


# Forms, as the exporters write them, through the whole pass.
FORMS: list[tuple[str, Graph, list[str]]] = [
    ("PyTorch layer norm", graph(
        lambda b, x, g, h: b.add(b.mul(centred(b, x, norm="div"), g), h), ("N", 4), (4,), (4,)), ["layer_norm"]),
    ("Keras layer norm", graph(lambda b, x: folded(b, x, b.constant(ONES), b.constant(ONES * 2))), ["layer_norm"]),
    ("norm over an image", graph(lambda b, x: centred(b, x, (1, 2)), ("N", 3, 4, 2)), ["layer_norm"]),
    ("scale per channel stays outside", graph(
        lambda b, x: folded(b, x, b.constant(ONES), b.constant(ONES), axes=(1,)), ("N", 3, 4)),
     ["layer_norm", "mul", "add"]),
    ("layer norm from a batch norm in training", graph(
        lambda b, x: trained(b, x, b.full((4,), 1.0, "f32"), b.full((4,), 0.0, "f32")), (3, 4)), ["layer_norm"]),
    ("Keras group norm", graph(lambda b, x: in_groups(b, x, ONES, ONES * 2), ("N", 3, 2, 4)),
     ["reshape", "reshape", "group_norm"]),
    ("PyTorch group norm", graph(
        lambda b, x, g, h: b.add(b.mul(grouped(
            b, x, ("N", 2, 12), (2,), b.full((2, 1), 1.0, "f32"), b.full((2, 1), 0.0, "f32")),
            b.reshape(g, shape=(4, 1, 1))), b.reshape(h, shape=(4, 1, 1))),
        ("N", 4, 3, 2), (4,), (4,)), ["group_norm"]),
    ("group norm of a vector", graph(lambda b, x: grouped(b, x, ("N", 2, 3), (2,)), ("N", 6)), ["group_norm"]),
    ("causal attention of a band", graph(
        lambda b, q, k, v: b.attention(q, k, v, banded(b, "T")), *HEADS), ["attention"]),
    ("causal attention of a stored triangle", graph(
        lambda b, q, k, v: b.attention(q, k, v, b.slice(
            b.constant(np.tri(9, 9)[None, None] > 0), starts=(0,) * 4, stops=(1, 1, 3, 3))),
        *((2, 2, 3, 4),) * 3), ["attention"]),
    ("causal attention with padding", graph(
        lambda b, q, k, v, m: b.attention(q, k, v, b.logical_and(m, triangle(b, "T", "T"))), *HEADS,
        ("bool", ("N", 1, 1, "T"))), ["attention"]),
    ("masked attention", graph(attends, *QKV, ("bool", (3, 5))), ["attention"]),
    ("attention with hidden scores", graph(
        lambda b, q, k, v, m: b.matmul(b.softmax(b.where(m, -np.inf, b.matmul(q, k, transpose_b=True))), v),
        *QKV, ("bool", (3, 5))), ["logical_not", "attention"]),
    ("attention of turned keys", graph(
        lambda b, q, k, v: attends(b, q, b.transpose(k, perm=(0, 2, 3, 1)), v, turned=False, how="div", scale=2.0),
        ("N", 2, 3, 4), ("N", 5, 2, 4), ("N", 2, 5, 6)), ["transpose", "attention"]),
    ("Keras attention", graph(
        lambda b, q, k, v: einsums(b, k, q, v, "aecd,abcd->acbe", "acbe,aecf->abcf"),
        ("N", 3, 2, 4), ("N", 5, 2, 4), ("N", 5, 2, 6)), ["transpose"] * 3 + ["attention", "transpose"]),
    ("padded dilated convolution", graph(lambda b, x: b.slice(batched(
        b, b.pad(x, low=(0, 2, 2, 0), high=(0, 3, 2, 0)), b.constant(np.ones((3, 3, 2, 3), np.float32))),
        starts=(0,) * 4, stops=(2, 7, 6, 3)), (2, 7, 6, 2)), ["conv"]),
    ("dilated convolution with a reshape behind", graph(
        lambda b, x, w: b.reshape(batched(b, x, w), shape=(2, 4, 12)), *IMAGE), ["conv", "reshape"]),
    ("selu", graph(lambda b, x: b.mul(b.where(b.gt(x, 0.0), x, b.mul(b.sub(b.exp(x), 1.0), 1.6732632)), 1.0507010)),
     ["selu"]),
    ("hard swish", graph(lambda b, x: b.mul(x, b.div(b.relu6(b.add(x, 3.0)), 6.0))), ["hard_swish"]),
    ("mish", graph(lambda b, x: b.mul(x, b.tanh(b.log(b.add(b.exp(x), 1.0))))), ["mish"]),
    ("swish of a sigmoid spelt out", graph(lambda b, x: b.mul(x, b.reciprocal(b.add(b.exp(b.neg(x)), 1.0)))), ["silu"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "g", "want"), FORMS, ids=lambda v: v if isinstance(v, str) else "")
def test_forms_become_one_op(name: str, g: Graph, want: list[str]) -> None:
    got, _ = raising.apply(g)
    got.verify(2)
    assert ops(got) == want
    feeds = data(g)
    assert_equivalent(g, got, feeds, "reassoc")
    wide, raised = g.run(feeds, precision="f64"), got.run(feeds, precision="f64")
    np.testing.assert_allclose(raised["y"], wide["y"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "g", "want"), FORMS, ids=lambda v: v if isinstance(v, str) else "")
def test_causal_forms_are_said_to_be(name: str, g: Graph, want: list[str]) -> None:
    found = [n.attrs["causal"] for n in raising.apply(g)[0].nodes if n.op.name == "attention"]
    assert found == [name.startswith("causal")] * len(found)


def test_dead_readers_do_not_hold_a_match_back() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 4))
    s = b.sigmoid(x)
    b.mul(s, 2.0)
    got, _ = raising.apply(b.build({"y": b.mul(x, s)}))
    assert ops(got) == ["silu"]


def test_padding_of_a_symbolic_image_is_undone() -> None:
    """SAME padding of a dilated convolution: amounts that depend on the parity of the size fall out."""
    b: Any = Builder()
    x = b.input("x", "f32", ("N", "T", 2))
    n, t = x.shape[:2]
    padded = b.pad(x, low=(0, 2, 0), high=(0, 2 + t - 2 * (t // 2), 0))
    y = lined(b, padded, b.constant(np.random.default_rng(0).standard_normal((1, 3, 2, 3)).astype(np.float32)))
    g = b.build({"y": b.slice(y, starts=(0, 0, 0), stops=(n, t, 3))})
    got, _ = raising.apply(g)
    assert ops(got) == ["conv"] and got.outputs[0].producer.attrs["pads"] == ((2, 2),)
    for length in (5, 6):
        feed = {"x": np.random.default_rng(1).standard_normal((2, length, 2)).astype(np.float32)}
        assert_equivalent(g, got, feed, "reassoc")


def test_raising_is_part_of_the_portable_graph() -> None:
    assert "raise" in default_pipeline().portable_names
    g = graph(lambda b, x: b.mul(x, b.sigmoid(x)))
    assert ops(default_pipeline().run(g, stop_after="scale")[0]) == ["silu"]


@pytest.mark.parametrize(("name", "g", "want"), FORMS, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_raised_comes_apart_again(name: str, g: Graph, want: list[str]) -> None:
    """For a machine without any of these kernels a raised form costs no more than it did before."""
    computing = lambda out: sum(n.op.kind not in ("source", "view") and n.op.name != "return" for n in out.nodes)
    plain = default_pipeline()
    assert computing(plain.run(g)[0]) <= computing(plain.without("raise").run(g)[0])


def test_a_scale_behind_a_dilated_convolution_reaches_its_weights() -> None:
    w = np.random.default_rng(0).standard_normal((2, 2, 2, 3)).astype(np.float32)
    scale = np.array([1, 2, 3], np.float32)
    g = graph(
        lambda b, x: b.add(b.mul(batched(b, x, b.constant(w)), b.constant(scale)), b.constant(scale)), (2, 6, 6, 2)
    )
    got, _ = default_pipeline().run(g, stop_after="scale")
    assert ops(got) == ["conv", "add"]
    assert ops(default_pipeline().without("raise").run(g, stop_after="scale")[0]).count("mul") == 1
    assert_equivalent(g, got, data(g), "reassoc")
