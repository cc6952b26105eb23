"""Every rule of the default pipeline rewrites something, and every guard declines something: in generated graphs, or in
the tests of the passes. The sets are read from the sources, so a new rule without a case fails here by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

from fusewright.backends.numba_cpu.bundle import cpu_target
from fusewright.passes import default_pipeline
from fusewright.passes.engine.base import PassContext
from fusewright.testing import PlainTarget
from fusewright.testing.check import example
from fusewright.testing.coverage import declared_guards, declared_rules, recorded, unfired_guards
from fusewright.testing.directed import recipe

GRAPHS = 150  # per pass
HOW = "add a pattern to testing/likes.py, or a case to tests/passes"


def test_every_rule_and_guard_fires(repository: Path, tmp_path: Path) -> None:
    pipeline = default_pipeline(PlainTarget())
    with warnings.catch_warnings(), recorded() as fired:
        warnings.simplefilter("ignore")
        for name in pipeline.names:
            found = recipe(pipeline[name])
            for i in range(GRAPHS):
                graph, _ = example(found, 0, i)
                for target in (PlainTarget(), cpu_target()):
                    pipeline[name].apply(graph, target)
        found = recipe(pipeline)
        for i in range(GRAPHS):
            default_pipeline(cpu_target()).run(example(found, 0, i)[0], verify=0)
    if declared_rules(pipeline) - fired.rules or unfired_guards(fired):
        told = tmp_path / "fired.json"
        env = {**os.environ, "FUSEWRIGHT_FIRED": str(told), "PYTHONPATH": os.pathsep.join(
            [str(repository / "tests" / "testing"), *filter(None, [os.environ.get("PYTHONPATH")])])}  # fmt: skip
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-n",
            "0",
            "-p",
            "record_fired",
            "-p",
            "no:cacheprovider",
        ]
        done = subprocess.run(
            [*command, "tests/passes", "tests/regressions"], cwd=repository, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:]
        more = json.loads(told.read_text())
        fired.rules |= set(more["rules"])
        fired.reasons |= set(more["reasons"])
    rules, guards = declared_rules(pipeline), declared_guards()
    silent, unfired = sorted(rules - fired.rules), unfired_guards(fired)
    done_rules, done_guards = len(rules) - len(silent), len(guards) - len(unfired)
    print(f"{done_rules} of {len(rules)} rules and {done_guards} of {len(guards)} guards fired")
    assert silent == [], f"rules that never rewrote anything ({HOW}): {silent}"
    assert unfired == [], f"guards that never declined anything ({HOW}): {unfired}"


def test_recording_leaves_nothing_behind() -> None:
    before = PassContext.rewrote, PassContext.decline
    pipeline = default_pipeline(PlainTarget())
    with recorded() as fired:
        for i in range(5):
            pipeline.run(example(recipe(pipeline), 0, i)[0])
    assert fired.rules and before == (PassContext.rewrote, PassContext.decline)
