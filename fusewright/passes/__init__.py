"""Graph to Graph to Program: the rewrite engine, the passes, their pipeline. Must not know frontends or backends."""

from .bisect import Culprit
from .engine.base import GraphPass, Pass, PassContext, PassStats, graph_pass
from .engine.journal import Entry, Journal
from .engine.pattern import about, one_of, op
from .engine.rewrite import Match, Rewrite, RuleSet, rewrite
from .pipeline import Pipeline, PipelineStats, default_pipeline

__all__ = [
    "Culprit", "Entry", "GraphPass", "Journal", "Match", "Pass", "PassContext", "PassStats", "Pipeline",
    "PipelineStats", "Rewrite", "RuleSet", "about", "default_pipeline", "graph_pass", "one_of", "op", "rewrite",
]  # fmt: skip
