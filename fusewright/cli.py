"""The ``fusewright`` command: compile, run, inspect, check, bench.

Owns arguments, printing and exit codes (0 done, 1 refused, 2 wrong usage). Does no work of its own: every command
is a few calls of the public API.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import fusewright as fw

from .arguments import UsageError, load_array, read_dims, read_feeds, read_names, read_shapes
from .core.dims import evaluate, extent, symbols
from .core.dtypes import dtype
from .core.errors import FusewrightError, InputRefused, SaveRefused
from .core.manifest import RunSymbol, Symbol, parse_canonical
from .core.plan import Plan
from .core.report import Report, read_fields
from .ir.scope import definitions
from .progress import on_terminal
from .runtime.format import MANIFEST, Container
from .show import (
    DONE,
    REFUSED,
    bytes_text,
    port_row,
    print_failure,
    print_json,
    print_refusal,
    print_report,
    print_signature,
    print_symbols,
    print_table,
    signature_rows,
    symbol_rows,
)

BUG = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (``sys.argv[1:]`` by default) and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        command: Callable[[argparse.Namespace], int] = args.command
        code = command(args)
        sys.stdout.flush()
        return code
    except UsageError as error:
        _exit_usage(args.parser, str(error))
    except FusewrightError as error:
        return print_refusal(error, args.json)
    except BrokenPipeError:
        # The reader (head, less) has gone; a second failure while Python flushes at exit must stay silent too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return print_failure("file", f"{error.strerror or error}{where}", args.json)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        print(
            "This is a bug in Fusewright: please report it with the lines above and the model's kind.", file=sys.stderr
        )
        return BUG


# ---------------------------------------------------------------------------------------------- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fusewright",
        description="Compile trained Keras and TensorFlow models into native kernel bundles that run with NumPy alone.",
        epilog="Exit codes: 0 done, 1 the model, bundle or input was refused, 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"fusewright {fw.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        sub.set_defaults(command=command, parser=sub)
        return sub

    def model_options(sub: argparse.ArgumentParser) -> None:
        group = sub.add_argument_group("the model (options of fw.import_model)")
        group.add_argument("--signature", metavar="NAME", help="signature of a SavedModel (default: serving_default)")
        group.add_argument("--inputs", metavar="A,B", help="names of the inputs, in order; TensorFlow: any tensors")
        group.add_argument("--outputs", metavar="C,D", help="names of the outputs, in order; inner values too")
        group.add_argument(
            "--shape",
            action="append",
            default=[],
            metavar="NAME=N,224,224,3",
            help="state or fix the shape of an input: extents, names of symbols, or ? for a free axis",
        )
        group.add_argument(
            "--feed",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="bind an input at import; VALUE is a JSON value or a .npy file",
        )
        group.add_argument("--weights", metavar="FILE", help="weights for a .json architecture")
        group.add_argument(
            "--base-dir", metavar="FOLDER", help="folder of an ONNX file's external data, if not its own"
        )

    sub = add("compile", _compile, "Compile a model file into a kernel bundle.")
    sub.add_argument("source", metavar="SRC", help=".keras, .h5, .hdf5, .json with --weights, or another model file")
    sub.add_argument("-o", "--output", required=True, metavar="OUT.fwb", help="the bundle to write")
    sub.add_argument(
        "--target",
        action="append",
        metavar="NAME",
        help="cpu (default: every variant), or a variant such as cpu-avx2; may be repeated",
    )
    sub.add_argument(
        "--dim",
        action="append",
        default=[],
        metavar="N=1",
        help="fix a symbolic extent (N=8) or bound it (N=1:512); left out it stays free",
    )
    sub.add_argument("--threads", type=_count, metavar="T", help="default number of threads of the bundle")
    sub.add_argument(
        "--numerics",
        choices=("strict", "fast"),
        default="strict",
        help="fast admits approximate kernels (default: strict)",
    )
    sub.add_argument("--tune", action="store_true", help="time kernel variants on this machine and keep the fastest")
    sub.add_argument(
        "--choices",
        metavar="FILE",
        help="take the choices in this file as they are; with --tune, add what is measured to it",
    )
    model_options(sub)

    sub = add("run", _run, "Run a bundle on arrays from .npy or .npz files.")
    sub.add_argument("bundle", metavar="BUNDLE")
    sub.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]X.npy",
        help="one input; without NAME in the order of the signature; an .npz holds inputs by name",
    )
    sub.add_argument("-o", "--output", metavar="OUT.npz", help="where to write the outputs (.npy for a single one)")
    sub.add_argument("--threads", type=_count, metavar="T")
    sub.add_argument("--interpret", action="store_true", help="interpret the portable graph instead of native code")

    sub = add("inspect", _inspect, "Describe a model file or a bundle.")
    sub.add_argument("source", metavar="SRC|BUNDLE")
    sub.add_argument("--graph", action="store_true", help="print the graph as text; long constants only with --json")
    sub.add_argument("--after", metavar="PASS", help="the graph as it is after this pass of the default pipeline")
    sub.add_argument("--explain", action="store_true", help="what each pass did, and why it left the rest alone")
    sub.add_argument(
        "--journal",
        nargs="?",
        const="",
        metavar="TEXT",
        help="every rewrite, or those that mention a layer, op or rule",
    )
    sub.add_argument("--dim", action="append", default=[], metavar="N=8", help="of a bundle: report at this extent")
    model_options(sub)

    sub = add("check", _check, "List everything in a model that cannot be compiled, all at once.")
    sub.add_argument("source", metavar="SRC")
    sub.add_argument(
        "--against",
        metavar="VALUES.npz",
        help="compare with known values of inputs, inner values or outputs; or with 'onnxruntime', for an ONNX model",
    )
    sub.add_argument(
        "--dim",
        action="append",
        default=[],
        metavar="N=1",
        help="fix (N=8) or bound (N=1:512) a symbol, as for compile",
    )
    model_options(sub)

    sub = add("bench", _bench, "Time a bundle on random inputs: best, median and 99th percentile.")
    sub.add_argument("bundle", metavar="BUNDLE")
    sub.add_argument("--dim", action="append", default=[], metavar="N=8", help="extent of a free symbol (default 1)")
    sub.add_argument("--threads", type=_count, metavar="T")
    sub.add_argument("--seconds", type=float, default=2.0, help="how long to measure each kind of call (default 2)")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _exit_usage(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    parser.error(message)


def _import_options(args: argparse.Namespace) -> dict[str, Any]:
    """Only what was given."""
    given = {
        "inputs": read_names(args.inputs),
        "outputs": read_names(args.outputs),
        "feeds": read_feeds(args.feed) or None,
        "weights": args.weights,
        "signature": args.signature,
        "shapes": read_shapes(args.shape) or None,
        "base_dir": args.base_dir,
    }
    return {key: value for key, value in given.items() if value is not None}


# ---------------------------------------------------------------------------------------------- commands


def _compile(args: argparse.Namespace) -> int:
    dims, options = read_dims(args.dim), _import_options(args)
    target: Any = "cpu" if not args.target else args.target[0] if len(args.target) == 1 else args.target
    folder = Path(args.output).resolve().parent
    if not folder.is_dir():  # said now, not after the compile
        raise SaveRefused(f"{args.output}: there is no folder {folder}")
    if Path(args.output).is_dir():
        raise SaveRefused(
            f"{args.output}: is a folder; name the .fwb file to write, for example {args.output}/model.fwb"
        )
    start = time.perf_counter()
    with on_terminal(args.json) as progress:
        bundle = fw.compile(
            args.source,
            target=target,
            dims=dims or None,
            threads=args.threads,
            numerics=args.numerics,
            progress=progress,
            tune=args.tune,
            choices=args.choices,
            **options,
        )
        bundle.save(args.output)
    seconds = time.perf_counter() - start
    size = Path(args.output).stat().st_size
    report = bundle.report().to_dict()
    extents = symbol_rows(bundle.manifest.symbols, bundle.manifest.run_symbols)
    if args.json:
        return print_json(
            {
                "bundle": args.output,
                "bytes": size,
                "seconds": round(seconds, 3),
                "signature": signature_rows(bundle.signature),
                **extents,
                "report": report,
            }
        )
    print(f"{args.output}: {bytes_text(size)} in {seconds:.1f} s")
    print_signature(signature_rows(bundle.signature))
    print_symbols(extents, bundle.manifest.batch)
    print_report(report)
    return DONE


def _run(args: argparse.Namespace) -> int:
    bundle = fw.load(args.bundle, threads=args.threads, native=not args.interpret)
    feeds = _bind_inputs(args.input, [value.name for value in bundle.signature.inputs])
    outputs: Mapping[str, np.ndarray] = bundle.run(feeds)
    if args.output:
        if args.output.endswith(".npy"):
            if len(outputs) != 1:
                raise UsageError(f"the bundle has {len(outputs)} outputs: write them to an .npz")
            np.save(args.output, next(iter(outputs.values())), allow_pickle=False)
        else:
            with open(args.output, "wb") as file:
                arrays: dict[str, Any] = dict(outputs)
                np.savez(file, **arrays)
    rows = [
        {"name": name, "dtype": str(value.dtype), "shape": list(value.shape), **_range(value)}
        for name, value in outputs.items()
    ]
    if args.json:
        return print_json({"output": args.output, "outputs": rows})
    for row in rows:
        numbers = "".join(f"  {key} {row[key]:.6g}" for key in ("min", "max", "mean", "non_finite") if key in row)
        print(f"{row['name']}  {row['dtype']}{row['shape']}{numbers}")
    return DONE


def _bind_inputs(items: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    feeds: dict[str, Any] = {}
    unnamed = []
    for item in items:
        name, equals, path = item.partition("=")
        if not equals:
            name, path = "", item
        loaded = load_array(path)
        if isinstance(loaded, np.ndarray):
            if name:
                feeds[name] = loaded
            else:
                unnamed.append(loaded)
        else:
            feeds.update({key: loaded[key] for key in loaded.files})
    free = [name for name in names if name not in feeds]
    if len(unnamed) > len(free):
        raise InputRefused(f"{len(unnamed)} unnamed inputs for {len(free)} places; the inputs are {', '.join(names)}")
    feeds.update(zip(free, unnamed))
    return feeds


def _range(value: np.ndarray) -> dict[str, float]:
    if not value.size or value.dtype.kind not in "fiub":
        return {}
    wide = value.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    if not finite.size:
        return {"non_finite": float(wide.size)}
    spread = {"min": float(finite.min()), "max": float(finite.max()), "mean": float(finite.mean())}
    return {**spread, "non_finite": float(wide.size - finite.size)} if finite.size < wide.size else spread


def _inspect(args: argparse.Namespace) -> int:
    if _is_bundle(args.source):
        if args.after or args.explain or args.journal is not None:
            raise UsageError(
                "--after, --explain and --journal ask what passes do to a model; a bundle is compiled already"
            )
        return _inspect_bundle(args)
    if args.dim:
        raise UsageError("--dim asks what a bundle needs at these extents; a model is not compiled yet")
    graph = fw.import_model(args.source, **_import_options(args))
    if args.after or args.explain or args.journal is not None:
        graph, told = _after_passes(graph, args)
        if told:
            sys.stdout.write(told)
            return DONE
    ops = Counter(node.op.name for node in graph.nodes)
    signature = {
        "inputs": [port_row(value.name, value) for value in graph.inputs],
        "outputs": [port_row(name, value) for name, value in zip(graph.output_names, graph.outputs)],
    }
    extents = symbol_rows(
        [Symbol(s, *graph.bounds.get(s, (0, None))) for s in graph.symbols],
        [RunSymbol(n.attrs["symbol"], n.attrs["low"], _text(n.attrs["high"])) for n in definitions(graph)],
    )
    constants = sum(v.const.array.nbytes for node in graph.nodes for v in node.results if v.const is not None)
    if args.json:
        return print_json(
            {
                "kind": "graph",
                "signature": signature,
                **extents,
                "nodes": len(graph.nodes),
                "ops": dict(ops.most_common()),
                "constant_bytes": constants,
                "fingerprint": graph.fingerprint,
                **({"graph": str(graph)} if args.graph else {}),
            }
        )
    if args.graph:
        sys.stdout.write(graph.brief())
        return DONE
    print(f"{args.source}: {len(graph.nodes)} nodes, {bytes_text(constants)} of constants")
    print_signature(signature)
    print_symbols(extents)
    print_table([{"op": op, "count": count} for op, count in ops.most_common()])
    return DONE


def _text(high: Any) -> Any:
    return high if high is None or isinstance(high, int) else str(high)


def _after_passes(graph: fw.Graph, args: argparse.Namespace) -> tuple[fw.Graph, str]:
    """The graph after ``--after`` (or all passes), and what ``--explain`` and ``--journal`` print about them."""
    journal = fw.Journal()
    graph, stats = fw.default_pipeline().run(graph, stop_after=args.after, journal=journal)
    lines = [stats.explain()] if args.explain else []
    if args.journal is not None:
        lines.append(str(journal.about(args.journal)) or f"no rewrite mentions {args.journal!r}")
    return graph, "".join(line + "\n" for line in lines if line)


def _is_bundle(path: str) -> bool:
    """A bundle by name, or by its first member; the reader then judges everything else."""
    if path.endswith(".fwb"):
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(30 + len(MANIFEST))
    except OSError:
        return False  # a folder, or nothing: the importer names the fault
    return head.startswith(b"PK\3\4") and head[30:] == MANIFEST.encode()


def _no_symbol(name: str, known: Iterable[str]) -> InputRefused:
    have = ", ".join(known)
    state = f"the bundle's symbols are {have}" if have else "all sizes of the bundle are fixed: leave it out"
    return InputRefused(f"--dim {name}: {state}")


def _inspect_bundle(args: argparse.Namespace) -> int:
    """Manifest and plans only: nothing is mapped executable, so any machine can look at any bundle."""
    container = Container.open(args.source)
    manifest = container.manifest
    at = {symbol.name: max(1, symbol.low) for symbol in manifest.symbols}
    for name, value in _fixed_dims(args, "inspect").items():
        symbol = next((s for s in manifest.symbols if s.name == name), None)
        if symbol is None:
            raise _no_symbol(name, at)
        if value < symbol.low or symbol.high is not None and value > symbol.high:
            raise InputRefused(f"--dim {name}={value} is outside of what the bundle takes, see its symbols")
        at[name] = value
    fields = parse_canonical(container.read("report.json"), "report.json")
    reuses, bounds = read_fields(fields, [s.name for s in manifest.symbols])
    reports = {}
    for target in manifest.targets:
        plan = Plan.from_bytes(container.read(f"native/{target.name}/plan.json"))
        reports[target.name] = Report.of_plan(
            plan, at, manifest.threads or 1, reuses, manifest.numerics, target.name, bounds, manifest.batch
        ).to_dict()
    sizes = {name: member["size"] for name, member in manifest.members.items()}
    signature = signature_rows(manifest.signature)
    extents = symbol_rows(manifest.symbols, manifest.run_symbols)
    if args.json:
        return print_json({
            "kind": "bundle", "producer": manifest.producer, "signature": signature,
            **extents, "batch": manifest.batch,
            "targets": {t.name: list(t.features) for t in manifest.targets}, "numerics": manifest.numerics,
            "tuned": manifest.tuned, "choices": list(manifest.choices), "threads": manifest.threads,
            "passes": list(manifest.passes),
            "source_hash": manifest.source_hash, "members": sizes, "reports": reports,
        })  # fmt: skip
    if args.graph:
        sys.stdout.write(container.read("graph.txt").decode())
        return DONE
    print(f"{args.source}: {bytes_text(os.path.getsize(args.source))}, made by {manifest.producer}")
    print_signature(signature)
    print_symbols(extents, manifest.batch)
    for target in manifest.targets:
        print(f"target {target.name} (needs {', '.join(target.features) or 'nothing special'})")
        print_report(reports[target.name])
        if reports[target.name]["kernels"] != reports[manifest.targets[0].name]["kernels"]:
            print_table(reports[target.name]["kernels"])
    if manifest.targets:
        print_table(reports[manifest.targets[0].name]["kernels"])
    print_table([{**c, "choice": json.dumps(c.get("choice"))} for c in manifest.choices])
    print_table([{"member": name, "bytes": size} for name, size in sizes.items()])
    return DONE


def _check(args: argparse.Namespace) -> int:
    options = _import_options(args)
    result = fw.check(
        args.source, against=args.against, bind=options.pop("feeds", None), dims=read_dims(args.dim) or None, **options
    )
    found = result.to_dict()
    if args.json:
        print_json(found)
    else:
        rows = [row if isinstance(row, Mapping) else {"problem": str(row)} for row in found.get("rows", [])]
        print_table(rows)
        if result.compared:
            print(f"{result.compared} values compared, the largest error {result.worst:.2g} of what is allowed")
        if result.first_divergence:
            print(f"first divergence: {result.first_divergence}")
        if result.ok:
            print("ok: everything in this model compiles" + (" and agrees" if result.compared else ""))
        else:
            print(f"not ok: {len(rows)} kinds of problems" if rows else "not ok: the values differ")
    return DONE if result.ok else REFUSED


def _fixed_dims(args: argparse.Namespace, what: str) -> dict[str, int]:
    dims = read_dims(args.dim)
    for name, value in dims.items():
        if isinstance(value, tuple):
            raise UsageError(f"--dim {name}: {what} needs one extent, not a range")
        if value < 0:
            raise UsageError(f"--dim {name}={value}: an extent is at least 0")
    return dims


def _bench(args: argparse.Namespace) -> int:
    dims = _fixed_dims(args, "bench")
    start = time.perf_counter()
    bundle: Any = fw.load(args.bundle, threads=args.threads)
    loaded = time.perf_counter() - start
    known = {s for value in bundle.signature.inputs for e in value.shape for s in symbols(extent(e))}
    for name in dims:
        if name not in known:
            raise _no_symbol(name, sorted(known))
    feeds = _random_feeds(bundle.signature.inputs, dims)
    bound = bundle.bind(feeds, bundle.room(feeds))
    rows = []
    for name, call in (("call", lambda: bundle.run(feeds)), ("bound", bound)):
        times = _measure(call, args.seconds)
        rows.append(
            {
                "kind": name,
                "calls": len(times),
                "best_us": round(float(times.min()) * 1e6, 2),
                "median_us": round(float(np.median(times)) * 1e6, 2),
                "p99_us": round(float(np.percentile(times, 99)) * 1e6, 2),
            }
        )
    shapes = {name: list(np.shape(value)) for name, value in feeds.items()}
    if args.json:
        return print_json(
            {
                "bundle": args.bundle,
                "load_ms": round(loaded * 1e3, 3),
                "inputs": shapes,
                "threads": args.threads,
                "timings": rows,
            }
        )
    print(f"{args.bundle}: loaded in {loaded * 1e3:.2f} ms; inputs {shapes}")
    print_table(rows)
    return DONE


def _random_feeds(inputs: Iterable[Any], dims: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Seeded inputs: standard normal floats, integers and bools in {0, 1}; unnamed symbols are 1."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in inputs:
        extents = [extent(e) for e in value.shape]
        shape = [evaluate(e, {name: dims.get(name, 1) for name in symbols(e)}) for e in extents]
        kind = dtype(str(value.dtype))
        drawn = rng.standard_normal(shape) if kind.is_float else rng.integers(0, 2, shape)
        feeds[value.name] = drawn.astype(kind.compute)  # bf16 crosses the API as float32
    return feeds


def _measure(call: Callable[[], Any], seconds: float) -> np.ndarray:
    for _ in range(3):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 10 or (time.perf_counter() < end and len(times) < 1_000_000):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return np.asarray(times)
