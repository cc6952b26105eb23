"""Which kernels compute a node: the one place that maps ops to templates."""

from .kernels import choose, choose_as, copy_kernel
from .words import Chosen, Word

__all__ = ["Chosen", "Word", "choose", "choose_as", "copy_kernel"]
