"""From compiled targets to one bundle.

Owns the content of the members and the packing of constants into weights.bin; the container is `runtime.format`'s.
Must not know how kernels are made. The bytes depend on the arguments alone: no clock, no paths, no hash order.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.errors import CompileRefused
from ..core.manifest import Manifest, RunSymbol, Signature, Symbol, Target, canonical
from ..core.plan import Plan, memory_expression
from ..core.planscope import check_scopes
from ..core.report import report_fields
from ..runtime.format import WEIGHTS, build, save_atomic

ALIGN = 64


@dataclass(frozen=True, slots=True)
class TargetImage:
    """One native target: ``plan.entries`` gives each symbol's offset in ``code``; ``features`` the machine must have.

    With ``files`` (name in the target's folder: bytes) these are the code, and entries are names alone.
    """

    name: str
    code: bytes
    plan: Plan
    features: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


class Weights:
    """Packs constants: 64-byte aligned, equal bytes once. ``add`` as constants come up, then hand it to the writer."""

    def __init__(self) -> None:
        self.pieces: list[memoryview] = []
        self.size = 0
        self._known: dict[bytes, tuple[int, int]] = {}

    def add(self, array: np.ndarray) -> tuple[int, int]:
        """(offset, bytes) of ``array`` in weights.bin, C order, little-endian. It is not copied: do not change it."""
        flat = np.ascontiguousarray(array).reshape(-1)
        if flat.dtype.byteorder == ">":
            flat = flat.astype(flat.dtype.newbyteorder("<"))
        data = memoryview(flat.view(np.uint8)) if flat.size else memoryview(b"")
        key = hashlib.sha256(data).digest() + data.nbytes.to_bytes(8, "little")
        found = self._known.get(key)
        if found is None:
            pad = -self.size % ALIGN
            if pad:
                self.pieces.append(memoryview(bytes(pad)))
            found = self._known[key] = (self.size + pad, data.nbytes)
            self.pieces.append(data)
            self.size += pad + data.nbytes
        return found


def write_bundle(
    *,
    signature: Signature,
    symbols: Sequence[Symbol],
    batch: str | None,
    graph_text: bytes | str,
    weights: Weights | Sequence[Any],
    targets: Sequence[TargetImage],
    in_place: Sequence[Mapping[str, Any]] = (),
    numerics: str = "strict",
    source_hash: str = "",
    passes: Sequence[str] = (),
    threads: int | None = None,
    tuned: bool = False,
    choices: Sequence[Mapping[str, Any]] = (),
    report: Mapping[str, Any] | None = None,
    producer: str = "fusewright",
    hash_threads: int = 1,
) -> memoryview:
    """The bytes of a bundle, in page-aligned read-only memory, for ``runtime.bundle.load`` or ``save_bundle``.

    ``weights`` is a Weights, or the pieces of weights.bin in order. ``batch`` names the symbol in which every output
    was proved row-independent. ``report`` holds further fields of report.json. Raises CompileRefused when the parts do
    not fit each other.
    """
    names = [t.name for t in targets]
    if len(set(names)) != len(names):
        raise CompileRefused(f"two targets have one name: {names}")
    pieces = weights.pieces if isinstance(weights, Weights) else list(weights)
    size = sum(memoryview(p).nbytes for p in pieces)
    described = []
    for t in targets:
        t.plan.verify()
        check_scopes(t.plan)
        _check(t, signature, symbols, size)
        described.append(Target(t.name, t.features, memory_expression(t.plan)))
    manifest = Manifest(signature, symbols, batch, described, numerics, source_hash, passes, threads, tuned, producer)
    manifest.choices = tuple(dict(c) for c in choices)
    manifest.run_symbols = tuple(_run_symbols(targets[0].plan)) if targets else ()
    manifest.verify()
    text = graph_text.encode() if isinstance(graph_text, str) else graph_text
    fields = report_fields(targets[0].plan, in_place, numerics) if targets else {"in_place": list(in_place)}
    members: dict[str, Sequence[Any]] = {"graph.txt": [text], WEIGHTS: pieces}
    for t in targets:
        for name, code in (t.files or {"code.bin": t.code}).items():
            members[f"native/{t.name}/{name}"] = [code]
        members[f"native/{t.name}/plan.json"] = [t.plan.to_bytes()]
    members["report.json"] = [canonical({**fields, **(report or {})})]
    return build(manifest, members, hash_threads)


def _run_symbols(plan: Plan) -> list[RunSymbol]:
    """The symbols that a call finds out while it runs, as a reader of the signature wants them."""
    texts = [(b, plan.exprs[b.most]) for b in plan.bound]
    return [RunSymbol(b.name, b.low, int(text) if text.isdigit() else text) for b, text in texts]


def _check(target: TargetImage, signature: Signature, symbols: Sequence[Symbol], weight_bytes: int) -> None:
    plan, declared = target.plan, {s.name for s in symbols}
    if plan.n_inputs != len(signature.inputs) or len(plan.outputs) != len(signature.outputs):
        raise CompileRefused(f"{target.name}: the plan's inputs and outputs are not those of the signature")
    if not declared.issuperset(plan.symbols):
        raise CompileRefused(f"{target.name}: the plan uses symbols {plan.symbols}, declared are {sorted(declared)}")
    for name, offset in plan.entries.items():
        if not target.files and offset >= len(target.code):
            raise CompileRefused(f"{target.name}: symbol {name} lies past the end of the code")
    for c in plan.constants:
        if c.offset + c.bytes > weight_bytes:
            raise CompileRefused(f"{target.name}: a constant at {c.offset} lies past the end of the weights")


def save_bundle(data: memoryview, path: str | os.PathLike[str]) -> None:
    """Write the bytes of a bundle to ``path``: a temporary file in the same folder, synced and renamed."""
    save_atomic(data, path)
