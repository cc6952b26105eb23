"""What the command line prints: signatures, reports, tables, refusals, JSON.

Owns wording and layout. Must not call the compiler or touch files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .core.errors import FusewrightError, ImportRefused

DONE, REFUSED = 0, 1


def print_json(value: Any) -> int:
    print(json.dumps(value, indent=2, sort_keys=False, default=str))
    return DONE


def signature_rows(signature: Any) -> dict[str, list[dict[str, Any]]]:
    return {side: [port_row(v.name, v) for v in getattr(signature, side)] for side in ("inputs", "outputs")}


def port_row(name: str, value: Any) -> dict[str, Any]:
    shape = [d if isinstance(d, int) else str(d) for d in value.shape]
    return {"name": name, "dtype": str(value.dtype), "shape": shape}


def print_signature(signature: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for side in ("inputs", "outputs"):
        for row in signature[side]:
            print(f"  {side[:-1]:<8} {row['name']}  {row['dtype']}[{', '.join(map(str, row['shape']))}]")


def symbol_rows(symbols: Sequence[Any], run_symbols: Sequence[Any] = ()) -> dict[str, dict[str, list[Any]]]:
    """``{name: [least, greatest]}``, null for no bound: those that inputs bind, and those found out during the call."""
    return {"symbols": {s.name: [s.low, s.high] for s in symbols},
            "run_symbols": {s.name: [s.low, s.high] for s in run_symbols}}  # fmt: skip


def print_symbols(rows: Mapping[str, Mapping[str, Sequence[Any]]], batch: str | None = None) -> None:
    """A line for each symbol: what it may be, and who says what it is."""
    for kind, found in (("symbols", ""), ("run_symbols", ", found out during the call")):
        for name, (low, high) in rows[kind].items():
            limits = f"is {low}" if low == high else f"from {low} to {'any' if high is None else high}"
            print(f"  symbol   {name} {limits}{' (batch)' if name == batch else ''}{found}")


def print_report(report: Mapping[str, Any]) -> None:
    kernels = report["kernels"]
    fused = sum(1 for kernel in kernels if "<fuse>" in kernel["origin"])  # the origin names the passes that made it
    # The list also says for every other value why it got memory of its own.
    reused = sum(1 for row in report["in_place"] if row.get("how", "in place" if row["reused"] else "") == "in place")
    at = ", ".join(f"{name}={value}" for name, value in (report.get("dims") or {}).items())
    print(f"  kernels  {len(kernels)} ({fused} fused)")
    alone = f"one op at a time would need {bytes_text(report['lower_bound_bytes'])} at least"
    if report["arena_bytes"]:
        need = f"{bytes_text(report['arena_bytes'])}{f' at {at}' if at else ''}"
        if report.get("scratch_bytes"):  # without the number of threads two reports of one bundle seem to disagree
            threads = f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}"
            need += f", {bytes_text(report['scratch_bytes'])} of it scratch of {threads}"
        need += f", {reused} values in place"
    else:
        need = f"none: nothing is kept between kernels{f' at {at}' if at else ''}"
    print(f"  arena    {need} ({alone})" if report["lower_bound_bytes"] else f"  arena    {need}")
    if rows := report.get("rows_at_once"):
        print(f"  slices   of {rows} rows of the batch, which stay in the cache")
    for role, counts in (report.get("in_place_share") or {}).items():
        if total := sum(counts.values()):
            placed = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
            print(f"  {role:<14} {total} results: {placed}")
    print(f"  numerics {report['numerics']}")


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())


def _cell(value: Any) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def bytes_text(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


# ---------------------------------------------------------------------------------------------- refusals

_WHAT = {
    "ImportRefused": "the model was refused",
    "InputRefused": "the input was refused",
    "BundleRefused": "the bundle was refused",
    "CompileRefused": "the model cannot be compiled as asked",
    "MissingDependency": "an optional package is missing",
}


def print_refusal(error: FusewrightError, as_json: bool) -> int:
    """Say what, where, why and what to do on stderr (and as JSON on stdout when asked)."""
    kind = type(error).__name__
    problems = (
        [{"code": p.code, "where": p.where, "reason": p.reason, "hint": p.hint} for p in error.problems]
        if isinstance(error, ImportRefused)
        else []
    )
    if as_json:
        print_json({"error": {"type": kind, "message": str(error), "problems": problems}})
    print(f"error: {_WHAT.get(kind, 'refused')} ({kind})", file=sys.stderr)
    if not problems:
        where = getattr(error, "where", "")
        print(
            "".join(f"  {line}\n" for line in ([f"at {where}"] if where else []) + str(error).splitlines()),
            file=sys.stderr,
            end="",
        )
    for p in problems:
        print(f"  [{p['code']}]" + (f" at {p['where']}" if p["where"] else ""), file=sys.stderr)
        print(f"    why:  {p['reason']}", file=sys.stderr)
        if p["hint"]:
            print(f"    hint: {p['hint']}", file=sys.stderr)
    return REFUSED


def print_failure(kind: str, message: str, as_json: bool) -> int:
    if as_json:
        print_json({"error": {"type": kind, "message": message, "problems": []}})
    print(f"error: {message}", file=sys.stderr)
    return REFUSED
