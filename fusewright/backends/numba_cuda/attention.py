"""Attention in one kernel: a block of queries walks over the keys, and scores never leave the registers.

Owns the walk, the running softmax, and the repair of rows that are not finite. Must not know how views become strides.
The order of every sum depends on the extents alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ...core.dims import Extent, ceildiv, compare_eq, floordiv, product
from ...core.dtypes import F32
from ..numba_cpu.loops.nest import scaled
from ..numba_cpu.loops.scalar import literal
from ..numba_cpu.templates.attention import AttentionPlan, Scores, fits, offsets
from ..numba_cpu.templates.strided import Strided
from ..numba_cpu.templates.template import Template, TextBuilder
from .tiles import pitch

WARPS = 4  # of 16 queries each
ROWS, THREADS = 16 * WARPS, 32 * WARPS
MOST = 128  # numbers per query, key and value: the registers hold no more
_NAME = re.compile(r"[A-Za-z_]\w*")


def serves(plan: AttentionPlan | None) -> bool:
    """There is a kernel for ``plan``."""
    if plan is None or plan.dtype is not F32 or not fits(plan):
        return False
    return plan.depth <= MOST and plan.width <= MOST


class Flash:
    """The kernel of ``plan``: a unit is one block of queries of one head.

    ``wide`` tells of an operand whether it begins where 16 bytes can be read at once; ``products`` as in
    ``contraction.Blocks``.
    """

    def __init__(self, plan: AttentionPlan, wide: Callable[[int], bool], products: int) -> None:
        self.plan, self.products = plan, products
        self.depth, self.width = (-(-n // 8) * 8 for n in (plan.depth, plan.width))
        largest = max(self.depth, self.width)
        self.count = 32 if largest <= 64 else 16  # keys per step
        self.resident = 4 if largest <= 32 else 2  # blocks of a processor: what the registers then leave is enough
        self.region = Scores(plan)
        # Elements of one copy: whole rows of 16 bytes where an operand lies in such rows.
        self.step = {
            name: 4 if wide(side.operand) and count % 4 == 0 and _rows_of_four(side) else 1
            for name, side, count in (("q", plan.q, plan.depth), ("k", plan.k, plan.depth), ("v", plan.v, plan.width))
        }
        t = self.text = TextBuilder("attention")
        for name, side in (("qa", plan.q), ("ka", plan.k), ("va", plan.v)):
            t.pointer(name, "operand", side.operand)
        for i, s in enumerate(self.region.streams):
            t.pointer(f"a{i}", "operand", s.operand)
        t.pointer("out", "output")
        self.queries, self.keys = t.dim(plan.queries), t.dim(plan.keys)
        key_bytes, value_bytes = (4 * self.count * pitch(n) for n in (self.depth, self.width))
        self.at_values = key_bytes
        self.at_votes = max(key_bytes + value_bytes, *(4 * ROWS * pitch(n) for n in (self.depth, self.width)))

    def template(self) -> Template:
        plan, t = self.plan, self.text
        blocks = ceildiv(plan.queries, ROWS)
        self._threads(0, "thread()")
        t.add(0, f"smem = shared({self.at_votes + 4 * WARPS})\nvotes = si32(smem + {self.at_votes})")
        t.add(0, f"k_at = smem + (g * {pitch(self.depth)} + t) * 4")
        t.add(0, f"v_at = smem + {self.at_values} + (2 * t * {pitch(self.width)} + g) * 4")
        t.add(0, "for u in range(start, stop):")
        self._unit("u")
        self._take("q", 1, "m0", self.queries, ROWS, "smem")
        t.add(1, f"copies_commit()\ncopies_wait0()\nbarrier()\nheld = registers({self.depth // 2})")
        t.add(1, f"hold_queries(held, smem + ((warp * 16 + g) * {pitch(self.depth)} + t) * 4, {self.depth})\nbarrier()")
        t.add(
            1, f"acc = registers({self.width // 2})\nraw = registers({self.count // 2})\nlow = {literal(F32, '-inf')}"
        )
        for r in (0, 1):
            t.add(1, f"top_{r} = low\nsum_{r} = f32(0.0)")
        self._scores()
        self._take("k", 1, "0", self.keys, self.count, "smem")
        t.add(1, "copies_commit()\nj0 = 0\nspoilt = False")
        if plan.hidden is not None:
            t.add(1, f"edge = m0 + {ROWS}")
        t.add(1, f"while j0 < {self.keys}:")
        if plan.hidden is not None:
            self._stop(2)
        # One barrier says that these keys are here and that nobody reads the values before them any more, the other
        # one the same of these values and of these keys.
        t.add(2, "copies_wait0()\nbarrier()")
        self._take("v", 2, "j0", self.keys, self.count, f"smem + {self.at_values}")
        t.add(2, "copies_commit()")
        full = isinstance(plan.queries, int) and plan.queries % ROWS == 0
        if not full:
            t.add(2, f"if m < {self.queries}:")
        t.add(3 - full, f"score(raw, held, k_at, {self.depth}, {self.count}, {self.products})")
        self._softmax(3 - full)
        t.add(2, "copies_wait0()\nbarrier()")
        self._take("k", 2, f"j0 + {self.count}", self.keys, self.count, "smem")
        t.add(2, "copies_commit()")
        if not full:
            t.add(2, f"if m < {self.queries}:")
        t.add(3 - full, f"weigh(acc, raw, v_at, {self.width}, {self.count}, {self.products})")
        t.add(2, f"j0 += {self.count}")
        t.add(1, "copies_wait0()\nbarrier()")
        self._leave()
        flops = 2 * product(plan.lead) * plan.queries * plan.keys * (plan.depth + plan.width)
        return Template(t.source(), t.entry, tuple(t.args), product(plan.lead) * blocks, 1, 0, flops)

    def _threads(self, indent: int, number: str) -> None:
        self.text.add(indent, f"tid = {number}\nlane = tid % 32\nwarp = tid // 32\ng = lane // 4\nt = lane % 4")

    def _unit(self, number: str) -> None:
        """Where unit ``number`` lies in the operands and the result."""
        t, blocks = self.text, self.text.dim(ceildiv(self.plan.queries, ROWS))
        t.add(1, f"li = {number} // {blocks}\nm0 = {number} % {blocks} * {ROWS}\nm = m0 + warp * 16")
        self.names = offsets(t, 1, self.plan, self.region)

    # -- operands -----------------------------------------------------------------------------------------------------
    def _take(self, name: str, indent: int, first: str, limit: str, rows: int, room: str) -> None:
        """Start the copies of ``rows`` rows of q, k or v from row ``first`` on to ``room``; zeros past ``limit``."""
        t, side = self.text, {"q": self.plan.q, "k": self.plan.k, "v": self.plan.v}[name]
        count = self.plan.width if name == "v" else self.plan.depth
        padded, each = (self.width if name == "v" else self.depth), self.step[name]
        per_row = padded // each
        row, lane = side.strides[-2:]
        whole = THREADS % per_row == 0  # every pass takes whole rows
        if whole:
            t.add(indent, f"r0 = tid // {per_row}\nd_ = tid % {per_row} * {each}")
        t.add(indent, f"for p in range({-(-rows * per_row // THREADS)}):")
        if whole:
            t.add(indent + 1, f"r_ = r0 + p * {THREADS // per_row}")
        else:
            t.add(indent + 1, f"c = p * {THREADS} + tid\nr_ = c // {per_row}\nd_ = c % {per_row} * {each}")
        if rows * per_row % THREADS:
            t.add(indent + 1, f"if r_ < {rows}:")
            indent += 1
        t.add(indent + 1, f"n_ = {first} + r_\nok = (n_ < {limit})" + (f" & (d_ < {count})" if padded != count else ""))
        at = f"select(ok, ({name}o + {scaled(t, 'n_', row)} + {scaled(t, 'd_', lane)}) * 4, 0)"
        t.add(indent + 1, f"copy{4 * each}({room} + (r_ * {pitch(padded)} + d_) * 4, {name}a + {at}, "
              f"select(ok, i64({4 * each}), i64(0)))")  # fmt: skip

    # -- scores -------------------------------------------------------------------------------------------------------
    def _scores(self) -> None:
        """Keep the statements of a row and of an element; write those of this thread's two rows.

        What lies past the end is read as the last row or key: nothing of it is stored.
        """
        t, region = self.text, self.region
        self.value = region.emit(self.names, "get", t.dim)[0].text
        mark = len(t.lines)
        region.row_pointers(t, 0, None, self.names)
        self.row_lines = [*(line.strip() for line in t.lines[mark:]), *region.row_lines]
        del t.lines[mark:]
        self.own_row = {"row", *(line.partition(" = ")[0] for line in self.row_lines)}
        self.own = {line.partition(" = ")[0] for line in region.lines}
        for r in (0, 1):
            t.add(1, f"row_{r} = min(m + g + {8 * r}, {self.queries} - 1)")
            for line in self.row_lines:
                t.add(1, self._renamed(line, r, 0, 0))

    def _renamed(self, line: str, row: int, element: int, column: int) -> str:
        """``line`` for one of the thread's rows, elements and columns."""

        def name(m: re.Match[str]) -> str:
            if m[0] in self.own_row:
                return f"{m[0]}_{row}"
            return f"{m[0]}_{element}" if m[0] in self.own else f"j_{column}" if m[0] == "j" else m[0]

        return _NAME.sub(name, line.replace("sq[j]", f"raw[{element}]"))

    def _softmax(self, indent: int) -> None:
        """``raw`` becomes the weights of these keys; sums so far are brought to the new largest score."""
        t = self.text
        columns = self.count // 8 * 2
        for c in range(columns):
            t.add(indent, f"n_{c} = j0 + 2 * t + {c // 2 * 8 + c % 2}\nj_{c} = min(n_{c}, {self.keys} - 1)")
        best: dict[int, str] = {0: "top_0", 1: "top_1"}
        for e in range(self.count // 2):
            r, c = e % 4 // 2, e // 4 * 2 + e % 2
            for line in self.region.lines:
                t.add(indent, self._renamed(line, r, e, c))
            t.add(indent, f"x_{e} = select(n_{c} < {self.keys}, {self._renamed(self.value, r, e, c)}, low)")
            t.add(indent, f"b{r}_{e} = select(x_{e} > {best[r]}, x_{e}, {best[r]})")
            best[r] = f"b{r}_{e}"
        for r in (0, 1):
            t.add(indent, f"new_{r} = {best[r]}")
            for distance in (1, 2):
                t.add(indent, f"far = shuffle(new_{r}, {distance})\nnew_{r} = select(far > new_{r}, far, new_{r})")
            # Where nothing but minus infinity has come yet, weights are zero, not the NaN of infinity less infinity.
            t.add(indent, f"base_{r} = select(new_{r} == low, f32(0.0), new_{r})")
            t.add(indent, f"less_{r} = exp(top_{r} - base_{r})\ntop_{r} = new_{r}\nsum_{r} = sum_{r} * less_{r}")
        for e in range(self.count // 2):
            r = e % 4 // 2
            t.add(indent, f"w_{e} = exp(x_{e} - base_{r})\nsum_{r} = sum_{r} + w_{e}\nraw[{e}] = w_{e}")
        t.add(indent, f"rescale(acc, less_0, less_1, {self.width})")

    def _stop(self, indent: int) -> None:
        """Leave the walk before keys that every query of the block has hidden, where their weights are exactly zero.

        Values are still looked at: zero times infinity is NaN, for all rows.
        """
        t = self.text
        t.add(indent, "if j0 == edge:")
        t.add(indent + 1, f"hidden = {literal(F32, self.plan.hidden)}\nfree = True")
        for r in (0, 1):
            nothing = f"(hidden <= top_{r}) & (exp(hidden - select(top_{r} == low, f32(0.0), top_{r})) == f32(0.0))"
            t.add(indent + 1, f"free = free & ((m + g + {8 * r} >= {self.queries}) | ({nothing}))")
        self._vote(indent + 1, "free", "&")
        t.add(indent + 1, "if free:")
        t.add(indent + 2, f"zero = f32(0.0)\npv = pf32(va + vo * 4)\nfor n_ in range(j0 + warp, {self.keys}, {WARPS}):")
        row = scaled(t, "n_", self.plan.v.strides[-2])
        t.add(
            indent + 3, f"for d_ in range(lane, {self.plan.width}, 32):\n    zero = fma(pv[{row} + d_], f32(0.0), zero)"
        )
        t.add(indent + 2, "spoilt = zero != f32(0.0)")
        self._vote(indent + 2, "spoilt", "|")
        t.add(indent + 2, "break")

    def _vote(self, indent: int, name: str, how: str) -> None:
        """``name`` becomes the threads' common answer."""
        t = self.text
        t.add(indent, f"vote = i32({name})")
        self._joined(indent, "vote", how)
        t.add(indent, "if lane == 0:\n    votes[warp] = vote\nbarrier()")
        t.add(indent, f"{name} = ({f' {how} '.join(f'votes[{w}]' for w in range(WARPS))}) != 0\nbarrier()")

    def _joined(self, indent: int, name: str, how: str) -> None:
        for distance in (16, 8, 4, 2, 1):
            self.text.add(indent, f"{name} = {name} {how} shuffle({name}, {distance})")

    # -- results ------------------------------------------------------------------------------------------------------
    def _leave(self) -> None:
        """Sums over their weights' sum, row by row in the order of memory."""
        plan, t, wide = self.plan, self.text, pitch(self.width)
        for r in (0, 1):
            t.add(1, f"sum_{r} = sum_{r} + shuffle(sum_{r}, 1)\nsum_{r} = sum_{r} + shuffle(sum_{r}, 2)")
        t.add(1, f"rescale(acc, f32(1.0) / sum_0, f32(1.0) / sum_1, {self.width})")
        t.add(1, f"leave_rows(acc, smem + ((warp * 16 + g) * {wide} + 2 * t) * 4, {self.width})\nbarrier()")
        # Worked out anew: kept through the walk, these numbers would take registers that it needs.
        self._threads(1, "later(thread())")
        self._unit("later(u)")
        t.add(1, f"po = pf32(out)\ndone = sf32(smem)\nfor i in range(min(16, {self.queries} - m)):")
        t.add(2, f"at = oo + {scaled(t, '(m + i)', plan.out[-2])}\nbad = i32(spoilt)")
        t.add(2, f"for d_ in range(lane, {plan.width}, 32):\n    y = done[(warp * 16 + i) * {wide} + d_]")
        t.add(3, "po[at + d_] = y\nbad = bad | i32(not isfinite(y))")
        self._joined(2, "bad", "|")
        t.add(2, "if bad != 0:")
        self._again(3)
        t.add(1, "barrier()")

    def _again(self, indent: int) -> None:
        """The same row by plain float32 products, all lanes together: splitting turns an infinity into NaN."""
        plan, t = self.plan, self.text
        t.add(indent, "row_0 = m + i\nqs = pf32(qa + qo * 4)\nks = pf32(ka + ko * 4)\nvs = pf32(va + vo * 4)")
        t.add(indent, "top = low")
        for line in self.row_lines:
            t.add(indent, self._renamed(line, 0, 0, 0))
        parts = -(-plan.width // 32)
        for p in range(parts):
            t.add(indent, f"y{p} = f32(0.0)")
        t.add(indent, f"total = f32(0.0)\nfor j_0 in range({self.keys}):")
        self._score_again(indent + 1)
        t.add(indent + 1, "top = select(s > top, s, top)")
        t.add(indent, f"for j_0 in range({self.keys}):")
        self._score_again(indent + 1)
        t.add(indent + 1, "s = exp(s - top)\ntotal = total + s")
        value = f"vs[{scaled(t, 'j_0', plan.v.strides[-2])} + d_]"
        for p in range(parts):
            t.add(indent + 1, f"d_ = lane + {32 * p}\nif d_ < {plan.width}:\n    y{p} = fma(s, {value}, y{p})")
        if not isinstance(plan.keys, int) or plan.keys == 0:
            # A product over no keys is zero, not zero by zero.
            t.add(indent, f"if {self.keys} == 0:\n    total = f32(1.0)")
        for p in range(parts):
            t.add(indent, f"d_ = lane + {32 * p}\nif d_ < {plan.width}:\n    po[at + d_] = y{p} / total")

    def _score_again(self, indent: int) -> None:
        """``s``, the score of query ``row_0`` and key ``j_0``, the same in all lanes."""
        plan, t = self.plan, self.text
        (q_row, q_lane), (k_row, k_lane) = plan.q.strides[-2:], plan.k.strides[-2:]
        t.add(indent, f"dot = f32(0.0)\nfor d_ in range(lane, {plan.depth}, 32):")
        query = f"qs[{scaled(t, 'row_0', q_row)} + {scaled(t, 'd_', q_lane)}]"
        t.add(indent + 1, f"dot = fma({query}, ks[{scaled(t, 'j_0', k_row)} + {scaled(t, 'd_', k_lane)}], dot)")
        self._joined(indent, "dot", "+")
        for line in self.region.lines:
            t.add(indent, self._renamed(line, 0, 0, 0).replace("raw[0]", "dot"))
        t.add(indent, f"s = {self._renamed(self.value, 0, 0, 0).replace('raw[0]', 'dot')}")


def _rows_of_four(side: Strided) -> bool:
    """Every row of ``side`` is dense and begins at a multiple of four elements behind its operand."""
    places: tuple[Extent, ...] = (side.offset, *side.strides[:-1])
    return side.strides[-1] == 1 and all(compare_eq(floordiv(e, 4) * 4, e) is True for e in places)
