"""MicroPython's `ssl` module: `tls`, with certificates from files and functions that used to be."""
# SPDX-License-Identifier: MIT

import tls
from tls import (  # noqa: F401, the module's own names
    CERT_NONE,
    CERT_OPTIONAL,
    CERT_REQUIRED,
    MBEDTLS_VERSION,
    PROTOCOL_TLS_CLIENT,
    PROTOCOL_TLS_SERVER,
    SSLSocket,
    TLSVersion,
)


def _content(thing):
    # A path's file, or the bytes themselves.
    if isinstance(thing, str):
        with open(thing, "rb") as file:
            return file.read()
    return thing


class SSLContext(tls.SSLContext):
    """As tls.SSLContext; certificates and keys may also be paths."""

    def load_cert_chain(self, certfile, keyfile):
        super().load_cert_chain(_content(certfile), _content(keyfile))

    def load_verify_locations(self, cafile=None, cadata=None):
        super().load_verify_locations(_content(cafile) if cadata is None else cadata)


def create_default_context(cafile=None, cadata=None):
    """Return a client's context that trusts these authorities."""
    context = SSLContext(PROTOCOL_TLS_CLIENT)
    if cafile is not None or cadata is not None:
        context.load_verify_locations(cafile, cadata)
    return context


def wrap_socket(
    sock,
    server_side=False,
    key=None,
    cert=None,
    cert_reqs=CERT_NONE,
    cadata=None,
    server_hostname=None,
    do_handshake=True,
):
    """Return an SSLSocket with a context of its own."""
    context = SSLContext(PROTOCOL_TLS_SERVER if server_side else PROTOCOL_TLS_CLIENT)
    context.verify_mode = cert_reqs
    if cert is not None or key is not None:
        context.load_cert_chain(cert, key)
    if cadata is not None:
        context.load_verify_locations(cadata=cadata)
    return context.wrap_socket(
        sock,
        server_side=server_side,
        do_handshake_on_connect=do_handshake,
        server_hostname=server_hostname,
    )
