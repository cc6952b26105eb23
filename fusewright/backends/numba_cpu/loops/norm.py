"""Row kernels of softmax, log_softmax, layer_norm and rms_norm.

Owns their passes. 16-bit floats compute in float32 and round once.
"""

from __future__ import annotations

from ....core.dims import Extent, compare_eq, product
from ....core.dtypes import F32, F64, DType
from ....ir.graph import Node
from ..templates.template import Template, TextBuilder
from .lanes import Lanes
from .nest import grain, guess, split_rows
from .refusal import NoKernel
from .scalar import literal, load, lowest, pointer, register, store

COLUMNS = 256


def _rows(shape: tuple[Extent, ...], axes: tuple[int, ...]) -> tuple[Extent, Extent, Extent]:
    """(before, reduced, after) of neighbouring axes. Raises NoKernel for others."""
    axes = tuple(a for a in axes if shape[a] != 1) or axes[:1]
    if not axes:
        raise NoKernel("no axis to normalise over")
    low, high = axes[0], axes[-1] + 1
    if any(a not in axes and shape[a] != 1 for a in range(low, high)):
        raise NoKernel("axes that are not neighbours")
    return product(shape[:low]), product(shape[low:high]), product(shape[high:])


def can(node: Node) -> bool:
    try:
        generate(node)
    except NoKernel:
        return False
    return True


def generate(node: Node) -> list[Template]:
    return softmax(node) if "softmax" in node.op.name else normalise(node)


def _add(a: str, b: str) -> str:
    return f"({a} + {b})"


def _max(a: str, b: str) -> str:
    # NaN is not looked for here: the sum of exponentials that follows finds it.
    return f"select({b} > {a}, {b}, {a})"


def softmax(node: Node) -> list[Template]:
    x = node.operands[0]
    before, n, after = _rows(x.shape, node.attrs["axes"])
    dt, log = x.dtype, node.op.name == "log_softmax"
    if after != 1:
        return [_softmax_columns(node, before, n, after)]
    reg, size, ptr = register(dt), dt.size, pointer(dt)
    keep = dt in (F32, F64) and not log  # the exponentials wait in the result
    t = TextBuilder(node.op.name)
    t.pointer("x", "operand", 0)
    t.pointer("out", "output")
    t.add(0, f"for u in range(start, stop):\n    at = u * {t.dim(n)} * {size}")
    t.add(1, f"q = {ptr}(x + at)\nr = {ptr}(out + at)")
    top = Lanes("top", reg, n, 0, lowest(dt), _max)
    sums = Lanes("sums", reg, n, 1024, f"{reg}(0.0)", _add)
    element = f"v = {load(dt, 'get(q, j)')}"
    top.open(t, 1)
    top.loop(t, 1, [element], "v")
    top.close(t, 1)
    sums.open(t, 1)
    lines = [element, "e = exp(v - top)"] + (["put(r, j, e)"] if keep else [])
    sums.loop(t, 1, lines, "e")
    sums.close(t, 1)
    t.add(1, "scale = log(sums)" if log else f"scale = {reg}(1.0) / sums")
    t.add(1, f"for j in range({t.dim(n)}):")
    if keep:
        t.add(2, "r[j] = r[j] * scale")
    else:
        t.add(2, element)
        value = "(v - top) - scale" if log else "exp(v - top) * scale"
        t.add(2, f"put(r, j, {store(dt, value)})")
    return [_template(t, node, before, grain(guess(n), 12), sums.scratch_bytes)]


def _softmax_columns(node: Node, before: Extent, n: Extent, after: Extent) -> Template:
    x = node.operands[0]
    dt, log = x.dtype, node.op.name == "log_softmax"
    reg, size, ptr = register(dt), dt.size, pointer(dt)
    t = TextBuilder(node.op.name + "_columns")
    t.pointer("x", "operand", 0)
    t.pointer("out", "output")
    t.add(0, f"tops = p{reg}(scratch)\nsums = p{reg}(scratch + {8 * COLUMNS})\nfor u in range(start, stop):")
    parts, first, past = split_rows(t, 1, "row", after, COLUMNS)
    columns = f"for j in range({first}, {past}):"
    k = f"j - {first}"
    base = f"(row * {t.dim(n)} + i) * {t.dim(after)} * {size}"
    t.add(1, f"{columns}\n    tops[{k}] = {lowest(dt)}\n    sums[{k}] = {reg}(0.0)")
    t.add(1, f"for i in range({t.dim(n)}):\n    q = {ptr}(x + {base})\n    {columns}")
    t.add(3, f"v = {load(dt, 'get(q, j)')}\nput(tops, {k}, {_max(f'tops[{k}]', 'v')})")
    t.add(1, f"for i in range({t.dim(n)}):\n    q = {ptr}(x + {base})\n    {columns}")
    t.add(3, f"v = {load(dt, 'get(q, j)')}\nput(sums, {k}, sums[{k}] + exp(v - tops[{k}]))")
    scale = f"log(sums[{k}])" if log else f"{reg}(1.0) / sums[{k}]"
    t.add(1, f"{columns}\n    sums[{k}] = {scale}")
    t.add(1, f"for i in range({t.dim(n)}):\n    q = {ptr}(x + {base})\n    r = {ptr}(out + {base})\n    {columns}")
    value = f"(v - tops[{k}]) - sums[{k}]" if log else f"exp(v - tops[{k}]) * sums[{k}]"
    t.add(3, f"v = {load(dt, 'get(q, j)')}\nput(r, j, {store(dt, value)})")
    elements = guess(n, 64) * min(guess(after), COLUMNS)
    return _template(t, node, before * parts, grain(elements, 20), 16 * COLUMNS)


def _template(t: TextBuilder, node: Node, units: Extent, chunk: int, scratch: int) -> Template:
    flops = node.op.cost(node).flops if node.op.cost is not None else 0
    return Template(t.source(), t.entry, tuple(t.args), units, chunk, scratch, flops, frozenset(), frozenset({0}))


def normalise(node: Node) -> list[Template]:
    x, *rest = node.operands
    before, n, after = _rows(x.shape, node.attrs["axes"])
    if after != 1:
        raise NoKernel("normalisation over axes that are not the last")
    axes = node.attrs["axes"]
    dt, reg, size, ptr = x.dtype, register(x.dtype), x.dtype.size, pointer(x.dtype)
    has_gamma = bool(node.attrs["has_gamma"] and rest)
    t = TextBuilder(node.op.name)
    t.pointer("x", "operand", 0)
    for i in range(len(rest)):
        t.pointer(f"w{i}", "operand", i + 1)
    t.pointer("out", "output")
    at = []
    for i, v in enumerate(rest):
        moving = [a + x.rank - v.rank for a, d in enumerate(v.shape) if d != 1]
        if v.type.size != 1 and (any(a not in axes for a in moving) or compare_eq(v.type.size, n) is not True):
            raise NoKernel("scale or shift that does not follow the normalised axes")
        t.add(0, f"p{i} = {ptr}(w{i})")
        at.append("0" if v.type.size == 1 else "j")
    t.add(0, f"for u in range(start, stop):\n    at = u * {t.dim(n)} * {size}")
    t.add(1, f"q = {ptr}(x + at)\nr = {ptr}(out + at)")
    element, count = f"v = {load(dt, 'get(q, j)')}", f"{reg}({t.dim(n)})"
    sums = Lanes("sums", reg, n, 0, f"{reg}(0.0)", _add)
    centred = node.op.name == "layer_norm"
    if centred:
        sums.open(t, 1)
        sums.loop(t, 1, [element], "v")
        sums.close(t, 1)
        t.add(1, f"mean = sums / {count}")
        element += "\nv = v - mean"
    sums.open(t, 1)
    sums.loop(t, 1, [element], "v * v")
    sums.close(t, 1)
    t.add(1, f"scale = rsqrt(sums / {count} + {_number(dt, node.attrs['epsilon'])})\nfor j in range({t.dim(n)}):")
    t.add(2, element)
    value = "v * scale"
    for i in range(len(rest)):
        part = load(dt, f"get(p{i}, {at[i]})")
        value = f"({value}) * {part}" if i == 0 and has_gamma else f"({value}) + {part}"
    t.add(2, f"put(r, j, {store(dt, value)})")
    return [_template(t, node, before, grain(guess(n), 6), sums.scratch_bytes)]


def _number(dt: DType, value: float) -> str:
    return literal(F64 if dt is F64 else F32, value)
