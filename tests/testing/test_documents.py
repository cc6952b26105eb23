"""The worked example of docs/testing-a-pass.md runs, and its table is the list of properties."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fusewright.testing import PROPERTIES, PassFailure


def test_the_worked_example_runs(repository: Path) -> None:
    page = (repository / "docs" / "testing-a-pass.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 4
    scope: dict[str, Any] = {}
    source = "from __future__ import annotations\n" + "\n".join(blocks[1:])
    # Rules of the example are found again by the report of a failure.
    exec(compile(source, "docs/testing-a-pass.md", "exec"), scope)
    assert scope["report"].fired > 0 and scope["report"].declined > 0
    assert scope["proof"].holds and scope["proof"].tried > 60000
    assert scope["prove"](scope["relu_of_clip"]).counterexample is not None
    try:
        scope["check_pass"](scope["relu_of_clip"])
    except PassFailure as failure:
        assert failure.property == "semantics" and len(failure.graph.nodes) <= 7
    else:
        raise AssertionError("the wrong rule passed")


def test_the_table_of_properties(repository: Path) -> None:
    page = (repository / "docs" / "testing-a-pass.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == list(PROPERTIES)
