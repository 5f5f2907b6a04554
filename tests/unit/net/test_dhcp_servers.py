"""The DHCP client: servers that refuse, compete, forget and send nonsense; cables that move."""

import struct

import pytest
from net import dhcp, ethernet, ipv4, udp
from net import dhcp_message as message
from net.tcp import states as state
from scripted import HOST_MAC, PEER_MAC
from test_dhcp_dns import OFFERED, SERVER, Server

OTHER = ipv4.address("10.0.0.3")
ELSEWHERE = ipv4.address("10.9.9.9")


def number(*values):
    return b"".join([struct.pack(">I", value) for value in values])


def options(without=(), server=SERVER, lease=3600, **replaced):
    """A server's options, as a list of (code, bytes)."""
    usual = [
        ("SERVER_ID", number(server)),
        ("SUBNET_MASK", number(0xFFFFFF00)),
        ("ROUTER", number(SERVER)),
        ("DNS_SERVER", number(SERVER, SERVER + 1)),
        ("NTP_SERVER", number(SERVER + 2)),
        ("LEASE_TIME", number(lease)),
    ]
    found = [(name, replaced.pop(name, value)) for name, value in usual if name not in without]
    found += list(replaced.items())
    return [(getattr(message, name), value) for name, value in found]


class Wire(Server):
    def __init__(self):
        super().__init__()
        self.times = []
        self.client = dhcp.Client(self.stack, self.times.append)

    def send(self, kind, fields, address=OFFERED, said=None, to=ipv4.BROADCAST):
        """Send a message of a server in answer to `fields`; `said`: its options."""
        said = options() if said is None else said
        data = bytearray(message.emit(kind, fields["xid"], 0, 0, HOST_MAC, said))
        data[0] = 2
        struct.pack_into(">I", data, 16, address)
        frame = bytearray(42 + len(data))
        frame[42:] = data
        ethernet.emit(frame, HOST_MAC, PEER_MAC, ethernet.TYPE_IPV4)
        total = udp.emit(frame, 34, SERVER, 67, to, 68, len(data))
        ipv4.emit(frame, 14, ipv4.UDP, SERVER, to, total)
        self.stack.input(memoryview(frame), self.now)

    def nak(self, fields, server=SERVER):
        self.send(message.NAK, fields, 0, [(message.SERVER_ID, number(server))] if server else [])

    def one(self, kind, forward=0):
        """Return the fields of the only message within `forward` ms, which is of this kind."""
        ((_, self.to, found, fields),) = self.requests(forward)
        assert found == kind
        return fields

    def offer(self, address=OFFERED, said=None):
        self.client.start(self.now)
        self.send(message.OFFER, self.one(message.DISCOVER), address, said)

    def requesting(self):
        self.offer()
        return self.one(message.REQUEST)

    def bound(self, said=None, offered=None):
        self.offer(said=offered or said)
        self.send(message.ACK, self.one(message.REQUEST), said=said)
        assert self.client.state == dhcp.BOUND
        self.link.frames.clear()

    def renewing(self, said=None):
        self.bound(said)
        return self.one(message.REQUEST, 1800000)

    def lease(self):
        stack = self.stack
        return stack.address, stack.netmask, stack.gateway, stack.dns_servers

    def announced(self, forward=5000):
        """Return how often the address is announced within `forward` ms."""
        count = 0
        end = self.now + forward
        while self.now < end:
            self.now += 100
            self.stack.poll(self.now)
            for frame in self.link.frames:
                count += frame[12:14] == b"\x08\x06" and frame[28:32] == frame[38:42]
            self.link.frames.clear()
        return count


@pytest.fixture
def wire():
    return Wire()


# -- What restarts an exchange ----------------------------------------------------------------


def discovers(wire, duration, answer):
    """Return the times of DISCOVERs in `duration` ms; answer(kind, fields) gets each message."""
    times = []
    end = wire.now + duration
    while wire.now < end:
        for _, _, kind, fields in wire.requests(1):
            if kind == message.DISCOVER:
                times.append(wire.now)
            answer(kind, fields)
    return times


def refuse(wire):
    def answer(kind, fields):
        if kind == message.DISCOVER:
            wire.send(message.OFFER, fields)
        else:
            wire.nak(fields)

    return answer


def test_refused_requests_are_repeated_after_longer_and_longer_pauses(wire):
    wire.client.start(wire.now)
    times = discovers(wire, 200000, refuse(wire))
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    assert len(gaps) >= 6
    for gap, least in zip(gaps, (2000, 4000, 8000, 16000, 32000, 64000, 64000)):
        assert least <= gap <= least + 600


def test_a_refused_renewal_pauses_too(wire):
    fields = wire.renewing()
    wire.nak(fields)
    assert wire.stack.address == 0 and wire.requests(1999) == []
    # An offer to nobody's question counts for nothing.
    wire.send(message.OFFER, fields)
    assert wire.client.state == dhcp.SELECTING and wire.requests() == []
    fields = wire.one(message.DISCOVER, 1000)
    # A lease that was got ends the growth.
    wire.send(message.OFFER, fields)
    wire.send(message.ACK, wire.one(message.REQUEST))
    wire.nak(wire.one(message.REQUEST, 1800000))
    wire.one(message.DISCOVER, 2600)


@pytest.mark.parametrize("length, renewal", [(0, 0), (1, 0), (2, 1), (3600, 1), (3600, 0)])
def test_leases_of_no_length_do_not_make_a_storm(wire, length, renewal):
    times = {"RENEWAL_TIME": number(renewal), "REBINDING_TIME": number(2)} if renewal else {}
    said = options(lease=length, **times)

    def answer(kind, fields):
        wire.send(message.OFFER if kind == message.DISCOVER else message.ACK, fields, said=said)

    wire.client.start(wire.now)
    discovers(wire, 100, answer)
    assert wire.stack.address == OFFERED
    sent = []
    discovers(wire, 60000, lambda kind, fields: sent.append(kind) or answer(kind, fields))
    assert len(sent) <= 24 and bool(sent) == (length < 60)


# -- Servers that were not asked --------------------------------------------------------------


@pytest.mark.parametrize("server", [OTHER, 0])
def test_a_refusal_by_a_server_that_was_not_selected_counts_for_nothing(wire, server):
    fields = wire.requesting()
    wire.nak(fields, server)
    assert wire.client.state == dhcp.REQUESTING
    wire.send(message.ACK, fields)
    assert wire.client.state == dhcp.BOUND and wire.stack.address == OFFERED


@pytest.mark.parametrize("address", [OFFERED, ELSEWHERE])
def test_a_lease_of_a_server_that_was_not_selected_counts_for_nothing(wire, address):
    fields = wire.requesting()
    wire.send(message.ACK, fields, address, options(server=OTHER))
    assert wire.client.state == dhcp.REQUESTING and wire.stack.address == 0
    wire.send(message.ACK, fields)
    assert wire.stack.address == OFFERED and wire.client.server == SERVER


@pytest.mark.parametrize("server", [OTHER, 0])
def test_while_renewing_only_the_lease_s_server_counts(wire, server):
    fields = wire.renewing()
    before = wire.lease()
    wire.nak(fields, server)
    wire.send(message.ACK, fields, ELSEWHERE, options(server=OTHER))
    wire.send(message.ACK, fields, OFFERED, options(server=OTHER), OFFERED)
    assert wire.client.state == dhcp.RENEWING and wire.lease() == before
    wire.send(message.ACK, fields, to=OFFERED)
    assert wire.client.state == dhcp.BOUND


def test_a_server_that_does_not_name_itself_is_known_by_the_address(wire):
    fields = wire.requesting()
    said = options(without=("SERVER_ID",))
    wire.send(message.ACK, fields, ELSEWHERE, said)
    assert wire.client.state == dhcp.REQUESTING
    wire.send(message.ACK, fields, said=said)
    assert wire.client.state == dhcp.BOUND and wire.client.server == SERVER


def test_an_offer_without_a_server_is_none(wire):
    for said in (
        options(without=("SERVER_ID",)),
        options(server=0),
        options(server=ipv4.BROADCAST),
        options(server=0xE0000001),
    ):
        other = Wire()
        other.offer(said=said)
        assert other.client.state == dhcp.SELECTING and other.requests() == []


def test_while_rebinding_any_server_counts(wire):
    wire.bound()
    fields = wire.requests(3150000)[-1][3]
    assert wire.client.state == dhcp.REBINDING
    wire.send(message.ACK, fields, said=options(server=OTHER))
    assert wire.client.state == dhcp.BOUND and wire.client.server == OTHER
    fields = wire.requests(3150000)[-1][3]
    wire.nak(fields, SERVER)
    assert wire.stack.address == 0


# -- What a renewal does not repeat -----------------------------------------------------------

NAMES = ("SUBNET_MASK", "ROUTER", "DNS_SERVER", "NTP_SERVER", "LEASE_TIME")


@pytest.mark.parametrize("without", [NAMES] + [(name,) for name in NAMES])
def test_a_renewal_keeps_what_it_does_not_repeat(wire, without):
    fields = wire.renewing()
    before = wire.lease()
    assert before == (OFFERED, 0xFFFFFF00, SERVER, [SERVER, SERVER + 1])
    wire.send(message.ACK, fields, said=options(without=without), to=OFFERED)
    assert wire.client.state == dhcp.BOUND and wire.lease() == before
    assert wire.times == [[SERVER + 2]]
    # The lease still has an end.
    assert wire.requests(1799999) == []
    wire.one(message.REQUEST, 1)


def test_a_renewal_changes_what_it_names(wire):
    fields = wire.renewing()
    said = options(
        lease=7200, SUBNET_MASK=number(0xFFFF0000), ROUTER=number(OTHER), DNS_SERVER=number(OTHER)
    )
    wire.send(message.ACK, fields, said=said, to=OFFERED)
    assert wire.lease() == (OFFERED, 0xFFFF0000, OTHER, [OTHER])
    assert wire.requests(3599999) == [] and wire.one(message.REQUEST, 1)


def test_times_of_a_renewal_belong_to_its_length(wire):
    said = options(RENEWAL_TIME=number(900), REBINDING_TIME=number(1800))
    wire.bound(said)
    fields = wire.one(message.REQUEST, 900000)
    wire.send(message.ACK, fields, said=options(without=("LEASE_TIME",)), to=OFFERED)
    fields = wire.one(message.REQUEST, 900000)
    # Twice as long, and T1 is half of it again.
    wire.send(message.ACK, fields, said=options(lease=7200), to=OFFERED)
    assert wire.requests(3599999) == [] and wire.one(message.REQUEST, 1)


def test_an_acknowledgement_need_not_repeat_the_offer(wire):
    wire.bound(options(without=NAMES), options())
    assert wire.lease() == (OFFERED, 0xFFFFFF00, SERVER, [SERVER, SERVER + 1])
    assert wire.one(message.REQUEST, 1800000)


def test_another_address_keeps_nothing(wire):
    wire.bound()
    fields = wire.requests(3150000)[-1][3]
    wire.send(message.ACK, fields, ELSEWHERE, options(without=NAMES, server=OTHER))
    assert wire.lease() == (ELSEWHERE, 0xFF000000, 0, [])
    assert wire.times == [[SERVER + 2], []]


# -- Addresses that are none ------------------------------------------------------------------

NOBODY = ("0.0.0.0", "0.0.0.5", "127.0.0.1", "224.0.0.5", "240.0.0.1", "255.255.255.255")
ENDS = ("10.0.0.0", "10.0.0.255")


@pytest.mark.parametrize("text", NOBODY + ENDS)
def test_addresses_of_no_host_are_refused(wire, text):
    address = ipv4.address(text)
    wire.offer(address)
    assert wire.client.state == dhcp.SELECTING and wire.requests() == []
    # And where a good one was offered before.
    wire = Wire()
    fields = wire.requesting()
    wire.send(message.ACK, fields, address)
    assert wire.stack.address == 0 and wire.client.state == dhcp.REQUESTING
    # And in a renewal.
    wire = Wire()
    fields = wire.renewing()
    wire.send(message.ACK, fields, address, to=OFFERED)
    assert wire.stack.address == OFFERED


@pytest.mark.parametrize("name", ["ROUTER", "DNS_SERVER", "NTP_SERVER"])
def test_addresses_of_no_host_are_no_servers(wire, name):
    nobody = [ipv4.address(text) for text in NOBODY]
    wire.bound(options(**{name: number(*nobody[:3], OTHER, *nobody[3:])}))
    found = {
        "ROUTER": [wire.stack.gateway],
        "DNS_SERVER": wire.stack.dns_servers,
        "NTP_SERVER": wire.times[0],
    }
    assert found[name] == [OTHER]
    wire = Wire()
    wire.bound(options(**{name: number(0, 0)}))
    assert wire.stack.gateway == (0 if name == "ROUTER" else SERVER)
    assert wire.stack.dns_servers == ([] if name == "DNS_SERVER" else [SERVER, SERVER + 1])


def test_routers_and_servers_in_the_subnet_are_other_hosts_of_it(wire):
    value = number(OFFERED, 0x0A0000FF, 0x0A000000, OTHER)
    wire.bound(options(ROUTER=value, DNS_SERVER=value, NTP_SERVER=value))
    assert wire.stack.gateway == OTHER and wire.stack.dns_servers == [OTHER]
    assert wire.times == [[OTHER]]


@pytest.mark.parametrize("mask", [0xFF00FF00, 0xFFFFFF01, 0x00FFFFFF, 1, 0])
def test_masks_that_are_none_count_as_absent(wire, mask):
    wire.bound(options(SUBNET_MASK=number(mask)))
    assert wire.lease()[:2] == (OFFERED, 0xFF000000)
    # A lease that has one keeps it.
    wire = Wire()
    fields = wire.renewing()
    wire.send(message.ACK, fields, said=options(SUBNET_MASK=number(mask)), to=OFFERED)
    assert wire.lease()[:2] == (OFFERED, 0xFFFFFF00)


@pytest.mark.parametrize("bits", [30, 31, 32])
def test_small_subnets(wire, bits):
    # RFC 3021: both addresses of 31 bits are hosts'. 32 is what clouds give, with a router outside.
    address = 0x0A000032 if bits != 30 else 0x0A000031
    router = {30: 0x0A000032, 31: 0x0A000033, 32: SERVER}[bits]
    said = options(SUBNET_MASK=number(ipv4.mask(bits)), ROUTER=number(router))
    wire.offer(address, said)
    wire.send(message.ACK, wire.one(message.REQUEST), address, said)
    assert wire.stack.address == address and wire.stack.gateway == router
    assert not wire.stack._is_broadcast(router) and wire.stack.is_host(router)


# -- secs -------------------------------------------------------------------------------------


def test_requests_have_the_seconds_of_their_discover(wire):
    # RFC 2131 3.1, step 3
    wire.client.start(wire.now)
    (_, _, _, fields) = wire.requests(6000)[-1]
    assert fields["seconds"] > 0
    wire.now += 2500
    wire.send(message.OFFER, fields)
    requests = wire.requests(20000)
    assert len(requests) > 1
    assert {found["seconds"] for _, _, _, found in requests} == {fields["seconds"]}


def test_renewals_count_seconds_of_their_own(wire):
    assert wire.renewing()["seconds"] == 0
    assert wire.requests(800000)[-1][3]["seconds"] == 675


# -- The cable --------------------------------------------------------------------------------


def replugged(wire):
    wire.stack.link_up(wire.now)
    wire.client.link_up(wire.now)
    fields = wire.one(message.REQUEST)
    assert wire.client.state == dhcp.REBOOTING
    return fields


def test_a_cable_plugged_in_has_the_lease_verified(wire):
    wire.bound()
    listener = wire.stack.tcp.listen(0, 80, 5)
    asked = (1460, None, False, None)
    wire.stack.tcp._open_passively(listener, (OFFERED, 80, SERVER, 4000), 1, 100, asked)
    connection = wire.stack.tcp.connections()[0]
    connection.state = state.ESTABLISHED
    connection.snd_nxt = connection.snd_max = connection.snd_una = connection.snd_end
    wire.now += 10000
    fields = replugged(wire)
    # RFC 2131, table 5: the address in an option, not in ciaddr, and no server.
    assert wire.to == ipv4.BROADCAST and fields["source"] == fields["ciaddr"] == 0
    assert message.numbers(fields["options"], message.REQUESTED_ADDRESS) == [OFFERED]
    assert message.SERVER_ID not in fields["options"]
    wire.send(message.ACK, fields, to=OFFERED)
    assert wire.client.state == dhcp.BOUND and wire.stack.tcp.connections() == [connection]
    assert wire.announced() == 2
    # The lease begins anew.
    assert wire.requests(1794900) == [] and wire.one(message.REQUEST, 200)


def test_in_another_network_the_address_is_given_up(wire):
    wire.bound()
    wire.now += 10000
    fields = replugged(wire)
    wire.nak(fields, OTHER)
    # The server of the lease may still confirm it, and does not.
    fields = wire.one(message.DISCOVER, 2600)
    assert wire.stack.address == 0
    wire.send(message.OFFER, fields, ELSEWHERE, options(server=OTHER))
    wire.send(message.ACK, wire.one(message.REQUEST), ELSEWHERE, options(server=OTHER))
    assert wire.stack.address == ELSEWHERE


def test_a_server_that_does_not_know_the_lease_does_not_end_it(wire):
    wire.bound()
    wire.now += 10000
    fields = replugged(wire)
    wire.nak(fields, OTHER)
    wire.now += 100
    wire.send(message.ACK, fields, ELSEWHERE, options(server=OTHER))
    assert wire.client.state == dhcp.REBOOTING and wire.stack.address == OFFERED
    wire.send(message.ACK, fields, to=OFFERED)
    assert wire.client.state == dhcp.BOUND
    assert wire.requests(60000) == [] and wire.stack.address == OFFERED


def test_the_lease_s_server_ends_it_at_once(wire):
    wire.bound()
    wire.now += 10000
    wire.nak(replugged(wire))
    assert wire.stack.address == 0 and wire.client.state == dhcp.SELECTING
    wire.one(message.DISCOVER, 2600)


def test_where_nobody_answers_the_lease_counts(wire):
    wire.bound()
    wire.now += 10000
    replugged(wire)
    assert [kind for _, _, kind, _ in wire.requests(15000)] == [message.REQUEST] * 2
    assert wire.announced(20000) == 2
    assert wire.client.state == dhcp.BOUND and wire.stack.address == OFFERED
    # Until it is over, with what comes before.
    found = wire.requests(3600000)
    assert found[0][1] == SERVER and found[-1][2] == message.DISCOVER and wire.stack.address == 0


def test_a_lease_ends_while_it_is_verified(wire):
    wire.bound(options(lease=60))
    # Answered by nobody since half of it.
    wire.requests(54000)
    wire.client.link_up(wire.now)
    times = [time for time, _, kind, _ in wire.requests(8000) if kind == message.DISCOVER]
    assert times and wire.stack.address == 0


def test_a_lease_without_end_is_verified_too(wire):
    wire.bound(options(lease=0xFFFFFFFF))
    wire.now += 10**9
    fields = replugged(wire)
    wire.send(message.ACK, fields, said=options(without=("LEASE_TIME",)))
    assert wire.client.state == dhcp.BOUND
    wire.link.frames.clear()
    assert wire.requests(10**9) == []


def test_a_loose_cable_asks_at_a_bounded_rate(wire):
    wire.bound()
    wire.now += 10000
    sent = []
    for _ in range(1000):
        wire.stack.link_up(wire.now)
        wire.client.link_up(wire.now)
        sent += wire.requests(10)
    assert 2 <= len(sent) <= 6 and {kind for _, _, kind, _ in sent} == {message.REQUEST}
    wire.send(message.ACK, sent[-1][3], to=OFFERED)
    assert wire.client.state == dhcp.BOUND


def test_a_cable_that_comes_late_ends_the_waiting(wire):
    wire.client.start(wire.now)
    wire.requests(200000)  # a minute between questions by now
    wire.client.link_up(wire.now)
    wire.one(message.DISCOVER)
    wire.client.stop()
    wire.client.link_up(wire.now)
    assert wire.requests(100000) == []


# -- An address of before ---------------------------------------------------------------------


def flags_of(frame):
    return frame[42 + 10] << 8 | frame[42 + 11]


def test_answers_go_to_all_while_another_address_is_in_use(wire):
    # RFC 2131 4.1: the stack takes what is for its address, and the offered one is not yet.
    wire.stack.configure(ELSEWHERE, 0xFF000000, 0, [])
    wire.link.frames.clear()
    wire.client.start(wire.now)
    (frame,) = [frame for frame in wire.link.frames if frame[12:14] == b"\x08\0"]
    assert flags_of(frame) == 0x8000
    wire.send(message.OFFER, wire.one(message.DISCOVER))
    (frame,) = [frame for frame in wire.link.frames if frame[12:14] == b"\x08\0"]
    assert flags_of(frame) == 0x8000
    wire.send(message.ACK, wire.one(message.REQUEST))
    assert wire.stack.address == OFFERED
    # Without one, they may come to it alone.
    wire = Wire()
    wire.client.start(wire.now)
    assert flags_of(wire.link.frames[0]) == 0
