"""The elementwise tail of a fused contraction as epilogue stages.

Owns the reading of a ``fused`` region of kind "contract": its anchor, its chain, and which region input each stage
uses. Must not know tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....core.dims import Extent
from ....ir.graph import Graph, Node, Value
from ..loops.scalar import Reg, Scalars, literal_reg
from ..templates.epilogue import Epilogue, How, Stage

ANCHORS = frozenset({"matmul", "conv", "conv_blocked", "conv_transpose"})


@dataclass(frozen=True, slots=True)
class Contraction:
    """A contraction with its tail. ``operands`` and ``extras`` are indices of the node's operands."""

    anchor: Node
    operands: tuple[int, ...]
    epilogue: Epilogue
    extras: tuple[int, ...]


def read(node: Node) -> Contraction | None:
    """The contraction that ``node`` is (plain or fused), or None when its tail does not fit the epilogue."""
    if node.op.name in ANCHORS:
        return Contraction(node, tuple(range(len(node.operands))), Epilogue(), ())
    return read_region(node.regions[0])


def read_region(region: Graph) -> Contraction | None:
    """As ``read``, for the region of a fused node: region input i is the node's operand i."""
    anchors = [n for n in region.nodes if n.op.name in ANCHORS]
    if len(anchors) != 1 or len(region.outputs) != 1:
        return None
    anchor = anchors[0]
    place = {v: i for i, v in enumerate(region.inputs)}
    if any(v not in place for v in anchor.operands):
        return None
    tail = [n for n in region.nodes if n is not anchor and n.op.name not in ("input", "constant", "return")]
    if any(n.op.kind != "elementwise" or n.op.scalar is None for n in tail):
        return None
    if any(
        n.results[0].type is not anchor.results[0].type for n in tail if n.results[0].dtype is anchor.results[0].dtype
    ):
        return None
    stages, extras = _peel(anchor, tail, place, region.outputs[0])
    if stages is None:
        return None
    return Contraction(anchor, tuple(place[v] for v in anchor.operands), Epilogue(tuple(stages)), tuple(extras))


def how(extra: Value, result: Value, blocked: bool) -> How | None:
    """How an outer operand meets the result: per output channel, elementwise, as a scalar, or not at all."""
    if extra.shape == result.shape:
        return "same"
    if all(d == 1 for d in extra.shape):
        return "scalar"
    shape = (1,) * (result.rank - extra.rank) + tuple(extra.shape)
    spread: tuple[Extent, ...]
    if blocked:
        spread = (1, result.shape[1], *(1,) * (result.rank - 3), result.shape[-1])
    else:
        spread = (*(1,) * (result.rank - 1), result.shape[-1])
    return "channel" if shape == spread else None


_PLAIN = {("add", "channel"): "bias", ("mul", "channel"): "scale", ("add", "same"): "residual", ("mul", "same"): "mul"}


def _peel(
    anchor: Node, tail: Sequence[Node], place: dict[Value, int], output: Value
) -> tuple[list[Stage] | None, list[int]]:
    """Stages that the tile knows as long as the tail is a chain, then one expression for the rest."""
    result, blocked = anchor.results[0], anchor.op.name == "conv_blocked"
    stages: list[Stage] = []
    extras: list[int] = []
    current, rest = result, list(tail)
    while rest:
        stage = _stage(rest[0], current, result, blocked, place)
        if stage is None or len(current.users) != 1:
            break
        stages.append(stage[0])
        extras += stage[1]
        current, rest = rest[0].results[0], rest[1:]
    if rest:
        expression = _expression(rest, current, result, blocked, place, output)
        if expression is None:
            return None, []
        stages.append(expression[0])
        extras += expression[1]
    elif current is not output:
        return None, []
    return stages, extras


def _number(v: Value) -> float | None:
    const = v.const
    return (
        float(const.array.reshape(-1)[0])
        if const is not None and const.array.size == 1 and v.dtype.np.kind == "f"
        else None
    )


def _stage(
    node: Node, current: Value, result: Value, blocked: bool, place: dict[Value, int]
) -> tuple[Stage, list[int]] | None:
    name, operands = node.op.name, node.operands
    if name == "relu":
        return (Stage("relu"), []) if operands[0] is current else None
    if name == "clip" and operands[0] is current:
        low, high = _number(operands[1]), _number(operands[2])
        return (Stage("clip", low, high), []) if low is not None and high is not None else None
    if name not in ("add", "mul") or current not in operands:
        return None
    other = operands[1] if operands[0] is current else operands[0]
    if other is current or other not in place:
        return None
    kind = _PLAIN.get((name, how(other, result, blocked) or ""))
    return (Stage(kind), [place[other]]) if kind else None  # type: ignore[arg-type]


def _expression(
    nodes: Sequence[Node], current: Value, result: Value, blocked: bool, place: dict[Value, int], output: Value
) -> tuple[Stage, list[int]] | None:
    emit, lines = Scalars(), ["acc"]
    regs: dict[Value, Reg] = {current: Reg("acc", current.dtype)}
    operands: list[How] = []
    extras: list[int] = []
    for node in nodes:
        for v in node.operands:
            if v in regs:
                continue
            if v.const is not None and v.const.array.size == 1:
                regs[v] = literal_reg(v.dtype, v.const.array.reshape(-1)[0])
                continue
            manner = how(v, result, blocked) if v in place else None
            if manner is None or v.dtype is not result.dtype:
                return None
            regs[v] = Reg(f"x{len(operands)}", v.dtype)
            operands.append(manner)
            extras.append(place[v])
        out = node.results[0]
        regs[out] = emit.op(lines, node.op, [regs[v] for v in node.operands], node.attrs, out.dtype)
    if output not in regs or output.dtype is not result.dtype:
        return None
    lines.append(f"acc = {regs[output].text}")
    return Stage("expr", text="\n".join(lines), operands=tuple(operands)), extras
