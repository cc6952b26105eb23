"""Documents agree with the code and with each other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fusewright as fw
from fusewright.cli import main


def test_support_page_is_what_the_tables_say(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(repository / "docs" / "generate.py"), "--check"], capture_output=True, text=True
    )
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


@pytest.mark.parametrize("command", ["compile", "run", "inspect", "check", "bench"])
def test_commands_explain_themselves(command: str, capsys: pytest.CaptureFixture[str]) -> None:

    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "--json" in capsys.readouterr().out
