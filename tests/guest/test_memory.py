"""Memory: small and large machines, running out of it, and getting it back."""

import ast
import hashlib
import random

import pytest
import requests
from cllm import reclaim

TIMEOUT = 120


def memory(guest):
    """(total, free, mapped) in bytes."""
    return ast.literal_eval(guest.serial.run("_x86.memory()"))


def prepare(guest):
    guest.serial.run("import _x86, gc")


@pytest.mark.parametrize("size", [72, 256, 3072, 12288])
def test_a_machine_of_any_size_serves(boot, tiny_model, size):
    guest = boot(model=str(tiny_model), memory=size)
    assert guest.verdict is None
    prepare(guest)
    total, free, _ = memory(guest)
    assert (size - 1) << 20 <= total <= size << 20
    # Image, heap, stack, model, and a part of all for page tables and the RAM file system.
    assert free > total - (70 << 20) - total // 200
    answer = requests.post(
        guest.url + "/v1/completions",
        timeout=TIMEOUT,
        json={"prompt": "Hello", "max_tokens": 4, "temperature": 0},
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("size", [(1 << 20) + 5, 3 << 20])
def test_a_large_file_is_mapped_to_its_last_byte(boot, tmp_path, size):
    content = random.Random(size).randbytes(size)
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    guest = boot(model=str(path))
    assert guest.mapped() and guest.verdict  # the file is no model
    guest.serial.run("import os, hashlib")
    assert guest.serial.run("os.stat('/boot/model.gguf')[6]") == str(size)
    assert "tail" not in guest.serial.run("os.listdir('/boot')")
    guest.serial.run("h = hashlib.sha256(open('/boot/model.gguf', 'rb').read())")
    assert guest.serial.run("h.digest().hex()") == f"'{hashlib.sha256(content).hexdigest()}'"


def test_six_gib_in_one_piece_of_twelve(boot):
    # QEMU takes from the host what the guest touches, and a large allocation is cleared.
    guest = boot(memory=12288)
    prepare(guest)
    guest.serial.run("a = bytearray(6 << 30)", timeout=TIMEOUT)
    assert guest.serial.run("a[0] = a[3 << 30] = a[-1] = 7") == ""
    sums = "a[0] + a[3 << 30] + a[(3 << 30) + 1] + a[-1]"
    assert guest.serial.run(sums + ", len(a) >> 30") == "(21, 6)"


FILL = """
a = [None] * 2000
n = 0
try:
    while True:
        a[n] = bytearray(n * 7919 % 200000)
        n += 1
except MemoryError:
    held = sum(len(x) for x in a[:n])
for i in range(0, n, 2):
    a[i] = None
gc.collect()
b = [bytearray(5000) for _ in range(n)]
print("held", held, "pieces", n)
del a, b
gc.collect()
"""


def test_python_that_runs_out_gets_memory_error_and_all_of_it_back(boot):
    guest = boot(memory=64)
    prepare(guest)
    guest.serial.run("gc.collect()")
    _, free, _ = memory(guest)
    assert "MemoryError" in guest.serial.run("a = bytearray(200 << 20)")
    # Pieces of many sizes until memory runs out, then small ones in the holes; twice, because a
    # leak of the first round would make the second one shorter.
    held = []
    for _ in range(2):
        guest.serial.send("\x05" + FILL.replace("\n", "\r") + "\x04")
        held.append(int(guest.serial.expect(r"held (\d+) pieces \d+\r\n", TIMEOUT).group(1)))
        guest.serial.expect(">>> ")
    assert held[0] > free // 2 and held[1] > held[0] * 0.9
    assert requests.get(guest.url + "/health", timeout=TIMEOUT).status_code == 503


@pytest.mark.usefixtures("selftest")
def test_unmapped_memory_can_be_mapped_again(boot):
    # The stress test maps, fills, compares and unmaps all the time, from all cores.
    guest = boot(memory=64, smp=2)
    prepare(guest)
    _, _, before = memory(guest)
    for _ in range(3):
        result = ast.literal_eval(guest.serial.run("_x86.stress(16, 1500)", timeout=TIMEOUT))
        assert result["error"] is None and result["maps"] > 0
    assert memory(guest)[2] <= before + (256 << 10)


def resident(guest, kind="VmRSS"):
    """Return the MiB of the host's memory that QEMU holds. kind: a field of proc_pid_status(5)."""
    with open(f"/proc/{guest.pid}/status") as status:
        (kib,) = [line.split()[1] for line in status if line.startswith(kind + ":")]
    return int(kib) >> 10


def test_what_is_never_used_takes_none_of_the_hosts_memory(boot, tiny_model):
    # 128 MiB of KV cache, 16 of RAM disk.
    guest = boot(model=str(tiny_model), memory=1024, config_json={"model": {"n_ctx": 1 << 18}})
    assert guest.verdict is None
    answer = requests.post(
        guest.url + "/v1/completions",
        timeout=TIMEOUT,
        json={"prompt": "Hello", "max_tokens": 4, "temperature": 0},
    )
    assert answer.status_code == 200
    used = resident(guest)
    assert used < 128
    prepare(guest)
    assert memory(guest)[2] > 144 << 20
    # A file takes its own size of memory, not that of the disk.
    guest.serial.run("f = open('/some', 'wb')")
    for _ in range(4):
        guest.serial.run("_ = f.write(bytes(range(256)) * 1024)", timeout=TIMEOUT)
    guest.serial.run("f.close()")
    guest.serial.run("f = open('/some', 'rb').read()")
    assert guest.serial.run("len(f), f == bytes(range(256)) * 4096") == "(1048576, True)"
    assert resident(guest) - used < 12


def test_the_original_of_repacked_weights_is_given_back(boot, private_smollm2):
    def complete():
        answer = requests.post(
            guest.url + "/v1/completions",
            timeout=TIMEOUT,
            json={"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0},
        )
        return answer.json()["choices"][0]["text"]

    guest = boot(model=str(private_smollm2), kernels="tcg")
    assert guest.verdict is None
    size = private_smollm2.stat().st_size >> 20
    assert resident(guest, "RssFile") > size
    text = complete()
    assert text.startswith(" Paris")
    if not reclaim.drop(guest.pid, private_smollm2):
        pytest.skip("the kernel refuses process_madvise(2): it takes Linux 5.10 and CAP_SYS_NICE")
    # QEMU's own code and libraries take 25; embeddings come back as they are used.
    assert resident(guest, "RssFile") < size // 2
    assert complete() == text
    assert resident(guest, "RssFile") < size // 2
    # The model is loaded, and so repacked, from the file again.
    guest.serial.send("\x04")
    guest.serial.expect("MPY: soft reboot")
    guest.serial.expect("is ready")
    assert complete() == text
