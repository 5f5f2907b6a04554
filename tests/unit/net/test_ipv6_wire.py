"""IPv6's bytes and texts: addresses, headers, extension headers, neighbour discovery, selection."""

import struct

import pytest
from net import ipv6
from net.v6 import discovery_message as discovery
from net.v6 import extensions, icmp, mld, selection

A = ipv6.address


@pytest.mark.parametrize(
    "text, written",
    [
        # RFC 5952 1 and 4
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:0DB8:0:0:1::1", "2001:db8::1:0:0:1"),
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
        ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
        ("::", "::"),
        ("::1", "::1"),
        ("1::", "1::"),
        ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("::ffff:c000:201", "::ffff:192.0.2.1"),
        ("64:ff9b::192.0.2.33", "64:ff9b::c000:221"),
        ("fe80::1%0", "fe80::1"),
    ],
)
def test_addresses_as_texts(text, written):
    assert ipv6.address_text(A(text)) == written and A(written) == A(text.partition("%")[0])


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":::",
        "1",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "1::2::3",
        "1:2:3:4:5:6:7:8::",
        ":1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7:",
        "12345::",
        "g::",
        "-1::",
        "+1::",
        "1.2.3.4::",
        "::1.2.3",
        "::1.2.3.4:5",
        "fe80::1%1",
        "fe80::1%",
        "2001:db8::1%0",
        "\u0661::",
    ],
)
def test_no_addresses(text):
    with pytest.raises(ValueError):
        A(text)


def test_kinds_of_addresses():
    assert ipv6.is_link_local(A("fe80::1")) and ipv6.is_link_local(A("febf::"))
    assert not ipv6.is_link_local(A("fec0::1")) and ipv6.is_link_local(A("ff02::1"))
    assert not ipv6.is_link_local(A("ff05::2"))
    for text in ("::", "::1", "::ffff:1.2.3.4", "ff02::1"):
        assert not ipv6.is_host(A(text))
    assert ipv6.is_host(A("2001:db8::1"))
    # RFC 4291 2.7.1's example; RFC 2464 7.
    group = ipv6.solicited_node(A("4037::01:800:200e:8c6c"))
    assert group == A("ff02::1:ff0e:8c6c")
    assert ipv6.hardware_group(group) == b"\x33\x33\xff\x0e\x8c\x6c"
    assert ipv6.mask(A("2001:db8:ffff::1"), 33) == A("2001:db8:8000::")
    assert ipv6.mask(A("2001:db8::1"), 128) == A("2001:db8::1")
    assert ipv6.mask(A("2001:db8::1"), 0) == ipv6.ANY
    assert ipv6.common_prefix(A("2001:db8::"), A("2001:db9::")) == 31
    assert ipv6.common_prefix(A("::1"), A("::1")) == 128
    assert ipv6.interface("2001:db8::5/64") == (A("2001:db8::5"), 64)
    for text in ("2001:db8::5", "2001:db8::5/0", "2001:db8::5/129", "2001:db8::5/x"):
        with pytest.raises(ValueError):
            ipv6.interface(text)


def test_header():
    buf = bytearray(100)
    ipv6.emit(buf, 14, ipv6.UDP, A("2001:db8::1"), A("2001:db8::2"), 46, 9)
    fields = (ipv6.UDP, A("2001:db8::1"), A("2001:db8::2"), 54, 100, 9)
    assert ipv6.parse(buf, 14) == fields
    assert ipv6.parse(buf[:99], 14) is None
    buf[14] = 0x40
    assert ipv6.parse(buf, 14) is None
    assert ipv6.parse(bytes(53), 14) is None


def chain(*headers):
    """Return (bytes, first next header) of extension headers, the last followed by UDP."""
    kinds = [kind for kind, _ in headers] + [ipv6.UDP]
    data = b""
    for number, (_, body) in enumerate(headers):
        data += bytes((kinds[number + 1], (len(body) + 2) // 8 - 1)) + body
    return data, kinds[0]


PAD = b"\1\4" + bytes(4)


@pytest.mark.parametrize(
    "headers, expected",
    [
        ([], (ipv6.UDP, 0, 6, None)),
        ([(0, PAD)], (ipv6.UDP, 8, 0, None)),
        ([(60, PAD), (43, bytes(6)), (60, PAD)], (ipv6.UDP, 24, 16, None)),
        ([(60, bytes(6))], (ipv6.UDP, 8, 0, None)),
        # RFC 8200 4.1: hop-by-hop options come first.
        ([(60, PAD), (0, PAD)], (0, 8, 0, icmp.UNKNOWN_HEADER)),
        # 4.4: segments are left.
        ([(43, b"\0\1" + bytes(4))], (43, 0, 2, icmp.BAD_FIELD)),
        # 4.2: what an unknown option does by its first two bits.
        ([(60, b"\x3e\0" + b"\1\2\0\0")], (ipv6.UDP, 8, 0, None)),
        ([(60, b"\x7e\0" + b"\1\2\0\0")], (60, 0, 2, extensions.DISCARD)),
        ([(60, b"\xbe\0" + b"\1\2\0\0")], (60, 0, 2, icmp.UNKNOWN_OPTION)),
        ([(60, b"\xfe\0" + b"\1\2\0\0")], (60, 0, 2, extensions.UNKNOWN_OPTION_ALONE)),
        # Cut short.
        ([(60, b"\1\5" + bytes(4))], (60, 0, 2, extensions.DISCARD)),
        # Too many.
        ([(60, PAD)] * 7, (ipv6.UDP, 56, 48, None)),
        ([(60, PAD)] * 9, (60, 64, 56, extensions.DISCARD)),
    ],
)
def test_extension_headers(headers, expected):
    data, first = chain(*headers)
    data += bytes(8)
    # The pointer of the first is anywhere but in the chain.
    protocol, start, pointer, code = extensions.skip(data, 0, len(data), first, 6)
    if not headers:
        assert (protocol, start, pointer, code) == expected
        return
    assert (protocol, start, code) == (expected[0], expected[1], expected[3])
    assert pointer == expected[2]
    if code is None:
        for length in range(start):
            assert extensions.skip(data, 0, length, first, 6)[3] in (
                extensions.DISCARD,
                icmp.UNKNOWN_HEADER,
            )


def test_many_options_are_not_read():
    data = bytes((ipv6.UDP, 15)) + b"\x1e\0" * 63
    assert extensions.skip(data, 0, 128, 60, 6)[3] == extensions.DISCARD
    data = bytes((ipv6.UDP, 15)) + bytes(126)
    assert extensions.skip(data, 0, 128, 60, 6)[0] == ipv6.UDP


# Byte by byte as RFC 4861 4.3 and 4.6.1 draw it: target fe80::2, from 02:00:00:00:00:01.
SOLICITATION = bytes.fromhex(
    "8700" + "0000" + "00000000" + "fe800000000000000000000000000002" + "0101" + "020000000001"
)


def test_solicitation_is_what_the_rfc_draws():
    buf = bytearray(40)
    source, target = A("fe80::1"), A("fe80::2")
    group = ipv6.solicited_node(target)
    length = discovery.emit_solicitation(buf, 0, source, group, target, b"\2\0\0\0\0\1")
    assert length == 32
    assert buf[:2] + b"\0\0" + buf[4:32] == SOLICITATION
    # Verified word by word, not by the code that made it.
    words = source + group + struct.pack(">IHBB", 32, 0, 0, 58) + bytes(buf[:32])
    total = sum(struct.unpack(">%dH" % (len(words) // 2), words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF
    assert icmp.parse(buf, 0, 32, source, group) == (135, 0)
    assert discovery.parse_neighbour(buf, 0, 32) == (0, target, b"\2\0\0\0\0\1")


@pytest.mark.parametrize(
    "options",
    [
        b"\1",
        b"\1\0" + bytes(6),
        b"\1\2" + bytes(6),
        b"\1\1" + bytes(5),
        (b"\x0e\1" + bytes(6)) * 33,
    ],
)
def test_malformed_options(options):
    message = SOLICITATION[:24] + options
    assert discovery.parse_neighbour(message, 0, len(message)) is None
    message = bytes((134, 0)) + bytes(14) + options
    assert discovery.parse_router_advertisement(message, 0, len(message)) is None


def test_hardware_addresses_of_nobody_are_not_read():
    for mac in (b"\1\0\0\0\0\0", b"\xff" * 6, bytes(6)):
        message = SOLICITATION[:26] + mac
        assert discovery.parse_neighbour(message, 0, len(message))[2] is None


# Byte by byte as RFC 4861 4.2, 4.6.2 and 4.6.4, RFC 4191 2.2 and RFC 8106 5.1 draw it: a prefix,
# an MTU, name servers and the router's hardware address.
ADVERTISEMENT = bytes.fromhex(
    "86 00 0000 40 c8 0708 00007530 000003e8"
    "03 04 40 c0 00015180 00003840 00000000 20010db8000000010000000000000000"
    "05 01 0000 00000578"
    "19 05 0000 00000258 20010db8000000000000000000000053 fe800000000000000000000000000053"
    "01 01 0200000000fe".replace(" ", "")
)


def test_router_advertisement():
    said = discovery.parse_router_advertisement(ADVERTISEMENT, 0, len(ADVERTISEMENT))
    assert (said.lifetime, said.reachable_ms, said.retransmit_ms) == (1800, 30000, 1000)
    assert (said.managed, said.other, said.preference, said.mtu) == (True, True, 1, 1400)
    assert said.mac == b"\2\0\0\0\0\xfe"
    assert said.prefixes == [(A("2001:db8:0:1::"), 64, True, True, 86400, 14400)]
    assert said.servers == [(A("2001:db8::53"), 600), (A("fe80::53"), 600)]
    for length in range(len(ADVERTISEMENT)):
        discovery.parse_router_advertisement(ADVERTISEMENT, 0, length)
    # RFC 4191 2.2: 10 is reserved and means the same as 0.
    for bits, preference in ((0, 0), (8, 1), (16, 0), (24, -1)):
        data = bytearray(ADVERTISEMENT)
        data[5] = bits
        assert discovery.parse_router_advertisement(data, 0, len(data)).preference == preference


@pytest.mark.parametrize(
    "at, value",
    [
        (18, 129),  # longer than an address
        (24, 1),  # preferred for longer than valid
        (32, 0xFE),  # fe80::/64 (with the next)
        (32, 0xFF),  # a group's
    ],
)
def test_prefixes_of_nobody(at, value):
    data = bytearray(ADVERTISEMENT)
    data[at] = value
    if value == 0xFE:
        data[33] = 0x80
    if value == 1:
        data[24:28] = b"\0\2\0\0"
    assert discovery.parse_router_advertisement(data, 0, len(data)).prefixes == []


def test_queries_for_listeners():
    group = A("ff02::fb")
    v1 = struct.pack(">BBHHH", 130, 0, 0, 5000, 0) + bytes(16)
    assert mld.parse_query(v1, 0, 24) == (1, 5000, None)
    v2 = struct.pack(">BBHHH", 130, 0, 0, 1000, 0) + group + bytes(4)
    assert mld.parse_query(v2, 0, 28) == (2, 1000, group)
    # RFC 3810 5.1.3
    slow = struct.pack(">BBHHH", 130, 0, 0, 0x8000, 0) + bytes(20)
    assert mld.parse_query(slow, 0, 28) == (2, 32768, None)
    for length in (23, 25, 27):
        assert mld.parse_query(v2, 0, length) is None
    assert mld.parse_query(v2[:8] + A("2001:db8::1") + v2[24:], 0, 28) is None


@pytest.mark.parametrize(
    "candidates, destination, best",
    [
        # RFC 6724 10.1
        (["2001:db8:1::1", "fe80::1"], "2001:db8:2::1", "2001:db8:1::1"),
        (["2001:db8::1", "fe80::1"], "ff05::1", "2001:db8::1"),
        (["2001:db8::2", "fe80::2"], "fe80::1", "fe80::2"),
        (["fe80::1", "2001:db8::1"], "2001:db8::1", "2001:db8::1"),
        (["2001:db8:1::2", "2001:db8:3::2"], "2001:db8:1::1", "2001:db8:1::2"),
        (["2002:c633:6401::1", "2001:db8:1::2"], "2002:c633:6401::99", "2002:c633:6401::1"),
        (["fd00::1", "2001:db8::1"], "2001:db8:5::1", "2001:db8::1"),
        ([], "2001:db8::1", None),
    ],
)
def test_source_selection(candidates, destination, best):
    for order in (candidates, list(reversed(candidates))):
        found = selection.source([(A(text), False) for text in order], A(destination))
        assert found == (A(best) if best else None)


def test_a_deprecated_source_is_second_choice():
    # RFC 6724 5, rule 3, which comes before the longest prefix.
    candidates = [(A("2001:db8:1::2"), True), (A("2001:db8:3::2"), False)]
    assert selection.source(candidates, A("2001:db8:1::1")) == A("2001:db8:3::2")


@pytest.mark.parametrize(
    "sources, destinations, expected",
    [
        # RFC 6724 10.2
        (
            {"2001:db8:1::1": "2001:db8:1::2", "198.51.100.121": "169.254.13.78"},
            ["198.51.100.121", "2001:db8:1::1"],
            ["2001:db8:1::1", "198.51.100.121"],
        ),
        (
            {"2001:db8:1::1": "fe80::1", "198.51.100.121": "198.51.100.117"},
            ["2001:db8:1::1", "198.51.100.121"],
            ["198.51.100.121", "2001:db8:1::1"],
        ),
        (
            {"2001:db8:1::1": "2001:db8:1::2", "10.1.2.3": "10.1.2.4"},
            ["10.1.2.3", "2001:db8:1::1"],
            ["2001:db8:1::1", "10.1.2.3"],
        ),
        (
            {"2001:db8:1::1": "2001:db8:1::2", "fe80::1": "fe80::2"},
            ["2001:db8:1::1", "fe80::1"],
            ["fe80::1", "2001:db8:1::1"],
        ),
        ({"10.1.2.3": "10.1.2.4"}, ["2001:db8:1::1", "10.1.2.3"], ["10.1.2.3", "2001:db8:1::1"]),
    ],
)
def test_order_of_destinations(sources, destinations, expected):
    def of(text):
        return A(text if ":" in text else "::ffff:" + text)

    known = {of(one): of(other) for one, other in sources.items()}
    found = selection.order([of(t) for t in destinations], known.get, lambda own: False)
    assert found == [of(text) for text in expected]
