"""Conditionals and loops of TensorFlow, in TF1 form (Switch, Merge, Enter...) and as functions, against a session."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import pytest
import tensorflow as tf

import fusewright as fw

v1 = tf.compat.v1
X = np.float32([0.5, -1, 2, 3])
ROWS = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


def x(shape: Any = (4,)) -> Any:
    return v1.placeholder(tf.float32, shape, name="x")


def flag(name: str) -> Any:
    return v1.placeholder(tf.bool, (), name=name)


def number() -> Any:
    return v1.placeholder(tf.int32, (), name="n")


def constant_branch() -> Any:
    a, p = x(), flag("p")
    return v1.cond(p, lambda: a + 1, lambda: tf.constant([1.0, 2, 3, 4]))


def nested_branches() -> Any:
    a, p, q = x(), flag("p"), flag("q")
    return v1.cond(
        p,
        lambda: v1.cond(q, lambda: a + 1, lambda: a * 5),
        lambda: v1.cond(q, lambda: a - 3, lambda: tf.ones([4])),
    )


def several_results() -> Any:
    a, p = x(), flag("p")
    u, v = v1.cond(p, lambda: (a + 1, tf.reduce_sum(a)), lambda: (a * 2, tf.constant(3.0)))
    return [u, v, v1.cond(p, lambda: u * 2, lambda: u * 3)]


def branch_in_loop() -> Any:
    a = x()
    step = lambda i, t: (i + 1, v1.cond(tf.equal(i % 2, 0), lambda: t + a, lambda: t * 2.0))
    return v1.while_loop(lambda i, t: i < 5, step, [0, a])[1]


def nested_loops() -> Any:
    a, n = x(), number()

    def outer(i: Any, t: Any) -> Any:
        step = lambda j, u: (j + 1, u + a * tf.cast(j, tf.float32))
        return i + 1, v1.while_loop(lambda j, u: j < i, step, [0, t])[1]

    return v1.while_loop(lambda i, t: i < n, outer, [0, a])[1]


def loop_in_branch() -> Any:
    a, p = x(), flag("p")
    return v1.cond(p, lambda: v1.while_loop(lambda i, t: i < 5, lambda i, t: (i + 1, t + a), [0, a])[1], lambda: a * 10)


def arrays() -> Any:
    rows = v1.TensorArray(tf.float32, 5).unstack(x((5, 3)))

    def step(i: Any, s: Any, o: Any) -> Any:
        row = rows.read(i)
        return i + 1, s + row, o.write(i, s * 2)

    _, s, o = v1.while_loop(lambda i, s, o: i < 5, step, [0, tf.zeros([3]), v1.TensorArray(tf.float32, 5)])
    return [s, o.stack()]


def array_written_in_a_branch() -> Any:
    rows = v1.TensorArray(tf.float32, 5).unstack(x((5, 3)))

    def step(i: Any, o: Any) -> Any:
        row = rows.read(i)
        return i + 1, v1.cond(tf.reduce_sum(row) > 0, lambda: o.write(i, row), lambda: o.write(i, -2 * row))

    return v1.while_loop(lambda i, o: i < 5, step, [0, v1.TensorArray(tf.float32, 5)])[1].stack()


def nested_arrays() -> Any:
    rows = x((5, 3))

    def outer(i: Any, o: Any) -> Any:
        step = lambda j, t: (j + 1, t.write(j, rows[i, j] * tf.cast(i + j, tf.float32)))
        inner = v1.while_loop(lambda j, t: j < 3, step, [0, v1.TensorArray(tf.float32, 3)])[1]
        return i + 1, o.write(i, inner.stack())

    return v1.while_loop(lambda i, o: i < 5, outer, [0, v1.TensorArray(tf.float32, 5)])[1].stack()


def three_branches() -> Any:
    a, n = x(), number()
    return tf.switch_case(n, [lambda: a + 1, lambda: a * 2, lambda: a - 7])


def chain_of_cases() -> Any:
    a, n = x(), number()
    return v1.case([(tf.equal(n, 0), lambda: a + 1), (tf.equal(n, 1), lambda: a * 2)], default=lambda: a - 1)


def folds() -> Any:
    rows = x((5, 3))
    return [v1.scan(lambda a, t: a + t, rows), v1.foldl(lambda a, t: a * t, rows), v1.map_fn(lambda t: t * t, rows)]


FLAGS = [{"p": p, "q": q} for p in (True, False) for q in (True, False)]
NUMBERS = [{"n": np.int32(k)} for k in (-1, 0, 1, 2, 5)]
CASES: list[tuple[Callable[[], Any], list[dict[str, Any]], tuple[str, ...]]] = [
    (constant_branch, FLAGS[::2], ("if",)), (nested_branches, FLAGS, ("if",)), (several_results, FLAGS[::2], ("if",)),
    (branch_in_loop, [{}], ("while",)), (nested_loops, [{"n": np.int32(4)}], ("while",)),
    (loop_in_branch, FLAGS[::2], ("if",)), (arrays, [{}], ("while",)), (array_written_in_a_branch, [{}], ("while",)),
    (nested_arrays, [{}], ("while",)), (three_branches, NUMBERS, ("if",)), (chain_of_cases, NUMBERS, ("if",)),
    (folds, [{}], ("while",)),
]  # fmt: skip


@pytest.fixture(params=["tf1", "functions"])
def control_flow(request: pytest.FixtureRequest) -> Any:
    before = v1.control_flow_v2_enabled()
    (v1.disable_control_flow_v2 if request.param == "tf1" else v1.enable_control_flow_v2)()
    yield request.param
    (v1.enable_control_flow_v2 if before else v1.disable_control_flow_v2)()


@pytest.mark.parametrize(("build", "feeds", "ops"), CASES, ids=[c[0].__name__ for c in CASES])
def test_control_flow(build: Callable[[], Any], feeds: list[dict[str, Any]], ops: Any, control_flow: str) -> None:
    graph = tf.Graph()
    with graph.as_default():
        results = build()
    wanted = results if isinstance(results, list) else [results]
    imported = fw.import_model(graph.as_graph_def(), outputs=[t.name for t in wanted])
    assert set(ops) <= {n.op.name for n in imported.nodes}
    assert not {"where"} & {n.op.name for n in imported.nodes}
    rows = ROWS if imported.inputs[0].rank == 2 else X
    with v1.Session(graph=graph) as session:
        for given in feeds:
            named = {v.name: given.get(v.name, rows) for v in imported.inputs}
            want = session.run(wanted, {f"{k}:0": v for k, v in named.items()})
            got = imported.run({k: np.asarray(v) for k, v in named.items()})
            for t, w in zip(wanted, want, strict=True):
                assert got[t.name].dtype == w.dtype
                np.testing.assert_allclose(got[t.name], w, rtol=1e-5, atol=1e-5)


def test_a_condition_known_at_import_leaves_one_branch() -> None:
    before = v1.control_flow_v2_enabled()
    v1.disable_control_flow_v2()
    graph = tf.Graph()
    with graph.as_default():
        result = nested_branches()
    (v1.enable_control_flow_v2 if before else v1.disable_control_flow_v2)()
    imported = fw.import_model(graph, outputs=[result.name], feeds={"p": False, "q": True})
    assert {n.op.name for n in imported.nodes} == {"input", "constant", "sub", "return"}
    np.testing.assert_array_equal(imported.run({"x": X})[result.name], X - 3)


def test_which_branch_ran_and_what_a_branch_would_give() -> None:
    before = v1.control_flow_v2_enabled()
    v1.disable_control_flow_v2()
    graph = tf.Graph()
    with graph.as_default():
        result = constant_branch()
    (v1.enable_control_flow_v2 if before else v1.disable_control_flow_v2)()
    merge = result.op.name
    inner = next(t for t in (o.outputs[0] for o in graph.get_operations() if o.type == "AddV2"))
    imported = fw.import_model(graph, outputs=[f"{merge}:1", inner.name])
    with v1.Session(graph=graph) as session:
        for p in (True, False):
            got = imported.run({"x": X, "p": np.bool_(p)})
            assert got[f"{merge}:1"] == session.run(f"{merge}:1", {"x:0": X, "p:0": p})
            np.testing.assert_array_equal(got[inner.name], X + 1)


def test_vectorized_map_over_a_free_extent() -> None:
    """The number of rounds is the largest of a list of extents that are known only by name."""
    w = tf.constant(ROWS)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 5])])
    def by_element(rows: Any) -> Any:
        return tf.vectorized_map(lambda row: tf.tanh(tf.matmul(row, w)), rows)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 5])])
    def by_index(rows: Any) -> Any:
        return tf.vectorized_map(lambda i: tf.tanh(tf.matmul(rows[i], w)), tf.range(tf.shape(rows)[0]))

    for f in (by_element, by_index):
        graph = fw.import_model(f)
        for n, t in ((3, 4), (1, 2)):
            given = np.random.default_rng(n).standard_normal((n, t, 5)).astype(np.float32)
            (got,) = graph.run({graph.inputs[0].name: given}).values()
            np.testing.assert_allclose(got, f(given), rtol=1e-5, atol=1e-6)


def test_extremes_of_free_extents() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def f(x: Any) -> Any:
        n = tf.shape(x)
        return tf.zeros([tf.reduce_max(n), tf.reduce_min(n), tf.reduce_max(tf.stack([n, n + 1]))]) + tf.reduce_sum(x)

    graph = fw.import_model(f)
    for shape in ((2, 5), (4, 1)):
        given = np.ones(shape, np.float32)
        (got,) = graph.run({graph.inputs[0].name: given}).values()
        np.testing.assert_array_equal(got, f(given))


@pytest.mark.parametrize(
    ("cut", "short"),
    [
        (lambda x, n, t: x[:, t - 3], 2),
        (lambda x, n, t: x[:, : t - 3], 2),
        (lambda x, n, t: x[:, t - 3 :], 2),
        (lambda x, n, t: x[:, (t - 4) // 2 : (t - 4) // 2 + 4], 3),
        (lambda x, n, t: x[:, t - 1 :: -1], None),
        (lambda x, n, t: x[:, n:t], None),
    ],
)
def test_slices_between_free_extents(cut: Callable[..., Any], short: int | None) -> None:
    """A bound that turns out negative would count from the end: such an input is refused, not answered otherwise."""

    @tf.function(input_signature=[tf.TensorSpec([None, None])], autograph=False)
    def f(x: Any) -> Any:
        return cut(x, tf.shape(x)[0], tf.shape(x)[1])

    graph = fw.import_model(f)
    for n, t in ((2, 4), (1, 7), (3, 5)):
        given = np.random.default_rng(t).standard_normal((n, t)).astype(np.float32)
        (got,) = graph.run({graph.inputs[0].name: given}).values()
        np.testing.assert_array_equal(got, f(given))
    if short is not None:
        with pytest.raises(fw.InputRefused):
            graph.run({graph.inputs[0].name: np.ones((2, short), np.float32)})


def test_a_slice_backwards_from_a_bound_of_unknown_sign_is_refused() -> None:
    f = tf.function(lambda x: x[:, tf.shape(x)[1] - 3 :: -1], input_signature=[tf.TensorSpec([None, None])])
    with pytest.raises(fw.ImportRefused, match="may be negative"):
        fw.import_model(f)
