"""Compiling processes that any backend may start, and batches of work for them.

Owns the processes, who waits for them, and what reaches the on-disk cache. Must not know what a request means, and must
not import Numba: the parent process stays light.
"""

from __future__ import annotations

import atexit
import contextlib
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
from pathlib import Path
from typing import Any, Protocol

from ..core.errors import CompileRefused
from .numba_cpu.cache import Cache
from .numba_cpu.image import Code

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Server:
    """A module that answers requests when it is run with ``name`` as its argument; ``env`` is set for it."""

    name: str
    module: str
    env: tuple[tuple[str, str], ...] = ()


class Task(Protocol):
    """One request; equal tasks are compiled once. ``text`` is shown when it is refused."""

    @property
    def server(self) -> Server: ...

    @property
    def text(self) -> str: ...

    def key(self) -> str: ...

    def request(self) -> Mapping[str, Any]: ...


class Worker:
    """One compiling process."""

    def __init__(self, server: Server) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "PYTHONSTARTUP"))}
        env.update(server.env)
        env["NUMBA_OPT"] = "0"  # the worker optimises the linked module itself, once
        env["PYTHONHASHSEED"] = "0"
        if str(_ROOT) not in {
            *site.getsitepackages(),
            site.getusersitepackages(),
        }:  # those would come before the library
            env["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-P", "-m", server.module, server.name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)

    def ask(self, task: Task) -> Code:
        """Compile one task. Raises CompileRefused, and EOFError when the process is gone."""
        request = json.dumps(task.request()).encode()
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
            raise CompileRefused(f"kernel does not compile for {task.server.name}: {answer['error']}\n{task.text}")
        return Code(data, answer["entry"])

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.terminate()
        self.process.wait()


class Workers:
    """Idle compiling processes by server name, kept for the life of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[str, list[Worker]] = {}
        self._pid = os.getpid()

    def take(self, server: Server) -> Worker:
        with self._lock:
            if self._pid != os.getpid():  # after a fork the pipes belong to the parent
                self._idle, self._pid = {}, os.getpid()
            idle = self._idle.get(server.name)
            if idle:
                return idle.pop()
        return Worker(server)

    def give(self, server: Server, worker: Worker) -> None:
        with self._lock:
            self._idle.setdefault(server.name, []).append(worker)

    def close(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                for worker in [w for idle in self._idle.values() for w in idle]:
                    worker.close()
            self._idle = {}


WORKERS = Workers()
atexit.register(WORKERS.close)


def default_jobs() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warm(servers: Iterable[Server], jobs: int | None = None) -> None:
    """Start worker processes early, so that importing Numba overlaps with reading the model."""
    for server in servers:
        started = [WORKERS.take(server) for _ in range(jobs or default_jobs())]
        for worker in started:
            WORKERS.give(server, worker)


def _pack(code: Code) -> bytes:
    return struct.pack("<I", code.entry) + code.data


def _unpack(payload: bytes) -> Code:
    return Code(payload[4:], struct.unpack_from("<I", payload)[0])


class Batch:
    """The compilation of a set of tasks by a few threads, each of which talks to one process at a time."""

    def __init__(self, tasks: Sequence[Task], store: Cache) -> None:
        self.waiting = deque(tasks)
        self.store = store
        self.done: dict[Task, Code] = {}
        self.failure: BaseException | None = None
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.running = 0

    def run(self, threads: int, report: Callable[[int], None]) -> dict[Task, Code]:
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

    def _next(self, server: Server | None) -> Task | None:
        """The next task, of the server whose process the thread holds where there is one."""
        with self.lock:
            if self.failure is not None or not self.waiting:
                return None
            for at, task in enumerate(self.waiting):
                if task.server == server:
                    del self.waiting[at]
                    return task
            return self.waiting.popleft()

    def work(self) -> None:
        held: tuple[Server, Worker] | None = None
        try:
            while (task := self._next(held[0] if held else None)) is not None:
                if held is not None and held[0] != task.server:
                    WORKERS.give(*held)
                    held = None
                if held is None:
                    held = (task.server, WORKERS.take(task.server))
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
                WORKERS.give(*held)
            with self.lock:
                self.running -= 1
                self.changed.notify()


def compile_tasks(
    tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None, jobs: int | None = None
) -> dict[Task, Code]:
    """The answer to every task, from the cache or from processes. ``progress(done, total)`` counts distinct tasks.

    Raises CompileRefused.
    """
    tasks = list(dict.fromkeys(tasks))
    store = Cache.default()
    ready: dict[Task, Code] = {}
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
        ready |= Batch(missing, store).run(max(1, min(jobs or default_jobs(), len(missing))), report)
    return ready
