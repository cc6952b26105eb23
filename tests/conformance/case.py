"""What a conformance suite hands to the runner: one case, and the judgement of its outputs.

Owns the pass rule. Knows nothing of files, suites or processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OUTCOMES = ("passed", "refused", "wrong", "crashed", "no_reference", "constant")


@dataclass
class Case:
    """A model with inputs and expected outputs.

    ``feeds`` are arrays in the model's order or by name; ``wants`` likewise, or None where no reference exists (inputs
    are then drawn from the signature when ``feeds`` is None). ``uncounted`` replaces a pass or a refusal in the totals.
    """

    source: Any
    feeds: Sequence[np.ndarray] | Mapping[str, np.ndarray] | None = None
    wants: Sequence[np.ndarray] | Mapping[str, np.ndarray] | None = None
    import_options: dict[str, Any] = field(default_factory=dict)
    rtol: float = 0.0
    atol: float = 0.0
    check_value: bool = True
    uncounted: str = ""


def judge(
    got: np.ndarray, want: np.ndarray, rtol: float = 0.0, atol: float = 0.0, check_value: bool = True
) -> tuple[str, float]:
    """(what is wrong or "", largest absolute error).

    Equal shape, dtype and NaN/infinity pattern, equal integers, and for floats |got - want| <= atol + rtol |want| over
    the elements that are finite in both, with rtol = max(rtol, 1e-4, 2 eps) and atol = max(atol, 1e-5 max|want|).
    """
    got = np.asarray(got)
    if got.shape != want.shape:
        return f"shape {got.shape}, expected {want.shape}", float("inf")
    if got.dtype != want.dtype:
        return f"dtype {got.dtype}, expected {want.dtype}", float("inf")
    if not check_value or got.size == 0:
        return "", 0.0
    if got.dtype.kind not in "fV":
        wrong = int(np.count_nonzero(got != want))
        return (f"{wrong} of {got.size} elements differ" if wrong else ""), float(wrong > 0)
    eps = float(np.finfo(got.dtype).eps) if got.dtype.kind == "f" else 2.0**-7
    g, w = got.astype(np.float64), want.astype(np.float64)
    for name, pattern in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        differ = int(np.count_nonzero(pattern(g) != pattern(w)))
        if differ:
            return f"{name} pattern differs at {differ} of {got.size} elements", float("inf")
    finite = np.isfinite(w)
    g, w = g[finite], w[finite]
    error = np.abs(g - w)
    scale = float(np.abs(w).max(initial=0.0))
    bad = error > max(atol, 1e-5 * scale) + max(rtol, 1e-4, 2 * eps) * np.abs(w)
    largest = float(error.max(initial=0.0))
    if not bad.any():
        return "", largest
    return f"{int(bad.sum())} of {got.size} elements off, largest error {largest:.3g} at scale {scale:.3g}", largest


def judge_all(got: Mapping[str, np.ndarray], case: Case) -> tuple[str, float]:
    """``judge`` over every output of ``case``; ``got`` is in the model's order."""
    if isinstance(case.wants, Mapping):
        missing = [name for name in case.wants if name not in got]
        if missing:
            return f"no output named {', '.join(missing)}; there are {', '.join(got)}", float("inf")
        pairs = [(name, got[name], want) for name, want in case.wants.items()]
    else:
        wants = list(case.wants or ())
        if len(wants) != len(got):
            return f"{len(got)} outputs, expected {len(wants)}", float("inf")
        pairs = [(name, value, want) for (name, value), want in zip(got.items(), wants)]
    worst = 0.0
    for name, value, want in pairs:
        detail, error = judge(value, want, case.rtol, case.atol, case.check_value)
        worst = max(worst, error)
        if detail:
            return f"{name}: {detail}", worst
    return "", worst
