"""Contractions read in equal parts: one kernel for recurrent cells and gated units, inside its bound, also in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusewright.backends.numba_cpu.bundle import cpu_target
from fusewright.backends.numba_cpu.select import gated
from fusewright.backends.numba_cpu.tiles.probe import compile_text, run_text, run_twin
from fusewright.backends.numba_cpu.variants import FAST_VARIANTS, VARIANTS
from fusewright.core.dims import evaluate
from fusewright.ir import Builder, Graph, Node
from fusewright.passes import default_pipeline
from fusewright.passes.target.bf16 import bf16
from fusewright.passes.target.gates import gates
from fusewright.runtime import cpu
from fusewright.testing import assert_equivalent
from fusewright.testing.kernels import check_kernels

Cell = Callable[..., Any]


def weights(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    fan = max(1, int(np.prod(shape[:-1])))
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / np.sqrt(fan)).astype(dtype)


def split(b: Any, x: Any, parts: int) -> list[Any]:
    w, lead = x.shape[-1] // parts, (None,) * (x.rank - 1)
    return [b.slice(x, starts=(*lead, i * w), stops=(*lead, (i + 1) * w)) for i in range(parts)]


def lstm(b: Any, z: Any, x: Any, h: Any, c: Any) -> Any:
    i, f, g, o = split(b, b.add(b.add(z, x), b.constant(weights(z.shape[-1], dtype=z.dtype.np))), 4)
    c = b.add(b.mul(b.sigmoid(f), c), b.mul(b.sigmoid(i), b.tanh(g)))
    return b.mul(b.sigmoid(o), b.tanh(c)), c


def gru(b: Any, z: Any, x: Any, h: Any, c: Any) -> Any:
    rz, rr, rh = split(b, b.add(z, b.constant(weights(z.shape[-1], dtype=z.dtype.np))), 3)
    xz, xr, xh = split(b, x, 3)
    u, r = b.sigmoid(b.add(xz, rz)), b.sigmoid(b.add(xr, rr))
    return b.add(b.mul(u, h), b.mul(b.sub(1.0, u), b.tanh(b.add(xh, b.mul(r, rh)))))


def masked(b: Any, z: Any, x: Any, h: Any, c: Any) -> Any:
    i, g = split(b, b.add(z, x), 2)
    new = b.mul(b.sigmoid(i), g)
    return b.where(b.input("m", "bool", (c.shape[0], 1)), new, c)


def unit(b: Any, z: Any, x: Any, h: Any, c: Any) -> Any:
    """A gated linear unit."""
    a, g = split(b, z, 2)
    return b.mul(a, b.silu(g))


def windowed(b: Any, z: Any, x: Any, h: Any, c: Any) -> Any:
    """One part, and a window of another operand."""
    return b.tanh(b.add(z, split(b, x, 2)[1]))


CELLS: dict[str, tuple[Cell, int, int]] = {
    "lstm": (lstm, 4, 1), "gru": (gru, 3, 1), "masked": (masked, 2, 1), "unit": (unit, 2, 1),
    "windowed": (windowed, 1, 2),
}  # fmt: skip


def build(name: str, rows: Any, k: int, width: int, dtype: Any = np.float32, **attrs: bool) -> Graph:
    cell, parts, wider = CELLS[name]
    b: Any = Builder()
    h = b.input("h", np.dtype(dtype).name, (rows, k))
    x, c = b.input("x", h.dtype, (rows, parts * width * wider)), b.input("c", h.dtype, (rows, width))
    state = b.input("s", h.dtype, (rows, width))
    w = weights(parts * width, k, dtype=dtype) if attrs.get("transpose_b") else weights(k, parts * width, dtype=dtype)
    out = cell(b, b.matmul(h, b.constant(w), **attrs), x, h if k == width else state, c)
    return b.build(*(out if isinstance(out, tuple) else (out,)))


def feeds(graph: Graph, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    drawn = {v.name: rng.standard_normal(v.type.concrete({"N": rows})) for v in graph.inputs}
    return {
        v.name: (drawn[v.name] > 0 if v.dtype.kind == "b" else drawn[v.name]).astype(v.dtype.np) for v in graph.inputs
    }


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("k, width, rows", [(16, 16, 1), (7, 37, 5), (130, 64, 70), (600, 24, 3)])
def test_one_kernel_inside_its_bound(name: str, k: int, width: int, rows: int) -> None:
    graph = build(name, "N", k, width)
    verdicts = check_kernels(graph, feeds(graph, rows))
    assert [str(v) for v in verdicts if not v.ok] == []
    assert len(verdicts) == len({v.variant for v in verdicts})


@pytest.mark.parametrize("name", CELLS)
def test_other_types_and_forms(name: str) -> None:
    for graph, rows in (
        (build(name, "N", 9, 20, np.float64), 3), (build(name, 1, 33, 48), 1),
        (build(name, "N", 5, 16, transpose_b=True), 0), (build(name, "N", 12, 40, transpose_b=True), 9),
    ):  # fmt: skip
        verdicts = check_kernels(graph, feeds(graph, rows))
        assert [str(v) for v in verdicts if not v.ok] == []


@pytest.mark.parametrize("name", CELLS)
def test_rounded_operands(name: str) -> None:
    """Marked kernels are inside the bound of the mark; there are no pairs in an odd number of rows of weights."""
    for k, width, rows in ((16, 16, 1), (130, 40, 70), (602, 24, 3), (7, 37, 5)):
        graph = build(name, "N", k, width, bf16=True)
        verdicts = check_kernels(graph, feeds(graph, rows))
        assert [str(v) for v in verdicts if not v.ok] == []
        assert {v.variant for v in verdicts} >= {v for v in FAST_VARIANTS if not cpu.missing(v)}


@pytest.mark.parametrize("variant", FAST_VARIANTS)
def test_the_text_that_rounds(variant: str) -> None:
    """Cut in two or not; only where pairs are multiplied is anything rounded."""
    rows, graph = 29, build("lstm", "N", 50, 40)
    node, values = fused(graph), feeds(graph, rows)
    marked, stats = bf16.apply(default_pipeline(cpu_target()).run(graph)[0], cpu_target())
    (rounds,) = (n for n in marked.nodes if n.op.name == "fused")
    assert stats.rewritten == 1 and [n.attrs["bf16"] for n in rounds.regions[0].nodes if n.op.name == "matmul"] == [
        True
    ]
    want = call(node, values, "cpu-avx512", rows, None, "twin")
    for given, exact in zip(call(rounds, values, variant, rows, None, "twin"), want, strict=True):
        off = np.abs(given - exact).max()
        assert (1e-4 < off < 2e-2) if VARIANTS[variant].dots else off < 1e-5


def fused(graph: Graph) -> Node:
    final, _ = default_pipeline(cpu_target()).run(graph)
    found = [n for n in final.nodes if n.op.name == "fused"]
    assert [n.attrs["kind"] for n in found] == ["gated"]
    return found[0]


def call(
    node: Node, values: dict[str, np.ndarray], variant: str, rows: int, over: int | None, how: Any
) -> list[np.ndarray]:
    """Results of ``node``; operand ``over`` gives its storage to result 0."""
    fixed = {i: v.const for i, v in enumerate(node.operands) if v.const is not None}
    (chosen,) = gated.choose(node, VARIANTS[variant], fixed, node.op.cost(node))
    given = [fixed[i].array if i in fixed else values[v.name].copy() for i, v in enumerate(node.operands)]
    outputs = [np.full(v.type.concrete({"N": rows}), 7, v.dtype.np) for v in node.results]
    if over is not None:
        outputs[0] = given[over]
    words, held = [], [*given, *outputs]
    for word in chosen.args:
        if word.kind == "dim":
            words.append(evaluate(word.value, {"N": rows}))
            continue
        if word.kind == "packed":
            array = word.layout.pack(given[word.index])
            held.append(array)
        else:
            array = outputs[word.index] if word.kind == "result" else given[word.index]
        words.append(array.ctypes.data)
    extent, scratch = evaluate(chosen.extent, {"N": rows}), evaluate(chosen.scratch, {"N": rows})
    if how == "twin":
        run_twin(
            chosen.text, "gated", words, list({a.ctypes.data: a for a in held if a.size}.values()), extent, scratch
        )
    else:
        run_text(compile_text(chosen.text, "gated"), words, extent, scratch, how)
    return outputs


@pytest.mark.parametrize("name", ["lstm", "gru", "masked"])
@pytest.mark.parametrize("width, rows, free", [(40, 29, True), (64, 8, False)])
def test_in_place_cut_in_chunks_and_by_its_twin(name: str, width: int, rows: int, free: bool) -> None:
    graph = build(name, "N" if free else rows, width, width)
    node, values = fused(graph), feeds(graph, rows)
    want = call(node, values, "cpu-avx512", rows, None, 1)
    places = [i for i in range(len(node.operands)) if gated.may_overwrite(node, i)]
    owners = {node.operands[i].name for i in places}
    assert owners == {"lstm": {"c"}, "gru": set(), "masked": {"c"}}[name]
    for over in (None, *places):
        for how in (1, 3, "twin"):
            got = call(node, values, "cpu-avx512", rows, over, how)
            for a, b in zip(got, want, strict=True):
                # The twin's elementary functions are NumPy's.
                near = {"rtol": 2e-6, "atol": 2e-6} if how == "twin" else {"rtol": 0, "atol": 0}
                np.testing.assert_allclose(a, b, **near)


@pytest.mark.parametrize("name, rows, width", [("lstm", 1, 128), ("lstm", 8, 64), ("gru", 8, 64), ("lstm", 20, 64)])
def test_threads_share_one_step(name: str, rows: int, width: int) -> None:
    """Of one row, reading the weights takes longer than handing out two halves of them; few rows are work enough."""
    node = fused(build(name, rows, width, width))
    fixed = {i: v.const for i, v in enumerate(node.operands) if v.const is not None}
    (chosen,) = gated.choose(node, VARIANTS["cpu-avx512"], fixed, node.op.cost(node))
    assert evaluate(chosen.extent, {}) >= 2 * chosen.grain


def plain(cell: Cell, parts: int, width: int = 16, constant: bool = True) -> tuple[Graph, Any]:
    b: Any = Builder()
    h, x, c = b.input("h", "f32", (3, 16)), b.input("x", "f32", (3, parts * width)), b.input("c", "f32", (3, width))
    w = b.constant(weights(16, parts * width)) if constant else b.input("w", "f32", (16, parts * width))
    out = cell(b, b.matmul(h, w), x, h, c)
    graph = b.build(*(out if isinstance(out, tuple) else (out,)))
    got, stats = gates.apply(graph, cpu_target())
    got.verify(2)
    assert_equivalent(graph, got, feeds(graph, 3), "exact")
    return got, stats


def kinds(graph: Graph) -> list[str]:
    return [n.attrs["kind"] if n.op.name == "fused" else n.op.name for n in graph.nodes
            if n.op.name not in ("input", "constant", "return")]  # fmt: skip


def test_what_the_parts_are_also_read_for_stays_outside() -> None:
    def escapes(b: Any, z: Any, x: Any, h: Any, c: Any) -> Any:
        return lstm(b, z, x, h, c)[0], b.reduce_sum(z, axes=(0, 1))

    assert plain(lstm, 4)[1].rewritten == 1
    assert plain(escapes, 4)[1].rewritten == 0


def test_unequal_parts_stay_outside() -> None:
    def uneven(b: Any, z: Any, x: Any, h: Any, c: Any) -> Any:
        return b.mul(b.slice(z, starts=(None, 8), stops=(None, 24)), c)

    assert plain(uneven, 2)[1].rewritten == 0


def test_weights_made_at_run_time_stay_outside() -> None:
    assert plain(lstm, 4, constant=False)[1].rewritten == 0


def test_parts_that_are_results_themselves_stay_outside() -> None:
    assert plain(lambda b, z, x, h, c: tuple(split(b, z, 2)), 2)[1].rewritten == 0


def test_a_tail_that_waits_for_another_contraction_is_left_to_it() -> None:
    """reset_before: the candidate's product reads what the gates made."""

    def before(b: Any, z: Any, x: Any, h: Any, c: Any) -> Any:
        u, r = (b.sigmoid(v) for v in split(b, b.add(z, b.slice(x, starts=(None, 0), stops=(None, 32))), 2))
        xh = b.slice(x, starts=(None, 0), stops=(None, 16))
        candidate = b.tanh(b.add(xh, b.matmul(b.mul(r, h), b.constant(weights(16, 16)))))
        return b.add(b.mul(u, h), b.mul(b.sub(1.0, u), candidate))

    got, stats = plain(before, 2)
    assert stats.rewritten == 2 and [k for k in kinds(got) if k != "slice"] == ["gated", "gated"]
