"""The volume runner counts seeds, finds what a lane finds, adds lines to a ledger and goes on behind its last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusewright.core.errors import FusewrightError
from fusewright.testing import Mismatch, volume


@pytest.mark.parametrize("lane", ["interpreter", "memory"])
def test_a_lane(lane: str) -> None:
    done = volume.run(lane, 100, 60, "abc")
    assert (done.lane, done.start, done.count, done.commit) == (lane, 100, 60, "abc")
    assert done.findings == []
    assert done.undecided <= 0.1 * done.elements and (done.elements > 1000) == (lane == "interpreter")


def test_findings_and_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(graph: object, given: object, seen: object) -> None:
        raise Mismatch("odd")

    monkeypatch.setitem(volume.LANES, "memory", odd)
    ledger = tmp_path / "ledger.jsonl"
    assert volume.main(["memory", "--count", "2", "--ledger", str(ledger)]) == 1
    assert volume.main(["interpreter", "--count", "3", "--start", "7", "--ledger", str(ledger)]) == 0
    first, second = map(json.loads, ledger.read_text().splitlines())
    assert [f["seed"] for f in first["findings"]] == [0, 1] and "odd" in first["findings"][0]["error"]
    assert (second["start"], second["count"], second["findings"]) == (7, 3, [])
    assert volume.run("interpreter", 0, 100, seconds=0).count <= 1
    with pytest.raises(FusewrightError, match="no lane"):
        volume.run("nowhere", 0, 1)


def test_a_run_goes_on_where_the_ledger_ends(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    given = ["interpreter", "--ledger", str(ledger), "--block", "4", "--commit", "abc"]
    assert volume.main([*given, "--total", "6"]) == 0
    assert volume.main([*given, "--total", "9"]) == 0
    runs = volume.read(ledger)
    assert [(r.start, r.count, r.commit) for r in runs] == [(0, 4, "abc"), (4, 2, "abc"), (6, 3, "abc")]
    assert volume.main([*given, "--total", "9"]) == 0 and len(volume.read(ledger)) == 3


def test_a_seed_gives_the_same_graph_in_every_process() -> None:
    """Rules name the ops that they start at in sets, whose order is another one in each process."""
    code = (
        "import hashlib; from fusewright.testing.volume import volume_graph\n"
        "print(hashlib.sha256(''.join(str(volume_graph(s)[0]) for s in range(1, 200, 2)).encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(found) == 1
