"""The verifier: is a graph what the rest of the compiler takes it to be?

Level 1 checks structure, level 2 also infers every type again. Must not change the graph or know any op.
"""

from __future__ import annotations

from typing import NoReturn

from ..core.dims import symbol
from ..core.dtypes import DType
from ..core.errors import FusewrightError, TypeRefused, VerifyError
from .graph import Const, Graph, Node, refines
from .opdef import OPS, canonical_attr
from .scope import check_scopes
from .text import excerpt
from .types import TensorType

MAX_DEPTH = 64


def verify_graph(graph: Graph, level: int = 2) -> None:
    """Check a graph and its regions. Raises VerifyError with the failing node, its neighbours, origin and a hint.

    ``level`` 0 checks nothing, 1 structure (order, use lists, ownership, names), 2 also types.
    """
    if level < 1:
        return
    owned: set[int] = {id(graph)}
    pending = [(graph, 0)]
    while pending:
        g, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise VerifyError(f"regions nested deeper than {MAX_DEPTH}")
        _Checker(g).structure()
        for node in g.nodes:
            for region in node.regions:
                if id(region) in owned:
                    _fail(g, node, "a region belongs to two nodes", hint="clone() the region for the second node")
                owned.add(id(region))
                pending.append((region, depth + 1))
            if level >= 2:
                check_types(node)
    check_scopes(graph)


def _fail(graph: Graph, node: Node | None, message: str, operand: int | None = None, hint: str = "") -> NoReturn:
    where = node.where if node is not None else ""
    lines = [message if not where else f"{where}: {message}"]
    if node is not None:
        lines.append(excerpt(graph, node, operand))
        if str(node.origin):
            lines.append(f"origin: {node.origin}")
    if hint:
        lines.append(f"hint: {hint}")
    raise VerifyError("\n".join(lines), where)


_PLAIN = frozenset({bool, int, float, str, type(None), DType, Const})


class _Checker:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.at: dict[Node, int] = {}
        self.required: dict[str, int] = {}

    def fail(self, node: Node | None, message: str, operand: int | None = None, hint: str = "") -> NoReturn:
        _fail(self.graph, node, message, operand, hint)

    def structure(self) -> None:
        self.links()
        self.ends()
        self.names()
        for node in self.graph.nodes:
            self.node(node)
            self.operands(node)
            self.results(node)
        self.bounds()

    def links(self) -> None:
        """The node list is one chain, and every node on it says that it is here."""
        last: Node | None = None
        node = self.graph.nodes._first
        while node is not None:
            if node in self.at:
                self.fail(None, f"the node list runs in a circle at {node.where}")
            if node.graph is not self.graph:
                self.fail(node, "the node stands in a list of a graph that it does not belong to")
            if node._prev is not last:
                self.fail(node, "the node list's links disagree")
            self.at[node] = len(self.at)
            last, node = node, node._next
        if self.graph.nodes._last is not last or len(self.graph.nodes) != len(self.at):
            self.fail(None, f"the node list counts {len(self.graph.nodes)} nodes, {len(self.at)} are linked")

    def ends(self) -> None:
        ret = self.graph.return_node
        if ret is None:
            self.fail(None, "the graph has no return node", hint="call Builder.build")
        if ret not in self.at or ret.op.name != "return":
            self.fail(None, "the return node does not stand in the graph")
        if self.at[ret] != len(self.at) - 1:
            self.fail(ret, "the return node is not the last one", hint="insert before graph.return_node")
        for node in self.at:
            if node.op.name == "return" and node is not ret:
                self.fail(node, "there is a second return node")
        if len(self.graph.output_names) != len(ret.operands):
            self.fail(ret, f"{len(ret.operands)} outputs have {len(self.graph.output_names)} names")
        if len(set(self.graph.output_names)) != len(self.graph.output_names):
            self.fail(ret, f"two outputs have one name: {self.graph.output_names}")

    def names(self) -> None:
        inputs = self.graph.inputs
        nodes = [n for n in self.at if n.op.name == "input"]
        for v in inputs:
            if v.producer not in self.at or v.producer.op.name != "input" or v.producer.results != (v,):
                self.fail(None, f"the input %{v.name} is not the result of an input node of this graph")
            if v.producer.attrs.get("name") != v.name:
                self.fail(v.producer, f"the input node of %{v.name} calls it {v.producer.attrs.get('name')!r}")
        if len(set(inputs)) != len(inputs) or len(inputs) != len(nodes):
            self.fail(None, f"{len(nodes)} input nodes for {len(inputs)} inputs", hint="keep graph.inputs in step")
        if len({v.name for v in inputs}) != len(inputs):
            self.fail(None, f"two inputs have one name: {[v.name for v in inputs]}")
        texts = [*self.graph.output_names, *(v.name for n in self.at for v in n.results)]
        bad = next((t for t in texts if not isinstance(t, str)), None)
        if bad is not None:
            self.fail(None, f"a name is a {type(bad).__name__}, not a str")

    def node(self, node: Node) -> None:
        op = node.op
        if OPS.get(op.name) is not op:
            self.fail(node, f"{op.name!r} is not in the op table", hint="add it with define_op")
        if list(node.attrs) != list(op.attrs) and set(node.attrs) != set(op.attrs):
            self.fail(node, f"its attributes are {list(node.attrs)}, {op.name} has {list(op.attrs)}")
        for name, value in node.attrs.items():
            if type(value) in _PLAIN:
                continue
            try:
                canonical_attr(value)
            except TypeRefused as error:
                self.fail(node, f"attribute {name}: {error}")
        n = len(node._operands)
        least = self.required.get(op.name)
        if least is None:
            least = self.required[op.name] = op.required
        if n < least or n > len(op.operands) and not op.variadic:
            self.fail(node, f"{op.name} takes ({', '.join(op.operands)}), it has {n} operands")
        if op.name == "constant":
            value = node.attrs["value"]
            if not isinstance(value, Const) or TensorType(value.dtype, value.array.shape) is not node.result.type:
                self.fail(node, "the constant's contents do not have its type")

    def operands(self, node: Node) -> None:
        here = self.at[node]
        for i, v in enumerate(node._operands):
            producer = v.producer
            if producer not in self.at:
                outer = "of another graph: regions are closed" if producer.graph is not None else "of an erased node"
                self.fail(node, f"operand {i} is a value {outer}", i, "pass it as an operand of the region's owner")
            if not 0 <= v.index < len(producer.results) or producer.results[v.index] is not v:
                self.fail(node, f"operand {i} is not among its producer's results", i)
            if self.at[producer] >= here:
                self.fail(node, f"operand {i} is defined after its use", i, "move its producer up (Graph.move)")
            if (node, i) not in v._uses:
                self.fail(node, f"operand {i} does not list this use", i, "change operands through set_operand")

    def results(self, node: Node) -> None:
        for i, v in enumerate(node.results):
            if v.producer is not node or v.index != i:
                self.fail(node, f"result {i} says that another node produces it")
            for user, k in v._uses:
                if user not in self.at:
                    closed = ": regions are closed" if user.graph is not None else " (it was erased)"
                    self.fail(node, f"result {i} lists a use by a node that is not in this graph{closed}")
                if not 0 <= k < len(user._operands) or user._operands[k] is not v:
                    self.fail(node, f"result {i} lists a use ({user.op.name}, operand {k}) that reads something else")

    def bounds(self) -> None:
        for name, (low, high) in self.graph.bounds.items():
            try:
                symbol(name)
            except FusewrightError as error:
                self.fail(None, str(error))
            if low < 0 or high is not None and high < low:
                self.fail(None, f"bounds of {name} are {low} to {high}")


def check_types(node: Node) -> None:
    """Infer a node's types again. Raises VerifyError if they are not those it carries."""
    if node.op.name in ("input", "constant", "return") or node.graph is None:
        return
    try:
        types = node.op.infer([v.type for v in node.operands], dict(node.attrs), node.regions)
    except TypeRefused as error:
        _fail(node.graph, node, f"ill-typed: {error}", hint="build nodes through Builder, which refuses this at once")
    have = [v.type for v in node.results]
    if len(types) != len(have):
        _fail(node.graph, node, f"has {len(have)} results, its types say {len(types)}")
    for i, (a, b) in enumerate(zip(types, have, strict=True)):
        if not (refines(a, b) and refines(b, a)):
            hint = "the operands' types changed: rebuild the node"
            _fail(node.graph, node, f"result {i} carries {b}, inferred is {a}", hint=hint)


__all__ = ["MAX_DEPTH", "check_types", "verify_graph"]
