"""The typed graph: what is to be computed. See graph.py, opdef.py, ops/."""

from . import ops
from .builder import Builder, op
from .graph import Const, Graph, Node, Origin, Value
from .interpreter import BoundedInterpreter, Interpreter
from .opdef import OPS, OpDef, define_op, get_op
from .types import TensorType

__all__ = [
    "OPS", "BoundedInterpreter", "Builder", "Const", "Graph", "Interpreter", "Node", "OpDef", "Origin", "TensorType",
    "Value", "define_op", "get_op", "op", "ops",
]  # fmt: skip
