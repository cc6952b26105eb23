"""GraphDef -> nodes and functions by name, with inputs as references.

Owns names, references and attribute access. Must not know what any op does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ...core.dtypes import DType
from ...core.errors import ImportRefused
from ..formats.limits import DEFAULT, ImportLimits
from .tensors import dtype_of, plain, shape_of
from .wire import Late, Message, opened

# Ops with more than one output argument: inside functions an output is named, not numbered.
_NORM = ("y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2", "reserve_space_3")
_CELL = ("i", "cs", "f", "o", "ci", "co", "h")
OUTPUTS: dict[str, tuple[str, ...]] = {
    "FusedBatchNorm": _NORM, "FusedBatchNormV2": _NORM, "FusedBatchNormV3": _NORM, "TopK": ("values", "indices"),
    "TopKV2": ("values", "indices"), "Unique": ("y", "idx"), "UniqueV2": ("y", "idx"),
    "UniqueWithCounts": ("y", "idx", "count"), "MaxPoolWithArgmax": ("output", "argmax"),
    "Switch": ("output_false", "output_true"), "RefSwitch": ("output_false", "output_true"),
    "Merge": ("output", "value_index"), "RefMerge": ("output", "value_index"), "Svd": ("s", "u", "v"),
    "Qr": ("q", "r"), "Lu": ("lu", "p"), "SelfAdjointEigV2": ("e", "v"),
    "NonMaxSuppressionV4": ("selected_indices", "valid_outputs"),
    "NonMaxSuppressionV5": ("selected_indices", "selected_scores", "valid_outputs"),
    "CombinedNonMaxSuppression": ("nmsed_boxes", "nmsed_scores", "nmsed_classes", "valid_detections"),
    "SoftmaxCrossEntropyWithLogits": ("loss", "backprop"),
    "SparseSoftmaxCrossEntropyWithLogits": ("loss", "backprop"), "ListDiff": ("out", "idx"),
    "SparseReshape": ("output_indices", "output_shape"),
    "SparseFillEmptyRows": ("output_indices", "output_values", "empty_row_indicator", "reverse_index_map"),
    "TensorArrayV3": ("handle", "flow"), "TensorArrayConcatV3": ("value", "lengths"),
    "TensorListPopBack": ("output_handle", "tensor"),
    "RaggedRange": ("rt_nested_splits", "rt_dense_values"), "BlockLSTM": _CELL, "BlockLSTMV2": _CELL,
    "LSTMBlockCell": _CELL, "GRUBlockCell": ("r", "u", "c", "h"), "BroadcastGradientArgs": ("r0", "r1"),
    "LogMatrixDeterminant": ("sign", "log_abs_determinant"), "Frexp": ("mantissa", "exponent"),
    "StatelessRandomGetKeyCounter": ("key", "counter"), "StatelessRandomGetKeyCounterAlg": ("key", "counter", "alg"),
}  # fmt: skip

MOST_CALLS = 32


@dataclass(frozen=True, slots=True)
class Ref:
    """One output of one node (``arg`` is its name inside functions, else ""); a function's argument has no node."""

    node: str
    index: int = 0
    arg: str = ""


@dataclass(slots=True)
class TFNode:
    """A node: ``inputs`` are data inputs in order; ``controls`` name the nodes that run before it."""

    name: str
    op: str
    inputs: tuple[Ref, ...]
    attrs: dict[str, Message]
    controls: tuple[str, ...] = ()

    def output(self, ref: Ref) -> int:
        """Which output a reference means."""
        names = OUTPUTS.get(self.op)
        if not ref.arg or names is None:
            return ref.index
        if ref.arg not in names:
            raise ImportRefused("malformed", self.name, f"{self.op} has no output {ref.arg!r}")
        return names.index(ref.arg) + ref.index


@dataclass
class TFFunction:
    """A library function."""

    name: str
    args: list[tuple[str, int]]
    outputs: list[str]
    returns: dict[str, Ref]
    nodes: dict[str, TFNode]
    controls: list[str] = field(default_factory=list)


class Library:
    """Functions by name. Each is made when first asked for, and then prepared once by what ``prepare`` adds."""

    def __init__(self) -> None:
        self._late: dict[str, Callable[[], TFFunction]] = {}
        self._made: dict[str, TFFunction] = {}
        self._steps: list[Callable[[TFFunction], None]] = []

    def __contains__(self, name: str) -> bool:
        return name in self._made or name in self._late

    def __setitem__(self, name: str, function: TFFunction) -> None:
        self.later(name, lambda: function)

    def __getitem__(self, name: str) -> TFFunction:
        if name in self._late:
            made = self._made[name] = self._late.pop(name)()
            for step in self._steps:
                step(made)
        return self._made[name]

    def get(self, name: str) -> TFFunction | None:
        """The function, or None."""
        if name not in self:
            return None
        return self[name]

    def later(self, name: str, make: Callable[[], TFFunction]) -> None:
        """Add a function that ``make`` gives when it is needed."""
        self._made.pop(name, None)
        self._late[name] = make

    def prepare(self, step: Callable[[TFFunction], None]) -> None:
        """Do ``step`` to every function, those to come included."""
        for made in list(self._made.values()):
            step(made)
        self._steps.append(step)


@dataclass
class TFGraph:
    """A parsed graph. ``file_bytes`` bounds what its constants may claim."""

    name: str
    nodes: dict[str, TFNode]
    functions: Library = field(default_factory=Library)
    file_bytes: int = 0
    limits: ImportLimits = DEFAULT


def parse_ref(text: str, where: str) -> Ref:
    """``node``, ``node:1`` or, inside functions, ``node:output_arg:1``."""
    parts = text.split(":")
    try:
        if len(parts) == 1:
            return Ref(parts[0])
        if len(parts) == 2:
            return Ref(parts[0], int(parts[1]))
        if len(parts) == 3:
            return Ref(parts[0], int(parts[2]), parts[1])
    except ValueError:
        pass
    raise ImportRefused("malformed", where, f"{text!r} names no tensor")


def _nodes(protos: Sequence[Message | Late], where: str, limits: ImportLimits) -> dict[str, TFNode]:
    limits.check("nodes", len(protos), where, "the number of nodes")
    out: dict[str, TFNode] = {}
    for item in protos:
        proto = opened(item)
        name = proto.get("name", "")
        attrs = proto.get("attr", {})
        limits.check("attributes", len(attrs), name, "the number of attributes")
        given = proto.get("input", [])
        inputs = tuple(parse_ref(i, name) for i in given if not i.startswith("^"))
        controls = tuple(i[1:] for i in given if i.startswith("^"))
        if name in out:
            raise ImportRefused("malformed", where, f"two nodes are named {name!r}")
        out[name] = TFNode(name, proto.get("op", ""), inputs, attrs, controls)
    return out


def parse_graph_def(proto: Message, name: str, limits: ImportLimits = DEFAULT, file_bytes: int = 0) -> TFGraph:
    """The nodes and the function library of a decoded GraphDef."""
    graph = TFGraph(name, _nodes(proto.get("node", []), name, limits), Library(), file_bytes, limits)
    library = proto.get("library", {}).get("function", [])
    limits.check("nodes", len(library), name, "the number of functions")
    total = 0
    for item in library:
        total += len(item.get("node_def", []))
        limits.check("nodes", total, name, "the number of nodes of functions")
        own = item.get("signature", {}).get("name", "")
        graph.functions.later(own, partial(_function, item, own, limits))
    return graph


def _function(item: Message, own: str, limits: ImportLimits) -> TFFunction:
    signature = item.get("signature", {})
    args = [(a.get("name", ""), plain(a.get("type", 0))) for a in signature.get("input_arg", [])]
    outputs = [a.get("name", "") for a in signature.get("output_arg", [])]
    returns = {key: parse_ref(text, own) for key, text in item.get("ret", {}).items()}
    controls = list(item.get("control_ret", {}).values())
    return TFFunction(own, args, outputs, returns, _nodes(item.get("node_def", []), own, limits), controls)


class Attrs:
    """Typed access to a node's attributes. A missing one without a default is a refusal."""

    def __init__(self, node: TFNode, limits: ImportLimits = DEFAULT) -> None:
        self.node, self.limits = node, limits

    def _get(self, name: str, part: str, default: Any, missing: Any) -> Any:
        attr = self.node.attrs.get(name)
        if attr is None:
            if default is None:
                raise ImportRefused("malformed", self.node.name, f"{self.node.op} has no attribute {name!r}")
            return default
        if part not in attr:
            if any(k not in (part, "list") for k in attr):
                raise ImportRefused(
                    "malformed", self.node.name, f"attribute {name!r} of {self.node.op} holds no {part}"
                )
            return missing  # the wire leaves zeros out
        return attr[part]

    def has(self, name: str) -> bool:
        return name in self.node.attrs

    def i(self, name: str, default: int | None = None) -> int:
        return int(self._get(name, "i", default, 0))

    def f(self, name: str, default: float | None = None) -> float:
        return float(self._get(name, "f", default, 0.0))

    def b(self, name: str, default: bool | None = None) -> bool:
        return bool(self._get(name, "b", default, False))

    def s(self, name: str, default: str | None = None) -> str:
        value = self._get(name, "s", default, "")
        return value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")

    def type(self, name: str, default: int | None = None) -> DType:
        return dtype_of(self.number(name, default), self.node.name)

    def number(self, name: str, default: int | None = None) -> int:
        """A type's own number (see tensors.py)."""
        return plain(int(self._get(name, "type", default, 0)))

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        attr = self.node.attrs.get(name)
        return None if attr is None else shape_of(attr.get("shape"), self.node.name, self.limits)

    def list_ints(self, name: str) -> list[int]:
        """A list of integers; empty when the attribute is missing."""
        return [int(v) for v in self._get(name, "list", {}, {}).get("i", [])]

    def list_floats(self, name: str) -> list[float]:
        """A list of floats; empty when the attribute is missing."""
        return [float(v) for v in self._get(name, "list", {}, {}).get("f", [])]

    def tensor_proto(self, name: str) -> Message:
        value: Message = self._get(name, "tensor", None, {})
        return value

    def function(self, name: str) -> str:
        value = self._get(name, "func", None, {})
        return str(value.get("name", ""))

    def functions(self, name: str) -> list[str]:
        found = self._get(name, "list", None, {})
        return [str(f.get("name", "")) for f in found.get("func", [])]


def locate(graph: TFGraph, path: str) -> TFNode | None:
    """The node of that name, or one inside called functions by its path: ``StatefulPartitionedCall/dense/MatMul``."""
    nodes = graph.nodes
    for _ in range(MOST_CALLS):
        if path in nodes:
            return nodes[path]
        parts = path.split("/")
        for i in range(1, len(parts)):
            node = nodes.get("/".join(parts[:i]))
            name = _called(node) if node is not None else ""
            function = graph.functions.get(name) if name else None
            if function is not None:
                nodes, path = function.nodes, "/".join(parts[i:])
                break
        else:
            return None
    return None


def _called(node: TFNode) -> str:
    attr = node.attrs.get("f", {})
    return str(attr["func"].get("name", "")) if node.op.endswith("PartitionedCall") and "func" in attr else ""


def reachable(graph: TFGraph, roots: list[str], stop: set[str], called: Any) -> Iterator[tuple[str, TFNode]]:
    """(function path, node) for every node that the roots need, functions included; ``called(node)`` names those."""
    seen: set[tuple[str, str]] = set()
    stack: list[tuple[str, dict[str, TFNode], str]] = [("", graph.nodes, r) for r in roots]
    while stack:
        path, nodes, name = stack.pop()
        if (path, name) in seen or (not path and name in stop):
            continue
        seen.add((path, name))
        node = nodes.get(name)
        if node is None:
            continue
        yield path, node
        stack.extend((path, nodes, r.node) for r in node.inputs)
        for function in called(node):
            found = graph.functions.get(function)
            if found is not None:
                stack.extend((function, found.nodes, r.node) for r in found.returns.values())
