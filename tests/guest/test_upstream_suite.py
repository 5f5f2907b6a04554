"""A handful of MicroPython's own tests; `make test-upstream` runs all of them."""

from upstream.main import run_groups

SOME = (
    "basics/async_for.py",
    "basics/class_super.py",
    "basics/exception_chain.py",
    "basics/int_big_pow.py",
    "basics/try_finally_return.py",
    "extmod/asyncio_gather.py",
    "extmod/machine_rtc.py",
    "extmod/framebuf1.py",
    "extmod/select_poll_custom.py",
    "extmod/vfs_fat_ramdisk.py",
    "float/math_domain.py",
    "io/file_with.py",
    "micropython/native_with.py",
    "micropython/viper_ptr8_load.py",
)


def test_some_of_upstreams_tests_do_what_the_list_says(capsys):
    groups = ["basics", "extmod", "float", "io", "micropython", "mpy-float", "native-basics"]
    status = run_groups(groups, SOME)
    assert status == 0, capsys.readouterr().out
