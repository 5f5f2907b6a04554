"""Wire formats: what is emitted parses back, known packets parse, nonsense does not."""

import struct

import pytest
from net import arp, dhcp_message, dns_message, ethernet, icmp, ipv4, udp
from net.tcp import wire as tcp

SOURCE = ipv4.address("192.0.2.1")
TARGET = ipv4.address("198.51.100.7")


def test_ethernet_round_trip():
    frame = bytearray(60)
    ethernet.emit(frame, b"\1\2\3\4\5\6", b"\7\x08\x09\x0a\x0b\x0c", ethernet.TYPE_ARP)
    assert ethernet.parse(frame) == (b"\1\2\3\4\5\6", b"\7\x08\x09\x0a\x0b\x0c", 0x0806)
    assert ethernet.parse(frame[:13]) is None
    assert ethernet.address_text(b"\x52\x54\0\x12\x34\x56") == "52:54:00:12:34:56"


def test_arp_round_trip():
    packet = bytearray(arp.LENGTH)
    fields = (arp.REPLY, b"abcdef", SOURCE, b"ghijkl", TARGET)
    arp.emit(packet, 0, *fields)
    assert arp.parse(packet, 0) == fields
    assert arp.parse(packet[:-1], 0) is None


@pytest.mark.parametrize("at, value", [(1, 6), (2, 9), (4, 8), (5, 16), (7, 3)])
def test_arp_of_another_kind(at, value):
    packet = bytearray(arp.LENGTH)
    arp.emit(packet, 0, arp.REQUEST, b"abcdef", SOURCE, b"ghijkl", TARGET)
    packet[at] = value
    assert arp.parse(packet, 0) is None


def test_ipv4_round_trip():
    packet = bytearray(100)
    ipv4.emit(packet, 14, ipv4.TCP, SOURCE, TARGET, 40)
    assert ipv4.parse(packet, 14) == (ipv4.TCP, SOURCE, TARGET, 34, 74)


def test_ipv4_known_header():
    # The header that Wikipedia's article "IPv4 header checksum" works through.
    packet = bytes.fromhex("45000073000040004011b861c0a80001c0a800c7") + bytes(95)
    assert ipv4.parse(packet, 0) == (
        ipv4.UDP,
        ipv4.address("192.168.0.1"),
        ipv4.address("192.168.0.199"),
        20,
        115,
    )


def _fix(packet):
    packet[10:12] = b"\0\0"
    words = struct.unpack(">10H", packet[:20])
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into(">H", packet, 10, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)


@pytest.mark.parametrize(
    "at, value",
    [
        (0, 0x65),  # version 6
        (0, 0x44),  # header of 16 bytes
        (2, 0xFF),  # longer than the frame
        (3, 19),  # shorter than its header
        (6, 0x20),  # more fragments
        (7, 1),  # a fragment
    ],
)
def test_ipv4_malformed(at, value):
    packet = bytearray(60)
    ipv4.emit(packet, 0, ipv4.UDP, SOURCE, TARGET, 40)
    packet[at] = value
    _fix(packet)
    assert ipv4.parse(packet, 0) is None


def test_ipv4_wrong_checksum_and_short():
    packet = bytearray(60)
    ipv4.emit(packet, 0, ipv4.UDP, SOURCE, TARGET, 40)
    assert ipv4.parse(packet[:19], 0) is None
    packet[8] ^= 1
    assert ipv4.parse(packet, 0) is None


def test_ipv4_options_are_passed_over():
    packet = bytearray(64)
    ipv4.emit(packet, 0, ipv4.UDP, SOURCE, TARGET, 44)
    packet[0] = 0x46
    packet[20:24] = b"\1\1\1\0"
    packet[10:12] = b"\0\0"
    total = sum(struct.unpack(">12H", packet[:24]))
    struct.pack_into(">H", packet, 10, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
    assert ipv4.parse(packet, 0) == (ipv4.UDP, SOURCE, TARGET, 24, 64)


def test_addresses():
    assert ipv4.address("10.0.2.15") == 0x0A00020F
    assert ipv4.address_text(0x0A00020F) == "10.0.2.15"
    assert ipv4.mask(24) == 0xFFFFFF00 and ipv4.mask(0) == 0 and ipv4.mask(32) == 0xFFFFFFFF
    assert ipv4.prefix_length(0xFFFFFF00) == 24
    wrong = ("", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.-4", "a.b.c.d", "1..2.3", "0001.2.3.4")
    for text in wrong:
        with pytest.raises(ValueError):
            ipv4.address(text)
    with pytest.raises(ValueError):
        ipv4.prefix_length(0xFF00FF00)


def test_icmp_round_trip():
    packet = bytearray(100)
    length = icmp.emit(packet, 10, icmp.ECHO_REPLY, 0, 0x12345678, b"payload")
    assert length == 15
    assert icmp.parse(packet, 10, 25) == (icmp.ECHO_REPLY, 0)
    assert packet[14:18] == b"\x12\x34\x56\x78" and packet[18:25] == b"payload"
    assert icmp.parse(packet, 10, 17) is None
    packet[20] ^= 1
    assert icmp.parse(packet, 10, 25) is None


@pytest.mark.parametrize("payload", [b"", b"x", b"some data"])
def test_udp_round_trip(payload):
    packet = bytearray(100)
    packet[12 : 12 + len(payload)] = payload
    length = udp.emit(packet, 4, SOURCE, 68, TARGET, 67, len(payload))
    assert length == 8 + len(payload)
    end = 4 + length
    assert udp.parse(packet, 4, end, SOURCE, TARGET) == (68, 67, 12, end)
    # Bytes behind the datagram are padding; too few are an error.
    assert udp.parse(packet, 4, end + 3, SOURCE, TARGET) == (68, 67, 12, end)
    assert udp.parse(packet, 4, end - 1, SOURCE, TARGET) is None
    assert udp.parse(packet, 4, end, SOURCE, TARGET + 1) is None


def test_udp_checksum_is_optional_and_never_sent_as_zero():
    packet = bytearray(12)
    udp.emit(packet, 0, SOURCE, 1, TARGET, 2, 2)
    # The payload that makes the sum come out as all ones, so that the checksum would be zero.
    packet[8:10] = packet[6:8]
    udp.emit(packet, 0, SOURCE, 1, TARGET, 2, 2)
    assert packet[6:8] == b"\xff\xff"
    assert udp.parse(packet, 0, 10, SOURCE, TARGET) == (1, 2, 8, 10)
    packet[6:8] = b"\0\0"
    packet[8] ^= 0x55
    assert udp.parse(packet, 0, 10, SOURCE, TARGET) == (1, 2, 8, 10)


def test_tcp_round_trip():
    packet = bytearray(100)
    options = tcp.emit_syn_options(1460, 3)
    packet[24 : 24 + len(options)] = options
    header = 20 + len(options)
    packet[4 + header : 4 + header + 5] = b"hello"
    pseudo = ipv4.pseudo_header_sum(ipv4.TCP, SOURCE, TARGET)
    seq, ack = 0x1FEDCBA98, 0xFFFFFFFF
    tcp.emit(packet, 4, 80, 40000, seq, ack, tcp.SYN | tcp.ACK, 512, header, 5, pseudo)
    end = 4 + header + 5
    assert tcp.parse(packet, 4, end, pseudo) == (
        80,
        40000,
        0xFEDCBA98,
        ack,
        tcp.SYN | tcp.ACK,
        512,
        4 + header,
    )
    assert tcp.parse_syn_options(packet, 24, 4 + header) == (1460, 3, False, None)
    assert tcp.parse(packet, 4, 23, pseudo) is None
    assert tcp.parse(packet, 4, end - 1, pseudo) is None
    assert tcp.parse(packet, 4, end, pseudo + 1) is None


@pytest.mark.parametrize("offset", [0, 4, 6, 15])
def test_tcp_wrong_data_offset(offset):
    packet = bytearray(20)
    tcp.emit(packet, 0, 80, 40000, 1, 1, tcp.ACK, 512, 20, 0, 0)
    assert tcp.parse(packet, 0, 20, 0) is not None
    packet[12] = offset << 4
    packet[16:18] = b"\0\0"
    total = sum(struct.unpack(">10H", packet)) + 20
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into(">H", packet, 16, ~total & 0xFFFF)
    assert tcp.parse(packet, 0, 20, 0) is None


@pytest.mark.parametrize(
    "options, expected",
    [
        ("", (536, None)),
        ("020405b4", (1460, None)),
        ("01010204020000", (512, None)),
        ("030307020405b4", (1460, 7)),
        ("03030f", (536, 14)),  # RFC 7323 2.3
        ("0002040001", (536, None)),  # behind the end of the list
        ("0201", (536, None)),  # a length below two
        ("0200", (536, None)),
        ("020405", (536, None)),  # cut short
        ("02", (536, None)),
        ("0203b4030305", (536, 5)),  # an MSS of the wrong length
        ("fd0401020302020405b4", (1460, None)),  # unknown, then a shift without a value
    ],
)
def test_tcp_options(options, expected):
    data = bytes.fromhex(options)
    assert tcp.parse_syn_options(data, 0, len(data))[:2] == expected


def test_dhcp_round_trip():
    mac = b"\x52\x54\0\x12\x34\x56"
    message = dhcp_message.emit(
        dhcp_message.DISCOVER, 0xCAFE0001, 3, 0, mac, [(dhcp_message.HOST_NAME, b"cllm")]
    )
    assert len(message) >= 300
    assert message[:4] == b"\1\1\6\0" and message[28:34] == mac
    # As a server's answer the same bytes parse.
    answer = bytearray(message)
    answer[0] = 2
    answer[16:20] = b"\x0a\0\2\x0f"
    kind, xid, address, got_mac, options = dhcp_message.parse(bytes(answer))
    assert (kind, xid, address, got_mac) == (1, 0xCAFE0001, 0x0A00020F, mac)
    assert options[dhcp_message.HOST_NAME] == b"cllm"
    assert dhcp_message.parse(message) is None
    assert dhcp_message.parse(bytes(answer[:239])) is None


def test_dhcp_options():
    head = bytearray(dhcp_message.emit(dhcp_message.ACK, 1, 0, 0, b"abcdef", [])[:240])
    head[0] = 2

    def parse(tail):
        return dhcp_message.parse(bytes(head) + tail)

    options = parse(b"\x35\1\5\0\0\6\4\1\2\3\4\6\4\5\6\7\x08\xff")[4]
    assert dhcp_message.numbers(options, dhcp_message.DNS_SERVER) == [0x01020304, 0x05060708]
    assert dhcp_message.numbers(options, dhcp_message.ROUTER) == []
    # Cut short, without an end, without a type: what is whole counts, or nothing does.
    assert parse(b"\x35\1\5\6\4\1\2")[4] == {53: b"\5"}
    assert parse(b"\x35\1\5\6")[4] == {53: b"\5"}
    assert parse(b"\6\4\1\2\3\4\xff") is None
    # More options in the file field (RFC 2132 9.3).
    head[108:114] = b"\3\4\x0a\0\2\2"
    head[114] = 255
    options = parse(b"\x35\1\5\x34\1\1\xff")[4]
    assert dhcp_message.numbers(options, dhcp_message.ROUTER) == [0x0A000202]


def _dns_answer(identifier, name, records, code=0, count=None):
    header = struct.pack(
        ">HHHHHH", identifier, 0x8180 | code, 1, len(records) if count is None else count, 0, 0
    )
    return header + name + struct.pack(">HH", 1, 1) + b"".join(records)


def _record(owner, kind, data, ttl=300):
    return owner + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


def test_dns_round_trip():
    name = dns_message.encode_name("Example.com.")
    assert name == b"\7Example\3com\0"
    query = dns_message.emit_query(0x1234, name)
    assert query[:4] == b"\x12\x34\1\0" and query[12:] == name + b"\0\1\0\1"
    records = [
        _record(b"\xc0\x0c", 5, b"\3www\xc0\x14", 60),
        _record(b"\3www\xc0\x14", 1, b"\x5d\xb8\xd8\x22"),
        _record(b"\5other\xc0\x14", 1, b"\1\2\3\4"),
    ]
    answer = _dns_answer(0x1234, name, records)
    assert dns_message.parse_answer(answer, 0x1234, name) == (0, [0x5DB8D822], 60)
    assert dns_message.parse_answer(answer, 0x1235, name) is None
    other = dns_message.encode_name("example.org")
    assert dns_message.parse_answer(answer, 0x1234, other) is None
    assert dns_message.parse_answer(query, 0x1234, name) is None


def test_dns_nonsense():
    name = dns_message.encode_name("a.b")
    loop = _dns_answer(1, b"\xc0\x0c", [])
    assert dns_message.parse_answer(loop, 1, name) is None
    assert dns_message.parse_answer(_dns_answer(1, name, [], 3), 1, name) == (3, [], 0x7FFFFFFF)
    lying = _dns_answer(1, name, [_record(b"\xc0\x0c", 1, b"\1\2\3\4")], count=9999)
    assert dns_message.parse_answer(lying, 1, name)[1] == [0x01020304]
    whole = _dns_answer(1, name, [_record(b"\xc0\x0c", 1, b"\1\2\3\4")] * 3)
    for length in range(len(whole)):
        dns_message.parse_answer(whole[:length], 1, name)


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64, ".".join(["abcdefg"] * 40)])
def test_dns_no_name(name):
    with pytest.raises(ValueError):
        dns_message.encode_name(name)
