"""Row kernels of softmax, log_softmax, layer_norm and rms_norm, plain or behind an elementwise prologue.

Owns their passes. 16-bit floats compute in float32 and round once.
"""

from __future__ import annotations

from ....core.dims import Extent, compare_eq, product
from ....core.dtypes import F32, F64, DType
from ....ir.graph import Node, Value
from ..templates.template import Template, TextBuilder
from .lanes import Lanes, lane_count
from .nest import accumulators, along, column_bytes, digits, grain, guess, shared_row, split_rows, unit_loop
from .refusal import NoKernel
from .region import Elements, first_operands
from .scalar import literal, load, lowest, pointer, register, store
from .sink import BLOCK, Sink

COLUMNS = 256
HELD = 256 << 10  # bytes of the longest row that waits in scratch
NAMES = ("softmax", "log_softmax", "layer_norm", "rms_norm")


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
    rows = _Rows(node)
    return softmax(rows) if "softmax" in rows.last.op.name else normalise(rows)


class _Rows:
    """What is normalised: an operand as it lies, or an elementwise prologue that the first pass leaves in the result.

    ``last`` is the op itself, ``x`` its operand; ``first`` and ``later`` are the statements that define ``v``.
    """

    def __init__(self, node: Node) -> None:
        self.node, self.last = node, node
        self.place = {v: i for i, v in reversed(list(enumerate(node.operands)))}
        self.region: Elements | None = None
        self.overwrites = frozenset({0})
        if node.op.name == "fused":
            graph = node.regions[0]
            if len(graph.outputs) != 1 or graph.outputs[0].producer.op.name not in NAMES:
                raise NoKernel("a fused normalisation must end in one")
            firsts = first_operands(node)
            self.last = graph.outputs[0].producer
            self.place = {v: firsts[i] for i, v in enumerate(graph.inputs)}
            self.region = Elements(graph, firsts, [self.last.operands[0]], self.last.operands[0].shape)
        self.x = self.last.operands[0]
        self.before, self.n, self.after = _rows(self.x.shape, self.last.attrs["axes"])
        self.together = self.after == 1 and shared_row(self.n)
        if self.region is not None:
            self._collapse(self.region)
        load_it = f"v = {load(self.x.dtype, 'get(q, j)')}"
        self.first = self.later = [load_it]

    def _collapse(self, region: Elements) -> None:
        """The prologue is computed row by row: its reduced axes must be the last ones, and all alike."""
        axes = self.last.attrs["axes"]
        found = region.collapse([i in axes for i in range(self.x.rank)])
        inside = [a.flags[2] for a in found]
        if self.x.dtype not in (F32, F64) or self.after != 1 or inside.count(True) != 1 or not inside[-1]:
            raise NoKernel("a prologue whose rows are no single loop")
        streams = range(len(region.streams))
        full = {region.streams[i].operand for i in streams if region.is_full(i)}
        part = {region.streams[i].operand for i in streams if not region.is_full(i)}
        same = {s.operand for s in region.streams if s.dtype is self.x.dtype}
        self.overwrites = frozenset((full & same) - part)

    def open(self, t: TextBuilder, offset: int, extras: tuple[Value, ...] = ()) -> None:
        """Arguments, the loop over rows, and what the row's statements need; scratch is free from ``offset`` on."""
        size, ptr = self.x.dtype.size, pointer(self.x.dtype)
        held = self.n * size if isinstance(self.n, int) and BLOCK <= self.n * size <= HELD else 0
        self.sink = Sink(self.before * self.n * size, offset, held)
        if self.region is None:
            t.pointer("x", "operand", 0)
        else:
            for i, s in enumerate(self.region.streams):
                t.pointer(f"a{i}", "operand", s.operand)
        for i, v in enumerate(extras):
            t.pointer(f"w{i}", "operand", self._index(v, i))
            t.add(0, f"p{i} = {ptr}(w{i})")
        t.pointer("out", "output")
        self.sink.decide(t)
        self.sink.open_rows(t, f"({t.dim(self.n)} * {size})")
        t.add(0, f"{unit_loop(self.together)}\n    at = u * {t.dim(self.n)} * {size}")
        self.sink.row(t, 1, ptr)
        if self.region is None:
            t.add(1, f"q = {ptr}(x + at)")
            return
        region = self.region
        names = [f"i{a}" for a in range(len(region.axes) - 1)] + ["j"]
        needed = {names[a] for a in region.digits_needed(False)}
        digits(t, 1, "u", [(names[a], region.axes[a].extent) for a in range(len(names) - 1)], needed)
        value = region.emit(names, "get")[0].text
        region.row_pointers(t, 1, None, names)
        for line in region.row_lines:
            t.add(1, line)
        self.first = [*region.lines, f"v = {value}", "put(r, j, v)"]
        self.later = ["v = r[j]"]

    def ahead(self) -> list[str]:
        """While row ``u`` is in hand, from its element ``jb`` on: ask for the same part of the next one."""
        size = self.x.dtype.size
        if not self.sink.possible:
            return []
        sources = ["x"]
        if self.region is not None:
            found = self.region.streams
            sources = [f"a{i}" for i, s in enumerate(found) if self.region.is_full(i) and s.dtype.size == size]
        step = lane_count(self.n) * size
        lines = [f"fetch({name} + at + ({self.n} + jb) * {size}, {step})" for name in sources]
        return lines if self.sink.certain else [f"if big:\n    {line}" for line in lines]

    def finish(self, t: TextBuilder, lines: list[str]) -> None:
        """The last pass: ``lines`` for each element ``j`` of the row, which then goes where it belongs."""
        n, size = t.dim(self.n), self.x.dtype.size
        if not self.sink.possible:
            t.add(1, f"for j in {along(n, self.together)}:")
            for line in lines:
                t.add(2, line)
            return
        t.add(1, f"for b in range(0, {n}, {BLOCK // size}):\n    e = min(b + {BLOCK // size}, {n})")
        t.add(2, "for j in range(b, e):")
        for line in lines:
            t.add(3, line)
        self.sink.send(t, 2, f"e * {size}")
        self.sink.close_row(t, 1)
        self.sink.close_rows(t, f"({n} * {size})")

    def _index(self, v: Value, i: int) -> int:
        if self.region is None:
            return i + 1
        if v not in self.place:
            raise NoKernel("scale or shift that the region computes")
        return self.place[v]

    def template(self, t: TextBuilder, chunk: int, scratch: int) -> list[Template]:
        node = self.node
        flops = node.op.cost(node).flops if node.op.cost is not None else 0
        template = Template(
            t.source(), t.entry, tuple(t.args), self.before, chunk, max(scratch, self.sink.scratch_bytes), flops,
            frozenset(), self.overwrites, self.together,
        )  # fmt: skip
        return [template]


def _add(a: str, b: str) -> str:
    return f"({a} + {b})"


def _max(a: str, b: str) -> str:
    # NaN is not looked for here: the sum of exponentials that follows finds it.
    return f"select({b} > {a}, {b}, {a})"


def softmax(rows: _Rows) -> list[Template]:
    n, dt, log = rows.n, rows.x.dtype, rows.last.op.name == "log_softmax"
    if rows.after != 1:
        return [_softmax_columns(rows.node, rows.before, n, rows.after)]
    reg = register(dt)
    keep = dt in (F32, F64) and not log  # the exponentials wait in the result
    t = TextBuilder(rows.last.op.name)
    top = Lanes("top", reg, n, 0, lowest(dt), _max, rows.together)
    sums = Lanes("sums", reg, n, 1024, f"{reg}(0.0)", _add, rows.together)
    rows.open(t, sums.scratch_bytes)
    top.open(t, 1)
    top.loop(t, 1, rows.first, "v")
    top.close(t, 1)
    sums.open(t, 1)
    sums.loop(t, 1, [*rows.later, "e = exp(v - top)", *(["put(r, j, e)"] if keep else [])], "e", rows.ahead())
    sums.close(t, 1)
    t.add(1, "scale = log(sums)" if log else f"scale = {reg}(1.0) / sums")
    value = "(v - top) - scale" if log else "exp(v - top) * scale"
    rows.finish(t, ["r[j] = r[j] * scale"] if keep else [*rows.later, f"put(r, j, {store(dt, value)})"])
    return rows.template(t, grain(guess(n), 12), sums.scratch_bytes)


def _softmax_columns(node: Node, before: Extent, n: Extent, after: Extent) -> Template:
    x = node.operands[0]
    dt, log = x.dtype, node.op.name == "log_softmax"
    reg, size, ptr = register(dt), dt.size, pointer(dt)
    t = TextBuilder(node.op.name + "_columns")
    t.pointer("x", "operand", 0)
    t.pointer("out", "output")
    t.add(0, f"tops = {accumulators(reg)}\nsums = {accumulators(reg, 8 * COLUMNS)}\nfor u in range(start, stop):")
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
    return _template(t, node, before * parts, grain(elements, 20), column_bytes(2, COLUMNS))


def _template(t: TextBuilder, node: Node, units: Extent, chunk: int, scratch: int) -> Template:
    flops = node.op.cost(node).flops if node.op.cost is not None else 0
    return Template(t.source(), t.entry, tuple(t.args), units, chunk, scratch, flops, frozenset(), frozenset({0}))


def normalise(rows: _Rows) -> list[Template]:
    x, n, last = rows.x, rows.n, rows.last
    rest = last.operands[1:]
    if rows.after != 1:
        raise NoKernel("normalisation over axes that are not the last")
    axes = last.attrs["axes"]
    dt, reg = x.dtype, register(x.dtype)
    has_gamma = bool(last.attrs["has_gamma"] and rest)
    at = []
    for v in rest:
        moving = [a + x.rank - v.rank for a, d in enumerate(v.shape) if d != 1]
        if v.type.size != 1 and (any(a not in axes for a in moving) or compare_eq(v.type.size, n) is not True):
            raise NoKernel("scale or shift that does not follow the normalised axes")
        at.append("0" if v.type.size == 1 else "j")
    t = TextBuilder(last.op.name)
    sums = Lanes("sums", reg, n, 0, f"{reg}(0.0)", _add, rows.together)
    rows.open(t, sums.scratch_bytes, rest)
    count = f"{reg}({t.dim(n)})"
    element = rows.first
    if last.op.name == "layer_norm":
        sums.open(t, 1)
        sums.loop(t, 1, element, "v")
        sums.close(t, 1)
        t.add(1, f"mean = sums / {count}")
        rows.later = element = [*rows.later, "v = v - mean"]
    sums.open(t, 1)
    sums.loop(t, 1, element, "v * v", rows.ahead())
    sums.close(t, 1)
    t.add(1, f"scale = rsqrt(sums / {count} + {_number(dt, last.attrs['epsilon'])})")
    value = "v * scale"
    for i in range(len(rest)):
        part = load(dt, f"get(p{i}, {at[i]})")
        value = f"({value}) * {part}" if i == 0 and has_gamma else f"({value}) + {part}"
    rows.finish(t, [*rows.later, f"put(r, j, {store(dt, value)})"])
    return rows.template(t, grain(guess(n), 6), sums.scratch_bytes)


def _number(dt: DType, value: float) -> str:
    return literal(F64 if dt is F64 else F32, value)
