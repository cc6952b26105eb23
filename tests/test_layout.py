"""The shape of the repository: layers of imports, light start, links, size of files, documented codes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fusewright as fw

HEAVY = ("numba", "llvmlite", "networkx", "onnx", "pyfive", "h5py", "rich", "hypothesis", "tensorflow", "keras")
LINKS = ("ir", "frontends", "passes", "backends")
# Stands in for an environment with numpy alone: a heavy import fails loudly instead of being looked for afterwards.
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
"""


def sources(repository: Path) -> list[Path]:
    return sorted((repository / "fusewright").rglob("*.py"))


def run_python(script: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_only_go_down(repository: Path) -> None:
    tool = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([tool, "--no-cache"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_is_light() -> None:
    script = (
        BLOCK
        + "import fusewright\nfusewright.load\nprint(*sorted(m for m in sys.modules if m.startswith('fusewright')))"
    )
    loaded = run_python(script).split()
    assert "fusewright" in loaded
    for layer in ("ir", "passes", "frontends", "backends", "testing"):
        assert not [name for name in loaded if name.split(".")[1:2] == [layer]], f"fusewright.load pulls in {layer}"


def test_native_bundle_runs_with_numpy_alone(tmp_path: Path) -> None:
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 3))
    fw.compile(b.build({"y": b.relu(b.add(x, b.constant(np.float32([1, -1, 0]))))})).save(tmp_path / "m.fwb")
    script = BLOCK + (
        "import numpy as np, fusewright as fw\n"
        "y = fw.load(sys.argv[1])(np.arange(6, dtype=np.float32).reshape(2, 3) - 2)\n"
        "print(*y.ravel()); print(*sorted(m for m in sys.modules if m.startswith('fusewright.ir')))"
    )
    values, imported = run_python(script, str(tmp_path / "m.fwb")).split("\n")[:2]
    assert [float(v) for v in values.split()] == [0, 0, 0, 2, 1, 3]
    assert imported == ""


@pytest.mark.parametrize("name", LINKS)
def test_top_level_links_are_relative(repository: Path, name: str) -> None:
    link = repository / name
    # A checkout without symbolic links holds a file with the target's path instead; it loses nothing.
    target = os.readlink(link) if link.is_symlink() else link.read_text().strip()
    assert target == f"fusewright/{name}"
    assert (repository / "fusewright" / name / "__init__.py").exists()


def test_no_package_outside_the_package(repository: Path) -> None:
    assert not (repository / "__init__.py").exists()
    assert not list((repository / "tests").rglob("__init__.py"))


def test_modules_are_small_and_say_what_they_own(repository: Path) -> None:
    for path in sources(repository):
        text = path.read_text()
        assert len(text.splitlines()) <= 620, f"{path.name} has {len(text.splitlines())} lines"
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), f"{path.relative_to(repository)} has no docstring"


def test_no_imports_inside_functions(repository: Path) -> None:
    found = []
    facade = repository / "fusewright" / "__init__.py"  # the lazy loader itself
    for path in sources(repository):
        if path == facade:
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inner = [n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)]
                found += [f"{path.relative_to(repository)}:{n.lineno}" for n in inner]
    assert not found


def _is_code(value: object) -> bool:
    return isinstance(value, str) and value.replace("-", "").isalpha() and value.islower()


def test_refusal_codes_are_documented(repository: Path) -> None:
    documented = (repository / "docs" / "errors-and-exit-codes.md").read_text()
    used = set()
    for path in sources(repository):
        for call in ast.walk(ast.parse(path.read_text())):
            name = getattr(getattr(call, "func", None), "id", "")
            if isinstance(call, ast.Call) and name in ("ImportRefused", "Problem") and call.args:
                # A code may be a choice between two texts.
                used |= {c.value for c in ast.walk(call.args[0]) if isinstance(c, ast.Constant) and _is_code(c.value)}
    assert used
    assert not [code for code in sorted(used) if f"`{code}`" not in documented]


def test_nothing_is_evaluated_or_unpickled(repository: Path) -> None:
    """Importers and runtime never call what turns data into code."""
    for folder in ("frontends", "runtime", "core"):
        for path in sorted((repository / "fusewright" / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            calls = {c.func.id for c in ast.walk(tree) if isinstance(c, ast.Call) and isinstance(c.func, ast.Name)}
            assert not calls & {"eval", "exec", "compile", "__import__"}, path.name
            imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            assert not imported & {"pickle", "marshal", "shelve", "dill"}, path.name
            assert "allow_pickle=True" not in path.read_text(), path.name
