"""DHCP client (RFC 2131 4.4): gets an address and keeps it."""

import struct

from micropython import const
from net import dhcp_message as message
from net import ipv4
from net.timers import Timed

# RFC 2131, figure 5.
STOPPED = const(0)
SELECTING = const(1)
REQUESTING = const(2)
BOUND = const(3)
RENEWING = const(4)
REBINDING = const(5)

# RFC 2131 4.1: the first retransmission after 4 s, then twice as long up to 64, each +-1 s.
_FIRST_RETRY = const(4000)
_LAST_RETRY = const(64000)
_REQUEST_TRIES = const(4)
# RFC 2131 4.4.5: no more than one REQUEST a minute while renewing.
_RENEW_RETRY = const(60000)
_INFINITE = const(0xFFFFFFFF)
_MAX_MESSAGE = const(1400)


class Client(Timed):
    """Configures `stack` by DHCP between start() and stop().

    Args: on_time_servers: called with a list of addresses when a lease names NTP servers.
    """

    def __init__(self, stack, on_time_servers=None):
        super().__init__()
        self.stack = stack
        self.state = STOPPED
        self.port = message.CLIENT_PORT
        self.server = 0
        self.time_servers = []
        self._on_time_servers = on_time_servers
        self._xid = 0
        self._offered = 0
        self._started = 0
        self._tries = 0
        # The end of the lease and its two warnings, in ms; None for a lease without end.
        self._renew_at = None
        self._rebind_at = None
        self._expires = None

    def start(self, now):
        """Begin to look for a server. OSError: EADDRINUSE, somebody uses port 68."""
        self.stack.open_udp(self.port, self)
        self._discover(now)

    def stop(self):
        """Give up the port; an address that was got stays configured."""
        self.stack.close_udp(self.port)
        self.state = STOPPED
        self.stack.timers.set(self, None)

    def on_deadline(self, now):
        """Called by Timers."""
        if self.state in (SELECTING, REQUESTING):
            self._tries += 1
            if self.state == REQUESTING and self._tries >= _REQUEST_TRIES:
                self._discover(now)
            else:
                self._send(now)
        elif self._expires is not None and now >= self._expires:
            # RFC 2131 4.4.5: the address must not be used for a moment more.
            self.stack.configure(0, 0, 0, [])
            self._discover(now)
        else:
            self.state = RENEWING if now < self._rebind_at else REBINDING
            self._begin(now)
            self._send(now)

    def datagram(self, buf, start, end, _source, source_port, now):
        """Take a datagram from the stack."""
        if source_port != message.SERVER_PORT:
            return
        parsed = message.parse(bytes(buf[start:end]))
        if parsed is None:
            return
        kind, xid, address, mac, options = parsed
        if xid != self._xid or mac != self.stack.link.mac:
            return
        if kind == message.OFFER and self.state == SELECTING:
            server = message.numbers(options, message.SERVER_ID)
            if server and address:
                self.server = server[0]
                self._offered = address
                self.state = REQUESTING
                self._tries = 0
                self._send(now)
        elif self.state in (REQUESTING, RENEWING, REBINDING):
            if kind == message.ACK and address:
                self._bind(address, options, now)
            elif kind == message.NAK:
                # RFC 2131 3.1, step 4
                if self.state != REQUESTING:
                    self.stack.configure(0, 0, 0, [])
                self._discover(now)

    def unreachable(self, *_):
        """Take an ICMP error: the retransmission stands in."""

    def _discover(self, now):
        self.state = SELECTING
        self._tries = 0
        self._begin(now)
        self._send(now)

    def _begin(self, now):
        """Start an exchange with an own number (RFC 2131 4.1, "xid")."""
        self._xid = struct.unpack(">I", self.stack.random(4))[0]
        self._started = now

    def _send(self, now):
        stack = self.stack
        mac = stack.link.mac
        options = [
            (message.CLIENT_ID, b"\x01" + mac),
            (message.MAX_SIZE, struct.pack(">H", _MAX_MESSAGE)),
            (message.HOST_NAME, stack.hostname.encode()),
            (
                message.PARAMETER_LIST,
                bytes(
                    (
                        message.SUBNET_MASK,
                        message.ROUTER,
                        message.DNS_SERVER,
                        message.NTP_SERVER,
                        message.LEASE_TIME,
                        message.RENEWAL_TIME,
                        message.REBINDING_TIME,
                    )
                ),
            ),
        ]
        # RFC 2131 4.3.2 and table 4: which message names the address where.
        kind = message.DISCOVER if self.state == SELECTING else message.REQUEST
        client = source = 0
        destination = ipv4.BROADCAST
        if self.state == REQUESTING:
            options.append((message.REQUESTED_ADDRESS, struct.pack(">I", self._offered)))
            options.append((message.SERVER_ID, struct.pack(">I", self.server)))
        elif self.state != SELECTING:
            client = source = stack.address
            if self.state == RENEWING:
                destination = self.server
        seconds = (now - self._started) // 1000
        data = message.emit(kind, self._xid, seconds, client, mac, options)
        try:
            stack.send_udp(self.port, destination, message.SERVER_PORT, data, source)
        except OSError:
            # The link is full; the retransmission stands in.
            pass
        stack.timers.set(self, now + self._retry(now))

    def _retry(self, now):
        if self.state in (SELECTING, REQUESTING):
            jitter = struct.unpack(">H", self.stack.random(2))[0] % 2001 - 1000
            return min(_FIRST_RETRY << min(self._tries, 4), _LAST_RETRY) + jitter
        # RFC 2131 4.4.5: half of the time that is left, down to a minute.
        limit = self._rebind_at if self.state == RENEWING else self._expires
        left = limit - now
        return min(left, max(left // 2, _RENEW_RETRY))

    def _bind(self, address, options, now):
        server = message.numbers(options, message.SERVER_ID)
        if server:
            self.server = server[0]
        mask = message.numbers(options, message.SUBNET_MASK)
        router = message.numbers(options, message.ROUTER)
        lease = message.numbers(options, message.LEASE_TIME)
        renewal = message.numbers(options, message.RENEWAL_TIME)
        rebinding = message.numbers(options, message.REBINDING_TIME)
        self.state = BOUND
        if not lease or lease[0] == _INFINITE:
            self._expires = None
            self.stack.timers.set(self, None)
        else:
            # RFC 2131 4.4.5: T1 and T2 are half and seven eighths where the server names none.
            length = lease[0]
            renew = renewal[0] if renewal else length // 2
            rebind = rebinding[0] if rebinding else length * 7 // 8
            if not 0 < renew < rebind < length:
                renew = length // 2
                rebind = length * 7 // 8
            # Counted from the request, so that no delay on the way stretches the lease.
            self._renew_at = self._started + renew * 1000
            self._rebind_at = self._started + rebind * 1000
            self._expires = self._started + length * 1000
            self.stack.timers.set(self, max(self._renew_at, now + 1000))
        self.stack.configure(
            address,
            mask[0] if mask else _class_mask(address),
            router[0] if router else 0,
            message.numbers(options, message.DNS_SERVER),
        )
        servers = message.numbers(options, message.NTP_SERVER)
        if servers != self.time_servers:
            # A renewal names the same again, as a rule.
            self.time_servers = servers
            if self._on_time_servers is not None:
                self._on_time_servers(servers)


def _class_mask(address):
    # RFC 2131 leaves the mask optional; before masks, the class said it (RFC 791 3.2).
    if address < 0x80000000:
        return ipv4.mask(8)
    return ipv4.mask(16) if address < 0xC0000000 else ipv4.mask(24)
