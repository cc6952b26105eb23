"""What a kernel text generator returns, and helpers to write kernel text.

Owns the Template record and the naming of arguments. Must not know any op, and never compiles anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ....core.dims import Extent
from ....core.dtypes import DType
from ..tiles.layout import (
    DEPTHWISE_SIGNATURE,
    POOL_SIGNATURE,
    ROUND_SIGNATURE,
    SIGNATURE,
    WINOGRAD_IN_SIGNATURE,
    WINOGRAD_OUT_SIGNATURE,
)

ArgKind = Literal["operand", "weights", "transformed", "extra", "output", "temp", "dim"]


@dataclass(frozen=True, slots=True)
class Arg:
    """One word of a kernel's argument block.

    ``operand``: address of the op's operand ``index``; ``weights``: address of the packed form of operand ``index``;
    ``transformed``: address of its form that is made at load;
    ``extra``: address of epilogue operand ``index``; ``output``: address of result ``index``; ``temp``: address of
    storage that the kernels of one node share; ``dim``: the integer ``value``.
    """

    name: str
    kind: ArgKind
    index: int = 0
    value: Extent = 0


@dataclass(frozen=True, slots=True)
class Template:
    """A kernel as text with what its caller must bind.

    Work is ``[start, stop)`` of ``extent`` units, at least ``grain`` per chunk. Scratch keeps what a chunk leaves in it
    until its thread's next chunk of the step, but for the first word (``tiling.going_on``). ``aliasable`` holds the
    indices of the extras that may share storage with the output (each element is read before its only write),
    ``overwrites`` those of the operands; with several outputs, an operand may share with any one of them. ``warps``: on
    a GPU, the threads of a block run the text together, and its warps deal the units out. ``together``: on a GPU, so
    many threads (a multiple of 32) run the text together for each unit; 0: one does.
    """

    text: str
    entry: str
    args: tuple[Arg, ...]
    extent: Extent
    grain: int
    scratch_bytes: Extent = 0
    flops: Extent = 0
    aliasable: frozenset[int] = frozenset()
    overwrites: frozenset[int] = frozenset()
    warps: bool = False
    together: int = 0


@dataclass(slots=True)
class TextBuilder:
    """Collects arguments and indented lines of one kernel."""

    entry: str
    args: list[Arg] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    _dims: dict[str, str] = field(default_factory=dict)

    def pointer(self, name: str, kind: ArgKind, index: int = 0) -> str:
        self.args.append(Arg(name, kind, index))
        return name

    def dim(self, value: Extent) -> str:
        """Text for an extent: the number itself, or the name of an integer argument."""
        if isinstance(value, int):
            return str(value) if value >= 0 else f"({value})"
        text = str(value)
        if text not in self._dims:
            name = f"d{len(self._dims)}"
            self._dims[text] = name
            self.args.append(Arg(name, "dim", 0, value))
        return self._dims[text]

    def add(self, indent: int, text: str) -> None:
        for line in text.split("\n"):
            if line.strip():
                self.lines.append("    " * (indent + 1) + line)

    def source(self) -> str:
        unpack = [f"    {arg.name} = args[{i}]" for i, arg in enumerate(self.args)]
        return "\n".join([f"def {self.entry}(args, start, stop, scratch):", *unpack, *self.lines]) + "\n"


_CONTRACT = dict.fromkeys(SIGNATURE, 0) | {"n0": 1, "hi1": 1, "hi2": 1, "ak": 1, "o_vb": 16}
_DEPTHWISE = dict.fromkeys(DEPTHWISE_SIGNATURE, 0) | {"hi0": 1, "hi1": 1, "GROUP": 1}
_POOL = dict.fromkeys(POOL_SIGNATURE, 0) | {"hi0": 1, "hi1": 1}
_WINOGRAD_IN, _WINOGRAD_OUT = dict.fromkeys(WINOGRAD_IN_SIGNATURE, 0), dict.fromkeys(WINOGRAD_OUT_SIGNATURE, 0)


def _call(name: str, neutral: Mapping[str, int], values: Mapping[str, int | str]) -> str:
    unknown = set(values) - set(neutral)
    if unknown:
        raise KeyError(f"{name} has no argument {sorted(unknown)}")
    return f"{name}(" + ", ".join(str(values.get(arg, default)) for arg, default in neutral.items()) + ")"


SUM_TERMS = 512  # terms that are summed from zero before they join a longer sum


def contract_call(values: Mapping[str, int | str]) -> str:
    """The text of one call of the contraction tile; unnamed arguments get their neutral value."""
    return _call("contract_tile", _CONTRACT, values)


def round_call(values: Mapping[str, int | str]) -> str:
    """The text of one call of the tile that rounds to bfloat16; every argument is named."""
    return _call("round_tile", dict.fromkeys(ROUND_SIGNATURE, 0), values)


def depthwise_call(values: Mapping[str, int | str]) -> str:
    """The text of one call of the depthwise tile; unnamed arguments get their neutral value."""
    return _call("depthwise_tile", _DEPTHWISE, values)


def pool_call(values: Mapping[str, int | str]) -> str:
    """The text of one call of the pooling tile; unnamed arguments get their neutral value."""
    return _call("pool_tile", _POOL, values)


def winograd_input_call(values: Mapping[str, int | str]) -> str:
    """The text of one call of Winograd's input tile; unnamed arguments get 0."""
    return _call("winograd_input", _WINOGRAD_IN, values)


def winograd_output_call(values: Mapping[str, int | str]) -> str:
    """The text of one call of Winograd's output tile; unnamed arguments get 0."""
    return _call("winograd_output", _WINOGRAD_OUT, values)


def split_rows(count: int, most: int) -> list[int]:
    """``count`` rows as tiles of at most ``most`` rows whose heights differ by at most one, tallest last."""
    tiles = -(-count // most)
    return [(count + i) // tiles for i in range(tiles)]


def scalar_access(dtype: DType) -> tuple[str, Callable[[str], str], Callable[[str], str]]:
    """(pointer maker, load conversion, store conversion) of the plain-loop templates."""
    if dtype.name in ("f16", "bf16"):
        return f"p{dtype.name}", lambda x: f"{dtype.name}_f32({x})", lambda x: f"f32_{dtype.name}({x})"
    if dtype.is_float:
        return f"p{dtype.name}", lambda x: x, lambda x: x
    if dtype.kind == "b":
        return "pbool", lambda x: f"i64({x})", lambda x: f"u8({x})"
    return f"p{dtype.name}", lambda x: f"i64({x})", lambda x: f"{dtype.name}({x})"
