"""target='cuda': what is accepted and refused, what a bundle holds, and what a second compile costs."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends import workers
from fusewright.backends.numba_cpu import loops
from fusewright.backends.numba_cpu.templates.units import THREADS, cut_for
from fusewright.backends.numba_cuda import toolchain
from fusewright.core.plan import Plan
from fusewright.ir.opdef import OPS


def dense(columns: int = 24) -> fw.Graph:
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 48))
    weights = np.arange(48 * columns, dtype=np.float32).reshape(48, columns) / 999
    return b.build(b.tanh(b.matmul(x, b.constant(weights))))


def test_without_a_gpu_a_bundle_is_built_but_not_called(tmp_path: Path) -> None:
    bundle = fw.compile(dense(), target="cuda")
    assert bundle.target == "cuda" and bundle.signature.inputs[0].name == "x"
    assert bundle.report(dims={"N": 8}).kernels
    with pytest.raises(fw.BundleRefused, match="save it"):
        bundle(np.zeros((1, 48), np.float32))
    bundle.save(tmp_path / "m.fwb")
    with pytest.raises(fw.BundleRefused, match="driver"):
        fw.load(tmp_path / "m.fwb")
    assert fw.load(tmp_path / "m.fwb", native=False)(np.zeros((1, 48), np.float32)).shape == (1, 24)


def test_both_targets_in_one_bundle_share_the_weights(tmp_path: Path) -> None:
    both, one = fw.compile(dense(240), target=["cpu", "cuda"]), fw.compile(dense(240), target="cuda")
    x = np.linspace(-1, 1, 96, dtype=np.float32).reshape(2, 48)
    np.testing.assert_allclose(both(x), dense(240).run({"x": x})["output"], rtol=1e-5, atol=1e-6)
    assert [t.name for t in both.manifest.targets] == ["cpu-avx2", "cpu-avx512", "cuda"]
    sizes = []
    for name, bundle in (("both", both), ("one", one)):
        bundle.save(tmp_path / name)
        sizes.append(os.path.getsize(tmp_path / name))
    assert sizes[0] - sizes[1] < 48 * 240 * 4 // 2 + 30_000  # two images of code, no second copy of the weights


def test_every_kernel_has_a_launch() -> None:
    bundle = fw.compile(dense(), target="cuda")
    plan = Plan.from_bytes(bytes(bundle._container.read("native/cuda/plan.json")))
    assert plan.kernels and all(k.launch is not None and k.launch.block % 32 == 0 for k in plan.kernels)


def test_same_model_same_bytes() -> None:
    first, second = (bytes(fw.compile(dense(), target="cuda")._container.data) for _ in range(2))
    assert first == second


def test_everything_without_a_kernel_is_refused_at_once_by_name() -> None:
    names = ("sorted_by_hand", "shuffled_by_hand")
    for name in names:
        fw.define_op(
            fw.OpDef(name, ("x",), "opaque", OPS["neg"].infer, eval=lambda arrays, attrs, context: arrays[0], doc="x")
        )
    try:
        b: Any = fw.Builder()
        x = b.input("x", "f32", ("N", 4))
        graph = b.build(b.add(getattr(b, names[0])(b.exp(x)), getattr(b, names[1])(x)))
        with pytest.raises(fw.CompileRefused) as refused:
            fw.compile(graph, target="cuda")
    finally:
        for name in names:
            OPS.pop(name)
    assert all(name in str(refused.value) for name in names)
    assert "fw.register_kernel('s" in str(refused.value) and "target='cuda'" in str(refused.value)


@pytest.mark.parametrize("target", ["gpu", "cuda-sm90", ["cpu", "tpu"], []])
def test_names_that_are_no_targets(target: Any) -> None:
    with pytest.raises(fw.CompileRefused, match="target"):
        fw.compile(dense(), target=target)


def test_a_pipeline_of_another_target_is_refused() -> None:
    with pytest.raises(fw.CompileRefused, match="'cpu'"):
        fw.compile(dense(), target="cuda", pipeline=fw.default_pipeline("cpu"))


def test_a_missing_assembler_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    toolchain.assembler.cache_clear()
    monkeypatch.setattr(toolchain.metadata, "files", none)
    try:
        with pytest.raises(fw.MissingDependency, match=r"fusewright\[cuda\]"):
            fw.compile(dense(), target="cuda")
    finally:
        monkeypatch.undo()
        toolchain.assembler.cache_clear()


def test_a_second_compile_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first = fw.compile(dense(), target="cuda")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a process was wanted")

    monkeypatch.setattr(workers.WORKERS, "take", refuse)
    monkeypatch.setattr(toolchain.subprocess, "run", refuse)
    assert bytes(fw.compile(dense(), target="cuda")._container.data) == bytes(first._container.data)


def test_the_cut_of_work_holds_for_the_text_inside_only() -> None:
    b = fw.Builder()
    graph = b.build(b.exp(b.input("x", "f32", ("N", 5))))
    node = next(n for n in graph.nodes if n.op.name == "exp")
    before = loops.generate(node)[0].text
    with cut_for(THREADS):
        assert "start * 1" in loops.generate(node)[0].text
    assert loops.generate(node)[0].text == before and "start * 64" in before


def test_modules_compiled_to_different_versions_do_not_join() -> None:
    head = ".version {}\n.target sm_80\n.address_size 64\n"
    one, other = (head.format(v) + ".visible .entry k()\n{ ret; }\n" for v in ("7.8", "8.0"))
    assert toolchain.join([one, one]).count(".version") == 1
    with pytest.raises(fw.CompileRefused, match="version"):
        toolchain.join([one, other])
