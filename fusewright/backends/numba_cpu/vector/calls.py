"""How kernels call the vector forms: one scalar function per name, which LLVM's loop vectoriser widens.

Owns the scalar calls, their widened declarations before the optimiser has run, and their bodies after it.
Must not know any formula.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .forms import FORMS
from .values import Lanes, Value

PREFIX = "fusewright.vector."
WIDTHS = (4, 8, 16)
LEAST = 8  # lanes of the narrowest register that holds half a table
TOGETHER = 4  # vectors side by side: more would not leave registers for the constants
MOST_TOGETHER, _LIGHT = 6, ("exp", "sigmoid", "silu", "tanh")  # but for those that hold few values at a time
_DECLARED = re.compile(rf'^declare float @"?{re.escape(PREFIX)}([a-z_0-9]+)"?\(float[^\n]*$', re.M)
_KEPT = re.compile(r"^@llvm\.compiler\.used = [^\n]*\n", re.M)
_WIDE_CALL = re.compile(
    rf"  (?P<to>%\S+) = (?:tail )?call (?P<type><\d+ x float>) @{re.escape(PREFIX)}(?P<name>[a-z_]+)\.(?P<width>\d+)"
    r"\(<\d+ x float> (?P<arg>%[^\s,)]+)\)"
)
_WHOLE = re.compile(rf'^(declare [^@\n]*[>}}]) @"?({re.escape(PREFIX)}[a-z_]+\.[.a-z0-9]+)"?(\([^)]*\))[^\n]*$', re.M)
_USED = re.compile(rf"call [^\n]*@{re.escape(PREFIX)}([a-z_]+)(?:\.(\d+))?(?:\.times(\d+))?\(")
_OURS = re.compile(rf"^declare [^\n]*@{re.escape(PREFIX)}[^\n]*\n", re.M)
_PURE = "nounwind willreturn speculatable memory(none)"


def _caller(name: str) -> Any:
    @intrinsic
    def call(typingctx: Any, x: Any) -> Any:
        if x != types.float32:
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()])
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, PREFIX + name), args)

        return x(x), codegen

    return call


CALLS: dict[str, Any] = {name: _caller(name) for name in FORMS}


def prepare() -> None:
    """Numba's own linker, whose code is never run, wants an address for every function called."""
    for name in FORMS:
        for symbol in (PREFIX + name, *(_joint(name, WIDTHS[-1], n + 1) for n in range(MOST_TOGETHER))):
            llvm.add_symbol(symbol, 1)


def side_by_side(name: str) -> int:
    """How many whole registers ``emit`` sends through ``name`` together."""
    return MOST_TOGETHER if name in _LIGHT else TOGETHER


def emit(builder: ir.IRBuilder, name: str, vectors: list[ir.Value]) -> list[ir.Value]:
    """``name`` of whole registers, as calls."""
    kind, most, out = ir.VectorType(ir.FloatType(), WIDTHS[-1]), side_by_side(name), list[ir.Value]()
    for first in range(0, len(vectors), most):
        some = vectors[first : first + most]
        result = kind if len(some) == 1 else ir.LiteralStructType([kind] * len(some))
        form = ir.FunctionType(result, [kind] * len(some))
        fn = cgutils.get_or_insert_function(builder.module, form, _joint(name, WIDTHS[-1], len(some)))
        made = builder.call(fn, some)
        out += [made] if len(some) == 1 else [builder.extract_value(made, i) for i in range(len(some))]
    return out


def known(text: str) -> str:
    """Module text that says of calls on whole registers that they have no effects."""
    return _WHOLE.sub(rf"\1 @\2\3 {_PURE}", text)


def _wide(name: str, width: int) -> str:
    return f"{PREFIX}{name}.{width}"


def declared(text: str) -> str:
    """Module text whose calls of the scalar functions LLVM may widen: their bodies come later."""
    names = sorted(set(_DECLARED.findall(text)))
    if not names:
        return text
    kept = [_wide(n, w) for n in names for w in WIDTHS]

    def declare(match: re.Match[str]) -> str:
        name = match[1]
        variants = ",".join(f"_ZGV_LLVM_N{w}v_{PREFIX}{name}({_wide(name, w)})" for w in WIDTHS)
        lines = [f'declare float @{PREFIX}{name}(float) {_PURE} "vector-function-abi-variant"="{variants}"']
        lines += [f"declare <{w} x float> @{_wide(name, w)}(<{w} x float>) {_PURE}" for w in WIDTHS]
        return "\n".join(lines)

    used = f"\n@llvm.compiler.used = appending global [{len(kept)} x ptr] ["
    used += ", ".join(f"ptr @{n}" for n in kept) + '], section "llvm.metadata"\n'
    return _DECLARED.sub(declare, text) + used


def _define(module: ir.Module, name: str, width: int, count: int) -> None:
    """The body for ``count`` vectors of ``width`` lanes."""
    lane, i32, inner = ir.FloatType(), ir.IntType(32), max(width, LEAST)
    outer = ir.VectorType(lane, width) if width > 1 else lane
    result = outer if count == 1 else ir.LiteralStructType([outer] * count)
    fn = ir.Function(module, ir.FunctionType(result, [outer] * count), _joint(name, width, count))
    builder = ir.IRBuilder(fn.append_basic_block())
    parts = list(fn.args)
    none = ir.Constant(ir.VectorType(lane, max(width, 4)), ir.Undefined)

    def resized(x: ir.Value, lanes: int) -> ir.Value:
        picked = ir.Constant(ir.VectorType(i32, lanes), [i % max(width, 1) for i in range(lanes)])
        return builder.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), picked)

    # Fewer lanes repeat themselves: a lane's bits do not depend on its place.
    if width == 1:
        parts = [builder.insert_element(none, x, i32(0)) for x in parts]
    if width < inner:
        parts = [resized(x, inner) for x in parts]
    parts = FORMS[name](Value(Lanes(builder, inner), parts)).parts
    if width == 1:
        parts = [builder.extract_element(y, i32(0)) for y in parts]
    elif width < inner:
        parts = [resized(y, width) for y in parts]
    if count == 1:
        builder.ret(parts[0])
        return
    whole: ir.Value = ir.Constant(result, ir.Undefined)
    for i, y in enumerate(parts):
        whole = builder.insert_value(whole, y, i)
    builder.ret(whole)


def _joint(name: str, width: int, count: int) -> str:
    base = PREFIX + name if width == 1 else _wide(name, width)
    return base if count == 1 else f"{base}.times{count}"


def _joined(lines: list[str]) -> Iterator[str]:
    """Calls of one function that follow each other made one call, whose vectors go through it side by side."""
    run: list[re.Match[str]] = []
    made = 0

    def close() -> Iterator[str]:
        nonlocal made
        if len(run) < 2:
            yield from (m[0] for m in run)
        else:
            kind, width = run[0]["type"], int(run[0]["width"])
            whole = "{ " + ", ".join([kind] * len(run)) + " }"
            args = ", ".join(f"{kind} {m['arg']}" for m in run)
            yield f"  %joint.{made} = call {whole} @{_joint(run[0]['name'], width, len(run))}({args})"
            yield from (f"  {m['to']} = extractvalue {whole} %joint.{made}, {i}" for i, m in enumerate(run))
            made += 1
        run.clear()

    for line in lines:
        match = _WIDE_CALL.match(line)
        apart = match and run and (match["name"], match["width"]) != (run[0]["name"], run[0]["width"])
        if match is None or apart or len(run) == TOGETHER or any(match["arg"] == m["to"] for m in run):
            yield from close()
        if match is None:
            yield line
        else:
            run.append(match)
    yield from close()


def _signature(name: str, width: int, count: int) -> str:
    kind = f"<{width} x float>" if width > 1 else "float"
    result = kind if count == 1 else "{ " + ", ".join([kind] * count) + " }"
    return f"declare {result} @{_joint(name, width, count)}({', '.join([kind] * count)})\n"


def split(text: str) -> tuple[str, str]:
    """Optimised module text without what kept the declarations alive, and the module of the bodies it needs."""
    if PREFIX not in text:
        return text, ""
    text = "\n".join(_joined(_KEPT.sub("", text).split("\n")))
    used = sorted({(name, int(width or 1), int(count or 1)) for name, width, count in _USED.findall(text)})
    module = ir.Module("vector")
    for form in used:
        _define(module, *form)
    return _OURS.sub("", text) + "".join(_signature(*form) for form in used), str(module)
