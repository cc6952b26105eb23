"""Memory, threads and warps of the PTX interpreter, and the faults that it has to find."""

from __future__ import annotations

import numpy as np
import pytest

from ptx.lanes import Deadlock
from ptx.machine import Loaded
from ptx.memory import FORBIDDEN, GlobalRace, Memory, MemoryFault
from ptx.parse import PtxError, parse
from ptx.shared import Race
from ptx.values import bf16_to_f32, f32_to_bf16
from ptx_kernels import dense, elementwise, entry, matrix_product, module, row_sum

RNG = np.random.default_rng(5)


class Card:
    """Memory and one module."""

    def __init__(self, *entries: str) -> None:
        self.memory = Memory()
        self.loaded = Loaded(module(*entries), self.memory)

    def put(self, x: np.ndarray) -> int:
        address = self.memory.alloc(x.nbytes)
        self.memory.write(address, np.ascontiguousarray(x).reshape(-1).view("u1"))
        return address

    def get(self, address: int, like: np.ndarray) -> np.ndarray:
        return self.memory.read(address, like.nbytes).view(like.dtype).reshape(like.shape)

    def run(self, name: str, grid: int, block: int, *args: int, units: int = 0, shared: int = 0) -> None:
        self.loaded.launch(name, grid, block, shared, [*args, 0, units, 0])


def threads(name: str, args: int, code: str, outside: str = "") -> str:
    """A kernel whose body knows %r0 (thread) and %q (address of 4 bytes per thread from %a0 on)."""
    head = """
.reg .b32 %r<16>; .reg .b64 %q, %s<4>; .reg .f32 %f<8>; .reg .pred %p<6>;
cvt.u32.u64 %r0, %thread; mad.lo.s64 %q, %bid, %ntid, %thread; shl.b64 %q, %q, 2; add.s64 %q, %q, %a0;
"""
    return entry(name, args, head + code + "\nret;", outside)


def lanes(code: str, count: int = 64, outside: str = "") -> np.ndarray:
    """What 32-bit %r1 holds in each thread of one block after ``code``."""
    card = Card(threads("k", 1, code + "\nst.global.u32 [%q], %r1;", outside))
    out = np.zeros(count, "u4")
    address = card.memory.alloc(out.nbytes)
    card.run("k", 1, count, address)
    return card.get(address, out)


# -- memory -----------------------------------------------------------------------------------------------------------
def test_vectors_and_narrow_elements() -> None:
    code = """
add.s64 %s0, %a1, 0; shl.b64 %s1, %thread, 4; add.s64 %s0, %s0, %s1;
ld.global.nc.L1::no_allocate.v4.f32 {%f0, %f1, %f2, %f3}, [%s0];
add.f32 %f0, %f0, %f1; add.f32 %f2, %f2, %f3; add.f32 %f0, %f0, %f2; st.global.f32 [%q], %f0;
ld.global.v2.u32 {%r2, %r3}, [%s0+8]; ld.global.u8 %r4, [%s0+3]; ld.global.s8 %r5, [%s0+3]; ld.global.u16 %r6, [%s0+14];
add.s64 %s2, %a2, %s1; st.global.v4.b32 [%s2], {%r3, %r4, %r5, %r6};
"""
    card = Card(threads("k", 3, code))
    x = RNG.normal(size=(64, 4)).astype("f4")
    y, z = np.zeros(64, "f4"), np.zeros((64, 4), "u4")
    a, b, c = card.memory.alloc(y.nbytes), card.put(x), card.memory.alloc(z.nbytes)
    card.run("k", 1, 64, a, b, c)
    np.testing.assert_array_equal(card.get(a, y), (x[:, 0] + x[:, 1]) + (x[:, 2] + x[:, 3]))
    words, got = x.view("u4"), card.get(c, z)
    np.testing.assert_array_equal(got[:, 0], words[:, 3])
    np.testing.assert_array_equal(got[:, 1], words[:, 0] >> 24)
    np.testing.assert_array_equal(got[:, 2].view("i4"), (words[:, 0].view("i4") >> 24))
    np.testing.assert_array_equal(got[:, 3], words[:, 3] >> 16)


def test_a_shortened_buffer_is_found() -> None:
    card = Card(elementwise("k", "mov.f32 %y, %x0;", 1))
    x = np.ones(100, "f4")
    a, y = card.put(x[:99]), card.memory.alloc(400)
    with pytest.raises(MemoryFault, match="4 bytes past the end of an allocation of 396"):
        card.run("k", 2, 64, a, y, units=100)
    a, y = card.put(x), card.memory.alloc(396)
    with pytest.raises(MemoryFault, match="past the end"):
        card.run("k", 2, 64, a, y, units=100)
    card.run("k", 2, 64, a, y, units=99)


def test_freed_memory_and_wild_addresses_are_found() -> None:
    card = Card(elementwise("k", "mov.f32 %y, %x0;", 1))
    a, y = card.put(np.ones(64, "f4")), card.memory.alloc(256)
    card.memory.free(a)
    with pytest.raises(MemoryFault, match="freed"):
        card.run("k", 1, 64, a, y, units=64)
    with pytest.raises(MemoryFault, match="in no allocation"):
        card.run("k", 1, 64, 4096, y, units=64)
    with pytest.raises(MemoryFault, match="no allocation"):
        card.memory.free(a)


def test_misaligned_vectors_are_found() -> None:
    card = Card(
        threads("k", 2, "shl.b64 %s1, %thread, 4; add.s64 %s1, %s1, %a1; ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%s1];")
    )
    a = card.put(np.ones(300, "f4"))
    card.run("k", 1, 64, 0, a)
    with pytest.raises(MemoryFault, match="misaligned, 64 lanes"):
        card.run("k", 1, 64, 0, a + 8)


def test_bytes_that_nobody_wrote_and_gaps_are_found() -> None:
    card = Card(elementwise("k", "mov.f32 %y, %x0;", 1))
    fresh, y, x = card.memory.alloc(256), card.memory.alloc(256), card.put(np.ones(64, "f4"))
    with pytest.raises(MemoryFault, match="that nobody wrote, 64 lanes"):
        card.run("k", 1, 64, fresh, y, units=64)
    card.memory.mark(y + 128, 4, FORBIDDEN)
    with pytest.raises(MemoryFault, match="between two buffers, 1 lanes"):
        card.run("k", 1, 64, x, y, units=64)
    with pytest.raises(MemoryFault, match="never written"):
        card.memory.read(fresh, 8)


def test_blocks_that_touch_each_others_bytes_are_found() -> None:
    shifted = "add.s64 %p, %a0, %at; ld.global.f32 %t0, [%p+4]; add.f32 %y, %x0, %t0;"
    card = Card(elementwise("near", shifted, 1), elementwise("own", "add.f32 %y, %x0, %x0;", 1))
    x = np.arange(129, dtype="f4")
    a, y = card.put(x), card.memory.alloc(512)
    card.run("near", 2, 64, a, y, units=128)
    np.testing.assert_array_equal(card.get(y, x[:128]), x[:-1] + x[1:])
    with pytest.raises(GlobalRace, match="block 1 touches bytes read by several blocks"):
        card.run("near", 2, 64, a, a, units=128)  # in place: who reads its neighbour first?
    a = card.put(x)
    card.run("near", 1, 64, a, y, units=64)
    card.run("own", 2, 64, a, a, units=128)
    np.testing.assert_array_equal(card.get(a, x)[:128], 2 * x[:128])
    everyone = Card(threads("k", 1, "st.global.u32 [%a0], %r0;"))
    with pytest.raises(GlobalRace, match="written by block"):
        everyone.run("k", 2, 32, everyone.memory.alloc(256))


def test_constant_tables_local_memory_and_generic_addresses() -> None:
    outside = ".const .align 4 .u32 table[4] = {7, 8, 9, 10};\n.global .align 8 .b8 bytes[8] = {1, 2, 3, 4, 255};"
    code = """
.local .align 4 .b8 depot[16];
and.b32 %r2, %r0, 3; mul.wide.u32 %s0, %r2, 4; mov.u64 %s1, table; add.s64 %s1, %s1, %s0; ld.const.u32 %r1, [%s1];
mov.u64 %s2, depot; cvta.local.u64 %s3, %s2; add.s64 %s3, %s3, %s0; st.u32 [%s3], %r1;
add.s64 %s2, %s2, %s0; ld.local.u32 %r3, [%s2]; ld.global.u8 %r4, [bytes+4]; add.u32 %r1, %r3, %r4;
"""
    np.testing.assert_array_equal(lanes(code, 64, outside), np.resize([7, 8, 9, 10], 64) + 255)


def test_atomics() -> None:
    code = """
mov.u32 %r2, 3; atom.global.add.u32 %r1, [%a0+256], %r2; red.global.max.u32 [%a0+260], %r0; st.global.u32 [%q], %r1;
"""
    card = Card(threads("k", 1, code))
    a = card.put(np.zeros(66, "u4"))
    card.run("k", 1, 64, a)
    got = card.get(a, np.zeros(66, "u4"))
    np.testing.assert_array_equal(np.sort(got[:64]), np.arange(64) * 3)
    assert got[64] == 192 and got[65] == 63


# -- threads ----------------------------------------------------------------------------------------------------------
def test_divergent_loops_meet_again() -> None:
    code = """
mov.u32 %r1, 0; mov.u32 %r2, 0;
LOOP: setp.ge.u32 %p0, %r2, %r0; @%p0 bra OUT; add.u32 %r1, %r1, %r2; and.b32 %r3, %r2, 1; setp.eq.u32 %p1, %r3, 1;
@%p1 bra ODD; add.u32 %r1, %r1, 100; ODD: add.u32 %r2, %r2, 1; bra LOOP;
OUT: activemask.b32 %r4; setp.ne.u32 %p2, %r4, -1; @%p2 mov.u32 %r1, 0;
"""
    want = [sum(i + (100 if i % 2 == 0 else 0) for i in range(t)) for t in range(64)]
    np.testing.assert_array_equal(lanes(code), want)


def test_inline_scopes_have_their_own_names() -> None:
    scope = "{ .reg .u32 t; mov.u32 t, %d; add.u32 %%r1, %%r1, t; }"
    code = f"mov.u32 %r1, %r0; {scope % 5} {scope % 7}"
    np.testing.assert_array_equal(lanes(code), np.arange(64) + 12)


def test_shared_memory_between_warps() -> None:
    code = """
.shared .align 4 .b8 tile[256];
mov.u32 %r2, tile; shl.b32 %r3, %r0, 2; add.u32 %r3, %r3, %r2; st.shared.u32 [%r3], %r0; bar.sync 0;
xor.b32 %r4, %r0, 63; shl.b32 %r4, %r4, 2; add.u32 %r4, %r4, %r2; ld.shared.u32 %r1, [%r4];
"""
    np.testing.assert_array_equal(lanes(code), 63 - np.arange(64))
    with pytest.raises(Race, match="no barrier between"):
        lanes(code.replace("bar.sync 0;", ""))
    with pytest.raises(Race, match="no barrier between"):  # a warp's own barrier does not order two warps
        lanes(code.replace("bar.sync 0;", "bar.warp.sync -1;"))
    within = code.replace("xor.b32 %r4, %r0, 63", "xor.b32 %r4, %r0, 31")
    np.testing.assert_array_equal(lanes(within.replace("bar.sync 0;", "bar.warp.sync -1;")), np.arange(64) ^ 31)
    with pytest.raises(Race):
        lanes(within.replace("bar.sync 0;", ""))
    again = code + "xor.b32 %r5, %r0, 1; st.shared.u32 [%r4], %r5;"
    np.testing.assert_array_equal(lanes(again), 63 - np.arange(64))  # each thread overwrites what it alone read
    with pytest.raises(Race, match="read"):
        lanes(code + "st.shared.u32 [%r3], %r0;")
    with pytest.raises(Race, match="at once"):
        lanes(".shared .align 4 .b8 one[4]; mov.u32 %r1, 0; st.shared.u32 [one], %r0;")


def test_shared_memory_that_nobody_wrote_or_that_is_not_there() -> None:
    with pytest.raises(MemoryFault, match="nobody wrote"):
        lanes(".shared .align 4 .b8 tile[64]; ld.shared.u32 %r1, [tile];")
    with pytest.raises(MemoryFault, match="there are 64 bytes"):
        lanes(".shared .align 4 .b8 tile[64]; st.shared.u32 [tile+64], %r0;")
    with pytest.raises(MemoryFault, match="misaligned"):
        lanes(".shared .align 8 .b8 tile[64]; ld.shared.v2.u32 {%r1, %r2}, [tile+4];")


def test_dynamic_shared_memory_lies_behind_the_static() -> None:
    code = """
.shared .align 4 .b8 small[20];
mov.u32 %r2, dynamic; shl.b32 %r3, %r0, 2; add.u32 %r3, %r3, %r2; st.shared.u32 [%r3], %r0; st.global.u32 [%q], %r2;
"""
    card = Card(threads("k", 1, code, ".extern .shared .align 16 .b8 dynamic[];"))
    a = card.memory.alloc(256)
    card.run("k", 1, 64, a, shared=256)
    np.testing.assert_array_equal(card.get(a, np.zeros(64, "u4")), np.full(64, 32))
    with pytest.raises(MemoryFault, match="there are 284 bytes"):
        card.run("k", 1, 64, a, shared=252)


def test_threads_that_never_meet() -> None:
    half = "setp.lt.u32 %p0, %r0, 32; mov.u32 %r1, 0; @%p0 bra SKIP; bar.sync 0; SKIP:"
    with pytest.raises(Deadlock, match="wait for others"):
        lanes(half)
    quarter = "setp.lt.u32 %p0, %r0, 16; mov.u32 %r1, 0; @%p0 bra SKIP; bar.sync 0; bra END; SKIP: bar.sync 0; END:"
    with pytest.raises(Deadlock, match="different barriers"):
        lanes(quarter)
    np.testing.assert_array_equal(lanes(quarter.replace("%r0, 16", "%r0, 32")), np.zeros(64))
    with pytest.raises(Deadlock):
        lanes("setp.lt.u32 %p0, %r0, 16; mov.u32 %r1, 0; @%p0 bra SKIP; shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1; SKIP:")
    masked = """
setp.lt.u32 %p0, %r0, 16; mov.u32 %r1, %r0; @%p0 bra SKIP; bra END;
SKIP: shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xFFFF; END:
"""
    np.testing.assert_array_equal(lanes(masked), np.where(np.arange(64) < 16, np.arange(64) ^ 1, np.arange(64)))


def test_endless_loops_and_traps_end() -> None:
    with pytest.raises(PtxError, match="came to trap"):
        lanes("setp.eq.u32 %p0, %r0, 9; mov.u32 %r1, 0; @%p0 trap;")
    card = Card(threads("k", 0, "L: bra L;").replace("%a0;", "0;"))
    with pytest.raises(PtxError, match="does not end"):
        card.loaded.launch("k", 1, 32, 0, [0, 0, 0], limit=1000)


# -- warps ------------------------------------------------------------------------------------------------------------
def test_shuffles() -> None:
    lane, base = np.arange(64) % 32, np.arange(64) // 32 * 32
    for mode, by, want in (
        ("up", 3, np.where(lane >= 3, lane - 3, lane)), ("down", 3, np.where(lane + 3 < 32, lane + 3, lane)),
        ("bfly", 5, lane ^ 5), ("idx", 7, lane * 0 + 7),
    ):  # fmt: skip
        c = 0 if mode == "up" else 31
        got = lanes(f"shfl.sync.{mode}.b32 %r1|%p0, %r0, {by}, {c}, -1;")
        np.testing.assert_array_equal(got, base + want)
    # segments of 8 lanes: c = (32 - 8) << 8 | 7
    got = lanes(f"shfl.sync.down.b32 %r1|%p0, %r0, 1, {24 << 8 | 7}, -1; @!%p0 mov.u32 %r1, 99;")
    np.testing.assert_array_equal(got, np.where(lane % 8 == 7, 99, np.arange(64) + 1))


def test_votes_and_reductions() -> None:
    odd = "and.b32 %r2, %r0, 1; setp.eq.u32 %p0, %r2, 1; "
    np.testing.assert_array_equal(lanes(odd + "vote.sync.ballot.b32 %r1, %p0, -1;"), np.full(64, 0xAAAAAAAA))
    np.testing.assert_array_equal(lanes(odd + "vote.sync.any.pred %p1, %p0, -1; selp.u32 %r1, 1, 0, %p1;"), np.ones(64))
    np.testing.assert_array_equal(
        lanes(odd + "vote.sync.all.pred %p1, %p0, -1; selp.u32 %r1, 1, 0, %p1;"), np.zeros(64)
    )
    np.testing.assert_array_equal(lanes("redux.sync.add.s32 %r1, %r0, -1;"), np.repeat([496, 1520], 32))


@pytest.mark.parametrize("threads_", [32, 64, 128])
def test_row_sums(threads_: int) -> None:
    card = Card(row_sum("good", threads_), row_sum("bad", threads_, barrier=False))
    x = RNG.normal(size=(37, 211)).astype("f4")
    a, y = card.put(x), card.memory.alloc(4 * 37)
    card.run("good", 37, threads_, a, y, 211, units=37)
    np.testing.assert_allclose(card.get(y, np.zeros(37, "f4")), x.astype("f8").sum(1), rtol=1e-5, atol=1e-5)
    if threads_ > 32:
        with pytest.raises(Race):
            card.run("bad", 37, threads_, a, y, 211, units=37)


def _halves(x: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(bit patterns, their values)."""
    bits = f32_to_bf16(x.astype("f4")) if kind == "bf16" else x.astype("f2").view("u2")
    return bits, (bf16_to_f32(bits) if kind == "bf16" else bits.view("f2")).astype("f8")


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_matrix_product_with_copies_in_flight(kind: str) -> None:
    card = Card(
        matrix_product("good", kind),
        matrix_product("wait", kind, wait=False),
        matrix_product("bar", kind, barriers=False),
    )
    (a, va), (b, vb) = _halves(RNG.normal(size=(48, 64)), kind), _halves(RNG.normal(size=(64, 8)), kind)
    places = card.put(a), card.put(b), card.memory.alloc(48 * 32)
    card.run("good", 3, 32, *places, 64, units=3)
    np.testing.assert_allclose(card.get(places[2], np.zeros((48, 8), "f4")), va @ vb, rtol=1e-5, atol=1e-5)
    with pytest.raises(Race, match=r"cp\.async may still"):
        card.run("wait", 3, 32, *places, 64, units=3)
    with pytest.raises(Race):
        card.run("bar", 3, 32, *places, 64, units=3)
    short = card.put(a[:-1])
    with pytest.raises(MemoryFault, match="past the end"):
        card.run("good", 3, 32, short, *places[1:], 64, units=3)
    with pytest.raises(MemoryFault, match="misaligned"):
        card.run("good", 2, 32, places[0] + 8, *places[1:], 64, units=3)


def _fragments(k: int, tf32: bool) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) of each lane's registers of A, and (row, column) of B, from the figures of the ISA."""
    g, t = np.arange(32) // 4, np.arange(32) % 4
    if tf32:
        a = [(g + 8 * (i % 2), t + 4 * (i // 2)) for i in range(k // 2)]
        return np.array(a), np.array([(t + 4 * i, g) for i in range(k // 4)])
    a = [(g + 8 * (i // 2 % 2), 2 * t + i % 2 + 8 * (i // 4)) for i in range(k // 2)]
    return np.array(a), np.array([(2 * t + i % 2 + 8 * (i // 2), g) for i in range(k // 4)])


@pytest.mark.parametrize("kind,k", [("tf32", 4), ("tf32", 8), ("bf16", 8), ("bf16", 16), ("f16", 8), ("f16", 16)])
def test_fragments_of_mma(kind: str, k: int) -> None:
    a, b, c = RNG.normal(size=(16, k)), RNG.normal(size=(k, 8)), RNG.normal(size=(16, 8)).astype("f4")
    where_a, where_b = _fragments(k, kind == "tf32")
    if kind == "tf32":
        bits_a, bits_b = (x.astype("f4").view("u4") & np.uint32(0xFFFFE000) for x in (a, b))
        va, vb = bits_a.view("f4").astype("f8"), bits_b.view("f4").astype("f8")
        low = RNG.integers(0, 1 << 13, (16, k)).astype("u4")  # the instruction must not look at these bits
        ra, rb = (bits_a | low)[where_a[:, 0], where_a[:, 1]].T, bits_b[where_b[:, 0], where_b[:, 1]].T
    else:
        (bits_a, va), (bits_b, vb) = _halves(a, kind), _halves(b, kind)
        ra, rb = (
            np.ascontiguousarray(x[w[:, 0], w[:, 1]].T).view("u4") for x, w in ((bits_a, where_a), (bits_b, where_b))
        )
    g, t = np.arange(32) // 4, np.arange(32) % 4
    rc = np.stack([c[g + 8 * (i // 2), 2 * t + i % 2] for i in range(4)], 1)
    na, nb = ra.shape[1], rb.shape[1]
    registers = np.concatenate([ra, rb, rc.view("u4")], 1)
    loads = "".join(f"ld.global.u32 %r{i}, [%s0+{4 * i}];\n" for i in range(na + nb))
    loads += "".join(f"ld.global.f32 %f{i}, [%s0+{4 * (na + nb + i)}];\n" for i in range(4))
    names = [", ".join(f"%r{i}" for i in r) for r in (range(na), range(na, na + nb))]
    wrap = lambda text, n: f"{{{text}}}" if n > 1 else text
    code = f"""
mul.lo.s64 %s0, %thread, {4 * registers.shape[1]}; add.s64 %s0, %s0, %a1; {loads}
mma.sync.aligned.m16n8k{k}.row.col.f32.{kind}.{kind}.f32
    {{%f0, %f1, %f2, %f3}}, {wrap(names[0], na)}, {wrap(names[1], nb)}, {{%f0, %f1, %f2, %f3}};
shl.b64 %s1, %thread, 4; add.s64 %s1, %s1, %a0; st.global.v4.f32 [%s1], {{%f0, %f1, %f2, %f3}};
"""
    card = Card(threads("k", 2, code))
    y, x = card.memory.alloc(512), card.put(registers)
    card.run("k", 1, 32, y, x)
    got, out = card.get(y, np.zeros((32, 4), "f4")), np.zeros((16, 8))
    for i in range(4):
        out[g + 8 * (i // 2), 2 * t + i % 2] = got[:, i]
    np.testing.assert_allclose(out, va @ vb + c, rtol=1e-6, atol=1e-6)


def test_copies_with_zero_fill_and_groups() -> None:
    code = """
.shared .align 16 .b8 tile[1024];
mov.u32 %r2, tile; shl.b32 %r3, %r0, 4; add.u32 %r3, %r3, %r2; shl.b64 %s0, %thread, 4; add.s64 %s0, %s0, %a1;
setp.lt.u32 %p0, %r0, 40; selp.u32 %r4, 16, 0, %p0;
cp.async.cg.shared.global [%r3], [%s0], 16, %r4;
cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %r1, [%r3]; st.global.u32 [%q], %r1;
"""
    card = Card(
        threads("k", 2, code), threads("late", 2, code.replace("wait_group 0", "wait_group 1").replace("tile", "tile2"))
    )
    x = RNG.integers(0, 99, (40, 4)).astype("u4")  # what the others do not copy is not there
    y, a = card.memory.alloc(256), card.put(x)
    card.run("k", 1, 64, y, a)
    np.testing.assert_array_equal(card.get(y, np.zeros(64, "u4")), np.r_[x[:, 0], np.zeros(24, "u4")])
    with pytest.raises(Race, match=r"cp\.async may still"):
        card.run("late", 1, 64, y, a)


def test_dense_with_many_blocks() -> None:
    card = Card(dense("k"))
    x, w, b = (
        RNG.normal(size=(300, 24)).astype("f4"),
        RNG.normal(size=(24, 40)).astype("f4"),
        RNG.normal(size=40).astype("f4"),
    )
    y = card.memory.alloc(300 * 160)
    card.run("k", 188, 64, card.put(x), card.put(w), card.put(b), y, 24, 40, units=12000)
    np.testing.assert_allclose(card.get(y, np.zeros((300, 40), "f4")), x.astype("f8") @ w + b, rtol=1e-4, atol=1e-4)


# -- modules ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    ["", ".version 7.8\n.target sm_80\n.address_size 32\n", ".version 7.8\n.target sm_80\n.visible .func f() { ret; }",
     ".version 7.8\n.target sm_80\n.entry k() { bra NOWHERE; }", ".version 7.8\n.target sm_80\n.entry k() { ret;",
     ".version 7.8\n.target sm_80\n.entry k(.param .b8 x[16]) { ret; }", ".version 7.8\n.target sm_80\n.tex t;"],
)  # fmt: skip
def test_modules_that_are_not_understood(text: str) -> None:
    with pytest.raises(PtxError):
        parse(text)


def test_launches_that_no_gpu_takes() -> None:
    card = Card(elementwise("k", "mov.f32 %y, %x0;", 1))
    for grid, block in ((0, 64), (1, 48), (1, 2048)):
        with pytest.raises(PtxError, match="a launch of"):
            card.run("k", grid, block, 0, 0)
    with pytest.raises(PtxError, match="parameters"):
        card.run("k", 1, 64, 0)
    with pytest.raises(PtxError, match="shared memory"):
        card.run("k", 1, 64, 0, 0, shared=1 << 20)
    with pytest.raises(PtxError, match="no kernel"):
        card.run("other", 1, 64)
