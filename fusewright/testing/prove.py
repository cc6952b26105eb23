"""``prove``: an elementwise rule on every value of a small type.

Owns which types and values are tried, and the counterexample. Must not know how rules match.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

import numpy as np

from ..core.dtypes import BOOL, F16, F32, F64, I8, I32, U8, DType
from ..core.errors import FusewrightError, InputRefused, TypeRefused
from ..ir import Builder, Graph, Value
from ..passes import Rewrite
from ..passes.engine.pattern import Apply, Placeholder, alternatives, below, variables
from ..passes.engine.rewrite import instantiate
from .feeds import SPECIAL
from .oracle import Mismatch, assert_equivalent
from .properties import Violation, equal

# Constants tried for variables of a rule that declines unless it knows their value.
CONSTANTS = (0, 1, 2, 6, -1, 0.5, -0.0, 4, -4, 3, np.inf, -np.inf)
_MOST_CONSTANT = 2
_FREE = 3
# Ways to decide the alternatives of a pattern.
_FORMS = 64


@dataclass(frozen=True, slots=True)
class Counterexample:
    """Operands for which a rule breaks its promise: ``values`` by variable, ``before`` and ``after`` it."""

    dtype: str
    values: dict[str, Any]
    before: Any
    after: Any
    graph: Graph = field(compare=False, repr=False)

    def __str__(self) -> str:
        given = ", ".join(f"{k} = {v!r}" for k, v in self.values.items())
        return f"{self.dtype}: {given}: was {self.before!r}, is {self.after!r}"


@dataclass(slots=True)
class Proof:
    """What was tried. ``holds`` is False where nothing could be tried; ``reason`` says why.

    ``exhaustive`` names the types of which every value (or pair) was tried; of the others a grid of special values was.
    """

    holds: bool = False
    tried: int = 0
    counterexample: Counterexample | None = None
    numerics: str = "exact"
    exhaustive: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    reason: str = ""

    def __bool__(self) -> bool:
        return self.holds


def prove(rule: Rewrite) -> Proof:
    """Try an elementwise rule on every float16, every pair of int8, every bool, and grids of special values elsewhere.

    A variable whose value the rule insists on knowing is also given as a constant. The result is held to the numerics
    that the rule declares. Raises InputRefused for a rule that is not elementwise.
    """
    if not isinstance(rule, Rewrite):
        raise InputRefused(f"prove takes one rewrite, not {rule!r}; check_pass tests other passes")
    for op in _ops(rule.pattern.root):
        if op.kind != "elementwise":
            raise InputRefused(f"{op.name} is not elementwise, so no small set of values decides; use check_pass")
    proof = Proof(numerics=rule.numerics)
    full: list[str] = []
    reasons: list[str] = []
    forms = list(islice(alternatives(rule.pattern.root), _FORMS))
    for dt in (F16, BOOL, I8, U8, F32, F64, I32):
        tried, complete = proof.tried, False
        for form in forms:
            complete |= _try_type(rule, form, dt, proof, reasons)
            if proof.counterexample is not None:
                return proof
        if proof.tried > tried:
            proof.dtypes = (*proof.dtypes, dt.name)
            if complete:
                full.append(dt.name)
    proof.exhaustive = tuple(full)
    proof.holds = proof.tried > 0
    if not proof.tried:
        proof.reason = reasons[0] if reasons else "the pattern has no type over these"
    return proof


def _ops(p: Placeholder) -> Iterator[Any]:
    if isinstance(p, Apply):
        yield p.op
    for inner in below(p):
        yield from _ops(inner)


def _try_type(rule: Rewrite, form: Placeholder, dt: DType, proof: Proof, reasons: list[str]) -> bool:
    names = tuple(n for n in rule.pattern.names if n in set(variables(form)))
    complete = False
    for constants in _assignments(names, dt):
        graph = _instance(form, names, dt, constants)
        if graph is None:
            continue
        after, stats = rule.apply(graph)
        if not stats.rewritten:
            reasons += [why for _, why in stats.declined]
            continue
        free = [v.name for v in graph.inputs]
        if len(free) > _FREE:
            reasons.append(f"{len(free)} variables are too many")
            continue
        grid, full = _values([v.dtype for v in graph.inputs])
        feeds = dict(zip(free, grid))
        proof.tried += grid[0].size if grid else 1
        _compare(rule, dt, graph, after, feeds, constants, proof)
        if proof.counterexample is not None:
            return False
        if not constants:
            # Nothing is left to be decided by a constant's value.
            return full
        complete = complete or full
    return complete


def _assignments(names: tuple[str, ...], dt: DType) -> Iterator[dict[str, Any]]:
    """No constants first; then values for one or two variables."""
    yield {}
    numbers = [c for c in CONSTANTS if dt.is_float or dt.is_int and np.isfinite(c) and c == int(c)]
    if dt.kind == "u":
        numbers = [c for c in numbers if not np.signbit(c)]
    pool: list[Any] = [False, True] if dt is BOOL else numbers
    for count in range(1, min(_MOST_CONSTANT, len(names)) + 1):
        for chosen in _subsets(names, count):
            for values in product(pool, repeat=count):
                yield dict(zip(chosen, values))


def _subsets(names: tuple[str, ...], count: int) -> Iterator[tuple[str, ...]]:
    if not count:
        yield ()
        return
    for i, name in enumerate(names):
        for rest in _subsets(names[i + 1 :], count - 1):
            yield (name, *rest)


def _instance(form: Placeholder, names: Sequence[str], dt: DType, constants: Mapping[str, Any]) -> Graph | None:
    """The pattern over inputs of ``dt`` (of bool where only that types), with some variables constant."""
    free = [n for n in names if n not in constants]
    for kinds in product((dt, BOOL), repeat=len(free)) if dt is not BOOL else [(BOOL,) * len(free)]:
        if all(k is BOOL for k in kinds) and dt is not BOOL and free:
            continue
        b = Builder()
        env: dict[str, Value] = {n: b.input(n, k, ("N",)) for n, k in zip(free, kinds)}
        try:
            env |= {n: b.constant(np.asarray(c).astype(dt.np), dt) for n, c in constants.items()}
            return b.build({"y": instantiate(form, b, env)})
        except (TypeRefused, OverflowError):
            continue
    return None


def _all_values(dt: DType) -> np.ndarray:
    if dt is BOOL:
        return np.array([False, True])
    if dt.size == 1:
        return np.arange(256).astype(np.uint8).view(dt.np)
    return np.arange(1 << 16).astype(np.uint16).view(np.float16)


def _special(dt: DType, count: int) -> np.ndarray:
    """``count`` values or fewer: special ones, and numbers of every magnitude."""
    if dt is BOOL:
        return np.array([False, True])
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        if dt.is_float:
            info = np.finfo(dt.np)
            edge = [info.max, -info.max, info.tiny, -info.tiny, info.smallest_subnormal, 1 + info.eps, 1 - info.eps]
            wide = rng.standard_normal(count) * 10.0 ** rng.uniform(-3, 3, count)
            found = np.concatenate([np.array([*SPECIAL, *edge, 1, -1, 2, -2, 6, 3, 0.25]), wide]).astype(dt.np)
        else:
            info_i = np.iinfo(dt.np)
            edge = [info_i.min, info_i.max, 0, 1, info_i.max // 2, 2, 3]
            wide_i = rng.integers(info_i.min, info_i.max, count, dtype=dt.np, endpoint=True)
            found = np.concatenate([np.array(edge, dt.np), wide_i])
    return np.asarray(found[:count])


def _values(kinds: list[DType]) -> tuple[list[np.ndarray], bool]:
    """A flat array per variable: their grid, and is it all there is."""
    if not kinds:
        return [], False
    small = [k.size == 1 or k is F16 and len(kinds) == 1 for k in kinds]
    wide = sum(k is not BOOL for k in kinds)
    if all(small) and wide <= 2:
        columns, full = [_all_values(k) for k in kinds], True
    else:
        per = {1: 4096, 2: 256}.get(wide, 40)
        columns, full = [_special(k, per) for k in kinds], False
    mesh = np.meshgrid(*columns, indexing="ij")
    return [np.ascontiguousarray(m).ravel() for m in mesh], full


def _compare(
    rule: Rewrite, dt: DType, graph: Graph, after: Graph, feeds: dict[str, np.ndarray], constants: Mapping[str, Any],
    proof: Proof,
) -> None:  # fmt: skip
    try:
        equal(graph, after, feeds, rule.numerics, "semantics", alone=True)
        return
    except Violation as violation:
        error = violation.__cause__
    if not isinstance(error, Mismatch) or not error.index:
        raise FusewrightError(f"{rule.name}: the rewritten graph does not run: {error}")
    (at,) = error.index
    one = {k: v[at : at + 1] for k, v in feeds.items()}
    values = {n: one[n][0] if n in one else constants[n] for n in rule.pattern.names if n in one or n in constants}
    was, now = graph.run(one)["y"][0], after.run(one)["y"][0]
    proof.counterexample = Counterexample(dt.name, values, was, now, graph)


__all__ = ["CONSTANTS", "Counterexample", "Proof", "assert_equivalent", "prove"]
