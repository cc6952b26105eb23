"""Write docs/ops.md and the pages of docs/passes/ from the op table and the passes' own declarations.

python docs/generate_reference.py [--check]
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fusewright as fw
from fusewright.ir.opdef import OPS, REQUIRED, OpDef
from fusewright.passes import Pass, Rewrite, RuleSet

DOCS = Path(__file__).resolve().parent
_OPS_HEAD = """# The ops

Written by `python docs/generate_reference.py` from the op table.

Each is a method of `fw.Builder` and a function of `fw.op` (a keyword of Python takes an underscore: `b.if_`). Shapes
broadcast as in NumPy; the operands of one op have one dtype, nothing is promoted. A composite op is defined by simpler
ones: a target without a kernel for it runs those. `*` takes any number of operands, `?` may be left out.
"""
_PASSES_HEAD = """# The passes

Written by `python docs/generate_reference.py` from the passes' own declarations, in the order in which they run.

| pass | numerics | what it does |
| --- | --- | --- |
"""


def first_line(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def ops_page() -> str:
    families: dict[str, list[OpDef]] = {}
    for op in OPS.values():
        families.setdefault(inspect.getmodule(op.infer).__name__.rpartition(".")[2].lstrip("_"), []).append(op)
    lines = [_OPS_HEAD]
    for family, ops in families.items():
        lines += [f"## {family}", "", "| op | attributes | kind | meaning |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{op.name}({', '.join(op.operands)})` | {attributes(op)} "
            f"| {op.kind}{', composite' * bool(op.decompose)} | {cell(first_line(op.doc) or op.scalar or '')} |"
            for op in ops
        ]
        lines.append("")
    return "\n".join(lines)


def attributes(op: OpDef) -> str:
    shown = [name if default is REQUIRED else f"{name}={default!r}" for name, default in op.attrs.items()]
    return f"`{cell(', '.join(shown))}`" if shown else ""


def pass_page(name: str, p: Pass) -> str:
    lines = [f"# {name}", "", f"Numerics: `{p.numerics}`.", "", inspect.cleandoc(meaning(p))]
    module = inspect.getmodule(getattr(p, "function", None))
    if module is not None and module.__doc__:
        lines += ["", inspect.cleandoc(module.__doc__)]
    rules = p.all if isinstance(p, RuleSet) else []
    if rules:
        lines += ["", "## Rules", "", "| rule | matches | numerics | note |", "| --- | --- | --- | --- |"]
        lines += [rule_row(rule) for rule in rules]
    return "\n".join(lines).rstrip() + "\n"


def meaning(p: Pass) -> str:
    if note(p):
        return note(p)
    return f"{len(p.all)} rules, applied together up to one fixpoint." if isinstance(p, RuleSet) else ""


def rule_row(rule: Any) -> str:
    if isinstance(rule, Rewrite):
        return f"| {cell(rule.name)} | `{cell(rule.pattern.text)}` | {rule.numerics} | {cell(first_line(note(rule)))} |"
    roots = ", ".join(f"`{r}`" for r in sorted(rule.roots)) or "any op"
    return f"| {cell(rule.name)} | {roots} | exact | {cell(first_line(note(rule)))} |"


def note(thing: Any) -> str:
    """A rule's or a pass's own docstring; that of its class says nothing about it."""
    function = getattr(thing, "function", None)
    return (function.__doc__ if function else getattr(thing, "__dict__", {}).get("__doc__")) or ""


def pages() -> Iterator[tuple[Path, str]]:
    yield DOCS / "ops.md", ops_page()
    pipeline = fw.default_pipeline("cpu")
    table = _PASSES_HEAD
    for name in pipeline.names:
        p = pipeline[name]
        table += f"| [`{name}`]({name}.md) | {p.numerics} | {cell(first_line(meaning(p)))} |\n"
        yield DOCS / "passes" / f"{name}.md", pass_page(name, p)
    yield DOCS / "passes" / "README.md", table


def main() -> int:
    wanted = dict(pages())
    stale = [p for p, text in wanted.items() if not p.exists() or p.read_text() != text]
    stale += [p for p in (DOCS / "passes").glob("*.md") if p not in wanted]
    if "--check" in sys.argv[1:]:
        names = ", ".join(str(p.relative_to(DOCS.parent)) for p in stale)
        print(f"out of date: {names}; run python docs/generate_reference.py" if stale else "up to date")
        return bool(stale)
    (DOCS / "passes").mkdir(exist_ok=True)
    for path in stale:
        path.write_text(wanted[path]) if path in wanted else path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
