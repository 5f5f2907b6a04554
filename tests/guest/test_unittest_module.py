"""The frozen unittest prints what MicroPython's run-tests.py expects."""

import re

PROGRAM = """\
import unittest
class T(unittest.TestCase):
    def setUp(self): self.value = 1
    def test_ok(self): self.assertEqual(self.value, 1)
    def test_fail(self): self.assertEqual(self.value, 2)
    def test_error(self): 1 // 0
    def test_raises(self):
        with self.assertRaises(ValueError) as caught: int('x')
        self.assertIsInstance(caught.exception, ValueError)
    @unittest.skip('not here')
    def test_skip(self): 1 // 0
    @unittest.expectedFailure
    def test_expected(self): self.fail()
    def test_sub(self):
        for i in range(3):
            with self.subTest(i=i): self.assertEqual(i, 1)
    test_data = 5
{}unittest.main()
\x04"""


def run(guest, more=""):
    serial = guest.serial
    serial.send("\r\x03\x01")
    serial.expect("raw REPL; CTRL-B to exit\r\n>")
    serial.send("\x04")
    serial.expect("raw REPL; CTRL-B to exit\r\n>")
    serial.send(PROGRAM.format(more).replace("\n", "\r"))
    return serial.expect(rb"(?s)OK(.*?)\x04(.*?)\x04>").group(1).decode().replace("\r\n", "\n")


def test_results_are_counted_and_the_last_line_says_so(boot):
    guest = boot()
    printed = run(guest)
    assert printed.endswith("-" * 70 + "\nRan 7 tests\n\nFAILED (failures=3, errors=1)\n")
    assert "skipped: not here" in printed and "ZeroDivisionError" in printed
    assert len(re.findall(r"^FAIL: test_sub \(i=[02]\)$", printed, re.M)) == 2
    good = "del T.test_fail, T.test_error, T.test_sub\n"
    assert run(guest, good).endswith("-" * 70 + "\nRan 4 tests\n\nOK (skipped=1)\n")
