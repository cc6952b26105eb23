"""Loop kernels of every op against the interpreter: unjitted text on tables and drawn regions, compiled on a sample.

Movement and integers must agree exactly, floats stay inside the op's error bound; special values included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusewright.backends.numba_cpu import loops
from fusewright.backends.numba_cpu.loops.probe import run_node, run_templates, symbol_of
from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image
from fusewright.core.dtypes import BF16, DType, decode, encode
from fusewright.core.errors import CompileRefused, TypeRefused
from fusewright.ir.builder import Builder
from fusewright.ir.graph import Graph, Node
from fusewright.ir.interpreter import BoundedInterpreter, Interpreter
from fusewright.ir.opdef import OPS
from fusewright.runtime.image import NativeImage

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e38, 1.0, -1.0, 0.5, 2.5, 1e30]
Inputs = list[tuple[str, tuple[Any, ...]]]


@dataclass
class Case:
    """One node (the only one of its graph besides inputs), symbols' values, and what its numbers look like."""

    graph: Graph
    node: Node
    env: dict[str, int] = field(default_factory=dict)
    style: str = "normal"
    label: str = ""
    chunks: int = 1
    fixed: dict[int, np.ndarray] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.label


def case(op: str, inputs: Inputs, env: dict[str, int] | None = None, style: str = "normal", **attrs: Any) -> Case:
    """A case of one op; ``given={index: array}`` among attrs fixes operands."""
    fixed, chunks, body = attrs.pop("given", {}), attrs.pop("chunks", 1), attrs.pop("body", None)
    b = Builder()
    values = [b.input(f"x{i}", dt, shape) for i, (dt, shape) in enumerate(inputs)]
    if body is None:
        results = b.apply(op, values, attrs)
    else:
        results = b.apply(op, values, attrs, [b.region([v.type for v in values], body)])
    label = f"{op}({', '.join(str(v.type) for v in values)}){env or ''}{style}{attrs if body is None else ''}"
    return Case(b.build(*results), results[0].producer, env or {}, style, label, chunks, fixed)


def numbers(rng: np.random.Generator, dt: DType, shape: tuple[int, ...], style: str) -> np.ndarray:
    """Values of ``dt`` as the interpreter holds them."""
    if dt.kind == "b":
        return np.asarray(rng.integers(0, 2, shape)).astype(bool)
    if dt.is_int:
        info = np.iinfo(dt.np)
        if style == "special":
            return np.asarray(rng.choice(np.array([info.min, info.max, 0, 1, info.max // 3, 3], dt.np), shape))
        return np.asarray(rng.integers(max(info.min, -9), min(info.max, 9) + 1, shape)).astype(dt.np)
    if style == "special":
        x = np.asarray(rng.choice(np.array(SPECIAL), shape))
    elif style == "positive":
        x = np.asarray(rng.uniform(0.05, 3.0, shape))
    elif style == "unit":
        x = np.asarray(rng.uniform(-0.95, 0.95, shape))
    elif style == "few":
        x = np.asarray(rng.integers(-3, 4, shape)).astype(np.float64)
    else:
        x = np.asarray(rng.standard_normal(shape)) * 3
    with np.errstate(all="ignore"):
        if dt is BF16:
            return decode(encode(x.astype(np.float32), dt), dt)
        return x.astype(dt.np)


def arrays_of(c: Case, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    out = []
    for i, v in enumerate(c.node.operands):
        x = c.fixed[i] if i in c.fixed else numbers(rng, v.dtype, v.type.concrete(c.env), c.style)
        out.append(np.asarray(x))
    return out


def kernels_of(cases: list[Case]) -> dict[str, str]:
    """symbol -> text of every kernel of the cases."""
    return {symbol_of(t): t.text for c in cases for t in loops.generate(c.node)}


def compile_all(cases: list[Case], variant: str = "cpu-avx512") -> dict[str, Any]:
    """Every kernel of the cases, compiled in one image."""
    texts = kernels_of(cases)
    image = build_image([KernelSource(name, text) for name, text in texts.items()], variant)
    native = NativeImage(image.code, image.symbols)
    native.pin()
    return {name: native.kernel(name) for name in texts}


def check(c: Case, functions: dict[str, Any] | None = None, seed: int = 0, slack: float = 1.0) -> None:
    """The kernels' results against the interpreter: exact unless a float was computed, then inside the bound."""
    arrays = arrays_of(c, seed)
    stored = [encode(x, v.dtype) for x, v in zip(arrays, c.node.operands, strict=True)]
    feeds = {v.name: x for v, x in zip(c.graph.inputs, arrays, strict=True)}
    want = list(Interpreter(c.graph).run(feeds).values())
    bounded = list(BoundedInterpreter(c.graph).run_bounded(feeds).values())
    runs = [run_node(c.node, stored, c.env, functions, c.chunks)]
    for operand in sorted(overwritable(c)):
        runs.append(run_node(c.node, stored, c.env, functions, c.chunks, operand))
    for got in runs:
        for v, g, w, (wide, bound) in zip(c.node.results, got, want, bounded, strict=True):
            compare(v.dtype, decode(g, v.dtype), w, wide, bound * slack, f"{c.label} {c.node.op.name}")
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), f"{c.label}: in place differs"


def overwritable(c: Case) -> frozenset[int]:
    """Operands that every kernel of the node lets result 0 overwrite."""
    templates = loops.generate(c.node)
    shared = frozenset.intersection(*(t.overwrites for t in templates))
    size = c.node.results[0].type.concrete(c.env)
    return frozenset(i for i in shared if c.node.operands[i].type.concrete(c.env) == size)


def compare(dt: DType, got: np.ndarray, want: np.ndarray, wide: np.ndarray, bound: np.ndarray, label: str) -> None:
    assert got.shape == want.shape, label
    if not dt.is_float:
        decided = np.isfinite(bound)
        assert np.array_equal(got[decided], want[decided]), f"{label}\n{got}\n{want}"
        return
    g, w = got.astype(np.float64), want.astype(np.float64)
    same = (g == w) | (np.isnan(g) & np.isnan(w))
    with np.errstate(all="ignore"):
        close = np.isfinite(bound) & np.isfinite(wide) & np.isfinite(g) & (np.abs(g - wide) <= bound)
    undecided = ~np.isfinite(bound)
    bad = ~(same | close | undecided)
    assert not bad.any(), f"{label}: got {g[bad][:5]} want {w[bad][:5]} wide {wide[bad][:5]} bound {bound[bad][:5]}"


FLOATS = ("f32", "f16", "bf16", "f64")
INTS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
EVERY = (*FLOATS, *INTS, "bool")
SOME = ("f32", "f16", "i8", "f64", "bool")
N = {"N": 3}
STYLES = {"asin": "unit", "acos": "unit", "atanh": "unit", "log": "positive", "log1p": "positive", "sqrt": "positive",
          "rsqrt": "positive", "acosh": "positive", "batch_norm": "positive"}  # fmt: skip


def typed(*args: Any, **kwargs: Any) -> list[Case]:
    """The case, or none where the op refuses the dtype."""
    try:
        return [case(*args, **kwargs)]
    except TypeRefused:
        return []


def elementwise_cases() -> Iterator[Case]:
    for op in OPS.values():
        if op.kind != "elementwise" or op.name == "cast":
            continue
        arity = 1 if op.decompose is not None else len(op.operands)
        for dt in EVERY:
            types = ["bool" if op.name == "where" and i == 0 else dt for i in range(arity)]
            inputs: Inputs = [(d, (3, 7) if i != 1 else (7,)) for i, d in enumerate(types)]
            for style in (STYLES.get(op.name, "normal"), *(() if op.decompose else ("special",))):
                yield from typed(op.name, inputs, style=style)
    for source in EVERY:
        for to in EVERY:
            for style in ("normal", "special"):
                yield from typed("cast", [(source, (13,))], style=style, to=to)


def two_gates(b: Any, x: Any, y: Any) -> Any:
    first, last = (b.slice(x, starts=(None, i), stops=(None, i + 4)) for i in (0, 8))
    return b.mul(b.sigmoid(first), b.add(b.tanh(last), y)), b.relu(last)


def one_column(b: Any, x: Any, y: Any) -> Any:
    return b.sub(b.slice(x, starts=(None, 7), stops=(None, 8)), y)


def inner_windows(b: Any, x: Any) -> Any:
    cut = b.slice(x, starts=(None, 1, 2, 0), stops=(None, 3, 5, 4))
    return b.add(cut, b.slice(x, starts=(None, 0, 1, 3), stops=(None, 2, 4, 4)))


def region_cases() -> Iterator[Case]:
    pairs = [
        ((2, 3, 5, 4), (4,)), ((2, 3, 5, 4), (5, 1)), ((2, 3, 5, 4), (2, 1, 1, 4)), ((1,), (4, 1)), ((), (3,)),
        ((2, 0, 3), (1, 3)), (("N", 4), ("N", 1)), (("N", 1), (1, "T")),
    ]  # fmt: skip
    for d in FLOATS:
        for x, y in pairs:
            yield case("mul", [(d, x), (d, y)], {"N": 3, "T": 21} if "N" in x else {})
        yield case("fused", [(d, ("N", 6)), (d, ("N", 1)), (d, (6,))], N, body=scaled_difference)
        yield case("fused", [(d, ("N", 6)), (d, ("N",))], N, body=three_results)
        yield case("fused", [(d, (5, 6)), (d, (5, 1, 1))], body=spread)
        yield case("fused", [(d, (5,))], body=outer)
        yield case("fused", [(d, (2, 7, 7))], body=causal)
        yield case("fused", [(d, ("N", 6))], N, body=lambda b, x: b.cast(b.mish(x), to="i32"))
        yield case("fused", [(d, ("N", 12)), (d, ("N", 4))], N, body=two_gates)
        yield case("fused", [(d, ("N", 12)), (d, ("N", 1))], N, body=one_column)
        yield case("fused", [(d, ("N", 3, 5, 4))], N, body=inner_windows)
        yield case("batch_norm", [(d, (2, 4, 3)), *[(d, (3,))] * 4], style="positive")
        yield case("batch_norm", [(d, (2, 4, 3)), *[(d, (4,))] * 3], style="positive", axis=1, has_gamma=False)
        yield case("clip", [(d, (5, 6)), (d, ()), (d, ())])


def scaled_difference(b: Any, x: Any, m: Any, g: Any) -> Any:
    return b.mul(b.mul(b.sub(x, m), b.rsqrt(b.add(b.square(m), 1e-3))), g)


def three_results(b: Any, x: Any, m: Any) -> Any:
    y = b.add(x, b.reshape(m, shape=("N", 1)))
    return y, b.relu(y), b.gt(y, 0.0)


def spread(b: Any, x: Any, m: Any) -> Any:
    return b.gelu(b.add(x, b.broadcast_to(b.reshape(m, shape=(5, 1)), shape=(5, 6))))


def outer(b: Any, m: Any) -> Any:
    return b.mul(b.broadcast_to(b.reshape(m, shape=(5, 1)), shape=(5, 5)), m)


def causal(b: Any, m: Any) -> Any:
    return b.where(b.ge(b.iota(shape=(7, 7), axis=0), b.iota(shape=(7, 7), axis=1)), m, -1e9)


def movement_cases() -> Iterator[Case]:
    for d in (*SOME, "bf16"):
        yield case("broadcast_to", [(d, (1, 5, 1))], shape=(3, 4, 5, 7))
        yield case("broadcast_to", [(d, ("N", 1))], N, shape=("N", 20))
        yield case("broadcast_to", [(d, ())], shape=(3, 4))
        yield case("broadcast_to", [(d, (0, 1))], shape=(2, 0, 4))
        for perm, shape in (
            ((1, 0), (20, 33)), ((0, 2, 1), (3, 17, 70)), ((2, 0, 1), (4, 5, 6)), ((0, 2, 3, 1), (2, 3, 9, 8)),
            ((0, 3, 1, 2), (2, 9, 8, 3)), ((0, 1, 2), (2, 3, 4)), ((1, 0, 2), (5, 6, 7)), ((), ()), ((1, 0), (0, 4)),
            ((3, 2, 1, 0), (3, 4, 5, 20)),
        ):  # fmt: skip
            yield case("transpose", [(d, shape)], perm=perm)
        yield case("transpose", [(d, ("N", "T", 6))], {"N": 3, "T": 19}, perm=(1, 2, 0))
        yield case("transpose", [(d, ("N", "T"))], {"N": 70, "T": 19}, perm=(1, 0))
        yield case("slice", [(d, (5, 6, 7))], starts=(1, 0, 2), stops=(5, 6, 6), steps=(2, 1, 3))
        yield case("slice", [(d, (5, 6, 7))], starts=(1, 0, 0), stops=(4, 6, 7))
        yield case("slice", [(d, ("N", 7))], {"N": 9}, starts=(2, 1), stops=("N", 7))
        yield case("slice", [(d, ())], starts=(), stops=())
        yield case("slice", [(d, (5, 3))], starts=(2, 0), stops=(2, 3))
        for axes, shape in (((0, 2), (4, 5, 6)), ((0,), ("N", 6)), ((0,), (70,)), ((0,), (0, 3))):
            yield case("reverse", [(d, shape)], N, axes=axes)
        for mode in ("constant", "reflect", "symmetric", "edge"):
            yield case("pad", [(d, (4, 5, 6))], low=(1, 0, 2), high=(0, 0, 3), mode=mode)
            yield case("pad", [(d, (2, 4, 5, 3))], low=(0, 1, 2, 0), high=(0, 2, 1, 0), mode=mode)
            yield case("pad", [(d, ("N", 5))], {"N": 4}, low=(3, 1), high=(2, 0), mode=mode)
            yield case("pad", [(d, ("N",))], {"N": 2}, low=(7,), high=(5,), mode=mode)
        yield case("pad", [(d, (3, 4)), (d, ())], low=(1, 1), high=(0, 1))
        yield case("pad", [(d, (0, 4)), (d, ())], low=(1, 1), high=(0, 1))
        yield case("concat", [(d, (2, 3, 4)), (d, (2, 5, 4)), (d, (2, 0, 4))], axis=1)
        yield case("concat", [(d, ("N", 4)), (d, ("M", 4))], {"N": 3, "M": 0}, axis=0)
        yield case("concat", [(d, ("N", 4)), (d, ("N", 3)), (d, ("N", 1))], N, axis=1)
        yield from typed("iota", [], shape=(3, 4, 5), axis=1, dtype=d)
        yield from typed("iota", [], shape=(3, 40), axis=1, dtype=d)
        yield from typed("iota", [], shape=(130,), axis=0, dtype=d)
        starts = {1: np.int32(3), 2: np.int64(-4)}
        yield case("dynamic_slice", [(d, (5, 6)), ("i32", ()), ("i64", ())], sizes=(3, 4), given=starts)
        starts = {1: np.uint64(2**64 - 1), 2: np.int8(1)}
        yield case("dynamic_slice", [(d, ("N", 6)), ("u64", ()), ("i8", ())], N, sizes=(2, 4), given=starts)
        starts = {2: np.int32(100), 3: np.uint8(2)}
        yield case("dynamic_update_slice", [(d, (5, 6)), (d, (2, 3)), ("i32", ()), ("u8", ())], given=starts)
        yield case(
            "dynamic_update_slice",
            [(d, ("N", 6)), (d, (1, 6)), ("i32", ()), ("u8", ())],
            N,
            given=starts | {3: np.uint8(0)},
        )


def gather_cases() -> Iterator[Case]:
    rng = np.random.default_rng(3)
    for d in SOME:
        for kind in ("i32", "i64", "u8", "u64"):

            def places(*shape: int, top: int = 6, kind: str = kind) -> dict[int, np.ndarray]:
                return {1: rng.integers(0, top, shape).astype(kind.replace("i", "int").replace("u", "uint"))}

            yield case("gather", [(d, (5, 6)), (kind, (7,))], given=places(7, top=200))
            yield case("gather", [(d, (5, 6)), (kind, (2, 3))], axis=1, given=places(2, 3))
            yield case("gather", [(d, ("N", 4, 6)), (kind, ("N", 3))], N, axis=1, batch_dims=1, given=places(3, 3))
            yield case("gather", [(d, ("N", 4, 6)), (kind, ("N", 3))], N, axis=2, batch_dims=1, given=places(3, 3))
            yield case("gather", [(d, ("N",)), (kind, ())], {"N": 0}, given=places())
            yield case("gather", [(d, ("N", 3)), (kind, (2,))], {"N": 0}, given=places(2))
            yield case("gather_nd", [(d, (5, 6)), (kind, (7, 2))], given=places(7, 2))
            yield case("gather_nd", [(d, ("N", 6, 3)), (kind, ("N", 2, 1))], N, batch_dims=1, given=places(3, 2, 1))
            yield case("gather_nd", [(d, (5, 6)), (kind, (7, 0))], given=places(7, 0))
            yield case("gather_nd", [(d, ("N", 6)), (kind, (7, 1))], {"N": 0}, given=places(7, 1))
            for how in ("set",) if d == "bool" else ("set", "add", "mul", "max", "min"):
                rows: Inputs = [(d, (5, 6)), (kind, (7, 1)), (d, (7, 6))]
                yield case("scatter_nd", rows, reduction=how, style="few", given=places(7, 1, top=7))
                cells: Inputs = [(d, ("N", 6)), (kind, (7, 2)), (d, (7,))]
                yield case("scatter_nd", cells, N, reduction=how, style="few", given=places(7, 2, top=7))
        signed = {1: np.array([-5, 5, 0, 2, 4, 100, -1], np.int32)}
        yield case("gather", [(d, (5, 6)), ("i32", (7,))], given=signed)
        outside = {1: np.array([[-1], [2], [2], [9]], np.int32)}
        yield case("scatter_nd", [(d, (5, 6)), ("i32", (4, 1)), (d, (4, 6))], given=outside)


def reduce_cases() -> Iterator[Case]:
    shapes: list[tuple[tuple[Any, ...], Any]] = [
        ((3, 4, 5), None), ((3, 4, 5), (0,)), ((3, 4, 5), (1,)), ((3, 4, 5), (2,)), ((3, 4, 5), (0, 2)),
        ((3, 4, 5), ()), ((), None), ((1, 1), (0,)), ((3, 0, 4), (1,)), ((3, 0), (1,)), ((0, 3), (1,)),
        ((2, 1, 300), (2,)), ((2, 40), (1,)),
        ((3, 2, 7, 2), (0, 2)), (("N", "T"), (1,)), (("N", "T"), (0,)), (("N", 3, 3, 20), (1, 2)), ((1, 1100), (1,)),
    ]  # fmt: skip
    for d in (*FLOATS, "i8", "i64", "u8", "u64", "bool"):
        for op in ("sum", "mean", "max", "min", "prod", "any", "all"):
            for style in ("positive",) if op == "prod" else ("normal", "special"):
                for i, (shape, axes) in enumerate(shapes):
                    env = {"N": 3, "T": 70} if i % 2 else {"N": 3, "T": 5}
                    yield from typed(f"reduce_{op}", [(d, shape)], env, axes=axes, style=style, keepdims=bool(i % 3))
        for op in ("argmax", "argmin"):
            for style in ("normal", "special", "few"):
                for shape, axis in (((4, 7), 1), ((4, 7), 0), ((2, 3, 300), 1), ((9,), 0), (("N", "T"), 1)):
                    yield from typed(op, [(d, shape)], {"N": 3, "T": 9}, axis=axis, style=style)
    yield case("fused", [("f32", ("N", 6)), ("f32", (6,))], N, kind="reduce", body=squared_sum)
    yield case("fused", [("f32", ("N", 6)), ("f32", (6,))], N, kind="reduce", body=mean_of_exp)
    yield case("fused", [("f32", ("N", 60)), ("f32", ("N", 1))], N, kind="reduce", body=top_of_difference)


def squared_sum(b: Any, x: Any, m: Any) -> Any:
    return b.reduce_sum(b.square(b.sub(x, m)), axes=(1,))


def mean_of_exp(b: Any, x: Any, m: Any) -> Any:
    return b.reduce_mean(b.exp(b.sub(x, m)), axes=(0,))


def top_of_difference(b: Any, x: Any, m: Any) -> Any:
    return b.reduce_max(b.exp(b.sub(x, b.sqrt(b.abs(m)))), axes=(1,))


def order_cases() -> Iterator[Case]:
    for d in (*FLOATS, "i8", "u64", "bool"):
        for op in ("cumsum", "cumprod"):
            for flags in range(4):
                for shape, axis in (((4, 7), 1), ((4, 7), 0), ((2, 3, 300), 1), ((0, 3), 0)):
                    yield from typed(
                        op,
                        [(d, shape)],
                        axis=axis,
                        exclusive=bool(flags & 1),
                        reverse=bool(flags & 2),
                        style="positive",
                    )
        for style in ("normal", "special", "few"):
            for shape, axis in (((3, 37), 1), ((9, 5), 0), ((2, 6, 3), 1), ((1,), 0), ((0,), 0), (("N", 5), 0)):
                for flag in (False, True):
                    yield from typed("sort", [(d, shape)], N, axis=axis, style=style, descending=flag)
            for k in (0, 1, 5, 36):
                yield from typed("top_k", [(d, (3, 37))], k=k, style=style)
                yield from typed("top_k", [(d, (37, 3))], k=k, style=style, axis=0, largest=False)
            yield from typed("top_k", [(d, ("N", "T"))], {"N": 2, "T": 9}, k="T", style=style)


def pool_cases() -> Iterator[Case]:
    for d in (*FLOATS, "i8", "bool"):
        for op, style, extra in [
            (o, s, e) for o in ("max", "avg") for s in ("normal", "special") for e in (False, True)
        ]:
            if extra if op == "max" else d not in FLOATS:
                continue
            more: dict[str, Any] = {"style": style} | ({"count_include_pad": extra} if op == "avg" else {})
            env = {"N": 2, "H": 7, "C": 3}
            name = f"{op}_pool"
            yield from typed(name, [(d, (2, 5, 6, 3))], window=(3, 2), strides=(2, 1), **more)
            yield from typed(name, [(d, (1, 5, 6, 3))], window=3, strides=2, pads=((1, 1), (0, 1)), **more)
            yield from typed(name, [(d, ("N", "H", 4, 2))], env, window=3, strides=2, pads=((1, 1), (1, 1)), **more)
            yield from typed(
                name, [(d, ("N", "H", "C"))], env, window=3, strides=1, pads=((2, 2),), dilations=2, **more
            )
            yield from typed(name, [(d, (1, 3, 2, 3, 2))], window=2, strides=1, pads=((0, 1),) * 3, **more)
            yield from typed(name, [(d, (1, 7, 7, 4))], window=7, **more)
            yield from typed(name, [(d, (1, 2, 2, 2))], window=2, strides=1, pads=((2, 2), (2, 2)), **more)
            yield from typed(
                f"{name}_blocked", [(d, (1, 2, 4, 3, 16))], window=3, strides=2, pads=((1, 1), (1, 1)), **more
            )
            yield from typed(f"{name}_blocked", [(d, ("N", 2, 6, 16))], env, window=2, **more)
        for c in (5, 16, 37):
            yield case("to_blocked", [(d, ("N", 3, 7, c))], N)
            yield case("from_blocked", [(d, ("N", -(-c // 16), 2, 40, 16))], N, channels=c)


def norm_cases() -> Iterator[Case]:
    for d in FLOATS:
        for style in ("normal", "special"):
            for op in ("softmax", "log_softmax"):
                for shape, axes in (
                    ((4, 7), -1), ((2, 300), -1), ((3, 40), -1), ((4, 7), 0), ((2, 3, 300), 1), ((2, 3, 4, 5), (1, 2)),
                    ((2, 0), -1), ((0, 3), -1), ((3, 1), -1), (("N", "T"), -1), (("N", 21, 10), -1), (("N", 50), -1),
                ):  # fmt: skip
                    yield case(op, [(d, shape)], {"N": 3, "T": 70}, style, axes=axes)
            for op in ("layer_norm", "rms_norm"):
                yield case(op, [(d, (4, 40)), (d, (40,)), (d, (40,))], {}, style)
                yield case(op, [(d, (4, 300)), (d, (300,))], {}, style, has_gamma=False)
                yield case(op, [(d, ("N", 4, 6)), (d, (4, 6)), (d, (1, 4, 6))], N, style, axes=(1, 2))
                yield case(op, [(d, ("N", "T")), (d, ())], {"N": 3, "T": 70}, style)


FAMILIES = {
    f.__name__.removesuffix("_cases"): f
    for f in (
        elementwise_cases,
        region_cases,
        movement_cases,
        gather_cases,
        reduce_cases,
        order_cases,
        pool_cases,
        norm_cases,
    )
}


@pytest.mark.parametrize("family", FAMILIES)
def test_unjitted_text(family: str) -> None:
    cases = list(FAMILIES[family]())
    for c in cases:
        check(c)
    assert cases


LONG = [
    case("add", [("f32", (40000,)), ("f32", (40000,))], chunks=3),
    case("add", [("f32", (2, 20000)), ("f32", (20000,))], chunks=5),
    case("concat", [("f32", (30000,)), ("f32", (20000,))], axis=0, chunks=3),
    case("gather", [("f32", (3, 40000)), ("i32", (2,))], given={1: np.array([2, 0], np.int32)}, chunks=3),
    case("reduce_sum", [("f32", (70, 2000))], axes=(1,), chunks=3),
    case("reduce_max", [("f32", (2000, 700))], axes=(0,), chunks=3),
    case("softmax", [("f32", (70, 1500))], chunks=3),
    *(case("softmax", [("f32", ("N", 13, n))], {"N": 17}, "special", chunks=3) for n in (2, 8, 9, 16, 21, 33, 47)),
    case("log_softmax", [("f64", ("N", 13, 21))], {"N": 17}, chunks=3),
    case("layer_norm", [("f32", ("N", 1100)), ("f32", (1100,)), ("f32", (1100,))], {"N": 7}, chunks=3),
    case("transpose", [("f32", ("N", 130))], {"N": 300}, perm=(1, 0), chunks=3),
    case("sort", [("f32", (5, 3000))], chunks=2),
]


@pytest.mark.parametrize("variant", ["cpu-avx512", "cpu-avx2"])
def test_compiled_text(variant: str) -> None:
    if variant == "cpu-avx512" and not has_avx512():
        variant = "cpu-avx2"
    rng = np.random.default_rng(11 if variant == "cpu-avx2" else 12)
    drawn = []
    for family in FAMILIES.values():
        cases = list(family())
        drawn += [cases[i] for i in rng.choice(len(cases), min(9, len(cases)), replace=False)]
    cases = [*LONG, *drawn]
    functions = compile_all(cases, variant)
    for c in cases:
        check(c, functions)
        whole = run_node(
            c.node, [encode(x, v.dtype) for x, v in zip(arrays_of(c), c.node.operands, strict=True)], c.env, functions
        )
        parts = run_node(
            c.node,
            [encode(x, v.dtype) for x, v in zip(arrays_of(c), c.node.operands, strict=True)],
            c.env,
            functions,
            4,
        )
        for a, b in zip(whole, parts, strict=True):
            assert a.tobytes() == b.tobytes(), f"{c.label}: chunks change bits"


def has_avx512() -> bool:
    return "avx512f" in Path("/proc/cpuinfo").read_text()


def test_rows_do_not_depend_on_the_batch() -> None:
    for op, attrs in (("softmax", {}), ("reduce_sum", {"axes": (1,)}), ("layer_norm", {})):
        many, one = (case(op, [("f32", ("N", 70))], {"N": n}, **attrs) for n in (5, 1))
        x = np.random.default_rng(1).standard_normal((5, 70)).astype(np.float32)
        whole = run_node(many.node, [x], {"N": 5})[0]
        for i in range(5):
            assert np.array_equal(run_node(one.node, [x[i : i + 1]], {"N": 1})[0][0], whole[i])


def test_equal_kernels_have_equal_text() -> None:
    first, second = (case("mul", [("f32", ("N", 64)), ("f32", (64,))], N, given={}) for _ in range(2))
    second.graph.inputs[0].name = "another"
    assert loops.generate(first.node) == loops.generate(second.node)
    sizes = [case("transpose", [(d, (20, 30))], perm=(1, 0)) for d in ("f32", "i32")]
    assert len({symbol_of(loops.generate(c.node)[0]) for c in sizes}) == 1


def test_copy_is_exact_and_may_be_in_place() -> None:
    c = case("add", [("bf16", ("N", 5)), ("bf16", ("N", 5))], N)
    template = loops.copy_template(c.node.operands[0].type)
    bits = np.random.default_rng(2).integers(0, 2**16, (3, 5)).astype(np.uint16)
    out = np.zeros_like(bits)
    run_templates([template], [bits], [out], N)
    run_templates([template], [bits], [bits], N)
    assert np.array_equal(out, bits) and template.overwrites == {0}


def test_what_has_no_kernel_says_so() -> None:
    far = case("softmax", [("f32", (2, 3, 4))], axes=(0, 2))
    product = case("matmul", [("f32", (2, 3)), ("f32", (3, 4))])
    regrouped = case("fused", [("f32", (4, 6))], body=lambda b, x: b.relu(b.reshape(x, shape=(6, 4))))
    for c in (far, product, regrouped):
        assert not loops.supports(c.node)
        with pytest.raises(CompileRefused):
            loops.generate(c.node)


UNARY = ("neg", "abs", "exp", "tanh", "sigmoid", "square", "relu", "floor", "silu", "isnan")
BINARY = ("add", "sub", "mul", "maximum", "minimum", "lt")


@st.composite
def drawn_regions(draw: st.DrawFn) -> Case:
    """A fused node over inputs of drawn broadcastable shapes, some of them windows of larger operands."""
    full = tuple(draw(st.lists(st.sampled_from([1, 2, 3, "N", 17]), max_size=4)))
    dt = draw(st.sampled_from(FLOATS))
    shapes = [full]
    for _ in range(draw(st.integers(0, 3))):
        kept = tuple(d if draw(st.booleans()) else 1 for d in full)
        shapes.append(kept[draw(st.integers(0, len(kept))) :])
    edges = st.tuples(st.integers(0, 2), st.integers(0, 2))
    windows = [[(0, 0) if d == "N" else draw(edges) for d in s] if draw(st.integers(0, 3)) == 0 else [] for s in shapes]
    steps = draw(
        st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.sampled_from((*UNARY, *BINARY))), max_size=7)
    )

    def body(b: Any, *xs: Any) -> Any:
        pool = [
            b.slice(x, starts=[lo for lo, _ in w], stops=[d if d == "N" else lo + d for (lo, _), d in zip(w, shape)])
            if w else x
            for x, w, shape in zip(xs, windows, shapes)
        ]  # fmt: skip
        for i, j, name in steps:
            x, y = pool[i % len(pool)], pool[j % len(pool)]
            made = getattr(b, name)(x) if name in UNARY else getattr(b, name)(x, y)
            pool.append(b.where(made, x, 1.0) if made.dtype.kind == "b" else made)
        return b.broadcast_to(b.add(pool[0], pool[-1]), shape=full)

    style = draw(st.sampled_from(("normal", "special", "positive")))
    given_shapes = [
        tuple(d if d == "N" else lo + d + hi for d, (lo, hi) in zip(s, w)) if w else s for s, w in zip(shapes, windows)
    ]
    return case("fused", [(dt, s) for s in given_shapes], {"N": draw(st.integers(0, 5))}, style, body=body)


@settings(max_examples=60, deadline=None)
@given(drawn_regions(), st.integers(0, 2**16))
def test_drawn_regions(c: Case, seed: int) -> None:
    # A step of a region may land on the other side of a decision or overflow: the running bound knows.
    assert loops.supports(c.node)
    check(c, seed=seed)
