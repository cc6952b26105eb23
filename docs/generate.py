"""Write docs/keras-support.md from the tables of the Keras frontend, so that the page cannot disagree with the code.

python docs/generate.py [--check]
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from fusewright.frontends.keras import layers
from fusewright.frontends.keras.call import CELLS, HINTS, LAYERS, OPERATIONS, REFUSED, REFUSED_OPERATIONS

PAGE = Path(__file__).resolve().parent / "keras-support.md"
HEAD = """# What the Keras frontend supports

Written by `python docs/generate.py` from the frontend's own tables.

Model files: `.keras` (Keras 3, and the early archives of Keras 2), full-model `.h5`/`.hdf5` of Keras 1 and 2,
architecture `.json` with `weights=`, and live `keras.Model` objects. A layer class that stands in no table is refused
with its path, together with everything else that is refused; `fw.register_layer` adds your own.

An option that a layer class has but that cannot be honoured (`stateful=True`, `use_gate=True`...) is refused by name,
never ignored. LoRA adapters are merged. `CuDNNLSTM` and `CuDNNGRU` are read as the
LSTM and GRU that they compute. Quantised `Dense`, `EinsumDense` and `Embedding` layers run as Keras runs them:
int8 and (but for `EinsumDense`) int4, packed, by channel or by group; float8, GPTQ and AWQ are refused.

The training configuration (loss, optimiser, metrics) is kept as data in `graph.meta["training"]`, as the file states
it. It is known after import and travels through passes; it counts neither for the fingerprint nor for the bundle.

Weights spread over several files (`*.weights.json` with shards) are refused, since no name found in a file is opened:
save one `.weights.h5` or a whole `.keras` file.

An index of an `Embedding` outside the table: Keras raises on a CPU and gives zeros on a GPU. Here there is one answer
on every machine: the nearest row (a negative index the first, one past the end the last), and never a read outside the
table.

Where eager Keras 3.15 and what it traces differ, the native route is eager Keras: a `TimeDistributed` with batch and
time free is traced with as many steps as the batch has rows, and a `CenterCrop` of a free size does not resize a small
image (here the call refuses it). One eager answer is not followed: a `MultiHeadAttention` takes the masks off its
inputs, so that other layers on the same tensors see them or not by the order of execution; here they see them.

## Keras 1

Files of Keras 1.0 to 1.2 mean what their Keras computed, not what a later one makes of them:

* classes and options under their old names (`Convolution2D`, `nb_filter`, `border_mode`, `dim_ordering`,
  `inner_activation`, `consume_less`...), a `Sequential` that starts with a `Merge` of models (it has several inputs),
  and nested models whose layers the file keeps as if they were the outer model's;
* weights in 12 arrays (LSTM, ConvLSTM2D), 9 (GRU) or 3 (`consume_less="gpu"`);
* files of the Theano backend: kernels lie the other way round, `same` pads half the window in front whatever the
  stride, and pooling pads as Theano does. The backend is told by the names of the weights (TensorFlow's end in `:0`);
* `running_std` of `BatchNormalization` holds the variance; `mode=1` normalises each sample and `mode=2` the batch, so
  that with it a row depends on the others;
* `hard_sigmoid` is clip(0.2 x + 0.5, 0, 1), as in Keras 2;
* `Merge(mode="cos")` gives `[N, 1, ...]` with the axis that Keras 1 inserts; a mode that is Python code is refused.

Files of Keras 2 that were written on Theano are read as tf-keras reads them, with kernels as stored.
"""


OPS = """Each is compared with live Keras over float32, float16, int32, int8, uint8 and bool. Where the backends of
Keras disagree (`Rot90` by half a turn, `UnravelIndex` of matrices, `Vstack` of vectors), NumPy's meaning holds.
Matrices of `keras.ops.linalg` have at most 16 rows, of a fixed number."""


def wrapped(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def page() -> str:
    families: dict[str, list[str]] = defaultdict(list)
    for name, lowering in LAYERS.items():
        families[lowering.fn.__module__.rpartition(".")[2]].append(name)
    lines = [HEAD, "## Layers", "", "| family | classes |", "| --- | --- |"]
    lines += [f"| {family} | {wrapped(families[family])} |" for family in layers.__all__ if families[family]]
    if CELLS:
        lines += ["", "Cells inside `RNN`, `StackedRNNCells` and wrappers: " + wrapped(CELLS) + "."]
    if OPERATIONS:
        lines += ["", "## Operations of `keras.ops` in functional models", "", OPS, "", wrapped(OPERATIONS) + "."]
    own = "write it with layers, or `fw.register_layer`"
    lines += ["", "## Refused by name", "", "| class | why | instead |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {why} | {HINTS.get(name, own)} |" for name, why in sorted(REFUSED.items())]
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, why in REFUSED_OPERATIONS.items():
        reasons[why].append(name)
    lines += ["", "Operations of `keras.ops`:", "", "| operations | why |", "| --- | --- |"]
    lines += [f"| {wrapped(names)} | {why} |" for why, names in sorted(reasons.items(), key=lambda r: sorted(r[1]))]
    return "\n".join(lines) + "\n"


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        fresh = PAGE.exists() and PAGE.read_text() == text
        print("up to date" if fresh else "docs/keras-support.md is out of date: run python docs/generate.py")
        return 0 if fresh else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
