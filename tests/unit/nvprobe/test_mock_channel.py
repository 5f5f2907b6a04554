"""From push buffers to results: what native/nvprobe writes launches kernels of the interpreter.

The mock channel reads the ring, the methods and the metadata; where a card's processors would run
machine code at the program's address, the interpreter runs the kernel that stands for it.
"""

import struct

import numpy as np
import pytest
from cllm import build
from qmd import OF_GENERATION
from support import ptx_library
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


class Card:
    """The card's memory and processors, in the interpreter; the kernels' addresses are made up."""

    def __init__(self):
        self.device = ptx_library.Device(1 << 24)
        self.module = self.device.load(PTX)
        self.kernels = {
            PROGRAM: self.module.kernel("scale"),
            PROGRAM + 0x100: self.module.kernel("mirror"),
        }
        self.parameters = None  # where they are in constant bank 0

    def close(self):
        self.module.unload()
        self.device.close()

    def read(self, address, count):
        return self.device.get(address, np.float32, count)

    def run(self, launch):
        kernel = self.kernels[launch["program"]]
        values = [
            launch["constants"][self.parameters + offset :][:size]
            for offset, size in kernel.parameters
        ]
        kernel(launch["grid"], launch["block"], *values, shared=launch["shared"])


@pytest.fixture(scope="module")
def library():
    build.build_ptx()


@pytest.fixture
def card(library):
    made = Card()
    yield made
    made.close()


@pytest.mark.parametrize("generation", OF_GENERATION)
def test_kernels_that_a_push_buffer_launches(native, card, generation):
    """Two kernels, the second one after a semaphore that the first one's metadata release."""
    writer = Writer(native, generation, card.run)
    card.parameters = writer.lib.nvprobe_qmd_layout(writer.number).parameters
    values = np.arange(1000, dtype=np.float32)
    scaled = values * np.float32(3) + np.arange(1000, dtype=np.float32)
    data = card.device.put(values)
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
    data = card.device.put(np.ones(32, np.float32))
    writer.begin()
    writer.lib.nvprobe_push_acquire(writer.push, writer.number, SEMAPHORE, 1)
    writer.launch(struct.pack("<QfI", data, 2.0, 32))
    assert writer.submit() is False and (card.read(data, 32) == 1).all()
    writer.channel.write(SEMAPHORE, struct.pack("<I", 1))
    assert writer.channel.go()
    assert (card.read(data, 32) == 2 + np.arange(32, dtype=np.float32)).all()
