"""Every class of keras.applications through both routes: `.keras` file and SavedModel, against eager Keras.

    python tests/conformance/applications.py [--only NAME,...] [--stage file|saved_model|native] [--json F] [--table F]

Random weights; the least image that the class takes. One process per class and stage; results are kept in the JSON.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Everything else takes images of 32 x 32.
SIDES = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75, "NASNetLarge": 64, "NASNetMobile": 64}
BOUND = 2e-5  # of a gap
STAGES = ("file", "saved_model", "native")
# Parameters in millions, by the longest prefix that fits: small networks go first.
ORDER = {
    "MobileNet": 4, "NASNetMobile": 5, "DenseNet121": 8, "DenseNet169": 14, "DenseNet201": 20, "Xception": 23,
    "InceptionV3": 24, "ResNet": 40, "InceptionResNetV2": 56, "EfficientNetB": 12, "EfficientNetV2S": 21,
    "EfficientNetV2M": 54, "EfficientNetV2L": 119, "EfficientNetV2B": 8, "EfficientNetB7": 66, "EfficientNetB6": 43,
    "ConvNeXtTiny": 29, "ConvNeXtSmall": 50, "ConvNeXtBase": 89, "ConvNeXtLarge": 198, "ConvNeXtXLarge": 350,
    "VGG": 140, "NASNetLarge": 89,
}  # fmt: skip


def classes() -> list[str]:
    """Names of the 40 classes, small networks first."""
    import keras

    found = [
        name
        for name, value in vars(keras.applications).items()
        if inspect.isfunction(value) and "classifier_activation" in inspect.signature(value).parameters
    ]
    size = lambda name: max((len(k), v) for k, v in ORDER.items() if name.startswith(k))[1]
    return sorted(found, key=lambda n: (size(n), n))


def build(name: str) -> tuple[Any, Any]:
    """(model with random weights, a batch of two).

    Kernels get the least gain at which the two images' logits differ by a hundredth. The initialisers keep the variance
    of gradients: EfficientNetV2L then amplifies any rounding to the size of its logits, and others forget their input.
    """
    import keras
    import numpy as np

    side = SIDES.get(name, 32)
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), classifier_activation=None)
    layers, rng = list(model._flatten_layers()), np.random.default_rng(0)
    # A Normalization layer reads its own copy of its statistics.
    kept = {id(v) for m in layers if isinstance(m, keras.layers.Normalization) for v in m.weights}
    per_channel = {id(m.kernel) for m in layers if isinstance(m, keras.layers.DepthwiseConv2D)}
    per_channel |= {id(m.depthwise_kernel) for m in layers if isinstance(m, keras.layers.SeparableConv2D)}
    kernels = []
    for v in model.weights:
        if id(v) in kept:
            continue
        if len(v.shape) > 1:
            fan_in = int(np.prod(v.shape[:2] if id(v) in per_channel else v.shape[:-1]))
            v.assign(np.asarray(v) / np.float32(np.std(v) * fan_in**0.5))
            kernels.append(v)
        elif any(part in v.path for part in ("variance", "gamma", "layer_scale")):
            v.assign(rng.uniform(0.7, 1.3, v.shape).astype(np.float32))
        else:  # away from 0, so that a wrong one shows
            v.assign(rng.normal(0, 0.1, v.shape).astype(np.float32))
    # Four by four coloured fields with noise on them.
    fields = rng.uniform(0, 255, (2, 4, 4, 3)) * rng.uniform(0.2, 1, (2, 1, 1, 3))
    at = np.arange(side) * 4 // side
    images = fields[:, at][:, :, at] + rng.normal(0, 20, (2, side, side, 3))
    x = images.clip(0, 255).astype(np.float32)
    for _ in range(20):
        logits = np.asarray(model(x, training=False))
        if gap(logits[0], logits[1]) > 0.01:
            break
        for v in kernels:
            v.assign(v * 1.1**0.5)
    return model, x


def gap(got: Any, want: Any) -> float:
    """Largest difference beside the largest value."""
    import numpy as np

    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


def file(name: str, folder: Path) -> dict[str, Any]:
    """Import, plan and interpret the `.keras` file, against eager Keras."""
    import numpy as np

    import fusewright as fw

    model, x = build(name)
    want = np.asarray(model(x, training=False))
    model.save(folder / "m.keras")
    start = time.perf_counter()
    graph = fw.import_model(folder / "m.keras")
    seconds = time.perf_counter() - start
    got = next(iter(graph.run({graph.inputs[0].name: x}).values()))
    plan = fw.plan(graph).report().to_dict()
    more: dict[str, Any] = {}
    if gap(got, want) > 1e-5:  # an ill-conditioned network: the error of each against float64 tells
        exact = next(iter(graph.run({graph.inputs[0].name: x}, precision="f64").values()))
        more = {"keras_error": gap(want, exact), "own_error": gap(got, exact)}
    return more | {
        "parameters": model.count_params(), "side": x.shape[1], "import_s": seconds, "kernels": len(plan["kernels"]),
        "arena_bytes": plan["arena_bytes"], "keras_gap": gap(got, want),
    }  # fmt: skip


def saved_model(name: str, folder: Path) -> dict[str, Any]:
    """The SavedModel of the same network, against eager Keras and against the live model's native import."""
    import numpy as np

    import fusewright as fw

    model, x = build(name)
    want = np.asarray(model(x, training=False))
    model.export(folder / "saved", verbose=False)
    traced = fw.import_model(folder / "saved")
    two = next(iter(traced.run({traced.inputs[0].name: x}).values()))
    graph = fw.import_model(model)
    one = next(iter(graph.run({graph.inputs[0].name: x}).values()))
    return {"saved_model_gap": gap(two, want), "routes_gap": gap(one, two)}


def native(name: str, folder: Path) -> dict[str, Any]:
    """The compiled `.keras` file against eager Keras."""
    import numpy as np

    import fusewright as fw

    model, x = build(name)
    want = np.asarray(model(x, training=False))
    model.save(folder / "m.keras")
    del model
    fw.compile(folder / "m.keras", threads=1).save(folder / "m.fwb")
    return {"native_gap": gap(fw.load(folder / "m.fwb")(x), want)}


def table(results: dict[str, Any]) -> str:
    """The recorded page."""
    show = lambda v: "" if v is None else f"{v:.1e}"
    lines = [
        "# keras.applications through both routes", "",
        "Written by `python tests/conformance/applications.py`; random weights, the least image that each class takes,",
        "batch 2. A gap is the largest difference beside the largest logit: `.keras` file and SavedModel (interpreted)",
        "and the compiled `.keras` file against eager Keras, and the two routes against each other.", "",
        "| class | parameters, M | image | kernels | `.keras` | SavedModel | routes | compiled |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, r in sorted(results.items()):
        if r.get("error"):
            lines.append(f"| {name} | | | | {r['error'][:80]} | | | |")
            continue
        aside = ""
        if "own_error" in r:
            aside = f" (from float64: Keras {show(r['keras_error'])}, ours {show(r['own_error'])})"
        lines.append(
            f"| {name} | {r.get('parameters', 0) / 1e6:.1f} | {r.get('side', '')} | {r.get('kernels', '')} | "
            f"{show(r.get('keras_gap'))}{aside} | {show(r.get('saved_model_gap'))} | {show(r.get('routes_gap'))} | "
            f"{show(r.get('native_gap'))} |"
        )
    done = {key: sum(key in r for r in results.values()) for key in ("keras_gap", "routes_gap", "native_gap")}
    counts = f"`.keras`: {done['keras_gap']} of 40. Both routes: {done['routes_gap']}. Compiled: {done['native_gap']}."
    gaps = [(r[key], name) for name, r in results.items() for key in ("keras_gap", "saved_model_gap") if key in r]
    worst, where = max(gaps, default=(0.0, "none"))
    return "\n".join([*lines, "", counts, f"Largest gap: {worst:.1e} ({where}); the bound is {BOUND:.0e}.", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--stage", choices=STAGES, action="append")
    parser.add_argument("--json", type=Path, default=HERE / "applications.json")
    parser.add_argument("--table", type=Path, default=HERE / "applications.md")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds per class and stage")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    if args.run:
        with tempfile.TemporaryDirectory(prefix="fusewright-app-") as folder:
            stages = {"file": file, "saved_model": saved_model, "native": native}
            print("RESULT " + json.dumps(stages[args.stage[0]](args.run, Path(folder))))
        return 0
    wanted = args.only.split(",") if args.only else classes()
    results = json.loads(args.json.read_text()) if args.json.exists() else {}
    failed = 0
    for stage in args.stage or STAGES:
        for name in wanted:
            entry = results.setdefault(name, {})
            if f"{stage}_done" in entry:
                continue
            entry.pop("error", None)
            command = [sys.executable, str(HERE / "applications.py"), "--run", name, "--stage", stage]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=args.limit)
                line = next((s for s in done.stdout.splitlines() if s.startswith("RESULT ")), None)
                problem = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            except subprocess.TimeoutExpired:
                line, problem = None, f"longer than {args.limit:.0f} s"
            if line is None:
                entry["error"] = f"{stage}: {problem}"
                failed += 1
            else:
                entry |= {**json.loads(line[7:]), f"{stage}_done": True}
            print(f"{name} {stage}: {problem if line is None else line[7:]}", flush=True)
            args.json.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
            args.table.write_text(table(results))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
