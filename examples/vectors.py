"""Adds two vectors on a GPU, or on the interpreter that stands in for one.

cllm run --gpu ptx --app examples/vectors.py
curl http://127.0.0.1:8080/add -d '{"a": [1, 2, 3], "b": [10, 20, 30]}'
"""
# SPDX-License-Identifier: MIT

import asyncio
from array import array

import gpu
from cllm import app
from httpd import HttpError

PTX = """
.version 6.4
.target sm_61
.address_size 64

.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 sum, .param .u32 n)
{
    .reg .pred %out;
    .reg .b32 %block, %width, %i, %n;
    .reg .f32 %x, %y;
    .reg .b64 %a, %b, %sum, %at;

    mov.u32 %block, %ctaid.x;
    mov.u32 %width, %ntid.x;
    mov.u32 %i, %tid.x;
    mad.lo.s32 %i, %block, %width, %i;
    ld.param.u32 %n, [n];
    setp.ge.u32 %out, %i, %n;
    @%out bra DONE;

    ld.param.u64 %a, [a];
    ld.param.u64 %b, [b];
    ld.param.u64 %sum, [sum];
    mul.wide.u32 %at, %i, 4;
    add.s64 %a, %a, %at;
    add.s64 %b, %b, %at;
    add.s64 %sum, %sum, %at;
    ld.global.f32 %x, [%a];
    ld.global.f32 %y, [%b];
    add.f32 %x, %x, %y;
    st.global.f32 [%sum], %x;
DONE:
    ret;
}
"""
BLOCK = 128  # threads


async def added(a, b):
    """Return the sum of two arrays of floats."""
    kernel = gpu.load(PTX).kernel("add")
    size = 4 * len(a)
    with gpu.alloc(size) as x, gpu.alloc(size) as y:
        gpu.copy(x, a)
        gpu.copy(y, b)
        gpu.launch(kernel, (len(a) + BLOCK - 1) // BLOCK, BLOCK, x, y, x, len(a))
        while not gpu.ready():
            await asyncio.sleep_ms(1)
        total = array("f", bytes(size))
        gpu.copy(total, x)
    return total


@app.post("/add")
async def add(request):
    body = request.json()
    a, b = array("f", body["a"]), array("f", body["b"])
    if len(a) != len(b) or not a:
        raise HttpError(400, "a and b must be of one length")
    try:
        return {"sum": list(await added(a, b))}
    except gpu.Error as error:
        raise HttpError(503, error.args[1])
