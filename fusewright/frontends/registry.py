"""What users registered: lowerings of their own layers.

Owns the one table that user code fills (never a file). Must not know the built-in layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..core.errors import FusewrightError, ImportRefused
from ..ir.declare import fits

Lowering = Callable[..., Any]
FRAMEWORKS = ("tf", "onnx")
_MOST = 32  # operands for which a lowering is asked whether it takes them
_LAYERS: dict[str, Lowering] = {}
_OPS: dict[tuple[str, str], Lowering] = {}


def register_layer(name: str, *, replace: bool = False) -> Callable[[Lowering], Lowering]:
    """Register how the layer class ``name`` lowers (public as ``fw.register_layer``).

    ``@register_layer("MyLayer") def lower(layer, *inputs): ...`` gets the call (``layer.b`` the Builder,
    ``layer.config`` the dict of the file, ``layer.weights`` the list of float32 arrays in Keras' order, ``layer.mask``)
    and Values for the inputs as the layer was called; it returns a Value or a tuple of them. A built-in class name that
    is registered replaces the built-in. Registration is code of the caller: nothing in a file can cause one.
    Raises FusewrightError when the name is taken and ``replace`` is False, and for a function of other arguments.
    """
    _check_name("register_layer", name)

    def add(fn: Lowering) -> Lowering:
        _check_takes(fn, f"register_layer: the lowering of {name!r}", "layer")
        if name in _LAYERS and not replace and getattr(_LAYERS[name], "__wrapped__", None) is not fn:
            raise FusewrightError(
                f"a lowering for layer {name!r} is registered already; pass replace=True to change it"
            )
        _LAYERS[name] = _owned(fn, f"layer {name!r}")
        return fn

    return add


def _check_name(what: str, name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise FusewrightError(f"{what} takes a name first and the function behind it: @fw.{what}(..., 'Name')")


def _check_takes(fn: Any, what: str, first: str) -> None:
    """Lowerings get the call and then the operands, of which there may be any number that the layer or op has."""
    found = [fits(fn, first, *(f"operand {i}" for i in range(n))) for n in range(_MOST)]
    if all(found):
        raise FusewrightError(f"{what} {found[1]}")


def _owned(fn: Lowering, what: str) -> Lowering:
    """``fn`` whose own faults are told apart from those of a file."""

    @functools.wraps(fn)
    def call(node: Any, *operands: Any, **options: Any) -> Any:
        try:
            return fn(node, *operands, **options)
        except FusewrightError:
            raise
        except Exception as error:
            place = getattr(node, "where", "") or getattr(getattr(node, "spec", None), "path", "")
            raise ImportRefused(
                "lowering-failed", str(place),
                f"the lowering registered for {what} ({fn.__module__}.{fn.__qualname__}) raised "
                f"{type(error).__name__}: {error}", "the fault is in that function, not in the file",
            ) from error  # fmt: skip

    return call


def unregister_layer(name: str) -> None:
    """Forget a registered lowering; no error when there is none."""
    _LAYERS.pop(name, None)


def registered_layer(name: str) -> Lowering | None:
    """The user's lowering of that layer class, or None."""
    return _LAYERS.get(name)


def register_op(framework: str, name: str, *, replace: bool = False) -> Callable[[Lowering], Lowering]:
    """Register how an op of another framework lowers, ``register_op("tf", "MyOp")`` (public as ``fw.register_op``).

    The function gets the node and its operand Values, as the frontend of that framework documents.
    Raises FusewrightError when the name is taken and ``replace`` is False, for another framework, and for a function
    of other arguments.
    """
    if framework not in FRAMEWORKS:
        raise FusewrightError(f"register_op: {framework!r} is none of {', '.join(map(repr, FRAMEWORKS))}")

    _check_name("register_op", name)

    def add(fn: Lowering) -> Lowering:
        _check_takes(fn, f"register_op: the lowering of {framework} op {name!r}", "node")
        key = (framework, name)
        if key in _OPS and not replace and getattr(_OPS[key], "__wrapped__", None) is not fn:
            raise FusewrightError(f"a lowering for {framework} op {name!r} is registered already; pass replace=True")
        _OPS[key] = _owned(fn, f"{framework} op {name!r}")
        return fn

    return add


def registered_op(framework: str, name: str) -> Lowering | None:
    """The user's lowering of that op, or None."""
    return _OPS.get((framework, name))
