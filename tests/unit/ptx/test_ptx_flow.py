"""native/ptx: divergence, barriers, warps, calls, atomics, and the faults of kernels."""

import numpy as np
import pytest
from support.ptx_library import PtxError

PROLOGUE = """
    .reg .pred %p<9>;
    .reg .b16 %h<9>;
    .reg .b32 %r<20>;
    .reg .b64 %rd<20>;
    .reg .f32 %f<9>;
    ld.param.u64 %rd0, [out];
    mov.u32 %r0, %tid.x;
    mad.wide.u32 %rd1, %r0, 4, %rd0;
"""


def run(device, body, threads, words=None, head="", blocks=1, machine_threads=1, shared=0, fill=0):
    """Run a body for one block; r0 is the thread, rd1 its word of the output. Return the words."""
    text = f"{head}\n.visible .entry test(.param .u64 out)\n{{{PROLOGUE}{body}\nret;\n}}\n"
    module = device.load(text)
    n = words or threads
    out = device.put(np.full(n, fill, np.uint32))
    try:
        module.kernel("test")(blocks, threads, out, threads=machine_threads, shared=shared)
        return device.get(out, np.uint32, n)
    finally:
        device.lib.ptx_free(device.state, out)
        module.unload()


def collatz(n):
    steps = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


@pytest.mark.parametrize("threads", [1, 43, 128, 1000])
def test_loops_of_different_lengths(device, threads):
    body = """
        add.u32 %r1, %r0, 1;
        mov.u32 %r2, 0;
    loop:
        setp.eq.u32 %p1, %r1, 1;
        @%p1 bra done;
        and.b32 %r3, %r1, 1;
        setp.eq.u32 %p2, %r3, 0;
        @%p2 bra even;
        mad.lo.u32 %r1, %r1, 3, 1;
        bra.uni next;
    even:
        shr.u32 %r1, %r1, 1;
    next:
        add.u32 %r2, %r2, 1;
        bra loop;
    done:
        st.global.u32 [%rd1], %r2;
    """
    assert list(run(device, body, threads)) == [collatz(i + 1) for i in range(threads)]


def test_paths_that_were_moved_behind_meet_again(device):
    """A block of code may stand behind where its path joins: shfl must still see all lanes."""
    body = """
        and.b32 %r1, %r0, 1;
        setp.eq.u32 %p1, %r1, 1;
        @%p1 bra far;
        mov.u32 %r2, 5;
    join:
        shfl.sync.bfly.b32 %r3, %r2, 1, 31, -1;
        st.global.u32 [%rd1], %r3;
        ret;
    far:
        mov.u32 %r2, 9;
        bra join;
    """
    assert list(run(device, body, 64)) == [9, 5] * 32


def test_lanes_that_left_are_not_waited_for(device):
    body = """
        setp.gt.u32 %p1, %r0, 4;
        @%p1 exit;
        shfl.sync.idx.b32 %r1, %r0, 3, 31, 31;
        bar.sync 0;
        setp.ge.u32 %p2, %r0, 0;
        vote.sync.ballot.b32 %r2, %p2, -1;
        add.u32 %r1, %r1, %r2;
        st.global.u32 [%rd1], %r1;
    """
    assert list(run(device, body, 40)) == [3 + 31] * 5 + [0] * 35


@pytest.mark.parametrize(
    ("mode", "b", "c", "source"),
    [
        ("up", 3, 0, lambda i: i - 3 if i >= 3 else i),
        ("down", 5, 31, lambda i: i + 5 if i + 5 < 32 else i),
        ("bfly", 6, 31, lambda i: i ^ 6),
        ("idx", 9, 31, lambda i: 9),
        ("down", 2, 0x1807, lambda i: i + 2 if i % 8 < 6 else i),
        ("idx", 1, 0x1C03, lambda i: i // 4 * 4 + 1),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_shuffles(device, mode, b, c, source, known):
    by = (b, c) if known else ("%r3", "%r4")
    body = f"""
        mov.u32 %r3, {b};
        mov.u32 %r4, {c};
        mul.lo.u32 %r1, %r0, 10;
        shfl.sync.{mode}.b32 %r1|%p1, %r1, {by[0]}, {by[1]}, -1;
        selp.u32 %r2, 1, 0, %p1;
        add.u32 %r1, %r1, %r2;
        st.global.u32 [%rd1], %r1;
    """
    want = []
    for i in range(64):
        j = source(i % 32)
        valid = j != i % 32 or mode in ("idx", "bfly")
        want.append((i // 32 * 32 + j) * 10 + valid)
    assert list(run(device, body, 64)) == want


def test_votes_and_matches(device):
    body = """
        and.b32 %r1, %r0, 3;
        setp.eq.u32 %p1, %r1, 0;
        vote.sync.ballot.b32 %r2, %p1, -1;
        vote.sync.any.pred %p2, %p1, -1;
        vote.sync.all.pred %p3, !%p1, -1;
        match.any.sync.b32 %r3, %r1, -1;
        activemask.b32 %r4;
        xor.b32 %r5, %r2, %r3;
        @%p2 xor.b32 %r5, %r5, %r4;
        @%p3 mov.u32 %r5, 77;
        st.global.u32 [%rd1], %r5;
    """
    four = 0x11111111
    want = [four ^ (four << i % 4) ^ 0xFFFFFFFF for i in range(32)]
    assert list(run(device, body, 32)) == [x & 0xFFFFFFFF for x in want]


def test_activemask_of_a_part(device):
    body = """
        setp.lt.u32 %p1, %r0, 10;
        @!%p1 bra done;
        activemask.b32 %r1;
        st.global.u32 [%rd1], %r1;
    done:
    """
    assert list(run(device, body, 12)) == [0x3FF] * 10 + [0] * 2


def test_shared_memory_and_barriers(device):
    """A sum by halves, as ggml's block reductions: half the lanes work between barriers."""
    body = """
        cvt.u64.u32 %rd2, %r0;
        mov.u64 %rd3, data;
        mad.lo.u64 %rd4, %rd2, 4, %rd3;
        st.shared.u32 [%rd4], %r0;
        mov.u32 %r1, 128;
    loop:
        bar.sync 0;
        setp.ge.u32 %p1, %r0, %r1;
        @%p1 bra skip;
        mul.wide.u32 %rd5, %r1, 4;
        add.u64 %rd5, %rd5, %rd4;
        ld.shared.u32 %r2, [%rd5];
        ld.shared.u32 %r3, [%rd4];
        add.u32 %r3, %r2, %r3;
        st.shared.u32 [%rd4], %r3;
    skip:
        shr.u32 %r1, %r1, 1;
        setp.ne.u32 %p2, %r1, 0;
        @%p2 bra loop;
        bar.sync 0;
        ld.shared.u32 %r4, [data];
        st.global.u32 [%rd1], %r4;
    """
    head = ".shared .align 4 .b8 data[1024];"
    assert set(run(device, body, 256, head=head)) == {256 * 255 // 2}


def test_dynamic_shared_memory_follows_the_static_one(device):
    head = """
        .extern .shared .align 16 .b8 dynamic[];
        .shared .align 4 .b8 fixed[20];
    """
    body = """
        mov.u32 %r1, dynamic;
        mov.u32 %r2, fixed;
        st.shared.u32 [fixed+16], 1;
        st.shared.u32 [dynamic+60], %r1;
        ld.shared.u32 %r3, [dynamic+60];
        mov.u32 %r4, %total_smem_size;
        mad.lo.u32 %r3, %r3, 1000, %r4;
        st.global.u32 [%rd1], %r3;
    """
    assert list(run(device, body, 1, head=head, shared=64)) == [32 * 1000 + 96]
    with pytest.raises(PtxError, match="at 0x5c of 92 bytes of shared") as fault:
        run(device, body, 1, head=head, shared=60)
    assert fault.value.code == 700


def test_barrier_reductions_from_different_places(device):
    body = """
        and.b32 %r1, %r0, 1;
        setp.eq.u32 %p1, %r1, 0;
        setp.lt.u32 %p2, %r0, 100;
        @%p1 bra even;
        bar.red.popc.u32 %r2, 0, %p2;
        bra.uni out;
    even:
        bar.red.popc.u32 %r2, 0, %p2;
        add.u32 %r2, %r2, 1000;
    out:
        bar.red.and.pred %p3, 1, %p2;
        bar.red.or.pred %p4, 1, !%p2;
        @%p3 add.u32 %r2, %r2, 5000;
        @%p4 add.u32 %r2, %r2, 7000;
        st.global.u32 [%rd1], %r2;
    """
    assert list(run(device, body, 128)) == [8100, 7100] * 64


def test_barriers_of_some_threads(device):
    body = """
        setp.ge.u32 %p1, %r0, 64;
        @%p1 bra rest;
        bar.sync 1, 64;
        mov.u32 %r1, 1;
        bra.uni out;
    rest:
        bar.sync 2, 64;
        mov.u32 %r1, 2;
    out:
        bar.sync 0;
        st.global.u32 [%rd1], %r1;
    """
    assert list(run(device, body, 128)) == [1] * 64 + [2] * 64


def test_a_barrier_that_others_never_reach_is_a_fault(device):
    body = """
        setp.ge.u32 %p1, %r0, 64;
        @%p1 bra other;
        bar.sync 1;
        ret;
    other:
        bar.sync 2;
    """
    with pytest.raises(PtxError, match="barrier that other threads never reach") as fault:
        run(device, body, 128)
    assert fault.value.code == 719


def test_branches_by_table(device):
    body = """
        rem.u32 %r1, %r0, 3;
        brx.idx %r1, table;
        table: .branchtargets zero, one, two;
    zero:
        mov.u32 %r2, 100;
        bra.uni out;
    one:
        mov.u32 %r2, 200;
        bra.uni out;
    two:
        mov.u32 %r2, 300;
    out:
        st.global.u32 [%rd1], %r2;
    """
    assert list(run(device, body, 40)) == [(i % 3 + 1) * 100 for i in range(40)]


CALLS = """
    .func (.param .b32 result) square(.param .b32 x)
    {
        .reg .b32 %r<3>;
        ld.param.b32 %r1, [x];
        mul.lo.s32 %r2, %r1, %r1;
        st.param.b32 [result+0], %r2;
        ret;
    }
    .func (.param .b32 result) twice(.param .b32 x, .param .align 8 .b8 more[16])
    {
        .reg .b32 %r<9>;
        .reg .b64 %rd<3>;
        .reg .pred %p;
        ld.param.b32 %r1, [x];
        ld.param.u64 %rd1, [more+8];
        cvt.u32.u64 %r5, %rd1;
        and.b32 %r6, %r1, 1;
        setp.eq.u32 %p, %r6, 0;
        @%p bra even;
        st.param.b32 [result], %r5;
        ret;
    even:
        {
            .param .b32 param0;
            .param .b32 retval0;
            st.param.b32 [param0+0], %r1;
            call.uni (retval0), square, (param0);
            ld.param.b32 %r2, [retval0+0];
        }
        add.s32 %r3, %r2, %r2;
        st.param.b32 [result], %r3;
        ret;
    }
"""


def test_calls_of_functions(device):
    body = """
        {
            .param .b32 param0;
            .param .align 8 .b8 param1[16];
            .param .b32 retval0;
            st.param.b32 [param0+0], %r0;
            mov.u64 %rd3, 77;
            st.param.b64 [param1+8], %rd3;
            call.uni (retval0), twice, (param0, param1);
            ld.param.b32 %r1, [retval0+0];
        }
        st.global.u32 [%rd1], %r1;
    """
    want = [77 if i % 2 else 2 * i * i for i in range(50)]
    assert list(run(device, body, 50, head=CALLS)) == want


def test_functions_must_not_call_themselves(device):
    head = """
        .func other();
        .func again() { call other; ret; }
        .func other() { call again; ret; }
    """
    with pytest.raises(PtxError, match="call themselves"):
        run(device, "call again;", 1, head=head)


def test_local_memory(device):
    """Each thread has its own, in its own and in generic addresses."""
    body = """
        .local .align 8 .b8 depot[32];
        mov.u64 %rd2, depot;
        cvta.local.u64 %rd3, %rd2;
        st.u32 [%rd3+4], %r0;
        and.b32 %r1, %r0, 3;
        mad.wide.u32 %rd4, %r1, 4, %rd2;
        st.local.u32 [%rd4+16], %r0;
        ld.local.u32 %r2, [%rd2+4];
        cvta.to.local.u64 %rd5, %rd3;
        sub.u64 %rd5, %rd5, %rd2;
        cvt.u32.u64 %r3, %rd5;
        ld.u32 %r4, [%rd3+16];
        add.u32 %r2, %r2, %r3;
        isspacep.local %p1, %rd3;
        isspacep.global %p2, %rd1;
        and.pred %p1, %p1, %p2;
        @!%p1 mov.u32 %r2, 999;
        st.global.u32 [%rd1], %r2;
    """
    assert list(run(device, body, 70)) == list(range(70))
    with pytest.raises(PtxError, match=r"thread \(3,0,0\).*at 0x20 of 32 bytes of local") as fault:
        run(
            device,
            body.replace(
                "ld.local.u32 %r2, [%rd2+4]",
                "shl.b32 %r2, %r1, 2; cvt.u64.u32 %rd6, %r2; add.u64 %rd6, %rd6, %rd2; "
                "ld.local.u32 %r2, [%rd6+20]",
            ),
            70,
        )
    assert fault.value.code == 700


def test_a_parameter_by_its_address(device):
    module = device.load("""
        .visible .entry test(.param .align 8 .b8 what[24], .param .u64 out)
        {
            .reg .b64 %rd<9>;
            .reg .b32 %r<9>;
            mov.b64 %rd1, what;
            ld.param.u64 %rd2, [out];
            ld.param.u32 %r1, [%rd1+4];
            mov.u32 %r2, %tid.x;
            mad.wide.u32 %rd3, %r2, 4, %rd1;
            ld.param.u32 %r3, [%rd3+8];
            cvta.param.u64 %rd4, %rd1;
            ld.u32 %r4, [%rd4+20];
            add.u32 %r1, %r1, %r3;
            add.u32 %r1, %r1, %r4;
            mad.wide.u32 %rd5, %r2, 4, %rd2;
            st.global.u32 [%rd5], %r1;
        }
    """)
    words = np.array([1, 20, 300, 4000, 50000, 600000], np.uint32)
    out = device.alloc(8)
    module.kernel("test")(1, 2, words.tobytes(), out)
    assert list(device.get(out, np.uint32, 2)) == [600320, 604020]
    with pytest.raises(PtxError, match="of 32 bytes of parameter memory"):
        module.kernel("test")(1, 7, words.tobytes(), out)
    module.unload()


@pytest.mark.parametrize("machine_threads", [1, 2])
def test_atomics(device, machine_threads):
    body = """
        atom.global.add.u32 %r1, [%rd0], 1;
        red.global.max.s32 [%rd0+4], %r0;
        red.global.add.f32 [%rd0+8], 0f3F000000;
        atom.global.cas.b32 %r2, [%rd0+12], 0, 9;
        atom.global.inc.u32 %r3, [%rd0+16], 6;
        red.relaxed.gpu.global.or.b32 [%rd0+20], %r0;
        atom.global.exch.b32 %r4, [%rd0+24], 5;
        red.global.add.noftz.f16x2 [%rd0+28], %r9;
    """
    got = run(
        device,
        "mov.u32 %r9, 0x3c003800;\n" + body,
        100,
        words=8,
        blocks=7,
        machine_threads=machine_threads,
    )
    assert list(got[:2]) == [700, 99] and got[2:3].view(np.float32)[0] == 350
    assert list(got[3:7]) == [9, 0, 127, 5]
    assert list(got[7:8].view(np.float16)) == [350, 700]


def test_atomics_of_shared_memory_and_generic_addresses(device):
    body = """
        st.shared.u32 [data], 0;
        mov.u64 %rd2, data;
        cvta.shared.u64 %rd3, %rd2;
        bar.sync 0;
        atom.shared.add.u32 %r1, [data], 2;
        atom.add.u32 %r2, [%rd3], 1;
        bar.sync 0;
        ld.volatile.shared.u32 %r3, [data];
        st.global.u32 [%rd1], %r3;
    """
    head = ".shared .align 4 .b8 data[4];"
    assert list(run(device, body, 50, head=head)) == [150] * 50


def test_vectors_of_values(device):
    body = """
        shl.b32 %r1, %r0, 1;
        mad.wide.u32 %rd2, %r1, 8, %rd0;
        ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd2];
        add.u32 %r2, %r2, %r5;
        st.global.v2.u32 [%rd2+8], {%r2, 44};
        ld.global.v2.u64 {%rd2, %rd3}, [%rd2];
        cvt.u32.u64 %r6, %rd3;
        atom.global.add.u32 %r7, [%rd0], %r6;
    """
    got = run(device, body, 8, words=32, fill=3)
    assert got[0] == 3 + 6 * 8 and list(got[2:4]) == [6, 44] and list(got[6:8]) == [6, 44]


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ("trap;", 719, "trap"),
        ("mov.u32 %r1, 5; brx.idx %r1, t; t: .branchtargets a; a:", 719, "beyond its table"),
        ("st.shared.u32 [%rd1], 1;", 700, "of 0 bytes of shared memory"),
        ("ld.local.u32 %r1, [8];", 700, "of 0 bytes of local memory"),
        ("ld.global.u32 %r1, [%rd1+-4];", 700, "4 bytes before 4 bytes at"),
        ("atom.global.add.u32 %r1, [%rd1+4], 1;", 700, "changes 4 bytes"),
    ],
)
def test_faults(device, body, code, text):
    with pytest.raises(PtxError, match=r"test: block \(0,0,0\), thread \(0,0,0\)") as fault:
        run(device, body, 1)
    assert fault.value.code == code
    assert text in str(fault.value)


def c_string(name, text):
    codes = ", ".join(str(byte) for byte in [*text.encode(), 0])
    return f".global .align 1 .b8 {name}[{len(text) + 1}] = {{{codes}}};\n"


def test_a_failed_assertion_says_which(device):
    head = c_string("text", "n > 0") + c_string("file", "norm.cu")
    head += """.extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c,
        .param .b64 d, .param .b64 e) .noreturn;"""
    body = """
        setp.ne.u32 %p1, %r0, 33;
        @%p1 bra fine;
        {
            .param .b64 param0; .param .b64 param1; .param .b32 param2;
            .param .b64 param3; .param .b64 param4;
            mov.u64 %rd2, text;
            st.param.b64 [param0], %rd2;
            mov.u64 %rd3, file;
            st.param.b64 [param1], %rd3;
            st.param.b32 [param2], 42;
            call.uni __assertfail, (param0, param1, param2, param3, param4);
        }
    fine:
    """
    with pytest.raises(PtxError, match=r"thread \(33,0,0\).*n > 0 \(norm.cu:42\)") as fault:
        run(device, body, 64, head=head)
    assert fault.value.code == 710


def test_what_a_kernel_printed_is_in_its_fault(device):
    head = c_string("text", "%s: no code for %d\n") + c_string("name", "softmax")
    head += ".extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);"
    body = """
        .local .align 8 .b8 depot[16];
        mov.u64 %rd2, depot;
        cvta.local.u64 %rd3, %rd2;
        mov.u64 %rd4, name;
        st.u64 [%rd3], %rd4;
        st.u32 [%rd3+8], 610;
        {
            .param .b64 param0; .param .b64 param1; .param .b32 retval0;
            mov.u64 %rd5, text;
            st.param.b64 [param0], %rd5;
            st.param.b64 [param1], %rd3;
            call.uni (retval0), vprintf, (param0, param1);
        }
        trap;
    """
    with pytest.raises(PtxError, match="trap; it printed: softmax: no code for 610"):
        run(device, body, 1, head=head)


def test_threads_in_three_dimensions(device):
    module = device.load("""
        .visible .entry test(.param .u64 out)
        {
            .reg .b64 %rd<9>;
            .reg .b32 %r<20>;
            ld.param.u64 %rd1, [out];
            mov.u32 %r1, %ctaid.z;
            mov.u32 %r2, %nctaid.y;
            mov.u32 %r3, %ctaid.y;
            mad.lo.u32 %r1, %r1, %r2, %r3;
            mov.u32 %r2, %nctaid.x;
            mov.u32 %r3, %ctaid.x;
            mad.lo.u32 %r1, %r1, %r2, %r3;
            mov.u32 %r2, %ntid.z;
            mov.u32 %r3, %tid.z;
            mad.lo.u32 %r1, %r1, %r2, %r3;
            mov.u32 %r2, %ntid.y;
            mov.u32 %r3, %tid.y;
            mad.lo.u32 %r1, %r1, %r2, %r3;
            mov.u32 %r2, %ntid.x;
            mov.u32 %r3, %tid.x;
            mad.lo.u32 %r1, %r1, %r2, %r3;
            mad.wide.u32 %rd2, %r1, 4, %rd1;
            mov.u32 %r4, %laneid;
            mov.u32 %r5, %warpid;
            mad.lo.u32 %r4, %r5, 32, %r4;
            st.global.u32 [%rd2], %r4;
        }
    """)
    threads, blocks = 3 * 5 * 4, 2 * 3 * 2
    out = device.alloc(4 * threads * blocks)
    module.kernel("test")((2, 3, 2), (3, 5, 4), out, threads=2)
    assert list(device.get(out, np.uint32, threads * blocks)) == list(range(threads)) * blocks
    module.unload()
