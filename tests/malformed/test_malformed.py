"""A few hundred malformed files of each format in CI; `campaign.py` runs many more and records them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import campaign
import mutate
import pytest

HERE = Path(__file__).resolve().parent
COUNT = int(os.environ.get("FUSEWRIGHT_MALFORMED", "300"))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    subprocess.run([sys.executable, str(HERE / "seeds.py"), str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("kind", sorted(campaign.FORMATS))
def test_one_kind_of_error_and_nothing_touched(kind: str, seeds: Path) -> None:
    found = campaign.campaign(kind, COUNT, 1, seeds, lambda line: None)
    assert found["findings"] == []
    assert found["tried"] == COUNT == sum(found["outcomes"].values())
    # Mutants that all are refused, or all read, would test one road only.
    assert min(found["outcomes"]["accepted"], found["outcomes"]["refused"]) > COUNT // 20


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("raise KeyError('x')", "KeyError"),
        ("open('/etc/hostname').close(); raise fw.ImportRefused('x')", "touched"),
        ("__import__('wave'); raise fw.ImportRefused('x')", "touched"),
        ("held = b'x' * (400 << 20); raise fw.ImportRefused('x')", "memory"),
        ("for _ in iter(int, 1): pass", "hang"),
        ("os.abort()", "crash"),
    ],
)
def test_the_campaign_finds_what_it_looks_for(body: str, outcome: str, seeds: Path, tmp_path: Path) -> None:
    """An importer that misbehaves in one way for every changed file."""
    script = tmp_path / "bad.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(HERE)!r})\nimport campaign, fusewright as fw\n"
        f"good = fw.import_model\ncampaign.HANG_SECONDS = {1 if outcome == 'hang' else 60}\n"
        f"seeds = {sum(p.name.startswith('onnx.') for p in seeds.iterdir())}\n"
        "def bad(source, **options):\n"
        "    global seeds\n    seeds -= 1\n    if seeds >= 0:\n        return good(source, **options)\n"
        f"    {body}\n"
        "fw.import_model = bad\ncampaign.main(sys.argv[1:])\n"
    )
    kept, campaign.__file__ = campaign.__file__, str(script)
    try:
        found = campaign.campaign("onnx", 3, 0, seeds, lambda line: None)
    finally:
        campaign.__file__ = kept
    assert {f["outcome"] for f in found["findings"]} == {outcome}
    assert len(found["findings"]) == (1 if "import" in body else 3)  # a module is loaded once


def test_structure_aware_mutants_stay_well_formed() -> None:
    """Lengths stay right: most changed messages still read as messages."""
    rng = random.Random(0)
    inner = mutate.message([(1, 0, 7), (2, 2, b"name"), (3, 5, b"\0\0\x80?")])
    whole = mutate.message([(1, 2, inner), (2, 2, inner), (7, 0, 300)])
    assert mutate.message(mutate.fields_of(whole)) == whole
    read = changed = 0
    for _ in range(200):
        mutant = mutate.protobuf(rng, whole)
        changed += mutant != whole
        read += _reads(mutant)
    assert changed > 180 and read > 150


def _reads(data: bytes) -> Any:
    try:
        mutate.fields_of(data)
    except (ValueError, IndexError):
        return False
    return True
