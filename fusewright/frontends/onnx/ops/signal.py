"""Sampling and transforms: GridSample, DFT, Det and others of few uses.

Owns their formulas, from the ONNX operator pages.
"""

from __future__ import annotations
