"""From push buffers to results: what native/nvprobe writes launches kernels of the interpreter.

The mock channel reads the ring, the methods and the metadata; where a card's processors would run
machine code at the program's address, the interpreter runs the kernel that stands for it.
"""

import struct

import cffi
import numpy as np
import pytest
from cllm import build
from qmd import OF_GENERATION
from test_push import PROGRAM, SEMAPHORE, Writer

PTX = """
.version 6.4
.target sm_61
.address_size 64

// data[i] = data[i] * factor + i
.visible .entry scale(.param .u64 data, .param .f32 factor, .param .u32 n)
{
    .reg .pred %out;
    .reg .b32 %block, %width, %i, %n;
    .reg .f32 %x, %f, %c;
    .reg .b64 %at;
    mov.u32 %block, %ctaid.x;
    mov.u32 %width, %ntid.x;
    mov.u32 %i, %tid.x;
    mad.lo.s32 %i, %block, %width, %i;
    ld.param.u32 %n, [n];
    setp.ge.u32 %out, %i, %n;
    @%out bra DONE;
    ld.param.u64 %at, [data];
    mad.wide.u32 %at, %i, 4, %at;
    ld.param.f32 %f, [factor];
    ld.global.f32 %x, [%at];
    cvt.rn.f32.u32 %c, %i;
    fma.rn.f32 %x, %x, %f, %c;
    st.global.f32 [%at], %x;
DONE:
    ret;
}

// data[block * width + i] becomes its mirror image within the block, through shared memory.
.extern .shared .align 4 .b8 buffer[];
.visible .entry mirror(.param .u64 data)
{
    .reg .b32 %block, %width, %i, %x, %from, %buffer;
    .reg .b64 %at;
    mov.u32 %block, %ctaid.x;
    mov.u32 %width, %ntid.x;
    mov.u32 %i, %tid.x;
    mad.lo.s32 %from, %block, %width, %i;
    ld.param.u64 %at, [data];
    mad.wide.u32 %at, %from, 4, %at;
    ld.global.u32 %x, [%at];
    mov.u32 %buffer, buffer;
    mad.lo.u32 %from, %i, 4, %buffer;
    st.shared.u32 [%from], %x;
    bar.sync 0;
    sub.u32 %from, %width, %i;
    sub.u32 %from, %from, 1;
    mad.lo.u32 %from, %from, 4, %buffer;
    ld.shared.u32 %x, [%from];
    st.global.u32 [%at], %x;
    ret;
}
"""
API = """
void *ptx_open(uint64_t quota);
void ptx_close(void *s);
const char *ptx_error(void *s);
uint64_t ptx_alloc(void *s, uint64_t bytes);
void ptx_write(uint64_t address, const void *from, uint64_t bytes);
void ptx_read(uint64_t address, void *to, uint64_t bytes);
void *ptx_load(void *s, const char *text, uint64_t bytes);
void ptx_unload(void *m);
const void *ptx_kernel(void *s, void *m, const char *name);
void ptx_describe(const void *k, uint32_t out[5]);
int ptx_run(void *s, const void *k, const uint32_t dims[6], uint32_t shared,
    const void *parameters, unsigned threads, int cooperative);
"""


class Card:
    """The card's memory and processors, in the interpreter; the kernels' addresses are made up."""

    def __init__(self, ffi, so):
        self.ffi, self.so = ffi, so
        self.state = so.ptx_open(1 << 24)
        self.module = so.ptx_load(self.state, PTX.encode(), len(PTX))
        assert self.module != ffi.NULL, ffi.string(so.ptx_error(self.state))
        self.kernels = {PROGRAM: self.kernel(b"scale"), PROGRAM + 0x100: self.kernel(b"mirror")}
        self.parameters = None  # where they are in constant bank 0

    def kernel(self, name):
        found = self.so.ptx_kernel(self.state, self.module, name)
        assert found != self.ffi.NULL, self.ffi.string(self.so.ptx_error(self.state))
        return found

    def close(self):
        self.so.ptx_unload(self.module)
        self.so.ptx_close(self.state)

    def array(self, values):
        address = self.so.ptx_alloc(self.state, values.nbytes)
        assert address
        self.so.ptx_write(address, self.ffi.from_buffer(values), values.nbytes)
        return address

    def read(self, address, count):
        out = np.zeros(count, np.float32)
        self.so.ptx_read(address, self.ffi.from_buffer(out), out.nbytes)
        return out

    def run(self, launch):
        kernel = self.kernels[launch["program"]]
        facts = self.ffi.new("uint32_t[5]")
        self.so.ptx_describe(kernel, facts)
        parameters = launch["constants"][self.parameters : self.parameters + facts[1]]
        assert len(parameters) == facts[1]
        dims = self.ffi.new("uint32_t[6]", [*launch["grid"], *launch["block"]])
        code = self.so.ptx_run(self.state, kernel, dims, launch["shared"], parameters, 1, 0)
        assert code == 0, self.ffi.string(self.so.ptx_error(self.state))


@pytest.fixture(scope="module")
def library():
    ffi = cffi.FFI()
    ffi.cdef(API)
    return ffi, ffi.dlopen(str(build.build_ptx()))


@pytest.fixture
def card(library):
    made = Card(*library)
    yield made
    made.close()


@pytest.mark.parametrize("generation", OF_GENERATION)
def test_kernels_that_a_push_buffer_launches(native, card, generation):
    """Two kernels, the second one after a semaphore that the first one's metadata release."""
    writer = Writer(native, generation, card.run)
    card.parameters = writer.lib.nvprobe_qmd_layout(writer.number).parameters
    values = np.arange(1000, dtype=np.float32)
    scaled = values * np.float32(3) + np.arange(1000, dtype=np.float32)
    data = card.array(values)
    writer.begin()
    writer.launch(struct.pack("<QfI", data, 3.0, 1000), (8, 1, 1), (128, 1, 1), (SEMAPHORE, 7))
    writer.lib.nvprobe_push_acquire(writer.push, writer.number, SEMAPHORE, 7)
    writer.launch(
        struct.pack("<Q", data), (10, 1, 1), (100, 1, 1), shared=400, program=PROGRAM + 0x100
    )
    writer.lib.nvprobe_push_release(writer.push, writer.number, SEMAPHORE + 4, 99)
    assert writer.submit()
    expected = scaled.reshape(10, 100)[:, ::-1].reshape(-1)
    assert (card.read(data, 1000) == expected).all()
    assert writer.channel.launches == 2 and writer.channel.word(SEMAPHORE + 4) == 99


def test_nothing_runs_before_its_semaphore(native, card):
    writer = Writer(native, "AMPERE", card.run)
    card.parameters = writer.lib.nvprobe_qmd_layout(writer.number).parameters
    data = card.array(np.ones(32, np.float32))
    writer.begin()
    writer.lib.nvprobe_push_acquire(writer.push, writer.number, SEMAPHORE, 1)
    writer.launch(struct.pack("<QfI", data, 2.0, 32))
    assert writer.submit() is False and (card.read(data, 32) == 1).all()
    writer.channel.write(SEMAPHORE, struct.pack("<I", 1))
    assert writer.channel.go()
    assert (card.read(data, 32) == 2 + np.arange(32, dtype=np.float32)).all()
