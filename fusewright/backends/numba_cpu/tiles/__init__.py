"""Coarse micro-kernels: one intrinsic emits a whole register tile, and each has a NumPy twin of the same signature.

Owns their registration under the names that kernel text uses. Must not know about graphs or templates.
"""

from __future__ import annotations

from ..registry import register
from . import contract, depthwise, twin

register("contract_tile", contract.contract_tile, twin.contract_tile)
register("depthwise_tile", depthwise.depthwise_tile, twin.depthwise_tile)
