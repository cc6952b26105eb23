"""One kernel template run on arrays, compiled or as plain Python, for tests.

Owns binding of a template's arguments outside a bundle. Must not be imported by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from ....core.dims import evaluate
from ..tiles.probe import compile_text, run_text, run_twin
from .template import Template

Arrays = Mapping[tuple[str, int], np.ndarray]  # by an argument's kind and index
_compiled = cache(compile_text)


def words_of(template: Template, arrays: Arrays, env: Mapping[str, int]) -> list[int]:
    """The words that the kernel is called with: numbers under ``env``, and where the arrays lie."""
    return [
        evaluate(a.value, env) if a.kind == "dim" else int(arrays[a.kind, a.index].ctypes.data) for a in template.args
    ]


def run_template(
    template: Template, arrays: Arrays, env: Mapping[str, int], chunks: int = 1, twin: bool = False
) -> None:
    """The whole extent, compiled in ``chunks`` pieces, or as plain Python (``twin``) over bounds-checked arrays."""
    words = words_of(template, arrays, env)
    extent, scratch = evaluate(template.extent, env), evaluate(template.scratch_bytes, env)
    if twin:
        distinct = {a.ctypes.data: a for a in arrays.values() if a.size}
        run_twin(template.text, template.entry, words, list(distinct.values()), extent, scratch)
    else:
        run_text(_compiled(template.text, template.entry), words, extent, scratch, chunks)
