"""The typed SSA graph: values, nodes, use lists, origins.

Owns structure and its safe mutation. Must not know what any single op means; types are made by the Builder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..core.dims import Extent, compare_eq
from ..core.dtypes import DType
from ..core.errors import VerifyError
from .types import TensorType

if TYPE_CHECKING:
    from .opdef import OpDef


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a node came from: file's base name, layer path, source node, and the rewrites that made it."""

    file: str = ""
    layer: str = ""
    source: str = ""
    rewrites: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = "/".join(p for p in (self.layer, self.source) if p) or self.file
        return place + "".join(f" <{r}>" for r in self.rewrites)

    @staticmethod
    def merge(origins: Iterable[Origin], rewrite: str = "") -> Origin:
        """One origin for what replaced several nodes; ``rewrite`` is added to the history."""
        origins = tuple(origins)
        if len(origins) == 1:  # the common case, many thousand times in a run of a pipeline
            one = origins[0]
            if not rewrite or rewrite in one.rewrites:
                return one
            return Origin(one.file, one.layer, one.source, (*one.rewrites, rewrite))
        seen = [o for o in dict.fromkeys(origins) if o != Origin()]
        rewrites = list(dict.fromkeys(r for o in seen for r in o.rewrites))
        if rewrite and rewrite not in rewrites:
            rewrites.append(rewrite)
        layers = list(dict.fromkeys(o.layer for o in seen if o.layer))
        sources = list(dict.fromkeys(o.source for o in seen if o.source))
        shown = layers if len(layers) <= 4 else [*layers[:3], f"+{len(layers) - 3} more"]
        return Origin(
            next((o.file for o in seen if o.file), ""),
            " + ".join(shown),
            " + ".join(sources[:4]),
            tuple(rewrites),
        )


class Const:
    """Immutable contents of a constant. A splat is an array whose strides are all zero: it is never spread out.

    ``array`` holds stored bytes (bf16 as uint16) and is read-only.
    """

    __slots__ = ("array", "dtype", "_digest")

    def __init__(self, array: np.ndarray, dtype: DType) -> None:
        if array.dtype != dtype.np:
            raise VerifyError(f"constant holds {array.dtype}, its type is {dtype}")
        view = array.view()
        view.flags.writeable = False
        self.array = view
        self.dtype = dtype
        self._digest = ""

    @property
    def is_splat(self) -> bool:
        """All elements are one stored element (size 0 does not count)."""
        return self.array.size > 0 and (self.array.size == 1 or not any(self.array.strides))

    @property
    def digest(self) -> str:
        """SHA-256 over type, shape and bytes; a splat and its spread form differ in bytes hashed, not in value."""
        if not self._digest:
            h = hashlib.sha256(f"{self.dtype}{self.array.shape}".encode())
            if self.is_splat:
                h.update(b"splat" + self.array[(0,) * self.array.ndim].tobytes())
            else:
                h.update(np.ascontiguousarray(self.array).data)
            self._digest = h.hexdigest()
        return self._digest

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Const) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)


class Value:
    """One typed result of one node. ``uses`` are the (node, operand index) pairs that read it."""

    __slots__ = ("type", "producer", "index", "name", "_uses")

    def __init__(self, type: TensorType, producer: Node, index: int, name: str = "") -> None:
        self.type = type
        self.producer = producer
        self.index = index
        self.name = name
        self._uses: dict[tuple[Node, int], None] = {}

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[Extent, ...]:
        return self.type.shape

    @property
    def rank(self) -> int:
        return len(self.type.shape)

    @property
    def uses(self) -> tuple[tuple[Node, int], ...]:
        """(node, operand index) pairs, oldest first; the ``return`` node is a user like any other."""
        return tuple(self._uses)

    @property
    def users(self) -> tuple[Node, ...]:
        """The distinct nodes that read this value."""
        return tuple(dict.fromkeys(node for node, _ in self._uses))

    @property
    def use_count(self) -> int:
        """How many operands it is; ``len(uses)`` without making them a tuple."""
        return len(self._uses)

    @property
    def graph(self) -> Graph:
        graph = self.producer.graph
        if graph is None:
            raise VerifyError(f"value %{self.name} belongs to an erased node")
        return graph

    @property
    def const(self) -> Const | None:
        """The contents when this is a ``constant``, else None."""
        value = self.producer.attrs.get("value") if self.producer.op.name == "constant" else None
        return value if isinstance(value, Const) else None

    def __repr__(self) -> str:
        return f"<%{self.name or self.producer.op.name}: {self.type}>"


class Node:
    """One application of an op. Operands are changed through ``set_operand`` so that use lists stay right."""

    __slots__ = ("op", "_operands", "attrs", "results", "regions", "origin", "graph", "_prev", "_next", "__weakref__")

    def __init__(
        self,
        op: OpDef,
        operands: Sequence[Value],
        attrs: Mapping[str, Any],
        types: Sequence[TensorType],
        regions: Sequence[Graph] = (),
        origin: Origin = Origin(),
    ) -> None:
        self.op = op
        self._operands: list[Value] = []
        self.attrs: dict[str, Any] = dict(attrs)
        self.results = tuple(Value(t, self, i) for i, t in enumerate(types))
        self.regions = tuple(regions)
        self.origin = origin
        self.graph: Graph | None = None
        self._prev: Node | None = None
        self._next: Node | None = None
        for v in operands:
            v._uses[(self, len(self._operands))] = None
            self._operands.append(v)

    @property
    def previous(self) -> Node | None:
        """The node before this one in its graph."""
        return self._prev

    @property
    def next(self) -> Node | None:
        """The node behind this one in its graph."""
        return self._next

    @property
    def operands(self) -> tuple[Value, ...]:
        return tuple(self._operands)

    @property
    def result(self) -> Value:
        """The only result."""
        if len(self.results) != 1:
            raise VerifyError(f"{self.op.name} has {len(self.results)} results, not one")
        return self.results[0]

    def set_operand(self, index: int, value: Value) -> None:
        """Read ``value`` (of an equal type) as operand ``index``."""
        if self.graph is not None and self.graph.watcher is not None:
            self.graph.watcher.altering(self)
        self._read(index, value)

    def _read(self, index: int, value: Value) -> None:
        old = self._operands[index]
        del old._uses[(self, index)]
        value._uses[(self, index)] = None
        self._operands[index] = value

    def set_operands(self, values: Sequence[Value]) -> None:
        """Replace the whole operand list (``return`` only changes length)."""
        if self.graph is not None and self.graph.watcher is not None:
            self.graph.watcher.altering(self)
        for i, old in enumerate(self._operands):
            del old._uses[(self, i)]
        self._operands = list(values)
        for i, v in enumerate(self._operands):
            v._uses[(self, i)] = None

    @property
    def where(self) -> str:
        """A short place name for messages."""
        name = self.results[0].name if self.results else ""
        place = str(self.origin)
        return (f"%{name} = " if name else "") + self.op.name + (f" ({place})" if place else "")

    def __repr__(self) -> str:
        return f"<{self.op.name} {', '.join('%' + (v.name or '?') for v in self._operands)}>"


class NodeList:
    """An intrusive doubly linked list that may be edited while it is iterated."""

    __slots__ = ("_first", "_last", "_length")

    def __init__(self) -> None:
        self._first: Node | None = None
        self._last: Node | None = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Node]:
        node = self._first
        while node is not None:
            if node.graph is not None:
                yield node
            # An erased node keeps its links, so the walk goes on from where it stood.
            node = node._next

    def __reversed__(self) -> Iterator[Node]:
        node = self._last
        while node is not None:
            if node.graph is not None:
                yield node
            node = node._prev

    def insert(self, node: Node, before: Node | None) -> None:
        after = before._prev if before is not None else self._last
        node._prev, node._next = after, before
        if after is None:
            self._first = node
        else:
            after._next = node
        if before is None:
            self._last = node
        else:
            before._prev = node
        self._length += 1

    def unlink(self, node: Node) -> None:
        if node._prev is None:
            self._first = node._next
        else:
            node._prev._next = node._next
        if node._next is None:
            self._last = node._prev
        else:
            node._next._prev = node._prev
        self._length -= 1


class Watcher(Protocol):
    """Is told of every edit of a graph and its regions: what a journal is written from."""

    def inserted(self, node: Node) -> None: ...

    def erasing(self, node: Node) -> None: ...

    def altering(self, node: Node) -> None: ...

    def replacing(self, old: Value, new: Value) -> None: ...


@dataclass(eq=False)
class Graph:
    """A closed, typed SSA graph: ``inputs`` (values of ``input`` nodes), ``nodes`` in order, one ``return`` node.

    Outputs are operands of the return node, so they are ordinary uses. ``bounds`` holds facts about symbols
    (name -> (low, high or None)); ``meta`` data that travels along (training configuration...).
    """

    inputs: list[Value] = field(default_factory=list)
    nodes: NodeList = field(default_factory=NodeList)
    return_node: Node | None = None
    output_names: list[str] = field(default_factory=list)
    bounds: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    # Where ``fw.op`` inserts; set by the rewrite driver while a replacement is built.
    insertion_point: Node | None = None
    watcher: Watcher | None = None

    if TYPE_CHECKING:  # methods.py attaches these: their modules import this one

        def run(self, feeds: Mapping[str, Any], precision: str = "f32") -> dict[str, np.ndarray]: ...

        def verify(self, level: int = 2) -> None: ...

        def brief(self) -> str: ...

        @property
        def fingerprint(self) -> str: ...

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The values returned, in order."""
        if self.return_node is None:
            raise VerifyError("the graph has no return node yet: call Builder.build")
        return self.return_node.operands

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols of the input types, sorted."""
        return tuple(sorted({s for v in self.inputs for s in v.type.symbols}))

    def insert(self, node: Node, before: Node | None = None) -> Node:
        """Put ``node`` before another (default: before the return node, or at the end)."""
        node.graph = self
        self.nodes.insert(node, before if before is not None else self.return_node)
        if self.watcher is not None:
            self.watcher.inserted(node)
        return node

    def move(self, node: Node, before: Node | None) -> None:
        """Move ``node`` to stand before another."""
        self.nodes.unlink(node)
        self.nodes.insert(node, before)

    def replace(self, old: Value, new: Value) -> None:
        """Make every use of ``old`` read ``new``. Types must be equal, or ``new`` must refine ``old``.

        Raises VerifyError on a type mismatch.
        """
        if old is new:
            return
        if not refines(new.type, old.type):
            raise VerifyError(f"cannot replace {old.type} by {new.type}", old.producer.where)
        if self.watcher is not None:
            self.watcher.replacing(old, new)
        for node, index in old.uses:
            node._read(index, new)
        if old.name and not new.name:
            new.name = old.name

    def erase(self, node: Node) -> None:
        """Remove a node whose results have no uses. Raises VerifyError if one has."""
        if any(v._uses for v in node.results):
            raise VerifyError("cannot erase a node whose result is in use", node.where)
        if self.watcher is not None:
            self.watcher.erasing(node)
        for i, v in enumerate(node._operands):
            v._uses.pop((node, i), None)
        self.nodes.unlink(node)
        node.graph = None

    def walk(self) -> Iterator[Node]:
        """All nodes, those of regions after their owner, depth first."""
        stack: list[Iterator[Node]] = [iter(self.nodes)]
        while stack:
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
                continue
            yield node
            stack.extend(iter(r.nodes) for r in reversed(node.regions))

    def clone(self) -> Graph:
        """A deep copy: fresh nodes and values, shared types and constants."""
        return self.clone_with_map()[0]

    def clone_with_map(self) -> tuple[Graph, dict[Value, Value]]:
        """A deep copy and the map from old to new values."""
        copy = Graph(bounds=dict(self.bounds), meta=dict(self.meta), output_names=list(self.output_names))
        mapping: dict[Value, Value] = {}
        for node in self.nodes:
            twin = Node(
                node.op,
                [mapping[v] for v in node._operands],
                node.attrs,
                [v.type for v in node.results],
                [r.clone() for r in node.regions],
                node.origin,
            )
            copy.insert(twin)
            for old, new in zip(node.results, twin.results, strict=True):
                new.name = old.name
                mapping[old] = new
            if node is self.return_node:
                copy.return_node = twin
        copy.inputs = [mapping[v] for v in self.inputs]
        return copy, mapping


def refines(new: TensorType, old: TensorType) -> bool:
    """True when ``new`` may stand where ``old`` stood: same dtype and rank, extents equal for every binding."""
    if new is old:
        return True
    return (
        new.dtype is old.dtype
        and new.rank == old.rank
        and all(compare_eq(a, b) is True for a, b in zip(new.shape, old.shape, strict=True))
    )
