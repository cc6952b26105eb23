"""What the choice of a GPU kernel hands to lowering.

Owns the record only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...core.dims import Extent, ceildiv, minimum
from ...core.plan import Launch
from ..numba_cpu.select import Chosen

Mode = Literal["thread", "block"]
BLOCK = 256  # threads of a block that nothing speaks against


@dataclass(frozen=True, slots=True)
class Placed(Chosen):
    """A kernel call with its launch: in mode ``thread`` each thread runs the text for units of its own, in mode
    ``block`` all threads of a block run it together for the block's ``units``. ``room`` is scratch per thread."""

    mode: Mode = "thread"
    block: int = BLOCK
    units: int = BLOCK
    shared: int = 0
    most: int = 0  # blocks; 0 is no limit
    room: Extent = 0
    resident: int = 0  # blocks that a processor is to hold at a time: bounds the registers

    @property
    def launch(self) -> Launch:
        return Launch(self.block, self.units, self.shared, self.most)

    @property
    def whole(self) -> Extent:
        """Bytes of scratch of a whole launch."""
        blocks = ceildiv(self.extent, self.units)
        return (minimum(blocks, self.most) if self.most else blocks) * self.block * self.room
