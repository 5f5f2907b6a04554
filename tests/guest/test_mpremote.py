"""The real mpremote against a guest, over a pty: what any MicroPython board is handled with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cllm import console

MPREMOTE = Path(sys.executable).parent / "mpremote"


@pytest.fixture(scope="module")
def board(boot_once):
    """mpremote(*arguments) -> its standard output; a guest without a model at the other end."""
    guest = boot_once()
    pty = console.Pty(guest)
    pty.open()

    def mpremote(*arguments, status=0):
        done = subprocess.run(
            [MPREMOTE, "connect", pty.path, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    yield mpremote
    guest.stop()
    pty.close()


def test_exec_and_eval(board):
    assert board("exec", "print(6 * 7)") == "42\n"
    assert board("eval", "'a' * 3") == "aaa\n"


def test_an_exception_is_told_and_fails_the_command(board):
    assert "ZeroDivisionError" in board("exec", "1 // 0", status=1)


def test_run_a_script_of_the_host(board, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nfor i in range(3): print(sys.platform, i)\n")
    assert board("run", str(script)) == "cllm 0\ncllm 1\ncllm 2\n"


def test_files_go_to_the_ram_file_system_and_back_unchanged(board, tmp_path):
    there, back = tmp_path / "there.bin", tmp_path / "back.bin"
    there.write_bytes(os.urandom(40_000) + bytes(range(256)))
    board("fs", "cp", str(there), ":/data.bin")
    # Another command, so a soft reset lies between: the file outlives it.
    board("fs", "cp", ":/data.bin", str(back))
    assert back.read_bytes() == there.read_bytes()
    board("fs", "mkdir", ":/folder", "+", "fs", "cp", ":/data.bin", ":/folder/copy")
    assert "copy" in board("fs", "ls", ":/folder")
    assert "boot/" in board("fs", "ls", ":/")
    board("fs", "rm", "-r", ":/folder", "+", "fs", "rm", ":/data.bin")
    assert "data.bin" not in board("fs", "ls", ":/")


def test_a_module_on_the_ram_file_system_can_be_imported(board, tmp_path):
    module = tmp_path / "answer.py"
    module.write_text("value = 42\n")
    board("fs", "cp", str(module), ":/answer.py")
    assert board("exec", "import answer; print(answer.value)") == "42\n"
    board("fs", "rm", ":/answer.py")


def test_boot_py_runs_at_every_soft_reset(board, tmp_path):
    script = tmp_path / "boot.py"
    script.write_text("seen = 'by boot.py'\n")
    board("fs", "cp", str(script), ":/boot.py")
    assert board("exec", "print(seen)") == "by boot.py\n"
    board("fs", "rm", ":/boot.py")
    assert "NameError" in board("exec", "print(seen)", status=1)


def test_a_folder_of_the_host_can_be_mounted(board, tmp_path):
    (tmp_path / "mounted.py").write_text("def double(x): return x + x\n")
    (tmp_path / "text").write_text("line\n" * 2000)
    program = "import mounted; print(mounted.double('ab'), len(open('text').read()))"
    assert board("mount", str(tmp_path), "exec", program).splitlines()[-1] == "abab 10000"


def test_the_ram_file_system_says_when_it_is_full(board):
    program = (
        "import os\n"
        "size, free = os.statvfs('/')[1], os.statvfs('/')[3]\n"
        "block = bytes(65536)\n"
        "try:\n"
        "    with open('/big', 'wb') as f:\n"
        "        for _ in range(size * free // 65536 + 1): f.write(block)\n"
        "except OSError as e: print(e.errno == 28)\n"
        "os.remove('/big')\n"
        "print(os.statvfs('/')[3] == free)\n"
    )
    assert board("exec", program).split() == ["True", "True"]


def test_soft_resets_give_their_memory_back(board):
    read = "import _x86; print(_x86.memory()[1])"
    first = int(board("exec", read))
    for _ in range(3):
        last = int(board("exec", "x = bytearray(3_000_000); " + read))
        last = int(board("exec", read))
    assert first - last < 1 << 20
