"""PTX written by hand, for tests of interpreter and runtime that need no compiler.

One function per kernel; `module` puts them under a header. Each follows the bundle's convention for entries: one
64-bit word per argument, then first and last unit and scratch.
"""

from __future__ import annotations

from collections.abc import Sequence

HEADER = ".version 7.8\n.target sm_80\n.address_size 64\n"


def module(*entries: str, header: str = HEADER) -> str:
    """A PTX module."""
    return header + "\n".join(entries)


def entry(name: str, args: int, body: str, outside: str = "") -> str:
    """A kernel ``name`` with ``args`` arguments, which the body finds in %a0.., and %start, %stop, %scratch.

    %tid, %bid, %ntid are 64-bit thread, block and block size.
    """
    params = ",\n".join(f"    .param .u64 {name}_{i}" for i in range(args + 3))
    names = [*(f"%a{i}" for i in range(args)), "%start", "%stop", "%scratch"]
    loads = "\n".join(f"    ld.param.u64 {reg}, [{name}_{i}];" for i, reg in enumerate(names))
    return f"""{outside}
.visible .entry {name}(
{params}
)
{{
    .reg .b64 %a<{max(args, 1)}>;
    .reg .b64 %start, %stop, %scratch, %thread, %bid, %ntid;
    .reg .b32 %w<4>;
{loads}
    mov.u32 %w0, %tid.x;
    mov.u32 %w1, %ctaid.x;
    mov.u32 %w2, %ntid.x;
    cvt.u64.u32 %thread, %w0;
    cvt.u64.u32 %bid, %w1;
    cvt.u64.u32 %ntid, %w2;
{body}
}}
"""


def elementwise(name: str, code: str, inputs: int) -> str:
    """One thread per float: ``code`` makes %y of %x0, %x1...; arguments are the inputs, then the result."""
    loads = "\n".join(f"    add.s64 %p, %a{i}, %at;\n    ld.global.f32 %x{i}, [%p];" for i in range(inputs))
    return entry(
        name,
        inputs + 1,
        f"""
    .reg .b64 %i, %at, %p;
    .reg .f32 %x<{max(inputs, 1)}>, %y, %t<8>;
    .reg .pred %out;
    mad.lo.s64 %i, %bid, %ntid, %thread;
    add.s64 %i, %i, %start;
    setp.ge.s64 %out, %i, %stop;
    @%out bra DONE;
    shl.b64 %at, %i, 2;
{loads}
    {code}
    add.s64 %p, %a{inputs}, %at;
    st.global.f32 [%p], %y;
DONE:
    ret;
""",
    )


def dense(name: str) -> str:
    """y = x w + b, one thread per element of y: arguments x, w, b, y, n (depth), m (columns)."""
    return entry(
        name,
        6,
        """
    .reg .b64 %i, %row, %col, %p, %q, %k, %step;
    .reg .f32 %acc, %u, %v;
    .reg .pred %out;
    mad.lo.s64 %i, %bid, %ntid, %thread;
    add.s64 %i, %i, %start;
    setp.ge.s64 %out, %i, %stop;
    @%out bra DONE;
    div.s64 %row, %i, %a5;
    rem.s64 %col, %i, %a5;
    shl.b64 %p, %col, 2;
    add.s64 %q, %a2, %p;
    ld.global.f32 %acc, [%q];
    add.s64 %q, %a1, %p;
    mul.lo.s64 %p, %row, %a4;
    shl.b64 %p, %p, 2;
    add.s64 %p, %a0, %p;
    shl.b64 %step, %a5, 2;
    mov.u64 %k, 0;
LOOP:
    ld.global.f32 %u, [%p];
    ld.global.f32 %v, [%q];
    fma.rn.f32 %acc, %u, %v, %acc;
    add.s64 %p, %p, 4;
    add.s64 %q, %q, %step;
    add.s64 %k, %k, 1;
    setp.lt.s64 %out, %k, %a4;
    @%out bra LOOP;
    shl.b64 %p, %i, 2;
    add.s64 %p, %a3, %p;
    st.global.f32 [%p], %acc;
DONE:
    ret;
""",
    )


def less(name: str, bound: float = 10.0) -> str:
    """A byte: is the first float below ``bound``? Arguments x, result."""
    import struct

    bits = struct.pack(">f", bound).hex().upper()
    return entry(
        name,
        2,
        f"""
    .reg .f32 %x;
    .reg .pred %small, %other;
    .reg .b32 %y;
    setp.ne.s64 %other, %thread, 0;
    @%other bra DONE;
    ld.global.f32 %x, [%a0];
    setp.lt.f32 %small, %x, 0f{bits};
    selp.u32 %y, 1, 0, %small;
    st.global.u8 [%a1], %y;
DONE:
    ret;
""",
    )


def row_sum(name: str, threads: int = 128, barrier: bool = True, warps: Sequence[int] = (16, 8, 4, 2, 1)) -> str:
    """One block per row: shuffles within warps, shared memory between them. Arguments x, y, n. Without ``barrier`` it
    is wrong."""
    shuffles = "\n".join(
        f"    mov.b32 %r0, %sum;\n    shfl.sync.bfly.b32 %r1, %r0, {d}, 31, -1;\n"
        "    mov.b32 %x, %r1;\n    add.f32 %sum, %sum, %x;"
        for d in warps
    )
    parts = "\n".join(
        f"    ld.shared.f32 %x, [{name}_part+{4 * w}];\n    add.f32 %sum, %sum, %x;" for w in range(threads // 32)
    )
    return entry(
        name,
        3,
        f"""
    .shared .align 4 .b8 {name}_part[{4 * threads // 32}];
    .reg .b64 %i, %p, %row, %q;
    .reg .f32 %sum, %x;
    .reg .b32 %r<6>;
    .reg .pred %go, %first;
    add.s64 %row, %bid, %start;
    mul.lo.s64 %p, %row, %a2;
    mov.f32 %sum, 0f00000000;
    mov.u64 %i, %thread;
LOOP:
    setp.ge.s64 %go, %i, %a2;
    @%go bra ENDLOOP;
    add.s64 %q, %p, %i;
    shl.b64 %q, %q, 2;
    add.s64 %q, %a0, %q;
    ld.global.f32 %x, [%q];
    add.f32 %sum, %sum, %x;
    add.s64 %i, %i, {threads};
    bra LOOP;
ENDLOOP:
{shuffles}
    cvt.u32.u64 %r2, %thread;
    and.b32 %r3, %r2, 31;
    shr.u32 %r4, %r2, 5;
    shl.b32 %r4, %r4, 2;
    mov.u32 %r5, {name}_part;
    add.u32 %r4, %r4, %r5;
    setp.eq.u32 %first, %r3, 0;
    @%first st.shared.f32 [%r4], %sum;
    {"bar.sync 0;" if barrier else ""}
    setp.ne.u32 %first, %r2, 0;
    @%first bra DONE;
    mov.f32 %sum, 0f00000000;
{parts}
    shl.b64 %q, %row, 2;
    add.s64 %q, %a1, %q;
    st.global.f32 [%q], %sum;
DONE:
    ret;
""",
    )


def matrix_product(name: str, kind: str = "bf16", wait: bool = True, barriers: bool = True) -> str:
    """c (16 x 8 per block) = a b with mma.sync, operands brought by cp.async and read by ldmatrix.

    Arguments a (rows x k), b (k x 8), c (rows x 8), k: row-major, a and b of 16-bit floats, k a multiple of 16. One
    warp per block; unit = 16 rows. Without ``wait`` or ``barriers`` it is wrong.
    """
    return entry(
        name,
        4,
        f"""
    .shared .align 16 .b8 {name}_a[512];
    .shared .align 16 .b8 {name}_b[256];
    .reg .b64 %p, %q, %k, %row, %t;
    .reg .b32 %r<24>, %u<6>;
    .reg .f32 %c<4>;
    .reg .pred %go, %half;
    mov.f32 %c0, 0f00000000;
    mov.f32 %c1, 0f00000000;
    mov.f32 %c2, 0f00000000;
    mov.f32 %c3, 0f00000000;
    add.s64 %row, %bid, %start;
    shl.b64 %row, %row, 4;
    cvt.u32.u64 %r0, %thread;
    mov.u32 %r1, {name}_a;
    mov.u32 %r2, {name}_b;
    // thread t copies row t/2, half t%2 of the tile of a: 16 bytes; threads below 16 copy row t of b
    shr.u32 %r3, %r0, 1;
    and.b32 %r4, %r0, 1;
    shl.b32 %r5, %r3, 5;
    shl.b32 %r6, %r4, 4;
    add.u32 %r5, %r5, %r6;
    add.u32 %r5, %r5, %r1;
    cvt.u64.u32 %t, %r3;
    add.s64 %p, %row, %t;
    mul.lo.s64 %p, %p, %a3;
    shl.b64 %p, %p, 1;
    add.s64 %p, %p, %a0;
    cvt.u64.u32 %t, %r6;
    add.s64 %p, %p, %t;
    shl.b32 %r7, %r0, 4;
    cvt.u64.u32 %t, %r7;
    add.s64 %q, %a1, %t;
    add.u32 %r7, %r7, %r2;
    setp.lt.u32 %half, %r0, 16;
    // rows for ldmatrix: a: row t%16, half t/16; b: row t%16
    and.b32 %r8, %r0, 15;
    shr.u32 %r9, %r0, 4;
    shl.b32 %r10, %r8, 5;
    shl.b32 %r9, %r9, 4;
    add.u32 %r10, %r10, %r9;
    add.u32 %r10, %r10, %r1;
    shl.b32 %r11, %r8, 4;
    add.u32 %r11, %r11, %r2;
    mov.u64 %k, 0;
LOOP:
    cp.async.cg.shared.global [%r5], [%p], 16;
    @%half cp.async.cg.shared.global [%r7], [%q], 16;
    cp.async.commit_group;
    {"cp.async.wait_group 0;" if wait else ""}
    {"bar.sync 0;" if barriers else ""}
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r12, %r13, %r14, %r15}}, [%r10];
    ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {{%r16, %r17}}, [%r11];
    mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32
        {{%c0, %c1, %c2, %c3}}, {{%r12, %r13, %r14, %r15}}, {{%r16, %r17}}, {{%c0, %c1, %c2, %c3}};
    {"bar.sync 0;" if barriers else ""}
    add.s64 %p, %p, 32;
    add.s64 %q, %q, 256;
    add.s64 %k, %k, 16;
    setp.lt.s64 %go, %k, %a3;
    @%go bra LOOP;
    {"" if wait else "cp.async.wait_all;"}
    // c: rows t/4 and t/4 + 8, columns 2 (t%4) and the next
    shr.u32 %u0, %r0, 2;
    and.b32 %u1, %r0, 3;
    cvt.u64.u32 %t, %u0;
    add.s64 %row, %row, %t;
    shl.b64 %row, %row, 5;
    add.s64 %p, %a2, %row;
    shl.b32 %u1, %u1, 3;
    cvt.u64.u32 %t, %u1;
    add.s64 %p, %p, %t;
    st.global.v2.f32 [%p], {{%c0, %c1}};
    st.global.v2.f32 [%p+256], {{%c2, %c3}};
    ret;
""",
    )
