"""MicroPython's `unittest` module: the part of CPython's that micropython-lib's has.

A run ends with the lines that MicroPython's tests/run-tests.py reads: `Ran N tests`, an empty
line, then `OK`, `OK (skipped=N)` or `FAILED (failures=N, errors=N)`.
"""
# SPDX-License-Identifier: MIT

import io
import sys


class SkipTest(Exception):
    """Raised by a test, or its setUp, to skip itself."""


class AssertRaisesContext:
    """What assertRaises() returns without a callable: a context manager that expects an exception.

    `exception` is the one that was raised.
    """

    def __init__(self, expected):
        self.expected = expected
        self.exception = None

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        self.exception = value
        if kind is None:
            raise AssertionError("{} not raised".format(_name(self.expected)))
        return issubclass(kind, self.expected)


class _NullContext:
    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        return False


class _SubTest:
    """A context manager that records a failure in it, and lets the test go on."""

    def __init__(self, result, test, message, params):
        self._result = result
        self._test = test
        self._name = " ".join(
            ([] if message is None else ["[{}]".format(message)])
            + ["({}={})".format(key, value) for key, value in params.items()]
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        if kind is None or not issubclass(kind, Exception):
            return False
        _record(self._result, "{} {}".format(self._test, self._name), value)
        return True


class TestCase:
    """One class of tests: methods named `test...`, each between setUp and tearDown."""

    _result = None
    _method = ""

    def setUp(self):
        pass

    def tearDown(self):
        pass

    @classmethod
    def setUpClass(cls):
        pass

    @classmethod
    def tearDownClass(cls):
        pass

    def addCleanup(self, function, *args, **kwargs):
        """Call function(*args, **kwargs) after tearDown, the last one added first."""
        self._cleanups.append((function, args, kwargs))

    def doCleanups(self):
        while self._cleanups:
            function, args, kwargs = self._cleanups.pop()
            function(*args, **kwargs)

    def subTest(self, msg=None, **params):
        """Return a context manager that records a failure with `params`; the test goes on."""
        if self._result is None:
            return _NullContext()
        return _SubTest(self._result, self._method, msg, params)

    def skipTest(self, reason):
        raise SkipTest(reason)

    def fail(self, msg=None):
        raise AssertionError(msg or "failed")

    def _check(self, condition, msg, text, *args):
        if not condition:
            raise AssertionError(msg or text.format(*args))

    def assertTrue(self, x, msg=None):
        self._check(x, msg, "{!r} is not true", x)

    def assertFalse(self, x, msg=None):
        self._check(not x, msg, "{!r} is not false", x)

    def assertEqual(self, x, y, msg=None):
        self._check(x == y, msg, "{!r} != {!r}", x, y)

    def assertNotEqual(self, x, y, msg=None):
        self._check(x != y, msg, "{!r} == {!r}", x, y)

    def assertLess(self, x, y, msg=None):
        self._check(x < y, msg, "{!r} is not less than {!r}", x, y)

    def assertLessEqual(self, x, y, msg=None):
        self._check(x <= y, msg, "{!r} is not at most {!r}", x, y)

    def assertGreater(self, x, y, msg=None):
        self._check(x > y, msg, "{!r} is not greater than {!r}", x, y)

    def assertGreaterEqual(self, x, y, msg=None):
        self._check(x >= y, msg, "{!r} is not at least {!r}", x, y)

    def assertAlmostEqual(self, x, y, places=None, msg="", delta=None):
        self._check(_almost(x, y, places, delta), msg, "{!r} is not almost {!r}", x, y)

    def assertNotAlmostEqual(self, x, y, places=None, msg="", delta=None):
        self._check(not _almost(x, y, places, delta), msg, "{!r} is almost {!r}", x, y)

    def assertIs(self, x, y, msg=None):
        self._check(x is y, msg, "{!r} is not {!r}", x, y)

    def assertIsNot(self, x, y, msg=None):
        self._check(x is not y, msg, "{!r} is {!r}", x, y)

    def assertIsNone(self, x, msg=None):
        self._check(x is None, msg, "{!r} is not None", x)

    def assertIsNotNone(self, x, msg=None):
        self._check(x is not None, msg, "{!r} is None", x)

    def assertIn(self, x, y, msg=None):
        self._check(x in y, msg, "{!r} is not in {!r}", x, y)

    def assertNotIn(self, x, y, msg=None):
        self._check(x not in y, msg, "{!r} is in {!r}", x, y)

    def assertIsInstance(self, x, y, msg=None):
        self._check(isinstance(x, y), msg, "{!r} is no {!r}", x, y)

    def assertNotIsInstance(self, x, y, msg=None):
        self._check(not isinstance(x, y), msg, "{!r} is a {!r}", x, y)

    def assertRaises(self, exception, function=None, *args, **kwargs):
        """Expect `exception` of function(*args, **kwargs), or in the body of a with statement."""
        context = AssertRaisesContext(exception)
        if function is None:
            return context
        with context:
            function(*args, **kwargs)
        return None

    def assertWarns(self, warning):
        """Check nothing: MicroPython has no warnings."""
        return _NullContext()


def _almost(x, y, places, delta):
    if places is not None and delta is not None:
        raise TypeError("places or delta, not both")
    if x == y:
        return True
    if delta is not None:
        return abs(x - y) <= delta
    return round(abs(y - x), 7 if places is None else places) == 0


def _name(thing):
    if isinstance(thing, tuple):
        return " or ".join([_name(each) for each in thing])
    return getattr(thing, "__name__", str(thing))


def skip(reason):
    """Return a decorator that skips a test or a class of tests."""

    def decorate(what):
        if isinstance(what, type):
            what._skip_reason = reason
            return what

        def skipped(self):
            raise SkipTest(reason)

        return skipped

    return decorate


def skipIf(condition, reason):
    return skip(reason) if condition else lambda what: what


def skipUnless(condition, reason):
    return skip(reason) if not condition else lambda what: what


def expectedFailure(test):
    """Decorator of a test that must fail."""

    def expected(*args, **kwargs):
        try:
            test(*args, **kwargs)
        except SkipTest:
            raise
        except Exception:
            return
        raise AssertionError("unexpected success")

    return expected


class TestResult:
    """Results of a run. `failures`, `errors` and `skipped` hold pairs (test, text)."""

    def __init__(self):
        self.failures = []
        self.errors = []
        self.skipped = []
        self.testsRun = 0

    @property
    def failuresNum(self):
        return len(self.failures)

    @property
    def errorsNum(self):
        return len(self.errors)

    @property
    def skippedNum(self):
        return len(self.skipped)

    def wasSuccessful(self):
        return not self.failures and not self.errors

    def printErrors(self):
        for kind, found in (("ERROR", self.errors), ("FAIL", self.failures)):
            for test, text in found:
                print("\n" + "=" * 70)
                print("{}: {}".format(kind, test))
                print("-" * 70)
                print(text)

    def __repr__(self):
        return "<TestResult run={} errors={} failures={}>".format(
            self.testsRun, self.errorsNum, self.failuresNum
        )

    def __add__(self, other):
        total = TestResult()
        for result in (self, other):
            total.failures += result.failures
            total.errors += result.errors
            total.skipped += result.skipped
            total.testsRun += result.testsRun
        return total


def _record(result, name, error):
    """Record an exception that a test raised. Return the word to print for it."""
    if isinstance(error, SkipTest):
        result.skipped.append((name, str(error)))
        return "skipped: {}".format(error)
    text = io.StringIO()
    sys.print_exception(error, text)
    if isinstance(error, AssertionError):
        result.failures.append((name, text.getvalue()))
        return "FAIL"
    result.errors.append((name, text.getvalue()))
    return "ERROR"


class TestSuite:
    """Test classes, instances and functions to run, in order."""

    def __init__(self, name=""):
        self.name = name
        self._tests = []

    def addTest(self, test):
        self._tests.append(test)

    def run(self, result):
        for test in self._tests:
            if isinstance(test, TestSuite):
                test.run(result)
            else:
                _run_tests(test, result, self.name)
        return result

    def _load_module(self, module):
        """Add a module's TestCase classes, and its functions test* without arguments."""
        for name in dir(module):
            thing = getattr(module, name)
            if isinstance(thing, type):
                if issubclass(thing, TestCase) and thing is not TestCase:
                    self.addTest(thing)
            elif name.startswith("test") and callable(thing):
                self.addTest(thing)


def _run_tests(test, result, suite):
    if not isinstance(test, (type, TestCase)):
        _run_one(result, test.__name__, suite, test)
        return
    case = test() if isinstance(test, type) else test
    names = [n for n in dir(case) if n.startswith("test") and callable(getattr(case, n))]
    class_name = type(case).__name__
    if suite:
        class_name = suite + "." + class_name
    reason = getattr(case, "_skip_reason", None)
    if reason is not None:
        for name in names:
            result.testsRun += 1
            result.skipped.append((name, reason))
            print("{} ({}) ... skipped: {}".format(name, class_name, reason))
        return
    try:
        case.setUpClass()
    except Exception as error:
        print("setUpClass ({}) ... {}".format(class_name, _record(result, class_name, error)))
        return
    for name in names:
        # Each test has an instance of its own, so it finds no attributes that another one set.
        each = case if isinstance(test, TestCase) else test()
        _run_one(result, name, class_name, getattr(each, name), each)
    try:
        case.tearDownClass()
    except Exception as error:
        print("tearDownClass ({}) ... {}".format(class_name, _record(result, class_name, error)))


def _run_one(result, name, where, function, case=None):
    print("{} ({}) ...".format(name, where), end="")
    result.testsRun += 1
    before = len(result.failures) + len(result.errors)
    words = []

    def attempt(step):
        try:
            step()
            return True
        except Exception as error:
            words.append(_record(result, name, error))
            return False

    if case is None:
        attempt(function)
    else:
        case._result = result
        case._method = name
        case._cleanups = []
        if attempt(case.setUp):
            attempt(function)
            attempt(case.tearDown)
        attempt(case.doCleanups)
    if not words:
        words = ["ok" if len(result.failures) + len(result.errors) == before else "FAIL"]
    print(" " + ", ".join(words))


class TestRunner:
    """Runs a suite. Prints the failures and a summary."""

    def run(self, suite):
        result = suite.run(TestResult())
        result.printErrors()
        print("-" * 70)
        print("Ran {} tests\n".format(result.testsRun))
        if not result.wasSuccessful():
            print("FAILED (failures={}, errors={})".format(result.failuresNum, result.errorsNum))
        elif result.skipped:
            print("OK (skipped={})".format(result.skippedNum))
        else:
            print("OK")
        return result


TextTestRunner = TestRunner


class TestProgram:
    """Runs all tests of a module (its name, or itself). `result` holds the results."""

    def __init__(self, module="__main__", testRunner=None):
        if isinstance(module, str):
            module = __import__(module)
        suite = TestSuite(module.__name__)
        suite._load_module(module)
        if testRunner is None:
            testRunner = TestRunner()
        elif isinstance(testRunner, type):
            testRunner = testRunner()
        self.result = testRunner.run(suite)


main = TestProgram
