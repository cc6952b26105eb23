"""Gives the tiles their names in kernel text.

Owns the registration only. Imports Numba; the generators never import it.
"""

from __future__ import annotations

from ..registry import register
from . import contract, depthwise, twin

register("contract_tile", contract.contract_tile, twin.contract_tile)
register("depthwise_tile", depthwise.depthwise_tile, twin.depthwise_tile)
