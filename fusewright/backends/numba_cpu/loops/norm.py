"""Row kernels of softmax, log_softmax, layer_norm and rms_norm, plain or behind an elementwise prologue.

Owns their passes. 16-bit floats compute in float32 and round once.
"""

from __future__ import annotations

from ....core.dims import Extent, compare_eq, product
from ....core.dtypes import F32, F64, DType
from ....ir.graph import Node, Value
from ..templates.template import Template, TextBuilder
from . import short
from .lanes import Lanes, lane_count
from .nest import accumulators, along, column_bytes, digits, grain, guess, shared_row, split_rows, unit_loop
from .refusal import NoKernel
from .region import Elements, first_operands
from .scalar import literal, load, lowest, pointer, register, store
from .sink import BLOCK, LINE, Sink

COLUMNS = 256
HELD = 256 << 10  # bytes of the longest row that waits in scratch
LONG = 2 << 10  # bytes of the shortest row that goes past the caches
AHEAD = 8 << 10  # bytes by which fetches of later rows are ahead, at least
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
        self.fresh = True  # no pass has run
        load_it = f"v = {load(self.x.dtype, 'get(q, j)')}"
        self.first = self.later = [load_it]
        self.tiles = self.x.dtype in (F32, F64) and lane_count(self.n) > 0  # reduce rows where they lie
        # Rows that a pass leaves in the result wait there or in scratch; others leave piece by piece.
        self.waits = self.region is not None or "softmax" in self.last.op.name

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
        held = self.n * size if isinstance(self.n, int) and LONG <= self.n * size <= HELD else 0
        self.sink = Sink(self.before * self.n * size, offset, held if self.waits else min(held, BLOCK))
        self.length, self.source = t.dim(self.n), "x + at"
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
        if self.waits:
            self.sink.open_rows(t, f"({t.dim(self.n)} * {size})")
        t.add(0, f"{unit_loop(self.together)}\n    at = u * {t.dim(self.n)} * {size}")
        if self.waits or not self.sink.possible:
            self.sink.row(t, 1, ptr)
        if self.region is None:
            t.add(1, f"q = {ptr}(x + at)")
            return
        self.source = "place"
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

    def tile(self, how: str, at: str, *more: str) -> str:
        """Text of the reduction of the row at address ``at``."""
        size = self.x.dtype.size
        return f"lanes_{how}({', '.join([at, str(self.length), *more])}, {lane_count(self.n)}, {size}, {LINE // size})"

    def reduce(self, t: TextBuilder, lanes: Lanes, how: str, centre: str = "") -> None:
        """A pass in which ``lanes`` takes in the row, or the squares of its differences from ``centre``."""
        if self.tiles:
            if self.fresh and self.region is not None:
                self.each(t, self.first)
            t.add(1, f"{lanes.name} = {self.tile(how, self.source, *([centre] if centre else []))}")
        else:
            lanes.open(t, 1)
            apart = [f"d = v - {centre}"] if centre else []
            lanes.loop(t, 1, [*(self.first if self.fresh else self.later), *apart], "d * d" if centre else "v")
            lanes.close(t, 1)
        self.fresh = False

    def fetches(self, at: str) -> list[str]:
        """At element ``at`` of row ``u``: ask for the same part of a later one."""
        size = self.x.dtype.size
        sources = ["x"]
        if self.region is not None:
            found = self.region.streams
            sources = [f"a{i}" for i, s in enumerate(found) if self.region.is_full(i) and s.dtype.size == size]
        assert isinstance(self.n, int)
        apart = self.n * -(-AHEAD // (self.n * size))
        return [f"fetch({name} + at + ({apart} + {at}) * {size}, {BLOCK})" for name in sources]

    def each(self, t: TextBuilder, lines: list[str], moves: bool = False) -> None:
        """A pass: ``lines`` for each element ``j``. One pass of a kernel ``moves`` the rows before and behind."""
        n, step = t.dim(self.n), BLOCK // self.x.dtype.size
        if not (moves and self.sink.possible):
            t.add(1, f"for j in {along(n, self.together)}:")
            for line in lines:
                t.add(2, line)
            return
        assert isinstance(self.n, int)
        whole = self.n // step * step
        t.add(1, f"for jb in range(0, {whole}, {step}):")
        self.sink.when(t, 2, *self.fetches("jb"), *self.sink.send(BLOCK))
        t.add(2, f"for l in range({step}):\n    j = jb + l")
        for line in lines:
            t.add(3, line)
        if whole < self.n:
            t.add(1, f"for j in range({whole}, {n}):")
            for line in lines:
                t.add(2, line)

    def finish(self, t: TextBuilder) -> None:
        """The row is complete; behind the last one, what still waits leaves."""
        row = f"({t.dim(self.n)} * {self.x.dtype.size})"
        self.sink.close_row(t, 1, row)
        self.sink.close_rows(t, row)

    def final(self, t: TextBuilder, value: str) -> None:
        """The last pass: ``value`` of each element goes where it belongs."""
        dt = self.x.dtype

        def lines(place: str) -> list[str]:
            return [*self.later, f"put({place}, j, {store(dt, value)})"]

        if self.waits or not self.sink.possible:
            self.each(t, lines("r"), moves=True)
            self.finish(t)
            return

        def body(indent: int) -> None:
            for line in lines("r0"):
                t.add(indent, line)

        place = (pointer(dt), "(out + at)", dt.size)
        self.sink.blocks(t, 1, "0", t.dim(self.n), place, body, self.fetches("b"))
        self.sink.when(t, 0, "streamed()")

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
    if rows.region is None and short.fits(rows.before, n):
        return [short.softmax(rows.node, rows.before, n)]
    reg = register(dt)
    keep = dt in (F32, F64) and not log  # the exponentials wait in the result
    t = TextBuilder(rows.last.op.name)
    top = Lanes("top", reg, n, 0, lowest(dt), _max, rows.together)
    sums = Lanes("sums", reg, n, 1024, f"{reg}(0.0)", _add, rows.together)
    beside = n * dt.size if rows.tiles and not keep and isinstance(n, int) and n * dt.size <= HELD else 0
    rows.open(t, sums.scratch_bytes + beside)
    rows.reduce(t, top, "max")
    exponentials = "r" if keep else "es"
    if beside:
        t.add(1, f"es = {pointer(dt)}(scratch + {sums.scratch_bytes})")
    apart = rows.tiles and (keep or beside > 0)
    if apart:
        rows.each(t, [*rows.later, f"put({exponentials}, j, exp(v - top))"], moves=True)
        t.add(1, f"sums = {rows.tile('sum', 'place' if keep else f'scratch + {sums.scratch_bytes}')}")
    else:
        sums.open(t, 1)
        sums.loop(t, 1, [*rows.later, "e = exp(v - top)", *(["put(r, j, e)"] if keep else [])], "e")
        sums.close(t, 1)
    t.add(1, "scale = log(sums)" if log else f"scale = {reg}(1.0) / sums")
    value = "(v - top) - scale" if log else "exp(v - top) * scale"
    last = ["r[j] = r[j] * scale"] if keep else [*rows.later, f"put(r, j, {store(dt, value)})"]
    rows.each(t, last, moves=not apart)
    rows.finish(t)
    return rows.template(t, grain(guess(n), 12), sums.scratch_bytes + beside)


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
    centre = f"{reg}(0.0)"
    if last.op.name == "layer_norm":
        rows.reduce(t, sums, "sum")
        t.add(1, f"mean = sums / {count}")
        centre = "mean"
    rows.reduce(t, sums, "squares", centre)
    t.add(1, f"scale = rsqrt(sums / {count} + {_number(dt, last.attrs['epsilon'])})")
    value = "(v - mean) * scale" if centre == "mean" else "v * scale"
    for i in range(len(rest)):
        part = load(dt, f"get(p{i}, {at[i]})")
        value = f"({value}) * {part}" if i == 0 and has_gamma else f"({value}) + {part}"
    rows.final(t, value)
    return rows.template(t, grain(guess(n), 6), sums.scratch_bytes)


def _number(dt: DType, value: float) -> str:
    return literal(F64 if dt is F64 else F32, value)
