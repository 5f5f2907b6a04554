"""native/tls against OpenSSL: handshakes, data, resumption, refusals, hostile input."""

import os
import random
import ssl

import pytest
from support.tls_library import Context, Peer, Session, TlsError, carry, shake_hands


def connected(server, context, name="cllm.local", **options):
    session, peer = Session(server), Peer(context, name=name, **options)
    shake_hands(session, peer)
    return session, peer


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_openssl_talks_to_the_server_in_both_versions(server, pair, client, version):
    context = client(pair[0])
    context.minimum_version = context.maximum_version = version
    session, peer = connected(server, context)
    assert session.text("version") == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    assert peer.object.cipher()[0] and "GCM" in session.text("cipher")
    peer.write(b"GET / HTTP/1.1\r\n\r\n")
    carry(session, peer)
    assert session.read() == b"GET / HTTP/1.1\r\n\r\n" and session.read() is None
    assert session.write(b"answer") == 6
    carry(session, peer)
    assert peer.read() == b"answer"
    session.free()


def test_more_than_a_record_arrives_whole_in_both_directions(server, pair, client):
    session, peer = connected(server, client(pair[0]))
    sent = os.urandom(300_000)
    at, got = 0, b""
    while at < len(sent):
        taken = session.write(sent[at : at + 16384])
        at += taken or 0
        carry(session, peer)
        got += peer.read() or b""
    while piece := peer.read():
        got += piece
    assert got == sent
    at, got = 0, b""
    while at < len(sent):
        at += peer.write(sent[at : at + 16384])
        data = peer.take()
        while data:  # a record is larger than what a read leaves room for
            data = data[session.feed(data) :]
            while piece := session.read(1000):
                got += piece
    assert got == sent
    session.free()


def test_the_server_takes_no_more_than_its_room(server, pair, client):
    session, peer = connected(server, client(pair[0]))
    taken = 0
    while (size := session.write(b"x" * 4096)) is not None:
        assert 4000 < size <= 4096  # one record
        taken += size
    assert 12_000 < taken <= 20 * 1024
    carry(session, peer)
    assert session.write(b"y") == 1
    session.free()


def test_input_that_does_not_fit_stays_with_the_caller(server):
    session = Session(server)
    assert session.feed(b"\x16" * 100_000) == 17 * 1024
    assert session.feed(b"\x16") == 0
    session.free()


def test_one_step_computes_one_part_of_the_handshake(library, server, pair, client):
    session, peer = Session(server), Peer(client(pair[0]), name="cllm.local")
    peer.step()
    session.feed(peer.take())
    steps = 0
    while (code := library.so.tls_step(session.pointer)) == 0:
        steps += 1
    assert code == -1 and steps >= 4  # the server's flight is not one piece of work
    session.free()


def test_a_ticket_resumes_a_session(server, pair, client):
    context = client(pair[0])
    session, peer = connected(server, context)
    session.write(b"x")  # TLS 1.3 sends tickets after the handshake
    carry(session, peer)
    peer.read()
    again = Session(server), Peer(context, name="cllm.local", session=peer.object.session)
    shake_hands(*again)
    assert again[1].object.session_reused
    for one in (session, again[0]):
        one.free()


def test_a_ticket_of_another_server_is_no_ticket(library, server, pair, client):
    context = client(pair[0])
    session, peer = connected(server, context)
    session.write(b"x")
    carry(session, peer)
    peer.read()
    other = Context(library)
    other.certificate(*pair)
    again = Session(other), Peer(context, name="cllm.local", session=peer.object.session)
    shake_hands(*again)
    assert not again[1].object.session_reused
    again[0].free()
    session.free()
    other.release()


def test_chacha_comes_first_where_asked_for(library, server, pair, client):
    library.so.tls_context_prefer_chacha(server.pointer, 1)
    context = client(pair[0])
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # in 1.3 the client's order decides
    session, peer = connected(server, context)
    assert "CHACHA20" in session.text("cipher") and "CHACHA20" in peer.object.cipher()[0]
    session.free()


def test_the_application_protocol_is_agreed_upon(server, pair, client):
    server.protocols("http/1.1", "http/1.0")
    context = client(pair[0])
    context.set_alpn_protocols(["h2", "http/1.1"])
    session, peer = connected(server, context)
    assert peer.object.selected_alpn_protocol() == session.text("protocol") == "http/1.1"
    session.free()


@pytest.mark.parametrize(
    "ciphers",
    ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"],
)
def test_old_suites_are_refused(server, pair, client, ciphers):
    context = client(pair[0])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers + ":@SECLEVEL=0")
    session, peer = Session(server), Peer(context, name="cllm.local")
    with pytest.raises(TlsError):
        shake_hands(session, peer)
    assert session.take()[:1] == b"\x15"  # an alert says so
    session.free()


def test_a_server_of_tls_1_3_refuses_1_2(library, pair, client):
    server = Context(library, version=0x0304)
    server.certificate(*pair)
    context = client(pair[0])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session = Session(server)
    with pytest.raises(TlsError):
        shake_hands(session, Peer(context, name="cllm.local"))
    session.free()
    server.release()


def test_names_of_suites_and_protocols_are_checked(server):
    for names in ((), ("TLS1-3-AES-128-GCM-SHA256", "no such suite")):
        with pytest.raises(TlsError):
            server.ciphers(*names)
    for names in (("",), ("x" * 32,), ("a", "b", "c", "d", "e")):
        with pytest.raises(TlsError):
            server.protocols(*names)


def test_only_suites_with_forward_secrecy_are_offered(library):
    names = library.suites()
    assert len(names) == 9
    assert all(name.startswith(("TLS1-3-", "TLS-ECDHE-")) for name in names)
    assert all("GCM" in name or "CHACHA20" in name for name in names)


def test_both_kinds_of_certificate_can_be_offered(library, client):
    from cllm import certificates

    pairs = {kind: certificates.make(["cllm.local"], kind=kind)[:2] for kind in ("ecdsa", "rsa")}
    server = Context(library)
    for one in pairs.values():
        server.certificate(*one)
    for kind, one in pairs.items():
        context = client(one[0])
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"ECDHE-{kind.upper()}-AES128-GCM-SHA256")
        session, _ = connected(server, context)
        assert kind.upper() in session.text("cipher")
        session.free()
    with pytest.raises(TlsError):
        server.certificate(*pairs["rsa"])  # a third
    server.release()


# --- certificates and keys


def test_a_key_that_is_another_certificates_is_refused(library, one_pair):
    from cllm import certificates

    other = certificates.make(["other"])[1]
    context = Context(library)
    with pytest.raises(TlsError, match="the key does not belong"):
        context.certificate(one_pair[0], other)
    context.certificate(*one_pair)  # the refused pair left nothing behind
    context.release()


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("text", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nxx", b"\x30\x82"])
def test_what_is_no_certificate_or_key_is_refused(library, one_pair, part, text):
    context = Context(library)
    given = list(one_pair)
    given[part] = text
    with pytest.raises(TlsError):
        context.certificate(*given)
    session = Session(context)
    with pytest.raises(TlsError, match="needs a certificate"):
        session.step()
    session.free()
    context.release()


def test_der_is_taken_as_pem_is(library, one_pair, client):
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    der = serialization.Encoding.DER
    certificate = x509.load_pem_x509_certificate(one_pair[0]).public_bytes(der)
    key = serialization.load_pem_private_key(one_pair[1], None).private_bytes(
        der, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    server = Context(library)
    server.certificate(certificate, key)
    session, _ = connected(server, client(one_pair[0]))
    session.free()
    server.release()


# --- clients


def openssl_server(pair, tmp_path):
    for name, content in zip(("cert.pem", "key.pem"), pair):
        (tmp_path / name).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


def test_a_client_checks_the_certificate_and_the_name(library, pair, tmp_path):
    served = openssl_server(pair, tmp_path)
    client = Context(library, server=False)
    client.trust(pair[0])
    session, peer = Session(client, "cllm.local"), Peer(served, server_side=True)
    shake_hands(session, peer)
    assert session.peer_certificate() == ssl.PEM_cert_to_DER_cert(pair[0].decode())
    session.write(b"hello")
    carry(session, peer)
    assert peer.read() == b"hello"
    session.free()
    session = Session(client, "other.local")
    with pytest.raises(TlsError, match="Common Name|does not match"):
        shake_hands(session, Peer(served, server_side=True))
    session.free()
    client.release()


def test_a_client_refuses_an_authority_that_it_does_not_trust(library, pair, tmp_path):
    from cllm import certificates

    client = Context(library, server=False)
    client.trust(certificates.make(["other"])[0])
    session = Session(client, "cllm.local")
    with pytest.raises(TlsError, match="not correctly signed by the trusted CA"):
        shake_hands(session, Peer(openssl_server(pair, tmp_path), server_side=True))
    session.free()
    client.release()


def test_both_sides_can_be_ours(library, pair):
    server, client = Context(library), Context(library, server=False)
    server.certificate(*pair)
    one, other = Session(server), Session(client)
    shake_hands(one, other)
    assert one.text("version") == other.text("version") == "TLSv1.3"
    for sender, receiver in ((one, other), (other, one)):
        sender.write(b"text")
        carry(one, other)
        found = receiver.read()
        assert (receiver.read() if found is None else found) == b"text"  # after a ticket
    for thing in (one, other):
        thing.free()
    server.release()
    client.release()


# --- the end of a connection


def test_the_peers_end_in_order_is_not_an_error(server, pair, client):
    session, peer = connected(server, client(pair[0]))
    peer.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        peer.object.unwrap()
    carry(session, peer)
    assert session.read() == b"last" and session.read() == b"" and session.read() == b""
    session.close()
    carry(session, peer)
    assert peer.read() == b""
    session.free()


def test_an_end_without_notice_ends_reading_too(library, server, pair, client):
    session, peer = connected(server, client(pair[0]))
    peer.write(b"last")
    carry(session, peer)
    library.so.tls_end(session.pointer)
    assert session.read() == b"last" and session.read() == b""
    session.free()


def test_an_end_within_the_handshake_is_an_error(library, server, pair, client):
    session, peer = Session(server), Peer(client(pair[0]), name="cllm.local")
    peer.step()
    session.feed(peer.take()[:50])
    library.so.tls_end(session.pointer)
    with pytest.raises(TlsError):
        session.step()
    session.free()


def test_a_context_lives_as_long_as_its_sessions(library, one_pair, client):
    server = Context(library)
    server.certificate(*one_pair)
    session, peer = Session(server), Peer(client(one_pair[0]), name="cllm.local")
    server.release()
    shake_hands(session, peer)
    session.write(b"still")
    carry(session, peer)
    assert peer.read() == b"still"
    session.free()


# --- hostile input


def test_plain_http_is_refused_at_once(server):
    session = Session(server)
    session.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(TlsError):
        session.step()
    with pytest.raises(TlsError):  # and stays so
        session.step()
    session.free()


def test_a_record_that_was_changed_on_the_way_ends_the_session(server, pair, client):
    session, peer = connected(server, client(pair[0]))
    peer.write(b"text")
    record = bytearray(peer.take())
    record[-1] ^= 1
    session.feed(bytes(record))
    with pytest.raises(TlsError):
        session.read()
    with pytest.raises(TlsError):
        session.write(b"x")
    session.free()


def test_mutated_handshakes_end_in_an_error_or_wait(library, one_pair, client):
    """A client hello and a client's second flight with bytes changed, cut, doubled."""
    server = Context(library)
    server.certificate(*one_pair)
    chance = random.Random(7)
    ended = 0
    for _ in range(600):
        session, peer = Session(server), Peer(client(one_pair[0]), name="cllm.local")
        flights = chance.randrange(1, 3)
        try:
            for flight in range(flights):
                peer.step()
                data = bytearray(peer.take())
                if flight == flights - 1:
                    for _change in range(chance.randrange(1, 6)):
                        if not data:
                            break
                        at = chance.randrange(len(data))
                        match chance.randrange(4):
                            case 0:
                                data[at] = chance.randrange(256)
                            case 1:
                                del data[at : at + chance.randrange(1, 40)]
                            case 2:
                                data[at:at] = data[at : at + chance.randrange(1, 40)]
                            case 3:
                                data[at:at] = bytes(chance.randrange(1, 200))
                session.feed(bytes(data))
                session.step()
                peer.feed(session.take())
            session.read()
        except (TlsError, ssl.SSLError):
            ended += 1
        session.free()
    assert ended > 300
    server.release()
