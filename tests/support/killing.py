"""Kills QEMU at random points while the guest writes to /flash.

    python -m support.killing [--rounds 200] [--disk virtio] [--seed 1]

One round: a guest boots, looks at two files, writes new ones without end, and is killed. `a` is
replaced by rename(), `b` is written in place. Each must be old or new, and no older than what the
guest had reported.
"""

import argparse
import random
import re
import tempfile
import threading
from pathlib import Path

from cllm.disks import Disk

from . import disk_images

APP = """
import os
def look(name):
    try:
        with open("/flash/" + name) as file:
            data = file.read()
    except OSError:
        return -1
    return int(data[:8]) if len(data) == 5600 and data == data[:8] * 700 else -2

a, b = look("a"), look("b")
print("found", a, b, "of", sorted(os.listdir("/flash")))
n = max(a, 0)
while True:
    n += 1
    text = "%08d" % n * 700
    with open("/flash/new", "w") as file:
        file.write(text)
    os.rename("/flash/new", "/flash/a")
    with open("/flash/b", "w") as file:
        file.write(text)
    print("wrote", n)
"""


class Rounds:
    """start: boots a guest with disk=, app=, wait=, as the fixture `boot` of tests/guest does."""

    def __init__(self, start, folder, kind, seed):
        self.start, self.kind, self.random = start, kind, random.Random(seed)
        self.image, self.app = folder / "killed.img", folder / "app.py"
        self.app.write_text(APP)
        disk_images.make(self.image, [("FLASH", "flash", 1 << 18)])
        self.written = 0

    def one(self):
        """Run a round; return its numbers as text."""
        guest = self.start(disk=[Disk(self.image, self.kind)], app=str(self.app), wait=False)
        found = guest.serial.expect(r"found (-?\d+) (-?\d+) of")
        a, b = int(found[1]), int(found[2])
        assert b"damaged" not in guest.log()
        if self.written:
            assert a >= self.written and a - 1 <= b <= a, (a, b, self.written)
        else:
            assert a in (-1, 1) and b in (-1, 1, 0), (a, b)
        guest.serial.expect(r"wrote \d+")
        # Another number of bytes on the disk each time: nothing here is synchronous.
        threading.Event().wait(self.random.uniform(0, 1))
        guest._process.kill()
        guest.ended.wait()
        # The last line may not have been sent whole.
        self.written = int(re.findall(rb"wrote (\d+)\r", guest.log())[-1])
        guest.stop()
        return f"found a {a} and b {b}; killed after {self.written}"


def main():
    from cllm import build, qemu

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--disk", default="virtio", help="virtio, nvme or ahci")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    def start(disk, app, wait):
        del wait
        guest = qemu.Guest(
            build.IMAGE.with_suffix(build.UNPACKED),
            port=qemu.free_port(),
            modules={"app.py": Path(app).read_bytes()},
            disks=disk,
        )
        guest.serial = Serial(guest)  # type: ignore[attr-defined]
        guest.start()
        return guest

    with tempfile.TemporaryDirectory(prefix="cllm-") as folder:
        rounds = Rounds(start, Path(folder), arguments.disk, arguments.seed)
        for number in range(arguments.rounds):
            print(f"{number + 1}: {rounds.one()}", flush=True)


class Serial:
    """Waits for a pattern on a guest's serial line."""

    def __init__(self, guest):
        self._guest = guest

    def expect(self, pattern, timeout=300):
        wanted = re.compile(pattern.encode())
        tries = threading.Event()
        for _ in range(timeout * 20):
            if found := wanted.search(self._guest.log()):
                return found
            assert not self._guest.ended.is_set(), self._guest.reason()
            tries.wait(0.05)
        raise AssertionError(f"no {pattern}: {self._guest.log()[-500:]!r}")


if __name__ == "__main__":
    main()
