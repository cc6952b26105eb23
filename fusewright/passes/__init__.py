"""Graph to Graph to Program: the rewrite engine, the passes, their pipeline. Must not know frontends or backends."""

from .base import GraphPass, Pass, PassContext, PassStats, graph_pass
from .bisect import Culprit
from .journal import Entry, Journal
from .pattern import op
from .pipeline import Pipeline, PipelineStats, default_pipeline
from .rewrite import Match, Rewrite, RuleSet, rewrite

__all__ = [
    "Culprit", "Entry", "GraphPass", "Journal", "Match", "Pass", "PassContext", "PassStats", "Pipeline",
    "PipelineStats", "Rewrite", "RuleSet", "default_pipeline", "graph_pass", "op", "rewrite",
]  # fmt: skip
