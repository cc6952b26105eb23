"""Faults in the mechanism of run-time extents, each of which the checks must find.

A mutant is one wrong line in the chain from op table to step table; it is found when the graph, the plan, the sanitiser
or a comparison with the interpreter objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.core import bounds
from fusewright.core.errors import FusewrightError
from fusewright.ir import footprint, scope
from fusewright.passes import batch
from fusewright.passes.local import dce
from fusewright.passes.loops import hoist
from fusewright.passes.memory import guards, schedule
from fusewright.runtime import binding, bundle, dynamic, trimmed
from fusewright.runtime.sanitise import sanitised_run

RNG = np.random.default_rng(3)


def masked(b: fw.Builder, x: Any, name: str) -> Any:
    """The elements of a vector above 0."""
    mask = b.gt(x, 0.0)
    b.symbol_of(b.reduce_sum(b.cast(mask, to="i64"), axes=(0,)), symbol=name, high=x.shape[0])
    return b.gather_nd(x, b.nonzero(mask, size=name))


def plain() -> fw.Graph:
    """Two masks; sums of what they keep, and the results with a run-time extent themselves."""
    b = fw.Builder()
    x, y = b.input("x", "f32", ("N",)), b.input("y", "f32", ("N",))
    u, v = masked(b, x, "K"), masked(b, y, "L")
    both = b.concat(b.exp(u), b.neg(v), axis=0)
    n = b.reduce_sum(b.full(("K*L",), 1, "i64"), axes=(0,))
    return b.build({"both": both, "twice": b.add(b.neg(both), b.sigmoid(both)), "n": n})


def looped() -> fw.Graph:
    """A scan whose body binds a symbol, a row at a time, and sums a vector made to that extent."""
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 4))

    def body(b: fw.Builder, total: Any, row: Any) -> Any:
        kept = masked(b, row, "K")
        s = b.reduce_sum(b.exp(b.neg(b.cast(b.iota(shape=("K",)), to="f32"))), axes=(0,))
        return b.add(b.add(total, s), b.reduce_sum(kept, axes=(0,)))

    zero = b.constant(0.0)
    region = b.region([zero.type, x.type.with_shape((4,))], body)
    return b.build({"y": b.scan(zero, x, regions=[region], n_carry=1, n_xs=1)})


def joined() -> fw.Graph:
    """Two masks that have to keep as many."""
    b = fw.Builder()
    x, y = b.input("x", "f32", ("N",)), b.input("y", "f32", ("N",))
    u, v = masked(b, x, "K"), masked(b, y, "L")
    return b.build({"z": b.add(u, b.view_as(v, shape=("K",)))})


def cut() -> fw.Graph:
    """A head of a length that is an input."""
    b = fw.Builder()
    x, n = b.input("x", "f32", ("N",)), b.input("n", "i64", ())
    b.symbol_of(n, symbol="K", high=40)
    return b.build({"head": b.neg(b.slice(x, starts=(0,), stops=("K",)))})


def rows(*signs: int) -> np.ndarray:
    return (np.array(signs) * RNG.uniform(0.5, 2, len(signs))).astype(np.float32)


PLAIN = [{"x": rows(*s), "y": rows(*t)} for s, t in (
    ((1, -1, 1, 1, -1, 1), (1, 1, 1, 1, 1, 1)), ((1, 1, 1, 1, 1, 1), (-1, -1, 1, -1, -1, -1)),
    ((-1, -1), (1, 1)), ((1, -1, 1, 1, -1, 1), (-1, 1, 1, 1, -1, 1)))]  # fmt: skip
LOOPED = [{"x": np.stack([rows(*s) for s in signs])} for signs in (
    ((1, 1, -1, 1), (-1, -1, -1, -1), (1, 1, 1, 1)), ((1, -1, -1, -1), (1, 1, 1, -1)))]  # fmt: skip
CUT = [{"x": rows(1, 1, 1, 1, 1), "n": np.int64(n)} for n in (2, 5, 0, 9)]


def outcome(run: Callable[[], dict[str, np.ndarray]]) -> Any:
    try:
        return run()
    except FusewrightError as error:
        return type(error)


def survives(graph: fw.Graph, feeds: list[dict[str, Any]]) -> bool:
    """Do passes, plan, runs in a row and the sanitiser all agree with the interpreter, refusals included?"""
    wants = [outcome(lambda given=given: graph.run(given)) for given in feeds]
    try:
        graph.verify(level=2)
        made = fw.compile(graph, target="cpu-avx2")
        if made.manifest.batch is not None or made.report({"N": 64}).arena_bytes < made.report({"N": 2}).arena_bytes:
            return False
    except Exception:
        return False
    for given, want in zip(feeds, wants, strict=True):
        for run in (made.run, lambda given: sanitised_run(made, given)):
            try:
                got = outcome(lambda run=run, given=given: run(given))
            except Exception:
                return False
            if isinstance(want, type) or isinstance(got, type):
                if isinstance(want, type) != isinstance(got, type):
                    return False
                continue
            for name, w in want.items():
                if got[name].shape != w.shape or not np.allclose(got[name], w, rtol=1e-4, atol=1e-5):
                    return False
    return True


GRAPHS = {"plain": (plain, PLAIN), "looped": (looped, LOOPED), "joined": (joined, PLAIN), "cut": (cut, CUT)}


@pytest.mark.parametrize("name", list(GRAPHS))
def test_without_a_fault_all_agree(name):
    make, feeds = GRAPHS[name]
    assert survives(make(), feeds)


def _no_rows(registers: Any, name: str, words: Any) -> Any:
    return [], _tables(registers, name, words)[1]


def _no_patches(registers: Any, name: str, words: Any) -> Any:
    return _tables(registers, name, words)[0], []


def _shared_words_lost(registers: Any, name: str, words: Any) -> Any:
    found, patches = _tables(registers, name, words)
    return found, [(at, register) for at, register in patches if len(words[at][1]) < 2]


def _bound_is_low(e: Any, known: Any) -> Any:
    return bounds.extent_range(e, known)[0]


def _whole(self: Any, stored: Any, env: Any) -> Any:
    return list(stored)


_tables = dynamic.tables
MUTANTS: dict[str, tuple[str, Any, str, Any]] = {
    "a BIND computes nothing": ("plain", binding, "tables", _no_rows),
    "a BIND patches nothing": ("plain", binding, "tables", _no_patches),
    "a BIND inside a loop patches nothing": ("looped", binding, "tables", _no_patches),
    "words that depend on two symbols are left out": ("plain", binding, "tables", _shared_words_lost),
    "storage is laid out for the least": ("plain", schedule, "upper", _bound_is_low),
    "results are not cut": ("plain", trimmed.Trimmed, "cut", _whole),
    "a definition is taken for dead": ("plain", dce, "is_live", lambda node, graph: False),
    "what depends on a body's symbol leaves the loop": ("looped", hoist, "mentioned", lambda node: set()),
    "equal extents are not compared": ("joined", schedule, "guards", lambda node, known, seen: ()),
    "windows are not checked": ("cut", guards, "ordered_extents", lambda node: iter(())),
    "the found extents are the bounds": ("plain", bundle.Bundle, "_found", lambda self, context: {"K": 2, "L": 2}),
}


@pytest.mark.parametrize("what", list(MUTANTS))
def test_mutant_is_found(what, monkeypatch):
    name, place, attribute, fault = MUTANTS[what]
    make, feeds = GRAPHS[name]
    monkeypatch.setattr(place, attribute, fault)
    assert not survives(make(), feeds), what


def test_a_dependent_extent_is_never_row_independent(monkeypatch):
    """Every output has N on axis 0, but which rows there are to sum over depends on all of them."""
    b = fw.Builder()
    x = b.input("x", "f32", ("N",))
    kept = masked(b, x, "K")
    graph = b.build({"y": b.add(x, b.reduce_sum(kept, axes=(0,)))})
    assert batch.batch_symbol(graph) is None


def test_a_definition_twice_or_too_late_is_refused():
    b = fw.Builder()
    n = b.input("n", "i64", ())
    b.symbol_of(n, symbol="K", high=4)
    b.symbol_of(n, symbol="K", high=4)
    with pytest.raises(fw.VerifyError, match="defined twice"):
        b.build({"y": n}).verify()
    b = fw.Builder()
    n = b.input("n", "i64", ())
    y = b.iota(shape=("K",))
    b.symbol_of(n, symbol="K", high=4)
    with pytest.raises(fw.VerifyError, match="outside the reach"):
        b.build({"y": y}).verify()
    assert footprint.footprint(plain()) and scope.defined(plain()) == ("K", "L")
