"""Elementwise regions: which operands are read how, and the statements of one element.

Owns the meaning of fused nodes and composites as scalar statements. Must not know about the loops around them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ....core.dims import Extent, compare_eq, product
from ....core.dtypes import I64, DType, decode
from ....ir.builder import Builder
from ....ir.graph import Graph, Node, Value
from ....ir.interpreter import decomposition
from ..templates.template import TextBuilder
from .nest import Axis, address, collapse, scaled, total
from .refusal import NoKernel
from .scalar import Reg, Scalars, literal_reg, load, pointer, weight

AxisMap = tuple[int, ...]  # per axis of a value the axis of the loops that it follows, or -1


def as_graph(node: Node) -> Graph:
    """What ``node`` computes as a closed graph whose inputs are its operands."""
    if node.op.name == "fused":
        return node.regions[0]
    if node.op.eval is None and node.op.decompose is not None:
        return decomposition(node)
    b = Builder()
    inputs = [b.input(f"a{i}", v.dtype, v.shape) for i, v in enumerate(node.operands)]
    return b.build(*b.apply(node.op, inputs, node.attrs, node.regions))


def first_operands(node: Node) -> list[int]:
    """Per operand the first index that holds the same value, so that it is read once."""
    return [node.operands.index(v) for v in node.operands]


def same_shape(a: Sequence[Extent], b: Sequence[Extent]) -> bool:
    return len(a) == len(b) and all(compare_eq(x, y) is True for x, y in zip(a, b, strict=True))


@dataclass(frozen=True, slots=True)
class Stream:
    """One way of reading an operand: ``amap`` aligns its axes with the loops'.

    A window of a larger operand has ``starts`` there, the operand's ``shape``, and ``cuts``: how many of the axes up to
    each one it does not take whole.
    """

    operand: int
    amap: AxisMap
    dtype: DType
    starts: tuple[Extent, ...] = ()
    shape: tuple[Extent, ...] = ()
    cuts: tuple[int, ...] = ()

    def moves(self, axis: int) -> int:
        """0: it stands still along loop axis ``axis``; else a number that neighbours share where they are one axis."""
        if axis not in self.amap:
            return 0
        return 1 + (self.cuts[self.amap.index(axis)] if self.cuts else 0)

    def stride(self, axis: int) -> Extent:
        """Elements from step to step of loop axis ``axis`` in a window."""
        return product(self.shape[self.amap.index(axis) + 1 :])

    @property
    def base(self) -> Extent:
        """Elements before the window."""
        total: Extent = 0
        for i, start in enumerate(self.starts):
            total = total + start * product(self.shape[i + 1 :])
        return total


class Elements:
    """The values ``roots`` as functions of the loop axes. Build it, collapse, then emit."""

    def __init__(self, graph: Graph, firsts: Sequence[int], roots: Sequence[Value], shape: Sequence[Extent]) -> None:
        self._inputs = {v: firsts[i] for i, v in enumerate(graph.inputs)}
        self._alias: dict[Value, Value] = {}
        self.shape = tuple(shape)
        self.streams: list[Stream] = []
        self.iotas: list[int] = []
        self.weight = 0.0
        self.roots = tuple(roots)
        full = tuple(i if d != 1 else -1 for i, d in enumerate(shape))
        self._seen: set[tuple[Value, AxisMap]] = set()
        self._root_maps = [full for _ in roots]
        for v in roots:
            if not same_shape(v.shape, shape):
                raise NoKernel(f"results of shapes {v.shape} and {tuple(shape)} in one kernel")
            self._discover(v, full)
        self.axes: list[Axis] = []
        self._innermost: list[int] = []  # of the loop axes that make up each collapsed axis
        self._scalars = Scalars()
        self._done: dict[tuple[Value, AxisMap], tuple[Reg, bool]] = {}
        self.row_lines: list[str] = []
        self.lines: list[str] = []

    def _resolve(self, v: Value) -> Value:
        while True:
            if v in self._alias:
                v = self._alias[v]
                continue
            node = v.producer
            if node.op.name == "fused" or (node.op.decompose is not None and node.op.scalar is None):
                graph = as_graph(node)
                self._alias.update(zip(graph.inputs, node.operands, strict=True))
                self._alias.update(zip(node.results, graph.outputs, strict=True))
                continue
            return v

    def _children(self, v: Value, amap: AxisMap) -> list[tuple[Value, AxisMap]]:
        node = v.producer
        if node.op.name == "reshape":
            x = node.operands[0]
            outer = [m for d, m in zip(v.shape, amap, strict=True) if d != 1]
            if not same_shape([d for d in x.shape if d != 1], [d for d in v.shape if d != 1]):
                raise NoKernel("a reshape that regroups elements inside a loop")
            moves = iter(outer)
            return [(x, tuple(next(moves) if d != 1 else -1 for d in x.shape))]
        if node.op.kind == "elementwise" or node.op.name == "broadcast_to":
            return [
                (x, tuple(-1 if d == 1 else amap[i + v.rank - x.rank] for i, d in enumerate(x.shape)))
                for x in node.operands
            ]
        raise NoKernel(f"{node.op.name} inside an elementwise loop")

    def _stream(self, v: Value, amap: AxisMap) -> Stream | None:
        """How ``v`` is read when it is an operand, or a window of one."""
        if v in self._inputs:
            return Stream(self._inputs[v], amap, v.dtype)
        node = v.producer
        if node.op.name != "slice" or any(step != 1 for step in node.attrs["steps"]):
            return None
        x = self._resolve(node.operands[0])
        if x not in self._inputs:
            return None
        partial = [compare_eq(a, b) is not True for a, b in zip(v.shape, x.shape, strict=True)]
        cuts = tuple(sum(partial[: i + 1]) for i in range(x.rank))
        return Stream(self._inputs[x], amap, v.dtype, tuple(node.attrs["starts"]), tuple(x.shape), cuts)

    def _discover(self, v: Value, amap: AxisMap) -> None:
        v = self._resolve(v)
        if (v, amap) in self._seen:
            return
        self._seen.add((v, amap))
        stream = self._stream(v, amap)
        if stream is not None:
            if stream not in self.streams:
                self.streams.append(stream)
            return
        node = v.producer
        if node.op.name == "constant":
            if not node.attrs["value"].is_splat:
                raise NoKernel("a constant tensor inside an elementwise loop: make it an operand")
            return
        if node.op.name == "iota":
            axis = amap[node.attrs["axis"]]
            if axis >= 0 and axis not in self.iotas:
                self.iotas.append(axis)
            return
        for x, m in self._children(v, amap):
            self._discover(x, m)
        self.weight += weight(node.op)

    def collapse(self, marks: Sequence[object] = ()) -> list[Axis]:
        """Merge axes that everything follows alike; ``marks`` (one per axis) keep axes apart."""
        flags = []
        for axis in range(len(self.shape)):
            moves = tuple(s.moves(axis) for s in self.streams)
            counted = tuple(axis if axis == i else -1 for i in self.iotas)
            flags.append((moves, counted, marks[axis] if marks else None))
        self.axes = collapse(self.shape, flags)
        self._innermost = []
        for axis, size in enumerate(self.shape):
            if size == 1:
                continue
            if self._innermost and flags[axis] == flags[self._innermost[-1]]:
                self._innermost[-1] = axis
            else:
                self._innermost.append(axis)
        return self.axes

    def follows(self, index: int, axis: int) -> bool:
        """Whether stream ``index`` moves along collapsed axis ``axis``."""
        return bool(self.axes[axis].flags[0][index])

    def is_full(self, index: int) -> bool:
        return not self.streams[index].shape and all(self.follows(index, a) for a in range(len(self.axes)))

    def digits_needed(self, flat: bool) -> set[int]:
        """Collapsed axes whose counter the offsets need when the flat row index is at hand (``flat``) or not."""
        outer = range(len(self.axes) - 1)
        need = {a for a in outer if any(m >= 0 for m in self.axes[a].flags[1])}
        for s in range(len(self.streams)):
            moves = [a for a in outer if self.follows(s, a)]
            if self.streams[s].shape or not (flat and len(moves) == len(outer)):
                need.update(moves)
        return need

    def row_pointers(self, t: TextBuilder, indent: int, row: str | None, names: Sequence[str]) -> None:
        """Define ``q<i>``, the first element of the current row of each stream."""
        for i, stream in enumerate(self.streams):
            t.add(indent, f"q{i} = {pointer(stream.dtype)}({self.row_address(t, i, row, names)})")

    def row_address(self, t: TextBuilder, index: int, row: str | None, names: Sequence[str]) -> str:
        """Text of the address of the first element of the current row of stream ``index``, which starts at ``a<i>``."""
        stream, last = self.streams[index], len(self.axes) - 1
        moves = [a for a in range(last) if self.follows(index, a)]
        terms = []
        if stream.shape:
            terms = [] if stream.base == 0 else [t.dim(stream.base)]
            terms += [scaled(t, names[a], stream.stride(self._innermost[a])) for a in moves]
            return address(f"a{index}", total(terms), stream.dtype.size)
        stride: Extent = self.axes[-1].extent if self.axes and self.follows(index, last) else 1
        if row is not None and last > 0 and len(moves) == last:
            return address(f"a{index}", scaled(t, row, stride), stream.dtype.size)
        for a in reversed(moves):
            terms.append(scaled(t, names[a], stride))
            stride = stride * self.axes[a].extent
        return address(f"a{index}", total(terms), stream.dtype.size)

    def inner_step(self, index: int) -> Extent:
        """Elements from one ``j`` to the next in stream ``index``; 0 where it stands still."""
        last = len(self.axes) - 1
        if last < 0 or not self.follows(index, last):
            return 0
        stream = self.streams[index]
        return stream.stride(self._innermost[last]) if stream.shape else 1

    def emit(self, names: Sequence[str], access: str, dim: Callable[[Extent], str] = str) -> list[Reg]:
        """Fill ``row_lines`` and ``lines`` with the statements of a row and of element ``j``; the roots' registers.

        ``dim`` gives the text of an extent.
        """
        self._names, self._access, self._dim = names, access, dim
        out = []
        for v, amap in zip(self.roots, self._root_maps, strict=True):
            out.append(self._emit(v, amap)[0])
        return out

    def _emit(self, v: Value, amap: AxisMap) -> tuple[Reg, bool]:
        v = self._resolve(v)
        key = (v, amap)
        if key not in self._done:
            self._done[key] = self._make(v, amap)
        return self._done[key]

    def _make(self, v: Value, amap: AxisMap) -> tuple[Reg, bool]:
        node = v.producer
        stream = self._stream(v, amap)
        if stream is not None:
            i = self.streams.index(stream)
            step = self.inner_step(i)
            inner = step != 0
            index = "0" if not inner else "j" if step == 1 else f"j * {self._dim(step)}"
            at = f"get(q{i}, {index})" if self._access == "get" else f"q{i}[{index}]"
            lines = self.lines if inner else self.row_lines
            return self._scalars.hold(lines, load(v.dtype, at), v.dtype), inner
        if node.op.name == "constant":
            const = node.attrs["value"]
            return literal_reg(v.dtype, decode(const.array[(0,) * const.array.ndim], const.dtype)), False
        if node.op.name == "iota":
            return self._iota(node, amap)
        parts = [self._emit(x, m) for x, m in self._children(v, amap)]
        if node.op.name in ("reshape", "broadcast_to"):
            return parts[0]
        inner = any(p[1] for p in parts)
        lines = self.lines if inner else self.row_lines
        return self._scalars.op(lines, node.op, [p[0] for p in parts], node.attrs, v.dtype), inner

    def _iota(self, node: Node, amap: AxisMap) -> tuple[Reg, bool]:
        dt, axis = node.attrs["dtype"], amap[node.attrs["axis"]]
        if axis < 0:
            return literal_reg(dt, 0), False
        at = next(a for a, x in enumerate(self.axes) if axis in x.flags[1])
        inner = at == len(self.axes) - 1
        counter = Reg("j" if inner else self._names[at], I64)
        return self._scalars.cast(self.lines if inner else self.row_lines, counter, dt), inner


__all__ = ["Elements", "Stream", "as_graph", "first_operands", "same_shape"]
