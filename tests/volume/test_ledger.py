"""The ledger reads back, its blocks of a lane do not overlap, and every finding's commit is explained."""

from __future__ import annotations

from pathlib import Path

from fusewright.testing import volume

HERE = Path(__file__).parent


def test_the_ledger() -> None:
    runs = volume.read(HERE / "ledger.jsonl")
    explained = (HERE / "README.md").read_text()
    for lane in ("interpreter", "unjitted", "compiled"):
        blocks = sorted((r.start, r.start + r.count) for r in runs if r.lane == lane)
        assert blocks and all(a[1] <= b[0] for a, b in zip(blocks, blocks[1:]))
        print(f"{lane}: {sum(b - a for a, b in blocks)} graphs")
    assert sum(r.count for r in runs if r.lane == "unjitted") >= 50_000
    assert [r.commit for r in runs if r.findings and r.commit not in explained] == []
