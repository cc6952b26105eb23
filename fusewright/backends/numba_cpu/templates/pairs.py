"""Kernel text that rounds a float32 operand to bfloat16, for contractions that multiply pairs.

Owns its unit of work. Must not know who reads the pairs.
"""

from __future__ import annotations

from ....core.dims import Extent, ceildiv
from .template import Template, TextBuilder, round_call

UNIT = 4096  # elements


def round_pairs(elements: Extent, entry: str = "round_pairs") -> Template:
    """Operand 0, ``elements`` of float32, as bfloat16 in the same order, in storage that the node's kernels share."""
    t = TextBuilder(entry)
    t.pointer("a", "operand", 0)
    t.pointer("pairs", "temp", 0)
    count = t.dim(elements)
    t.add(0, "for u in range(start, stop):")
    t.add(1, f"at = u * {UNIT}\ncount = min({UNIT}, {count} - at)")
    t.add(1, round_call({"x": "a + at * 4", "y": "pairs + at * 2", "count": "count"}))
    return Template(t.source(), entry, tuple(t.args), ceildiv(elements, UNIT), 4, 0, 0)
