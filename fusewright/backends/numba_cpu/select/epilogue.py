"""The elementwise tail of a fused contraction as epilogue stages.

Owns the reading of a ``fused`` region of kind "contract": its anchor, its chain, and which region input each stage
uses. Must not know tiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ....core.dims import Extent
from ....ir.graph import Graph, Node, Value
from ..loops.scalar import Reg, Scalars, literal_reg
from ..templates.epilogue import Epilogue, How, Stage
from ..tiles.layout import STAGE_FORMS

TRANSPOSED = frozenset({"conv_transpose", "conv_transpose_blocked"})
BLOCKED = frozenset({"conv_blocked", "conv_transpose_blocked"})
ANCHORS = frozenset({"matmul", "conv"}) | TRANSPOSED | BLOCKED


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


@dataclass(slots=True)
class _Chain:
    """What has been read: ``stages`` with their ``extras`` lead to ``current``, ``rest`` are the nodes behind it."""

    stages: list[Stage]
    extras: list[int]
    current: Value
    rest: list[Node]

    def step(self, taken: int, stage: Stage, *extras: int) -> _Chain:
        """Behind ``stage``, which is what the next ``taken`` nodes compute."""
        after = self.rest[taken - 1].results[0] if taken else self.current
        return _Chain([*self.stages, stage], [*self.extras, *extras], after, self.rest[taken:])


def _peel(
    anchor: Node, tail: Sequence[Node], place: dict[Value, int], output: Value
) -> tuple[list[Stage] | None, list[int]]:
    """Stages that the tile knows as long as the tail is a chain, then one expression for the rest."""
    result, blocked = anchor.results[0], anchor.op.name in BLOCKED
    chain = _Chain([], [], result, list(tail))
    noted: _Chain | None = None  # where a value was kept that the tail multiplies by later
    while chain.rest:
        if noted is not None and _closes(chain.rest[0], noted.current, chain.current):
            chain, noted = chain.step(1, Stage("gate")), None
            continue
        used = 2 if noted is not None and chain.current is noted.current else 1
        found = _slope(chain, result, blocked, place) if used == 1 else None
        if found is None and len(chain.current.users) == used:
            found = _affine(chain) or _form(chain) or _stage(chain, result, blocked, place)
        if found is None and noted is None and len(chain.current.users) == 2:
            noted, found = chain, chain.step(0, Stage("keep"))
        if found is None:
            break
        chain = found
    if noted is not None:
        chain = noted  # nothing multiplied by it
    if chain.rest:
        expression = _expression(chain.rest, chain.current, result, blocked, place, output)
        if expression is None:
            return None, []
        return [*chain.stages, expression[0]], [*chain.extras, *expression[1]]
    return (chain.stages, chain.extras) if chain.current is output else (None, [])


def _closes(node: Node, noted: Value, current: Value) -> bool:
    return (
        node.op.name == "mul"
        and current is not noted
        and len(current.users) == 1
        and set(node.operands) == {noted, current}
    )


def _affine(chain: _Chain) -> _Chain | None:
    """Times a number, plus a number, or both."""
    factor = _with_number(chain.rest[0], "mul", chain.current)
    after = chain.rest[0].results[0]
    if factor is None:
        term = _with_number(chain.rest[0], "add", chain.current)
        return None if term is None else chain.step(1, Stage("affine", 1.0, term))
    if len(chain.rest) > 1 and len(after.users) == 1:
        term = _with_number(chain.rest[1], "add", after)
        if term is not None:
            return chain.step(2, Stage("affine", factor, term))
    return chain.step(1, Stage("affine", factor, -0.0))  # x + -0.0 is x for every x


def _form(chain: _Chain) -> _Chain | None:
    """A function with a form for whole registers, of what has been read and nothing else."""
    node, lines = chain.rest[0], list[str]()
    if node.operands != (chain.current,) or node.results[0].dtype is not chain.current.dtype:
        return None
    made = Scalars().op(lines, node.op, [Reg("acc", chain.current.dtype)], node.attrs, chain.current.dtype)
    name = next((n for n in STAGE_FORMS if lines == [f"{made.text} = {n}(acc)"]), None)
    return chain.step(1, Stage("form", text=name)) if name else None


def _with_number(node: Node, op: str, current: Value) -> float | None:
    """The finite number that ``node`` joins to ``current`` by ``op``."""
    if node.op.name != op or current not in node.operands:
        return None
    number = _number(node.operands[1] if node.operands[0] is current else node.operands[0])
    return number if number is not None and math.isfinite(number) else None


def _slope(chain: _Chain, result: Value, blocked: bool, place: dict[Value, int]) -> _Chain | None:
    """What is below 0 times a number or one number per channel: a comparison, a product and a choice."""
    current, nodes = chain.current, {n.op.name: n for n in chain.rest[:3]}
    choice, product = nodes.get("where"), nodes.get("mul")
    test = next((n for name, n in nodes.items() if name in ("lt", "ge", "gt")), None)
    if choice is None or product is None or test is None or choice is not chain.rest[2]:
        return None
    if {*current.users} != {choice, product, test} or any(len(n.results[0].users) != 1 for n in (test, product)):
        return None
    scaled, below = product.results[0], test.op.name == "lt"
    branches = (scaled, current) if below else (current, scaled)
    if test.operands[0] is not current or _number(test.operands[1]) != 0:
        return None
    if choice.operands != (test.results[0], *branches):
        return None
    slope = product.operands[1] if product.operands[0] is current else product.operands[0]
    number = _number(slope)
    if number is not None and math.isfinite(number):
        return chain.step(3, Stage("leak", number))
    # Where 0 takes the product as well, an infinite slope would tell the difference.
    if test.op.name == "gt" or slope not in place or how(slope, result, blocked) != "channel":
        return None
    return chain.step(3, Stage("slope"), place[slope])


def _number(v: Value) -> float | None:
    """What ``v`` is known to be, if that is a number."""
    const = v.const
    if const is None or const.array.size != 1 or v.dtype.np.kind != "f":
        return None
    number = float(const.array.reshape(-1)[0])
    return None if math.isnan(number) else number


def _stage(chain: _Chain, result: Value, blocked: bool, place: dict[Value, int]) -> _Chain | None:
    node, current = chain.rest[0], chain.current
    name, operands = node.op.name, node.operands
    if name == "relu":
        return chain.step(1, Stage("relu")) if operands[0] is current else None
    if name == "clip" and operands[0] is current:
        low, high = _number(operands[1]), _number(operands[2])
        return chain.step(1, Stage("clip", low, high)) if low is not None and high is not None else None
    if name not in ("add", "mul") or current not in operands:
        return None
    other = operands[1] if operands[0] is current else operands[0]
    if other is current or other not in place:
        return None
    kind = _PLAIN.get((name, how(other, result, blocked) or ""))
    return chain.step(1, Stage(kind), place[other]) if kind else None  # type: ignore[arg-type]


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
