"""``fw.check``: can this model be compiled, and does it compute what it should?

Owns the table of problems and the search for the first value that leaves its bound. Must not compile anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Unpack

import numpy as np

from .backends.numba_cpu.bundle import cpu_target
from .core.dims import evaluate, symbols
from .core.errors import FusewrightError, ImportRefused, InputRefused, TypeRefused
from .frontends.source import ModelOptions, graph_of
from .ir.graph import Graph, Node, Value
from .ir.interpreter import Interpreter
from .ir.scope import definitions
from .passes.pipeline import default_pipeline
from .passes.specialise import bind_dims
from .reference import Reference, reference

RTOL, ATOL = 1e-4, 1e-5  # of the largest stored value: the conformance rule


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that keeps the model from compiling, and everywhere it occurs."""

    code: str
    what: str
    count: int
    where: tuple[str, ...]
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first value that differs from the stored one: largest error, and what was allowed there."""

    where: str
    name: str
    error: float
    allowed: float

    def __str__(self) -> str:
        return f"{self.where or self.name}: largest error {self.error:.3g}, allowed {self.allowed:.3g}"


@dataclass(slots=True)
class Check:
    """``ok``: compiles, and agrees with the values if any were given.

    ``flops_share``: of the model's arithmetic at batch 1, the share that has kernels; None if it could not be imported.
    ``compared``: how many values of the model were held against known ones, up to the first divergence; ``worst``: the
    largest error among those that agree, as a share of what is allowed.
    """

    rows: list[Row] = field(default_factory=list)
    first_divergence: Divergence | None = None
    compared: int = 0
    flops_share: float | None = 1.0
    worst: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.rows and self.first_divergence is None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        divergence = asdict(self.first_divergence) if self.first_divergence else None
        if divergence is not None and not np.isfinite(divergence["error"]):
            divergence["error"] = None  # JSON has no infinity; the name says what differs
        return {
            "ok": self.ok,
            "rows": [asdict(r) | {"where": list(r.where)} for r in self.rows],
            "first_divergence": divergence,
            "compared": self.compared,
            "flops_share": self.flops_share,
            "worst": self.worst,
        }


def check(
    source: Any,
    against: Any = None,
    feeds: Mapping[str, Any] | None = None,
    *,
    bind: Mapping[str, Any] | None = None,
    dims: Mapping[str, int | tuple[int, int | None]] | None = None,
    **options: Unpack[ModelOptions],
) -> Check:
    """List everything in ``source`` that cannot be compiled, all at once; optionally compare values.

    ``against`` is an ``.npz`` path or {name: array} with the model's inputs and any inner values or outputs (by value
    name or layer; ``x0, x1...`` and ``y0, y1...`` are inputs and outputs by position); a live Keras model, tf.function
    or other callable; or "onnxruntime" for an ONNX source. Live ones are run on ``feeds``, or on small random numbers,
    and where they can be asked, every inner value is compared. ``bind`` are the ``feeds`` of ``import_model``, which
    bind inputs at import; ``options`` its others: inputs, outputs, signature, weights, shapes, base_dir, limits.
    ``dims`` fixes or bounds symbols, as for ``fw.compile``.
    Raises InputRefused when ``against`` cannot be used, CompileRefused when ``dims`` cannot.
    """
    try:
        graph = graph_of(source, {**options, "feeds": bind})
    except ImportRefused as refusal:
        return Check(_gather([(p.code, p.reason, p.where, p.hint) for p in refusal.problems]), flops_share=None)
    graph = bind_dims(graph, dims)
    problems, share = _uncompilable(graph)
    found = Check(_gather(problems), flops_share=share)
    if against is not None:
        _compare(graph, reference(graph, source, against, feeds), found)
    return found


def _gather(problems: list[tuple[str, str, str, str]]) -> list[Row]:
    """Problems that differ only in place become one row."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for code, what, where, hint in problems:
        rows.setdefault((code, what, hint), []).append(where)
    return [Row(code, what, len(where), tuple(where), hint) for (code, what, hint), where in rows.items()]


def _uncompilable(graph: Graph) -> tuple[list[tuple[str, str, str, str]], float | None]:
    """(code, what, where, hint) of every node without a kernel, and the share of the arithmetic that has one."""
    target = cpu_target()
    try:
        final, _ = default_pipeline(target).run(graph)
    except TypeRefused as error:
        return [("passes", str(error), "", "")], None
    out = [_no_bound(node) for node in definitions(final) if node.attrs["high"] is None]
    total = covered = 0
    for node in _running(final):
        flops = _flops(node)
        total += flops
        if target.supports(node):
            covered += flops
        else:
            hint = f"write it with other ops, or give it a kernel: @fw.register_kernel({node.op.name!r})"
            out.append(("no-kernel", f"no CPU kernel for {node.op.name}", str(node.origin), hint))
    return out, covered / total if total else float(not out)


def _no_bound(node: Node) -> tuple[str, str, str, str]:
    """Memory is laid out before a run, so what is found out during it needs a greatest value."""
    name = node.attrs["symbol"]
    hint = f"give one with dims={{{name!r}: (0, 1000)}}, on the command line --dim {name}=0:1000"
    return "no-bound", f"the extent {name} depends on values and has no upper bound", str(node.origin), hint


def _flops(node: Node) -> int:
    """Arithmetic of one run of a node with every symbol 1; at least 1, so that moving counts."""
    if node.op.cost is None:
        return 1
    flops = node.op.cost(node).flops
    return max(1, evaluate(flops, dict.fromkeys(symbols(flops), 1)))


def _running(graph: Graph) -> Iterator[Node]:
    """The nodes that need a kernel; a fused region is one of them, not what is inside."""
    for node in graph.nodes:
        if node.op.name in ("if", "while", "scan"):
            for region in node.regions:
                yield from _running(region)
        elif node.op.name not in ("input", "constant", "return") and not node.op.views:
            yield node


def _compare(graph: Graph, known: Reference, found: Check) -> None:
    values = known.values
    feeds = _match_inputs(graph, values)
    stored = _stored_names(graph, values)
    unknown = [k for k in values if k not in feeds and k not in stored.values() and not _is_input(graph, k)]
    if not stored or unknown and known.exact_names:
        raise InputRefused(
            f"no value of the model is called {', '.join(map(repr, sorted(unknown))) or 'anything given'}; "
            f"outputs are {', '.join(graph.output_names)}, inner values go by layer name"
        )

    def watch(node: Node, results: list[np.ndarray]) -> None:
        if node.graph is not graph:
            return
        for v, got in zip(node.results, results, strict=True):
            if v in stored and found.first_divergence is None:
                found.compared += 1
                found.first_divergence, share = _differs(node, stored[v], got, values[stored[v]])
                found.worst = max(found.worst, share)

    try:
        Interpreter(graph, watch=watch).run(feeds)
    except FusewrightError as error:
        raise InputRefused(f"the model does not run on these values: {error}") from error


def _stored_names(graph: Graph, values: Mapping[str, np.ndarray]) -> dict[Value, str]:
    """The graph's values that have a stored one: outputs by name or position, others by name, or as a layer's last."""
    names: dict[Value, str] = {}
    for i, (v, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        key = next((k for k in (name, f"y{i}") if k in values), None)
        if key is not None:
            names[v] = key
    last: dict[str, Value] = {}
    for node in graph.nodes:
        for v in node.results:
            if v.name in values and v.name not in names.values() and v not in graph.inputs:
                names[v] = v.name
            if node.op.name != "constant":
                last[node.origin.layer] = v
    for layer, v in last.items():
        if layer in values and layer not in names.values():
            names.setdefault(v, layer)
    return names


def _is_input(graph: Graph, name: str) -> bool:
    return any(name in (v.name, f"x{i}") for i, v in enumerate(graph.inputs))


def _match_inputs(graph: Graph, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By name, or ``x0, x1...`` by position."""
    feeds = {}
    for i, v in enumerate(graph.inputs):
        name = next((n for n in (v.name, f"x{i}") if n in values), None)
        if name is None:
            raise InputRefused(f"there is no value for input {v.name!r}; given are {', '.join(sorted(values))}")
        feeds[v.name] = values[name]
    return feeds


def _differs(node: Node, name: str, got: np.ndarray, want: np.ndarray) -> tuple[Divergence | None, float]:
    """How two values differ, and the largest error as a share of what is allowed where they do not."""
    if got.shape != want.shape:
        return Divergence(str(node.origin), f"{name} has shape {got.shape}, known is {want.shape}", np.inf, 0.0), 0.0
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(np.isnan(a), np.isnan(b)) or not np.array_equal(
        a[~finite & ~np.isnan(b)], b[~finite & ~np.isnan(b)]
    ):
        return Divergence(str(node.origin), f"{name} differs in NaN or infinity", np.inf, 0.0), 0.0
    scale = float(np.max(np.abs(b[finite]), initial=0.0))
    allowed = (ATOL * scale + RTOL * np.abs(b))[finite]
    error = np.abs(a - np.where(finite, b, 0))[finite]
    if np.any(error > allowed):
        largest = (float(np.max(x, initial=0.0)) for x in (error, allowed))
        return Divergence(str(node.origin), name, *largest), 0.0
    return None, float(np.max(error[allowed > 0] / allowed[allowed > 0], initial=0.0))
