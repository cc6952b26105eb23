"""Which contractions tensor cores serve, and the matrix product that each of them is.

Owns the reading of nodes. Must not know how blocks are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...core.dims import Extent, floordiv, product
from ...core.dtypes import F32, DType
from ..numba_cpu.select.epilogue import Contraction
from ..numba_cpu.templates.conv_plan import Axis, make_axes
from ..numba_cpu.templates.plain import Batch, broadcast_batch
from .deal import Deal, deal
from .forms import HALVES, TF32X3

LEAST_DEPTH, LEAST_COLUMNS = 32, 16  # smaller products leave tensor cores idle, and their splits inexact
FLAT = Axis(1, 1, 1, 1, 1, 0, 0, False)  # an axis that an image has not


@dataclass(frozen=True, slots=True)
class Product:
    """``out[batch, m, n] = tail(sum_k left[batch, m, k] * right[batch, k, n])``; ``wide`` says whether the left and the
    right operand begin where 16 bytes are read at once. ``axes`` when the left one is an image; ``groups`` such
    products lie side by side in the channels of image and result, and in the columns of the right operand."""

    m: Extent
    k: int
    n: int
    batch: Batch
    across: bool
    channels: int
    axes: tuple[Axis, ...]
    stretched: bool  # the image is read as it lies: one tap, no stride, no padding
    wide: tuple[bool, bool]
    dtype: DType
    groups: int = 1

    @property
    def batches(self) -> Extent:
        return product(d for d, _, _ in self.batch) * self.groups

    @property
    def deal(self) -> Deal:
        depth = HALVES[self.dtype.name].depth if self.half else TF32X3.depth
        return deal(self.m, self.k, self.n, self.batches, depth)

    @property
    def half(self) -> bool:
        return self.dtype.name in HALVES

    @property
    def row(self) -> int:
        """Elements of a row of the right operand."""
        return self.k if self.across else self.columns

    @property
    def columns(self) -> int:
        """Elements of a row of the result."""
        return self.n * self.groups

    @property
    def pitch(self) -> int:
        """Elements from row to row, or from pixel to pixel, of the left operand."""
        return self.channels * self.groups


def read(found: Contraction, wide: tuple[bool, bool] = (False, False)) -> Product | None:
    """The product that a contraction is, or None where tensor cores do not serve it."""
    node = found.anchor
    a, b = (v.shape for v in node.operands)
    dtype = node.results[0].dtype
    if dtype is not F32 and dtype.name not in HALVES:
        return None
    axes: tuple[Axis, ...] = ()
    stretched, across = True, False
    batch: Batch = ()
    groups = 1
    if node.op.name == "matmul":
        if node.attrs["transpose_a"]:
            return None
        across = node.attrs["transpose_b"]
        k, n = a[-1], b[-2] if across else b[-1]
        m, lead = a[-2], a[:-2]
        if all(d == 1 for d in b[:-2]):
            m, lead = product(a[:-1]), ()
        batch = broadcast_batch(lead, b[:-2])
        channels = k
    elif node.op.name == "conv":
        if not all(isinstance(d, int) for d in b):
            return None
        attrs = node.attrs
        axes = tuple(make_axes(a, b, attrs["strides"], attrs["pads"], attrs["dilations"]))
        stretched = all(axis.plain for axis in axes)
        groups = attrs["groups"]
        channels, n = b[-2], floordiv(b[-1], groups)
        k = product(b[:-1])
        m = a[0] * product(axis.out for axis in axes)
    else:
        return None
    if not isinstance(k, int) or not isinstance(n, int) or k < LEAST_DEPTH or n < LEAST_COLUMNS:
        return None
    plan = Product(m, k, n, batch, across, channels, axes, stretched, wide, dtype, groups)
    if plan.half and (channels % 2 or (k if across else n) % 2):
        return None  # no copy takes two bytes
    return plan
