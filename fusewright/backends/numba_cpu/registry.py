"""The names that kernel text may use, each with its compiled form and its plain NumPy twin.

Owns the registry and the options that every jitted helper is compiled with.
Must not know any particular name: prelude, mathlib and tiles register theirs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.extending import overload

# No fast-math: Cody-Waite reductions and NaN handling rely on the operations as written. No runtime (NRT): kernels
# never allocate, so that no symbol outside the image can be needed.
HELPER_OPTIONS: dict[str, Any] = {
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "error_model": "numpy",
    "fastmath": False,
}

JITTED: dict[str, Any] = {}
TWINS: dict[str, Any] = {}

# Modules that register names when imported.
PROVIDERS = ("prelude", "access", "streaming", "mathlib", "tiles.register")


def helper(fn: Callable[..., Any]) -> Any:
    """Jit a scalar helper with the options that kernels can link against."""
    return njit(**HELPER_OPTIONS)(fn)


def register(name: str, jitted: Any, twin: Any) -> None:
    """Give kernel text the name ``name``: ``jitted`` (an njit function, @intrinsic, type or constant) when compiled,
    ``twin`` (plain Python of the same signature) in the unjitted lane. Each name is registered once."""
    if name in JITTED and JITTED[name] is not jitted:
        raise ValueError(f"kernel name {name!r} is registered twice")
    JITTED[name], TWINS[name] = jitted, twin


_PARAMETERS = {1: "x", 2: "x, y", 3: "x, y, z"}


def by_type(name: str, arity: int, pick: Callable[..., Any]) -> Any:
    """A jit-callable that chooses its form by argument types: ``pick(*types)`` is a jitted function or None."""
    params = _PARAMETERS[arity]
    space: dict[str, Any] = {"pick": pick}
    text = (
        f"def {name}({params}):\n    return None  # never run: Numba takes the overload\n"
        f"def choose({params}):\n    chosen = pick({params})\n"
        f"    return chosen and (lambda {params}: chosen({params}))\n"
    )
    exec(text, space)  # our own text, made from the three names above
    overload(space[name], jit_options=dict(HELPER_OPTIONS))(space["choose"])
    return space[name]


def load_all() -> None:
    """Import every provider, so that both tables are complete."""
    for provider in PROVIDERS:
        importlib.import_module(f"{__package__}.{provider}")
