"""The text form: print, parse, print again; hostile text; fingerprints."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fusewright.core.errors import ParseError
from fusewright.ir import Builder, Const, Graph, Origin, TensorType, parse_graph, print_graph
from fusewright.ir.parser import ParseLimits

ODD = ["", "a b", 'quo"te', "new\nline", "%0", "0", "ünïcode", "\ud800", "from", "inf", "nan.x", "x/y:0", "return", "#"]


def rich() -> Graph:
    b = Builder()
    x = b.input("x", "f32", ("N", 64))
    c = b.input('odd %na"me\n', "bool", ())
    with b.origin(layer="dense_1", file="m.h5", source='Mat"Mul\\'):
        w = b.constant(np.arange(128).reshape(64, 2).astype("f4"))
        w.name = "dense/kernel:0"
        y = b.matmul(x, w)
    y.producer.origin = Origin("m.h5", "dense_1", "MatMul", ("fold", "x*1 -> x"))
    then = b.region([y.type], lambda r, v: r.relu(v))
    other = b.region([y.type], lambda r, v: r.mul(v, r.constant(2.5, "f32")))
    chosen = b.if_(c, b.relu(y), regions=(then, other))
    chosen.name = "x"
    values, order = b.sort(x, axis=0)
    part = b.slice(x, starts=(0, 1), stops=("N", 5), steps=(2, 1))
    flat = b.reshape(x, shape=(-1,))
    graph = b.build({"from": chosen, "inf": values, "order": order, "part": part, "flat": flat})
    graph.bounds = {"N": (1, 512), "T": (0, None)}
    return graph


def round_trip(graph: Graph) -> Graph:
    text = str(graph)
    again = parse_graph(text)
    assert str(again) == text
    assert again.fingerprint == graph.fingerprint
    again.verify()
    return again


def test_a_rich_graph_round_trips() -> None:
    graph = rich()
    again = round_trip(graph)
    assert again.bounds == graph.bounds
    assert again.output_names == graph.output_names
    assert [n.origin for n in again.nodes if n.op.name == "matmul"] == [
        Origin("m.h5", "dense_1", "MatMul", ("fold", "x*1 -> x"))
    ]
    feeds = {"x": np.ones((3, 64), "f4"), 'odd %na"me\n': np.array(False)}
    want, got = graph.run(feeds), again.run(feeds)
    assert all(np.array_equal(want[k], got[k]) for k in want)


@pytest.mark.parametrize("name", ODD)
def test_odd_names_round_trip(name: str) -> None:
    b = Builder()
    x = b.input(name, "f32", (2,))
    y = b.relu(x)
    y.name = name
    again = round_trip(b.build({name: y, "other": b.neg(y)}))
    assert [v.name for v in again.inputs] == [name]
    assert again.output_names == [name, "other"]


def test_repeated_names_become_unique_and_stay() -> None:
    b = Builder()
    v = b.input("a", "f32", (2,))
    for _ in range(4):
        v = b.neg(v)
        v.name = "a"
    b.neg(v).name = "a_2"
    again = round_trip(b.build(v))
    names = [r.name for n in again.nodes for r in n.results]
    assert len(set(names)) == len(names) == 6


@pytest.mark.parametrize(
    ("array", "element"),
    [
        (np.array([0x7FC00001, 0xFFC00000, 0x80000000, 1, 0x7F800000], np.uint32).view("f4"), "f32"),
        (np.array([np.nan, -np.nan, -0.0, 5e-324, 1.7e308]), "f64"),
        (np.array([0x7E01, 0x8000, 1], np.uint16).view("f2"), "f16"),
        (np.array([0.1, -0.0, np.inf, np.nan, 1e-40], "f4"), "bf16"),
        (np.array(0.1, "f4"), "f32"),
        (np.array(np.nan, "f4"), "f32"),
        (np.zeros((0, 3), "f4"), "f32"),
        (np.zeros((2, 0), bool), "bool"),
        (np.array([True, False]), "bool"),
        (np.array([-(2**63), 2**63 - 1]), "i64"),
        (np.array([2**64 - 1], "u8"), "u64"),
        (np.arange(100, dtype="i1").reshape(10, 10), "i8"),
        (np.linspace(0, 1, 16, dtype="f4").reshape(2, 8)[:, ::-1], "f32"),
        (np.broadcast_to(np.float32(-0.0), (3, 1000, 1000)), "f32"),
        (np.broadcast_to(np.array(0x7FC00001, np.uint32).view("f4"), (4, 4)), "f32"),
        (np.ones((1, 1), "f4"), "f32"),
    ],
)
def test_constants_are_exact(array: np.ndarray, element: str) -> None:
    b = Builder()
    v = b.constant(array, element)
    want = v.const
    got = round_trip(b.build(v)).outputs[0].const
    assert want is not None and got is not None
    assert got.dtype is want.dtype and got.array.shape == want.array.shape
    assert np.ascontiguousarray(got.array).tobytes() == np.ascontiguousarray(want.array).tobytes()
    assert got.is_splat == want.is_splat


def test_constants_may_live_elsewhere() -> None:
    b = Builder()
    big = b.constant(np.arange(1000, dtype="f4"))
    small = b.constant(2.0)
    graph = b.build(b.mul(big, small))
    pool: list[Const] = []

    def write(const: Const) -> str | None:
        if const.array.size < 8:
            return None
        pool.append(const)
        return f"@{len(pool) - 1}"

    text = print_graph(graph, constant=write)
    assert "@0" in text and "hex" not in text

    def read(reference: str, type_: TensorType) -> Const:
        assert type_ is TensorType("f32", (1000,))
        return pool[int(reference[1:])]

    assert print_graph(parse_graph(text, constant=read), constant=lambda c: "@0" if c.array.size > 8 else None) == text
    with pytest.raises(ParseError, match="refers to @0"):
        parse_graph(text)
    with pytest.raises(ParseError, match="no constant @0"):
        parse_graph(text, constant=lambda r, t: {}[r])
    with pytest.raises(ParseError, match="not a constant of"):
        parse_graph(text, constant=lambda r, t: Const(np.zeros(3, "f4"), t.dtype))


def test_a_long_chain_needs_no_stack() -> None:
    b = Builder()
    v = b.input("x", "f32", ("N",))
    for _ in range(20_000):
        v = b.neg(v)
    round_trip(b.build(v))


def test_the_fingerprint_is_about_meaning() -> None:
    def build(name: str, layer: str, value: float, out: str = "y") -> str:
        b = Builder(origin=Origin(layer=layer))
        y = b.mul(b.input("x", "f32", (3,)), b.constant(value, "f32"))
        y.name = name
        return b.build({out: y}).fingerprint

    assert build("a", "l1", 2.0) == build("b", "l2", 2.0)
    assert build("a", "l1", 2.0) != build("a", "l1", 3.0)
    assert build("a", "l1", 2.0) != build("a", "l1", 2.0, "z")


def test_the_fingerprint_is_equal_in_every_process() -> None:
    program = (
        "from fusewright.ir import Builder\nb = Builder()\nx = b.input('x', 'f32', ('N', 'M*2'))\n"
        "g = b.build(b.softmax(b.mul(x, x)), b.transpose(x, perm=(1, 0)))\nprint(g.fingerprint, hash(str(g)) != 0)"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(seen) == 1


GOOD = "graph(%x: f32[N, 4]) -> (y: f32[N, 4]) {\n  %0 = relu %x : f32[N, 4]\n  return y = %0\n}\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("relu %x", "relu %z", r"line 2, column 13: %z is not defined"),
        ("relu", "evil", "no op 'evil'"),
        ("relu", "input", "no op 'input'"),
        ("relu %x : f32[N, 4]", "relu %x : f32[N, 5]", "not what is printed"),
        ("y: f32[N, 4]", "y: f32[N, 3]", "not those in the graph's first line"),
        ("f32[N, 4])", "f99[N, 4])", "expected a type"),
        ("f32[N, 4])", "f32[N, 4", "bad extent"),
        ("f32[N, 4])", "f32[N, (((]", "bad extent"),
        ("f32[N, 4])", "f32[N // 0]", "bad extent"),
        ("f32[N, 4])", "f32[" + "(" * 100 + "N" + ")" * 100 + "]", "nested deeper"),
        ("f32[N, 4])", "f32[" + "*".join(f"(a{i}+b{i})" for i in range(60)) + "]", "terms"),
        ("f32[N, 4])", "f32[" + "//".join(["N"] + ["2"] * 2000) + "]", "more than 100"),
        ("f32[N, 4])", "f32[-4]", "out of range"),
        ("f32[N, 4])", "f32[" + "9" * 5000 + "]", "digits"),
        ("f32[N, 4])", "f32[" + ", ".join(["1"] * 40) + "]", "rank 40"),
        ("relu %x", "relu %x, %x", "takes"),
        ("relu %x", "relu %x {axis = 1}", "no attribute 'axis'"),
        ("relu %x", "transpose %x {perm = 5}", "do not fit transpose"),
        ("relu %x", 'transpose %x {perm = "ab"}', "axis a"),
        ("relu %x", 'broadcast_to %x {shape = "..->.."}', "bad extent"),
        ("relu %x", "softmax %x {axes = " + "(" * 100 + ")" * 100 + "}", "nested deeper"),
        ("relu %x", "softmax %x {axes = 1, axes = 1}", "given twice"),
        ("relu %x : f32[N, 4]", "constant 1.0, 2.0 : f32[]", "expected ':'"),
        ("relu %x : f32[N, 4]", "constant [1.0] : f32[2]", "1 elements"),
        ("relu %x : f32[N, 4]", "constant [300] : u8[1]", "bad constant"),
        ("relu %x : f32[N, 4]", 'constant hex"00" : f32[2]', "hex digits"),
        ("relu %x : f32[N, 4]", 'constant hex"zzzzzzzz" : f32[1]', "bad constant"),
        ("relu %x : f32[N, 4]", 'constant hex"07" : bool[1]', "bool"),
        ("relu %x : f32[N, 4]", "constant splat(1.0) : f32[100000000, 100000000]", "larger than"),
        ("relu %x : f32[N, 4]", "constant [] : f32[0, 100000000, 100000000]", "larger than"),
        ("relu %x : f32[N, 4]", "constant splat(1.0) : f32[N]", "symbolic type"),
        ("%0 = relu", "%0, %1 = relu", "2 are named"),
        ("%0 = relu %x : f32[N, 4]", "%0 = relu %x : f32[N, 4]\n%0 = relu %x : f32[N, 4]", "defined twice"),
        ("(%x: f32[N, 4])", "(%x: f32[N, 4], %x: f32[])", "distinct names"),
        ("(%x: f32[N, 4])", "(%0: f32[N, 4])", "distinct names"),
        ("}\n", "}\nmore", "end of the text"),
        ("}\n", "", "found the end"),
        ("return", 'from(layer="x")', "no op|expected"),
        (" {", " where N in 5 to 2 {", "bad bounds"),
        ("%x:", '%"\\q":', "bad escape"),
        ("relu", "re\x00lu", "unexpected character"),
    ],
)
def test_hostile_text_is_refused_with_a_place(old: str, new: str, message: str) -> None:
    assert str(parse_graph(GOOD)) == GOOD
    with pytest.raises(ParseError, match=message) as caught:
        parse_graph(GOOD.replace(old, new, 1))
    assert "line " in str(caught.value) and "column " in str(caught.value)


def test_deep_regions_and_many_nodes_are_refused() -> None:
    text = GOOD
    deep = "graph() -> () { " + "if %x : () regions { graph() -> () { " * 50
    with pytest.raises(ParseError):
        parse_graph(deep)
    with pytest.raises(ParseError, match="more than 1 nodes"):
        parse_graph(text, limits=ParseLimits(nodes=1))
    with pytest.raises(ParseError, match="characters"):
        parse_graph(text, limits=ParseLimits(characters=10))
    with pytest.raises(ParseError, match="str"):
        parse_graph(b"graph")  # type: ignore[arg-type]


def test_damaged_text_never_raises_anything_else() -> None:
    text = str(rich())
    rng = np.random.default_rng(0)
    parsed = 0
    for _ in range(1500):
        at, width = int(rng.integers(len(text))), int(rng.integers(1, 12))
        start = int(rng.integers(len(text)))
        piece = text[start : start + width] if rng.random() < 0.7 else chr(rng.integers(1, 300))
        damaged = text[:at] + piece + text[at + int(rng.integers(0, width + 1)) :]
        try:
            parse_graph(damaged).verify()
            parsed += 1
        except ParseError:
            pass
    assert parsed < 1500


def test_attributes_take_their_defaults_type() -> None:
    b = Builder()
    x = b.input("x", "f32", (2, 2))
    b.gelu(x, approximate=1)
    y = b.leaky_relu(x, alpha=1)
    assert y.producer.attrs["alpha"] == 1.0 and isinstance(y.producer.attrs["alpha"], float)
    round_trip(b.build(y))
    for attrs in ('approximate = "yes"', "approximate = 2"):
        with pytest.raises(ParseError, match="must be a bool"):
            parse_graph(GOOD.replace("relu %x", f"gelu %x {{{attrs}}}"))


@pytest.mark.parametrize(
    "name", ["inf", "nan", "true", "none", "f32", "const", "hex", "from", "where", "return", "N.1", "_"]
)
def test_symbols_may_be_called_anything(name: str) -> None:
    b = Builder()
    x = b.input("x", "f32", (name, 2))
    graph = b.build(b.broadcast_to(x, shape=(3, name, 2)), b.reshape(x, shape=(f"{name}*2",)))
    graph.bounds = {name: (0, 7)}
    round_trip(graph)


def test_odd_bytes_of_bools_are_true() -> None:
    b = Builder()
    odd = np.arange(40, dtype="u1").view(bool)
    graph = b.build(b.constant(odd))
    const = parse_graph(str(graph)).outputs[0].const
    assert const is not None and const.array.tolist() == [False] + [True] * 39
