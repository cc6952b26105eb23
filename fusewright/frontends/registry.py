"""What users registered: lowerings of their own layers.

Owns the one table that user code fills (never a file). Must not know the built-in layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.errors import FusewrightError

Lowering = Callable[..., Any]
_LAYERS: dict[str, Lowering] = {}
_OPS: dict[tuple[str, str], Lowering] = {}


def register_layer(name: str, *, replace: bool = False) -> Callable[[Lowering], Lowering]:
    """Register how the layer class ``name`` lowers (public as ``fw.register_layer``).

    ``@register_layer("MyLayer") def lower(layer, *inputs): ...`` gets the call (``layer.b`` the Builder,
    ``layer.config`` the dict of the file, ``layer.weights`` the list of float32 arrays in Keras' order, ``layer.mask``)
    and Values for the inputs as the layer was called; it returns a Value or a tuple of them. A built-in class name that
    is registered replaces the built-in. Registration is code of the caller: nothing in a file can cause one.
    Raises FusewrightError when the name is taken and ``replace`` is False.
    """

    def add(fn: Lowering) -> Lowering:
        if name in _LAYERS and not replace and _LAYERS[name] is not fn:
            raise FusewrightError(
                f"a lowering for layer {name!r} is registered already; pass replace=True to change it"
            )
        _LAYERS[name] = fn
        return fn

    return add


def unregister_layer(name: str) -> None:
    """Forget a registered lowering; no error when there is none."""
    _LAYERS.pop(name, None)


def registered_layer(name: str) -> Lowering | None:
    """The user's lowering of that layer class, or None."""
    return _LAYERS.get(name)


def register_op(framework: str, name: str, *, replace: bool = False) -> Callable[[Lowering], Lowering]:
    """Register how an op of another framework lowers, ``register_op("tf", "MyOp")`` (public as ``fw.register_op``).

    The function gets the node and its operand Values, as the frontend of that framework documents.
    Raises FusewrightError when the name is taken and ``replace`` is False.
    """

    def add(fn: Lowering) -> Lowering:
        key = (framework, name)
        if key in _OPS and not replace and _OPS[key] is not fn:
            raise FusewrightError(f"a lowering for {framework} op {name!r} is registered already; pass replace=True")
        _OPS[key] = fn
        return fn

    return add


def registered_op(framework: str, name: str) -> Lowering | None:
    """The user's lowering of that op, or None."""
    return _OPS.get((framework, name))
