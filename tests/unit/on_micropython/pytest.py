"""As much of pytest as the tests that run on MicroPython's unix build use.

MicroPython's functions do not know the names of their arguments; run_tests.py gets them from its
caller.
"""

import re


class Skipped(Exception):
    pass


def skip(reason):
    raise Skipped(reason)


def fail(reason):
    raise AssertionError(reason)


class _Raises:
    def __init__(self, kind, match):
        self._kind, self._match = kind, match
        self.value = None

    def __enter__(self):
        return self

    def __exit__(self, kind, value, _):
        if kind is None:
            raise AssertionError("nothing was raised")
        if not issubclass(kind, self._kind):
            return False
        self.value = value
        if self._match and not re.search(self._match, str(value)):
            raise AssertionError("another text: %s" % value)
        return True


def raises(kind, match=None):
    return _Raises(kind, match)


class Test:
    """A test function and the arguments of its calls, a list of {name: value}."""

    takes_fixtures = True

    def __init__(self, function):
        self.function = function
        self.cases = [{}]

    def add(self, names, values):
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",")]
        cases = []
        for value in values:
            one = (value,) if len(names) == 1 else value
            assert len(one) == len(names)
            for case in self.cases:
                case = dict(case)
                case.update(zip(names, one))
                cases.append(case)
        self.cases = cases


def as_test(function):
    return function if isinstance(function, Test) else Test(function)


class mark:
    @staticmethod
    def parametrize(names, values, ids=None):
        def decorate(function):
            test = as_test(function)
            test.add(names, list(values))
            return test

        return decorate


class Fixture:
    def __init__(self, function, autouse):
        self.function = function
        self.autouse = autouse


def fixture(function=None, autouse=False):
    if function is None:
        return lambda function: Fixture(function, autouse)
    return Fixture(function, autouse)


class MonkeyPatch:
    """The fixture `monkeypatch`."""

    def __init__(self):
        self._changed = []

    def setattr(self, thing, name, value):
        self._changed.append((thing, name, getattr(thing, name)))
        setattr(thing, name, value)

    def undo(self):
        while self._changed:
            setattr(*self._changed.pop())
