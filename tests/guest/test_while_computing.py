"""What Python can do while the engine computes on a thread of its own."""

import pytest

SETUP = """\
import _engine, machine, time
tokens = [5 + i % 100 for i in range(256)]
batch = (tokens, list(range(256)), [0] * 256, [0] * 255 + [1])
ticks, told = 0, []
def tick(_):
    global ticks
    ticks += 1
def decode():
    e.clear()
    e.decode(*batch)
def come_back(_):
    try:
        e.decode([1], [999], [0], [1])
    except ValueError as exc:
        told.append(str(exc))
e = _engine.Engine("/boot/model.gguf", n_batch=256)
timer = machine.Timer(-1)
decode()
"""


@pytest.fixture(scope="module", params=[1, 2])
def repl(request, boot_once, tiny_model):
    """The serial line of a guest whose interpreter has run SETUP."""
    serial = boot_once(model=str(tiny_model), smp=request.param).serial
    serial.send("\r\x05")
    serial.expect("=== ")
    serial.send(SETUP.replace("\n", "\r") + "\x04")
    serial.expect(">>> ")
    return serial


def test_callbacks_run_in_the_middle_of_a_decode(repl):
    repl.run("timer.init(period=1, callback=tick)")
    assert int(repl.run("e.clear(); a = ticks; e.decode(*batch); ticks - a")) > 5
    repl.run("timer.deinit()")


def test_a_callback_cannot_use_the_engine_that_computes(repl):
    repl.run("timer.init(period=1, callback=come_back)")
    repl.run("decode(); timer.deinit()")
    assert repl.run("any(['the engine is busy' in text for text in told])") == "True"
    assert repl.run("e.seq_pos_max(0)") == "255"


def test_a_decode_in_two_parts(repl):
    """Python goes on while a batch is computed, and select() returns at its end."""
    repl.run("import select; p = select.poll(); p.register(e, select.POLLIN)")
    assert repl.run("e.clear(); e.start(*batch); a = p.poll(0); len(a)") == "0"
    assert "must be finished first" in repl.run("e.seq_pos_max(0)")
    assert "the engine is busy" in repl.run("e.decode(*batch)")
    assert repl.run("len(e.tokenize('Hello')) > 0") == "True"
    assert repl.run("a = p.poll(60000); a[0][1] == select.POLLIN") == "True"
    repl.run("e.finish()")
    assert repl.run("e.seq_pos_max(0)") == "255"
    assert "no batch was started" in repl.run("e.finish()")


def test_an_engine_that_computes_may_be_thrown_away(repl):
    repl.run("import gc; gone = _engine.Engine('/boot/model.gguf', n_batch=256)")
    repl.run("gone.start(*batch)")
    repl.run("gone = None; _ = gc.collect()")
    repl.run("x = [[i] for i in range(1000)]; _ = gc.collect()")
    repl.run("decode()")
    assert repl.run("e.seq_pos_max(0)") == "255"


def test_ctrl_c_ends_a_decode_and_nothing_of_it_stays(repl):
    repl.sendline("while True: print(end='+'); decode()")
    repl.send("\r")
    repl.expect(r"\+\+")
    repl.send("\x03")
    repl.expect("KeyboardInterrupt")
    repl.expect(">>> ")
    assert repl.run("decode(); e.seq_pos_max(0)") == "255"


def test_an_assertion_of_llama_cpp_is_an_error(repl):
    """An end of text in the middle of a grammar makes llama.cpp abort."""
    repl.run("s = e.sampler({'grammar': 'root ::= \"ab\"'})")
    assert "Assertion" in repl.run("s.accept(2, False)")
    assert "failed before" in repl.run("s.accept(2, False)")
    repl.run("s.close(); decode()")
    assert repl.run("e.seq_pos_max(0)") == "255"


def test_what_poll_raises_comes_out_of_decode(repl):
    repl.run("calls = []")
    repl.run("p = _engine.Engine('/boot/model.gguf', n_batch=256, poll=lambda: calls.append(1))")
    repl.run("p.decode(*batch)")
    assert int(repl.run("len(calls)")) >= 2  # before, and when it was done or woken
    repl.run("q = _engine.Engine('/boot/model.gguf', poll=lambda: 1 // 0)")
    assert "ZeroDivisionError" in repl.run("q.decode([5], [0], [0], [1])")
    assert repl.run("q.seq_pos_max(0)") == "-1"
    repl.run("p.close(); q.close()")
