"""CPython twin of modules/engine for tests without llama.cpp: its errors, and no engine."""


class Error(RuntimeError):
    pass


class NoSlot(Error):
    pass


class Aborted(Error):
    pass


class Limit(Error):
    pass


class Assertion(Error):
    pass


class Lost(Error):
    pass


def version():
    return ""


def cpu(name=None):
    return ""


def gpu():
    return None
