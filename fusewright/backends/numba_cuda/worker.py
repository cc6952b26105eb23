"""The compiling process for GPUs: kernel text in, PTX out, over two pipes.

Owns the way from Numba's LLVM text to PTX through LLVM's own back end. Started as ``python -m``.
Must not be imported by anything that runs bundles.
"""

from __future__ import annotations

import re
from typing import Any

import llvmlite.binding as llvm
from numba import types
from numba.core.registry import cpu_target

from ..numba_cpu import worker as cpu
from ..numba_cpu.image import Code
from .vocabulary import names

TRIPLE = "nvptx64-nvidia-cuda"
CPU, FEATURES = "sm_80", "+ptx78"  # drivers from R520 on take this PTX; newer GPUs run it too
_TARGET = re.compile(r"^target (datalayout|triple) = .*$", re.M)
_READ = "llvm.nvvm.read.ptx.sreg"
_COUNT = f"range(i64 0, {2**40})"  # no launch has more units; that none is negative spares corrections of quotients


class Codegen(cpu.Codegen):
    """Compiles kernel text to PTX."""

    def __init__(self) -> None:
        self.names = names()
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        target = llvm.Target.from_triple(TRIPLE)
        self.machine = target.create_target_machine(cpu=CPU, features=FEATURES, opt=3)
        self.tuning = llvm.PipelineTuningOptions(speed_level=3)
        self.tuning.loop_vectorization = self.tuning.slp_vectorization = False
        self.typing, self.target = cpu_target.typing_context, cpu_target.target_context

    def linked(self, library: Any) -> str:
        # The last step would make code for this machine, which knows no instruction of a GPU.
        library._finalize_final_module = lambda: None
        return super().linked(library)

    def ptx(
        self, symbol: str, text: str, count: int, mode: str = "thread", block: int = 256, units: int = 256,
        strided: bool = False, room: bool = False, resident: int = 0,
    ) -> str:  # fmt: skip
        """A module with the entry ``symbol``: see ``toolchain.Source``."""
        module = llvm.parse_assembly(self.module_text(symbol, text, count, mode, block, units, strided, room, resident))
        module.triple = TRIPLE
        for function in module.functions:
            if not function.is_declaration and function.name != symbol:
                function.linkage = "internal"
                function.add_function_attribute("alwaysinline")
        tables = [v for v in module.global_variables if not v.is_declaration]
        for i, variable in enumerate(tables):
            variable.linkage = "internal"
            variable.name = f"{symbol}_data{i}"  # modules are joined
        for variable in [v for v in module.global_variables if v.is_declaration]:
            variable.name = f"{symbol}_room"  # shared memory whose size the launch states
        module.verify()
        builder = llvm.create_pass_builder(self.machine, self.tuning)
        builder.getModulePassManager().run(module, builder)
        self.last = module
        return str(self.machine.emit_assembly(module))

    def module_text(
        self, symbol: str, text: str, count: int, mode: str, block: int, units: int, strided: bool, room: bool,
        resident: int,
    ) -> str:  # fmt: skip
        """LLVM text of the kernel's function and of the entry that deals its units out."""
        body = self.llvm_text(self.function(text, []), cpu.KERNEL_TYPES, types.void, [])
        body = cpu._DEFINE.sub(rf"\1{cpu._ATTRIBUTES}\2 {{", _TARGET.sub("", body))
        formal = "".join(f"i64 %a{i}, " for i in range(count))
        words = f"[{max(count, 1)} x i64]"
        bound = f' "nvvm.minctasm"="{resident}"' if resident else ""
        lines = [
            f"define ptx_kernel void @{symbol}({formal}i64 {_COUNT} %start, i64 {_COUNT} %stop, i64 %scratch)"
            f' nounwind "nvvm.maxntid"="{block}"{bound} {{',
            f"  %args = alloca {words}",
        ]
        for i in range(count):
            lines.append(f"  %p{i} = getelementptr {words}, ptr %args, i64 0, i64 {i}")
            lines.append(f"  store i64 %a{i}, ptr %p{i}")
        for name in ("ctaid", "nctaid", "tid"):
            lines += [f"  %{name}32 = call i32 @{_READ}.{name}.x()", f"  %{name} = zext i32 %{name}32 to i64"]
        if mode == "thread":
            each, own = units // block, f"%a{count - 1}" if room else "0"
            lines += [
                f"  %before = mul nuw nsw i64 %ctaid, {block}", "  %number = add nuw nsw i64 %before, %tid",
                f"  %threads = mul nuw nsw i64 %nctaid, {block}", f"  %stride = mul nuw nsw i64 %threads, {each}",
                f"  %skipped = mul nuw nsw i64 %number, {each}", f"  %own = mul i64 %number, {own}",
            ]  # fmt: skip
        else:
            each, own = units, f"%a{count - 1}" if room else "0"
            lines += [
                f"  %stride = mul nuw nsw i64 %nctaid, {units}", f"  %skipped = mul nuw nsw i64 %ctaid, {units}",
                f"  %own = mul i64 %ctaid, {own}",
            ]  # fmt: skip
        lines += [
            "  %mine = add i64 %scratch, %own", "  %first = add nsw i64 %start, %skipped",
            "  %some = icmp slt i64 %first, %stop", "  br i1 %some, label %loop, label %done", "loop:",
            "  %lo = phi i64 [ %first, %0 ]" + (", [ %next, %loop ]" if strided else ""),
            f"  %end = add nsw i64 %lo, {each}",
            "  %past = icmp slt i64 %end, %stop",
            f"  %hi = select i1 %past, i64 %end, i64 {'%end' if each == 1 else '%stop'}",
            f"  call void @{cpu.ENTRY}(ptr %args, i64 %lo, i64 %hi, i64 %mine)",
        ]  # fmt: skip
        if strided:
            lines += ["  %next = add nsw i64 %lo, %stride", "  %more = icmp slt i64 %next, %stop"]
            lines.append("  br i1 %more, label %loop, label %done")
        else:
            lines.append("  br label %done")
        lines += ["done:", "  ret void", "}"]
        for name in ("ctaid", "nctaid", "tid"):
            if re.search(rf"^declare .*@{_READ}\.{name}\.x\(\)", body, re.M) is None:
                lines.append(f"declare i32 @{_READ}.{name}.x()")
        return body + "\n" + "\n".join(lines) + "\n"


def main() -> None:
    codegen = Codegen()
    cpu.serve_pipes(lambda ask: Code(codegen.ptx(**ask).encode(), 0))


if __name__ == "__main__":
    main()
