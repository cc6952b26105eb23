"""Functions with AVX-512 forms: what the optimiser makes of their calls."""

from __future__ import annotations

import re

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from fusewright.backends.numba_cpu.vector import calls
from fusewright.backends.numba_cpu.vector.forms import FORMS

LOOP = """
declare float @{prefix}{name}(float)

define void @k(ptr noalias %a, ptr noalias %z, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %p = getelementptr float, ptr %a, i64 %i
  %q = getelementptr float, ptr %z, i64 %i
  %x = load float, ptr %p
  %y = call float @{prefix}{name}(float %x)
  store float %y, ptr %q
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""


def optimised(text: str, unrolled: bool = True) -> str:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    machine = target.create_target_machine(cpu="x86-64-v4", features="-prefer-256-bit", opt=3)
    module = llvm.parse_assembly(text)
    tuning = llvm.PipelineTuningOptions(speed_level=3)
    tuning.loop_unrolling = unrolled
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return str(module)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_a_loop_runs_several_whole_registers_side_by_side(name: str) -> None:
    text, bodies = calls.split(optimised(calls.declared(LOOP.format(prefix=calls.PREFIX, name=name))))
    joint = f"{calls.PREFIX}{name}.16.times{calls.TOGETHER}"
    assert f"@{joint}(" in text and f"{calls.PREFIX}{name}.16(" not in text
    assert "llvm.compiler.used" not in text
    whole = llvm.parse_assembly(text)
    whole.link_in(llvm.parse_assembly(bodies))
    whole.verify()
    missing = [f.name for f in whole.functions if f.is_declaration and not f.name.startswith("llvm.")]
    assert not missing


@pytest.mark.parametrize("name", sorted(FORMS))
def test_no_form_divides_or_branches(name: str) -> None:
    _, bodies = calls.split(f"  %y = call float @{calls.PREFIX}{name}(float %x)\n")
    assert not re.search(r"\b(fdiv|br|phi)\b", bodies)


def call(to: str, arg: str, name: str = "exp", width: int = 16) -> str:
    return f"  %{to} = call <{width} x float> @{calls.PREFIX}{name}.{width}(<{width} x float> %{arg})"


def joints(*lines: str) -> list[str]:
    text, _ = calls.split("\n".join(lines) + "\n")
    return re.findall(r"call .*@fusewright\.vector\.(\S+)\(", text)


def test_calls_are_joined_only_where_nothing_stands_between() -> None:
    assert joints(call("a", "x"), call("b", "y")) == ["exp.16.times2"]
    assert joints(call("a", "x"), "  %t = fadd <16 x float> %a, %x", call("b", "y")) == ["exp.16", "exp.16"]
    assert joints(call("a", "x"), call("b", "a")) == ["exp.16", "exp.16"]
    assert joints(call("a", "x"), call("b", "y", "tanh")) == ["exp.16", "tanh.16"]
    assert joints(call("a", "x"), call("b", "y", width=8)) == ["exp.16", "exp.8"]
    assert joints(*(call(f"a{i}", f"x{i}") for i in range(5))) == ["exp.16.times4", "exp.16"]


def test_text_without_vector_calls_stays() -> None:
    assert calls.split(LOOP.format(prefix="other.", name="f")) == (LOOP.format(prefix="other.", name="f"), "")


def test_a_loop_over_one_register_is_not_taken_apart() -> None:
    loop = LOOP.format(prefix=calls.PREFIX, name="silu").replace("icmp slt i64 %next, %n", "icmp slt i64 %next, 16")
    text, _ = calls.split(optimised(calls.declared(loop), unrolled=False))
    assert re.findall(r"call .*@fusewright\.vector\.(\S+)\(", text) == ["silu.16"]


@pytest.mark.parametrize("name", sorted(FORMS))
def test_a_tile_sends_whole_registers_through_joint_calls_without_effects(name: str) -> None:
    """More than go side by side are several calls, whose bodies link; a call nobody reads is gone."""
    kind, most = ir.VectorType(ir.FloatType(), 16), calls.side_by_side(name)
    module = ir.Module("k")
    fn = ir.Function(module, ir.FunctionType(kind, [kind] * (most + 1)), "k")
    builder = ir.IRBuilder(fn.append_basic_block())
    made = calls.emit(builder, name, list(fn.args))
    builder.ret(made[-1])
    assert len(made) == most + 1
    text = calls.known(str(module))
    assert f"{name}.16.times{most}" in text
    kept, bodies = calls.split(optimised(text))
    assert f"@{calls.PREFIX}{name}.16(" in kept and "times" not in kept
    whole = llvm.parse_assembly(kept)
    whole.link_in(llvm.parse_assembly(bodies))
    whole.verify()
    assert all(f.name.startswith("llvm.") for f in whole.functions if f.is_declaration)
