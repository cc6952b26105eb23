"""Loops as frontends write them, drawn: counters, reads and writes at them, conditions, and near misses of each."""

from __future__ import annotations

from typing import Any

from fusewright.core.dtypes import F32
from fusewright.ir import TensorType, Value
from fusewright.testing import Maker


def extent(b: Any, n: Any, dtype: str) -> Value:
    """An extent as frontends spell its value."""
    total: Value = b.reduce_sum(b.full((n,), 1, "i64"), axes=(0,))
    return b.cast(total, to=dtype)  # type: ignore[no-any-return]


def _index(m: Maker, r: Any, i: Value, size: int, spread: int) -> Value:
    """The counter, or something that moves with it; sometimes outside the tensor, where reads and writes clamp."""
    kind = m.draw.pick(("i", "i", "shifted", "back", "wrapped", "twice", "cast"))
    if kind == "shifted":
        return r.add(i, m.draw.integer(-1, 1))  # type: ignore[no-any-return]
    if kind == "back":
        return r.sub(size - 1 if m.draw.chance(0.7) else spread, i)  # type: ignore[no-any-return]
    if kind == "wrapped":
        return r.where(r.lt(i, 0), r.add(i, size), i)  # type: ignore[no-any-return]
    if kind == "twice":
        return r.mul(i, 2)  # type: ignore[no-any-return]
    return r.cast(i, to="i64") if kind == "cast" else i


def _holds(m: Maker, r: Any, i: Value, bound: Any, step: int) -> Value:
    """The counter has not reached the bound."""
    if abs(step) == 1 and m.draw.chance(0.15):
        return r.ne(i, bound)  # type: ignore[no-any-return]
    if step > 0:
        return r.lt(i, bound) if m.draw.chance(0.7) else r.gt(bound, i)  # type: ignore[no-any-return]
    return r.gt(i, bound) if m.draw.chance(0.7) else r.le(r.add(bound, 1), i)  # type: ignore[no-any-return]


def counted_loop(m: Maker) -> Any:
    """A while loop whose trips are known, with reads and writes at the counter."""
    d, b = m.draw, m.b
    dtype = d.pick(("i32", "i32", "i64", "i8"))
    step, trips = d.pick((1, 1, 1, -1, 2)), d.integer(0, 4)
    start = d.pick((0, 0, 0, 1, -1)) if step > 0 else trips - 1
    symbolic = m.depth == 0 and m.options.symbols and step == 1 and start == 0 and dtype != "i8" and d.chance(0.4)
    size = max(1, trips * abs(step) + d.pick((0, 0, 0, 1, -1)))
    width = d.pick((2, 1, 3))
    rows: Any = "N" if symbolic else size
    x = m.new(F32, (rows, 1, width))
    state = m.new(F32, (1, width))
    buffer = m.new(F32, (rows, 1, width)) if d.chance(0.7) else b.full((rows, 1, width), 0, F32)
    bound: Any = extent(b, rows, dtype) if symbolic else b.constant(start + step * trips, dtype)
    first = b.constant(start, dtype)
    rotated = not symbolic and trips > 0 and d.chance(0.2)
    flag = b.constant(True)
    operands = [first, flag, state, state, buffer, x, bound]
    types = [v.type for v in operands]

    def condition(r: Maker, v: list[Value]) -> list[Value]:
        if rotated:
            return [r.b.logical_or(v[1], v[1])]
        test = _holds(r, r.b, v[0], v[6], step)
        if r.draw.chance(0.3):
            test = r.b.logical_and(test, r.b.lt(v[0], r.draw.integer(0, 5)) if step > 0 else r.b.constant(True))
        if r.draw.chance(0.1):
            test = r.b.logical_and(test, v[1])
        if r.draw.chance(0.08):
            test = r.b.logical_and(test, r.b.lt(r.b.reduce_max(v[2], axes=(0, 1)), 0.9))
        return [test]

    twin, peek, leave = d.chance(0.5), d.chance(0.2), d.chance(0.2)

    def body(r: Maker, v: list[Value]) -> list[Value]:
        i, _, h, k, out, xs, end = v
        q = r.b
        at = _index(r, q, i, size, size - 1) if not symbolic else q.sub(q.sub(end, 1), i) if leave else i
        row = q.gather(xs, at, axis=0) if r.draw.chance(0.7) else None
        if row is None:
            zero = q.constant(0, "i64")
            row = q.reshape(q.dynamic_slice(xs, q.cast(at, to="i64"), zero, zero, sizes=(1, 1, width)),
                            shape=(1, width))  # type: ignore[assignment] # fmt: skip
        if r.draw.chance(0.5):
            w = r.new(F32, (width, width), constant=True)
            row = q.matmul(row, w)
        new = q.tanh(q.add(h, row))
        if peek:
            new = q.add(new, q.gather(out, i, axis=0))
        if r.draw.chance(0.2):
            new = q.mul(new, q.cast(i, to="f32"))
        to = _index(r, q, i, size, size - 1) if not symbolic else at
        zero = q.constant(0, "i64")
        written = q.dynamic_update_slice(out, q.reshape(new, shape=(1, 1, width)), q.cast(to, to="i64"), zero, zero)
        after = q.add(i, q.constant(step, dtype))
        go = _holds(r, q, after, end, step) if rotated else v[1]
        other = q.tanh(q.add(k, row)) if twin and not peek else k
        return [after, go, new, other, written]

    regions = [m.region(types, condition), m.region(types, body)]
    return m.emit("while", *operands, regions=regions, n_carry=5)


def recurrence(m: Maker) -> Any:
    """A scan with projections of slices, invariant work, dead, fixed and doubled values."""
    d = m.draw
    width, rows = d.pick((2, 3)), m.extent(static=False)
    x = m.new(F32, (rows, 2, width))
    h = m.new(F32, (2, width)) if d.chance(0.6) else m.b.full((2, width), d.pick((0.0, 1.0)), F32)
    w = m.new(F32, (width, width))
    k = h if d.chance(0.7) else m.new(F32, (2, width))
    operands = [h, k, h, m.b.full((2, width), d.pick((0.0, 1.0)), F32), x, x, w, w]
    types = [v.type if i not in (4, 5) else TensorType(F32, (2, width)) for i, v in enumerate(operands)]
    twin, used = d.chance(0.5), d.chance(0.7)

    def body(r: Maker, v: list[Value]) -> list[Value]:
        a, k, dead, _, x0, x1, w0, w1 = v
        q = r.b
        fixed = q.exp(q.mul(w0, 0.5))
        p = q.add(q.matmul(x0, fixed if r.draw.chance(0.5) else w1), q.constant(1.5, F32))
        if r.draw.chance(0.3):
            p = q.transpose(q.matmul(q.transpose(w0, perm=(1, 0)), q.transpose(p, perm=(1, 0))), perm=(1, 0))
        if r.draw.chance(0.3):
            p = q.matmul(q.concat(x1, p, axis=1), q.concat(w0, w1, axis=0))
        if r.draw.chance(0.4):
            both = (a, x0, x1)[: r.draw.integer(2, 3)] if r.draw.chance(0.5) else (x1, a)
            p = q.add(p, q.matmul(q.concat(*both, axis=1), r.new(F32, (len(both) * width, width), constant=True)))
        new = q.tanh(q.add(p, q.matmul(a, w1)))
        other = (q.tanh if r.draw.chance(0.7) else q.relu)(q.add(p, q.matmul(k, w0))) if twin else k
        last = q.reshape(q.reshape(new, shape=(2 * width,)), shape=(2, width))
        return [new, other, q.add(dead, new), last, q.relu(p), q.mul(a if r.draw.chance(0.5) else x1, 2.0)]

    region = m.region(types, body)
    results = m.emit("scan", *operands, regions=[region], n_carry=4, n_xs=2, reverse=d.chance(0.4))
    if used:
        m.emit("neg", results[2])
    return results


def cell(m: Maker) -> Any:
    """A product with constant weights, cut into parts that an elementwise tail reads; sometimes read otherwise too."""
    d, b = m.draw, m.b
    parts, width, rows = d.pick((2, 3, 4, 1)), d.pick((2, 3)), m.extent(static=False)
    x, w = m.new(F32, (rows, 3)), m.new(F32, (3, parts * width), constant=True)
    z = m.emit("matmul", x, w)[0]
    other = m.new(F32, (rows, parts * width))
    if d.chance(0.6):
        z = m.emit("add", z, other)[0]
    if d.chance(0.4):
        z = m.emit("mul", z, m.new(F32, (d.pick((parts * width, 1)),), constant=True))[0]

    def cut(v: Value, i: int, shift: int = 0) -> Value:
        low = i * width + shift
        return m.emit("slice", v, starts=(None, low), stops=(None, low + width))[0]

    shift = 1 if parts > 1 and d.chance(0.1) else 0
    values = [cut(z, i, shift if i == 0 else 0) for i in range(parts)] if parts > 1 else [z]
    values += [cut(other, d.integer(0, parts - 1))] if d.chance(0.4) else []
    values.append(m.new(F32, (rows, width)))
    for _ in range(d.integer(2, 6)):
        p, q = d.pick(values), d.pick(values)
        name = d.pick(("add", "mul", "sub", "tanh", "relu", "maximum", "matmul"))
        if name == "matmul":
            square = m.new(F32, (width, width), constant=True)
            values.append(m.emit("matmul", p, square)[0])
        else:
            values.append(m.emit(name, p, *([] if name in ("tanh", "relu") else [q]))[0])
    if d.chance(0.15):
        m.emit("reduce_sum", z, axes=(0,))
    return b


__all__ = ["cell", "counted_loop", "extent", "recurrence"]
