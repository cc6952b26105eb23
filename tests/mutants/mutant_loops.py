"""Faults in the passes on loops and gates, one exchanged expression each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mutant import Kill, Mutant, changed
from mutant_rules import hunted, sound

from fusewright.passes.loops import affine, counted, hoist, scanned
from fusewright.passes.target import gates

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "passes"))
from drawn_loops import cell, counted_loop, recurrence
from targets import FakeTarget

MUTANTS: list[Mutant] = []


def fault(
    kind: str, name: str, p: Any, module: ModuleType, function: str, old: str, new: str,
    extra: Sequence[Callable[..., Any]], budget: int = 250, **options: Any,
) -> None:  # fmt: skip
    """``old`` becomes ``new`` in a function that the pass ``p`` runs."""

    def hunt(budget: int) -> Kill:
        with changed(module, function, old, new):
            return hunted(lambda: p, extra=extra, **options)(budget)

    MUTANTS.append(Mutant(f"{p.name}: {name}", kind, hunt, budget, sound(p, extra=extra, **options)))


LOOPS, COUNTED = counted.loops, [counted_loop]
# Counting.
fault("logic", "one trip too many", LOOPS, counted, "_first_false", "count = ceildiv(d.base, -d.step)",
      "count = ceildiv(d.base, -d.step) + 1", COUNTED)  # fmt: skip
fault("logic", "steps are rounded down", LOOPS, counted, "_first_false", "ceildiv(d.base, -d.step)",
      "d.base // -d.step", COUNTED)  # fmt: skip
fault("logic", "the larger of two bounds", LOOPS, counted, "_trips", "minimum(trips, other)", "max(trips, other)",
      COUNTED)  # fmt: skip
fault("logic", "a rotated condition is tested first", LOOPS, counted, "_rotated", "[e + 1 for e in", "[e for e in",
      COUNTED)  # fmt: skip
fault("logic", "at most is below", LOOPS, affine, "difference", 'if name in ("le", "ge") else d', "if False else d",
      COUNTED)  # fmt: skip
fault("logic", "less is greater", LOOPS, affine, "difference", 'if name in ("lt", "le") else a - b',
      'if name in ("lt", "gt") else a - b', COUNTED)  # fmt: skip
fault("logic", "the condition on values is forgotten", LOOPS, counted, "_first_false",
      'raise _No(f"its condition is {name} of values that are known at run time only")', "return []",
      COUNTED)  # fmt: skip
fault("logic", "the counter stops a step early", LOOPS, counted, "_results", ".at(loop.trips)", ".at(loop.trips - 1)",
      COUNTED)  # fmt: skip
# Reads and writes.
fault("shape", "reads may leave the tensor", LOOPS, counted, "_find_reads",
      "form.within(0, source.shape[0] - 1, loop.trips)", "True", COUNTED)  # fmt: skip
fault("shape", "writes may leave the buffer", LOOPS, counted, "_find_writes",
      "form.within(0, v.shape[0] - 1, loop.trips)", "True", COUNTED)  # fmt: skip
fault("logic", "only the first trip is checked", LOOPS, affine, "Affine.within",
      "(self.base, self.at(trips - 1)) if self.step >= 0 else (self.at(trips - 1), self.base)",
      "(self.base, self.base)", COUNTED)  # fmt: skip
fault("logic", "the buffer may be read", LOOPS, counted, "_find_writes",
      "if len(v.uses) != 1 or len(out.uses) != 1:", "if len(out.uses) != 1:", COUNTED)  # fmt: skip
fault("logic", "reads keep the order of the rows", LOOPS, counted, "_slices",
      "if (item.form.step < 0) != reverse:", "if False:", COUNTED)  # fmt: skip
fault("logic", "stacked rows keep their order", LOOPS, counted, "_results",
      "ys if (item.form.step < 0) == reverse else outer.reverse(ys, axes=(0,))", "ys", COUNTED)  # fmt: skip
fault("logic", "the scan never turns", LOOPS, counted, "_rebuilt", '"reverse": reverse}', '"reverse": False}', COUNTED)
fault("logic", "rows before the first written one are lost", LOOPS, counted, "_spliced",
      "starts=(0, *rest), stops=(low, *rest)", "starts=(size - low, *rest), stops=(size, *rest)", COUNTED)  # fmt: skip
fault("logic", "rows start at the first", LOOPS, counted, "_rows", "low = item.first(loop.trips)",
      "low = item.first(loop.trips) * 0", COUNTED)  # fmt: skip
fault("logic", "counters start at zero", LOOPS, counted, "_counted", "return line if low == 0 else",
      "return line if True else", COUNTED)  # fmt: skip
# What is carried.
CARRIED, BOTH = scanned.carried, [counted_loop, recurrence]
fault("logic", "what only a stacked result needs is dead", CARRIED, scanned, "_dead",
      "roots += [body.outputs[i] for i in range(n, len(node.results)) if node.results[i].uses]", "pass",
      BOTH)  # fmt: skip
fault("logic", "the op's name does not count", CARRIED, scanned, "_key", "(node.op.name, tuple", "(0, tuple", BOTH)
fault("logic", "the last value of a loop that may not run", CARRIED, scanned, "_last",
      "(runs or _same_start(node, j, k))", "True", BOTH)  # fmt: skip
# What leaves.
HOIST, DRAWN = hoist.hoist, [recurrence]
fault("logic", "the parts of a product are added twice", HOIST, hoist, "_split_products", "if k is which]",
      "if True]", DRAWN)  # fmt: skip
fault("shape", "rows of the weights start anew", HOIST, hoist, "_split_products", "low = high", "low = low", DRAWN)
fault("logic", "a slice of the state is taken for known", HOIST, hoist, "_known",
      "set(body.inputs[first:]), set(body.inputs[n:first])", "set(body.inputs[first:]), set(body.inputs[:first])",
      DRAWN)  # fmt: skip
INVARIANT = hoist.invariant
fault("logic", "slices are taken for invariant", INVARIANT, hoist, "_first_fixed",
      'node.attrs["n_carry"] + node.attrs.get("n_xs", 0)', 'node.attrs["n_carry"]', DRAWN)  # fmt: skip
# Gates.
GATES, CELLS, TAKES = gates.gates, [cell], {"target": FakeTarget()}
fault("logic", "every part is the first", GATES, gates, "_region", 'part(n.operands[0], n.attrs["starts"][-1])',
      "part(n.operands[0], 0)", CELLS, **TAKES)  # fmt: skip
fault("logic", "the whole may be read elsewhere", GATES, gates, "_split", "return _narrow(group)", "continue", CELLS,
      400, **TAKES)  # fmt: skip
fault(
    "logic", "the tail waits for no one", GATES, gates, "_try", "fits = need < users and", "fits =", CELLS, 400, **TAKES
)
fault("logic", "what the contraction reads is made inside", GATES, gates, "_absorb", "u not in group.tail",
      "u not in inside", CELLS, 400, **TAKES)  # fmt: skip
EQUIVALENT: dict[str, str] = {}
