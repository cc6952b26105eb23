"""Gives the tiles their names in kernel text.

Owns the registration only. Imports Numba; the generators never import it.
"""

from __future__ import annotations

from ..registry import register
from . import contract, depthwise, dot, lanes, pool, sha256, twin, winograd

register("contract_tile", contract.contract_tile, twin.contract_tile)
register("round_tile", dot.round_tile, twin.round_tile)
register("depthwise_tile", depthwise.depthwise_tile, twin.depthwise_tile)
register("winograd_input", winograd.winograd_input, twin.winograd_input)
register("winograd_output", winograd.winograd_output, twin.winograd_output)
register("lanes_sum", lanes.lanes_sum, lanes.lanes_sum_twin)
register("lanes_max", lanes.lanes_max, lanes.lanes_max_twin)
register("lanes_squares", lanes.lanes_squares, lanes.lanes_squares_twin)
register("sha256_tile", sha256.sha256_tile, sha256.sha256_twin)
register("pool_tile", pool.pool_tile, pool.pool_tile_twin)
