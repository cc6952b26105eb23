"""Conformance: every case of a corpus through a saved and reloaded native bundle, each one isolated.

    python tests/conformance/run.py --suite keras_h5 --corpora DIR [--only KEY] [--json F] [--compare scores.json]

A suite is one file ``suite_<name>.py`` beside this one with ``keys(corpora)`` and ``load(corpora, key, scratch)``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from case import OUTCOMES

HERE = Path(__file__).resolve().parent
SUITES = ("models", "keras_h5", "tf_graphs", "tf_cases", "onnx")
TIME_LIMIT = 60.0
START_LIMIT = 120.0


class Worker:
    """One worker process, started when a case needs it and again after it died or hung."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        """The worker's answer, or the outcome ``crashed``."""
        process = self.process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._read(limit)
        if isinstance(answer, dict):
            return answer
        self.stop()
        return {"outcome": "crashed", "detail": answer, "max_err": None}

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        ready = self._read(START_LIMIT)
        if not isinstance(ready, dict):
            self.stop()
            raise SystemExit(f"the conformance worker does not start: {ready}")
        return self.process

    def _read(self, limit: float) -> dict[str, Any] | str:
        assert self.process is not None and self.process.stdout is not None
        stream, data, end = self.process.stdout, b"", time.monotonic() + limit
        while not data.endswith(b"\n"):
            if not select.select([stream], [], [], max(0.0, end - time.monotonic()))[0]:
                return f"no answer within {limit:.0f} s"
            chunk = os.read(stream.fileno(), 65536)
            if not chunk:
                code = self.process.wait()
                return f"the process died with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
            data += chunk
        answer: dict[str, Any] = json.loads(data)
        return answer

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def sampled(keys: list[str], sample: int) -> list[str]:
    """``sample`` evenly spaced keys of a suite with more than three times as many; all of a smaller one, or for 0."""
    if not sample or len(keys) <= 3 * sample:
        return keys
    return [keys[i * len(keys) // sample] for i in range(sample)]


def run_suite(
    suite: str,
    corpora: Path,
    jobs: int,
    only: list[str],
    native: bool,
    limit: float,
    sample: int = 0,
    target: str = "cpu",
) -> dict[str, Any]:
    """Run the cases of one suite and count the outcomes."""
    module = importlib.import_module(f"suite_{suite}")
    keys = [key for key in module.keys(corpora) if not only or key in only or any(o in key for o in only)]
    keys = sampled(keys, sample)
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for key in keys:
        todo.put(key)
    results: dict[str, dict[str, Any]] = {}

    def drain() -> None:
        worker = Worker()
        while True:
            try:
                key = todo.get_nowait()
            except queue.Empty:
                worker.stop()
                return
            results[key] = worker.ask(
                {"suite": suite, "corpora": str(corpora), "key": key, "native": native, "target": target}, limit
            )
            shown = results[key]
            if only or shown["outcome"] in ("wrong", "crashed"):
                error = "" if shown["max_err"] is None else f"  max error {shown['max_err']:.3g}"
                print(f"{suite} {key}: {shown['outcome']}{error}  {shown['detail']}", flush=True)

    threads = [threading.Thread(target=drain) for _ in range(min(jobs, 2, max(1, len(keys))))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = Counter(result["outcome"] for result in results.values())
    total = sum(counts[outcome] for outcome in ("passed", "refused", "wrong", "crashed"))
    return {
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        "total": total,
        "cases": {key: results[key] for key in sorted(results)},
    }


def refusals(result: dict[str, Any]) -> list[tuple[int, str]]:
    """Why cases were refused, most frequent first."""
    reasons = Counter(c["detail"].splitlines()[0][:160] for c in result["cases"].values() if c["outcome"] == "refused")
    return [(count, reason) for reason, count in reasons.most_common(8)]


def recorded(result: dict[str, Any]) -> dict[str, Any]:
    """What scores.json keeps: the counts, and the outcome of every case that did not pass."""
    kept = {key: value for key, value in result.items() if key != "cases"}
    other = {key: case["outcome"] for key, case in result["cases"].items() if case["outcome"] != "passed"}
    return {**kept, "not_passed": other}


def drops(suite: str, now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Where the cases that ran are worse than recorded: a case lost, or one more that is wrong or crashed."""
    cases, not_passed = now["cases"], before["not_passed"]
    lost = [key for key, case in cases.items() if case["outcome"] != "passed" and key not in not_passed]
    found = [f"{suite}: {len(lost)} cases passed when the score was recorded and do not now"] if lost else []
    for bad in ("wrong", "crashed"):
        was = sum(not_passed.get(key) == bad for key in cases)
        if now[bad] > was:
            found.append(f"{suite}: {now[bad]} {bad}, recorded {was}")
    return found + [f"  {key}: {cases[key]['outcome']} {cases[key]['detail']}" for key in lost]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--suite",
        action="append",
        required=True,
        choices=[*SUITES, "all"],
        help="'all' = every suite there is so far (with --compare: that has a score)",
    )
    parser.add_argument(
        "--corpora", type=Path, default=Path(os.environ.get("FUSEWRIGHT_SHARED", "../shared")) / "corpora"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="KEY", help="only this case (or part of its name)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--compare", type=Path, metavar="SCORES", help="exit 1 when a suite is below its recorded score"
    )
    parser.add_argument("--record", type=Path, metavar="SCORES", help="write the scores of this run")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes, at most 2")
    parser.add_argument(
        "--sample",
        type=int,
        default=0,
        metavar="N",
        help="of suites with more than 3 N cases, run N evenly spaced ones",
    )
    parser.add_argument(
        "--target", choices=("cpu", "cuda"), default="cpu", help="cuda: in an interpreter of the GPU's code, slowly"
    )
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT, metavar="S")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--native", dest="native", action="store_true", default=True)
    mode.add_argument(
        "--interpreter", dest="native", action="store_false", help="interpret the imported graph (debugging)"
    )
    args = parser.parse_args()
    corpora = args.corpora.resolve()
    if not corpora.is_dir():
        parser.error(f"no corpora in {args.corpora}")
    there = [suite for suite in SUITES if (HERE / f"suite_{suite}.py").exists()]
    asked = there if "all" in args.suite else args.suite
    if args.compare and "all" in args.suite:
        scored = json.loads(args.compare.read_text())
        print("no recorded score yet:", ", ".join(suite for suite in there if suite not in scored) or "none")
        asked = [suite for suite in there if suite in scored]
    missing = [suite for suite in asked if suite not in there]
    if missing:
        parser.error(f"suite {', '.join(missing)}: the frontend is not there yet; there are {', '.join(there)}")
    results = {}
    for suite in asked:
        start = time.monotonic()
        results[suite] = result = run_suite(
            suite, corpora, args.jobs, args.only, args.native, args.time_limit, args.sample, args.target
        )
        share = 100 * result["passed"] / max(1, result["total"])
        print(
            f"{suite}: {share:.1f} % of {result['total']}: "
            + ", ".join(f"{result[o]} {o}" for o in OUTCOMES)
            + f" ({time.monotonic() - start:.0f} s)",
            flush=True,
        )
        for count, reason in refusals(result):
            print(f"  {count:4d} refused: {reason}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    if args.record:
        scores = json.loads(args.record.read_text()) if args.record.exists() else {}
        scores.update({suite: recorded(result) for suite, result in results.items()})
        args.record.write_text(json.dumps(scores, indent=1, sort_keys=True) + "\n")
    if args.compare:
        scores = json.loads(args.compare.read_text())
        worse = [
            line for suite, result in results.items() if suite in scores for line in drops(suite, result, scores[suite])
        ]
        print("\n".join(["below the recorded score:", *worse]) if worse else "no score dropped")
        return 1 if worse else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
