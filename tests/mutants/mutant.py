"""What a mutant is and how it is hunted: a seeded miscompile, the classes it stands for, the graphs until it shows."""

from __future__ import annotations
import __future__

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from fusewright.passes.engine.base import GraphPass
from fusewright.passes.engine.pattern import Apply, Pattern, Placeholder, alternatives, below, describe
from fusewright.passes.engine.rewrite import Rewrite, RuleSet
from fusewright.passes.local.canonicalise import Function

Hunt = Callable[[int], "Kill"]


@dataclass(frozen=True)
class Kill:
    """How a mutant ended: ``graphs`` until the first finding (None: it survived), by which oracle, how small, and after
    how many ``seconds`` of computing."""

    graphs: int | None
    by: str = ""
    ops: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Control:
    """The same hunt without the fault, which must find nothing: else a kill is no kill. One ``key``, one hunt."""

    key: tuple[Any, ...]
    hunt: Hunt = field(repr=False)


@dataclass(frozen=True)
class Mutant:
    """``hunt(budget)`` looks for it. ``kind``: a class (type, shape, logic, numeric, in-place...) or a catalogue id.

    ``control`` is None where nothing sound is behind the fault, as in a rule that is wrong from the start. ``least``
    is how many ops the fault cannot show without: those of the pattern that it takes.
    """

    name: str
    kind: str
    hunt: Hunt = field(repr=False)
    budget: int = 250
    control: Control | None = field(default=None, repr=False)
    least: int = 0


def _module_lists(module: ModuleType) -> Iterator[list[Any]]:
    for value in list(vars(module).values()):
        if isinstance(value, list):
            yield value
        elif isinstance(value, RuleSet):
            yield value.all


def fewest_ops(p: Pattern) -> int:
    """How many ops the smallest graph has that the pattern matches; a value read twice is computed once."""

    def within(q: Placeholder) -> set[str]:
        return ({describe(q)} if isinstance(q, Apply) else set()).union(*map(within, below(q)))

    return min(len(within(q)) for q in alternatives(p.root))


@contextmanager
def changed(module: ModuleType, name: str, old: str, new: str) -> Iterator[None]:
    """Exchange ``old`` for ``new`` in the source of a function, method, pass or registered rule of ``module``."""
    owner, _, attribute = name.rpartition(".")
    holder: Any = getattr(module, owner) if owner else module
    target = getattr(holder, attribute)
    held = isinstance(target, (GraphPass, Rewrite))
    original = target.function if held else target
    source = textwrap.dedent(inspect.getsource(original))
    if old not in source:
        raise LookupError(f"{module.__name__}.{name} no longer contains {old!r}: fit the mutant to the new source")
    lines = source.replace(old, new, 1).splitlines()
    while not lines[0].startswith("def "):
        lines.pop(0)
    scope: dict[str, Any] = {}
    code = compile("\n".join(lines), f"<mutant of {name}>", "exec", flags=__future__.annotations.compiler_flag)
    exec(code, vars(module), scope)
    fake = scope[attribute]
    with ExitStack() as undo:
        if held:
            target.function = fake
            undo.callback(setattr, target, "function", original)
        else:
            # Modules that imported the function by name get the fake as well.
            setattr(holder, attribute, fake)
            undo.callback(setattr, holder, attribute, original)
            for other in [m for n, m in sys.modules.items() if n.startswith("fusewright") and m is not module]:
                if not owner and vars(other).get(attribute) is original:
                    setattr(other, attribute, fake)
                    undo.callback(setattr, other, attribute, original)
        for table in [t for t in vars(module).values() if isinstance(t, dict)]:
            for key in [k for k, entry in table.items() if entry is original]:
                table[key] = fake
                undo.callback(table.__setitem__, key, original)
        for entries in _module_lists(module):
            for i, entry in enumerate(entries):
                if isinstance(entry, Function) and entry.function is original:
                    entries[i] = Function(entry.name, entry.roots, fake)
                    undo.callback(entries.__setitem__, i, entry)
        yield


@contextmanager
def exchanged(module: Any, name: str, value: Any) -> Iterator[None]:
    """Give a module, class or op another value for one attribute."""
    original = getattr(module, name)
    object.__setattr__(module, name, value) if not isinstance(module, (ModuleType, type)) else setattr(
        module, name, value
    )
    try:
        yield
    finally:
        object.__setattr__(module, name, original) if not isinstance(module, (ModuleType, type)) else setattr(
            module, name, original
        )
