"""Tiny bundles of hand-written kernels, for tests of the runtime that need no model and no pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image
from fusewright.backends.writer import TargetImage, Weights, write_bundle
from fusewright.core.dtypes import dtype
from fusewright.core.manifest import Port, Signature, Symbol
from fusewright.core.plan import Bump, Call, If, Loop, Plan, While
from fusewright.runtime.bundle import Bundle, load

DENSE = """
def k(args, start, stop, scratch):
    x = pf32(args[0])
    w = pf32(args[1])
    b = pf32(args[2])
    y = pf32(args[3])
    n = args[4]
    m = args[5]
    for i in range(start, stop):
        for j in range(m):
            y[i * m + j] = b[j]
        for p in range(n):
            v = x[i * n + p]
            for j in range(m):
                y[i * m + j] += v * w[p * m + j]
        if args[6] != 0:
            for j in range(m):
                if y[i * m + j] < f32(0.0):
                    y[i * m + j] = f32(0.0)
"""
ADD = """
def k(args, start, stop, scratch):
    x = pf32(args[0])
    z = pf32(args[1])
    y = pf32(args[2])
    for i in range(start, stop):
        y[i] = x[i] + z[i]
"""
COPY = """
def k(args, start, stop, scratch):
    x = pu8(args[0])
    y = pu8(args[1])
    for i in range(start, stop):
        y[i] = x[i]
"""
LESS = """
def k(args, start, stop, scratch):
    x = pf32(args[0])
    y = pu8(args[1])
    for i in range(start, stop):
        y[i] = u8(1) if x[i] < f32(10.0) else u8(0)
"""
SOURCES = {"dense": DENSE, "add": ADD, "copy": COPY, "less": LESS}
VARIANT = "cpu-avx2"


class Tiny:
    """Makes plans and bundles; every method returns the bytes of a bundle (``numpy`` twins are next to them)."""

    def __init__(self) -> None:
        self.image = build_image([KernelSource(name, text) for name, text in SOURCES.items()], VARIANT)

    def plan(self, symbols: tuple[str, ...], n_inputs: int, scratch: int = 64) -> Plan:
        plan = Plan(symbols, n_inputs)
        plan.entries = dict(self.image.symbols)
        for name in SOURCES:
            plan.add_kernel(name, name, name, scratch=scratch)
        return plan

    def bundle(
        self,
        plan: Plan,
        inputs: list[tuple[str, str, tuple[Any, ...]]],
        outputs: list[tuple[str, str, tuple[Any, ...]]],
        weights: Weights | None = None,
        symbols: tuple[Symbol, ...] = (Symbol("N"),),
        batch: str | None = "N",
        **more: Any,
    ) -> memoryview:
        signature = Signature(
            [Port(n, dtype(t), s) for n, t, s in inputs], [Port(n, dtype(t), s) for n, t, s in outputs]
        )
        target = TargetImage(VARIANT, self.image.code, plan, ("avx2", "fma"))
        return write_bundle(
            signature=signature, symbols=symbols, batch=batch, graph_text="graph\n", weights=weights or Weights(),
            targets=[target], **more,
        )  # fmt: skip

    def layers(self, sizes: tuple[int, ...], seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(seed)
        pairs = zip(sizes, sizes[1:])
        return [(rng.normal(size=(a, b)).astype("f4") / 8, rng.normal(size=b).astype("f4")) for a, b in pairs]

    def mlp(
        self, sizes: tuple[int, ...] = (64, 64, 64, 10), grain: int = 4, scratch: int = 64, **more: Any
    ) -> memoryview:
        plan, weights = self.plan(("N",), 1, scratch), Weights()
        layers = self.layers(sizes)
        last = len(layers) - 1
        where = plan.address("i", 0)
        for i, (w, b) in enumerate(layers):
            ends = [plan.add_constant(*weights.add(w)), plan.add_constant(*weights.add(b))]
            to = (
                plan.address("o", 0)
                if i == last
                else plan.address("b", plan.add_buffer(f"{4 * w.shape[1]}*N", i, i + 1))
            )
            args = [where, *(plan.address("c", c) for c in ends), to]
            args += [plan.parameter(v) for v in (w.shape[0], w.shape[1], int(i < last))]
            spans = [plan.expr(f"{4 * w.shape[0]}*N"), -1, -1, plan.expr(f"{4 * w.shape[1]}*N"), -1, -1, -1]
            call = Call(0, args, plan.expr("N"), grain, f"layer{i}", "rrrw---", [i, -1, -1, i + 1, -1, -1, -1], spans)
            plan.steps.append(call)
            where = to
        plan.outputs = [plan.address("o", 0)]
        shape = [("x", "f32", ("N", sizes[0]))], [("y", "f32", ("N", sizes[-1]))]
        return self.bundle(plan, *shape, weights, **more)

    def mlp_numpy(self, x: np.ndarray, sizes: tuple[int, ...] = (64, 64, 64, 10)) -> np.ndarray:
        layers = self.layers(sizes)
        for i, (w, b) in enumerate(layers):
            x = x @ w + b
            x = np.maximum(x, 0) if i < len(layers) - 1 else x
        return x

    def rows(self, n: int, seed: int = 0) -> np.ndarray:
        """Input of the networks that ``mlp`` makes unless told otherwise."""
        return np.random.default_rng(seed).normal(size=(n, 64)).astype("f4")

    def add(self, shape: tuple[Any, ...] = ("N", 8), **more: Any) -> memoryview:
        """a + b, with two inputs of one shape."""
        plan = self.plan(("N",), 2)
        n = "*".join(str(d) if str(d).isidentifier() or isinstance(d, int) else f"({d})" for d in shape) or "1"
        plan.outputs = [plan.address("o", 0)]
        args = [plan.address("i", 0), plan.address("i", 1), plan.address("o", 0)]
        plan.steps.append(Call(1, args, plan.expr(n), 1 << 16, "add", "rrw", [0, 1, 2], [plan.expr(f"4*{n}")] * 3))
        return self.bundle(plan, [("a", "f32", shape), ("b", "f32", shape)], [("c", "f32", shape)], **more)

    def running_sum(self, reverse: bool = False) -> memoryview:
        """Cumulative sum over axis 0 of x[T, 4] by a loop that carries one row."""
        plan = self.plan(("T",), 1)
        state = plan.add_buffer(16, 0, 3)
        zero_at = plan.add_constant(*(weights := Weights()).add(np.zeros(4, "f4")))
        four, sixteen = plan.expr(4), plan.expr(16)
        home, out = plan.address("b", state), plan.address("o", 0)
        start = Call(2, [plan.address("c", zero_at), home], sixteen, 64, "init", "rw", [-1, 1], [-1, sixteen])
        step = Call(1, [home, plan.address("i", 0), home], four, 64, "add", "mrw", [1, 0, 1], [sixteen] * 3)
        keep = Call(2, [home, out], sixteen, 64, "keep", "rw", [1, 2], [sixteen] * 2)
        bumps = [Bump(2, 1, sixteen, reverse), Bump(3, 1, sixteen, reverse)]
        plan.steps = [start, Loop(plan.expr("T"), bumps, [step, keep])]
        plan.outputs = [out]
        shape = [("x", "f32", ("T", 4))], [("y", "f32", ("T", 4))]
        return self.bundle(plan, *shape, weights, (Symbol("T"),), None)

    def while_double(self) -> memoryview:
        """x + x + ... while x[0] < 10, then 1 is added if the first input byte of flag is set."""
        plan = self.plan((), 3)
        x, cond = plan.add_buffer(16, 0, 6), plan.add_buffer(1, 1, 4)
        n, one, size = plan.expr(4), plan.expr(1), plan.expr(16)
        home, flag = plan.address("b", x), plan.address("b", cond)
        load = Call(2, [plan.address("i", 0), home], size, 64, "load", "rw", [-1, 1], [size] * 2)
        test = Call(3, [home, flag], one, 64, "test", "rw", [1, 2], [n, one])
        double = Call(1, [home, home, home], n, 64, "double", "mmm", [1, 1, 1], [size] * 3)
        more = Call(1, [home, plan.address("i", 2), plan.address("o", 0)], n, 64, "then", "rrw", [1, -1, 3], [size] * 3)
        same = Call(2, [home, plan.address("o", 0)], size, 64, "else", "rw", [1, 3], [size] * 2)
        plan.steps = [load, While([test], flag, [double], 2), If(plan.address("i", 1), [more], [same])]
        plan.outputs = [plan.address("o", 0)]
        ins = [("x", "f32", (4,)), ("flag", "bool", ()), ("z", "f32", (4,))]
        return self.bundle(plan, ins, [("y", "f32", (4,))], None, (), None)

    def passing(self, name: str = "f32") -> memoryview:
        """Outputs that no kernel writes: an input, a constant."""
        plan, weights = self.plan(("N",), 1), Weights()
        c = plan.add_constant(*weights.add(np.arange(3, dtype="f4")))
        plan.outputs = [plan.address("i", 0), plan.address("c", c)]
        outs = [("same", name, ("N", 2)), ("constant", "f32", (3,))]
        return self.bundle(plan, [("x", name, ("N", 2))], outs, weights, (Symbol("N"),), None)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="module")
def data(tiny: Tiny) -> memoryview:
    return tiny.mlp(in_place=[{"value": "h1", "reused": "h0", "why": "relu"}])


@pytest.fixture(scope="module")
def mlp(data: memoryview) -> Bundle:
    return load(data, threads=2)
