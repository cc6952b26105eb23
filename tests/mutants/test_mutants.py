"""Every seeded miscompile is found within its budget of graphs; conftest.py prints the table of kills."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import mutant_axes
import mutant_loops
import mutant_memory
import mutant_passes
import mutant_raising
import mutant_rules
import pytest
from mutant import Mutant, changed

from fusewright.passes.memory import schedule

FAMILIES: dict[str, list[Mutant]] = {
    "rules": mutant_rules.RULES,
    "axes": mutant_axes.MUTANTS,
    "passes": mutant_passes.MUTANTS,
    "raising": mutant_raising.MUTANTS,
    "loops": mutant_loops.MUTANTS,
    "memory": mutant_memory.MUTANTS,
}
EQUIVALENT = {
    **mutant_rules.EQUIVALENT,
    **mutant_passes.EQUIVALENT,
    **mutant_raising.EQUIVALENT,
    **mutant_memory.EQUIVALENT,
}
ALL = [pytest.param(family, m, id=f"{family}-{m.name}") for family, found in FAMILIES.items() for m in found]


@pytest.mark.parametrize(("family", "mutant"), ALL)
def test_a_mutant_is_killed(family: str, mutant: Mutant, record_property: Callable[[str, object], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kill = mutant.hunt(mutant.budget)
    record_property(
        "kill", {"family": family, "name": mutant.name, "kind": mutant.kind, "least": mutant.least, **vars(kill)}
    )
    assert kill.graphs is not None, f"survived {mutant.budget} graphs"


def test_the_registry() -> None:
    mutants = [m for found in FAMILIES.values() for m in found]
    names = [m.name for m in mutants]
    assert len(mutants) >= 120 and len(set(names)) == len(names)
    assert {"type", "shape", "logic", "numeric", "in-place", "schedule", "codegen", "error"} <= {
        m.kind for m in mutants
    }
    catalogue = {m.kind for m in mutants if m.kind[0] == "B" and m.kind[1:].isdigit()}
    assert catalogue == {f"B{i}" for i in range(1, 15)}
    assert not set(EQUIVALENT) & set(names) and all(EQUIVALENT.values())


def test_a_mutant_leaves_nothing_behind() -> None:
    before = schedule._moving
    with changed(schedule, "_moving", "reverse)", "not reverse)"):
        assert schedule._moving is not before
    assert schedule._moving is before
    with pytest.raises(LookupError, match="no longer contains"), changed(schedule, "_moving", "no such text", ""):
        raise AssertionError("never entered")
