"""Kernel text to images, through a pool of compiling processes and the on-disk cache.

Owns the worker processes, deduplication, caching and image assembly.
Must not import Numba: the parent process stays light.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import site
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as memoise
from importlib import metadata
from pathlib import Path

from ...core.errors import CompileRefused, MissingDependency
from .cache import Cache
from .image import Code, Image, assemble
from .variants import VARIANTS

_FOLDER = Path(__file__).parent
_ROOT = _FOLDER.parents[2]
_KEYED = (
    "registry.py prelude.py access.py lines.py mathlib.py mathlib64.py mathtrig.py intrinsics.py dispatcher.py "
    "worker.py image.py".split()
)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class KernelSource:
    """Text that defines ``(args, start, stop, scratch)`` over the prelude; ``entry`` is its symbol in the image.

    The kernel is the last function of the text with these parameters, whatever its name; others are helpers.

    ``fastmath`` holds LLVM flag names ("contract", "nsz", ...); none by default, so that NaN, infinities and the bits
    of an element do not depend on where a vector loop begins.
    """

    entry: str
    text: str
    fastmath: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Task:
    variant: str
    kind: str  # "kernel", or an entry of the dispatcher
    text: str
    fastmath: tuple[str, ...]

    def key(self) -> str:
        return json.dumps([1, toolchain_digest(), self.variant, self.kind, self.fastmath, self.text])


@memoise
def toolchain_digest() -> str:
    """A digest of what decides machine code besides the kernel text: our sources and the compilers' versions."""
    try:
        parts = [f"{name} {metadata.version(name)}" for name in ("numba", "llvmlite")]
    except metadata.PackageNotFoundError as error:
        raise MissingDependency(f"compiling needs {error.name}: pip install 'fusewright[compile]'") from None
    parts.append(f"python {sys.version_info[0]}.{sys.version_info[1]}")
    files = [_FOLDER / name for name in _KEYED] + sorted(_FOLDER.glob("tiles/**/*.py"))
    files.append(_ROOT / "fusewright" / "core" / "poolwords.py")
    parts += [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files if path.exists()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Worker:
    """One compiling process."""

    def __init__(self, variant: str) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "PYTHONSTARTUP"))}
        env.update(VARIANTS[variant].env)
        env["NUMBA_OPT"] = "0"  # the worker optimises the linked module itself, once
        env["PYTHONHASHSEED"] = "0"
        if str(_ROOT) not in {
            *site.getsitepackages(),
            site.getusersitepackages(),
        }:  # those would come before the library
            env["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-P", "-m", "fusewright.backends.numba_cpu.worker", variant]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)

    def ask(self, task: _Task) -> Code:
        """Compile one task. Raises CompileRefused, and EOFError when the process is gone."""
        request = json.dumps({"kind": task.kind, "text": task.text, "fastmath": list(task.fastmath)}).encode()
        sink, source = self.process.stdin, self.process.stdout
        assert sink is not None and source is not None
        try:
            sink.write(struct.pack(">I", len(request)) + request)
            sink.flush()
        except OSError as error:
            raise EOFError from error
        head = source.read(4)
        if len(head) != 4:
            raise EOFError
        size = struct.unpack(">I", head)[0]
        header = source.read(size)
        if len(header) != size:
            raise EOFError
        answer = json.loads(header)
        data = source.read(answer["size"])
        if len(data) != answer["size"]:
            raise EOFError
        if not answer["ok"]:
            raise CompileRefused(f"kernel does not compile for {task.variant}: {answer['error']}\n{task.text}")
        return Code(data, answer["entry"])

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.terminate()
        self.process.wait()


class _Workers:
    """Idle compiling processes by variant, kept for the life of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[str, list[_Worker]] = {}
        self._pid = os.getpid()

    def take(self, variant: str) -> _Worker:
        with self._lock:
            if self._pid != os.getpid():  # after a fork the pipes belong to the parent
                self._idle, self._pid = {}, os.getpid()
            idle = self._idle.get(variant)
            if idle:
                return idle.pop()
        return _Worker(variant)

    def give(self, variant: str, worker: _Worker) -> None:
        with self._lock:
            self._idle.setdefault(variant, []).append(worker)

    def close(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                for worker in [w for idle in self._idle.values() for w in idle]:
                    worker.close()
            self._idle = {}


_workers = _Workers()
atexit.register(_workers.close)


def default_jobs() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warm(variants: Iterable[str], jobs: int | None = None) -> None:
    """Start worker processes early, so that importing Numba overlaps with reading the model."""
    for variant in variants:
        started = [_workers.take(variant) for _ in range(jobs or default_jobs())]
        for worker in started:
            _workers.give(variant, worker)


def _pack(code: Code) -> bytes:
    return struct.pack("<I", code.entry) + code.data


def _unpack(payload: bytes) -> Code:
    return Code(payload[4:], struct.unpack_from("<I", payload)[0])


class _Batch:
    """The compilation of a set of tasks by a few threads, each of which talks to one process at a time."""

    def __init__(self, tasks: Sequence[_Task], store: Cache) -> None:
        self.waiting = deque(tasks)
        self.store = store
        self.done: dict[_Task, Code] = {}
        self.failure: BaseException | None = None
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.running = 0

    def run(self, threads: int, report: Callable[[int], None]) -> dict[_Task, Code]:
        """Compile everything; ``report(done)`` is called in the caller's thread."""
        self.running, told = threads, 0
        for _ in range(threads):
            threading.Thread(target=self.work, name="fusewright-compile", daemon=True).start()
        try:
            while True:
                with self.lock:
                    while self.running and len(self.done) == told:
                        self.changed.wait()
                    finished, told = not self.running, len(self.done)
                report(told)
                if finished:
                    break
        except BaseException as error:  # an interrupt, or the caller's own report: compile nothing more
            with self.lock:
                self.failure = error
            raise
        if self.failure is not None:
            raise self.failure
        return self.done

    def _next(self, variant: str | None) -> _Task | None:
        """The next task, of the variant whose process the thread holds where there is one."""
        with self.lock:
            if self.failure is not None or not self.waiting:
                return None
            for at, task in enumerate(self.waiting):
                if task.variant == variant:
                    del self.waiting[at]
                    return task
            return self.waiting.popleft()

    def work(self) -> None:
        held: tuple[str, _Worker] | None = None
        try:
            while (task := self._next(held[0] if held else None)) is not None:
                if held is not None and held[0] != task.variant:
                    _workers.give(*held)
                    held = None
                if held is None:
                    held = (task.variant, _workers.take(task.variant))
                try:
                    code = held[1].ask(task)
                except EOFError:
                    held[1].close()
                    status, held = held[1].process.returncode, None
                    what = f"the compiling process died (status {status}) on this kernel:\n{task.text}"
                    raise CompileRefused(what) from None
                self.store.put(task.key(), _pack(code))
                with self.lock:
                    self.done[task] = code
                    self.changed.notify()
        except BaseException as error:
            with self.lock:
                self.failure = self.failure or error
        finally:
            if held is not None:
                _workers.give(*held)
            with self.lock:
                self.running -= 1
                self.changed.notify()


def build_images(
    sources: Mapping[str, Sequence[KernelSource]], progress: Progress | None = None, jobs: int | None = None
) -> dict[str, Image]:
    """Compile the sources of each variant into its image; every image also holds ``run`` and ``worker``.

    Equal texts compile once. ``progress(done, total)`` counts distinct compilations. Raises CompileRefused.
    """
    plans: dict[str, dict[_Task, list[str]]] = {}
    for variant, wanted in sources.items():
        if variant not in VARIANTS:
            raise CompileRefused(f"unknown CPU variant {variant!r}; known are {', '.join(VARIANTS)}")
        plan: dict[_Task, list[str]] = {_Task(variant, kind, "", ()): [kind] for kind in ("run", "worker")}
        seen = {"run", "worker"}
        for source in wanted:
            if source.entry in seen:
                raise CompileRefused(f"two kernels have the symbol {source.entry!r}")
            seen.add(source.entry)
            task = _Task(variant, "kernel", source.text, tuple(sorted(source.fastmath)))
            plan.setdefault(task, []).append(source.entry)
        plans[variant] = plan
    tasks = [task for plan in plans.values() for task in plan]
    store = Cache.default()
    ready: dict[_Task, Code] = {}
    for task in tasks:
        if (payload := store.get(task.key())) is not None and len(payload) > 4:
            ready[task] = _unpack(payload)
    hits = len(ready)

    def report(done: int) -> None:
        if progress is not None:
            progress(hits + done, len(tasks))

    missing = [task for task in tasks if task not in ready]
    report(0)
    if missing:
        ready |= _Batch(missing, store).run(max(1, min(jobs or default_jobs(), len(missing))), report)
    return {v: assemble((names, ready[task]) for task, names in plan.items()) for v, plan in plans.items()}


def build_image(
    sources: Sequence[KernelSource], variant: str, progress: Progress | None = None, jobs: int | None = None
) -> Image:
    """``build_images`` for one variant."""
    return build_images({variant: sources}, progress, jobs)[variant]
