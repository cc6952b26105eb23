"""What ``select`` hands to lowering: kernel text and the meaning of each argument word.

Owns the records only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ....core.dims import Extent
from ....core.dtypes import DType
from ....core.layout import Layout
from ..templates.template import Arg, Template


@dataclass(frozen=True, slots=True)
class Word:
    """One argument: address of the node's ``operand`` or ``result`` ``index``, of workspace ``temp``, of a constant
    operand ``packed`` in ``layout`` (as ``dtype``, where one is given), or the integer ``dim``."""

    kind: Literal["operand", "result", "temp", "packed", "dim"]
    index: int = 0
    value: Extent = 0
    layout: Layout | None = None
    writes: bool = False
    dtype: DType | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """One kernel call of a node."""

    name: str
    text: str
    args: tuple[Word, ...]
    extent: Extent
    grain: int
    scratch: int
    flops: Extent
    bytes: Extent
    fastmath: tuple[str, ...] = ()


def bound(
    name: str,
    template: Template,
    word: Callable[[Arg], Word],
    flops: Extent = 0,
    bytes: Extent = 0,
) -> Chosen:
    """A template with its named arguments turned into words; integers are the same everywhere."""
    words = tuple(Word("dim", value=a.value) if a.kind == "dim" else word(a) for a in template.args)
    return Chosen(name, template.text, words, template.extent, template.grain, template.scratch_bytes, flops, bytes)
