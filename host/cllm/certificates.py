"""Certificates for the server: `cllm cert new` makes one that signs itself.

Needs the Python package cryptography.
"""

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from . import CllmError

# A clock that runs behind may still take the certificate.
EARLIER = datetime.timedelta(days=1)


def make(names: list[str], days: int = 3650, kind: str = "ecdsa") -> tuple[bytes, bytes, str]:
    """Return (certificate in PEM, key in PEM, the certificate's SHA-256 fingerprint).

    names: host names and addresses that the certificate is for; the first is also its common name.
    days: how long it is valid. kind: of the key, "ecdsa" (P-256) or "rsa" (2048 bits). Raises
    CllmError for a name that no certificate can hold.
    """
    key = (
        ec.generate_private_key(ec.SECP256R1())
        if kind == "ecdsa"
        else rsa.generate_private_key(65537, 2048)
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    try:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    except (ValueError, IndexError) as error:
        raise CllmError(f"no certificate can be made for {', '.join(names)!r}: {error}") from None
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(alternatives, critical=False)
        # Clients take a self-signed certificate as the authority that vouches for it.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        fingerprint(certificate),
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 fingerprint as browsers and openssl show it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def write(folder: Path, certificate: bytes, key: bytes) -> tuple[Path, Path]:
    """Write cert.pem and key.pem, the key for its owner's eyes only; return their paths.

    Raises CllmError where one of them exists.
    """
    paths = folder / "cert.pem", folder / "key.pem"
    for path in paths:
        if path.exists():
            raise CllmError(f"{path} exists: remove it, or name another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_bytes(certificate)
        descriptor = os.open(paths[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(key)
    except OSError as error:
        raise CllmError(f"cannot write the certificate: {error}") from None
    return paths
