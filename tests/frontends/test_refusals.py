"""What the importer refuses, and that it never fails in any other way: bombs, links, unknown classes, damaged bytes."""

from __future__ import annotations

import io
import json
import random
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

import fusewright as fw
from fusewright.core.dtypes import dtype
from fusewright.core.errors import FusewrightError, ImportRefused
from fusewright.frontends.formats.hdf5 import H5File
from fusewright.frontends.formats.jsonsafe import loads
from fusewright.frontends.formats.limits import ImportLimits
from fusewright.frontends.formats.zipsafe import ZipArchive
from fusewright.frontends.keras import import_keras
from fusewright.frontends.registry import register_layer, registered_layer, unregister_layer
from fusewright.frontends.source import import_model, sniff

L = keras.layers


def small(path: Path) -> Path:
    keras.Sequential([keras.Input((3,)), L.Dense(4, activation="relu"), L.Dense(2)]).save(path)
    return path


def archive(path: Path, config: Any, weights: bytes = b"", version: str = "3.9.0") -> Path:
    if not weights:
        stream = io.BytesIO()
        with h5py.File(stream, "w") as f:
            f.create_group("layers")
        weights = stream.getvalue()
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("metadata.json", json.dumps({"keras_version": version}))
        z.writestr("config.json", config if isinstance(config, (str, bytes)) else json.dumps(config))
        z.writestr("model.weights.h5", weights)
    return path


def sequential(*layers: Any) -> dict[str, Any]:
    first = {
        "module": "keras.layers",
        "class_name": "InputLayer",
        "config": {"batch_shape": [None, 3], "name": "in", "dtype": "float32"},
    }
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": [first, *layers]}}


def entry(kind: str, module: str = "keras.layers", **config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": {"name": kind.lower(), "trainable": True, **config}}


def test_all_unknown_layers_at_once(scratch: Path, refused: Any) -> None:
    config = sequential(
        entry("Mystery", "my.package"),
        entry("ReLU"),
        entry("Other"),
        entry("Lambda", function={"class_name": "__lambda__"}),
        {**entry("Dense", "os.path"), "registered_name": "pkg>Dense"},
    )
    error = refused(archive(scratch / "unknown.keras", config), "unknown-layer")
    assert [p.where for p in error.problems] == ["mystery", "other", "lambda", "dense"]
    assert [p.code for p in error.problems] == ["unknown-layer", "unknown-layer", "unsafe-layer", "unknown-layer"]
    assert "register_layer" in error.hint


@pytest.mark.parametrize("kind", ["Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "StringLookup"])
def test_layers_that_name_code_or_files(scratch: Path, kind: str) -> None:
    with pytest.raises(ImportRefused) as caught:
        import_keras(archive(scratch / "unsafe.keras", sequential(entry(kind, filepath="/etc/passwd"))))
    assert caught.value.code in ("unsafe-layer", "unsupported-layer")
    assert kind in caught.value.reason


def test_registered_layer(scratch: Path) -> None:
    class Swap(keras.layers.Layer):
        def __init__(self, factor: float = 1.0, **options: Any) -> None:
            super().__init__(**options)
            self.factor = factor

        def build(self, shape: Any) -> None:
            self.offset = self.add_weight(shape=(shape[-1],), name="offset")

        def call(self, x: Any) -> Any:
            return x * self.factor + self.offset

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "factor": self.factor}

    model = keras.Sequential([keras.Input((3,)), Swap(2.5)])
    model.layers[0].offset.assign([1.0, 2.0, 3.0])
    model.save(scratch / "swap.keras")
    with pytest.raises(ImportRefused) as caught:
        import_keras(scratch / "swap.keras")
    assert caught.value.code == "unknown-layer"

    @register_layer("Swap")
    def lower(layer: Any, x: Any) -> Any:
        return layer.b.add(layer.b.mul(x, layer.config["factor"]), layer.b.constant(layer.weights[0]))

    try:
        x = np.ones((2, 3), np.float32)
        for source in (model, scratch / "swap.keras"):
            graph = import_keras(source)
            np.testing.assert_allclose(
                graph.run({graph.inputs[0].name: x})[graph.output_names[0]], np.asarray(model(x))
            )
        with pytest.raises(FusewrightError, match="registered already"):
            register_layer("Swap")(lambda layer, x: x)

        @register_layer("Swap", replace=True)
        def broken(layer: Any, x: Any) -> Any:
            return layer.config["no such option"]

        with pytest.raises(ImportRefused, match=r"broken\) raised KeyError: 'no such option'") as caught:
            import_keras(scratch / "swap.keras")
        assert (caught.value.code, caught.value.where) == ("lowering-failed", "swap")
        assert isinstance(caught.value.__cause__, KeyError)
    finally:
        unregister_layer("Swap")
    assert registered_layer("Swap") is None


@pytest.mark.parametrize(
    ("layer", "code"),
    [
        (L.LSTM(2, stateful=True), "unsupported-option"),
        (L.Dense(2, activation=lambda x: x), "unsupported-option"),
        (L.Resizing(3, 3, crop_to_aspect_ratio=True), "unsupported-option"),
    ],
)
def test_unsupported_options(layer: Any, code: str) -> None:
    shape = (None, None, 3) if isinstance(layer, L.Resizing) else (4, 3)
    inp = keras.Input(batch_shape=(2, *shape))
    with pytest.raises(ImportRefused) as caught:
        import_keras(keras.Model(inp, layer(inp)))
    assert caught.value.code == code
    assert caught.value.where == layer.name


def test_subclassed_model() -> None:
    class Mine(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(ImportRefused) as caught:
        import_model(Mine())
    assert caught.value.code == "not-a-model-graph"


def test_a_layer_without_a_config_is_named() -> None:
    """Keras raises NotImplementedError for an argument that it cannot write down."""

    class Scaled(L.Layer):
        def __init__(self, factor: Any, **kwargs: Any) -> None:
            super().__init__(**kwargs)

        def call(self, x: Any) -> Any:
            return x

    inp = keras.Input((3,))
    with pytest.raises(ImportRefused, match=r"NotImplementedError: Object Scaled was created") as caught:
        import_keras(keras.Model(inp, Scaled(object())(inp)))
    assert caught.value.code == "not-a-model-graph" and "Example" not in caught.value.reason


@pytest.mark.parametrize("raised", [RuntimeError, OSError, KeyError])
def test_configs_of_users_that_fail(raised: type[Exception]) -> None:
    """A layer's own get_config may raise anything and is a refusal; a loss's is of no use to inference."""

    def fail(self: Any) -> dict[str, Any]:
        raise raised("not today")

    inp = keras.Input((3,))
    lossy = keras.Model(inp, L.ReLU()(inp))
    lossy.compile(loss=type("Loss", (keras.losses.Loss,), {"get_config": fail, "call": lambda s, a, b: a})())
    graph = import_keras(lossy)
    assert [n.op.name for n in graph.nodes][-2:] == ["relu", "return"] and "training" not in graph.meta
    layer = type("Odd", (L.Layer,), {"get_config": fail, "call": lambda self, x: x})()
    with pytest.raises(ImportRefused, match=rf"get_config\(\) fails \({raised.__name__}") as caught:
        import_keras(keras.Model(inp, layer(inp)))
    assert caught.value.code == "not-a-model-graph" and isinstance(caught.value.__cause__, raised)


MALFORMED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"class_name": 3}',
    b'{"class_name": "Sequential"}',
    b'{"class_name": "Sequential", "config": 5}',
    b'{"a": 1, "a": 2}',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"class_name": "Functional", "config": {"layers": [], "input_layers": 3, "output_layers": [7]}}',
    b'{"class_name": "Functional", "config": {"layers": [{}], "input_layers": [], "output_layers": []}}',
    b'{"class_name":"Functional","config":{"layers":[{"class_name":"ReLU","config":{"name":"r"},"name":"r","inbound_nodes":[{"args":[{"class_name":"__keras_tensor__","config":{"keras_history":["r",0,0]}}],"kwargs":{}}]}],"input_layers":[],"output_layers":[["r",0,0]]}}',
    b'{"class_name":"Sequential","config":{"layers":[{"class_name":"Dense","config":{"units":"many"}}]}}',
    b'{"class_name":"Sequential","config":{"layers":[{"class_name":"InputLayer","config":{"batch_shape":[null,-3]}}]}}',
    b'{"class_name":"Sequential","config":{"layers":[{"class_name":"InputLayer","config":{"batch_shape":[null,{"a":1}]}}]}}',
]


@pytest.mark.parametrize("config", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_configs(scratch: Path, config: bytes) -> None:
    with pytest.raises(ImportRefused):
        import_keras(archive(scratch / "bad.keras", config))


def test_zip_rules(scratch: Path) -> None:
    def made(write: Any) -> memoryview:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as z:
            write(z)
        return memoryview(stream.getvalue())

    def code(data: memoryview, **limits: int) -> str:
        with pytest.raises(ImportRefused) as caught:
            opened = ZipArchive(data, "x.zip", ImportLimits(**limits))
            for name in opened.names:
                opened.read(name)
        return caught.value.code

    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    assert code(made(lambda z: z.writestr("a", bytes(20_000_000)))) == "limit"
    assert code(made(lambda z: z.writestr("../a", b"x"))) == "unsafe-path"
    assert code(made(lambda z: z.writestr("/a", b"x"))) == "unsafe-path"
    assert code(made(lambda z: z.writestr(link, b"/etc/passwd"))) == "unsafe-path"
    assert code(made(lambda z: [z.writestr(str(i), b"") for i in range(9)]), zip_members=8) == "limit"
    good = bytearray(made(lambda z: z.writestr("a", bytes(range(256)))))
    good[40] ^= 0xFF
    assert code(memoryview(bytes(good))) == "malformed"
    assert code(memoryview(b"PK\x03\x04 nothing")) == "malformed"


def test_zips_of_a_later_version_and_encrypted_members() -> None:
    """Of what zipfile refuses itself, only the version shows when the directory is read; the rest is looked at here."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as z:
        z.writestr("a", b"x")
    for field, value, reason in ((6, 99, "zip file version 9.9"), (8, 1, "encrypted"), (10, 9, "compression method 9")):
        raw = bytearray(stream.getvalue())
        struct.pack_into("<H", raw, raw.index(b"PK\x01\x02") + field, value)
        with pytest.raises(ImportRefused, match=reason) as caught:
            ZipArchive(memoryview(bytes(raw)), "x.zip")
        assert caught.value.code == "unsupported-format"


def test_a_member_that_lies_about_its_size(scratch: Path) -> None:
    """The header says 100 bytes, the stream inflates to megabytes: never more than the declared size is made."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packed.compress(bytes(50_000_000)) + packed.flush()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as z:
        z.writestr("config.json", body)
    raw = bytearray(stream.getvalue())
    central = raw.index(b"PK\x01\x02")
    raw[central + 10 : central + 12] = struct.pack("<H", 8)
    raw[central + 24 : central + 28] = struct.pack("<I", 100)
    with pytest.raises(ImportRefused) as caught:
        ZipArchive(memoryview(bytes(raw)), "x.zip").read("config.json")
    assert caught.value.code == "malformed"


def test_json_rules() -> None:
    for text, code in (
        (b'{"a":1,"a":2}', "malformed"),
        (b"[" * 300 + b"]" * 300, "limit"),
        (b"[" * 10**5, "malformed"),
    ):
        with pytest.raises(ImportRefused) as caught:
            loads(text, "x.json")
        assert caught.value.code == code
    with pytest.raises(ImportRefused, match="json_bytes"):
        loads(b"[1, 2]", "x.json", ImportLimits(json_bytes=3))


def h5_with(write: Any) -> H5File:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as f:
        write(f)
    return H5File(memoryview(stream.getvalue()), "x.h5")


def test_hdf5_rules(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"TOPSECRETTOPSECR")

    def code(write: Any, path: str = "d") -> str:
        with pytest.raises(ImportRefused) as caught:
            h5_with(write).array(path)
        return caught.value.code

    assert (
        code(lambda f: f.create_dataset("d", shape=(4,), dtype="f4", external=[(str(secret), 0, 16)])) == "unsafe-link"
    )
    assert code(lambda f: f.create_dataset("d", shape=(1 << 20, 1 << 20), dtype="f4", chunks=(1, 1024))) == "limit"
    assert code(lambda f: f.__setitem__("d", h5py.SoftLink("/e"))) == "unsafe-link"
    assert code(lambda f: f.__setitem__("d", h5py.ExternalLink(str(secret), "/e"))) == "malformed"
    assert (
        code(lambda f: f.create_dataset("d", data=np.array([b"text"], "O"), dtype=h5py.string_dtype()))
        == "unsupported-format"
    )
    assert (
        code(lambda f: f.create_dataset("d", shape=(4000, 4000), dtype="f4", chunks=(4000, 4000), compression="gzip"))
        == "limit"
    )
    assert code(lambda f: None) == "malformed"


def test_hdf5_reads_what_h5py_wrote() -> None:
    arrays = {
        "plain": np.arange(12, dtype=np.float32).reshape(3, 4),
        "big": np.arange(5, dtype=">f8"),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.float32(2.5),
        "half": np.arange(4, dtype=np.float16),
        "int": np.arange(4, dtype=np.int64),
    }
    zipped = np.random.default_rng(0).normal(size=(100, 30)).astype(np.float32)

    def write(f: Any) -> None:
        for name, array in arrays.items():
            f.create_dataset(f"g/{name}", data=array)
        f.create_dataset("zipped", data=zipped, chunks=(7, 30), compression="gzip", shuffle=True, fletcher32=True)

    file = h5_with(write)
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.array(f"g/{name}"), array)
    np.testing.assert_array_equal(file.array("zipped"), zipped)
    assert file.members("g") and file.has_group("g")


def mutants(data: bytes, count: int, seed: int) -> Any:
    rng = random.Random(seed)
    for _ in range(count):
        out = bytearray(data)
        kind = rng.randrange(4)
        if kind == 0:
            out = out[: rng.randrange(len(out))]
        else:
            for _ in range(rng.choice((1, 2, 8, 32))):
                at = rng.randrange(min(len(out), 4096) if kind == 1 else len(out))
                out[at] = rng.choice((0, 1, 0xFF, 0x7F, rng.randrange(256)))
        yield bytes(out)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_damaged_files_are_refused_and_nothing_else(scratch: Path, suffix: str) -> None:
    data = small(scratch / f"seed{suffix}").read_bytes()
    path = scratch / f"mutant{suffix}"
    outcomes = {"read": 0, "refused": 0}
    start = time.monotonic()
    for mutant in mutants(data, 250, seed=7):
        path.write_bytes(mutant)
        try:
            import_model(path)
            outcomes["read"] += 1
        except ImportRefused:
            outcomes["refused"] += 1
    assert sum(outcomes.values()) == 250
    assert outcomes["refused"] > 20
    assert time.monotonic() - start < 120


def test_mutated_configs_are_refused_and_nothing_else(scratch: Path) -> None:
    """Structure-aware: values of a valid config are replaced by values of other kinds."""
    inp = keras.Input((6, 5, 2))
    x = L.Conv2D(3, 2, padding="same")(inp)
    x = L.BatchNormalization()(x)
    x = L.Reshape((-1, 3))(x)
    x = L.Bidirectional(L.LSTM(2, return_sequences=True))(x)
    x = L.Concatenate()([x, L.TimeDistributed(L.Dense(2))(x)])
    model = keras.Model(inp, L.GlobalAveragePooling1D()(x[:, 1:]))
    model.save(scratch / "valid.keras")
    with zipfile.ZipFile(scratch / "valid.keras") as z:
        config, weights = json.loads(z.read("config.json")), z.read("model.weights.h5")
    rng = random.Random(3)
    values = [None, -1, 0, 2**70, 1.5, "", "x", [], [1, 2], {}, {"class_name": "Lambda"}, True, float("nan")]
    read = 0
    for _ in range(300):
        changed = json.loads(json.dumps(config))
        for _ in range(rng.choice((1, 1, 3))):
            spots: list[tuple[Any, Any]] = []
            stack: list[Any] = [changed]
            while stack:
                item = stack.pop()
                keys = list(item) if isinstance(item, dict) else range(len(item))
                for key in keys:
                    spots.append((item, key))
                    if isinstance(item[key], (dict, list)):
                        stack.append(item[key])
            holder, key = rng.choice(spots)
            holder[key] = rng.choice(values)
        try:
            import_keras(archive(scratch / "changed.keras", changed, weights))
            read += 1
        except ImportRefused:
            pass
    assert read < 300


def test_sniffing(tmp_path: Path) -> None:
    def file(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    assert sniff(small(tmp_path / "m.keras")) == "keras"
    assert sniff(small(tmp_path / "m.h5")) == "keras"
    assert sniff(file("m.json", b' {"class_name": "Sequential"}')) == "keras"
    assert sniff(file("m.tflite", b"\x1c\x00\x00\x00TFL3" + bytes(20))) == "tflite"
    assert sniff(file("m.onnx", b"\x08\x08\x12\x00")) == "onnx"
    assert sniff(file("m.pb", b"\x0a\x05hello")) == "graph_def"
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    assert sniff(folder) == "saved_model"
    (tmp_path / "ckpt.index").write_bytes(b"")
    assert sniff(tmp_path / "ckpt") == "checkpoint"
    for source, code in (
        (tmp_path / "m.tflite", "unsupported-format"),
        (tmp_path / "none.h5", "not-found"),
        (file("e", b""), "malformed"),
        (file("noise", b"\x99" * 50), "unknown-format"),
        (3, "unknown-format"),
        (tmp_path, "unknown-format"),
    ):
        with pytest.raises(ImportRefused) as caught:
            import_model(source)
        assert caught.value.code == code


def test_old_and_weightless_files(scratch: Path, refused: Any) -> None:
    with h5py.File(scratch / "k1.h5", "w") as f:
        f.attrs["keras_version"] = "0.3.3"
        f.attrs["model_config"] = '{"class_name": "Sequential", "config": []}'
        f.create_group("model_weights")
    refused(scratch / "k1.h5", "unsupported-version")
    with h5py.File(scratch / "w.h5", "w") as f:
        f.attrs["layer_names"] = np.array([b"dense"])
    refused(scratch / "w.h5", "no-model")
    refused(archive(scratch / "empty.keras", sequential(entry("Dense", units=2))), "weights")
    with pytest.raises(ImportRefused, match="feeds"):
        import_model(small(scratch / "f.keras"), feeds={"x": 1})


def test_weights_of_the_wrong_shape(scratch: Path, refused: Any) -> None:
    path = small(scratch / "shape.h5")
    with h5py.File(path, "r+") as f:
        group = f["model_weights"]
        name = next(n for n in group if n.startswith("dense"))
        kernel = f["model_weights"][name]
        target: list[str] = []
        kernel.visititems(lambda n, o: target.append(n) if n.endswith("kernel") else None)
        del kernel[target[0]]
        kernel.create_dataset(target[0], data=np.zeros((5, 7), np.float32))
    refused(path, "weights")


def test_registrations_that_can_never_apply() -> None:
    with pytest.raises(FusewrightError, match="none of 'tf', 'onnx'"):
        fw.register_op("torch", "MyOp")
    with pytest.raises(FusewrightError, match="no op 'nosuchop'"):
        fw.register_kernel("nosuchop")
    with pytest.raises(FusewrightError, match="'cpu' and 'cuda', not 'tpu'"):
        fw.register_kernel("add", "tpu")


@pytest.mark.parametrize("name", ["0loat32", "f4,f4", "(2,)f4", "2f4", "f4=1", "__import__('os')"])
def test_names_of_element_types_are_not_read_as_a_language(name: str) -> None:
    with pytest.raises(fw.TypeRefused, match="not supported"):
        dtype(name)


def test_an_attribute_that_claims_more_than_there_is(scratch: Path) -> None:
    """The number of elements of a string attribute decides how much is allocated: 2^31 of them in a small file."""
    path = scratch / "claims.h5"
    with h5py.File(path, "w", libver="earliest") as f:
        f.attrs["names"] = np.array(["a", "b", "c"], dtype=h5py.string_dtype())
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<Q", 3), data.index(b"names"))
    data[at : at + 8] = struct.pack("<Q", 1 << 31)
    with pytest.raises(ImportRefused, match="claims 2147483648 elements") as caught:
        H5File(memoryview(bytes(data)), "claims.h5").attrs("")
    assert caught.value.code == "malformed"
