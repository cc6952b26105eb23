"""The tester's kit: typed random graphs, feeds, and an oracle with error bounds. Needs ``fusewright[testing]``."""

from . import samples, samples_control, samples_windows  # noqa: F401 - they fill the table
from .arena import MemoryFault, PlainTarget, check_memory
from .check import CheckReport, PassFailure, check_graph, check_pass
from .draw import Draw, HypothesisDraw, SeededDraw
from .feeds import bindings, contents, feeds
from .graphs import Maker, Options, build, graphs, random_graph
from .lowering import LoweringFailure, LoweringReport, check_lowering
from .oracle import Mismatch, Verdict, assert_equivalent, check_array, check_outputs
from .properties import PROPERTIES
from .prove import Counterexample, Proof, prove
from .reduce import reduce_graph

__all__ = [
    "assert_equivalent", "bindings", "build", "check_array", "check_graph", "check_lowering", "check_memory",
    "check_outputs", "check_pass", "CheckReport", "contents", "Counterexample", "Draw", "feeds", "graphs",
    "HypothesisDraw", "LoweringFailure", "LoweringReport", "Maker", "MemoryFault", "Mismatch", "Options",
    "PassFailure", "PlainTarget", "Proof", "PROPERTIES", "prove", "random_graph", "reduce_graph", "samples",
    "SeededDraw", "Verdict",
]  # fmt: skip
