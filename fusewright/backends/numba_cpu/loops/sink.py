"""Where a kernel's results go: where they lie, or through scratch past the caches.

Owns when results are streamed, and the text of it. The choice depends on extents alone; values never depend on it.
"""

from __future__ import annotations

from collections.abc import Callable

from ....core.dims import Extent
from ..templates.template import TextBuilder
from ..templates.units import units

# A result of this size leaves the caches before its consumer comes, and fetching its lines to overwrite them is a third
# of the traffic.
STREAMED = 16 << 20
BLOCK = 4096  # bytes that wait in scratch before they go out
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
        return self.offset + self.room + 3 * LINE if self.possible else 0

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
        body: Callable[[int], None],
    ) -> None:  # fmt: skip
        """``body`` for each ``j`` of ``[first, past)``, which stores element ``j`` at ``r0[j]``.

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
        t.add(indent + 1, f"r0 = {maker}(place - b * {size})\nfor j in range(b, e):")
        body(indent + 2)
        self.when(t, indent + 1, f"stream({held}, place, (e - b) * {size})")
        t.add(indent + 1, "b = e")

    # -- rows that a kernel keeps until they are complete -------------------------------------------------------------
    def open_rows(self, t: TextBuilder, row: str) -> None:
        """Before the loop over rows of ``row`` bytes each."""
        self.when(t, 0, f"sent = out + start * {row}")

    def row(self, t: TextBuilder, indent: int, maker: str) -> None:
        """Define ``r``, the row ``at`` bytes into ``out``, as its passes read and write it."""
        front = f"scratch + {self.offset + LINE} + ((out + at) & {LINE - 1})"
        if self.certain:
            t.add(indent, f"place = {front}")
        else:
            t.add(indent, "place = out + at")
            self.when(t, indent, f"place = {front}")
        t.add(indent, f"r = {maker}(place)")

    def send(self, t: TextBuilder, indent: int, done: str) -> None:
        """The first ``done`` bytes of the row are complete."""
        upto = f"upto = (out + at + {done}) & {-LINE}"
        self.when(t, indent, upto, "stream(sent, place + (sent - out - at), upto - sent)", "sent = upto")

    def close_row(self, t: TextBuilder, indent: int) -> None:
        self.when(t, indent, f"carry(scratch + {self.offset + LINE}, place + (sent - out - at))")

    def close_rows(self, t: TextBuilder, row: str) -> None:
        """Behind the loop over rows."""
        rest = f"stream(sent, scratch + {self.offset + LINE}, out + stop * {row} - sent)"
        self.when(t, 0, rest, "streamed()")
