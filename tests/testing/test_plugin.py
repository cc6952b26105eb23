"""``pytest --fw-pass``: passes of a module are tested with no test written."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

MODULE = """
import fusewright as fw

good = fw.rewrite(lambda x: x * 1, lambda x: x, numerics="exact")
bad = fw.rewrite(lambda x: x + 0, lambda x: x, numerics="exact")
several = [good, fw.rewrite(lambda x: fw.op.relu(fw.op.relu(x)), lambda x: fw.op.relu(x), numerics="exact")]

@fw.graph_pass(numerics="exact")
def nothing(graph, ctx):
    pass
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "my_rules.py").write_text(MODULE)
    (folder / "test_other.py").write_text("def test_other():\n    assert True\n")
    command = [sys.executable, "-m", "pytest", "-v", "-p", "fusewright.pytest_plugin", "-p", "no:cacheprovider"]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(folder)}
    return subprocess.run([*command, *options], cwd=folder, env=env, capture_output=True, text=True)


def test_every_pass_of_a_module(tmp_path: Path) -> None:
    done = run(tmp_path, "--fw-pass", "my_rules", "--fw-examples", "60")
    text = done.stdout
    assert done.returncode == 1, text + done.stderr
    assert "check[my_rules:good] PASSED" in text and "prove[my_rules:good] PASSED" in text
    assert "check[my_rules:bad] FAILED" in text and "prove[my_rules:bad] FAILED" in text
    assert "check[my_rules:several[1]] PASSED" in text and "check[my_rules:nothing] PASSED" in text
    assert "from my_rules import bad" in text and "check_graph(bad, fw.parse_graph(GRAPH), feeds)" in text
    assert "test_other" not in text
    assert "2 failed, 5 passed" in text


def test_one_pass_and_files_beside_it(tmp_path: Path) -> None:
    done = run(tmp_path, "--fw-pass", "my_rules:good", "--fw-examples", "20", "--fw-seed", "4", "test_other.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_unknown_names(tmp_path: Path) -> None:
    for wanted in ("my_rules:nope", "no_such_module", "os.path"):
        done = run(tmp_path, "--fw-pass", wanted)
        assert done.returncode == 4 and f"--fw-pass {wanted}" in done.stderr + done.stdout


def test_the_entry_point_is_declared(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"fusewright": "fusewright.pytest_plugin"}
