"""Error numbers that network calls raise: those of Linux's errno.h."""

from micropython import const

ENOENT = const(2)
EIO = const(5)
EBUSY = const(16)
EINVAL = const(22)
EPIPE = const(32)
EMSGSIZE = const(90)
EADDRINUSE = const(98)
ENETUNREACH = const(101)
ECONNABORTED = const(103)
ECONNRESET = const(104)
ENOBUFS = const(105)
ENOTCONN = const(107)
ETIMEDOUT = const(110)
ECONNREFUSED = const(111)
EHOSTUNREACH = const(113)
