"""The test that a failure ends with runs as it stands, or says what it lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fusewright as fw
from fusewright.passes import RuleSet
from fusewright.testing import PassFailure, check_graph, check_pass
from fusewright.testing.arena import PlainTarget

WRONG = "fw.rewrite(lambda x: fw.op.neg(x), lambda x: x, numerics='exact', name='no sign')"
HEAD = "from __future__ import annotations\nimport fusewright as fw\nfrom fusewright.testing import check_pass\n"

to_itself = fw.rewrite(lambda x: x * 1, lambda x: x, numerics="exact")
no_sign = fw.rewrite(lambda x: fw.op.neg(x), lambda x: x, numerics="exact", name="no sign")


def failure(p: Any, **options: Any) -> PassFailure:
    with pytest.raises(PassFailure) as found:
        check_pass(p, 60, **options)
    return found.value


def pasted(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What pytest says of the text as a file of tests."""
    (folder / "test_pasted.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    return subprocess.run([*command, "test_pasted.py"], cwd=folder, capture_output=True, text=True)


def from_script(folder: Path, script: str, *how: str) -> str:
    """What a script prints of the failure."""
    (folder / "mine.py").write_text(HEAD + script)
    done = subprocess.run([sys.executable, *(how or ("mine.py",))], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


FAIL = """
def main(rule):
    try:
        check_pass(rule, 60)
    except AssertionError as error:
        print(error.repro)

if __name__ == "__main__":
    main(RULE)
"""


def test_what_a_module_holds_is_imported_and_the_test_fails_as_it_stands(tmp_path: Path) -> None:
    text = from_script(
        tmp_path, f"my_rule = {WRONG}\nRULE = None\n{FAIL}", "-c", "import mine; mine.main(mine.my_rule)"
    )
    assert "from mine import my_rule\n" in text
    done = pasted(text, tmp_path)
    assert done.returncode == 1 and "fails 'semantics'" in done.stdout, done.stdout


def test_a_module_that_runs_by_its_name_is_imported_by_it(tmp_path: Path) -> None:
    text = from_script(tmp_path, f"RULE = {WRONG}\n{FAIL}", "-m", "mine")
    assert "from mine import RULE\n" in text and "__main__" not in text


def test_of_a_script_it_says_what_to_put_there(tmp_path: Path) -> None:
    text = from_script(tmp_path, f"RULE = {WRONG}\n{FAIL}")
    assert "__main__" not in text and "import RULE" not in text
    assert "# the_pass cannot be imported: the file that makes it runs as a script (" in text
    assert "mine.py, line 4). Put its definition here:" in text
    whole = text.replace("from fusewright.testing import check_graph\n",
                         f"from fusewright.testing import check_graph\nthe_pass = {WRONG}\n")  # fmt: skip
    done = pasted(whole, tmp_path)
    assert done.returncode == 1 and "fails 'semantics'" in done.stdout, done.stdout


def test_a_pass_made_inside_a_function_is_named_with_its_place() -> None:
    @fw.graph_pass(numerics="exact")
    def lose(graph: fw.Graph, ctx: Any) -> None:
        for node in graph.nodes:
            if node.op.name == "neg":
                graph.replace(node.results[0], node.operands[0])
                ctx.rewrote("lost")

    text = failure(lose, like=[lambda x: fw.op.neg(x)]).repro
    where = "test_a_pass_made_inside_a_function_is_named_with_its_place"
    assert f"# lose cannot be imported: it is made inside {where} (" in text
    assert "check_graph(lose, " in text and "<locals>" not in text


@pytest.mark.parametrize("make", [lambda *p: fw.Pipeline(p), lambda *p: RuleSet("both", p)], ids=["pipeline", "set"])
def test_pipelines_and_sets_are_put_together_again(make: Any) -> None:
    text = failure(make(to_itself, no_sign)).repro
    scope: dict[str, Any] = {}
    exec(text, scope)
    name = next(n for n in scope if n.startswith("test_"))
    with pytest.raises(PassFailure):
        scope[name]()
    assert "cannot be imported" not in text
    inside = make(to_itself, fw.rewrite(lambda x: fw.op.neg(x), lambda x: x, numerics="exact", name="no sign"))
    assert " cannot be imported: no module holds it under a name" in failure(inside).repro


def test_ops_of_users_come_along(tmp_path: Path) -> None:
    script = """
def infer(types, attrs, regions):
    if not types[0].dtype.is_float:
        raise fw.TypeRefused("takes real numbers")
    return [types[0]]

fw.define_op(fw.OpDef("fourfold", ("x",), "elementwise", infer, decompose=lambda b, v, a: b.mul(v[0], 4.0)))
RULE = fw.rewrite(lambda x: fw.op.fourfold(x), lambda x: x, numerics="exact")
"""
    text = from_script(tmp_path, script + FAIL, "-c", "import mine; mine.main(mine.RULE)")
    assert "import mine  # declares the op fourfold" in text
    assert "# the op fourfold is declared in __main__, which no import reaches" in from_script(tmp_path, script + FAIL)


def test_claims_are_repeated_and_a_target_is_mentioned() -> None:
    worse = fw.rewrite(lambda x: fw.op.exp(x), lambda x: fw.op.exp(x) + 0.0 * x, numerics="approx")
    found = failure(
        worse, claims=("cost",), target=PlainTarget(largest=2), skip=("terminates", "semantics", "idempotent")
    )
    assert "claims=('cost',))" in found.repro
    assert "# it failed with target=PlainTarget(" in found.repro
    assert "target=" not in failure(no_sign).repro
    assert callable(check_graph)
