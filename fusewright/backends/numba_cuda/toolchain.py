"""Kernel text to PTX and machine code for GPUs.

Owns what a compiled kernel depends on, the joining of kernels into one module, and the assembler. Needs no GPU, driver
or toolkit: LLVM writes the PTX, and the assembler is a package of its own. Must not import Numba.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache as memoise
from importlib import metadata
from pathlib import Path
from typing import Any

from ...core.errors import CompileRefused, MissingDependency
from ..numba_cpu.cache import Cache
from ..numba_cpu.toolchain import toolchain_digest
from ..numba_cpu.variants import VARIANTS
from ..workers import Server, compile_tasks, default_jobs

SERVER = Server("cuda", "fusewright.backends.numba_cuda.worker", tuple(VARIANTS["cpu-avx2"].env.items()))
ARCHITECTURES = ("sm_80", "sm_90")  # others run the PTX
ASSEMBLER = "nvidia-cuda-nvcc"
_KEYED = ("vocabulary.py", "tensor.py", "half.py", "flash.py", "llvm.py", "forms.py", "tiles.py", "worker.py")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Source:
    """The text of one kernel with its launch: see ``words.Placed``.

    ``strided``: a block may go on with units beyond the grid; ``room``: its last argument is the bytes of scratch that
    each thread has.
    """

    symbol: str
    text: str
    count: int
    mode: str
    block: int
    units: int
    strided: bool
    room: bool
    resident: int = 0

    @property
    def server(self) -> Server:
        return SERVER

    def request(self) -> dict[str, Any]:
        return asdict(self)

    def key(self) -> str:
        return json.dumps([1, "cuda", toolchain_digest(), _own_digest(), *asdict(self).values()])


@dataclass(frozen=True, slots=True)
class Module:
    """One PTX module with every kernel, machine code per architecture, and what the assembler said of each kernel:
    ``{symbol: {architecture: {"registers", "shared", "spills", "stack"}}}``."""

    ptx: bytes
    cubins: dict[str, bytes]
    resources: dict[str, dict[str, dict[str, int]]]


def code_files() -> list[Path]:
    """The files that decide what PTX the compiling process makes of a text, besides the CPU's."""
    return [Path(__file__).parent / name for name in _KEYED]


@memoise
def _own_digest() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in code_files())).hexdigest()


@memoise
def assembler() -> tuple[str, str]:
    """The path and version of ptxas. Raises MissingDependency."""
    try:
        files = metadata.files(ASSEMBLER) or []
        found = next((str(f.locate()) for f in files if f.name == "ptxas"), None)
        if found is not None and os.path.isfile(found):
            return found, metadata.version(ASSEMBLER)
    except metadata.PackageNotFoundError:
        pass
    raise MissingDependency(f"compiling for CUDA needs {ASSEMBLER}: pip install 'fusewright[cuda]'")


def build(
    sources: Sequence[Source], progress: Progress | None = None, architectures: Sequence[str] = ARCHITECTURES
) -> Module:
    """Compile every kernel and assemble them. ``progress(done, total)`` counts kernels and architectures.

    Raises CompileRefused, MissingDependency.
    """
    assembler()
    steps = len(architectures)

    def note(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total + steps)

    ready = compile_tasks(sources, note)
    ptx = join([ready[source].data.decode() for source in sorted(sources, key=lambda s: s.symbol)])
    with ThreadPoolExecutor(max(1, min(default_jobs(), steps))) as pool:
        done = list(pool.map(lambda arch: assemble(ptx, arch), architectures))
    note(len(set(sources)) + steps, len(set(sources)))
    resources: dict[str, dict[str, dict[str, int]]] = {}
    for arch, (_, found) in zip(architectures, done, strict=True):
        for symbol, row in found.items():
            resources.setdefault(symbol, {})[arch] = row
    return Module(ptx.encode(), {a: cubin for a, (cubin, _) in zip(architectures, done, strict=True)}, resources)


_HEADER = re.compile(r"\A.*?^\.version [^\n]*\n\.target [^\n]*\n\.address_size 64\n", re.S | re.M)
_COMMENT = re.compile(r"^\s*//[^\n]*\n", re.M)


def join(modules: Sequence[str]) -> str:
    """One module of many that were compiled alike. Every name in them is its own."""
    from_first = _HEADER.match(modules[0]) if modules else None
    head = from_first.group(0) if from_first else ".version 7.8\n.target sm_80\n.address_size 64\n"
    bodies = []
    for text in modules:
        match = _HEADER.match(text)
        if match is None or _COMMENT.sub("", match.group(0)) != _COMMENT.sub("", head):
            raise CompileRefused("kernels were compiled to different versions of PTX")
        bodies.append(_COMMENT.sub("", text[match.end() :]).strip("\n"))
    return _COMMENT.sub("", head).lstrip("\n") + "\n" + "\n\n".join(bodies) + "\n"


def assemble(ptx: str, architecture: str) -> tuple[bytes, dict[str, dict[str, int]]]:
    """Machine code of a module, and the resources of its kernels. Raises CompileRefused."""
    path, version = assembler()
    key = json.dumps([1, "ptxas", version, architecture, ptx])
    store = Cache.default()
    kept = store.get(key)
    if kept is not None:
        size = int.from_bytes(kept[:4], "little")
        return kept[4 + size :], json.loads(kept[4 : 4 + size])
    with tempfile.TemporaryDirectory(prefix="fusewright-") as folder:
        source, target = Path(folder, "kernels.ptx"), Path(folder, "kernels.cubin")
        source.write_text(ptx)
        command = [path, f"-arch={architecture}", "-v", str(source), "-o", str(target)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise CompileRefused(f"the assembler refused kernels for {architecture}: {ran.stderr[-2000:]}")
        cubin = target.read_bytes()
    found = read_resources(ran.stderr)
    table = json.dumps(found, sort_keys=True).encode()
    store.put(key, len(table).to_bytes(4, "little") + table + cubin)
    return cubin, found


_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:, used \d+ barriers)?(?:, (\d+) bytes smem)?")


def read_resources(log: str) -> dict[str, dict[str, int]]:
    """``{symbol: {"registers", "shared", "spills", "stack"}}`` out of what ``ptxas -v`` prints."""
    out: dict[str, dict[str, int]] = {}
    symbol, row = "", {"registers": 0, "shared": 0, "spills": 0, "stack": 0}
    for line in log.splitlines():
        if match := _ENTRY.search(line):
            symbol = match.group(1)
            row = out[symbol] = {"registers": 0, "shared": 0, "spills": 0, "stack": 0}
        elif match := _STACK.search(line):
            row["stack"], row["spills"] = int(match.group(1)), int(match.group(2)) + int(match.group(3))
        elif match := _USED.search(line):
            row["registers"] = int(match.group(1))
            shared = re.search(r"(\d+) bytes smem", line)
            row["shared"] = int(shared.group(1)) if shared else 0
    return out
