"""Segment reductions and counting.

Owns sums and other reductions by segment number.
"""

from __future__ import annotations
