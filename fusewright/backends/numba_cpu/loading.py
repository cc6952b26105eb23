"""Kernel text that the loader runs before the first call: hashes of weights, and layouts made of other layouts.

Owns their units of work; core/loadwords.py has their arguments. Must not know files, nor which constants need them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from ...core.loadwords import COPY, HASH, HASH_LANES, HASH_WORTH, LOOPS, ROUND, RUN, WINOGRAD
from ...core.manifest import BLOCK
from ...core.plan import Plan
from ...core.relayout import nest
from ...core.winograd import TAPS, kernel_matrix
from .toolchain import KernelSource
from .variants import Variant


def loader_sources(plan: Plan, variant: Variant, weight_bytes: int) -> list[KernelSource]:
    """What the loader of ``plan`` has work for. 8 lanes hash no faster than one stream by a CPU's own instructions."""
    out = [hash_source()] if weight_bytes >= HASH_WORTH * BLOCK and variant.width == 4 * HASH_LANES else []
    nests = [nest(c.stored, c.wanted) for c in plan.constants if c.stored is not None and c.wanted is not None]
    kinds = {(n.side, n.rounds) for n in nests if n is not None}
    out += [copy_source()] if (0, False) in kinds else []
    out += [round_source()] if (0, True) in kinds else []
    return out + [winograd_source(side, rounds) for side, rounds in sorted(kinds) if (side, rounds) in WINOGRAD]


def hash_source() -> KernelSource:
    """SHA-256 of each block of ``BLOCK`` bytes, ``HASH_LANES`` of them per unit of work."""
    text = f"""
def {HASH}(args, start, stop, scratch):
    blocks, digests = args[1], pu32(args[2])
    places, made = pi64(scratch), pu32(scratch + {8 * HASH_LANES})
    for u in range(start, stop):
        first = u * {HASH_LANES}
        for lane in range({HASH_LANES}):
            places[lane] = args[0] + min(first + lane, blocks - 1) * {BLOCK}
        sha256_tile(scratch, {BLOCK // 64}, scratch + {8 * HASH_LANES}, {HASH_LANES})
        for lane in range(min({HASH_LANES}, blocks - first)):
            for i in range(8):
                digests[(first + lane) * 8 + i] = made[i * {HASH_LANES} + lane]
"""
    return KernelSource(HASH, text)


def copy_source() -> KernelSource:
    """Words of 4 bytes from one place to another along a nest of loops, the innermost over neighbours in both."""
    text = _nest(COPY, "pu32")
    text += f"""
            for first in range(0, n{LOOPS - 1}, {RUN}):
                for lane in range({RUN}):
                    put(q, first + lane, get(p, first + lane))
"""
    return KernelSource(COPY, text)


def round_source() -> KernelSource:
    """float32 as bfloat16 along a nest of loops, every two words of the source side by side."""
    text = _nest(ROUND, "pf32", [f"pair = args[{2 + 3 * LOOPS}]"])
    text += f"""
            words = pu32(to)
            for first in range(0, n{LOOPS - 1}, {RUN}):
                for lane in range({RUN}):
                    low = u32(f32_bf16(get(p, first + lane)))
                    high = u32(f32_bf16(get(p, pair + first + lane)))
                    put(words, first + lane, u32(low | u32(high << u32(16))))
"""
    return KernelSource(ROUND, text)


def winograd_source(side: int, rounds: bool = False) -> KernelSource:
    """``G g G^T`` of kernels of 3 x 3 taps along a nest of loops. Each sum is rounded as ``transform_kernel`` does;
    ``rounds``: then to bfloat16, two kernels side by side.

    Results lie a power of two apart, in one set of a cache: they are gathered in scratch and leave line by line.
    """
    entry, edge, word = WINOGRAD[side, rounds], side + TAPS - 1, 2 + 3 * LOOPS
    strides = ", ".join(f"args[{word + i}]" for i in range(4))
    head = [f"s_row, s_col, t_row, t_col = {strides}", f"made = {'pu32' if rounds else 'pf32'}(scratch)"]
    text = _nest(entry, "pf32", [*head, f"pair = args[{word + 4}]"] if rounds else head)
    body = _transformed(side, "first + lane", "")
    if rounds:
        body += _transformed(side, "pair + first + lane", "b")
    for k, e in product(range(edge), repeat=2):
        value = f"y{k}_{e}"
        if rounds:
            body.append(f"low, high = u32(f32_bf16({value})), u32(f32_bf16(b{value}))")
            value = "u32(low | u32(high << u32(16)))"
        body.append(f"put(made, {(k * edge + e) * RUN} + lane, {value})")
    lines = [f"for first in range(0, n{LOOPS - 1}, {RUN}):", f"    for lane in range({RUN}):"]
    lines += [f"        {line}" for line in body]
    for k, e in product(range(edge), repeat=2):
        at, line = f"{k} * t_row + {e} * t_col + first", 4 * RUN * (k * edge + e)
        lines.append(f"    carry(to + 4 * ({at}), scratch + {line})")
    return KernelSource(entry, text + "".join(f"            {line}\n" for line in lines))


def _transformed(side: int, at: str, mark: str) -> list[str]:
    """``{mark}y{row}_{column}``: the transform of the kernel at ``at``."""
    edge, body = side + TAPS - 1, list[str]()
    for r in range(TAPS):
        body += [f"{mark}g{r}{c} = get(p, {r} * s_row + {c} * s_col + {at})" for c in range(TAPS)]
    for c in range(TAPS):
        taps, results = [f"{mark}g{r}{c}" for r in range(TAPS)], [f"{mark}h{k}{c}" for k in range(edge)]
        body += _along(side, taps, results, f"{mark}c{c}")
    for k in range(edge):
        taps, results = [f"{mark}h{k}{c}" for c in range(TAPS)], [f"{mark}y{k}_{e}" for e in range(edge)]
        body += _along(side, taps, results, f"{mark}r{k}")
    return body


def _along(side: int, taps: list[str], results: list[str], mark: str) -> list[str]:
    """``G`` applied to three values. Rows that differ in signs only share their sums."""
    out: list[str] = []
    matrix = kernel_matrix(side)
    for k, (row, result) in enumerate(zip(matrix, results, strict=True)):
        first, second, third = row
        even, odd = f"e{mark}", f"o{mark}"
        if (second, third) == (0, 0) or (first, second) == (0, 0):
            out.append(f"{result} = {taps[0 if first else 2]} * f32({float(first or third)!r})")
        elif second * matrix[k - 1][1] < 0 and (first, third) == (matrix[k - 1][0], matrix[k - 1][2]):
            out.append(f"{result} = {even} - {odd}")
        else:
            out.append(f"{even} = {taps[0]} * f32({float(first)!r}) + {taps[2]} * f32({float(third)!r})")
            out.append(f"{odd} = {taps[1]} * f32({float(second)!r})")
            out.append(f"{result} = {even} + {odd}")
    return out


def _nest(entry: str, kind: str, head: Sequence[str] = ()) -> str:
    """The loops but the innermost, whose elements ``p`` and ``q`` (at address ``to``) point to: all but two of them
    make the units of work."""
    *outer, last, _ = range(LOOPS)
    lines = [f"def {entry}(args, start, stop, scratch):"]
    for i in range(LOOPS):
        lines.append(f"    n{i}, s{i}, t{i} = args[{2 + 3 * i}], args[{3 + 3 * i}], args[{4 + 3 * i}]")
    lines += [f"    {line}" for line in head]
    lines += ["    for u in range(start, stop):", "        rest = u"]
    for i in reversed(outer):
        lines += [f"        i{i} = rest % n{i}", f"        rest = rest // n{i}"]
    for name, at, stride in (("source", 0, "s"), ("target", 1, "t")):
        terms = " + ".join(f"i{i} * {stride}{i}" for i in outer)
        lines.append(f"        {name} = args[{at}] + 4 * ({terms})")
    lines.append(f"        for j in range(n{last}):")
    lines.append(f"            to = target + 4 * j * t{last}")
    lines.append(f"            p, q = {kind}(source + 4 * j * s{last}), {kind}(to)")
    return "\n".join([*lines, ""])
