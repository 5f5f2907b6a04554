"""gpu.probe() on a machine without an NVIDIA card, which is what QEMU can emulate."""


def test_no_card(guest):
    guest.serial.send("\x03")
    guest.serial.expect(">>> ")
    assert guest.serial.run("import gpu") == ""
    assert guest.serial.run("gpu.probe()") == "[]"
