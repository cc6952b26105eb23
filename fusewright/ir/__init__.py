"""The typed graph: what is to be computed. See graph.py, opdef.py, ops/."""

from . import ops
from .builder import Builder, op
from .declare import define_op
from .graph import Const, Graph, Node, Origin, Value
from .interpreter import BoundedInterpreter, Interpreter
from .methods import attach
from .opdef import OPS, OpDef, get_op
from .parser import parse_graph
from .text import print_graph
from .types import TensorType
from .verify import verify_graph

attach()

__all__ = [
    "OPS", "BoundedInterpreter", "Builder", "Const", "Graph", "Interpreter", "Node", "OpDef", "Origin", "TensorType",
    "Value", "define_op", "get_op", "op", "ops", "parse_graph", "print_graph", "verify_graph",
]  # fmt: skip
