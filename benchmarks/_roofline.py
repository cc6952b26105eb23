"""Rooflines of recorded layers as SVG; the only module of the benchmarks that needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

KINDS = {
    "dense": "C0", "conv": "C1", "winograd": "C2", "depthwise": "C3", "attention": "C4", "gated": "C5", "rows": "C6",
}  # fmt: skip


def picture(name: str, cases: list[dict[str, Any]], levels: Iterable[str]) -> str:
    """A roofline per case as SVG text."""
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify": True, "font.size": 8}
    fig, axes = plt.subplots(1, len(cases), figsize=(3.6 * len(cases), 3.2), sharey=True, squeeze=False)
    for ax, c in zip(axes[0], cases, strict=True):
        r, at = c["roofs"], np.geomspace(0.1, 1000, 50)
        for level in levels:
            ax.plot(at, np.minimum(at * r[level], r["flops"]) / 1e9, "-", lw=0.7, color="0.6")
            ax.text(0.12, 0.13 * r[level] / 1e9, level, fontsize=6, color="0.4")
        for kind, colour in KINDS.items():
            same = {(row["label"], row["flops"]): row for row in c["rows"]}  # one point for equal work
            rows = [row for row in same.values() if row["kind"] == kind]
            if rows:
                ax.scatter(
                    [row["flops"] / (row["weights"] + row["moved"]) for row in rows],
                    [row["flops"] / row["best"] / 1e9 for row in rows],
                    20, colour, alpha=0.5, lw=0, label=kind,
                )  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="operations per byte", xlim=(0.1, 1000), ylim=(1, 700))
        ax.set_title(f"{name}, batch {c['batch']}, {c['threads']} thread{'s' * (c['threads'] > 1)}", fontsize=8)
        ax.minorticks_off()
        ax.legend(fontsize=6, loc="lower right")
    axes[0][0].set_ylabel("GF/s")
    fig.tight_layout()
    out = io.StringIO()
    fig.savefig(out, format="svg", metadata={"Date": None})
    plt.close(fig)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
