"""Tiny bundles of hand-written GPU kernels, for tests that need no model, no pass and no compiler."""

from __future__ import annotations

from typing import Any

import numpy as np

from fusewright.backends.writer import TargetImage, Weights, write_bundle
from fusewright.core.dtypes import dtype
from fusewright.core.manifest import Port, Signature, Symbol
from fusewright.core.plan import Bump, Call, If, Launch, Loop, Plan, While

from ptx_kernels import dense, elementwise, less, module, row_sum

KERNELS = {
    "add": (elementwise("add_", "add.f32 %y, %x0, %x1;", 2), "add_", 64, 64),
    "relu": (elementwise("relu_", "max.f32 %y, %x0, 0f00000000;", 1), "relu_", 64, 64),
    "double": (elementwise("double_", "add.f32 %y, %x0, %x0;", 1), "double_", 64, 64),
    "dense": (dense("dense_"), "dense_", 64, 64),
    "less": (less("less_"), "less_", 32, 1),
    "sum": (row_sum("sum_"), "sum_", 128, 1),
}
PTX = module(*(text for text, *_ in KERNELS.values()))
SIZES = (64, 32, 32, 10)


def plan(symbols: tuple[str, ...], n_inputs: int, scratch: int = 0) -> Plan:
    """A plan that knows the kernels by the order of ``KERNELS``."""
    out = Plan(symbols, n_inputs)
    out.entries = {symbol: 0 for _, symbol, _, _ in KERNELS.values()}
    for name, (_, symbol, block, units) in KERNELS.items():
        out.add_kernel(name, symbol, name, launch=Launch(block, units), scratch=scratch)
    return out


def kernel(name: str) -> int:
    """Index of a kernel in such a plan."""
    return list(KERNELS).index(name)


def call(p: Plan, name: str, args: list[Any], extent: Any, access: str = "", spans: list[Any] | None = None) -> Call:
    """A call; with ``access`` and ``spans`` (bytes of each argument) the order is known."""
    spans = [p.expr(s) for s in spans or ()]
    values = [-1] * len(args) if access else ()
    return Call(kernel(name), args, p.expr(extent), 1, name, access, values, spans)


def bundle(
    p: Plan,
    inputs: list[tuple[str, str, tuple[Any, ...]]],
    outputs: list[tuple[str, str, tuple[Any, ...]]],
    weights: Weights | None = None,
    files: dict[str, bytes] | None = None,
    batch: str | None = None,
    symbols: list[Symbol] | None = None,
) -> memoryview:
    """The bytes of a bundle with that plan."""
    ports = [[Port(n, dtype(t), s) for n, t, s in side] for side in (inputs, outputs)]
    image = TargetImage("cuda", b"", p, ("sm_80",), files if files is not None else {"kernels.ptx": PTX.encode()})
    return write_bundle(
        signature=Signature(*ports),
        symbols=symbols if symbols is not None else [Symbol(s) for s in p.symbols],
        batch=batch,
        graph_text="",
        weights=weights or Weights(),
        targets=[image],
    )


def mlp_weights() -> list[np.ndarray]:
    """w, b, w, b..."""
    rng = np.random.default_rng(7)
    out = []
    for n, m in zip(SIZES, SIZES[1:]):
        out += [rng.normal(size=(n, m)).astype("f4") / 8, rng.normal(size=(m,)).astype("f4")]
    return out


def mlp_numpy(x: np.ndarray) -> np.ndarray:
    """What the MLP computes, in float64."""
    ws, y = mlp_weights(), x.astype("f8")
    for i in range(0, len(ws), 2):
        y = y @ ws[i].astype("f8") + ws[i + 1]
        y = np.maximum(y, 0) if i + 2 < len(ws) else y
    return y


def mlp(
    order: bool = True, files: dict[str, bytes] | None = None, batch: str | None = "N", scratch: int = 0
) -> memoryview:
    """Three dense layers with relu in place between them. ``order``: calls state what they touch."""
    p, store = plan(("N",), 1, scratch), Weights()
    ws = [store.add(w) for w in mlp_weights()]
    constants = [p.add_constant(*w) for w in ws]
    steps = []
    source: Any = ("i", 0)
    for layer, (n, m) in enumerate(zip(SIZES, SIZES[1:])):
        last = layer + 2 == len(SIZES)
        here = ("o", 0) if last else ("b", p.add_buffer(f"N*{4 * m}", len(steps), len(steps) + 2))
        args = [
            p.address(*source), p.address("c", constants[2 * layer]), p.address("c", constants[2 * layer + 1]),
            p.address(*here), p.parameter(n), p.parameter(m),
        ]  # fmt: skip
        known = ("rrrw--", [f"N*{4 * n}", 4 * n * m, 4 * m, f"N*{4 * m}", 0, 0]) if order else ("", [])
        steps.append(call(p, "dense", args, f"N*{m}", *known))
        if not last:
            known = ("rw", [f"N*{4 * m}"] * 2) if order else ("", [])
            steps.append(call(p, "relu", [p.address(*here)] * 2, f"N*{m}", *known))
        source = here
    p.steps = steps
    p.outputs = [("o", 0, p.expr(0))]
    return bundle(p, [("x", "f32", ("N", SIZES[0]))], [("y", "f32", ("N", SIZES[-1]))], store, files, batch)


def running_sums(reverse: bool = False) -> memoryview:
    """y[t] = y[t-1] + x[t] over the rows of x[T, 64], from zeros that are an input: a loop with bumps."""
    p = plan(("T",), 2)
    row = 256
    first = call(p, "add", [p.address("i", 1), p.address("i", 0), p.address("o", 0)], 64, "rrw", [row] * 3)
    again = call(p, "add", [p.address("o", 0), p.address("i", 0, row), p.address("o", 0, row)], 64, "rrw", [row] * 3)
    if reverse:
        bumps = [Bump(1, pos, p.expr(row), True) for pos in (0, 1, 2)]
        again = call(p, "double", [p.address("i", 0), p.address("o", 0)], 64, "rw", [row] * 2)
        bumps = [Bump(0, pos, p.expr(row), True) for pos in (0, 1)]
        p.steps = [Loop(p.expr("T"), [Bump(1, b.pos, b.delta, True) for b in bumps], [again])]
    else:
        bumps = [Bump(2, pos, p.expr(row)) for pos in (0, 1, 2)]
        p.steps = [first, Loop(p.expr("T - 1"), bumps, [again])]
    p.outputs = [("o", 0, p.expr(0))]
    return bundle(p, [("x", "f32", ("T", 64)), ("z", "f32", (64,))], [("y", "f32", ("T", 64))])


def doubled_until(branch: bool = False) -> memoryview:
    """Doubles x[64] while x[0] < 10; with ``branch``: once, if x[0] < 10, else relu."""
    p = plan((), 1)
    buffer, flag = p.add_buffer(256, 0, 9), p.add_buffer(1, 0, 9)
    b = p.address("b", buffer)
    copy = call(p, "relu", [p.address("i", 0), b], 64)
    test = call(p, "less", [b, p.address("b", flag)], 1)
    double = call(p, "double", [b, b], 64)
    out = call(p, "relu", [b, p.address("o", 0)], 64)
    if branch:
        p.steps = [copy, test, If(p.address("b", flag), [double], [copy]), out]
    else:
        p.steps = [copy, While([test], p.address("b", flag), [double]), out]
    p.outputs = [("o", 0, p.expr(0))]
    return bundle(p, [("x", "f32", (64,))], [("y", "f32", (64,))])


def passed_on() -> memoryview:
    """Outputs that no kernel writes: the input, a constant, another output, and a buffer's second row."""
    p, store = plan(("N",), 1), Weights()
    c = p.add_constant(*store.add(np.arange(8, dtype="f4")))
    buffer = p.add_buffer("N*512", 0, 0)
    p.steps = [
        call(p, "double", [p.address("i", 0), p.address("o", 2)], "N*64"),
        call(p, "relu", [p.address("i", 0), p.address("b", buffer, "N*256")], "N*64"),
    ]
    p.outputs = [
        ("i", 0, p.expr(0)),
        ("c", c, 4),
        ("o", 2, p.expr(0)),
        ("o", 2, p.expr(0)),
        ("b", buffer, p.expr("N*256")),
    ]
    ports: list[tuple[str, str, tuple[Any, ...]]] = [(f"y{i}", "f32", ("N", 64)) for i in range(5)]
    ports[1] = ("y1", "f32", (7,))
    return bundle(p, [("x", "f32", ("N", 64))], ports, store)
