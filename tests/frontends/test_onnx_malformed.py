"""Damaged and hostile ONNX files: one kind of error, and nothing opened beside the model's own data."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fusewright as fw
from fusewright.core.errors import ImportRefused

F, I = TensorProto.FLOAT, TensorProto.INT64
MUTANTS = 150


def value(name: str, shape: Any, kind: int = F) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def seeds() -> list[onnx.ModelProto]:
    """Small models of several families: convolution, shapes, control flow, recurrence, functions."""
    rng = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    def ints(name: str, *values: int) -> Any:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    def model(nodes: Any, inputs: Any, outputs: Any, constants: Any) -> Any:
        graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])

    conv = model(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], auto_pad="SAME_UPPER", strides=[2, 2], dilations=[1, 1]),
            helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], ceil_mode=1, pads=[0, 0, 1, 1]),
            helper.make_node("Resize", ["b", "", "s"], ["c"], mode="linear"),
            helper.make_node("Pad", ["c", "p"], ["y"], mode="reflect"),
        ],
        [value("x", ["N", 3, 8, 8])], [value("y", None)],
        [tensor("w", 4, 3, 3, 3), numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s"),
         ints("p", 0, 0, 1, 1, 0, 0, 1, 1)],
    )  # fmt: skip
    shapes = model(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Slice", ["s", "i", "j"], ["t"]),
            helper.make_node("Concat", ["t", "r"], ["u"], axis=0),
            helper.make_node("Reshape", ["x", "u"], ["v"]),
            helper.make_node("Tile", ["v", "k"], ["z"]),
            helper.make_node("Split", ["z", "q"], ["y", "w"], axis=1),
            helper.make_node("Einsum", ["y", "w"], ["e"], equation="ij,kj->ik"),
            helper.make_node("TopK", ["z", "one"], ["tv", "ti"], axis=1),
        ],
        [value("x", ["N", 2, 6])], [value("e", None), value("ti", None, I)],
        [ints("i", 0), ints("j", 1), ints("r", -1), ints("k", 1, 2), ints("q", 12, 12), ints("one", 1)],
    )  # fmt: skip
    body = helper.make_graph(
        [helper.make_node("Add", ["h", "z"], ["h2"]), helper.make_node("Mul", ["h2", "k"], ["o"])], "b",
        [value("h", [4]), value("z", [4])], [value("h2", [4]), value("o", [4])],
    )  # fmt: skip
    scan = model(
        [
            helper.make_node("Scan", ["h0", "x"], ["hn", "ys"], body=body, num_scan_inputs=1),
            helper.make_node("LSTM", ["x3", "W", "R"], ["Y"], hidden_size=3),
        ],
        [value("x", ["T", 4]), value("x3", [5, 1, 4])], [value("ys", None), value("Y", None)],
        [tensor("h0", 4), tensor("k", 4), tensor("W", 1, 12, 4), tensor("R", 1, 12, 3)],
    )  # fmt: skip
    return [conv, shapes, scan]


def only_refused(data: bytes) -> bool:
    """Was it refused? Any other exception fails the test."""
    try:
        import_bytes(data)
    except ImportRefused:
        return True
    return False


def import_bytes(data: bytes) -> fw.Graph:
    from fusewright.frontends.onnx import import_onnx

    return import_onnx(data)


def test_flipped_bytes_have_one_kind_of_error():
    rng = random.Random(7)
    refused = 0
    for seed in seeds():
        whole = seed.SerializeToString()
        assert not only_refused(whole)
        for _ in range(MUTANTS):
            data = bytearray(whole)
            for _ in range(rng.choice((1, 1, 2, 5))):
                at = rng.randrange(len(data))
                if rng.random() < 0.7:
                    data[at] = rng.randrange(256)
                elif rng.random() < 0.5:
                    del data[at : at + rng.randrange(1, 20)]
                else:
                    data[at:at] = data[at : at + rng.randrange(1, 20)]
            refused += only_refused(bytes(data))
    assert refused > MUTANTS


NUMBERS = (0, 1, -1, 2, 7, -(2**63), 2**63 - 1, 2**31, 2**40, -3)


def mutate(rng: random.Random, proto: Any, depth: int = 0) -> None:
    """One change somewhere in a message: a number, a name, a repeated field."""
    fields = [f for f, _ in proto.ListFields()]
    if not fields:
        return
    field = rng.choice(fields)
    repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
    current = getattr(proto, field.name)
    if repeated and rng.random() < 0.2:
        items = list(current)
        if items and rng.random() < 0.5:
            del current[rng.randrange(len(items))]
        elif items:
            current.append(rng.choice(items))
        return
    inner = rng.choice(list(current)) if repeated and len(current) else current
    if field.type == field.TYPE_MESSAGE:
        if not repeated or len(current):
            mutate(rng, inner, depth + 1)
        return
    changed: Any = None
    if field.type in (field.TYPE_INT64, field.TYPE_INT32, field.TYPE_ENUM, field.TYPE_UINT64):
        changed = rng.choice(NUMBERS)
    elif field.type == field.TYPE_STRING:
        changed = rng.choice(("", "x", "y", "NoOp", "\x00", "N", "Shape", "a" * 5000))
    elif field.type == field.TYPE_BYTES:
        changed = rng.choice((b"", b"\xff" * 8, bytes(inner)[:-1], bytes(inner) * 2))
    elif field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        changed = rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e30))
    if changed is None:
        return
    try:
        if repeated:
            if len(current):
                current[rng.randrange(len(current))] = changed
        else:
            setattr(proto, field.name, changed)
    except (ValueError, TypeError):
        return


def test_changed_fields_have_one_kind_of_error():
    rng = random.Random(11)
    refused = 0
    for seed in seeds():
        for _ in range(MUTANTS):
            copy = onnx.ModelProto()
            copy.CopyFrom(seed)
            for _ in range(rng.choice((1, 1, 2, 3))):
                mutate(rng, copy)
            refused += only_refused(copy.SerializeToString())
    assert refused > MUTANTS // 2


@pytest.mark.parametrize(
    "data", [b"", b"\x08", b"\x08\x09", os.urandom(200), b"\x0a" * 50, b"\x08\x09:\xff\xff\xff\xff\x0f"]
)
def test_what_is_no_model(data: bytes, tmp_path: Path):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ImportRefused):
        fw.import_model(path)


def bomb(nodes: Any, constants: Any = ()) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [], [value("y", None)], list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("shape", [(2**31, 2**31), (2**62,), (-1,), (2**41,)])
def test_constants_that_claim_to_be_huge(shape: tuple[int, ...]):
    huge = TensorProto(name="c", data_type=F, dims=shape, float_data=[1.0])
    with pytest.raises(ImportRefused):
        fw.import_model(bomb([helper.make_node("Identity", ["c"], ["y"])], [huge]))
    to = numpy_helper.from_array(np.array(shape, np.int64), "s")
    try:
        graph = fw.import_model(bomb([helper.make_node("ConstantOfShape", ["s"], ["y"])], [to]))
    except ImportRefused:
        return
    # A splat may be as large as it says: nothing of that size exists.
    assert all(n.op.name in ("constant", "broadcast_to", "return") for n in graph.nodes)


def external(tmp_path: Path, **entries: str) -> Path:
    """A model beside a folder ``data`` whose weight lies outside the file."""
    w = TensorProto(name="w", data_type=F, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, text in entries.items():
        w.external_data.add(key=key, value=text)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [value("x", [4])], [value("y", [4])], [w]
    )
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    contents = np.arange(8, dtype=np.float32).tobytes()
    (folder / "data" / "w.bin").write_bytes(contents)
    (tmp_path / "secret.bin").write_bytes(contents)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "linked").symlink_to(folder / "data")
    os.link(tmp_path / "secret.bin", folder / "hard.bin")
    path = folder / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())
    return path


def test_external_data_beneath_the_model(tmp_path: Path):
    path = external(tmp_path, location="data/w.bin", offset="16", length="16")
    got = fw.import_model(path).run({"x": np.zeros(4, np.float32)})
    np.testing.assert_array_equal(got["y"], [4, 5, 6, 7])
    proto = onnx.load(str(path), load_external_data=False)
    with pytest.raises(ImportRefused, match="base_dir"):
        fw.import_model(proto)
    assert fw.import_model(proto, base_dir=path.parent).output_names == ["y"]


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "../secret.bin"}, {"location": "data/../../secret.bin"}, {"location": "/etc/passwd"},
        {"location": "link.bin"}, {"location": "linked/w.bin"}, {"location": "hard.bin"}, {"location": "data"},
        {"location": "none.bin"}, {"location": "./data/w.bin"}, {"location": "data\\w.bin"}, {"location": ""},
        {"location": "data/w.bin", "offset": "-4"}, {"location": "data/w.bin", "offset": "20"},
        {"location": "data/w.bin", "length": "99999999999999999999"}, {"location": "data/w.bin", "__class__": "x"},
        {"location": "data/w.bin", "length": "8"},
    ],
)  # fmt: skip
def test_external_data_elsewhere_is_refused(tmp_path: Path, entries: dict[str, str]):
    with pytest.raises(ImportRefused):
        fw.import_model(external(tmp_path, **entries))


def test_deep_nesting_is_refused():
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [value("y", None)])
    for i in range(20):
        node = helper.make_node("If", ["c"], [f"y{i}"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], f"g{i}", [], [value(f"y{i}", None)])
        if graph.ByteSize() > 1 << 20:
            break
    graph.input.extend([value("c", [], TensorProto.BOOL), value("x", [2])])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    proto.graph.output[0].name = "missing"
    assert only_refused(proto.SerializeToString())
