"""What no mutant has touched survives the graphs that its mutants get: without that, a kill says nothing."""

from __future__ import annotations

import warnings

import mutant_loops
import mutant_memory
import mutant_passes
import mutant_raising
import mutant_rules
import pytest
from mutant import Control, Mutant

MUTANTS = [m for found in (mutant_passes, mutant_memory, mutant_loops, mutant_raising) for m in found.MUTANTS]


def controls() -> dict[str, dict[Control, int]]:
    """By the first part of the key, mostly a pass: each control once, with the largest budget that a mutant has."""
    found: dict[tuple[object, ...], tuple[Control, int]] = {}
    for m in MUTANTS:
        if m.control is not None:
            first, budget = found.get(m.control.key, (m.control, 0))
            found[m.control.key] = first, max(budget, m.budget)
    out: dict[str, dict[Control, int]] = {}
    for control, budget in found.values():
        out.setdefault(control.key[0], {})[control] = budget
    return out


CONTROLS = controls()


@pytest.mark.parametrize("name", CONTROLS)
def test_what_is_not_mutated_survives(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for control, budget in CONTROLS[name].items():
            assert control.hunt(budget).graphs is None


def test_every_fault_in_the_sources_has_a_control() -> None:
    def wrong_from_the_start(m: Mutant) -> bool:
        return m.control is None

    named = {m.name for m in MUTANTS if wrong_from_the_start(m)}
    assert all(m.control is None for m in mutant_rules.RULES)
    assert not any(": " in name and not name.startswith("raise: ") for name in named)
