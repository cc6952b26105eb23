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
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

from .. import lazy
from ..backends.numba_cpu.bundle import cpu_target
from ..backends.numba_cpu.select import contract, gated
from ..backends.numba_cpu.target import CpuTarget
from ..backends.numba_cpu.variants import DEFAULT_VARIANTS, FAST_VARIANTS, VARIANTS
from ..compiler import compile as compile_graph
from ..core.errors import FusewrightError
from ..ir import OPS, BoundedInterpreter, Graph, Node, parse_graph
from ..ir.target import Target
from ..passes import Pipeline, default_pipeline
from ..passes.memory.schedule import schedule
from ..runtime import cpu
from ..runtime.sanitise import sanitised_run
from .arena import PlainTarget, check_memory
from .check import feed_sets
from .directed import Recipe, recipe
from .draw import SeededDraw
from .graphs import chosen, random_graph
from .oracle import Bounded, Mismatch, UnsignedZeros, Verdict, check_outputs, widened
from .properties import Feeds

BLOCK = 10_000


@cache
def _pipeline(target: Target) -> Pipeline:
    return default_pipeline(target, "fast" if target is ROUNDING else "strict")


# Kernels promise nothing about the lanes that only fill up a block: such ops come from the layout pass, not from users.
_PORTABLE = [name for name in OPS if "blocked" not in name]


@cache
def _recipe(elements: int, native: bool) -> Recipe:
    found = recipe(_pipeline(PlainTarget()))
    options = replace(found.options, max_elements=elements)
    everything = tuple(chosen(replace(options, ops=_PORTABLE))) if native else found.everything
    return replace(found, options=options, everything=everything)


def volume_graph(seed: int, elements: int = 2048) -> tuple[Graph, list[Feeds]]:
    """The graph of a seed and its feeds: every other one grows around a pattern of the default pipeline."""
    draw = SeededDraw(seed)
    size, native = seed // 2, elements < 2048
    if seed % 2:
        graph = _recipe(elements, native).graph(draw, 1 + size % 8)
    else:
        ops = _PORTABLE if native else None
        graph = random_graph(seed, max_nodes=3 + size % 10, max_elements=elements, ops=ops)
    return graph, feed_sets(graph, draw)


def _interpreter(seed: int, seen: Verdict) -> None:
    """A graph verifies and prints and parses back, float32 stays inside the bounds before and behind the default
    pipeline, and what that makes can be laid out in poisoned memory."""
    graph, feeds = volume_graph(seed)
    if seed % 4 == 0:
        text = str(graph)
        if str(parse_graph(text)) != text:
            raise Mismatch("the text does not parse back to itself")
    after, _ = _pipeline(PlainTarget()).run(graph, verify=0)
    after.verify()
    for given in feeds:
        before = sharp(graph, given)
        seen.add(agrees(graph, graph, given, before, graph.run(given)))
        agrees(graph, after, given, before, after.run(given))
    check_memory(after, feeds[0])


def sharp(graph: Graph, given: Feeds) -> Bounded:
    """What the graph's own order of arithmetic gives, overflows included."""
    return BoundedInterpreter(graph, overflows=True).run_bounded(given)


def agrees(graph: Graph, after: Graph, given: Feeds, before: Bounded, got: Feeds) -> Verdict:
    """``got``, which computes ``after``, is inside the bounds of both graphs."""
    try:
        return check_outputs(graph, given, got, before)
    except Mismatch:
        pass
    if after is not graph:
        try:
            return check_outputs(graph, given, got, widened(graph, before, sharp(after, given)))
        except Mismatch:
            pass
    # Nothing is promised behind an overflow of finite numbers, where another order may have none. The pipeline may also
    # change signs of zeros, and a maximum of zeros has either; a division shows that, rarely.
    before = UnsignedZeros(graph).run_bounded(given)
    behind = before if after is graph else UnsignedZeros(after).run_bounded(given)
    return check_outputs(graph, given, got, before if after is graph else widened(graph, before, behind))


def _unjitted(seed: int, seen: Verdict) -> None:
    """The text of every kernel as plain Python, with NumPy twins for the tiles, each call in one to three pieces."""
    graph, feeds = volume_graph(seed, 160)
    variant = VARIANTS[FAST_VARIANTS[seed // 2 % 3]]
    after, _ = _pipeline(ROUNDING if variant.dots else cpu_target()).run(graph, verify=0)
    given = feeds[seed // 4 % 2]
    program = schedule(after, cpu_target())
    program.verify()
    got = lazy("backends.numba_cpu.unjitted").run_plan(program, given, variant.name, chunks=1 + seed % 3)
    seen.add(agrees(graph, after, given, sharp(graph, given), got))


def _compiled(seed: int, seen: Verdict) -> None:
    """A bundle of the graph, called and called again with other feeds; runs in poisoned memory give the same bits."""
    graph, feeds = volume_graph(seed, 400)
    variant = _variant(seed % 3 == 0)
    pipeline = _pipeline(ROUNDING if VARIANTS[variant].dots else cpu_target())
    after, _ = pipeline.run(graph, verify=0)
    bundle = compile_graph(graph, variant, threads=1, numerics=pipeline.numerics, pipeline=pipeline)
    for given in feeds:
        got = bundle.run(given)
        seen.add(agrees(graph, after, given, sharp(graph, given), got))
    sanitised_run(bundle, feeds[0])


@cache
def _variant(fast: bool) -> str:
    return [v for v in (FAST_VARIANTS if fast else DEFAULT_VARIANTS) if not cpu.missing(v)][-1]


class _Rounding(CpuTarget):
    """Rounds to bfloat16 whatever it can, small as it is."""

    def prefers_bf16(self, node: Node) -> bool:
        return gated.can_round(node) if gated.gates(node) else contract.can_round(node)


ROUNDING = _Rounding()


def _memory(seed: int, seen: Verdict) -> None:
    """The graph as it stands, laid out with every reuse that the op table allows."""
    graph, feeds = volume_graph(seed)
    check_memory(graph, feeds[0])


LANES: dict[str, Callable[[int, Verdict], None]] = {
    "interpreter": _interpreter, "unjitted": _unjitted, "compiled": _compiled, "memory": _memory,
}  # fmt: skip


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
                LANES[lane](seed, seen)
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
