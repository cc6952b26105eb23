"""Collects the kills of tests/mutants from every worker process and prints them as one table."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

# As the reports arrive, from whichever process ran the test.
KILLS: list[dict[str, Any]] = []
MEDIAN, SMALL = 100, 0.95


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    KILLS.extend(value for key, value in report.user_properties if key == "kill" and report.when == "call")


def _figures() -> tuple[str, bool]:
    """What the whole table says, and whether that is as good as it has to be."""
    graphs = [k["graphs"] for k in KILLS if k["graphs"] is not None]
    found = [k for k in KILLS if k["ops"] is not None]
    quick = [k for k in found if k["seconds"] <= 60]
    small = sum(k["ops"] <= 5 for k in quick) / max(len(found), 1)
    # A rule whose pattern has eight ops shows its fault in no fewer: told beside the plain share, which has the bar.
    least = sum(k["ops"] <= max(5, k["least"]) for k in quick) / max(len(found), 1)
    median = statistics.median(graphs) if graphs else 0
    text = (
        f"{len(graphs)} of {len(KILLS)} mutants killed, median {median:.0f} graphs; {small:.1%} of {len(found)} "
        f"findings reduced to 5 ops or fewer within 60 s of computing, {least:.1%} to that or to as few as the rule's "
        f"pattern has; {sum(k['seconds'] for k in KILLS):.0f} s in all"
    )
    return text, median <= MEDIAN and small >= SMALL


def pytest_sessionfinish(session: pytest.Session) -> None:
    # A run of a few mutants says nothing about the share of all.
    if len(KILLS) >= 100 and not _figures()[1] and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not KILLS:
        return
    terminalreporter.section("mutants killed")
    terminalreporter.write_line(f"{'mutant':58s} {'class':12s} {'graphs':>6s} {'ops':>4s} {'s':>5s}  by")
    for k in sorted(KILLS, key=lambda k: (k["family"], k["kind"], k["name"])):
        graphs, ops = ("-" if k[key] is None else k[key] for key in ("graphs", "ops"))
        terminalreporter.write_line(
            f"{k['name'][:58]:58s} {k['kind']:12s} {graphs:>6} {ops:>4} {k['seconds']:5.1f}  {k['by']}"
        )
    terminalreporter.write_line(f"{_figures()[0]} (bars: median {MEDIAN}, {SMALL:.0%})")
