"""Which kernels compute a node: the one place that maps ops to templates."""

from .kernels import choose, copy_kernel
from .words import Chosen, Word

__all__ = ["Chosen", "Word", "choose", "copy_kernel"]
