"""The answer of a generator that a node is outside what its kernels cover.

Owns the exception only. ``loops.supports`` turns it into False; passes then decompose the node.
"""

from __future__ import annotations

from ....core.errors import CompileRefused


class NoKernel(CompileRefused):
    """No loop kernel covers the node; the message says what stands in the way."""
