"""Timing of the kernels that a program's contractions could have, on this machine.

Owns the search (algorithm, then register tile, then grain of threads) and what counts as faster; the clock is handed
in. Must not know passes or bundles; what a choice means is ``select``'s business.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...core.dims import evaluate, symbols
from ...core.dtypes import F32
from ...core.errors import CompileRefused
from ...core.poolwords import CALL, HALT
from ...core.winograd import TILES
from ...ir.builder import Builder
from ...ir.graph import Const, Node
from ...ir.ops.winograd import applies
from ...ir.program import Program, Run
from ...runtime import cpu
from ...runtime.image import NativeImage
from ...runtime.pool import pool
from .choices import Choice, Choices
from .select import Chosen, choose_as, contract
from .select.epilogue import read
from .templates.panels import tiles_of
from .toolchain import KernelSource, build_image
from .variants import VARIANTS, Variant

Run_ = Callable[[], object]
Timer = Callable[[str, Mapping[str, Run_]], Mapping[str, float]]  # (site, candidates by name) -> seconds of each
Progress = Callable[[int, int], None]
GAIN = 1.05  # what a candidate has to win by before it goes before the rule's
GRAINS = (1, 4, 1 << 20)  # the last: one thread alone
_SECONDS, _LEAST, _MOST = 0.03, 5, 200  # of a candidate, and its rounds
_EVICTED = 4 << 20  # bytes read between two runs: other layers have filled the near caches


@dataclass(slots=True)
class Site:
    """A class of shapes: the first node of it, and sizes at which it is timed."""

    name: str
    node: Node
    env: Mapping[str, int]


@dataclass(slots=True)
class Tuned:
    """What was measured for one site, in nanoseconds; ``rule`` is what rules alone would have taken."""

    variant: str
    site: str
    choice: Choice
    rule: int
    best: int

    def to_json(self) -> dict[str, Any]:
        """The row of a bundle's manifest."""
        row = {"variant": self.variant, "site": self.site, "choice": self.choice.to_json()}
        return {**row, "rule_ns": self.rule, "best_ns": self.best}


def variant_for(names: Sequence[str]) -> str:
    """The best of ``names`` that this machine runs. Raises CompileRefused: what does not run cannot be timed."""
    best = cpu.best(names)
    if best is None:
        wanted = ", ".join(names) or "its targets"
        raise CompileRefused(f"tuning times kernels, and this machine runs none of {wanted}: tune where they run")
    return best


def sites_of(program: Program, bounds: Mapping[str, tuple[int, int | None]]) -> list[Site]:
    """The distinct classes of contractions of a program. A free batch counts as 1, or as its lower bound. Where rows
    are free, or extents are found during the run, no timing speaks for all sizes: these are left to the rules."""
    env = {s: max(1, bounds.get(s, (0, None))[0]) for s in program.graph.symbols}
    found: dict[str, Site] = {}
    for step in program.walk():
        if not isinstance(step, Run) or not contract.contracts(step.node):
            continue
        name = contract.site_of(step.node)
        used = {s for v in (*step.node.operands, *step.node.results) for d in v.shape for s in symbols(d)}
        if name and used <= env.keys() and isinstance(contract.rows_and_columns(step.node)[0], int):
            found.setdefault(name, Site(name, step.node, env))
    return list(found.values())


def tune(
    sites: Sequence[Site], variant: str, most: int, threads: int, known: Choices, timer: Timer | None = None,
    progress: Progress | None = None,
) -> tuple[Choices, list[Tuned]]:  # fmt: skip
    """Choices for every site that ``known`` has none for. ``most``: the largest Winograd tiles that may be used.

    One decision after the other: the algorithm with the rule's tile, its tile, then the grain where there are more
    ``threads`` than one. What the rules say stays unless something else is faster by ``GAIN``. Raises CompileRefused.
    """
    wanted = [s for s in sites if known.get(variant, s.name) is None]
    note, search = progress or (lambda done, total: None), _Search(VARIANTS[variant], timer or stopwatch)
    made = [Tuned(variant, s.name, Choice(), 0, 0) for s in wanted]
    stages = (
        lambda: [_Try(s, m=m) for s in wanted for m in _algorithms(s.node, most)],
        lambda: [t for s, row in zip(wanted, made, strict=True) for t in _tiles(s, row.choice, search.variant)],
        lambda: [t for s, row in zip(wanted, made, strict=True) for t in _grains(s, row.choice)],
    )
    for number, candidates in enumerate(stages[: 3 if threads > 1 else 2]):
        note(number, len(stages))
        seconds = search.measure(candidates(), threads if number == 2 else 1)
        for site, row in zip(wanted, made, strict=True):
            _decide(row, number, seconds.get(site.name, {}))
    note(len(stages), len(stages))
    return Choices({variant: {row.site: row.choice for row in made}}), made


@dataclass(frozen=True, slots=True, eq=False)
class _Try:
    """One candidate: Winograd's side, tile and grain; (0, 0) and 1 are the rule's."""

    site: Site
    m: int
    tile: tuple[int, int] = (0, 0)
    grain: int = 1

    @property
    def name(self) -> str:
        return f"F{self.m} tile {self.tile[0]}x{self.tile[1]} grain {self.grain}"

    @property
    def choice(self) -> Choice:
        return Choice((), {self.m: self.tile} if self.tile != (0, 0) else {}, self.grain)


def _algorithms(node: Node, most: int) -> list[int]:
    """The rule's first."""
    found, old = read(node), contract.winograd_of(node)
    if found is None or found.anchor.op.name != "conv_blocked" or not found.anchor.attrs["x_blocked"]:
        return [old]
    weights = node.operands[found.operands[1]]
    if not applies(weights.shape, found.anchor.attrs) or not contract.tame(weights):
        return [old]
    return [old, *(m for m in (0, *TILES) if m <= most and m != old)]


def _first(site: Site, choice: Choice) -> int:
    return choice.winograd[0] if choice.winograd else contract.winograd_of(site.node)


def _tiles(site: Site, choice: Choice, variant: Variant) -> list[_Try]:
    rows, columns, blocked = contract.rows_and_columns(site.node)
    m = _first(site, choice)
    others = tiles_of(variant, columns, blocked, rows)
    return [_Try(site, m), *(_Try(site, m, t) for t in others)] if others else []


def _grains(site: Site, choice: Choice) -> list[_Try]:
    m = _first(site, choice)
    if any(not isinstance(d, int) for d in site.node.results[0].shape):
        return []  # a grain that is good for one image keeps threads from sharing many
    return [_Try(site, m, choice.tiles.get(m, (0, 0)), g) for g in GRAINS]


def _decide(row: Tuned, stage: int, seconds: Mapping[_Try, float]) -> None:
    """Take the fastest of a stage; its first candidate is what would be taken anyway."""
    if not seconds:
        return
    before = next(iter(seconds))
    best = min(seconds, key=lambda t: seconds[t])
    if seconds[best] * GAIN > seconds[before]:
        best = before
    if stage == 0:
        row.rule = round(seconds[before] * 1e9)
        if best is not before:
            ranked = sorted(seconds, key=lambda t: (t is not best, seconds[t]))
            row.choice = replace(row.choice, winograd=tuple(t.m for t in ranked))
    elif stage == 1 and best is not before:
        row.choice = replace(row.choice, tiles={best.m: best.tile})
    elif stage == 2:
        row.choice = replace(row.choice, grain=best.grain)
    if stage == 1 and not row.choice.winograd:
        row.rule = round(seconds[before] * 1e9)  # beside the others, in the same minute
    if stage < 2:
        row.best = round(seconds[best] * 1e9)


class _Search:
    """Compiles candidates and times them."""

    def __init__(self, variant: Variant, timer: Timer) -> None:
        self.variant, self.timer = variant, timer

    def measure(self, tries: Sequence[_Try], threads: int) -> dict[str, dict[_Try, float]]:
        """Seconds of every candidate by site; candidates with the same kernel and grain as an earlier one, or for which
        there is no kernel, are left out."""
        made: dict[_Try, Chosen] = {}
        for t in tries:
            try:
                (chosen,) = choose_as(_as(t), self.variant, _fixed(t.site.node), t.choice)
            except (CompileRefused, ValueError):
                continue
            if not any(o.site is t.site and _same(c, chosen) for o, c in made.items()):
                made[t] = chosen
        texts = {text: f"k{i}" for i, text in enumerate(dict.fromkeys(c.text for c in made.values()))}
        if not texts:
            return {}
        built = build_image([KernelSource(name, text) for text, name in texts.items()], self.variant.name)
        image = NativeImage(built.code, built.symbols)
        out: dict[str, dict[_Try, float]] = {}
        for site in {t.site.name: t.site for t in made}.values():
            mine = {t: c for t, c in made.items() if t.site is site}
            calls = {t.name: _call(image, texts[c.text], c, site, threads) for t, c in mine.items()}
            seconds = self.timer(site.name, calls)
            out[site.name] = {t: float(seconds[t.name]) for t in mine}
        return out


def _same(a: Chosen, b: Chosen) -> bool:
    return (a.text, a.grain, a.extent) == (b.text, b.grain, b.extent)


def _fixed(node: Node) -> dict[int, Const]:
    return {i: v.const for i, v in enumerate(node.operands) if v.const is not None}


def _as(t: _Try) -> Node:
    """The site's node, computed in tiles of side ``t.m``."""
    node = t.site.node
    if contract.winograd_of(node) == t.m:
        return node
    b = Builder()
    operands = [
        b.input(f"a{i}", v.dtype, v.shape) if v.const is None else b.constant(v.const.array)
        for i, v in enumerate(node.operands)
    ]
    if not node.regions:
        return b.apply(node.op, operands, {**node.attrs, "winograd": t.m})[0].producer
    region = node.regions[0].clone()
    anchor = next(n for n in region.nodes if n.op.name == "conv_blocked")
    inner = Builder(region, anchor, anchor.origin)
    made = inner.apply(anchor.op, list(anchor.operands), {**anchor.attrs, "winograd": t.m})
    region.replace(anchor.results[0], made[0])
    region.erase(anchor)
    return b.apply(node.op, operands, node.attrs, [region])[0].producer


def _call(image: NativeImage, symbol: str, chosen: Chosen, site: Site, threads: int) -> Run_:
    """One kernel call through the dispatcher, on memory of its own."""
    rng, words = np.random.default_rng(0), []
    held: list[np.ndarray] = []
    for word in chosen.args:
        if word.kind == "dim":
            words.append(evaluate(word.value, site.env))
            continue
        if word.kind == "packed" and word.layout is not None:
            count = math.prod(word.layout.packed_shape)
        else:
            values = site.node.results if word.kind == "result" else site.node.operands
            count = evaluate(values[word.index].type.nbytes, site.env) // F32.size
        held.append(_floats(count, rng))
        words.append(held[-1].ctypes.data)
    block = np.array(words or [0], np.int64)
    extent, scratch = evaluate(chosen.extent, site.env), evaluate(chosen.scratch, site.env)
    stride = -(-scratch // 64) * 64
    room = _floats(stride * threads // F32.size, rng)
    program = [8, CALL, image.address(symbol), block.ctypes.data, extent, chosen.grain, HALT]
    table = np.array(program, np.int64)
    address = 0
    if threads > 1:
        pool().ensure(threads, image)
        address = pool().address
    held += [block, table, room]
    args = (table.ctypes.data, address, threads, room.ctypes.data, stride)

    def run() -> None:
        assert held  # the addresses in the table are theirs
        image.run(*args)

    return run


def _floats(count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` floats from -1 to 1 on a 64-byte boundary."""
    block = np.empty(count + 16, np.float32)
    start = -block.ctypes.data % 64 // 4
    out = block[start : start + count]
    part = rng.uniform(-1, 1, min(count, 1 << 16)).astype(np.float32)
    for at in range(0, count, len(part) or 1):
        out[at : at + len(part)] = part[: count - at]
    return out


def stopwatch(site: str, candidates: Mapping[str, Run_]) -> dict[str, float]:
    """The best of rounds in which the candidates take turns, each after something else was in the near caches."""
    other, best = np.ones(_EVICTED // 8), dict.fromkeys(candidates, math.inf)
    for call in candidates.values():
        call()
    end, rounds = time.perf_counter() + _SECONDS * len(candidates), 0
    while rounds < _LEAST or (rounds < _MOST and time.perf_counter() < end):
        rounds += 1
        for name, call in candidates.items():
            other.sum()
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best
