"""Is every expression of a plan known when it is used?

Owns the order of run-time symbols: a step may use one only after the Bind that sets it, and sizes never do.
Must not know addresses or values.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import dims
from .errors import VerifyError
from .plan import Bind, Call, Check, If, Loop, Plan, Step, walk_steps


def check_scopes(plan: Plan) -> None:
    """Raises VerifyError naming the step. Plans without run-time symbols are not looked at."""
    if plan.bound:
        _Scopes(plan).run()


class _Scopes:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.used = [frozenset(dims.symbols(dims.parse(t))) for t in plan.exprs]
        self.set: set[int] = set()
        self.number = 0

    def run(self) -> None:
        plan, fixed = self.plan, frozenset(self.plan.symbols)
        if len({b.name for b in plan.bound}) != len(plan.bound):
            raise VerifyError("two run-time symbols have one name")
        for i, b in enumerate(plan.bound):
            self.need(b.most, fixed, f"the bound of {b.name}")
            self.need(b.high, fixed | {c.name for c in plan.bound[:i]}, f"the bound of {b.name}")
        for i, buffer in enumerate(plan.buffers):
            self.need(buffer.bytes, fixed, f"the size of buffer {i}")
        for k in plan.kernels:
            for e in (k.flops, k.bytes, k.scratch):
                self.need(e, fixed, f"kernel {k.name}")
        self.steps(plan.steps, fixed)
        for i, out in enumerate(plan.outputs):
            if out[0] != "c":
                self.need(out[2], fixed, f"output {i}")

    def need(self, e: int, known: frozenset[str], what: str) -> None:
        loose = self.used[e] - known
        if loose:
            raise VerifyError(f"{what} uses {min(loose)} before it is set")

    def steps(self, steps: Sequence[Step], known: frozenset[str]) -> frozenset[str]:
        """The symbols known after ``steps``; what a body sets is not known outside it."""
        for s in steps:
            self.number += 1
            what = f"step {self.number - 1}"
            if isinstance(s, Call):
                for e in (s.extent, *(a[1] if a[0] == "x" else a[2] for a in s.args if a[0] != "c")):
                    self.need(e, known, what)
                for span in s.spans:
                    if span >= 0:
                        self.need(span, known, what)
            elif isinstance(s, Loop):
                self.need(s.count, known, what)
                for b in s.bumps:
                    self.need(b.delta, known, what)
                self.moved(s, known, self.number)
                self.steps(s.body, known)
            elif isinstance(s, Bind):
                if s.symbol in self.set:
                    raise VerifyError(f"{what} sets {self.plan.bound[s.symbol].name} a second time")
                self.set.add(s.symbol)
                self.need(self.plan.bound[s.symbol].high, known, what)
                if s.source[0] != "c":
                    self.need(s.source[2], known, what)
                known = known | {self.plan.bound[s.symbol].name}
            elif isinstance(s, Check):
                self.need(s.left, known, what)
                self.need(s.right, known, what)
            else:
                if s.cond[0] != "c":
                    self.need(s.cond[2], known, what)
                for body in (s.then, s.orelse) if isinstance(s, If) else (s.cond_steps, s.body):
                    self.steps(body, known)
        return known

    def moved(self, loop: Loop, known: frozenset[str], first: int) -> None:
        """An argument that a loop moves is not set again inside it."""
        calls = {number: s for number, s, _ in walk_steps(loop.body, first)}
        for b in loop.bumps:
            call = calls[b.step]
            arg = call.args[b.pos] if isinstance(call, Call) else ("c",)
            if arg[0] != "c":
                self.need(arg[1] if arg[0] == "x" else arg[2], known, f"step {b.step}, which moves with a loop,")
