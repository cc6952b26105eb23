"""What happens to a contraction's result before it leaves the cache.

Owns the stages and their two forms: inside the tile's registers, or a loop over the block just written.
Must not know how the block was computed.
"""

from __future__ import annotations

import struct
from ctypes import c_float
from dataclasses import dataclass, field
from typing import Literal

from ..tiles.layout import (
    FORM_BYTES,
    STAGE_AFFINE,
    STAGE_BIAS,
    STAGE_CLIP,
    STAGE_FORMS,
    STAGE_GATE,
    STAGE_KEEP,
    STAGE_LEAK,
    STAGE_MUL,
    STAGE_RELU,
    STAGE_RELU6,
    STAGE_RESIDUAL,
    STAGE_SCALE,
    STAGE_SLOPE,
    packed,
)

How = Literal["channel", "same", "scalar"]
Kind = Literal[
    "bias", "scale", "residual", "mul", "relu", "relu6", "clip", "keep", "gate", "affine", "slope", "leak", "form",
    "expr",
]  # fmt: skip

_CODES = {
    "bias": STAGE_BIAS,
    "scale": STAGE_SCALE,
    "residual": STAGE_RESIDUAL,
    "mul": STAGE_MUL,
    "relu": STAGE_RELU,
    "relu6": STAGE_RELU6,
    "clip": STAGE_CLIP,
    "keep": STAGE_KEEP,
    "gate": STAGE_GATE,
    "affine": STAGE_AFFINE,
    "slope": STAGE_SLOPE,
    "leak": STAGE_LEAK,
}
_HOW: dict[str, How] = {"bias": "channel", "scale": "channel", "residual": "same", "mul": "same", "slope": "channel"}
_NUMBERS = ("clip", "affine", "leak")  # stages with two numbers, which a slot holds as float32
MAX_SLOTS = 4
MAX_STAGES = 12
_TOGETHER = 4  # blocks per loop of run_text


@dataclass(frozen=True, slots=True)
class Stage:
    """One step on ``acc``.

    ``bias`` and ``scale`` add or multiply one number per output channel, ``residual`` and ``mul`` a tensor of the
    result's own shape and layout. ``keep`` notes ``acc``, and the next ``gate`` multiplies by what was noted.
    ``affine`` is ``acc * low + high``; ``slope`` multiplies what is below 0 by one number per channel, ``leak`` by
    ``low``. ``form`` is the function ``text`` of ``acc``, one of STAGE_FORMS. ``expr`` assigns ``text``, a scalar
    expression over ``acc`` and its operands, which it names ``x0, x1, ...`` in the order of ``operands``.
    """

    kind: Kind
    low: float = 0.0
    high: float = 0.0
    text: str = ""
    operands: tuple[How, ...] = ()

    @property
    def uses(self) -> tuple[How, ...]:
        return self.operands if self.kind == "expr" else ((_HOW[self.kind],) if self.kind in _HOW else ())

    @property
    def label(self) -> str:
        """Its part of a kernel's name."""
        return self.text if self.kind == "form" else self.kind

    @property
    def code(self) -> int:
        """What the tile knows it by."""
        return STAGE_FORMS[self.text] if self.kind == "form" else _CODES[self.kind]


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Stages in order. Extras (operands of stages) are numbered through the stages."""

    stages: tuple[Stage, ...] = ()

    @property
    def extras(self) -> tuple[How, ...]:
        return tuple(how for stage in self.stages for how in stage.uses)


NONE = Epilogue()


@dataclass(slots=True)
class Lowered:
    """An epilogue as tile arguments (``code``, ``slots``) and, for what does not fit, statements of a loop."""

    code: int = 0
    slots: dict[str, int | str] = field(default_factory=dict)
    statements: list[str] = field(default_factory=list)
    loop_extras: list[tuple[str, How]] = field(default_factory=list)
    aliasable: frozenset[int] = frozenset()


def clip_word(low: float, high: float) -> int:
    """The two float32 patterns of clip bounds in one signed word."""
    return int(struct.unpack("<q", struct.pack("<ff", low, high))[0])


def lower(epilogue: Epilogue, size: int, lanes: int) -> Lowered:
    """Split the stages between the registers and the loop; extras are named ``e0, e1, ...``.

    ``size`` is the element size in bytes: clip bounds must be exact in float32 to stay in registers. ``lanes`` are
    those of the tile's vectors; 0: there is no tile.
    """
    out, extra, slot, alias = Lowered(), 0, 0, set()
    inside = _in_registers(epilogue.stages, size, size == 4 and size * lanes == FORM_BYTES) if lanes else 0
    out.code = packed(*(stage.code for stage in epilogue.stages[:inside]))
    for position, stage in enumerate(epilogue.stages):
        names = [f"e{extra + i}" for i in range(len(stage.uses))]
        if position < inside:
            if _needs_slot(stage):
                out.slots[f"s{slot}"] = names[0] if names else clip_word(stage.low, stage.high)
                slot += 1
            if stage.uses == ("same",):
                alias.add(extra)
        else:
            out.statements.append(_statement(stage, names, size))
            out.loop_extras += list(zip(names, stage.uses, strict=True))
        extra += len(names)
    out.aliasable = frozenset(alias)
    return out


def _needs_slot(stage: Stage) -> bool:
    return bool(stage.uses) or stage.kind in _NUMBERS


def _in_registers(stages: tuple[Stage, ...], size: int, forms: bool) -> int:
    """How many stages the tile applies: the first ones, and none from which one behind the tile needs what it noted."""
    slot, kept = 0, None
    for position, stage in enumerate(stages):
        slot += _needs_slot(stage)
        exact = size == 4 or all(c_float(x).value == x for x in (stage.low, stage.high))
        beyond = stage.kind == "expr" or (stage.kind == "form" and not forms) or (stage.kind in _NUMBERS and not exact)
        if beyond or slot > MAX_SLOTS or position >= MAX_STAGES:
            return position if kept is None else kept
        kept = position if stage.kind == "keep" else None if stage.kind == "gate" else kept
    return len(stages)


def _statement(stage: Stage, names: list[str], size: int) -> str:
    to = "f32" if size == 4 else "f64"

    def literal(number: float) -> str:
        return f"{to}({number!r})".replace("inf", "1e999")

    if stage.kind == "expr":
        text = stage.text
        for i in reversed(range(len(names))):
            text = text.replace(f"x{i}", f"v{names[i]}")
        return f"acc = {text}"
    if stage.kind == "form":
        return f"acc = {stage.text}(acc)"
    if stage.kind in ("bias", "residual"):
        return f"acc = acc + v{names[0]}"
    if stage.kind in ("scale", "mul"):
        return f"acc = acc * v{names[0]}"
    if stage.kind in ("keep", "gate"):
        return "kept = acc" if stage.kind == "keep" else "acc = kept * acc"
    if stage.kind == "affine":
        return f"acc = acc * {literal(stage.low)}\nacc = acc + {literal(stage.high)}"
    if stage.kind in ("slope", "leak"):
        slope = f"v{names[0]}" if stage.kind == "slope" else literal(stage.low)
        return f"acc = select(acc < {literal(0.0)}, acc * {slope}, acc)"
    low, high = {"relu": (0.0, None), "relu6": (0.0, 6.0), "clip": (stage.low, stage.high)}[stage.kind]
    text = f"acc = select(acc < {literal(low)}, {literal(low)}, acc)"
    return text if high is None else text + f"\nacc = select(acc > {literal(high)}, {literal(high)}, acc)"


def loop_text(low: Lowered, size: int, offset: str, channel: str, count: str, pointer: str) -> list[str]:
    """Lines applying the loop stages to ``count`` contiguous elements at ``offset``, channels from ``channel``.

    ``pointer`` names the prelude's typed pointer maker. Empty when everything is in registers.
    """
    if not low.statements:
        return []
    lines = [f"p_out = {pointer}(out)"]
    for name, how in low.loop_extras:
        lines.append(f"p_{name} = {pointer}({name})" + ("[0]" if how == "scalar" else ""))
    lines.append(f"for j_ in range({count}):")
    lines.append(f"    acc = p_out[{offset} + j_]")
    for name, how in low.loop_extras:
        index = {"channel": f"[{channel} + j_]", "same": f"[{offset} + j_]", "scalar": ""}[how]
        lines.append(f"    v{name} = p_{name}{index}")
    for statement in low.statements:
        lines += [f"    {line}" for line in statement.split("\n")]
    lines.append(f"    p_out[{offset} + j_] = acc")
    return lines


def run_text(low: Lowered, size: int, offset: str, blocks: int, block: int, pointer: str) -> list[str] | None:
    """As ``loop_text`` for ``blocks`` times the same ``block`` channels, one after the other in memory.

    Loops over several registers, which LLVM unrolls and interleaves; None where channels have numbers of their own.
    """
    if any(how == "channel" for _, how in low.loop_extras):
        return None
    lines: list[str] = []
    done = 0
    for group in (_TOGETHER, 2, 1):
        times = (blocks - done) // group
        if not times:
            continue
        lines.append(f"for g_ in range({times}):")
        at = f"{offset} + {done * block} + g_ * {group * block}"
        lines += [f"    {line}" for line in loop_text(low, size, at, "", str(group * block), pointer)]
        done += times * group
    return lines
