"""Where a kernel's results go: where they lie, or through scratch past the caches.

Owns when results are streamed, and the text of it. The choice depends on extents alone; values never depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ....core.dims import Extent
from ..templates.template import TextBuilder
from ..templates.units import units

# A result of this size leaves the caches before its consumer comes, and fetching its lines to overwrite them is a third
# of the traffic.
STREAMED = 16 << 20
BLOCK = 512  # bytes that go by between two moves past the caches: few, so that reads and writes of memory overlap
LINE = 64


class Sink:
    """The one result, of ``nbytes``, whose chunks are contiguous. Up to ``room`` bytes wait in scratch at ``offset``.

    Scratch has the alignment of the result, and blocks end where lines do: a line that is streamed must not be touched
    in any other way. What a row leaves of its last line is carried to the front of the next one.
    """

    def __init__(self, nbytes: Extent, offset: int, room: int) -> None:
        self.nbytes, self.room = nbytes, room
        self.offset = -(-offset // LINE) * LINE
        fixed = isinstance(nbytes, int)
        self.possible = units().lanes and room > 0 and not (isinstance(nbytes, int) and nbytes < STREAMED)
        self.certain = self.possible and fixed

    @property
    def scratch_bytes(self) -> int:
        return self.offset + 2 * self._pitch if self.possible else 0

    @property
    def _pitch(self) -> int:
        """From one row that waits to the other: what they hold, and the lines at both ends."""
        return -(-self.room // LINE) * LINE + 2 * LINE

    def decide(self, t: TextBuilder) -> None:
        """At the start of the kernel."""
        if self.possible and not self.certain:
            t.add(0, f"big = {t.dim(self.nbytes)} >= {STREAMED}")

    def when(self, t: TextBuilder, indent: int, *lines: str) -> None:
        """``lines``, for results that are streamed."""
        if self.certain:
            for line in lines:
                t.add(indent, line)
        elif self.possible:
            t.add(indent, "if big:")
            for line in lines:
                t.add(indent + 1, line)

    def blocks(
        self, t: TextBuilder, indent: int, first: str, past: str, result: tuple[str, str, int],
        body: Callable[[int], None], ahead: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """``body`` for each ``j`` of ``[first, past)``, which stores element ``j`` at ``r0[j]``; ``ahead`` now and
        then, where ``b`` moves.

        ``result``: pointer maker, address of element 0, bytes of an element.
        """
        maker, at, size = result
        if not self.possible:
            t.add(indent, f"r0 = {maker}({at})\nfor j in range({first}, {past}):")
            body(indent + 1)
            return
        t.add(indent, f"b = {first}\nwhile b < {past}:\n    e = {past}")
        held = f"{at} + b * {size}"
        ends = f"e = min(((({held}) // {BLOCK} + 1) * {BLOCK} - ({at}) + {size - 1}) // {size}, {past})"
        if self.certain:
            t.add(indent + 1, f"{ends}\nplace = scratch + {self.offset} + (({held}) & {LINE - 1})")
        else:
            t.add(indent + 1, f"place = {held}\nif big:\n    {ends}")
            t.add(indent + 2, f"place = scratch + {self.offset} + (({held}) & {LINE - 1})")
        if ahead:
            self.when(t, indent + 1, *ahead)
        t.add(indent + 1, f"r0 = {maker}(place - b * {size})\nfor j in range(b, e):")
        body(indent + 2)
        self.when(t, indent + 1, f"stream({held}, place, (e - b) * {size})")
        t.add(indent + 1, "b = e")

    # -- rows that a kernel keeps until they are complete -------------------------------------------------------------
    # Two rows wait: while one is made the one before it leaves, so that memory is written all the time. ``sent``: how
    # far the result is; ``due``: how far it may go; ``shift``: from there to where it waits.
    def open_rows(self, t: TextBuilder, row: str) -> None:
        """Before the loop over rows of ``row`` bytes each."""
        self.when(t, 0, f"sent = out + start * {row}", "due = sent", "shift = 0")

    def row(self, t: TextBuilder, indent: int, maker: str) -> None:
        """Define ``r``, the row ``at`` bytes into ``out``, as its passes read and write it at address ``place``."""
        front = f"scratch + {self.offset} + (u & 1) * {self._pitch} + ((out + at) & {LINE - 1})"
        if self.certain:
            t.add(indent, f"place = {front}")
        else:
            t.add(indent, "place = out + at")
            self.when(t, indent, f"place = {front}")
        t.add(indent, f"r = {maker}(place)")

    def send(self, step: int) -> list[str]:
        """Lines that send on ``step`` bytes, whole lines, of the row before."""
        return [f"upto = min(sent + {step}, due)", "stream_lines(sent, sent + shift, upto - sent)", "sent = upto"]

    def close_row(self, t: TextBuilder, indent: int, row: str) -> None:
        """The row of ``row`` bytes is complete."""
        other = f"scratch + {self.offset} + (1 - (u & 1)) * {self._pitch}"
        self.when(
            t, indent, "stream_lines(sent, sent + shift, due - sent)", "sent = max(sent, due)",
            "shift = place - (out + at)", f"due = (out + at + {row}) & {-LINE}",
            f"head = -sent & {LINE - 1}", "stream(sent, sent + shift, head)", "sent = sent + head",
            f"carry({other}, due + shift)",
        )  # fmt: skip

    def close_rows(self, t: TextBuilder, row: str) -> None:
        """Behind the loop over rows."""
        self.when(t, 0, f"stream(sent, sent + shift, out + stop * {row} - sent)", "streamed()")
