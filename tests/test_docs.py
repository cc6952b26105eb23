"""Documents agree with the code and with each other."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.registry import unregister_kernel
from fusewright.cli import main
from fusewright.ir.opdef import OPS


@pytest.mark.parametrize("tables", ["", "_tensorflow", "_reference", "_targets"])
def test_pages_are_what_the_tables_say(repository: Path, tables: str) -> None:
    generator = repository / "docs" / f"generate{tables}.py"
    done = subprocess.run([sys.executable, str(generator), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def pages(repository: Path) -> list[Path]:
    return [*repository.glob("*.md"), *(repository / "docs").glob("*.md"), *(repository / "benchmarks").glob("*.md")]


def test_relative_links_lead_somewhere(repository: Path) -> None:
    found = 0
    for page in pages(repository):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            found += 1
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
    assert found > 5


def test_names_in_the_documents_exist(repository: Path) -> None:
    """Every ``fw.<name>`` that a page or an example mentions is there."""
    texts = [*pages(repository), *(repository / "examples").glob("*.py"), *(repository / "benchmarks").glob("*.py")]
    names = {name for path in texts for name in re.findall(r"\bfw\.([A-Za-z_]\w*)", path.read_text())}
    assert {"compile", "load", "rewrite"} <= names
    assert not [name for name in sorted(names) if not hasattr(fw, name)]


def test_suites_that_need_no_framework_import_none(repository: Path) -> None:
    """CONTRIBUTING says which folders pass without one."""
    said = (repository / "CONTRIBUTING.md").read_text()
    folders = [
        f for f in ("ir", "core", "runtime", "passes", "regressions", "testing", "backends") if f"tests/{f}`" in said
    ]
    assert len(folders) == 7 and "without `test_lowering.py`" in said and "without `cuda`" in said
    files = [f for folder in folders for f in (repository / "tests" / folder).rglob("*.py") if "cuda" not in f.parts]
    frameworks = re.compile(r"^\s*(?:import|from) (?:keras|tf_keras|tensorflow|onnxruntime|openvino)\b", re.M)
    assert len(files) > 50
    assert [f.name for f in files if frameworks.search(f.read_text())] == ["test_lowering.py"]


def test_the_first_five_minutes_run(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (repository / "docs" / "writing-a-pass.md").read_text()
    section = page.partition("## Your first pass")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(blocks) == 5
    scope: dict[str, Any] = {}
    exec(compile("\n".join(blocks), "docs/writing-a-pass.md", "exec"), scope)
    assert [n.op.name for n in scope["better"].nodes] == ["input", "relu", "return"]
    assert len(scope["journal"]) == scope["stats"].rewritten > 0
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(scope["bundle"](x), np.maximum(x, 0))
    printed = capsys.readouterr().out
    assert "fails 'semantics'" in printed
    assert "the replacement" in printed


@pytest.mark.parametrize("page", ["own-ops.md", "rules-and-proofs.md", "serving.md", "testing-in-bulk.md"])
def test_the_code_of_a_page_runs(
    repository: Path, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All blocks of a page, one after the other, in an empty folder."""
    blocks = re.findall(r"```python\n(.*?)```", (repository / "docs" / page).read_text(), re.S)
    script = tmp_path / (page.replace("-", "_").removesuffix(".md") + ".py")
    script.write_text("\n".join(blocks))
    monkeypatch.chdir(tmp_path)
    known = set(OPS)
    try:
        runpy.run_path(str(script), run_name="page")
    finally:
        for name in set(OPS) - known:
            OPS.pop(name)
            unregister_kernel(name)
            unregister_kernel(name, "cuda")
    said = re.findall(r"^ *print\(.*# shows: (.+)$", "\n".join(blocks), re.M)
    printed = capsys.readouterr().out
    assert blocks and not [text for text in said if text not in printed], printed


def test_the_commands_of_the_page_about_pytest(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "testing-in-bulk.md").read_text()
    exec(re.findall(r"```python\n(.*?)```", page, re.S)[0].replace('Path("', f'Path(r"{tmp_path}/'))
    wrong, right = re.findall(r"^pytest (--fw-pass .*)$", page, re.M)
    # An installed plugin would come in twice.
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "fusewright.pytest_plugin", "-p", "no:cacheprovider"]
    for options, code, text in ((wrong, 1, "check[my_rules:wrong]"), (right, 0, "2 passed")):
        done = subprocess.run([*command, *options.split()], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == code and text in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["compile", "run", "inspect", "check", "bench"])
def test_commands_explain_themselves(command: str, capsys: pytest.CaptureFixture[str]) -> None:

    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "--json" in capsys.readouterr().out
