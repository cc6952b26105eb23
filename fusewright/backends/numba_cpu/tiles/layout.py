"""The argument list of the contraction tile and the codes of its register epilogue.

Owns names and order, shared by the tile, its twin and the text generators. Must not import Numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

# Stage codes of a register epilogue: STAGE_BITS per stage, the first stage in the lowest bits (``packed``).
STAGE_BITS = 5
STAGE_BIAS, STAGE_SCALE, STAGE_RESIDUAL, STAGE_RELU, STAGE_RELU6, STAGE_CLIP, STAGE_MUL = 1, 2, 3, 4, 5, 6, 7
# KEEP notes the value, GATE multiplies by what was noted; AFFINE and LEAK take numbers, SLOPE one number per channel.
STAGE_KEEP, STAGE_GATE, STAGE_AFFINE, STAGE_SLOPE, STAGE_LEAK = 8, 9, 10, 11, 12
# A function that has a form for whole registers (``vector/forms.py``), by its name in kernel text.
STAGE_FORMS = {"exp": 13, "sigmoid": 14, "silu": 15, "gelu": 16, "gelu_tanh": 17, "tanh": 18}
FORM_BYTES = 64  # of the registers that these are written for, full of float32
STAGES_WITH_SLOT = (
    STAGE_BIAS, STAGE_SCALE, STAGE_RESIDUAL, STAGE_CLIP, STAGE_MUL, STAGE_AFFINE, STAGE_SLOPE, STAGE_LEAK,
)  # fmt: skip
STAGES_PER_ELEMENT = (STAGE_RESIDUAL, STAGE_MUL)  # of those: operands as large as the result

# Run-time arguments (int64: addresses, element counts and element strides), then literal ones.
RUNTIME = (
    "out",  # address of the output buffer
    "off",  # element offset of the tile's first element in the output (and in residual operands)
    "ch",  # first output channel of the tile: offset into per-channel operands
    "a",  # address of the first row's first element for loop indices 0, 0
    "w",  # address of the weights for loop indices 0, 0
    "cols",  # valid columns of the tile (read only when TAIL > 0)
    "n0",
    "a0",
    "w0",  # outer loop: count, stride in a, stride in w (channel blocks, or depth taps)
    "lo1",
    "hi1",
    "a1",
    "w1",  # middle loop: range and strides (row taps)
    "lo2",
    "hi2",
    "a2",
    "w2",  # inner tap loop: range and strides (column taps)
    "nk",
    "nk_last",  # innermost count (channels), and the count in the last outer iteration
    "ak",
    "wk",  # innermost strides
    "a_px",
    "o_px",  # strides from row to row (pixel to pixel) in a and out
    "o_vb",  # stride in out from one block of 16 columns to the next
    "part",
    "mode",  # partial sums [P][NV*W]; bit 0 starts from them, bit 1 stores to them instead of finishing (SPLIT only)
    "ahead",
    "ahead_row",  # elements from a, at each outer iteration, to the first line of it that is asked for, and row to row
    "claim",  # elements from the tile's own results to the rows that are asked for (CLAIM)
    "ask",  # address of weights that a later tile reads: they are prefetched, ASK bytes per innermost iteration
    "s0",
    "s1",
    "s2",
    "s3",  # epilogue operands in stage order: addresses; for clip, affine and leak two float32 patterns, low word first
)
LITERAL = (
    "DT",  # element size: 4 or 8 bytes
    "W",  # lanes of one vector
    "P",  # rows (pixels)
    "NV",  # vectors
    "TAIL",  # 0: all columns are valid; 1: mask output columns; 2: mask the loads of w too
    "SPLIT",  # 1: partial sums (part, mode) are in use
    "EPI",  # register epilogue
    "KW",  # 0: the column taps are a loop; else their number, unrolled, and only those inside the image are computed:
    "LEFT",  # tap j of row p reads column p*SPX + j*DPX - LEFT, which exists when it is in [0, RIGHT)
    "RIGHT",
    "SPX",
    "DPX",
    "AHEAD",  # each outer iteration asks (prefetch) for this many lines of a; 0: none
    "APART",  # bytes from one of these to the next
    "AHEAD_ROWS",  # rows of such lines
    "ASK",  # bytes from ``ask`` on per innermost iteration; 0: none
    "CLAIM",  # rows of results that each outer iteration asks for, and of operands as large; 0: none
    "RUN",  # outer iterations summed from zero before they join the total; 0: one sum (long sums keep their accuracy)
    "DOT",  # 1: the 4 bytes of an element of a and w are two bfloat16 numbers, whose two products are added at once
)
SIGNATURE = RUNTIME + LITERAL


def valid_rows(lit: dict[str, int], tap: int) -> list[int]:
    """The rows whose column tap ``tap`` lies inside the image."""
    return [p for p in range(lit["P"]) if 0 <= p * lit["SPX"] + tap * lit["DPX"] - lit["LEFT"] < lit["RIGHT"]]


def stages_of(epilogue: int) -> list[int]:
    """The stage codes packed in ``epilogue``, first stage first."""
    out = []
    while epilogue:
        out.append(epilogue & ((1 << STAGE_BITS) - 1))
        epilogue >>= STAGE_BITS
    return out


def packed(*codes: int) -> int:
    """The stage codes as one number, first stage first."""
    return sum(code << (STAGE_BITS * i) for i, code in enumerate(codes))


def with_words(epilogue: int, slots: Sequence[T]) -> list[tuple[int, T | None]]:
    """The stage codes packed in ``epilogue``, each with the slot that it takes."""
    rest = iter(slots)
    return [(stage, next(rest) if stage in STAGES_WITH_SLOT else None) for stage in stages_of(epilogue)]


# The tile that rounds: ``count`` float32 at ``x`` to bfloat16 patterns at ``y``.
ROUND_SIGNATURE = ("x", "y", "count")

# The depthwise tile. Loops: depth taps 0, row taps 1, column taps 2 (unrolled when KW > 0, with the same border rule as
# above when RIGHT > 0). Column ``c`` of the input is at ``a + c * px``, tap ``t`` of the weights at ``w + t * WTAP``.
# With GROUP > 1, which divides W, a channel reads all GROUP channels of its group, by weights WTAP / GROUP apart.
# Each of TAPS row taps asks for its share of the P pixels at ``ask`` (read soon) and at ``own`` (written soon), if ASK.
DEPTHWISE_RUNTIME = (
    "out", "off", "ch", "a", "w", "cols", "lo0", "hi0", "a0", "w0", "lo1", "hi1", "a1", "w1", "lo2", "hi2", "px",
    "o_px", "ask", "own", "s0", "s1", "s2", "s3",
)  # fmt: skip
DEPTHWISE_LITERAL = (
    "DT", "W", "P", "NV", "TAIL", "EPI", "KW", "LEFT", "RIGHT", "SPX", "DPX", "WTAP", "GROUP", "ASK", "TAPS",
)  # fmt: skip
DEPTHWISE_SIGNATURE = DEPTHWISE_RUNTIME + DEPTHWISE_LITERAL

# The pooling tile. Loops and places as the depthwise tile's. MAX: the greatest value, else the mean: the sum over TAPS,
# or over how many taps exist where TAPS is 0.
POOL_RUNTIME = ("out", "off", "a", "cols", "lo0", "hi0", "a0", "lo1", "hi1", "a1", "lo2", "hi2", "px", "o_px")
POOL_LITERAL = ("DT", "W", "P", "NV", "TAIL", "MAX", "TAPS", "KW", "LEFT", "RIGHT", "SPX", "DPX")
POOL_SIGNATURE = POOL_RUNTIME + POOL_LITERAL

# The Winograd tiles, on blocks of 16 channels. Input: element (i, j) of the tile is at ``a + i * a_row + j * 16``, and
# inside the image when ``r_lo <= i < r_hi`` and ``c_lo <= j < c_hi`` (FULL: all are); element k of its transform goes
# to ``v + k * v_e``. Output: element k of the products is at ``m + k * m_e``, result (i, j) goes to element
# ``off + i * o_row + j * 16`` of ``out`` where ``i < r_hi`` and ``j < c_hi``. M is the side of a tile of results.
# BELOW: 1 asks (prefetch) for what the tile below is the first to read, or will write. PAIRS: 1 rounds the transform to
# bfloat16, two numbers in each element of v.
BLOCK = 16
WINOGRAD_IN_RUNTIME = ("a", "v", "a_row", "v_e", "r_lo", "r_hi", "c_lo", "c_hi")
WINOGRAD_IN_LITERAL = ("W", "M", "FULL", "BELOW", "PAIRS")
WINOGRAD_IN_SIGNATURE = WINOGRAD_IN_RUNTIME + WINOGRAD_IN_LITERAL
WINOGRAD_OUT_RUNTIME = ("out", "off", "ch", "m", "m_e", "o_row", "r_hi", "c_hi", "s0", "s1", "s2", "s3")
WINOGRAD_OUT_LITERAL = ("W", "M", "EPI", "BELOW")
WINOGRAD_OUT_SIGNATURE = WINOGRAD_OUT_RUNTIME + WINOGRAD_OUT_LITERAL
