"""Gamma, zeta, beta, inverse error and Bessel functions.

Owns the names only: the formulas are in ``frontends/special.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir.graph import Value
from ... import special
from ..lower import Ctx, op


def _register(name: str, fn: Callable[..., Value]) -> None:
    @op(name)
    def lower(c: Ctx, *xs: Value) -> Any:
        return fn(c.bld, *xs)


for _name, _fn in {
    "Lgamma": special.lgamma, "Digamma": special.digamma, "Zeta": special.zeta, "Polygamma": special.polygamma,
    "Igamma": special.igamma, "Igammac": special.igammac, "Betainc": special.betainc, "Erfinv": special.erfinv,
    "Ndtri": special.ndtri, "BesselI0": special.bessel_i0, "BesselI1": special.bessel_i1,
    "BesselI0e": special.bessel_i0e, "BesselI1e": special.bessel_i1e,
}.items():  # fmt: skip
    _register(_name, _fn)
