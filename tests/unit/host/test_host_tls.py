"""HTTPS on the host's side: certificates, flags, the configuration file, the guest's modules."""

import json
import ssl
import stat

import pytest
from cllm import CllmError, certificates, cli, config, run
from cryptography import x509


@pytest.fixture
def pair(tmp_path):
    return certificates.write(tmp_path, *certificates.make(["cllm.local", "10.0.0.2"])[:2])


def made(settings, guest=None, image=__file__):
    return run.make_guest(
        {**config.DEFAULTS, "port": 0, "accel": "tcg", **settings}, guest, image=image
    )


def test_the_command_makes_a_certificate_and_names_its_fingerprint(tmp_path, capsys):
    assert cli.main(["cert", "new", "a.example", "10.0.0.1", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    certificate = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
    assert certificates.fingerprint(certificate) in shown
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["a.example", "10.0.0.1"]
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
        tmp_path / "cert.pem", tmp_path / "key.pem"
    )


def test_an_existing_key_is_not_overwritten(pair, tmp_path, capsys):
    before = pair[1].read_bytes()
    assert cli.main(["cert", "new", "--out", str(tmp_path)]) == 1
    assert "exists: remove it" in capsys.readouterr().err
    assert pair[1].read_bytes() == before


@pytest.mark.parametrize("names", [[""], ["ü.example"], ["a" * 70]])
def test_a_name_that_no_certificate_can_hold_is_said(names):
    with pytest.raises(CllmError, match="no certificate can be made"):
        certificates.make(names)


def test_the_flag_makes_modules_of_both_files(pair):
    guest = made({"tls": f"{pair[0]},{pair[1]}", "tls_port": 12345})
    assert (guest.modules["cert.pem"], guest.modules["key.pem"]) == pair
    assert json.loads(guest.modules["config.json"])["tls"] == {
        "cert": "cert.pem",
        "key": "key.pem",
        "port": 12345,
    }
    line = " ".join(guest.arguments())
    assert "hostfwd=tcp:127.0.0.1:12345-:12345" in line


def test_a_file_names_paths_beside_itself(pair, tmp_path):
    file = tmp_path / "cllm.json"
    file.write_text(json.dumps({"tls": {"cert": "cert.pem", "key": "key.pem", "plain": "off"}}))
    settings, guest_settings = config.settings({"port": 0}, str(file))
    guest = run.make_guest({**settings, "accel": "tcg"}, guest_settings, image=__file__)
    assert guest.modules["cert.pem"] == pair[0]
    assert json.loads(guest.modules["config.json"])["tls"]["plain"] == "off"


@pytest.mark.parametrize(
    "tls, words",
    [
        ({"cert": "cert.pem"}, '"tls.key" is missing'),
        ({}, '"tls.cert" is missing'),
        ({"cert": "cert.pem", "key": "key.pem", "plain": "yes"}, "tls.plain"),
        ({"cert": "cert.pem", "key": "key.pem", "version": "1.1"}, "tls.version"),
        ({"cert": "cert.pem", "key": "key.pem", "ciphers": "x"}, '"tls.ciphers" is unknown'),
        ([], '"tls" must be an object'),
    ],
)
def test_a_mistake_in_the_section_is_named(tls, words, tmp_path):
    file = tmp_path / "cllm.json"
    file.write_text(json.dumps({"tls": tls}))
    with pytest.raises(CllmError, match=words):
        config.settings({}, str(file))


@pytest.mark.parametrize("flag", ["cert.pem", "cert.pem,", ",key.pem"])
def test_the_flag_takes_two_files(flag):
    with pytest.raises(CllmError, match="cllm cert new"):
        made({"tls": flag})


def test_a_missing_file_is_named(pair, tmp_path):
    with pytest.raises(CllmError, match="no key of the certificate .*/none.pem"):
        made({"tls": f"{pair[0]},{tmp_path}/none.pem"})
