"""Every seeded miscompile is found within its budget of graphs; the table of kills is printed."""

from __future__ import annotations

import statistics
import time
import warnings

import mutant_memory
import mutant_passes
import mutant_rules
import pytest
from mutant import Kill, Mutant, changed, table

from fusewright.passes import schedule

KINDS = {"rules": mutant_rules.RULES, "passes": mutant_passes.MUTANTS, "memory": mutant_memory.MUTANTS}
EQUIVALENT = {**mutant_rules.EQUIVALENT, **mutant_passes.EQUIVALENT, **mutant_memory.EQUIVALENT}


def hunt(mutants: list[Mutant]) -> list[tuple[Mutant, Kill]]:
    """Every kill; a mutant whose source has moved on is reported with the others and fails at the end."""
    out = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for m in mutants:
            try:
                out.append((m, m.hunt(m.budget)))
            except (LookupError, AttributeError) as error:
                out.append((m, Kill(None, f"stale: {error}")))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_every_mutant_is_killed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    kills = hunt(KINDS[kind])
    graphs = [k.graphs for _, k in kills if k.graphs is not None]
    sizes = [k.ops for _, k in kills if k.ops is not None]
    small = sum(n <= 5 for n in sizes) / max(len(sizes), 1)
    with capsys.disabled():
        print(f"\n{table(kills)}")
        print(f"{kind}: {len(graphs)} of {len(kills)} killed, median {statistics.median(graphs):.0f} graphs, "
              f"{small:.0%} of findings reduced to 5 ops or fewer, {time.monotonic() - start:.0f} s")  # fmt: skip
    assert [m.name for m, k in kills if k.graphs is None] == []
    assert statistics.median(graphs) <= 100
    assert small >= 0.95


def test_the_registry() -> None:
    mutants = [m for found in KINDS.values() for m in found]
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
