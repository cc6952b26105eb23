"""Progress: drawn on a terminal only, with or without rich."""

from __future__ import annotations

import importlib
import io
import sys

import pytest

from fusewright.progress import on_terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_silent_without_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with on_terminal() as progress:
        assert progress is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    with on_terminal(quiet=True) as progress:
        assert progress is None


@pytest.mark.parametrize("rich_installed", [True, False])
def test_phases_are_drawn(monkeypatch: pytest.MonkeyPatch, rich_installed: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    if not rich_installed:

        def missing(name: str) -> None:
            raise ImportError(name)

        monkeypatch.setattr(importlib, "import_module", missing)
    with on_terminal() as progress:
        assert progress is not None
        progress("import", 0, 1)
        progress("import", 1, 1)
        for done in range(3):
            progress("kernels", done, 2)
    assert "import" in terminal.getvalue()
    assert "kernels" in terminal.getvalue()


def test_an_error_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyError), on_terminal() as progress:
        assert progress is not None
        progress("import", 0, 0)
        raise KeyError("model")
