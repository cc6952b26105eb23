"""Tuning: the cheaper candidate wins, results stay, what is chosen is data; and everything that is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import fusewright as fw
from fusewright.backends.numba_cpu import tune as tuning
from fusewright.backends.numba_cpu.choices import Choice, Choices, read
from fusewright.cli import main
from fusewright.core.errors import BundleRefused, CompileRefused
from fusewright.core.manifest import Manifest, canonical
from fusewright.runtime import cpu
from fusewright.runtime.format import Container

TARGET = "cpu-avx2"
CONV = "conv 3x3/1x1 pad 1x1+1x1 dil 1x1 groups 1 ?x28x28x64>64 blocked"
POINT = "conv 1x1/1x1 pad 0x0+0x0 dil 1x1 groups 1 ?x28x28x64>128 blocked"
Cost = Callable[[str, str], float]


def model(batch: Any = "N", channels: int = 64) -> fw.Graph:
    """A 3x3 convolution that the rules compute in Winograd's tiles, a 1x1 one, and a product."""
    rng = np.random.default_rng(0)
    b = fw.Builder()

    def weights(*shape: int) -> Any:
        return b.constant((rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))).astype("f4"))

    x = b.input("x", "f32", (batch, 28, 28, channels))
    y = b.conv(x, weights(3, 3, channels, channels), strides=(1, 1), pads=((1, 1), (1, 1)))
    y = b.relu(b.add(y, weights(channels)))
    y = b.relu(b.conv(y, weights(1, 1, channels, 128), strides=(1, 1), pads=((0, 0), (0, 0))))
    return b.build({"y": b.matmul(b.reduce_mean(y, axes=(1, 2)), weights(128, 100))})


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Cost], list[str]]:
    """Prices of candidates instead of times; gives the list of sites that were priced."""

    def use(cost: Cost) -> list[str]:
        asked: list[str] = []

        def timer(site: str, candidates: Mapping[str, Any]) -> dict[str, float]:
            asked.append(site)
            for call in candidates.values():
                call()  # a candidate that does not run must not be chosen
            return {name: cost(site, name) for name in candidates}

        monkeypatch.setattr(tuning, "stopwatch", timer)
        return asked

    return use


def cheap(*words: str) -> Cost:
    """1 for what the rules say; half of it for each of the words in a candidate's name."""
    return lambda site, name: 0.5 ** sum(w in name for w in words)


def choices_of(bundle: Any) -> dict[str, Any]:
    return {c["site"]: c["choice"] for c in bundle.manifest.choices}


def test_the_cheaper_tile_wins_and_nothing_changes_in_the_results(priced: Any) -> None:
    priced(cheap("tile 12x1"))
    plain, tuned = fw.compile(model(), target=TARGET), fw.compile(model(), target=TARGET, tune=True, threads=1)
    assert choices_of(tuned) == {}  # 12x1 of AVX2 is half a block
    priced(cheap("tile 4x2"))
    tuned = fw.compile(model(), target=TARGET, tune=True, threads=1)
    assert choices_of(tuned) == {CONV: {"tiles": {"2": [4, 2]}}, POINT: {"tiles": {"0": [4, 2]}}}
    x = np.random.default_rng(1).standard_normal((3, 28, 28, 64)).astype("f4")
    np.testing.assert_array_equal(tuned(x), plain(x))  # the order of every sum is the same
    assert [k["name"] for k in tuned.report().kernels] == [k["name"] for k in plain.report().kernels]
    codes = [b._container.read(f"native/{TARGET}/code.bin") for b in (plain, tuned)]
    assert codes[0] != codes[1]


def test_the_cheaper_algorithm_wins_and_stays_within_its_bound(priced: Any) -> None:
    priced(cheap("F0"))
    tuned = fw.compile(model(), target=TARGET, tune=True, threads=1)
    assert choices_of(tuned)[CONV]["winograd"] == [0, 2]
    plain = fw.compile(model(), target=TARGET)
    names = lambda b: [k["name"].split("_")[0] for k in b.report().kernels]
    assert "winograd2" in names(plain) and "winograd2" not in names(tuned)
    x = np.random.default_rng(1).standard_normal((3, 28, 28, 64)).astype("f4")
    exact = fw.load(bytes(plain._container.data), native=False)(x)
    scale = np.abs(exact).max()
    for bundle in (plain, tuned):
        assert np.abs(bundle(x) - exact).max() <= 64 * np.finfo("f4").eps * scale


def test_larger_tiles_are_tried_under_fast_alone(priced: Any) -> None:
    seen: list[str] = []
    graph = model(channels=32)  # too few for rounding to pay, which leaves nothing to choose
    priced(lambda site, name: seen.append(name) or (0.5 if "F4" in name else 1.0))
    strict = fw.compile(graph, target=TARGET, tune=True, threads=1)
    assert not any("winograd" in c for c in choices_of(strict).values()) and not any("F4" in n for n in seen)
    fast = fw.compile(graph, target=TARGET, tune=True, threads=1, numerics="fast")
    assert any("F4" in n for n in seen)
    assert "winograd4" in {k["name"].split("_")[0] for k in fast.report().kernels}


def test_a_gain_too_small_to_trust_changes_nothing(priced: Any) -> None:
    priced(lambda site, name: 1.0 if "tile 0x0 grain 1" in name and "F0" not in name else 1.0 / 1.04)
    tuned = fw.compile(model(), target=TARGET, tune=True, threads=2)
    assert tuned.manifest.tuned and tuned.manifest.choices == ()


def test_the_grain_is_chosen_where_the_sizes_are_fixed(priced: Any) -> None:
    priced(cheap("grain 1048576"))
    free = fw.compile(model(), target=TARGET, tune=True, threads=2)
    assert choices_of(free) == {}
    fixed = fw.compile(model(), target=TARGET, dims={"N": 2}, tune=True, threads=2)
    found = choices_of(fixed)
    assert "matmul 2x128x100" not in found or found["matmul 2x128x100"]["grain"] > 1
    assert found[POINT.replace("?", "2")] == {"grain": 1 << 20}
    grains = {r.kernel: (r.extent, r.grain) for r in fixed.profile({"x": np.zeros((2, 28, 28, 64), "f4")}, rounds=1)}
    assert all(grain > extent for name, (extent, grain) in grains.items() if name.startswith("winograd"))


def test_extents_that_a_call_finds_out_are_left_to_the_rules(priced: Any) -> None:
    """Nobody knows how many images such a convolution has, however large each of them is."""
    b: Any = fw.Builder()
    x, keep = b.input("x", "f32", (5, 28, 28, 64)), b.input("keep", "bool", (5,))
    b.symbol_of(b.reduce_sum(b.cast(keep, to="i64"), axes=(0,)), symbol="K", high=5)
    kept = b.gather(x, b.reshape(b.nonzero(keep, size="K"), shape=("K",)), axis=0)
    weights = b.constant(np.ones((3, 3, 64, 64), np.float32))
    graph = b.build({"y": b.conv(kept, weights, strides=(1, 1), pads=((1, 1), (1, 1)))})
    asked = priced(cheap("F0"))
    assert choices_of(fw.compile(graph, target=TARGET, tune=True, threads=2)) == {} and asked == []


def test_tuning_is_a_function_of_the_times(priced: Any) -> None:
    def price(site: str, name: str) -> float:
        return 1 + sum(map(ord, site + name)) % 97 / 97

    made = []
    for _ in range(2):
        priced(price)
        made.append(bytes(fw.compile(model(4), target=TARGET, tune=True, threads=2)._container.data))
    assert made[0] == made[1]


def test_without_tuning_nothing_is_timed_and_bytes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "stopwatch", None)  # would fail if it were called
    made = [fw.compile(model(), target=TARGET) for _ in range(2)]
    assert bytes(made[0]._container.data) == bytes(made[1]._container.data)
    assert not made[0].manifest.tuned and b"x_choices" not in bytes(made[0]._container.raw("manifest.json"))


def test_choices_are_kept_in_a_file_and_taken_from_it(priced: Any, tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    asked = priced(cheap("F0", "tile 4x2"))
    first = fw.compile(model(), target=TARGET, tune=True, threads=1, choices=file)
    assert asked and read(file).get(TARGET, CONV) == Choice((0, 2), {0: (4, 2)})
    asked = priced(cheap())
    again = fw.compile(model(), target=TARGET, tune=True, threads=1, choices=file)
    assert asked == []  # everything is in the file
    taken = fw.compile(model(), target=TARGET, threads=1, choices=file)
    code = [b._container.read(f"native/{TARGET}/code.bin") for b in (first, again, taken)]
    assert code[0] == code[1] == code[2] and not taken.manifest.tuned
    text = file.read_text()
    assert Choices.of(text, "x").to_text() == text  # one spelling: files can be compared


@pytest.mark.parametrize(
    ("choices", "words"), [("none.json", "none.json: cannot be read"), (3, "path of a file, not 3")]
)
def test_choices_that_are_not_there_are_refused(choices: Any, words: str) -> None:
    with pytest.raises(fw.CompileRefused, match=words):
        fw.compile(model(), target=TARGET, choices=choices)


def test_of_two_tables_the_upper_one_counts() -> None:
    low = Choices({"a": {"s": Choice((2, 0)), "t": Choice(grain=4)}})
    high = Choices({"a": {"s": Choice((0, 2))}, "b": {"u": Choice((4, 2, 0))}})
    both = high.over(low)
    assert both.get("a", "s") == Choice((0, 2)) and both.get("a", "t") == Choice(grain=4) and len(both) == 3
    assert both.winograd("u", 4) == 4 and both.winograd("u", 2) == 2 and both.winograd("u", 0) == 0
    assert both.winograd("none", 4) is None
    assert len({low, high, both}) == 3


def test_a_choice_for_any_batch_holds_where_none_is_for_this_one() -> None:
    one, any_batch = POINT.replace("?", "1"), Choice((), {0: (4, 2)})
    table = Choices({"a": {POINT: any_batch, one: Choice((), {0: (7, 2)}), CONV: Choice((0, 2))}})
    assert table.get("a", POINT.replace("?", "8")) == table.get("a", POINT) == any_batch
    assert table.get("a", one) == Choice((), {0: (7, 2)}) and table.get("b", one) is None
    assert table.winograd(CONV.replace("?", "16"), 2) == 0
    fixed = Choices({"a": {one: any_batch, "matmul ?x3x4": any_batch}})
    assert fixed.get("a", POINT.replace("?", "2")) is None and fixed.get("a", POINT) is None
    assert fixed.get("a", "matmul 2x3x4") is None  # its rows are all of the batch
    grouped = "conv 3x3/1x1 pad 1x1+1x1 dil 1x1 groups 4 ?x7x7x64>64 blocked"
    assert Choices({"a": {grouped: any_batch}}).get("a", grouped.replace("?", "12")) == any_batch


def test_a_tile_that_the_registers_do_not_hold_is_not_taken(tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    Choices({TARGET: {POINT: Choice((), {0: (60, 2)}), CONV: Choice((), {2: (4, 3)})}}).save(file)
    plain, odd = fw.compile(model(), target=TARGET), fw.compile(model(), target=TARGET, choices=file)
    assert plain._container.read(f"native/{TARGET}/code.bin") == odd._container.read(f"native/{TARGET}/code.bin")


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"version": 2, "choices": {}}', '{"version": 1, "choices": []}', "[" * 100_000,
        '{"version": 1, "choices": {}, "more": 1}', '{"version": 1, "choices": {"a": {"s": {"tiles": {"0": [0, 1]}}}}}',
        '{"version": 1, "choices": {"a": {"s": {"tiles": {"0": [1]}}}}}', '{"version": 1, "choices": {"a": {"s": 3}}}',
        '{"version": 1, "choices": {"a": {"s": {"winograd": [3.5]}}}}',
        '{"version": 1, "choices": {"a": {"s": {"winograd": [3]}}}}',
        '{"version": 1, "choices": {"a": {"s": {"tiles": {"1": [4, 2]}}}}}',
        '{"version": 1, "choices": {"a": {"s": {"x": 1}}}}',
        '{"version": 1, "choices": {"a": {"s": {"winograd": 2}}}}',
        '{"version": 1, "choices": {"a": {"s": {"grain": 0}}}}',
        '{"version": 1, "choices": {"a": {"s": {"grain": true}}}}', "\ud800",
    ],
)  # fmt: skip
def test_files_that_are_no_tables_are_refused_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CompileRefused, match=r"odd\.json"):
        fw.compile(model(), target=TARGET, choices=file)


def test_what_cannot_be_tuned_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for more in ({"tune": True}, {"choices": tmp_path / "c.json"}):
        with pytest.raises(CompileRefused, match="CPU"):
            fw.compile(model(), target="cuda", **more)
    with pytest.raises(CompileRefused, match="cannot be read"):
        fw.compile(model(), target=TARGET, choices=tmp_path)
    with pytest.raises(CompileRefused, match=r"c\.json: cannot be read"):  # said before anything is timed
        fw.compile(model(), target=TARGET, tune=True, choices=tmp_path / "none" / "c.json")
    monkeypatch.setattr(cpu, "best", lambda names: None)
    with pytest.raises(CompileRefused, match=r"runs none of cpu-avx2"):
        tuning.variant_for([TARGET])


def test_the_stopwatch_takes_turns_and_keeps_the_best() -> None:
    order: list[str] = []
    found = tuning.stopwatch("site", {"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert found.keys() == {"a", "b"} and all(0 < v < 1 for v in found.values())
    assert order == ["a", "b"] * (len(order) // 2) and len(order) >= 2 * tuning._LEAST


def test_the_command_says_what_was_chosen(priced: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = onnx.helper
    sides = [make.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 64, 28, 28]) for n in "xy"]
    weights = onnx.numpy_helper.from_array(np.ones((64, 64, 3, 3), np.float32), "w")
    conv = make.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    graph = make.make_graph([conv], "net", sides[:1], sides[1:], [weights])
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)]), tmp_path / "m.onnx")
    priced(cheap("F0"))
    paths = [str(tmp_path / n) for n in ("m.onnx", "m.fwb", "c.json")]
    assert main(["compile", paths[0], "-o", paths[1], "--target", TARGET, "--tune", "--choices", paths[2]]) == 0
    capsys.readouterr()
    assert main(["inspect", paths[1], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tuned"] and told["choices"][0]["choice"]["winograd"] == [0, 2]
    assert main(["inspect", paths[1]]) == 0
    assert '"winograd": [0, 2]' in capsys.readouterr().out


def test_choices_of_a_manifest_are_checked(priced: Any) -> None:
    priced(cheap("F0"))
    bundle = fw.compile(model(), target=TARGET, tune=True, threads=1)
    text = bytes(Container.open(bytes(bundle._container.data)).raw("manifest.json"))
    assert Manifest.from_bytes(text).to_bytes() == text
    for odd in (3, [3], [{"site": "s"}], [{"site": 1, "variant": "v"}]):
        with pytest.raises(BundleRefused, match="malformed"):
            Manifest.from_bytes(canonical({**json.loads(text), "x_choices": odd}))
