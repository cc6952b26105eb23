"""The pass rule of the conformance runner, its isolation of crashes, and the comparison with recorded scores."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run import Worker, drops, sampled

from case import Case, judge, judge_all

F = np.float32


@pytest.mark.parametrize(
    ("got", "want", "fails"),
    [
        (F([1, 2]), F([1, 2]), False),
        (F([1, 2]), F([1, 2.0001]), False),
        (F([1, 2]), F([1, 2.01]), True),
        (F([1, 2]), F([[1, 2]]), True),
        (np.float64([1]), F([1]), True),
        (F([np.nan, 1]), F([np.nan, 1]), False),
        (F([np.nan, 1]), F([1, 1]), True),
        (F([np.inf, 1]), F([-np.inf, 1]), True),
        (F([np.inf, 1]), F([np.inf, 1.5]), True),
        (F([1e-6, 1000]), F([2e-6, 1000]), False),
        (np.int32([3]), np.int32([4]), True),
        (np.array([True]), np.array([True]), False),
        (F([]), F([]), False),
        (np.float16([1.001]), np.float16([1]), False),
    ],
)
def test_judge(got: np.ndarray, want: np.ndarray, fails: bool) -> None:
    assert bool(judge(got, want)[0]) is fails


def test_tolerances_widen_but_never_narrow() -> None:
    assert judge(F([1.1]), F([1]), rtol=0.2)[0] == ""
    assert judge(F([1.00009]), F([1]), rtol=1e-9, atol=1e-9)[0] == ""
    assert judge(F([5]), F([1]), check_value=False)[0] == ""


def test_outputs_match_by_position_or_name() -> None:
    got = {"a": F([1]), "b": F([2])}
    assert judge_all(got, Case("", wants=[F([1]), F([2])]))[0] == ""
    assert judge_all(got, Case("", wants={"b": F([2])}))[0] == ""
    assert "expected 1" in judge_all(got, Case("", wants=[F([1])]))[0]
    assert "no output named c" in judge_all(got, Case("", wants={"c": F([2])}))[0]


class Stuck(Worker):
    """A worker whose process does what a bad kernel might."""

    script = ""

    def _start(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self.process


@pytest.mark.parametrize(
    ("script", "limit", "detail"),
    [
        ("input(); import os; os.kill(os.getpid(), 11)", 60.0, "signal 11"),
        ("input(); import os; os._exit(3)", 60.0, "exit code 3"),
        ("import time; time.sleep(60)", 0.5, "no answer"),
    ],
)
def test_a_crash_or_a_hang_is_an_outcome(script: str, limit: float, detail: str) -> None:
    worker = Stuck()
    worker.script = script
    answer = worker.ask({"key": "x"}, limit=limit)
    assert answer["outcome"] == "crashed"
    assert detail in answer["detail"]
    assert worker.process is None


def test_drops() -> None:
    def ran(**outcomes: str) -> dict[str, Any]:
        counts = {bad: sum(o == bad for o in outcomes.values()) for bad in ("passed", "wrong", "crashed")}
        return {**counts, "cases": {key: {"outcome": o, "detail": "why"} for key, o in outcomes.items()}}

    before = {"passed": 2, "wrong": 1, "crashed": 0, "not_passed": {"c": "wrong", "d": "refused"}}
    assert drops("s", ran(a="passed", b="passed", c="wrong", d="refused"), before) == []
    assert drops("s", ran(a="passed"), before) == []  # a sample
    assert any("b: refused" in line for line in drops("s", ran(a="passed", b="refused"), before))
    assert drops("s", ran(a="passed", d="wrong"), before)
    assert drops("s", ran(a="crashed"), before)


def test_sampled() -> None:
    keys = [str(i) for i in range(100)]
    assert sampled(keys, 0) == sampled(keys, 34) == keys
    assert sampled(keys, 4) == ["0", "25", "50", "75"]


def test_the_whole_runner(tmp_path: Path, repository: Path) -> None:
    """A corpus with one file that is no model: refused, counted, written as JSON."""
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    with zipfile.ZipFile(corpora / "keras_h5.zip", "w") as archive:
        archive.writestr("index.json", json.dumps({"junk/a.h5": {"ref": True}, "junk/b.h5": {"ref": False}}))
        np.savez(tmp_path / "ref.npz", x0=F([[1]]), y0=F([[1]]))
        for name in ("junk__a.h5", "junk__b.h5"):
            archive.writestr(name, b"no model")
        archive.write(tmp_path / "ref.npz", "junk__a.h5.npz")
    script = repository / "tests" / "conformance" / "run.py"
    command = [
        sys.executable,
        str(script),
        "--suite",
        "keras_h5",
        "--corpora",
        str(corpora),
        "--json",
        str(tmp_path / "out.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())["keras_h5"]
    assert (result["total"], result["refused"], result["no_reference"]) == (1, 1, 1)
    assert result["cases"]["junk/a.h5"]["outcome"] == "refused"
    for suite in ("tf_graphs", "tf_cases", "onnx"):
        if not (script.parent / f"suite_{suite}.py").exists():
            done = subprocess.run([*command[:3], suite, *command[4:]], capture_output=True, text=True)
            assert done.returncode == 2
            assert "the frontend is not there yet" in done.stderr
