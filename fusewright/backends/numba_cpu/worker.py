"""The compiling process: kernel text in, position-independent machine code out, over two pipes.

Owns the way from Numba's LLVM text to an object file. Started as ``python -m``, one variant each.
Must not be imported by anything that runs bundles.
"""

from __future__ import annotations

import json
import os
import re
import struct
import sys
import types as pytypes
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import llvmlite.binding as llvm
from numba import njit, types
from numba.core import compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.cpu_options import FastMathOptions
from numba.core.registry import cpu_target

from ...core.errors import CompileRefused, FusewrightError
from . import dispatcher, mathlib
from .image import Code, flatten
from .registry import HELPER_OPTIONS, JITTED, load_all
from .variants import VARIANTS, Variant
from .vector import calls

ENTRY = "fusewright_entry"
TRIPLE = "x86_64-unknown-linux-gnu"
WIDEST = 64  # bytes of the registers that vector forms are written for
PARAMETERS = ("args", "start", "stop", "scratch")
_WORD = types.int64
KERNEL_TYPES = (types.CPointer(_WORD), _WORD, _WORD, _WORD)
_LLVM_NAME = {_WORD: "i64", KERNEL_TYPES[0]: "ptr"}

# No call to a library function may appear (memset from a zeroing loop, say): the image has nothing to link against.
_ATTRIBUTES = ' "no-builtins" nounwind'
_DEFINE = re.compile(r"^(define [^\n]*?)((?: comdat(?:\([^\n]*?\))?)?(?: align \d+)?(?: ![^\n{]*)?) \{$", re.M)


class Codegen:
    """Compiles Python functions for one variant."""

    names: Mapping[str, Any] = JITTED  # what kernel text may use

    def __init__(self, variant: Variant) -> None:
        load_all()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()  # for the pause and syscall instructions
        # Fused elementwise kernels have many buffers; the default would give up proving that they do not overlap.
        llvm.set_option("fusewright", "--runtime-memory-check-threshold=64")
        target = llvm.Target.from_triple(TRIPLE)
        self.machine = target.create_target_machine(
            cpu=variant.cpu, features=variant.features, opt=3, reloc="pic", codemodel="small"
        )
        self.tuning = llvm.PipelineTuningOptions(speed_level=3)
        self.tuning.loop_vectorization = True
        self.tuning.slp_vectorization = True
        self.tuning.loop_interleaving = True
        self.tuning.loop_unrolling = True
        if variant.width == WIDEST:
            calls.prepare()
            self.names = {**self.names, **mathlib.with_vector_forms(calls.CALLS)}
        self.typing, self.target = cpu_target.typing_context, cpu_target.target_context

    def function(self, text: str, fastmath: list[str]) -> Any:
        """Execute kernel text over the prelude and return its last function of (args, start, stop, scratch).

        The text's other functions become jitted helpers.
        """
        space = dict(self.names)
        exec(compile(text, "<kernel>", "exec"), space)
        own = {n: f for n, f in space.items() if isinstance(f, pytypes.FunctionType) and f.__globals__ is space}
        kernels = [n for n, f in own.items() if f.__code__.co_varnames[: f.__code__.co_argcount] == PARAMETERS]
        if not kernels:
            raise CompileRefused(f"kernel text defines no function of {PARAMETERS}")
        options = HELPER_OPTIONS | {"fastmath": set(fastmath) or False}
        for name, value in own.items():
            if name != kernels[-1]:
                space[name] = njit(**options)(value)
        return space[kernels[-1]]

    def llvm_text(self, fn: Any, args: tuple[types.Type, ...], result: types.Type, fastmath: list[str]) -> str:
        """The unoptimised module of ``fn`` with a C function ENTRY around it."""
        flags = compiler.Flags()
        flags.nrt = False
        flags.no_compile = True
        flags.no_cpython_wrapper = True
        flags.no_cfunc_wrapper = True
        flags.error_model = "numpy"
        flags.fastmath = FastMathOptions(set(fastmath) or False)
        self.typing.refresh()
        self.target.refresh()
        done = compiler.compile_extra(self.typing, self.target, fn, args, result, flags, {})
        text = self.linked(done.library)
        formal = ", ".join(f"{_LLVM_NAME[t]} %a{i}" for i, t in enumerate(args))
        void = result == types.void
        slot, ret = ("ptr", "void") if void else (_LLVM_NAME[result], _LLVM_NAME[result])
        body = [
            f"define {ret} @{ENTRY}({formal}) {{",
            f"  %r = alloca {slot}",
            "  %e = alloca ptr",
            f'  %s = call i32 @"{done.fndesc.llvm_func_name}"(ptr %r, ptr %e, {formal})',
            "  ret void" if void else f"  %v = load {slot}, ptr %r\n  ret {slot} %v",
            "}",
        ]
        return text + "\n" + "\n".join(body) + "\n"

    def linked(self, library: Any) -> str:
        """The module with what it calls linked in."""
        with global_compiler_lock:
            library.finalize()
        return str(library.get_llvm_str())

    def compile(self, fn: Any, args: tuple[types.Type, ...], result: types.Type, fastmath: list[str]) -> Code:
        text = calls.known(_DEFINE.sub(rf"\1{_ATTRIBUTES}\2 {{", self.llvm_text(fn, args, result, fastmath)))
        declared = calls.declared(text)
        # A call is cheap to the unroller: it would take apart loops over one register before they are widened, and
        # those over the rows of a tile.
        self.tuning.loop_unrolling = calls.PREFIX not in text
        module = self._inlined(llvm.parse_assembly(declared))
        for variable in module.global_variables:
            if not variable.is_declaration and variable.linkage != llvm.Linkage.appending:
                variable.linkage = "internal"
        module.verify()
        builder = llvm.create_pass_builder(self.machine, self.tuning)
        builder.getModulePassManager().run(module, builder)
        self.last = self._with_bodies(module)
        return flatten(self.machine.emit_object(self.last), ENTRY)

    @staticmethod
    def _inlined(module: llvm.ModuleRef) -> llvm.ModuleRef:
        """``module``, of which the entry alone is to remain."""
        module.triple = TRIPLE
        for function in module.functions:
            if not function.is_declaration and function.name != ENTRY:
                function.linkage = "internal"
                function.add_function_attribute("alwaysinline")
        return module

    def _with_bodies(self, module: llvm.ModuleRef) -> llvm.ModuleRef:
        """Loops are as wide as they get: what the vector functions do takes the place of their calls."""
        text, bodies = calls.split(str(module))
        if not bodies:
            return module
        whole = llvm.parse_assembly(text)
        whole.link_in(llvm.parse_assembly(_DEFINE.sub(rf"\1{_ATTRIBUTES}\2 {{", bodies)))
        self._inlined(whole).verify()
        passes = llvm.create_new_module_pass_manager()
        passes.add_always_inliner_pass()
        passes.run(whole, llvm.create_pass_builder(self.machine, self.tuning))
        return whole

    def request(self, kind: str, text: str, fastmath: list[str]) -> Code:
        if kind == "kernel":
            return self.compile(self.function(text, fastmath), KERNEL_TYPES, types.void, fastmath)
        fn, arity, result = dispatcher.ENTRIES[kind]
        return self.compile(fn, (_WORD,) * arity, _WORD if result else types.void, [])


def _read(stream: BinaryIO, size: int) -> bytes | None:
    data = stream.read(size)
    return data if data is not None and len(data) == size else None


def serve(compile_one: Callable[[dict[str, Any]], Code], source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until the other side closes its end."""
    while (head := _read(source, 4)) is not None:
        body = _read(source, struct.unpack(">I", head)[0])
        if body is None:
            return
        data = b""
        try:
            code = compile_one(json.loads(body))
            answer: dict[str, Any] = {"ok": True, "entry": code.entry}
            data = code.data
        except Exception as error:  # whatever Numba or LLVM raise becomes the parent's typed refusal
            name = "" if isinstance(error, FusewrightError) else f"{type(error).__name__}: "
            answer = {"ok": False, "error": f"{name}{error}"}
        answer["size"] = len(data)
        header = json.dumps(answer).encode()
        sink.write(struct.pack(">I", len(header)) + header + data)
        sink.flush()


def serve_pipes(compile_one: Callable[[dict[str, Any]], Code]) -> None:
    """``serve`` over standard input and output."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print must not land in the protocol
    serve(compile_one, sys.stdin.buffer, sink)


def main() -> None:
    codegen = Codegen(VARIANTS[sys.argv[1]])
    serve_pipes(lambda ask: codegen.request(ask["kind"], ask["text"], ask["fastmath"]))


if __name__ == "__main__":
    main()
