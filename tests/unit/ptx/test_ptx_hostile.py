"""native/ptx: texts that are broken, huge or made to hurt give an error with its line."""

import random
import threading
import time

import numpy as np
import pytest
from support.ptx_kernels import source
from support.ptx_library import HEAD, Device, PtxError

KERNEL = (
    HEAD
    + """
.global .align 4 .b8 table[16] = {1, 2, 3, 4};
.shared .align 8 .b8 room[256];
.func (.param .b32 result) one(.param .b32 x)
{
    .reg .b32 %r<4>;
    ld.param.b32 %r1, [x];
    add.s32 %r2, %r1, 1;
    st.param.b32 [result], %r2;
    ret;
}
.visible .entry test(.param .u64 out, .param .align 8 .b8 more[16])
.maxntid 128, 1, 1
{
    .reg .pred %p<4>;
    .reg .b16 %h<4>;
    .reg .b32 %r<16>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<8>;
    .local .align 8 .b8 depot[32];
    ld.param.u64 %rd1, [out];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r1, %tid.x;
    mad.wide.u32 %rd2, %r1, 4, %rd1;
    mov.u64 %rd3, depot;
    mov.u64 %rd4, room;
    mov.u32 %r2, 5;
$loop:
    mad.lo.s32 %r3, %r2, 3, %r1;
    cvt.rn.f32.s32 %f1, %r3;
    fma.rn.ftz.f32 %f2, %f1, 0f3F800000, 0fBF000000;
    cvt.rzi.s16.f32 %h1, %f2;
    mov.b32 %r4, {%h1, %h1};
    st.local.v2.u32 [%rd3+8], {%r4, %r3};
    ld.local.u8 %r5, [%rd3+9];
    bar.sync 0;
    shfl.sync.bfly.b32 %r6|%p2, %r5, 1, 31, -1;
    selp.b32 %r7, %r6, %r5, %p2;
    st.shared.u32 [room+4], %r7;
    ld.shared.v2.u32 {%r8, %r9}, [%rd4];
    {
        .param .b32 param0;
        .param .b32 retval0;
        st.param.b32 [param0+0], %r9;
        call.uni (retval0), one, (param0);
        ld.param.b32 %r10, [retval0+0];
    }
    atom.shared.add.u32 %r11, [room], 1;
    and.b32 %r12, %r1, 1;
    brx.idx %r12, table_0;
table_0: .branchtargets $a, $b;
$a:
    add.s32 %r2, %r2, -1;
    bra.uni $next;
$b:
    add.s32 %r2, %r2, -2;
$next:
    setp.gt.s32 %p1, %r2, 0;
    @%p1 bra $loop;
    ld.global.u32 %r13, [table+4];
    @!%p1 st.global.u32 [%rd2], %r13;
    ret;
}
"""
)


@pytest.fixture(scope="module")
def device():
    """A device of its own, whose launches are stopped every 30 ms."""
    from support.ptx_library import LIBRARY

    if not LIBRARY.exists():
        pytest.skip(f"no {LIBRARY}")
    device = Device(64 << 20)
    done = threading.Event()

    def watch():
        while not done.wait(0.03):
            device.lib.ptx_stop(device.state, 1)

    thread = threading.Thread(target=watch)
    thread.start()
    yield device
    done.set()
    thread.join()
    device.close()


def try_text(device, text):
    """Load, decode and run; return "text", "fault" or "fine"."""
    try:
        module = device.load(text)
    except PtxError as error:
        assert "line " in str(error)
        return "text"
    out = device.put(np.zeros(64, np.uint32))
    outcome = "fine"
    for name in module.kernels():
        try:
            kernel = module.kernel(name)
            device.lib.ptx_stop(device.state, 0)
            kernel(1, 64, *[out, bytes(16)] if len(kernel.parameters) == 2 else ())
        except PtxError as error:
            assert error.code or "line " in str(error), error
            outcome = "fault" if error.code else "text"
        except AssertionError:
            if len(kernel.parameters) == 2:  # of other sizes now
                continue
            raise
    module.unload()
    device.lib.ptx_free(device.state, out)
    return outcome


def test_the_whole_kernel_runs(device):
    assert try_text(device, KERNEL) == "fine"


def mutations(seed):
    rng = random.Random(seed)
    words = KERNEL.split(" ")
    for _ in range(400):
        kind = rng.randrange(5)
        if kind == 0:  # bytes
            text = bytearray(KERNEL.encode())
            for _ in range(rng.randint(1, 4)):
                text[rng.randrange(len(text))] = rng.randrange(256)
            yield bytes(text)
        elif kind == 1:  # a piece is missing
            start = rng.randrange(len(KERNEL))
            yield (KERNEL[:start] + KERNEL[start + rng.randrange(40) :]).encode()
        elif kind == 2:  # words change places
            changed = list(words)
            for _ in range(rng.randint(1, 3)):
                a, b = rng.randrange(len(words)), rng.randrange(len(words))
                changed[a], changed[b] = changed[b], changed[a]
            yield " ".join(changed).encode()
        elif kind == 3:  # lines change places
            lines = KERNEL.split("\n")
            a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[a], lines[b] = lines[b], lines[a]
            yield "\n".join(lines).encode()
        else:  # numbers
            at = [i for i, c in enumerate(KERNEL) if c.isdigit()]
            i = rng.choice(at)
            number = rng.choice(["0", "7", "-1", "4096", "99999999", str(2**64), "0x7fffffffffff"])
            yield (KERNEL[:i] + number + KERNEL[i + 1 :]).encode()


@pytest.mark.parametrize("seed", range(4))
def test_mutated_texts(device, seed):
    seen = set()
    for text in mutations(seed):
        seen.add(try_text(device, text))
    assert seen == {"text", "fault", "fine"}


def test_truncated_texts(device):
    text = KERNEL.encode()
    for length in range(0, len(text) - 40, 7):
        assert try_text(device, text[:length]) in ("text", "fine")


BODY = HEAD + ".entry test() {{ {} }}"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 1000,
        b"\xff" * 1000,
        b"x" * (1 << 20),
        b"{" * (1 << 20),
        b'.version 8.5\n.section ."',
        HEAD + ".entry test() " + "{" * 100_000,
        BODY.format("{" * 1000 + "}" * 1000),
        BODY.format("{" * 1000),
        BODY.format("}"),
        BODY.format(".reg .b32 %r<99999999999>;"),
        BODY.format(".local .b8 x[99999999999999999999];"),
        BODY.format(".local .b8 x[65536][65536][65536];"),
        BODY.format(".local .b8 x[600000];"),
        BODY.format(".shared .b8 x[2000000];"),
        BODY.format(".reg .b32 %a; add.u32 %a, %a;"),
        BODY.format(".reg .b32 %a; add.u32 %a, %a, %a, %a;"),
        BODY.format(".reg .b32 %a; add.u64 %a, %a, %a;"),
        BODY.format(".reg .b32 %a; .reg .b64 %b; add.u32 %a, %b, %a;"),
        BODY.format(".reg .b32 %a; add.u32 %a, %a, %b;"),
        BODY.format(".reg .b32 %a; add.u32.funny %a, %a, %a;"),
        BODY.format(".reg .pred %a; add.u32 %a, %a, %a;"),
        BODY.format(".reg .b32 %a; mov.u32 %a, {{{{%a}}}};"),
        BODY.format(".reg .b32 %a; ld.global.u32 %a, [%a];"),
        BODY.format(".reg .b32 %a; ld.param.u32 %a, [nothing];"),
        BODY.format(".reg .b32 %a; mov.f32 %a, 0f12;"),
        BODY.format(".reg .b32 %a; mov.u32 %a, 0xzz;"),
        BODY.format(".reg .b8 %a;"),
        BODY.format("bra nowhere;"),
        BODY.format("a: a:"),
        BODY.format("frobnicate;"),
        BODY.format("call nothing;"),
        BODY.format("@%p bra a; a:"),
        BODY.format("mma.sync.aligned;"),
        HEAD + ".global .u32 x = nothing;",
        HEAD + ".global .u32 x[2] = {1, 2, 3};",
        HEAD + ".global .b8 x[999999999];",
        HEAD + ".global .align 3 .u32 x;",
        HEAD + ".entry test(.param .b8 x[99999]) { ret; }",
        HEAD + ".entry test() .maxntid 4096 { ret; }",
        HEAD + ".entry test(); .entry test() {} .entry test() {}",
        HEAD.replace("64", "32"),
        source("frob.u32 {d}, {a};", ["u32"], "u32"),
    ],
)
def test_texts_made_to_hurt(device, text):
    start = time.monotonic()
    with pytest.raises(PtxError, match=r"line \d+") as error:
        for name in (module := device.load(text)).kernels():
            module.kernel(name)
    assert error.value.code == 0
    assert len(str(error.value)) < 1000
    assert time.monotonic() - start < 2


def test_too_many_registers(device):
    lines = "".join(f"mov.u64 %r{i}, {i};" for i in range(40_000))
    with pytest.raises(PtxError, match="too many registers"):
        device.load(BODY.format(".reg .b64 %r<40000>;" + lines)).kernel("test")


def test_a_long_kernel_is_decoded_in_time(device):
    body = ".reg .b32 %r<9>;" + "add.u32 %r1, %r2, 7;\n" * 300_000
    start = time.process_time()
    module = device.load(BODY.format(body))
    kernel = module.kernel("test")
    device.lib.ptx_stop(device.state, 0)
    kernel(1, 1)
    module.unload()
    assert time.process_time() - start < 4


def test_a_failed_text_leaves_no_memory(device):
    before = device.lib.ptx_used(device.state)
    for text in (".global .b8 x[100]; nonsense", ".global .b8 x[100]; .global .u32 y = z;"):
        with pytest.raises(PtxError):
            device.load(text)
    assert device.lib.ptx_used(device.state) == before


def test_a_shared_variable_is_no_global(device):
    """A kernel of its name must not make its size memory of the device, from address 0 on."""
    module = device.load(HEAD + ".shared .b8 same[4294967295]; .visible .entry same() { ret; }")
    assert module.global_("same") is None


def test_lanes_beyond_the_block_have_no_local_memory(device):
    """ldmatrix takes rows' addresses of all lanes of a warp, those that no thread has too."""
    text = """.visible .entry test(.param .u32 only_write)
    {
        .reg .pred %p1; .reg .b32 %r<8>; .local .align 16 .b8 depot[4096];
        ld.param.u32 %r2, [only_write];
        setp.ne.u32 %p1, %r2, 0;
        mov.u32 %r1, %tid.x;
        mul.lo.u32 %r1, %r1, 4096;
        @%p1 bra $end;
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r3}, [%r1];
    $end:
        ret;
    }"""
    calm = Device(1 << 20)  # nobody stops its launches
    kernel = calm.load(HEAD + text).kernel("test")
    kernel(1, 32, np.uint32(1))  # leaves addresses in the registers of lanes 1 to 31
    with pytest.raises(PtxError, match="ldmatrix") as error:
        kernel(1, 1, np.uint32(0))
    calm.close()
    assert error.value.code == 700


def test_a_literal_beside_wider_registers(device):
    text = ".reg .b32 %r<2>; .reg .b64 %rd<2>; st.global.v2.f16 [%rd1], {%r1, 5};"
    with pytest.raises(PtxError, match="beside wider registers"):
        device.load(BODY.format(text)).kernel("test")
