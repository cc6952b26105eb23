"""Volume: seeds in bulk through one lane, and the ledger that says which seeds ran on which commit.

Owns the lanes, the loop and the ledger's lines. ``python -m fusewright.testing.volume interpreter --count 1000``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..core.errors import FusewrightError
from ..ir import Graph, parse_graph
from ..passes import Pipeline, default_pipeline
from .arena import MemoryFault, PlainTarget, check_memory
from .draw import SeededDraw
from .feeds import feeds
from .graphs import random_graph
from .oracle import Mismatch, assert_equivalent, check_outputs

_PIPELINE: list[Pipeline] = []


def _interpreter(graph: Graph, given: dict[str, np.ndarray]) -> None:
    """The graph verifies and prints and parses back; its float32 run stays inside the bounds."""
    graph.verify()
    text = str(graph)
    if str(parse_graph(text)) != text:
        raise Mismatch("the text does not parse back to itself")
    check_outputs(graph, given, graph.run(given))


def _pipeline(graph: Graph, given: dict[str, np.ndarray]) -> None:
    """The default pipeline keeps the values, and what it makes can be laid out in poisoned memory."""
    if not _PIPELINE:
        _PIPELINE.append(default_pipeline(PlainTarget()))
    after, _ = _PIPELINE[0].run(graph, verify=2)
    assert_equivalent(graph, after, given, "reassoc")
    check_memory(after, given)


def _memory(graph: Graph, given: dict[str, np.ndarray]) -> None:
    """The graph as it stands, laid out with every reuse that the op table allows."""
    check_memory(graph, given)


LANES: dict[str, Callable[[Graph, dict[str, np.ndarray]], None]] = {
    "interpreter": _interpreter, "pipeline": _pipeline, "memory": _memory,
}  # fmt: skip


@dataclass(slots=True)
class Run:
    """One line of the ledger: seeds ``start`` to ``start + count - 1`` of a lane at a commit, and what was found."""

    lane: str
    start: int
    count: int
    commit: str = ""
    seconds: float = 0.0
    findings: list[dict[str, str | int]] = field(default_factory=list)


def run(lane: str, start: int, count: int, commit: str = "", seconds: float = float("inf"), max_nodes: int = 12) -> Run:
    """Run seeds through a lane until they are done or ``seconds`` are over. Raises FusewrightError for no lane."""
    if lane not in LANES:
        raise FusewrightError(f"there is no lane {lane!r}; there are {', '.join(LANES)}")
    out, begin = Run(lane, start, 0, commit), time.monotonic()
    with np.errstate(all="ignore"):
        for seed in range(start, start + count):
            if time.monotonic() - begin > seconds:
                break
            graph = random_graph(seed, max_nodes=max_nodes)
            try:
                LANES[lane](graph, feeds(graph, SeededDraw(seed)))
            except (Mismatch, MemoryFault, FusewrightError) as error:
                out.findings.append({"seed": seed, "error": f"{type(error).__name__}: {str(error)[:300]}"})
            out.count += 1
    out.seconds = round(time.monotonic() - begin, 1)
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m fusewright.testing.volume", description=__doc__)
    parser.add_argument("lane", choices=list(LANES))
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=1000, help="how many seeds")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--commit", default="", help="what the ledger says was tested")
    parser.add_argument("--ledger", type=Path, help="file that the line is added to")
    chosen = parser.parse_args(arguments)
    done = run(chosen.lane, chosen.start, chosen.count, chosen.commit, chosen.seconds)
    line = json.dumps(asdict(done))
    print(line)
    if chosen.ledger is not None:
        with chosen.ledger.open("a") as file:
            file.write(line + "\n")
    return 1 if done.findings else 0


if __name__ == "__main__":
    sys.exit(main())
