"""Graph to Graph to Program: the rewrite engine, the passes, their pipeline. Must not know frontends or backends."""

from .base import GraphPass, Pass, PassContext, PassStats, graph_pass
from .bisect import Culprit
from .journal import Entry, Journal
from .pattern import about, one_of, op
from .pipeline import Pipeline, PipelineStats, default_pipeline
from .rewrite import Match, Rewrite, RuleSet, rewrite

__all__ = [
    "Culprit", "Entry", "GraphPass", "Journal", "Match", "Pass", "PassContext", "PassStats", "Pipeline",
    "PipelineStats", "Rewrite", "RuleSet", "about", "default_pipeline", "graph_pass", "one_of", "op", "rewrite",
]  # fmt: skip
