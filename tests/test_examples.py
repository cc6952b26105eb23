"""Every example runs as its docstring says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXPECTED = {
    "conditional_pass.py": ["eighth", "constant 0.125", "declined 1"],
    "deploy.py": ["input x f32", "batch 8 -> (8, 10)", "bound call:", "refused:"],
    "fused_op_pass.py": ["kernels: moments"],
    "first_pass.py": ["square", "relu", "matched 1, rewritten 1"],
    "inspect_bundle.py": ["input   image: f32 [N, 16, 16, 3]", "arena", "flops", "in the caller's array\n"],
    "test_my_pass.py": ["def test_semantics", "check_graph("],
}


def test_every_example_is_listed(repository: Path) -> None:
    # demo.py needs a downloaded model; `make demo` runs it.
    assert {path.name for path in (repository / "examples").glob("*.py")} == {*EXPECTED, "demo.py"}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example(repository: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(repository / "examples" / name)], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    for text in EXPECTED[name]:
        assert text in done.stdout, done.stdout
