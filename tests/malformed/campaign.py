"""Malformed files by the thousand: one family of errors, no crash, no hang, bounded memory, nothing else touched.

python tests/malformed/campaign.py FORMAT... [--start 0] [--count 1000] [--seed 0] [--seeds FOLDER]
    [--record FILE]

Each block of files runs in a process of its own, so that a crash is an outcome. Needs what writes the seeds (Keras,
TensorFlow, onnx) in the first step only: the blocks import Fusewright alone, under an audit hook.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mutate

Mutator = Callable[[random.Random, bytes], bytes]
FORMATS: dict[str, Mapping[str, Mutator]] = {
    "keras": {"": mutate.keras_zip},
    "h5": {"": mutate.hdf5},
    "json": {".json": mutate.json_text, ".h5": mutate.hdf5},
    "onnx": {"": mutate.protobuf},
    "graph_def": {"": mutate.protobuf},
    "saved_model": {"saved_model.pb": mutate.protobuf, ".index": mutate.table, ".data-00000-of-00001": mutate.flip},
    "checkpoint": {
        ".meta": mutate.protobuf, ".index": mutate.table, ".data-00000-of-00001": mutate.flip,
        "checkpoint": mutate.flip,
    },
}  # fmt: skip
BLOCK = 2000
HANG_SECONDS = 5
VERSION = f"{sys.version_info.major}{sys.version_info.minor}"
MEMORY_FLOOR, MEMORY_RATIO = 150 << 20, 2.5
# What a parser of data has no business with. `open` is allowed on the mutant's own files alone.
FORBIDDEN = ("import", "exec", "compile", "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn",
             "ctypes.", "shutil.", "os.remove", "os.rename", "os.mkdir", "pickle.", "marshal.", "urllib.")  # fmt: skip


class Hang(Exception):
    """The file took too long."""


class Watch:
    """An audit hook that notes what happens while ``armed``, apart from reading below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.armed, self.seen = str(folder), False, list[str]()
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "open":
            path, _, flags = args
            below = isinstance(path, (str, bytes)) and os.fsdecode(path).startswith(self.folder)
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            # A bare descriptor was opened by a call that this hook has judged. pyfive logs its own version, for which
            # importlib looks into the installed packages: no file can turn that anywhere.
            own = isinstance(path, str) and path.endswith((".dist-info/METADATA", f"python{VERSION}.zip"))
            if isinstance(path, int) or (below or own) and not writes:
                return
        elif not event.startswith(FORBIDDEN):
            return
        if event == "import" and args[0] in sys.modules:
            return
        self.seen.append(f"{event}{args!r}"[:300])


def copy_seed(seed: Path, folder: Path) -> Path:
    """The seed in an empty folder; what to import."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if seed.is_dir():
        shutil.copytree(seed, folder / seed.name)
        return folder / seed.name
    for file in seed.parent.glob(seed.name.removesuffix(".json") + "*"):
        shutil.copy(file, folder / file.name)
    return folder / seed.name


def parts(target: Path, kind: str) -> list[tuple[Path, Mutator]]:
    """The files of a seed that may be changed, each with its mutator."""
    files = (
        [p for p in sorted(target.rglob("*")) if p.is_file()] if target.is_dir() else sorted(target.parent.iterdir())
    )
    return [(f, m) for f in files for suffix, m in FORMATS[kind].items() if f.name.endswith(suffix)]


def options(kind: str, target: Path) -> dict[str, Any]:
    if kind == "json":
        return {"weights": target.with_suffix(".weights.h5")}
    return {"outputs": ["y"]} if kind == "checkpoint" else {}


def peak_bytes(reset: bool = False) -> int:
    """This process's peak resident set since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return 0


def block(kind: str, seeds: Path, start: int, count: int, seed: int, scratch: Path) -> dict[str, Any]:
    """Try mutants from ``start`` on. ``scratch/at`` holds the number in hand, for whoever finds us dead."""
    import fusewright as fw

    sources = [p for p in sorted(seeds.iterdir()) if p.name.startswith(kind + ".") and ".weights" not in p.name]
    folder = scratch / "files"
    watch = Watch(folder)
    for source in sources:  # also loads every module that importing needs
        target = copy_seed(source, folder)
        fw.import_model(target, **options(kind, target))

    def on_alarm(number: int, frame: Any) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, on_alarm)  # of processor time: a busy machine is no hang
    outcomes: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    slowest, most = 0.0, 0
    for i in range(start, start + count):
        (scratch / "at").write_text(str(i))
        rng = random.Random(f"{seed}:{kind}:{i}")
        target = copy_seed(rng.choice(sources), folder)
        file, mutator = rng.choice(parts(target, kind))
        changed = mutator(rng, file.read_bytes())
        file.write_bytes(changed)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        before = peak_bytes(reset=True)
        begin = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
        watch.armed = True
        try:
            fw.import_model(target, **options(kind, target))
            outcome, detail = "accepted", ""
        except fw.ImportRefused as refusal:
            outcome, detail = "refused", ""
            codes[refusal.code] += 1
        except BaseException as error:
            watch.armed = False  # printing the traceback reads source files
            outcome = "hang" if isinstance(error, Hang) else type(error).__name__
            detail = traceback.format_exc(limit=-6)
        finally:
            watch.armed = False
            signal.setitimer(signal.ITIMER_PROF, 0)
        seconds = time.process_time() - begin
        grown = peak_bytes() - before
        slowest, most = max(slowest, seconds), max(most, grown)
        outcomes[outcome] += 1
        if outcome not in ("accepted", "refused"):
            findings.append({"mutant": i, "outcome": outcome, "detail": detail})
        if grown > MEMORY_FLOOR + MEMORY_RATIO * size:
            findings.append({"mutant": i, "outcome": "memory", "detail": f"{grown} bytes for a file of {size}"})
        if watch.seen:
            findings.append({"mutant": i, "outcome": "touched", "detail": "; ".join(watch.seen[:4])})
            watch.seen.clear()
    return {"outcomes": outcomes, "codes": codes, "findings": findings, "slowest_s": slowest, "peak_bytes": most}


def campaign(
    kind: str, count: int, seed: int, seeds: Path, note: Callable[[str], None] = print, start: int = 0
) -> dict[str, Any]:
    """The mutants from ``start`` to ``count`` of one format, in blocks, one after the other."""
    total: dict[str, Any] = {"tried": 0, "outcomes": Counter(), "codes": Counter(), "findings": [], "slowest_s": 0.0,
                             "peak_bytes": 0}  # fmt: skip
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as folder:
        at, end = start, count
        while at < end:
            size = min(BLOCK, end - at)
            found, done = _run_block(kind, seeds, at, size, seed, Path(folder))
            for key in ("outcomes", "codes"):
                total[key].update(found[key])
            total["findings"] += found["findings"]
            for key in ("slowest_s", "peak_bytes"):
                total[key] = max(total[key], found[key])
            at += done
            total["tried"] = at - start
            note(f"{kind}: {at} of {end}, {dict(total['outcomes'])}, {len(total['findings'])} findings")
    return total


def _run_block(kind: str, seeds: Path, at: int, size: int, seed: int, scratch: Path) -> tuple[dict[str, Any], int]:
    """A block's result and how many mutants it got through; the one that killed it is the last."""
    out = scratch / "block.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--block", kind, str(seeds), str(at), str(size), str(seed), str(scratch)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 + size)
        reason = f"exit status {done.returncode}: {done.stderr[-2000:]}"
    except subprocess.TimeoutExpired:
        reason = "no answer"
    if out.exists():
        return json.loads(out.read_text()), size
    if not (scratch / "at").exists():
        raise SystemExit(f"{kind}: the block did not start: {reason}")
    last = int((scratch / "at").read_text())
    finding = {"mutant": last, "outcome": "crash", "detail": reason}
    empty = {"outcomes": {"crash": 1, "unknown": last - at}, "codes": {}, "findings": [finding]}
    return {**empty, "slowest_s": 0.0, "peak_bytes": 0}, last - at + 1


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--block"]:
        kind, seeds, at, size, seed, scratch = arguments[1:]
        found = block(kind, Path(seeds), int(at), int(size), int(seed), Path(scratch))
        partial = Path(scratch) / "block.part"
        partial.write_text(json.dumps(found))
        partial.rename(Path(scratch) / "block.json")
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="+", choices=[*FORMATS, "all"])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0, help="go on from this mutant up to --count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=Path, help="a folder that seeds.py filled; made anew if left out")
    parser.add_argument("--record", type=Path, help="add the results to this JSON file")
    args = parser.parse_args(arguments)
    kinds = list(FORMATS) if "all" in args.formats else args.formats
    with tempfile.TemporaryDirectory() as made:
        if args.seeds is None:
            subprocess.run([sys.executable, str(Path(__file__).with_name("seeds.py")), made], check=True)
        bad = 0
        for kind in kinds:
            result = campaign(
                kind, args.count, args.seed, args.seeds or Path(made), lambda line: print(line, flush=True), args.start
            )
            bad += len(result["findings"])
            for finding in result["findings"][:20]:
                print(json.dumps(finding, indent=1))
            if args.record:
                book = json.loads(args.record.read_text()) if args.record.exists() else {}
                book[kind] = {"seed": args.seed, **result}
                args.record.write_text(json.dumps(book, indent=1, sort_keys=True) + "\n")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
