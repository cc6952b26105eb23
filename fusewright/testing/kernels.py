"""Every kernel of a compiled graph against its own error bound, on the values that a run feeds to it.

Owns the walk that collects those values, the cut of one node into a graph of its own, and the verdicts. Must not know
how a kernel is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..backends import targets as machines
from ..backends.numba_cpu.lower import ConstantStore
from ..backends.numba_cpu.variants import expand_target
from ..backends.writer import write_bundle
from ..core.manifest import Port, Signature, Symbol
from ..ir import BoundedInterpreter, Builder, Graph, Interpreter, Node, Value
from ..ir.interpreter import bind_symbols
from ..ir.opdef import EvalContext, substitute_attr
from ..ir.ops.control import CONTROL
from ..ir.scope import defined, mentioned
from ..passes.memory.schedule import schedule
from ..passes.pipeline import Pipeline
from ..passes.pipeline import default_pipeline as pipeline_for
from ..passes.specialise import specialise
from ..runtime import cpu
from ..runtime.bundle import load
from ..runtime.cuda.bundle import CudaBundle, usable
from ..runtime.format import Container
from .oracle import Mismatch, Verdict, check_array

_LOOPS = CONTROL - {"fused"}
_NO_KERNEL = frozenset({"input", "constant", "return"}) | _LOOPS
_BATCH_BYTES = 1 << 30  # operands compiled and run together; more is split


@dataclass(frozen=True, slots=True)
class KernelVerdict:
    """One node's kernels on one instruction set.

    ``worst`` is the largest error as a share of its bound (inf for a wrong class, integer or shape), ``undecided`` the
    share of elements without a bound, ``runs`` how often the node was fed (loop bodies: first, second, last trip).
    """

    name: str
    origin: str
    variant: str
    worst: float
    undecided: float
    runs: int
    ok: bool
    detail: str = ""

    def __str__(self) -> str:
        state = "ok" if self.ok else f"WRONG: {self.detail}"
        return f"{self.name} [{self.variant}] {self.origin}: {self.worst:.3g} of its bound, {state}"


def available_variants(target: str = "cpu", numerics: str = "strict") -> list[str]:
    """The instruction sets of ``target`` under ``numerics`` that this machine runs; "cuda" where there is a GPU."""
    if machines.family_of(target) == "cuda":
        return ["cuda"] if usable() else []
    return [v for v in expand_target(target, numerics) if not cpu.missing(v)]


def check_kernels(
    graph: Graph, feeds: Mapping[str, Any], target: str = "cpu", pipeline: Pipeline | None = None
) -> list[KernelVerdict]:
    """A verdict for every kernel-making node of the optimised graph, for every variant that this machine runs.

    Each node is fed what a float32 run of the optimised graph feeds to it, and judged by the oracle with no error on
    entry. Lanes that only fill up a block of channels are fed as NaN and left out of the results of the kernels that
    make them, so that a kernel that lets them reach a real channel is found. In-place writing is not exercised: the
    operands are the caller's. Raises what ``compile`` raises.
    """
    final, _ = (pipeline or pipeline_for(machines.target_of(machines.family_of(target)))).run(graph)
    walk = _Walk(final)
    walk.run(feeds)
    shapes = {name: np.shape(array) for name, array in feeds.items()}
    env = bind_symbols([(v.name, v.type) for v in final.inputs], {v.name: shapes[v.name] for v in final.inputs})
    cutter = _Cutter(final, env)
    results: dict[tuple[Node, str], _Tally] = {}
    variants = available_variants(target, "fast" if any(n.attrs.get("bf16") for n in final.walk()) else "strict")
    for jobs in _batches(walk.jobs()):
        cut, cut_feeds = cutter.cut(jobs)
        native = {v: _run_native(cut, cut_feeds, v) for v in variants}
        for number, job in enumerate(jobs):
            one, one_feeds = cutter.cut([job])
            bounded = BoundedInterpreter(one).run_bounded(one_feeds)
            real = real_lanes(job.node)
            for variant, outputs in native.items():
                tally = results.setdefault((job.node, variant), _Tally())
                for k, v in enumerate(job.node.results):
                    tally.add(v, real, outputs[_output(number, k)], *bounded[_output(0, k)])
    return [tally.verdict(node, variant) for (node, variant), tally in results.items()]


@dataclass(slots=True)
class _Job:
    """One node and one set of values that a run fed to it."""

    node: Node
    operands: list[np.ndarray]
    bound: dict[str, int]  # symbols that the run had bound, of those the node mentions

    @property
    def bytes(self) -> int:
        return sum(a.nbytes for a in self.operands)


@dataclass(slots=True)
class _Tally:
    """What all runs of one node on one variant came to."""

    sum: Verdict = field(default_factory=Verdict)
    runs: int = 0
    detail: str = ""

    def add(self, v: Value, real: int | None, got: np.ndarray, value: np.ndarray, err: np.ndarray) -> None:
        self.runs += v.index == 0
        err = np.broadcast_to(err, value.shape)
        if real is not None and got.shape == value.shape:
            got, value, err = (from_lanes(a, real) for a in (got, value, err))
        name = f"result {v.index}"
        try:
            self.sum.add(check_array(name, v.dtype, np.asarray(got), value, err))
        except Mismatch as error:
            self.detail = self.detail or str(error)
            self.sum.add(Verdict(value.size, 0, _excess(np.asarray(got), value, err)))

    def verdict(self, node: Node, variant: str) -> KernelVerdict:
        s = self.sum
        return KernelVerdict(
            describe(node), str(node.origin), variant, s.worst, s.share, self.runs, not self.detail, self.detail
        )


def _excess(got: np.ndarray, value: np.ndarray, err: np.ndarray) -> float:
    """The largest error of a refused result as a share of its bound; inf where it is not a matter of size."""
    if got.shape != value.shape or value.dtype.kind != "f":
        return float("inf")
    with np.errstate(all="ignore"):
        g = got.astype(np.float64)
        decided = np.isfinite(err)
        same = (g == value) | (np.isnan(g) & np.isnan(value))
        ratio = np.where(same | ~decided, 0.0, np.abs(g - value) / err)
    return float(np.max(np.where(np.isnan(ratio), np.inf, ratio), initial=0.0))


def describe(node: Node) -> str:
    """The op's name; a fused node also says what it holds."""
    if node.op.name != "fused":
        return node.op.name
    inside = [n.op.name for n in node.regions[0].nodes if n.op.name not in _NO_KERNEL]
    return f"{node.attrs['kind']}({' '.join(dict.fromkeys(inside))})"


def makes_kernel(node: Node) -> bool:
    """The schedule gives ``node`` kernels: it is no view, and control flow only holds other nodes."""
    if node.op.name in _NO_KERNEL:
        return False
    return not _is_view(node)


def _is_view(node: Node) -> bool:
    return bool(node.op.views) and all(i in node.op.views for i in range(len(node.results)))


def real_lanes(node: Node) -> int | None:
    """Channels of a blocked result whose last block may be part filling; None where every element counts.

    Later ops keep lanes apart, so what they make of a filling NaN is as well defined as of any other.
    """
    for inner in node.regions[0].nodes if node.op.name == "fused" else (node,):
        if inner.op.name == "conv_blocked":
            return int(inner.operands[1].shape[-1])  # type: ignore[arg-type]
        if inner.op.name == "conv_transpose_blocked":
            return int(inner.operands[1].shape[-2]) * inner.attrs["groups"]  # type: ignore[arg-type]
        if inner.op.name == "to_blocked":
            return int(inner.operands[0].shape[-1])  # type: ignore[arg-type]
    return None


def from_lanes(a: np.ndarray, channels: int) -> np.ndarray:
    """The real channels of a blocked array, blocks and lanes merged on the last axis."""
    flat = np.moveaxis(a, 1, -2)
    return flat.reshape((*flat.shape[:-2], flat.shape[-2] * flat.shape[-1]))[..., :channels]


def _fill_lanes(a: np.ndarray, channels: int) -> np.ndarray:
    """``a`` with NaN in the lanes past ``channels``: the IR promises nothing about them."""
    over = a.shape[1] * a.shape[-1] - channels
    if not over or a.dtype.kind != "f":
        return a
    a = a.copy()
    a[:, -1, ..., a.shape[-1] - over :] = np.nan
    return a


class _Walk(Interpreter):
    """Notes what each kernel-making node is fed: on its first, second and last visit."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._visits: dict[Node, list[tuple[list[np.ndarray], dict[str, int]]]] = {}
        self._inside = 0
        self._run_time = set(defined(graph))

    def evaluate(self, node: Node, operands: Sequence[np.ndarray], ctx: EvalContext) -> list[np.ndarray]:
        if self._inside or not makes_kernel(node):
            return super().evaluate(node, operands, ctx)
        seen = self._visits.setdefault(node, [])
        if len(seen) == 3:
            seen.pop()
        found = mentioned(node).union(*(v.type.symbols for v in node.operands)) & self._run_time
        seen.append((list(operands), {s: ctx.env[s] for s in found}))
        # What a composite or a fused region does inside is one kernel.
        self._inside += 1
        try:
            out = super().evaluate(node, operands, ctx)
        finally:
            self._inside -= 1
        real = real_lanes(node)
        return out if real is None else [_fill_lanes(a, real) for a in out]

    def jobs(self) -> list[_Job]:
        """One per node and noted visit."""
        return [_Job(node, *visit) for node, seen in self._visits.items() for visit in seen]


def _batches(jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    batch: list[_Job] = []
    size = 0
    for job in jobs:
        if batch and size + job.bytes > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += job.bytes
    if batch:
        yield batch


def _output(job: int, result: int) -> str:
    return f"r{job}_{result}"


class _Cutter:
    """Copies nodes out of a graph: operands become inputs of the same symbolic type, constants stay constants."""

    def __init__(self, graph: Graph, env: Mapping[str, int]) -> None:
        self.graph, self.env = graph, env
        # Inputs of regions that are a constant outside: kernels are chosen for the constant.
        self.outer: dict[Value, Value] = {}
        for node in graph.walk():
            if node.op.name in _LOOPS:
                # Carried and scanned operands change from trip to trip; an ``if`` hands on all but its condition.
                first = node.attrs.get("n_carry", 0) + node.attrs.get("n_xs", 0)
                given = node.operands[1:] if node.op.name == "if" else node.operands
                for region in node.regions:
                    self.outer.update(zip(region.inputs[first:], given[first:], strict=True))

    def cut(self, jobs: Sequence[_Job]) -> tuple[Graph, dict[str, np.ndarray]]:
        """One graph that computes every job side by side, and its feeds. Results are named by job and index."""
        b = Builder()
        feeds: dict[str, np.ndarray] = {}
        for s in self.graph.symbols:
            # Every symbol gets a value of its own, whatever the operands' types say about it.
            feeds[f"extent_{s}"] = np.zeros(self.env[s], np.bool_)
            b.input(f"extent_{s}", "bool", (s,))
        known: dict[tuple[Value, int], Value] = {}
        outputs: dict[str, Value] = {}
        for number, job in enumerate(jobs):
            operands = []
            for v, array in zip(job.node.operands, job.operands, strict=True):
                made = self._constant(b, v)
                if made is None:
                    key = (v, id(array))
                    if key not in known:
                        name = f"v{len(known)}"
                        known[key] = b.input(name, v.dtype, v.type.substitute(job.bound).shape)
                        feeds[name] = np.asarray(array, order="C")
                    made = known[key]
                operands.append(made)
            regions = [specialise(r, job.bound) for r in job.node.regions]
            attrs = {k: substitute_attr(v, job.bound) for k, v in job.node.attrs.items()}
            for k, v in enumerate(b.apply(job.node.op, operands, attrs, regions)):
                outputs[_output(number, k)] = v
        graph = b.build(outputs)
        graph.bounds.update(self.graph.bounds)
        return graph, feeds

    def _constant(self, b: Builder, v: Value) -> Value | None:
        """``v`` in the new graph where the schedule sees a constant: one itself, or a view of one."""
        while v in self.outer:
            v = self.outer[v]
        if v.const is not None:
            return b.constant(v.const)
        node = v.producer
        if not _is_view(node):
            return None
        operands = [self._constant(b, x) for x in node.operands]
        return None if None in operands else b.apply(node.op, operands, node.attrs)[v.index]


def _run_native(graph: Graph, feeds: Mapping[str, np.ndarray], variant: str) -> dict[str, np.ndarray]:
    """Outputs of ``graph`` compiled as it stands for one variant."""
    family, store = machines.family_of(variant), ConstantStore()
    program = schedule(graph, machines.target_of(family))
    program.verify()
    images = machines.images(family, program, [variant], store)
    inputs = [Port(v.name, v.dtype, [d if isinstance(d, int) else str(d) for d in v.shape]) for v in graph.inputs]
    outputs = [
        Port(name, v.dtype, [d if isinstance(d, int) else str(d) for d in v.shape])
        for name, v in zip(graph.output_names, graph.outputs, strict=True)
    ]
    data = write_bundle(
        signature=Signature(inputs, outputs),
        symbols=[Symbol(s, *graph.bounds.get(s, (0, None))) for s in graph.symbols],
        batch=None,
        graph_text="",
        weights=store.weights,
        targets=images,
    )
    bundle = CudaBundle(Container.open(data)) if family == "cuda" else load(data, threads=1)
    return bundle.run(feeds)


__all__ = ["KernelVerdict", "available_variants", "check_kernels", "describe", "makes_kernel"]
