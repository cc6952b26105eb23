"""The oracle: is a result one that the graph allows?

Owns verdicts: outputs against float64 values with running error bounds, and two graphs against each other. Must not
know any backend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.dtypes import DType
from ..core.errors import InputRefused
from ..ir import BoundedInterpreter, Graph, Node
from ..ir.opdef import EvalContext

Bounded = Mapping[str, tuple[np.ndarray, np.ndarray]]
UNITS = {"f16": 2.0**-11, "bf16": 2.0**-8, "f32": 2.0**-24, "f64": 2.0**-53}


# Elementwise ops that tell the zeros apart in more than the sign of a zero.
_SEES_ZERO = frozenset(("div", "reciprocal", "floordiv", "truncdiv", "pow", "atan2", "rsqrt"))


class UnsignedZeros(BoundedInterpreter):
    """Error bounds where every zero may be of the other sign: what divides by one is undecided."""

    def _bounded_node(
        self, node: Node, pairs: Sequence[tuple[np.ndarray, np.ndarray]], ctx: EvalContext
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        found = super()._bounded_node(node, pairs, ctx)
        if node.op.name not in _SEES_ZERO:
            return found
        (out, err), arrays = found[0], [a for a, _ in pairs]
        for i, a in enumerate(arrays):
            if a.dtype.kind == "f" and np.any(a == 0):
                other = self.evaluate(node, [*arrays[:i], np.where(a == 0, -a, a), *arrays[i + 1 :]], ctx)[0]
                err = np.where((other != out) & ~(np.isnan(other) & np.isnan(out)), np.inf, err)
        return [(out, err)]


class Mismatch(AssertionError):
    """An output is not what the graph allows. ``output`` and ``index`` say where."""

    def __init__(self, message: str, output: str = "", index: tuple[int, ...] = ()) -> None:
        self.output, self.index = output, index
        super().__init__(message)


@dataclass(slots=True)
class Verdict:
    """How much was decided: elements seen, undecided ones, and the largest error as a share of its bound."""

    elements: int = 0
    undecided: int = 0
    worst: float = 0.0
    by_output: dict[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Undecided elements as a share of all."""
        return self.undecided / max(self.elements, 1)

    def add(self, other: Verdict) -> None:
        """Count another verdict in."""
        self.elements += other.elements
        self.undecided += other.undecided
        self.worst = max(self.worst, other.worst)


def check_outputs(
    graph: Graph,
    feeds: Mapping[str, Any],
    outputs: Mapping[str, Any],
    bounded: Bounded | None = None,
    slack: float = 1.0,
) -> Verdict:
    """Check arrays by output name against the float64 interpreter with running error bounds.

    Decided elements must have the reference's class (NaN, +inf, -inf, finite) and lie within ``slack`` times the
    bound; integers and bools must be equal. Raises Mismatch. ``bounded`` saves running the reference again.
    """
    bounded = BoundedInterpreter(graph).run_bounded(feeds) if bounded is None else bounded
    if set(outputs) != set(graph.output_names):
        raise Mismatch(f"outputs are {sorted(outputs)}, expected {sorted(graph.output_names)}")
    verdict = Verdict()
    for name, v in zip(graph.output_names, graph.outputs, strict=True):
        value, err = bounded[name]
        verdict.add(one := check_array(name, v.dtype, np.asarray(outputs[name]), value, err, slack))
        verdict.by_output[name] = one.worst
    return verdict


def check_array(
    name: str, dt: DType, got: np.ndarray, value: np.ndarray, err: np.ndarray, slack: float = 1.0
) -> Verdict:
    """One output against reference values and bounds. Raises Mismatch."""
    if got.shape != value.shape:
        raise Mismatch(f"{name}: shape {got.shape}, expected {value.shape}", name)
    want_np = np.dtype(np.float32) if dt.name == "bf16" else dt.np
    if got.dtype != want_np:
        raise Mismatch(f"{name}: dtype {got.dtype}, expected {want_np}", name)
    err = np.broadcast_to(np.asarray(err, np.float64), value.shape)
    if np.isnan(err).any():
        # NaN must never pass for "undecided": that hides mutants.
        raise Mismatch(f"{name}: the error bound itself is NaN", name)
    decided = np.isfinite(err)
    verdict = Verdict(int(value.size), int(value.size - np.count_nonzero(decided)))
    if not dt.is_float:
        _report(name, decided & (got != value), got, value, err)
        return verdict
    with np.errstate(all="ignore"):
        g, r = got.astype(np.float64), value.astype(np.float64)
        finite = np.isfinite(r)
        wrong_class = np.where(finite, ~np.isfinite(g), np.where(np.isnan(r), ~np.isnan(g), g != r))
        # The reference has its own float64 rounding: invisible beside float32, of the same size for float64.
        allowed = err * (slack * (2.0 if dt.name == "f64" else 1.0 + 2.0**-20))
        distance = np.abs(g - r)
        _report(name, decided & (wrong_class | finite & (distance > allowed)), got, value, err)
        ratio = np.where(decided & finite & (distance > 0), distance / err, 0.0)
    verdict.worst = float(np.max(ratio, initial=0.0))
    return verdict


def _report(name: str, bad: np.ndarray, got: np.ndarray, value: np.ndarray, err: np.ndarray) -> None:
    if not np.any(bad):
        return
    index = tuple(int(i) for i in np.argwhere(bad)[0]) if bad.ndim else ()
    count = int(np.count_nonzero(bad))
    raise Mismatch(
        f"{name}[{', '.join(map(str, index))}]: got {got[index]!r}, reference {value[index]!r} with error bound "
        f"{err[index]:.3g} ({count} of {bad.size} elements are wrong)",
        name,
        index,
    )


def assert_equivalent(
    g1: Graph, g2: Graph, feeds: Mapping[str, Any], numerics: str = "exact", *, alone: bool = False
) -> Verdict:
    """Both graphs give the same outputs for ``feeds``, at a level of ``numerics``. Raises Mismatch.

    exact: equal bits (any NaN is equal to any NaN). nsz: the sign of zero may differ, and what hangs on it. ulp(n):
    within n units in the last place of the reference beside both graphs' own error bounds. reassoc, approx: within
    both error bounds, zeros as in nsz.
    ``alone``: nothing stands behind what was rewritten, so ulp(n) excuses no value that only ``g2`` leaves undecided.
    """
    if [(v.name, v.type) for v in g1.inputs] != [(v.name, v.type) for v in g2.inputs]:
        raise Mismatch(f"inputs differ: {g1.inputs} and {g2.inputs}")
    if g1.output_names != g2.output_names:
        raise Mismatch(f"output names differ: {g1.output_names} and {g2.output_names}")
    if numerics in ("exact", "nsz"):
        return _assert_bits(g1, g2, feeds, signed_zero=numerics == "exact")
    match = re.fullmatch(r"ulp\((\d+(?:\.\d+)?)\)", numerics)
    if match is None and numerics not in ("reassoc", "approx"):
        raise InputRefused(f"numerics {numerics!r} is not exact, nsz, ulp(n), reassoc or approx")
    ulps = float(match.group(1)) if match else 0.0
    # The sign of zero is promised up to ulp(n) only; what divides by a zero is undecided behind that.
    first, second = ((BoundedInterpreter if match else UnsignedZeros)(g).run_bounded(feeds) for g in (g1, g2))
    if match and alone:
        second = {name: (value, np.where(np.isfinite(err), err, 0)) for name, (value, err) in second.items()}
    return check_outputs(g1, feeds, g2.run(feeds), widened(g1, first, second, ulps))


def widened(graph: Graph, first: Bounded, second: Bounded, ulps: float = 0.0) -> Bounded:
    """Values of ``first`` with the error bounds of both, and ``ulps`` units in the last place on top."""
    out = {}
    for (name, (value, e1)), (_, e2), v in zip(first.items(), second.values(), graph.outputs, strict=True):
        with np.errstate(all="ignore"):
            # The factor is tiny: a float64 value near its end stays finite.
            unit = np.where(np.isfinite(value), np.abs(value.astype(np.float64)), 0) * (2 * UNITS.get(v.dtype.name, 0))
            out[name] = (value, e1 + e2 + ulps * unit if v.dtype.is_float else np.maximum(e1, e2))
    return out


def _assert_bits(g1: Graph, g2: Graph, feeds: Mapping[str, Any], signed_zero: bool) -> Verdict:
    return same_bits(g1, feeds, g1.run(feeds), g2.run(feeds), signed_zero)


def same_bits(
    graph: Graph, feeds: Mapping[str, Any], one: Mapping[str, Any], two: Mapping[str, Any], signed_zero: bool
) -> Verdict:
    """Equal arrays of outputs of ``graph``; any NaN is any NaN. Raises Mismatch.

    ``signed_zero`` False: zeros of either sign are equal, and so is what only they decide (1 / 0 and 1 / -0).
    """
    verdict = Verdict()
    excused: dict[str, np.ndarray] | None = None
    for name in graph.output_names:
        a, b = one[name], two[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            raise Mismatch(f"{name}: {a.dtype}{a.shape} became {b.dtype}{b.shape}", name)
        same = np.asarray(a == b)
        if a.dtype.kind == "f":
            same = same | np.isnan(a) & np.isnan(b)
            if signed_zero:
                same = same & (np.isnan(a) | (np.signbit(a) == np.signbit(b)))
        if not signed_zero and not same.all():
            excused = _by_zeros(graph, feeds) if excused is None else excused
            same = same | excused[name]
            verdict.undecided += int(np.count_nonzero(excused[name]))
        if not same.all():
            index = tuple(int(i) for i in np.argwhere(~same)[0]) if same.ndim else ()
            where = ", ".join(map(str, index))
            raise Mismatch(f"{name}[{where}]: was {a[index]!r}, is {b[index]!r}", name, index)
        verdict.elements += a.size
    return verdict


def _by_zeros(graph: Graph, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Where outputs are decided but for the sign of a zero."""
    sharp, loose = (kind(graph).run_bounded(feeds) for kind in (BoundedInterpreter, UnsignedZeros))
    return {name: np.isfinite(sharp[name][1]) & ~np.isfinite(loose[name][1]) for name in graph.output_names}


__all__ = [
    "Mismatch",
    "UnsignedZeros",
    "Verdict",
    "assert_equivalent",
    "check_array",
    "check_outputs",
    "same_bits",
    "widened",
]
