"""UDP: endpoints, their ports and queues, and what a closed port answers, over both IPs."""

import pytest
from net import icmp, ipv6, udp
from net.v6 import icmp as icmp6
from scripted import Peer, loopback, speaks_ipv6

BOTH_FAMILIES = True


@pytest.fixture
def peer():
    return Peer()


def everybody():
    """Return an address that all hosts of the link listen to."""
    return ipv6.ALL_NODES if speaks_ipv6() else 0x0A0000FF


def test_udp_both_ways(peer):
    endpoint = peer.stack.open_udp(7)
    peer.datagram(1234, 7, b"hello")
    peer.datagram(1234, 7, b"all", destination=everybody())
    assert endpoint.receive() == (b"hello", peer.remote, 1234)
    assert endpoint.receive() == (b"all", peer.remote, 1234)
    assert endpoint.receive() is None
    endpoint.send(b"answer", peer.remote, 1234)
    (frame,) = peer.frames()
    _, source, destination, start, end = peer.family.parse(frame, 14)[:5]
    header = udp.parse(frame, start, end, source, destination)
    assert header[:2] == (7, 1234) and frame[header[2] : header[3]] == b"answer"


def test_udp_connected_hears_its_peer_only(peer):
    endpoint = peer.stack.open_udp(7)
    endpoint.remote = (peer.remote, 99)
    peer.datagram(98, 7, b"no")
    peer.datagram(99, 7, b"yes")
    assert endpoint.receive()[0] == b"yes" and not endpoint.ready()


def test_udp_queue_is_bounded(peer):
    endpoint = peer.stack.open_udp(7)
    for _ in range(1000):
        peer.datagram(1, 7, bytes(1400))
    count = 0
    while endpoint.receive():
        count += 1
    assert count == 65536 // 1400


def test_udp_ports(peer):
    endpoint = peer.stack.open_udp(0)
    assert endpoint.port >= 49152
    with pytest.raises(OSError):
        peer.stack.open_udp(endpoint.port)
    endpoint.close()
    peer.stack.open_udp(endpoint.port)


def test_udp_too_long(peer):
    peer.stack.send_udp(7, peer.remote, 7, bytes(1472))
    assert len(peer.frames()) == 1
    peer.stack.send_udp(7, peer.remote, 7, bytes(1473))
    assert len(peer.frames()) == 2
    with pytest.raises(OSError) as error:
        peer.stack.send_udp(7, peer.remote, 7, bytes(65528))
    assert error.value.args[0] == 90


def test_udp_to_a_closed_port_is_unreachable_at_a_bounded_rate(peer):
    for _ in range(100):
        peer.datagram(1234, 9, b"anybody?")
    (frame,) = peer.frames()
    _, source, destination, start, end = peer.family.parse(frame, 14)[:5]
    if speaks_ipv6():
        assert icmp6.parse(frame, start, end, source, destination) == (1, 4)
        # RFC 4443 2.4 (c): as much as fits.
        assert end - start == 8 + 40 + 8 + 8
    else:
        assert icmp.parse(frame, start, end) == (icmp.UNREACHABLE, icmp.PORT_UNREACHABLE)
        # RFC 792: the header and 64 bits of what was sent.
        assert end - start == 8 + 28
    peer.datagram(1234, 9, b"all", destination=everybody())
    assert peer.frames() == []


def test_ephemeral_ports_run_out_with_an_error(peer):
    peer.stack._udp_port_free = lambda port: False
    with pytest.raises(OSError) as error:
        peer.stack.open_udp(0)
    assert error.value.args[0] == 98


def test_udp_of_one_address_gets_what_is_for_it(peer):
    endpoint = peer.stack.open_udp(7, None, loopback())
    peer.datagram(1234, 7, b"from outside")
    peer.datagram(1234, 7, b"for all", destination=everybody())
    assert not endpoint.ready()
    # Nobody is there, as far as the network can see.
    (frame,) = peer.frames()
    assert peer.family.parse(frame, 14)[0] == peer.family.ICMP
    peer.stack.send_udp(9, loopback(), 7, b"from inside")
    peer.poll()
    assert endpoint.receive() == (b"from inside", loopback(), 9)
    with pytest.raises(OSError) as error:
        endpoint.send(b"x", peer.remote, 1234)
    assert error.value.args[0] == 22
    own = peer.stack.open_udp(8, None, peer.local)
    peer.datagram(1234, 8, b"from outside")
    assert own.receive()[0] == b"from outside"
    own.send(b"answer", peer.remote, 1234)
    assert peer.family.parse(peer.frames()[0], 14)[1] == peer.local
    # Inside, it is still the sender.
    own.send(b"x", loopback(), 7)
    peer.poll()
    assert endpoint.receive() == (b"x", peer.local, 8)
