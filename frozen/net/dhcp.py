"""DHCP client (RFC 2131 4.4): gets an address and keeps it."""

import struct

from micropython import const
from net import dhcp_message as message
from net import ipv4
from net.timers import Timed

# RFC 2131, figure 5; REBOOTING also after the cable was plugged in again (3.7).
STOPPED = const(0)
SELECTING = const(1)
REQUESTING = const(2)
BOUND = const(3)
RENEWING = const(4)
REBINDING = const(5)
REBOOTING = const(6)

# RFC 2131 4.1: the first retransmission after 4 s, then twice as long up to 64, each +-1 s.
_FIRST_RETRY = const(4000)
_LAST_RETRY = const(64000)
_REQUEST_TRIES = const(4)
_REBOOT_TRIES = const(3)
# Pause after a NAK: 2 s, doubled for each further one. Without it a server that refuses what it
# offers would be asked at wire speed.
_NAK_PAUSE = const(2000)
_NAK_DOUBLINGS = const(5)
_NAK_JITTER = const(512)
# Minimum time between two checks of the lease when a cable comes and goes.
_LINK_PAUSE = const(2000)
# RFC 2131 4.4.5: no more than one REQUEST a minute while renewing.
_RENEW_RETRY = const(60000)
# In seconds. Shorter leases, even of 0 s, count as this long; no lease is renewed sooner.
_LEAST_LEASE = const(10)
_LEAST_RENEWAL = const(5)
_INFINITE = const(0xFFFFFFFF)
_MAX_MESSAGE = const(1400)
_MAX_LABEL = const(32)  # what network.hostname() takes
_HYPHEN = const(45)

# The options that a lease sets. One that is absent from a message keeps its value.
_ADDRESS_LISTS = (message.ROUTER, message.DNS_SERVER, message.NTP_SERVER)
_PARAMETERS = _ADDRESS_LISTS + (
    message.SUBNET_MASK,
    message.LEASE_TIME,
    message.RENEWAL_TIME,
    message.REBINDING_TIME,
)


class Client(Timed):
    """Configures `stack` by DHCP between start() and stop().

    Args: on_time_servers: called with a list of addresses when a lease names NTP servers;
    on_name: called with a host name and the time when a lease gives this host one.
    """

    def __init__(self, stack, on_time_servers=None, on_name=None):
        self.stack = stack
        self.state = STOPPED
        self.port = message.CLIENT_PORT
        # The server that made the offer or gave the lease, and the offered address.
        self.server = 0
        self._address = 0
        # {option: numbers} of the offer or the lease.
        self._parameters = {}
        self.time_servers = []
        self._on_time_servers = on_time_servers
        self._on_name = on_name
        self._xid = 0
        # When this exchange began: leases count from then.
        self._started = 0
        # When the acquisition or renewal began, and the last `secs` sent, which count from then.
        self._since = 0
        self._seconds = 0
        self._tries = 0
        # Whether this is a pause between two exchanges, in which messages are ignored.
        self._waits = False
        self._naks = 0
        # Another server than the one that gave the lease refused it, and none has confirmed it.
        self._refused = False
        # The end of the lease, T1 and T2, in ms; None for an infinite lease.
        self._renew_at = None
        self._rebind_at = None
        self._expires = None

    def start(self, now):
        """Begin to look for a server. OSError: EADDRINUSE, port 68 is in use."""
        self.stack.open_udp(self.port, self, 0, ipv4)
        self._expires = None
        self._discover(now)

    def stop(self):
        """Give up the port; an address that was got stays configured."""
        self.stack.close_udp(self.port)
        self.state = STOPPED
        self.stack.timers.set(self, None)

    def link_up(self, now):
        """Ask whether the lease holds in the network that is connected now (RFC 2131 3.7).

        The address stays in use meanwhile, and with it all connections.
        """
        if self.state == STOPPED:
            return
        if self.state in (SELECTING, REQUESTING):
            self.state = SELECTING
        else:
            self.state = REBOOTING
        self._wait(max(now, self._started + _LINK_PAUSE))

    def on_deadline(self, now):
        """Called by Timers."""
        if self._expires is not None and now >= self._expires:
            # RFC 2131 4.4.5: stop using the address at once.
            self._lose()
            self._discover(now)
        elif self._waits:
            self._since = now
            self._begin(now)
            self._send(now)
        elif self.state in (SELECTING, REQUESTING):
            self._tries += 1
            if self.state == REQUESTING and self._tries >= _REQUEST_TRIES:
                self._discover(now)
            else:
                self._send(now)
        elif self.state == REBOOTING:
            self._tries += 1
            if self._refused:
                self._lose()
                self._discover(now)
            elif self._tries < _REBOOT_TRIES:
                self._send(now)
            else:
                # RFC 2131 3.2, step 4: nobody answers, so the lease holds until it expires.
                self._keep(now)
        else:
            if self.state == BOUND:
                self._since = now
            self.state = RENEWING if now < self._rebind_at else REBINDING
            self._begin(now)
            self._send(now)

    def datagram(self, buf, start, end, _source, source_port, now):
        """Take a datagram from the stack."""
        if source_port != message.SERVER_PORT or self._waits:
            return
        parsed = message.parse(bytes(buf[start:end]))
        if parsed is None:
            return
        kind, xid, address, mac, options = parsed
        if xid != self._xid or mac != self.stack.link.mac:
            return
        # RFC 2131, table 3: all three must name the server.
        servers = message.numbers(options, message.SERVER_ID)
        server = servers[0] if servers and ipv4.is_host(servers[0]) else 0
        if kind == message.OFFER:
            if self.state == SELECTING and server:
                self._take_offer(server, address, _read(options, {}), now)
        elif kind == message.ACK:
            if self._is_answered_by(server, address):
                known = self._parameters if address == self._address else {}
                self._bind(server, address, _read(options, known), now)
                name = _label(options.get(message.HOST_NAME, b""))
                if name and self.state == BOUND and self._on_name is not None:
                    self._on_name(name, now)
        elif kind == message.NAK:
            self._take_nak(server, now)

    def unreachable(self, *_):
        """Ignore an ICMP error: the message will be retransmitted."""

    def _take_offer(self, server, address, parameters, now):
        if not _is_usable(address, parameters):
            return
        self.server = server
        self._address = address
        self._parameters = parameters
        self.state = REQUESTING
        self._tries = 0
        self._send(now)

    def _is_answered_by(self, server, address):
        """Return whether an ACK of `server` answers what was asked for (RFC 2131 3.1, step 5)."""
        if self.state in (REQUESTING, RENEWING):
            # One server was asked. An ACK without a server's name counts if the address matches.
            return server == self.server or (not server and address == self._address)
        if self.state == REBOOTING:
            return server == self.server or address == self._address
        # RFC 2131 4.4.5: any server may answer.
        return self.state == REBINDING

    def _take_nak(self, server, now):
        state = self.state
        if state in (REQUESTING, RENEWING) and server != self.server:
            # RFC 2131 3.1: the selected server decides. Others may not know its leases.
            return
        if state == REBOOTING and server != self.server:
            # In another network only another server can refuse; in the old one the server that
            # gave the lease will confirm it.
            if not self._refused:
                self._refused = True
                self.stack.timers.set(self, now + _NAK_PAUSE)
        elif state in (REQUESTING, RENEWING, REBINDING, REBOOTING):
            # RFC 2131 3.1, step 5
            if state != REQUESTING:
                self._lose()
            self.state = SELECTING
            jitter = struct.unpack(">H", self.stack.random(2))[0] % _NAK_JITTER
            self._wait(now + (_NAK_PAUSE << self._naks) + jitter)
            self._naks = min(self._naks + 1, _NAK_DOUBLINGS)

    def _discover(self, now):
        self.state = SELECTING
        self._since = now
        self._begin(now)
        self._send(now)

    def _wait(self, until):
        """Begin the exchange of the current state after a pause."""
        self._waits = True
        self.stack.timers.set(self, until)

    def _begin(self, now):
        """Start an exchange with a new transaction number (RFC 2131 4.1, "xid")."""
        self._xid = struct.unpack(">I", self.stack.random(4))[0]
        self._started = now
        self._tries = 0
        self._waits = False
        self._refused = False

    def _lose(self):
        """Stop using the address."""
        self._expires = None
        self.stack.configure(0, 0, 0, [])

    def _keep(self, now):
        """Go on with the lease and announce the address on the link (RFC 5227 2.3)."""
        self.state = BOUND
        self._arm(now)
        self.stack.neighbours.announce(now)

    def _arm(self, now):
        """Set the timer of a lease."""
        bound = self._expires is not None
        self.stack.timers.set(self, max(self._renew_at, now + 1000) if bound else None)

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
                        message.HOST_NAME,
                        message.NTP_SERVER,
                        message.LEASE_TIME,
                        message.RENEWAL_TIME,
                        message.REBINDING_TIME,
                    )
                ),
            ),
        ]
        # RFC 2131 4.3.2 and table 4: where each message names the address.
        state = self.state
        kind = message.DISCOVER if state == SELECTING else message.REQUEST
        client = source = 0
        destination = ipv4.BROADCAST
        if state in (REQUESTING, REBOOTING):
            options.append((message.REQUESTED_ADDRESS, struct.pack(">I", self._address)))
            if state == REQUESTING:
                options.append((message.SERVER_ID, struct.pack(">I", self.server)))
        elif state != SELECTING:
            client = source = stack.address
            if state == RENEWING:
                destination = self.server
        if state != REQUESTING:
            # RFC 2131 3.1, step 3: a REQUEST repeats the `secs` of its DISCOVER.
            self._seconds = (now - self._since) // 1000
        # RFC 2131 4.1: with an old address configured, unicasts to an offered one do not arrive.
        broadcast = stack.address != 0 and state in (SELECTING, REQUESTING)
        data = message.emit(kind, self._xid, self._seconds, client, mac, options, broadcast)
        try:
            stack.send_udp(self.port, destination, message.SERVER_PORT, data, source)
        except OSError:
            # The link is full: the message will be retransmitted.
            pass
        stack.timers.set(self, now + self._retry(now))

    def _retry(self, now):
        if self.state in (SELECTING, REQUESTING, REBOOTING):
            jitter = struct.unpack(">H", self.stack.random(2))[0] % 2001 - 1000
            retry = min(_FIRST_RETRY << min(self._tries, 4), _LAST_RETRY) + jitter
            return retry if self._expires is None else min(retry, self._expires - now)
        # RFC 2131 4.4.5: half of the remaining time, at least a minute.
        limit = self._rebind_at if self.state == RENEWING else self._expires
        left = limit - now
        return min(left, max(left // 2, _RENEW_RETRY))

    def _bind(self, server, address, parameters, now):
        """Apply an ACK; ignore one without a usable lease."""
        if not _is_usable(address, parameters):
            return
        self.server = server or self.server
        self._address = address
        self._parameters = parameters
        self._naks = 0
        verified = self.state == REBOOTING
        self._set_times(parameters)
        self.state = BOUND
        self._arm(now)
        stack = self.stack
        netmask = _netmask(address, parameters)
        # Unusable addresses and our own cannot be routers or servers.
        others = ipv4.subnet_ends(address, netmask) + (address,)
        lists = [
            [value for value in parameters.get(code, ()) if value not in others]
            for code in _ADDRESS_LISTS
        ]
        routers, dns_servers, servers = lists
        same = address == stack.address
        stack.configure(address, netmask, routers[0] if routers else 0, dns_servers)
        if verified and same:
            stack.neighbours.announce(now)
        if servers != self.time_servers:
            # A renewal usually changes nothing.
            self.time_servers = servers
            if self._on_time_servers is not None:
                self._on_time_servers(servers)

    def _set_times(self, parameters):
        length = parameters.get(message.LEASE_TIME, (_INFINITE,))[0]
        if length == _INFINITE:
            self._expires = None
            return
        # RFC 2131 4.4.5: T1 and T2 are half and seven eighths where the server names none.
        length = max(length, _LEAST_LEASE)
        renew = parameters.get(message.RENEWAL_TIME, (length // 2,))[0]
        rebind = parameters.get(message.REBINDING_TIME, (length * 7 // 8,))[0]
        if not _LEAST_RENEWAL <= renew < rebind < length:
            renew = length // 2
            rebind = length * 7 // 8
        # Counted from the request, so that delays on the way do not extend the lease.
        self._renew_at = self._started + renew * 1000
        self._rebind_at = self._started + rebind * 1000
        self._expires = self._started + length * 1000


def _read(options, known):
    """Return {code: numbers} of what a message sets, with `known` where it sets nothing."""
    found = dict(known)
    if message.numbers(options, message.LEASE_TIME):
        # T1 and T2 belong to the lease time that they came with.
        found.pop(message.RENEWAL_TIME, None)
        found.pop(message.REBINDING_TIME, None)
    for code in _PARAMETERS:
        values = message.numbers(options, code)
        if code in _ADDRESS_LISTS:
            # Some servers pad their lists with 0.0.0.0.
            values = [value for value in values if ipv4.is_host(value)]
        elif code == message.SUBNET_MASK and values and not _is_netmask(values[0]):
            values = []
        if values:
            found[code] = values
    return found


def _is_netmask(mask):
    """Return whether the ones of a mask are contiguous, and there are any."""
    rest = ~mask & 0xFFFFFFFF
    return mask != 0 and rest & (rest + 1) == 0


def _netmask(address, parameters):
    masks = parameters.get(message.SUBNET_MASK)
    return masks[0] if masks else _class_mask(address)


def _is_usable(address, parameters):
    """Return whether a host can have an address (RFC 1122 3.2.1.3)."""
    ends = ipv4.subnet_ends(address, _netmask(address, parameters))
    return ipv4.is_host(address) and address not in ends


def _class_mask(address):
    # RFC 2131 leaves the mask optional; without one, the address class decides (RFC 791 3.2).
    if address < 0x80000000:
        return ipv4.mask(8)
    return ipv4.mask(16) if address < 0xC0000000 else ipv4.mask(24)


def _label(data):
    """Return the first label of a host name (RFC 2132 3.14, RFC 1123 2.1), or None."""
    label = data.rstrip(b"\0").split(b".")[0]
    if not 0 < len(label) <= _MAX_LABEL or label[0] == _HYPHEN or label[-1] == _HYPHEN:
        return None
    for c in label:
        if not (c == _HYPHEN or 48 <= c <= 57 or 65 <= c <= 90 or 97 <= c <= 122):
            return None
    return label.decode()
