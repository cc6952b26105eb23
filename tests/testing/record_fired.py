"""A pytest plugin: what fires in the passes during a run of tests goes to the file that FUSEWRIGHT_FIRED names."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from fusewright.testing.coverage import Fired, recorded

_STACK = ExitStack()
_FIRED: list[Fired] = []


def pytest_configure(config: pytest.Config) -> None:
    _FIRED.append(_STACK.enter_context(recorded()))


def pytest_unconfigure(config: pytest.Config) -> None:
    _STACK.close()
    found = {"rules": sorted(_FIRED[0].rules), "reasons": sorted(_FIRED[0].reasons)}
    Path(os.environ["FUSEWRIGHT_FIRED"]).write_text(json.dumps(found))
