"""Which tensor-core products compute a contraction, and how its operands lie in shared memory for them.

Owns the pitches: eight rows that a warp reads at once lie in 32 different banks. Must not import Numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .tiles import A_PITCH, DEPTH, STAGES, Tile


@dataclass(frozen=True, slots=True)
class Form:
    """``depth`` terms of k make a slice; ``left`` and ``right`` are the bytes of an operand's element in memory.

    ``unit`` is the type of the numbers that are multiplied, ``products`` of them for each pair of operands.
    """

    name: str
    unit: Literal["tf32", "f16", "bf16"]
    products: int
    depth: int
    left: int
    right: int

    @property
    def a_pitch(self) -> int:
        """Elements from row to row of the left operand."""
        return A_PITCH if self.unit == "tf32" else self.depth + 8

    def b_pitch(self, tile: Tile, across: bool) -> int:
        """Elements from row to row of the right operand, which lies as [k][column] or, ``across``, as [column][k]."""
        if not across:
            return tile.columns + 8
        return A_PITCH if self.unit == "tf32" else self.depth + 8

    def a_bytes(self, tile: Tile) -> int:
        return self.left * tile.rows * self.a_pitch

    def b_bytes(self, tile: Tile, across: bool) -> int:
        return self.right * (tile.columns if across else self.depth) * self.b_pitch(tile, across)

    def stage(self, tile: Tile, across: bool) -> int:
        """Bytes of one slice of both operands."""
        return self.a_bytes(tile) + self.b_bytes(tile, across)

    def shared_bytes(self, tile: Tile, across: bool) -> int:
        """Slices under way; the result takes their place."""
        return max(STAGES * self.stage(tile, across), 4 * tile.rows * tile.c_pitch)

    def corners(self, tile: Tile, across: bool) -> tuple[str, str]:
        """Text of the bytes at which a thread begins in each operand, out of lane, g, t and the warp's wm, wn."""
        a, b = self.a_pitch, self.b_pitch(tile, across)
        if self.unit == "tf32":
            return f"((wm + g) * {a} + t) * 4", f"((wn + g) * {b} + t) * 4" if across else f"(t * {b} + wn + g) * 4"
        # Threads name the rows that ldmatrix reads: 16 of them, eight elements wide, in each half of the warp.
        left = f"((wm + g) * {a} + 2 * t) * 4" if self.left == 4 else f"((wm + lane % 16) * {a} + lane // 16 * 8) * 2"
        if across:
            return left, f"((wn + lane % 8 + lane // 16 * 8) * {b} + lane // 8 % 2 * 8) * 2"
        return left, f"(lane % 16 * {b} + wn + lane // 16 * 8) * 2"

    def step(self, tile: Tile, across: bool) -> str:
        """The name of a warp's step in kernel text."""
        return f"multiply_{tile.name}_{self.name}{'t' if across else ''}"


TF32X3 = Form("tf32x3", "tf32", 3, DEPTH, 4, 4)  # the accuracy of float32
TF32 = Form("tf32", "tf32", 1, DEPTH, 4, 4)
MIXED = Form("bf16", "bf16", 1, DEPTH, 4, 2)  # float32 numbers, rounded when they are read, by weights stored as bf16
HALVES = {name: Form(f"{name}s", name, 1, 2 * DEPTH, 2, 2) for name in ("f16", "bf16")}  # type: ignore[arg-type]
FORMS = (TF32X3, TF32, MIXED, *HALVES.values())
