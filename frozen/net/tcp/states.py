"""States of a connection (RFC 9293 3.3.2), in an order that code compares: the handshake first."""

from micropython import const

CLOSED = const(0)
SYN_SENT = const(1)
SYN_RECEIVED = const(2)
ESTABLISHED = const(3)
FIN_WAIT_1 = const(4)
FIN_WAIT_2 = const(5)
CLOSE_WAIT = const(6)
CLOSING = const(7)
LAST_ACK = const(8)
TIME_WAIT = const(9)
