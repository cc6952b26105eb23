"""``fw.compile`` and its neighbours: from a model to a bundle, in one visible line of stages.

Owns the order import -> passes -> schedule -> lower -> native code -> bundle. Each stage lives in its own package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack, cast

from . import __version__, lazy
from .backends import targets as machines
from .backends.numba_cpu.choices import Choices
from .backends.numba_cpu.lower import ConstantStore
from .core.dims import Extent
from .core.errors import CompileRefused
from .core.manifest import Port, Signature, Symbol
from .core.planner import Lifetimes, plan_offsets
from .core.report import Report
from .core.slices import LEAST, in_cache
from .frontends.source import ImportOptions, graph_of
from .ir.footprint import footprint
from .ir.graph import Graph, Value
from .ir.program import Program
from .passes.batch import batch_symbol
from .passes.memory.arrange import arrange
from .passes.pipeline import Pipeline
from .passes.pipeline import default_pipeline as pipeline_for
from .passes.specialise import bind_dims
from .portable import portable_text
from .runtime.built import Built
from .runtime.bundle import Bundle
from .runtime.bundle import load as load_bundle
from .runtime.cuda.bundle import CudaBundle, usable
from .runtime.format import Container

Progress = Callable[[str, int, int], None]
NUMERICS = ("strict", "fast")


def compile(
    source: Any,
    target: str | Sequence[str] = "cpu",
    dims: Mapping[str, int | tuple[int, int | None]] | None = None,
    threads: int | None = None,
    numerics: str = "strict",
    pipeline: Pipeline | None = None,
    progress: Progress | None = None,
    tune: bool = False,
    choices: str | os.PathLike[str] | None = None,
    **options: Unpack[ImportOptions],
) -> Bundle:
    """Compile a model (a path, a live Keras model, or a Graph) to a bundle, ready to call and to ``save``.

    ``target``: "cpu" (AVX2 and AVX-512 in one bundle), a variant's name, "cuda" (NVIDIA GPUs from compute capability
    8.0 on; needs no GPU to compile), or a list of these. ``dims`` fixes a symbol
    (``{"N": 8}``) or bounds it (``{"N": (1, 512)}``); left out it stays free. ``threads`` is the default stored in the
    bundle. ``numerics``: "strict", or "fast", which admits approximations: larger Winograd tiles, and operands rounded
    to bfloat16 on CPUs with AVX512-BF16 (sums stay float32; "cpu" then has code for these as well).
    ``progress(phase, done, total)`` is called as work goes on. ``tune`` times the kernels that contractions could have,
    here, for the best CPU variant of the targets that this machine runs; the manifest lists what was chosen by it.
    ``choices`` is a file of such choices: those in it are taken as they are, and with ``tune`` new ones are added to
    it. ``options`` are those of ``fw.import_model``: inputs, outputs, signature, feeds, weights, shapes, base_dir,
    limits.

    Raises ImportRefused, CompileRefused, TypeRefused.
    """
    note = progress or (lambda phase, done, total: None)
    targets = machines.families(_targets(target))
    if numerics not in NUMERICS:
        raise CompileRefused(f"numerics={numerics!r} is not one of {', '.join(NUMERICS)}")
    if pipeline is not None and not isinstance(pipeline, Pipeline):
        raise CompileRefused(f"pipeline is what fw.default_pipeline() gives, not {type(pipeline).__name__}")
    if (tune or choices is not None) and "cpu" not in targets:
        raise CompileRefused(
            "kernels of CPUs are chosen by timing, and the target is not one: leave out tune and choices"
        )
    if threads is not None and (type(threads) is not int or threads < 1):
        raise CompileRefused(f"threads={threads!r} is a positive int or None")
    note("import", 0, 1)
    free = graph_of(source, options)
    note("import", 1, 1)
    graph = shown = bind_dims(free, dims)
    made: list[_Made] = []
    store, images = ConstantStore(), []
    table = machines.choices_of(choices, new=tune)
    tuned: list[dict[str, Any]] = []
    for family, wanted in targets.items():
        one = _scheduled(graph, family, pipeline, numerics, note, made[0].portable if made else None, table)
        if list(targets) == ["cpu"] and (sliced := _for_slices(free, dims, one.program)) is not None:
            graph = sliced
            one = _scheduled(graph, family, pipeline, numerics, note, None, table)
        if tune and family == "cpu":
            timed = lambda done, total: note("tune", done, total)
            found, tuned = machines.tune(one.program, wanted, numerics, threads or _cpus(), table, timed)
            table = found.over(table)
            if choices is not None:
                found.over(machines.choices_in(choices, new=True)).save(choices)
            one = _scheduled(graph, family, pipeline, numerics, note, made[0].portable if made else None, table)
        made.append(one)
        progressed = lambda done, total: note("kernels", done, total)
        images += machines.images(family, one.program, wanted, store, progressed, numerics, table)
    portable, program, names = made[0].portable, made[0].program, made[0].passes
    text = portable_text(portable, store)
    note("bundle", 0, 1)
    backend: Any = lazy("backends.writer")
    data = backend.write_bundle(
        signature=Signature(_ports(shown.inputs), _ports(shown.outputs, shown.output_names)),
        symbols=_symbols(graph),
        batch=batch_symbol(graph),
        graph_text=text,
        weights=store.weights,
        targets=images,
        in_place=program.placement_rows(),
        numerics=numerics,
        source_hash=shown.fingerprint,
        passes=names,
        threads=threads,
        tuned=tune,
        choices=tuned,
        report={"lower_bound_bytes": [str(e) for e in footprint(portable)]},
        producer=f"fusewright {__version__}",
    )
    note("bundle", 1, 1)
    if "cpu" in targets:
        return load_bundle(data, threads=threads)
    container = Container.open(data)
    # They have the same face; what one for GPUs lacks where there is none is the machine.
    return cast(Bundle, CudaBundle(container, threads) if usable() else Built(container))


def plan(
    source: Any,
    target: str = "cpu",
    dims: Mapping[str, int | tuple[int, int | None]] | None = None,
    **options: Unpack[ImportOptions],
) -> PlannedProgram:
    """Passes and memory plan without code generation; ``options`` and refusals as for ``compile``."""
    name = _targets(target)[0]
    free, quiet = graph_of(source, options), lambda phase, done, total: None
    graph, family = bind_dims(free, dims), machines.family_of(name)
    made = _scheduled(graph, family, None, "strict", quiet)
    if family == "cpu" and (sliced := _for_slices(free, dims, made.program)) is not None:
        graph = sliced
        made = _scheduled(graph, family, None, "strict", quiet)
    return PlannedProgram(made.program, name, footprint(made.portable), batch_symbol(graph))


def default_pipeline(target: str = "cpu") -> Pipeline:
    """The passes that ``compile`` runs, as an editable Pipeline."""
    return pipeline_for(machines.target_of(machines.family_of(_targets(target)[0])))


class PlannedProgram:
    """A Program with its report. ``str`` prints steps and places."""

    def __init__(
        self, program: Program, variant: str, reference: Sequence[Extent], batch: str | None = None
    ) -> None:  # fmt: skip
        self.program = program
        self.variant = variant
        self.batch = batch
        self.reference = [str(e) for e in reference]

    def report(self, dims: Mapping[str, int] | None = None, threads: int | None = None) -> Report:
        """Numbers at one binding, as ``Bundle.report``."""
        bound, lanes = dict(dims or {}), threads or _cpus()
        return machines.report_of(self.variant, self.program, bound, lanes, self.reference, self.batch)

    def __str__(self) -> str:
        return str(self.program)


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def _targets(target: str | Sequence[str]) -> list[str]:
    names = [target] if isinstance(target, str) or not isinstance(target, Sequence) else list(target)
    if not names:
        raise CompileRefused(f"target {target!r} names none")
    for name in names:
        machines.family_of(name)
    return names


@dataclass(frozen=True, slots=True)
class _Made:
    """A model for one family of targets; ``passes`` names those that ran."""

    portable: Graph
    program: Program
    passes: tuple[str, ...]


def _scheduled(
    graph: Graph, family: str, pipeline: Pipeline | None, numerics: str, note: Progress, known: Graph | None = None,
    choices: Choices | None = None,
) -> _Made:  # fmt: skip
    """``known`` is the portable graph where another family has it already: constants are then the same objects."""
    description = machines.target_of(family, choices)
    if pipeline is not None and pipeline.target is not None and pipeline.target.name != description.name:
        raise CompileRefused(f"this pipeline is for target {pipeline.target.name!r}, not {description.name!r}")
    passes = (pipeline or pipeline_for(description)).with_numerics(numerics)
    if known is not None and passes.portable_cut is not None:
        portable, names = known, passes.admitted
        final, _ = passes.run(known, start_after=passes.portable_cut)
    else:
        portable, final, names = _optimise(graph, passes, note)
    program = arrange(final, description)
    program.verify()
    note("schedule", 1, 1)
    return _Made(portable, program, names)


def _for_slices(free: Graph, dims: Mapping[str, Any] | None, fixed: Program) -> Graph | None:
    """The graph with a batch of the size that ``dims`` fixes as a symbol of one value, so that it can run in slices;
    None where the program of the ``fixed`` graph stays in the cache as it is, or rows cannot be told apart."""
    sizes = [b.bytes for b in fixed.buffers if isinstance(b.bytes, int)]
    if dims is None or len(sizes) < len(fixed.buffers):
        return None
    arena = plan_offsets(sizes, Lifetimes([b.first for b in fixed.buffers], [b.last for b in fixed.buffers]))[1]
    batch = None if in_cache(arena) else batch_symbol(free)
    rows = dims.get(batch) if batch is not None else None
    if rows is None or isinstance(rows, tuple) or rows < 2 * LEAST:
        return None
    return bind_dims(free, {**dims, str(batch): (rows, rows)})


def _optimise(graph: Graph, pipeline: Pipeline, note: Progress) -> tuple[Graph, Graph, tuple[str, ...]]:
    """(portable graph, graph for the backend, names of the passes that ran)."""
    kept: list[Graph] = []
    names = pipeline.admitted
    done: list[str] = []

    def trace(name: str, after: Graph) -> None:
        done.append(name)
        note("passes", len(done), len(names))
        if name == pipeline.portable_cut:
            kept.append(after.clone())

    final, _ = pipeline.run(graph, trace=trace)
    return (kept[-1] if kept else graph), final, tuple(names)


def _ports(values: Sequence[Value], names: Sequence[str] | None = None) -> list[Port]:
    names = names or [v.name for v in values]
    return [
        Port(name, v.dtype, [d if isinstance(d, int) else str(d) for d in v.shape])
        for name, v in zip(names, values, strict=True)
    ]


def _symbols(graph: Graph) -> list[Symbol]:
    return [Symbol(name, *graph.bounds.get(name, (0, None))) for name in graph.symbols]
