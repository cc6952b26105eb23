"""Fusewright compiles trained Keras and TensorFlow models into kernel bundles that run with NumPy alone.

The facade: ``compile``, ``load``, ``import_model``, ``rewrite``... Everything is loaded on first use, so that
``import fusewright; fusewright.load(...)`` pulls in neither a compiler nor a frontend.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> (module, attribute). One table, so that importing the package costs nothing.
_LAZY = {
    "compile": ("compiler", "compile"),
    "plan": ("compiler", "plan"),
    "check": ("checker", "check"),
    "import_model": ("frontends.source", "import_model"),
    "default_pipeline": ("compiler", "default_pipeline"),
    "load": ("loader", "load"),
    "register_layer": ("frontends.registry", "register_layer"),
    "register_op": ("frontends.registry", "register_op"),
    "register_kernel": ("backends.registry", "register_kernel"),
    "Builder": ("ir", "Builder"),
    "Graph": ("ir", "Graph"),
    "OpDef": ("ir", "OpDef"),
    "TensorType": ("ir", "TensorType"),
    "define_op": ("ir", "define_op"),
    "Cost": ("ir.opdef", "Cost"),
    "REQUIRED": ("ir.opdef", "REQUIRED"),
    "op": ("passes", "op"),
    "about": ("passes", "about"),
    "one_of": ("passes", "one_of"),
    "parse_graph": ("ir", "parse_graph"),
    "rewrite": ("passes", "rewrite"),
    "graph_pass": ("passes", "graph_pass"),
    "Pipeline": ("passes", "Pipeline"),
    "Journal": ("passes", "Journal"),
    "testing": ("testing", ""),
    **{
        name: ("core.errors", name)
        for name in (
            "FusewrightError", "ImportRefused", "TypeRefused", "VerifyError", "ParseError", "RewriteError",
            "CompileRefused", "InputRefused", "BundleRefused", "BundleNotFound", "SaveRefused", "MissingDependency",
            "DeviceFailed", "NoSuchOp",
        )
    },
}  # fmt: skip

# A module that is missing here, because the base install has only NumPy -> the extra that brings it.
_EXTRAS = {
    "numba": "compile", "llvmlite": "compile", "networkx": "compile", "onnx": "compile", "pyfive": "compile",
    "rich": "compile", "hypothesis": "testing",
}  # fmt: skip

if TYPE_CHECKING:
    from . import testing as testing
    from .backends.registry import register_kernel as register_kernel
    from .checker import check as check
    from .compiler import compile as compile
    from .compiler import default_pipeline as default_pipeline
    from .compiler import plan as plan
    from .core.errors import BundleNotFound as BundleNotFound
    from .core.errors import BundleRefused as BundleRefused
    from .core.errors import CompileRefused as CompileRefused
    from .core.errors import DeviceFailed as DeviceFailed
    from .core.errors import FusewrightError as FusewrightError
    from .core.errors import ImportRefused as ImportRefused
    from .core.errors import InputRefused as InputRefused
    from .core.errors import MissingDependency as MissingDependency
    from .core.errors import NoSuchOp as NoSuchOp
    from .core.errors import ParseError as ParseError
    from .core.errors import RewriteError as RewriteError
    from .core.errors import SaveRefused as SaveRefused
    from .core.errors import TypeRefused as TypeRefused
    from .core.errors import VerifyError as VerifyError
    from .frontends.registry import register_layer as register_layer
    from .frontends.registry import register_op as register_op
    from .frontends.source import import_model as import_model
    from .ir import Builder as Builder
    from .ir import Graph as Graph
    from .ir import OpDef as OpDef
    from .ir import TensorType as TensorType
    from .ir import define_op as define_op
    from .ir import parse_graph as parse_graph
    from .ir.opdef import REQUIRED as REQUIRED
    from .ir.opdef import Cost as Cost
    from .loader import load as load
    from .passes import Journal as Journal
    from .passes import Pipeline as Pipeline
    from .passes import about as about
    from .passes import graph_pass as graph_pass
    from .passes import one_of as one_of
    from .passes import op as op
    from .passes import rewrite as rewrite


def lazy(module: str) -> Any:
    """Import a module of this package on first use; a missing optional package is named with its extra.

    Raises MissingDependency.
    """
    try:
        return importlib.import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _EXTRAS:
            raise
        from .core.errors import MissingDependency

        raise MissingDependency(
            f"this needs the package {name!r}, which is not installed: pip install 'fusewright[{_EXTRAS[name]}]'"
        ) from None


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    found = lazy(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


__all__ = ["__version__", *sorted(_LAZY)]
