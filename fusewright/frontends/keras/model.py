"""A Keras model as plain data: layers, their configs, weights and calls, whatever file or object it came from.

Owns the description and its small helpers. Must not know file formats or the IR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...core.errors import ImportRefused


@dataclass(frozen=True, slots=True)
class Ref:
    """Output ``tensor`` of call ``node`` of the layer named ``layer``, inside one model."""

    layer: str
    node: int
    tensor: int


@dataclass(slots=True)
class LayerCall:
    """One call of a layer: nested lists, tuples and dicts of constants and Refs."""

    args: list[Any]
    kwargs: dict[str, Any]


@dataclass(slots=True, eq=False)
class LayerSpec:
    """One layer. ``path`` is outer model names and the layer's, joined by ``/``; ``version`` the Keras that made it.

    ``operation`` marks a ``keras.ops`` node, which is no layer and shares class names with some.
    ``children`` are the layers that it owns (wrapped layers, cells); ``model`` is set for a nested model.
    ``weights`` maps the names of ``weights.names_of`` to read-only arrays; for classes that the table does not know
    the names are ``"0"``, ``"1"``... in Keras' order.
    """

    class_name: str
    name: str
    path: str
    config: dict[str, Any]
    version: tuple[int, int]
    custom: bool = False
    operation: bool = False
    calls: list[LayerCall] = field(default_factory=list)
    children: dict[str, LayerSpec] = field(default_factory=dict)
    model: KerasModel | None = None
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def trainable(self) -> bool:
        return self.config.get("trainable", True) is not False

    def refuse(self, reason: str, code: str = "unsupported-option", hint: str = "") -> ImportRefused:
        """The refusal of this layer, to be raised."""
        return ImportRefused(code, self.path, f"{self.class_name}: {reason}", hint)


@dataclass(slots=True, eq=False)
class KerasModel:
    """A Sequential or functional model. ``inputs`` and ``outputs`` are trees of Refs (functional only).

    ``training`` is the loss, optimiser and metrics as the file or the live model states them: data, never made objects.
    """

    name: str
    path: str
    layers: list[LayerSpec]
    version: tuple[int, int]
    sequential: bool = False
    inputs: Any = None
    outputs: Any = None
    input_shape: Any = None
    file: str = ""
    training: dict[str, Any] | None = None

    def layer(self, name: str) -> LayerSpec:
        """The layer of that name. Raises ImportRefused."""
        for spec in self.layers:
            if spec.name == name:
                return spec
        raise ImportRefused("malformed", self.path, f"the model has no layer {name!r}")


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of nested lists, tuples and dicts (dicts in their own order)."""
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(reversed(list(item.values())))
        elif isinstance(item, (list, tuple)):
            stack.extend(reversed(item))
        else:
            yield item


def map_tree(fn: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with every leaf replaced."""
    if isinstance(tree, dict):
        return {k: map_tree(fn, v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_tree(fn, v) for v in tree)
    return fn(tree)


def walk(model: KerasModel) -> Iterator[LayerSpec]:
    """Every layer, nested ones and children included, outer first."""
    stack = list(reversed(model.layers))
    while stack:
        spec = stack.pop()
        yield spec
        below = list(spec.children.values()) + (spec.model.layers if spec.model else [])
        stack.extend(reversed(below))
