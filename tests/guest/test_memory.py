"""Memory: small and large machines, running out of it, and getting it back."""

import ast

import pytest
import requests

TIMEOUT = 120


def memory(guest):
    """(total, free, mapped) in bytes."""
    return ast.literal_eval(guest.serial.run("_x86.memory()"))


def prepare(guest):
    guest.serial.run("import _x86, gc")


@pytest.mark.parametrize("size", [64, 256, 3072, 12288])
def test_a_machine_of_any_size_serves(boot, tiny_model, size):
    guest = boot(model=str(tiny_model), memory=size)
    assert guest.verdict is None
    prepare(guest)
    total, free, _ = memory(guest)
    assert (size - 1) << 20 <= total <= size << 20
    # Image, heap, stack, model, and a part of all for page tables and the RAM file system.
    assert free > total - (48 << 20) - total // 200
    answer = requests.post(
        guest.url + "/v1/completions", timeout=TIMEOUT,
        json={"prompt": "Hello", "max_tokens": 4, "temperature": 0},
    )
    assert answer.status_code == 200


def test_six_gib_in_one_piece_of_twelve(boot):
    # QEMU takes from the host what the guest touches, and a large allocation is cleared.
    guest = boot(memory=12288)
    prepare(guest)
    guest.serial.run("a = bytearray(6 << 30)", timeout=TIMEOUT)
    assert guest.serial.run("a[0] = a[3 << 30] = a[-1] = 7") == ""
    assert guest.serial.run("a[0] + a[3 << 30] + a[(3 << 30) + 1] + a[-1], len(a) >> 30") == "(21, 6)"


def test_python_that_runs_out_gets_memory_error_and_all_of_it_back(boot):
    guest = boot(memory=128)
    prepare(guest)
    guest.serial.run("gc.collect()")
    _, free, _ = memory(guest)
    assert "MemoryError" in guest.serial.run("a = bytearray(200 << 20)")
    # Many pieces of many sizes, until there is no more; then again, in the holes of the first.
    for _ in range(2):
        guest.serial.run("a = []")
        line = "while True: a.append(bytearray((len(a) * 7919) % 100000))"
        guest.serial.sendline(line)
        guest.serial.send("\r")
        guest.serial.expect("MemoryError", timeout=TIMEOUT)
        guest.serial.expect(">>> ")
        held = int(guest.serial.run("sum(len(x) for x in a)"))
        assert held > free // 2
        guest.serial.run("del a[::2]; gc.collect()")
        assert "MemoryError" not in guest.serial.run("b = [bytearray(5000) for _ in range(1000)]")
        guest.serial.run("del a, b; gc.collect()")
    assert memory(guest)[1] > free * 3 // 4
    assert requests.get(guest.url + "/health", timeout=TIMEOUT).status_code == 503


def test_unmapped_memory_can_be_mapped_again(boot):
    # The stress test maps, fills, compares and unmaps all the time, from all cores.
    guest = boot(memory=64, smp=2)
    prepare(guest)
    _, _, before = memory(guest)
    for _ in range(3):
        result = ast.literal_eval(guest.serial.run("_x86.stress(16, 1500)", timeout=TIMEOUT))
        assert result["error"] is None and result["maps"] > 0
    assert memory(guest)[2] <= before + (256 << 10)
