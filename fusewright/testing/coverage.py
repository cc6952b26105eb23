"""Which rules and guards of the passes have fired, against those that their sources declare.

Owns the reading of declarations (rule tables, reasons of ``decline``) and the recording. Must not know any one rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import passes
from ..ir.graph import Node
from ..passes import Pipeline, RuleSet
from ..passes.engine.base import PassContext

_FOLDER = Path(passes.__file__).parent


@dataclass(slots=True)
class Fired:
    """Names of rules that rewrote something, and reasons given for leaving a match alone."""

    rules: set[str] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)


@contextmanager
def recorded() -> Iterator[Fired]:
    """Everything that fires in any pass meanwhile."""
    fired = Fired()
    rewrote, decline = PassContext.rewrote, PassContext.decline

    def note_rewrite(self: PassContext, what: str = "", *args: Any, **kwargs: Any) -> None:
        fired.rules.add(what)
        rewrote(self, what, *args, **kwargs)

    def note_reason(self: PassContext, node: Node | str, why: str) -> None:
        fired.reasons.add(why)
        decline(self, node, why)

    PassContext.rewrote, PassContext.decline = note_rewrite, note_reason  # type: ignore[method-assign]
    try:
        yield fired
    finally:
        PassContext.rewrote, PassContext.decline = rewrote, decline  # type: ignore[method-assign]


def declared_rules(pipeline: Pipeline) -> set[str]:
    """Names of all rules in the sets of a pipeline, and in the rule tables of the modules of its passes."""
    out = {rule.name for name in pipeline.names if isinstance(p := pipeline[name], RuleSet) for rule in p.all}
    for _, tree in _sources():
        for call in _calls(tree):
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            first = call.args[0] if call.args else None
            if name in ("rule", "form") and isinstance(first, ast.Constant) and isinstance(first.value, str):
                out.add(first.value)
            told = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            if told == "rewrote" and isinstance(first, ast.Constant) and isinstance(first.value, str):
                out.add(first.value)
    return out


def declared_guards() -> dict[str, re.Pattern[str]]:
    """``file:reason`` of every ``decline`` in the passes -> what its text looks like."""
    out = {}
    for path, tree in _sources():
        for call in _calls(tree):
            if isinstance(call.func, ast.Attribute) and call.func.attr == "decline" and call.args:
                text = _pattern(call.args[-1])
                if text is not None:
                    out[f"{path.relative_to(_FOLDER)}: {text}"] = re.compile(text, re.DOTALL)
    return out


def unfired_guards(fired: Fired) -> list[str]:
    """Declared reasons that no one gave."""
    return sorted(k for k, p in declared_guards().items() if not any(p.fullmatch(why) for why in fired.reasons))


def _sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(_FOLDER.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def _calls(tree: ast.AST) -> Iterable[ast.Call]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.Call))


def _pattern(node: ast.expr) -> str | None:
    """A regular expression for a literal reason; None where it is computed elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(re.escape(str(v.value)) if isinstance(v, ast.Constant) else ".*" for v in node.values)
    return None


__all__ = ["Fired", "declared_guards", "declared_rules", "recorded", "unfired_guards"]
