"""Raising: forms that exporters and tracers spell out become the one op that they mean.

Owns the pass; each file beside it owns a family of rules. Must not know any frontend.
"""

from __future__ import annotations

from ...ir.graph import Graph
from ..engine.base import PassContext
from ..engine.rewrite import Rewrite, RuleSet
from ..local.canonicalise import RULES as FORMS
from ..local.dce import dce
from . import activations, atrous, attention, causal, groups, norms

RULES: list[Rewrite] = [
    *norms.RULES, *groups.RULES, *activations.RULES, *attention.RULES, *causal.RULES, *atrous.RULES,
]  # fmt: skip


class Raising(RuleSet):
    """The rules, on a graph without dead code: to a match it would look like a reader of an inner value."""

    def run(self, graph: Graph, ctx: PassContext) -> None:
        dce.run(graph, ctx)
        super().run(graph, ctx)


raising = Raising("raise", RULES, FORMS)
raising.__doc__ = "Activations, norms, attention with causal masks and dilated convolutions, spelt out, become one op."
__all__ = ["RULES", "Raising", "raising"]
