"""Kernels for tests of single PTX instructions: arrays in, one instruction, an array out."""

import numpy as np

# Type suffix: (register class, type in memory).
CLASSES = {
    "pred": ("pred", "u8"),
    "b8": ("b16", "u8"),
    "u8": ("b16", "u8"),
    "s8": ("b16", "s8"),
    "16": ("b16", "u16"),
    "32": ("b32", "u32"),
    "64": ("b64", "u64"),
}


def register_class(suffix):
    if suffix in CLASSES:
        return CLASSES[suffix]
    bits = "32" if suffix.endswith("x2") else suffix.lstrip("bfus")
    return CLASSES[bits]


def source(instruction, types, result):
    """Return PTX that runs an instruction on arrays a, b, ... of types into d.

    instruction: with {d}, {a}, {b}, ... for operands.
    """
    names = "abcdefgh"
    size = {"u8": 1, "s8": 1, "u16": 2, "u32": 4, "u64": 8}
    lines = [".reg .b64 %at<20>;", ".reg .b32 %i;", ".reg .b16 %byte;"]
    lines += ["mov.u32 %i, %tid.x;", "mad.lo.u32 %i, %ctaid.x, %ntid.x, %i;"]
    # mad's operands cannot be two special registers in one line on a card, but here they can.
    parameters = [f".param .u64 p_{k}" for k in range(len(types) + 1)]
    operands = {}
    for k, kind in enumerate([*types, result]):
        register, memory = register_class(kind)
        name = "%out" if k == len(types) else f"%in{k}"
        operands["d" if k == len(types) else names[k]] = name
        lines.append(f".reg .{register} {name};")
        lines.append(f"ld.param.u64 %at{k}, [p_{k}];")
        lines.append(f"mad.wide.u32 %at{k}, %i, {size[memory]}, %at{k};")
        if k == len(types):
            continue
        if kind == "pred":
            lines.append(f"ld.global.u8 %byte, [%at{k}];")
            lines.append(f"setp.ne.u16 {name}, %byte, 0;")
        else:
            lines.append(f"ld.global.{memory} {name}, [%at{k}];")
    lines.append(instruction.format(**operands))
    last = len(types)
    memory = register_class(result)[1]
    if result == "pred":
        lines += ["selp.u16 %byte, 1, 0, %out;", f"st.global.u8 [%at{last}], %byte;"]
    else:
        lines.append(f"st.global.{memory} [%at{last}], %out;")
    body = "\n    ".join([*lines, "ret;"])
    return f".visible .entry test({', '.join(parameters)})\n{{\n    {body}\n}}\n"


def apply(device, instruction, arrays, types, result, dtype):
    """Run an instruction over arrays of equal length; return the result as an array of dtype."""
    n = len(arrays[0])
    module = device.load(source(instruction, types, result))
    addresses = [device.put(array) for array in arrays]
    out = device.alloc(n * np.dtype(dtype).itemsize)
    block = 96 if n % 96 == 0 else n
    module.kernel("test")(n // block, block, *addresses, out)
    got = device.get(out, dtype, n)
    for address in [*addresses, out]:
        device.lib.ptx_free(device.state, address)
    module.unload()
    return got
