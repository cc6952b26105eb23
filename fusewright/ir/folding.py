"""Which nodes on constants may become constants: those that every machine computes to the same bytes, within a budget.

Owns the closed tables of such ops and the budget. Must not evaluate anything: who folds knows what it holds.
"""

from __future__ import annotations

from .graph import Node

MAX_BYTES = 64 << 20
MAX_GROWTH = 16
# Small results may outgrow their operands: an iota has none.
FREE_BYTES = 4096

MOVES = frozenset(
    "reshape broadcast_to transpose slice reverse pad concat gather gather_nd iota to_blocked from_blocked".split()
)
# Correctly rounded by IEEE 754, or exact. rsqrt is 1 / sqrt, each rounded, as the interpreter has it.
ROUNDED = frozenset(
    "add sub mul div sqrt rsqrt reciprocal square neg abs sign floor ceil round trunc maximum minimum relu clip where "
    "eq ne lt le gt ge logical_not logical_and logical_or logical_xor isnan isinf isfinite cast".split()
)
# Exact on integers and bools only; of floats, the sign of an extreme that is zero would depend on the order.
INTEGER = frozenset(
    "floordiv mod truncdiv rem pow bitwise_not bitwise_and bitwise_or bitwise_xor shift_left shift_right reduce_sum "
    "reduce_prod reduce_max reduce_min reduce_any reduce_all argmax argmin cumsum cumprod scatter_nd".split()
)


def same_everywhere(node: Node) -> bool:
    """The op is exact or correctly rounded on these types."""
    name = node.op.name
    return name in MOVES or name in ROUNDED or (name in INTEGER and not any(v.dtype.is_float for v in node.operands))


def affordable(size: int, given: int) -> bool:
    """A constant of ``size`` bytes may take the place of a node on constants of ``given`` bytes."""
    return size <= min(MAX_BYTES, max(FREE_BYTES, MAX_GROWTH * given))


__all__ = ["FREE_BYTES", "MAX_BYTES", "MOVES", "affordable", "same_everywhere"]
