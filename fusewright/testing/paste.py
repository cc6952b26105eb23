"""The test that a failure ends with: complete where what it needs can be imported, and honest about what cannot.

Owns finding passes and ops under a name that an import reaches, and the text. Must not know how a failure was found.
"""

from __future__ import annotations

import keyword
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from ..ir import OPS, Graph, OpDef
from ..passes import Pipeline
from ..passes.engine.base import GraphPass, Pass
from ..passes.engine.rewrite import Rewrite, RuleSet
from .properties import Feeds, Violation

_MAINS = ("__main__", "__mp_main__")
_NAME = "the_pass"


def repro(
    p: Pass | Pipeline, violation: Violation, graph: Graph, fed: Feeds, claims: Sequence[str] = (), target: str = ""
) -> str:
    """A test to paste: the graph's text, what is fed, and the check that fails.

    ``target`` is what a target that is not the plain one says of itself.
    """
    name, lines = _import(p)
    fed_text = ",\n        ".join(f"{k!r}: {_array_text(np.asarray(v))}" for k, v in fed.items())
    body = str(graph).rstrip("\n").replace("\\", "\\\\")
    more = f", claims={tuple(claims)!r}" if claims else ""
    wanted = [f"    # it failed with target={target}, which is not written here: add target="] if target else []
    return "\n".join(
        [
            "import numpy as np",
            "",
            "import fusewright as fw",
            "from fusewright.testing import check_graph",
            *lines,
            *_ops(graph),
            "",
            'GRAPH = """',
            body,
            '"""',
            "",
            "",
            f"def test_{violation.property}():",
            "    feeds = {",
            f"        {fed_text}" if fed_text else "        # no inputs",
            "    }",
            *wanted,
            f"    check_graph({name}, fw.parse_graph(GRAPH), feeds{more})",
            "",
        ]
    )


# -- passes ------------------------------------------------------------------------------------------------------------
def _import(p: Pass | Pipeline) -> tuple[str, list[str]]:
    """The name that the test uses, and the lines that bring it: imports, or what has to be put there by hand."""
    found = _importable(p, _functions(p))
    if found is not None:
        return found[1], [f"from {found[0]} import {found[1]}"]
    parts = _parts(p)
    if parts is not None and (places := [_importable(q, _functions(q)) for q in parts]) and None not in places:
        known = [place for place in places if place is not None]
        if len(set(known)) == len({name for _, name in known}):  # no name stands for two things
            imports = dict.fromkeys(f"from {module} import {name}" for module, name in known)
            return _NAME, [*imports, *_made_of(p, [name for _, name in known])]
    name = _own_name(p)
    return name, [f"# {line}" for line in _by_hand(p, name)]


def _functions(p: Any) -> list[Callable[..., Any]]:
    """The functions of a user that a pass is made of."""
    if isinstance(p, GraphPass):
        return [p.function]
    if not isinstance(p, Rewrite):
        return []
    if p.function is not None:
        return [p.function]
    cells = [c.cell_contents for c in getattr(p.build, "__closure__", None) or ()]
    return [f for f in cells if callable(f) and hasattr(f, "__code__")]


def _parts(p: Pass | Pipeline) -> list[Pass] | None:
    """The passes that a pipeline without a target, or a set of plain rules, can be put together from again."""
    if isinstance(p, Pipeline) and p.target is None and p.names:
        return [p[name] for name in p.names]
    if isinstance(p, RuleSet) and p.rules and len(p.rules) == len(p.all):
        return list(p.rules)
    return None


def _made_of(p: Pass | Pipeline, names: Sequence[str]) -> list[str]:
    inside = ", ".join(names)
    if isinstance(p, Pipeline):
        mode = f", numerics={p.numerics!r}" if p.numerics != "strict" else ""
        return ["", f"{_NAME} = fw.Pipeline([{inside}]{mode})"]
    return ["from fusewright.passes import RuleSet", "", f"{_NAME} = RuleSet({p.name!r}, [{inside}])"]


def _own_name(p: Pass | Pipeline) -> str:
    """A name for what cannot be imported: that of its function, or its own."""
    names = [f.__name__ for f in _functions(p)] + ([p.name] if isinstance(p, Pass) else [])
    return next((n for n in names if n.isidentifier() and not keyword.iskeyword(n)), _NAME)


def _by_hand(p: Pass | Pipeline, name: str) -> Iterator[str]:
    """What somebody who pastes the test has to put in its place."""
    made = next(iter(_functions(p)), None)
    module = sys.modules.get(made.__module__) if made is not None else None
    if made is None:
        why = "no module holds it under a name"
    elif made.__qualname__.rpartition(".")[0].endswith("<locals>"):
        why = f"it is made inside {made.__qualname__.rpartition('.<locals>')[0]}"
    elif made.__module__ in _MAINS or module is None or _imported_as(module) is None:
        why = "the file that makes it runs as a script"
    else:
        why = f"{made.__module__} holds it under no name"
    code = getattr(made, "__code__", None)
    at = f" ({code.co_filename}, line {code.co_firstlineno})" if code is not None else ""
    yield f"{name} cannot be imported: {why}{at}. Put its definition here:"
    yield f"{name} = {p!r}"


# -- ops ---------------------------------------------------------------------------------------------------------------
def _ops(graph: Graph) -> list[str]:
    """The modules that declare ops which are not built in: parsing the graph needs them."""
    lines: dict[str, None] = {}
    for op in dict.fromkeys(node.op for node in graph.walk()):
        home = _home(op)
        if home is None:
            continue
        module = sys.modules.get(home)
        known = _imported_as(module) if module is not None else None
        if known:
            lines[f"import {known}  # declares the op {op.name}"] = None
        else:
            lines[f"# the op {op.name} is declared in {home}, which no import reaches: declare it here"] = None
    return list(lines)


def _home(op: OpDef) -> str | None:
    """The module of a user that declares an op; None for those that are built in."""
    functions = (op.infer, op.eval, op.decompose, op.bound, op.cost, op.sample)
    modules = [f.__module__ for f in functions if hasattr(f, "__module__") and f is not None]
    package = __name__.partition(".")[0] + "."
    own = [m for m in modules if not m.startswith(package)]
    return own[0] if own and OPS.get(op.name) is op else None


# -- modules -----------------------------------------------------------------------------------------------------------
def _importable(p: Any, functions: Iterable[Callable[..., Any]]) -> tuple[str, str] | None:
    """(module, name) under which ``p`` can be imported, the module of its function first; None if there is none."""
    homes = [f.__module__ for f in functions if f.__module__ in sys.modules]
    for module in [*(sys.modules[h] for h in homes), *list(sys.modules.values())]:
        where = _imported_as(module) if isinstance(module, ModuleType) else None
        if where is None:
            continue
        for name, value in list(vars(module).items()):
            if value is p and name.isidentifier():
                return where, name
    return None


def _imported_as(module: ModuleType) -> str | None:
    """The name that imports ``module``: none for a script, or for one that no finder knows."""
    spec = getattr(module, "__spec__", None)
    if spec is None or spec.name in _MAINS or spec.origin is None:
        return None
    # What runs as ``python -m package.module`` has its own name in its specification.
    return str(spec.name)


# -- numbers -----------------------------------------------------------------------------------------------------------
def _array_text(a: np.ndarray) -> str:
    def number(x: Any) -> str:
        text = repr(x.item())
        return f"float({text!r})" if text in ("nan", "inf", "-inf") else text

    if a.size > 64:
        return f"np.frombuffer(bytes.fromhex({a.tobytes().hex()!r}), {a.dtype.name!r}).reshape({a.shape})"
    inside = ", ".join(number(x) for x in a.ravel())
    return f"np.array([{inside}], {a.dtype.name!r}).reshape({a.shape})"


__all__ = ["repro"]
