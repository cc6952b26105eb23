"""Step-table words that change during a run: what a BIND instruction computes and where it puts it.

Owns the registers, the rows of operations and the patches behind run-time symbols. Must not know how tables are run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..core import dims
from ..core.bounds import Bounds, is_dynamic
from ..core.plan import Plan
from ..core.poolwords import ADD, FLOORDIV, MAX, MIN, MOD, MUL

_OPS = {"//": FLOORDIV, "%": MOD, "min": MIN, "max": MAX}


class Operation:
    """One row: ``target = a op b``, all positions of registers; ``on`` are the run-time symbols behind it."""

    __slots__ = ("code", "target", "a", "b", "on")

    def __init__(self, code: int, target: int, a: int, b: int, on: frozenset[str]) -> None:
        self.code, self.target, self.a, self.b, self.on = code, target, a, b, on


class Registers:
    """Compiles expressions to rows of operations over registers, which ``grow`` lays out in the table.

    ``static`` collects expressions that are known when a plan is bound: (position, text).
    """

    def __init__(self, plan: Plan, grow: Callable[[int], int], put: Callable[[int, int], None]) -> None:
        self.names: Bounds = {b.name: (0, 0) for b in plan.bound}
        self.exprs: list[dims.Extent] = [dims.parse(t) for t in plan.exprs]
        self.grow, self.put = grow, put
        self.rows: list[Operation] = []
        self.static: list[tuple[int, str]] = []
        self.known: dict[str, int] = {}
        self.symbols = {b.name: self._register(b.name) for b in plan.bound}
        self.on = {at: frozenset((name,)) for name, at in self.symbols.items()}
        # What each word of the table adds up to, apart from the address of its storage.
        self.words: dict[int, dims.Extent] = {}

    def add(self, at: int, e: dims.Extent) -> None:
        """Word ``at`` holds ``e`` too."""
        self.words[at] = self.words.get(at, 0) + e

    def patches(self) -> dict[int, tuple[int, frozenset[str]]]:
        """Word -> (register of its expression, run-time symbols behind it), for the words that change."""
        out = {}
        for at, e in self.words.items():
            on = frozenset(dims.symbols(e)) & self.names.keys() if isinstance(e, dims.Dim) else frozenset()
            if on:
                out[at] = (self._value(e), on)
        return out

    # -- compiling ------------------------------------------------------------------------------------------------
    def _register(self, key: str) -> int:
        self.known[key] = at = self.grow(1)
        return at

    def _dynamic(self, e: dims.Extent) -> bool:
        return is_dynamic(e, self.names)

    def _value(self, e: dims.Extent) -> int:
        """The register that holds ``e``."""
        found = self.known.get(str(e))
        if found is not None:
            return found
        if isinstance(e, int):
            at = self._register(str(e))
            self.put(at, e)
            return at
        if not self._dynamic(e):
            at = self._register(str(e))
            self.static.append((at, str(e)))
            return at
        # Terms that share their changing atoms share one coefficient, which is known when the plan is bound.
        groups: dict[dims.Monomial, dims.Extent] = {}
        coefficient: dims.Extent
        for monomial, c in e.terms:
            moving = tuple(a for a in monomial if self._dynamic(_of(a)))
            still: dims.Extent = c
            for a in monomial:
                if a not in moving:
                    still = still * _of(a)
            groups[moving] = groups.get(moving, 0) + still
        total: int | None = None
        for moving, coefficient in groups.items():
            product: int | None = None if moving and coefficient == 1 else self._value(coefficient)
            for a in moving:
                one = self._atom(a)
                product = one if product is None else self._row(MUL, product, one)
            assert product is not None
            total = product if total is None else self._row(ADD, total, product)
        assert total is not None
        self.known[str(e)] = total
        return total

    def _atom(self, a: dims.Atom) -> int:
        found = self.known.get(a.text)
        if found is None:
            x, y = (self._value(e) for e in a.args)
            found = self.known[a.text] = self._row(_OPS[a.op], x, y)
        return found

    def _row(self, code: int, a: int, b: int) -> int:
        target = self.grow(1)
        on = self.on.get(a, frozenset()) | self.on.get(b, frozenset())
        self.on[target] = on
        self.rows.append(Operation(code, target, a, b, on))
        return target


def _of(a: dims.Atom) -> dims.Extent:
    return dims.Dim((((a,), 1),))


def tables(
    registers: Registers, name: str, words: Mapping[int, tuple[int, frozenset[str]]]
) -> tuple[list[Operation], list[tuple[int, int]]]:
    """What the BIND of ``name`` runs: rows of operations in order, and (word, register) patches."""
    rows = [r for r in registers.rows if name in r.on]
    return rows, [(at, register) for at, (register, on) in words.items() if name in on]
