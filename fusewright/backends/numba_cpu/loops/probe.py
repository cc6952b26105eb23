"""The kernels of one node run on arrays, for tests and benchmarks.

Owns binding of arguments outside a bundle. Must not be imported by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ....core.dims import evaluate
from ....ir.graph import Node
from ..templates.probe import run_template, words_of
from ..templates.template import Template
from ..tiles.probe import aligned, run_text
from . import generate, temps

Array = np.ndarray
Function = Callable[[int, int, int, int], None]


def symbol_of(template: Template) -> str:
    """A name for the kernel by its text alone."""
    return "k" + hashlib.sha256(template.text.encode()).hexdigest()[:20]


def run_templates(
    templates: Sequence[Template],
    inputs: Sequence[Array],
    outputs: Sequence[Array],
    env: Mapping[str, int],
    functions: Mapping[str, Function] | None = None,
    chunks: int = 1,
    shared: Sequence[Array] = (),
) -> None:
    """Run kernels over stored arrays: compiled ``functions`` by symbol, or the unjitted text without them."""
    given = {"operand": inputs, "output": outputs, "temp": shared}
    memory = {(kind, i): array for kind, arrays in given.items() for i, array in enumerate(arrays)}
    for template in templates:
        if functions is None:
            run_template(template, memory, env, twin=True)
            continue
        extent, scratch = evaluate(template.extent, env), evaluate(template.scratch_bytes, env)
        run_text(functions[symbol_of(template)], words_of(template, memory, env), extent, scratch, chunks)


def run_node(
    node: Node,
    inputs: Sequence[Array],
    env: Mapping[str, int],
    functions: Mapping[str, Function] | None = None,
    chunks: int = 1,
    overwrite: int | None = None,
) -> list[Array]:
    """Results of ``node`` (stored types) through its kernels; operand ``overwrite`` gives its storage to result 0."""
    inputs = [np.ascontiguousarray(x).copy() for x in inputs]
    outputs = [np.full(v.type.concrete(env), 7, v.dtype.np) for v in node.results]
    if overwrite is not None:
        outputs[0] = inputs[overwrite].view(outputs[0].dtype).reshape(outputs[0].shape)
        for i, v in enumerate(node.operands):
            if v is node.operands[overwrite]:
                inputs[i] = inputs[overwrite]
    shared = [aligned(evaluate(b, env)) for b in temps(node)]
    run_templates(generate(node), inputs, outputs, env, functions, chunks, shared)
    return outputs
