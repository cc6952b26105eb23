"""A bundle that was compiled for machines which this one may not be.

Owns saving and reporting of such bundles, and the refusal of their calls. Loads nothing for execution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ..core.errors import BundleRefused
from ..core.plan import Plan
from .base import Bound, Loaded
from .format import Container


class Built(Loaded[Bound]):
    """Has the signature, the report and ``save``; a call says that the bundle is to be loaded where it runs."""

    def __init__(self, container: Container) -> None:
        super().__init__(container)
        self.target = container.manifest.targets[0].name
        self._plan = Plan.from_bytes(bytes(container.read(f"native/{self.target}/plan.json")))
        self._report_fields = bytes(container.read("report.json"))
        self._describe()

    def _refuse(self) -> NoReturn:
        raise BundleRefused(
            f"this bundle has code for {self.target!r} only and was compiled, not loaded: save it, and fw.load it on a "
            "machine with such a device; or compile for ['cpu', 'cuda'] to call it here"
        )

    def __call__(self, *args: Any, out: Any = None, **named: Any) -> Any:
        self._refuse()

    def run(self, inputs: Mapping[str, Any]) -> Any:
        """Raises BundleRefused."""
        self._refuse()

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        """Raises BundleRefused."""
        self._refuse()

    def _call(self, values: Sequence[Any], outs: Sequence[Any] | None) -> list[Any]:
        self._refuse()

    def _limit(self) -> int:
        self._refuse()

    def _bound(self, env: dict[str, int], limit: int) -> Bound:
        self._refuse()

    def _need(self, env: Mapping[str, int]) -> int:
        self._refuse()
