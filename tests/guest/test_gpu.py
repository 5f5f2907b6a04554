"""The module gpu in a guest, with gpud's interpreter in place of a card."""

import ast
import time

import pytest
import requests
from cllm import TOP, gpud

EXAMPLE = TOP / "examples" / "vectors.py"
MIB = 1 << 20
LOST_SECONDS = 6

# Counts up to n in every thread.
SPIN = """
.version 6.4
.target sm_61
.address_size 64
.visible .entry spin(.param .u32 n)
{
    .reg .pred %more;
    .reg .b32 %i, %n;
    ld.param.u32 %n, [n];
    mov.u32 %i, 0;
LOOP:
    add.s32 %i, %i, 1;
    setp.lt.u32 %more, %i, %n;
    @%more bra LOOP;
    ret;
}
"""
SETUP = """\
import gpu, time
from array import array
spin = gpu.load(SPIN).kernel('spin')
def load():
    return gpu.load(PTX).kernel('add')
def total(kernel, n, threads=None):
    with gpu.alloc(4 * n) as x, gpu.alloc(4 * n) as y:
        gpu.copy(x, array('f', range(n)))
        gpu.copy(y, array('f', [0.5] * n))
        gpu.launch(kernel, ((threads or n) + 63) // 64, 64, x, y, x, threads or n)
        out = array('f', bytes(4 * n))
        gpu.copy(out, x)
    return bytes(out) == bytes(array('f', [i + 0.5 for i in range(n)]))
def fails(call, *args):
    try:
        call(*args)
    except gpu.Error as e:
        return e.code
    except Exception as e:
        return type(e).__name__
    return 0
add = load()
"""


def constant(path, name):
    """The value of a constant in a Python file."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(name)


def prepare(serial):
    """Run SETUP at the REPL."""
    text = f"PTX = {constant(EXAMPLE, 'PTX')!r}\nSPIN = {SPIN!r}\n{SETUP}"
    serial.send("\r\x05")
    serial.expect("=== ")
    serial.send(text.replace("\n", "\r") + "\x04")
    serial.expect(">>> ")
    return serial


@pytest.fixture(scope="module")
def machine(boot_once):
    guest = boot_once(gpu="ptx", gpu_memory=16, app=str(EXAMPLE))
    guest.serial.send("\r")
    guest.serial.expect(">>> ")
    return guest


@pytest.fixture
def repl(machine):
    """The serial line of the guest whose interpreter has run SETUP; ends with a soft reset."""
    yield prepare(machine.serial)
    machine.serial.send("\x04")
    machine.serial.booted()


def test_the_device(repl):
    assert repl.run("d = gpu.devices(); len(d)") == "1"
    assert repl.run(f"d[0].emulated, d[0].capability, d[0].memory == {16 * MIB}") == (
        "(True, (6, 1), True)"
    )
    assert repl.run("gpu.probe()") == "[]"


def test_vectors_are_added(repl):
    assert repl.run("add.name, add.parameters") == "('add', (8, 8, 8, 4))"
    assert repl.run("total(add, 1000)") == "True"
    assert repl.run("s = gpu.stats(); s['launches'] >= 1 and s['engine']") == "'ptx'"


def test_the_example_over_http(machine):
    body = {"a": list(range(1000)), "b": [1000 - i for i in range(1000)]}
    for _ in range(3):
        answer = requests.post(machine.url + "/add", json=body, timeout=60)
        assert answer.status_code == 200 and answer.json() == {"sum": [1000.0] * 1000}


def test_wrong_arguments_reach_no_kernel(repl):
    launches = repl.run("x = gpu.alloc(64); gpu.stats()['launches']")
    for arguments, error in {
        "add, 1, 1, x, x, x": "TypeError",
        "add, 1, 1, x, x, x, 1.5j": "TypeError",
        "add, 1, 1, x, x, x, 1 << 32": "TypeError",
        "add, 1, 1, x, x, 1, b'123'": "TypeError",
        "add, 0, 1, x, x, x, 1": "ValueError",
        "add, (1, 1, 1, 1), 1, x, x, x, 1": "ValueError",
        "spin, 1, 1, x": "TypeError",
        "5, 1, 1": "TypeError",
    }.items():
        assert repl.run(f"fails(gpu.launch, {arguments})") == f"'{error}'", arguments
    assert repl.run("fails(gpu.copy, x, bytes(65))") == "'ValueError'"
    assert repl.run("fails(gpu.copy, bytearray(3), bytes(3))") == "'TypeError'"
    assert repl.run("fails(gpu.copy, bytes(64), x)") == "'TypeError'"
    assert (
        repl.run("fails(gpu.alloc, 4, 1), fails(gpu.alloc, 0)") == "('ValueError', 'ValueError')"
    )
    assert repl.run("fails(gpu.load, 'no PTX')") == "200"
    assert repl.run("fails(gpu.load(PTX).kernel, 'sub')") == "'KeyError'"
    assert repl.run("x.close(); fails(gpu.copy, x, bytes(4))") == "'ValueError'"
    assert repl.run("gpu.stats()['launches']") == launches
    assert repl.run("total(add, 10)") == "True"


def test_copies_within_memory(repl):
    repl.run("x = gpu.alloc(100); b = bytearray(10)")
    repl.run("gpu.copy(x, bytes(range(100)))")
    repl.run("gpu.copy(x, x, 5, to_offset=90, from_offset=20)")
    repl.run("gpu.copy(b, x, 8, to_offset=1, from_offset=88)")
    assert repl.run("list(b)") == "[0, 88, 89, 20, 21, 22, 23, 24, 95, 0]"
    # More than fits in the ring, from the network's view in one piece.
    repl.run("y = gpu.alloc(3 << 20); big = bytes(range(256)) * (12 << 10); gpu.copy(y, big)")
    assert repl.run("back = bytearray(3 << 20); gpu.copy(back, y); back == big") == "True"


def test_the_quota(repl):
    assert repl.run(f"base = gpu.stats()['used']; fails(gpu.alloc, {17 * MIB})") == "'MemoryError'"
    text = repl.run("gpu.alloc(1 << 40)")
    assert "MemoryError" in text and str(1 << 40) in text and str(16 * MIB) in text
    repl.run(f"x = gpu.alloc({12 * MIB})")
    assert repl.run(f"gpu.stats()['used'] - base == {12 * MIB}") == "True"
    assert repl.run(f"fails(gpu.alloc, {12 * MIB})") == "'MemoryError'"
    assert repl.run("total(add, 1000)") == "True"
    # What nobody refers to any more is collected before an allocation fails.
    repl.run("x = None")
    assert repl.run(f"x = gpu.alloc({12 * MIB}); gpu.stats()['used'] - base == {12 * MIB}") == (
        "True"
    )


def test_a_soft_reset_frees_everything(machine):
    repl = prepare(machine.serial)
    repl.run(f"x = gpu.alloc({12 * MIB})")
    machine.serial.send("\x04")
    machine.serial.booted()
    assert repl.run("import gpu; gpu.stats()['used']") == "0"


def test_a_kernel_that_leaves_its_memory(repl):
    """The interpreter says which thread did; everything fails until a reset."""
    assert repl.run("fails(total, add, 64, 200)") == "700"
    text = repl.run("gpu.stats() and gpu.synchronize()")
    for word in ("Error", "700", "add", "block", "thread"):
        assert word in text, text
    assert repl.run("fails(gpu.alloc, 4)") == "700"
    assert repl.run("gpu.reset(); fails(total, add, 64)") == "'ValueError'"
    assert repl.run("add = load(); total(add, 64)") == "True"
    assert repl.run("gpu.stats()['used'] < 1000") == "True"


def test_callbacks_and_requests_while_a_kernel_runs(repl, machine):
    repl.run("import machine; ticks = 0; timer = machine.Timer(-1); turns = 300000")
    repl.sendline("def tick(_):\r global ticks; ticks += 1\r\r\r")
    repl.sendline("def run():\r gpu.launch(spin, 1, 1, turns)\r\r\r")
    repl.run("timer.init(period=10, callback=tick)")
    # As long as the computer needs to count for a second or so.
    took = "(lambda t: (run(), gpu.synchronize(), time.ticks_diff(time.ticks_ms(), t))[2])"
    while int(repl.run(f"{took}(time.ticks_ms())")) < 1000:
        repl.run("turns *= 2")
    assert repl.run(f"ticks = 0; t = {took}(time.ticks_ms()); ticks >= 20") == "True"
    # A prompt comes back after the launch, and the server answers while the kernel runs.
    assert repl.run("run(); gpu.ready()") == "False"
    assert requests.get(machine.url + "/health", timeout=60).status_code == 503  # no model
    assert repl.run("gpu.synchronize(); gpu.ready()") == "True"
    # A callback that uses the module while it waits is refused.
    repl.run("told = []; timer.init(period=10, callback=lambda _: told.append(fails(gpu.stats)))")
    repl.run("run(); gpu.synchronize(); timer.deinit()")
    assert repl.run("'ValueError' in told") == "True"


def test_ctrl_c_ends_the_wait(repl):
    repl.run("gpu.launch(spin, 1, 1, 0xffffffff)")
    repl.sendline("gpu.synchronize()")
    time.sleep(1)
    repl.send("\x03")
    repl.expect("KeyboardInterrupt", 10)
    repl.expect(">>> ")
    # The kernel still runs, and does not hold up a reset.
    assert repl.run("gpu.reset(); add = load(); total(add, 10)", 10) == "True"


@pytest.fixture(scope="module")
def daemon():
    with gpud.Daemon(memory=8, upload=True, time_limit=3, program=gpud.build()) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def pair(boot_once, daemon):
    """Two guests on one gpud: their serial lines."""
    guests = [boot_once(gpu_socket=daemon.socket) for _ in range(2)]
    for guest in guests:
        guest.serial.send("\r")
        guest.serial.expect(">>> ")
    return guests


def test_two_guests_have_their_own_memory_and_failures(pair):
    one, other = (prepare(guest.serial) for guest in pair)
    one.run(f"x = gpu.alloc({6 * MIB}); y = gpu.alloc(1024)")
    assert other.run(f"x = gpu.alloc({6 * MIB}); total(add, 1000)") == "True"
    assert other.run(f"fails(gpu.alloc, {3 * MIB})") == "'MemoryError'"
    assert one.run("fails(total, add, 64, 200)") == "700"
    assert other.run("total(add, 1000)") == "True"
    assert one.run("gpu.reset(); add = load(); total(add, 1000)") == "True"
    assert other.run("total(add, 1000)") == "True"


def test_a_kernel_that_takes_too_long_is_ended(pair):
    one, other = (prepare(guest.serial) for guest in pair)
    one.run("gpu.reset(); spin = gpu.load(SPIN).kernel('spin'); add = load()")
    one.run("gpu.launch(spin, 1, 1, 0xffffffff)")
    text = one.run("gpu.synchronize()")
    assert "spin" in text and "3 s" in text
    assert other.run("total(add, 100)") == "True"
    assert one.run("gpu.reset(); add = load(); total(add, 100)") == "True"


def test_a_gpud_that_dies_is_noticed_and_a_new_one_is_found(pair, daemon):
    one, other = (prepare(guest.serial) for guest in pair)
    assert one.run("gpu.reset(); add = load(); total(add, 100)") == "True"
    daemon.kill()
    began = time.monotonic()
    while one.run("fails(gpu.alloc, 4)") != "46":
        assert time.monotonic() < began + LOST_SECONDS
    assert time.monotonic() < began + LOST_SECONDS
    assert requests.get(pair[0].url + "/health", timeout=60).status_code == 503  # no model
    assert one.run("fails(gpu.reset), fails(gpu.synchronize)") == "(46, 46)"
    daemon.start()
    assert one.run("fails(gpu.alloc, 4)") == "46"
    assert one.run("gpu.reset(); add = load(); total(add, 100)") == "True"
    # It stood still for the other one too, which did not look meanwhile.
    assert other.run("fails(gpu.alloc, 4)") == "46"
    assert other.run("gpu.reset(); add = load(); total(add, 100)") == "True"


def test_without_a_gpu(guest):
    serial = guest.serial
    serial.send("\r")
    serial.expect(">>> ")
    assert serial.run("import gpu; gpu.devices()") == "[]"
    text = serial.run("gpu.alloc(4)")
    assert "Error: (100" in text and "--gpu" in text
