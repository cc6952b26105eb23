"""Fused recurrent cells: LSTMBlockCell, GRUBlockCell, BlockLSTM.

Owns their gate orders.
"""

from __future__ import annotations
