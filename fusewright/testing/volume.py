"""Volume: seeds in bulk through one lane, and the ledger that says which seeds ran on which commit.

Owns the lanes, the loop and the ledger's lines. ``python -m fusewright.testing.volume interpreter --count 1000``;
with ``--ledger FILE --total 1000000`` it goes on behind the last seed in the ledger, block by block.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from ..core.errors import FusewrightError
from ..ir import BoundedInterpreter, Graph, parse_graph
from ..passes import Pipeline, default_pipeline
from .arena import PlainTarget, check_memory
from .check import feed_sets
from .directed import Recipe, recipe
from .draw import SeededDraw
from .graphs import random_graph
from .oracle import Mismatch, Verdict, check_outputs, widened
from .properties import Feeds

BLOCK = 10_000
Lane = Callable[[Graph, Sequence[Feeds], Verdict], None]


@cache
def _pipeline() -> Pipeline:
    return default_pipeline(PlainTarget())


@cache
def _recipe() -> Recipe:
    return recipe(_pipeline())


def volume_graph(seed: int) -> tuple[Graph, list[Feeds]]:
    """The graph of a seed and its feeds: every other one grows around a pattern of the default pipeline."""
    draw = SeededDraw(seed)
    graph = _recipe().graph(draw, 1 + seed // 2 % 8) if seed % 2 else random_graph(seed, max_nodes=3 + seed // 2 % 10)
    return graph, feed_sets(graph, draw)


def _interpreter(graph: Graph, feeds: Sequence[Feeds], seen: Verdict) -> None:
    """A graph verifies and prints and parses back, float32 stays inside the bounds before and behind the default
    pipeline, and what that makes can be laid out in poisoned memory."""
    text = str(graph)
    if str(parse_graph(text)) != text:
        raise Mismatch("the text does not parse back to itself")
    after, _ = _pipeline().run(graph, verify=1)
    for given in feeds:
        before = BoundedInterpreter(graph).run_bounded(given)
        seen.add(check_outputs(graph, given, graph.run(given), before))
        behind = BoundedInterpreter(after).run_bounded(given)
        check_outputs(graph, given, after.run(given), widened(graph, before, behind))
    check_memory(after, feeds[0])


def _memory(graph: Graph, feeds: Sequence[Feeds], seen: Verdict) -> None:
    """The graph as it stands, laid out with every reuse that the op table allows."""
    check_memory(graph, feeds[0])


LANES: dict[str, Lane] = {"interpreter": _interpreter, "memory": _memory}


@dataclass(slots=True)
class Run:
    """One line of the ledger: seeds ``start`` to ``start + count - 1`` of a lane at a commit, and what was found."""

    lane: str
    start: int
    count: int
    commit: str = ""
    seconds: float = 0.0
    elements: int = 0
    undecided: int = 0
    findings: list[dict[str, str | int]] = field(default_factory=list)


def run(lane: str, start: int, count: int, commit: str = "", seconds: float = float("inf")) -> Run:
    """Run seeds through a lane until they are done or ``seconds`` are over. Raises FusewrightError for no lane."""
    if lane not in LANES:
        raise FusewrightError(f"there is no lane {lane!r}; there are {', '.join(LANES)}")
    out, begin, seen = Run(lane, start, 0, commit), time.monotonic(), Verdict()
    with np.errstate(all="ignore"):
        for seed in range(start, start + count):
            if time.monotonic() - begin > seconds:
                break
            try:
                LANES[lane](*volume_graph(seed), seen)
            except Exception as error:  # whatever it is, it is a finding
                out.findings.append({"seed": seed, "error": f"{type(error).__name__}: {str(error)[:300]}"})
            out.count += 1
    out.seconds = round(time.monotonic() - begin, 1)
    out.elements, out.undecided = seen.elements, seen.undecided
    return out


def read(ledger: Path) -> list[Run]:
    """The lines of a ledger; none where there is no file."""
    return [Run(**json.loads(line)) for line in ledger.read_text().splitlines()] if ledger.exists() else []


def following(runs: Iterable[Run], lane: str) -> int:
    """The first seed behind all that ``lane`` has run."""
    return max((r.start + r.count for r in runs if r.lane == lane), default=0)


def _commit() -> str:
    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run([*git, "status", "--porcelain", "--", ".."], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m fusewright.testing.volume", description=__doc__)
    parser.add_argument("lane", choices=list(LANES))
    parser.add_argument("--start", type=int, help="first seed (default: behind the ledger's last, or 0)")
    parser.add_argument("--count", type=int, default=1000, help="how many seeds")
    parser.add_argument("--total", type=int, help="in blocks, until the ledger has this many seeds of the lane")
    parser.add_argument("--block", type=int, default=BLOCK, help="seeds of a block")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--commit", help="what the ledger says was tested (default: as git says, + for changed files)")
    parser.add_argument("--ledger", type=Path, help="file that lines are added to")
    chosen = parser.parse_args(arguments)
    commit = _commit() if chosen.commit is None else chosen.commit
    known = read(chosen.ledger) if chosen.ledger else []
    start = following(known, chosen.lane) if chosen.start is None else chosen.start
    left = chosen.count
    if chosen.total is not None:
        left = chosen.total - sum(r.count for r in known if r.lane == chosen.lane)
    stop, found = time.monotonic() + chosen.seconds, 0
    while left > 0 and time.monotonic() < stop:
        size = min(left, chosen.block)
        done = run(chosen.lane, start, size, commit, stop - time.monotonic())
        line = json.dumps(asdict(done))
        print(line, flush=True)
        if chosen.ledger is not None:
            with chosen.ledger.open("a") as file:
                file.write(line + "\n")
        start, left, found = start + done.count, left - done.count, found + len(done.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
