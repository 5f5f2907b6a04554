"""Fixtures of the TLS tests: the library, certificates, contexts of both sides."""

import ssl

import pytest
from cllm import certificates
from support.tls_library import LIBRARY, Context, Library


@pytest.fixture(scope="session")
def library():
    if not LIBRARY.exists():
        pytest.skip(f"no {LIBRARY}: run `make test`, or cllm.build.build_tls()")
    return Library()


@pytest.fixture(scope="session", params=["ecdsa", "rsa"])
def pair(request):
    return certificates.make(["cllm.local", "127.0.0.1"], kind=request.param)[:2]


@pytest.fixture(scope="session")
def one_pair():
    return certificates.make(["cllm.local"])[:2]


@pytest.fixture
def server(library, pair):
    context = Context(library)
    context.certificate(*pair)
    yield context
    context.release()


@pytest.fixture
def client():
    """A function that makes an ssl.SSLContext of a client that trusts a certificate in PEM."""

    def make(certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=certificate.decode())
        return context

    return make
