"""What befalls a machine from outside: a cable pulled, a reset, a long stop, a state put back."""

import time

import pytest
import requests
from support.qemu_monitor import Monitor

STOP_S = 30
# frozen/boot/wallclock.py looks at the CMOS clock every 10 s.
LOOK_S = 15


def create(monitor, **options):
    """QEMU's blockdev-create, and wait for it."""
    monitor.command("blockdev-create", **{"job-id": "create", "options": options})
    until = time.monotonic() + 60
    while True:
        (job,) = monitor.command("query-jobs")
        if job["status"] == "concluded":
            break
        assert time.monotonic() < until, job
        time.sleep(0.05)
    assert "error" not in job, job
    monitor.command("job-dismiss", id="create")


def add_disk(monitor, path):
    """Give QEMU a qcow2 disk to keep the machine's state in; the guest does not see it."""
    create(monitor, driver="file", filename=str(path), size=0)
    file = {"driver": "file", "filename": str(path), "node-name": "state-file"}
    monitor.command("blockdev-add", **file)
    create(monitor, driver="qcow2", file="state-file", size=1 << 20)
    qcow2 = {"driver": "qcow2", "file": "state-file", "node-name": "state"}
    monitor.command("blockdev-add", **qcow2)


def answers(guest, patience=60):
    """Whether the server completes a text within `patience` seconds."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            body = {"prompt": "a", "n_predict": 2}
            if requests.post(guest.url + "/completion", json=body, timeout=5).status_code == 200:
                return True
        except requests.RequestException:
            time.sleep(0.2)
    return False


def clock_is_right(guest):
    """Whether the guest's wall time becomes the host's."""
    until = time.monotonic() + LOOK_S
    while True:
        ahead = int(guest.serial.run("import time; print(time.time())").strip()) - time.time()
        if abs(ahead) < 3 or time.monotonic() > until:
            return abs(ahead) < 3
        time.sleep(1)


def pull_the_cable(guest, monitor):
    """The link goes down, which the guest sees, and up again."""
    up = "import network; print(network.LAN(0).status())"
    monitor.command("set_link", name="net0", up=False)
    assert guest.serial.run(up).strip() == "0"
    with pytest.raises(requests.RequestException):
        requests.get(guest.url + "/health", timeout=2)
    monitor.command("set_link", name="net0", up=True)
    assert answers(guest)
    assert guest.serial.run(up).strip() == "3"


@pytest.mark.parametrize("nic", ["e1000e", "virtio"])
def test_a_machine_that_is_cut_off_stopped_put_back_and_reset_serves(
    boot, tiny_model, tmp_path, nic
):
    guest = boot(
        model=str(tiny_model), nic=nic, qmp=tmp_path / "monitor", on_crash="reboot", packed=False
    )
    guest.serial.booted()
    assert answers(guest)
    with Monitor(tmp_path / "monitor") as monitor:
        pull_the_cable(guest, monitor)
        if nic == "virtio":
            add_disk(monitor, tmp_path / "state.qcow2")
            assert not monitor.human("savevm before").strip()
            assert answers(guest)
            guest.serial.run("after = True")
            monitor.command("stop")
            time.sleep(STOP_S)
            monitor.command("cont")
            assert answers(guest)
            assert clock_is_right(guest)
            # Its connections and its time are those of a minute ago.
            assert not monitor.human("loadvm before").strip()
            assert answers(guest)
            assert "NameError" in guest.serial.run("after")
            assert clock_is_right(guest)
        monitor.command("system_reset")
        guest.serial.expect("in all\r\n", 120)
        assert answers(guest)
    assert requests.get(guest.url + "/health", timeout=60).json()["status"] == "ok"
    guest.serial.send("\r")
    guest.serial.expect(">>> ")
    assert guest.serial.run("import machine; print(machine.last_crash())").strip() == "None"
