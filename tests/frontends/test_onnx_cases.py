"""The ONNX package's own node cases through the interpreter, and the support page against the table of lowerings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import suite_onnx

import fusewright as fw
from fusewright.frontends.onnx.call import OPS, REFUSED

from case import judge_all

# Cases of the newest package this was written for; an older one has fewer.
SHARE = 0.94


def outcome(key: str, scratch: Path) -> str:
    case = suite_onnx.load(Path(), key, scratch)
    try:
        graph = fw.import_model(case.source, **case.import_options)
        got = graph.run(dict(case.feeds or {}), precision="f32")
    except fw.FusewrightError:
        return "refused"
    detail, _ = judge_all(got, case)
    return f"wrong {key}: {detail}" if detail else "passed"


def test_node_cases_pass_or_are_refused(tmp_path: Path):
    keys = [k for k in suite_onnx.keys(tmp_path) if not k.startswith("light_")]
    counts = Counter(outcome(key, tmp_path) for key in keys)
    assert not [what for what in counts if what.startswith("wrong")]
    assert counts["passed"] >= SHARE * len(keys), counts


def test_the_support_page_names_every_lowering(repository: Path):
    page = (repository / "docs" / "onnx-support.md").read_text()
    words = set(page.replace(",", " ").replace("|", " ").split())
    missing = [f"{d}/{n}" if d else n for d, n in OPS if (f"{d}/{n}" if d else n) not in words]
    assert not missing
    assert all(n in page for _, n in REFUSED if not n.endswith("Like"))
