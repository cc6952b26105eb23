"""The tester's kit: typed random graphs, feeds, and an oracle with error bounds. Needs ``fusewright[testing]``."""

from . import samples
from .draw import Draw, HypothesisDraw, SeededDraw
from .feeds import bindings, contents, feeds
from .graphs import Maker, Options, build, graphs, random_graph
from .oracle import Mismatch, Verdict, assert_equivalent, check_array, check_outputs

__all__ = [
    "Draw", "HypothesisDraw", "Maker", "Mismatch", "Options", "SeededDraw", "Verdict", "assert_equivalent", "bindings",
    "build", "check_array", "check_outputs", "contents", "feeds", "graphs", "random_graph", "samples",
]  # fmt: skip
