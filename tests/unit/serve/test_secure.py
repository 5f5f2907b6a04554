"""serve/secure.py: TLS from the configuration, and what the plain port answers beside it."""

import asyncio
import ssl

import pytest
from cllm import certificates

# isort: split
from httpd import Limits
from serve import main
from serve.config_keys import ConfigError
from serve.secure import Redirect
from serve.settings import Settings


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return certificates.write(folder, *certificates.make(["localhost"])[:2])


def settings(config):
    return Settings(config, lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def tls(pair, **more):
    return {"tls": {"cert": str(pair[0]), "key": str(pair[1]), **more}}


@pytest.mark.parametrize(
    "plain, kinds", [("redirect", [Redirect, None]), ("serve", [None, None]), ("off", [None])]
)
def test_the_plain_port_does_what_is_asked(pair, plain, kinds):
    from httpd import App

    app = App()
    servers = main.make_servers(app, settings(tls(pair, plain=plain, port=444)))
    assert [type(s.app) if s.app is not app else None for s in servers] == kinds
    assert servers[-1].ssl is not None and servers[-1].port == 444
    assert all(s.ssl is None and s.port == 80 for s in servers[:-1])


def test_without_the_section_there_is_no_tls():
    from httpd import App

    (server,) = main.make_servers(App(), Settings({}))
    assert server.ssl is None


@pytest.mark.parametrize("key", ["cert", "key"])
def test_a_file_that_is_not_there_is_named(pair, key):
    with pytest.raises(ConfigError) as caught:
        settings(tls(pair, **{key: "/none.pem"}))
    assert caught.value.path == ("tls", key) and "/none.pem" in str(caught.value)


def test_a_file_that_is_no_certificate_is_named(pair):
    with pytest.raises(ConfigError) as caught:
        settings(tls(pair, cert=str(pair[1])))
    assert caught.value.path == ("tls", "cert")


def test_requests_over_tls_and_redirected_ones(pair):
    from httpd import App

    app = App()

    @app.get("/health")
    def health(request):
        return {"status": "ok"}

    @app.post("/echo")
    def echo(request):
        return request.body

    async def talk(port, text, context=None):
        reader, writer = await asyncio.open_connection(
            "localhost", port, ssl=context, server_hostname="localhost" if context else None
        )
        writer.write(text)
        answer = await reader.read()
        writer.close()
        return answer

    async def scenario():
        plain, secure = main.make_servers(app, settings(tls(pair, port=8443)))
        for server in (plain, secure):
            server.host, server.port, server.limits = "127.0.0.1", 0, Limits()
            await server.start()
        ports = [s._server.sockets[0].getsockname()[1] for s in (plain, secure)]
        context = ssl.create_default_context(cafile=pair[0])
        big = b"x" * 100_000
        post = b"POST /echo?a=b HTTP/1.1\r\nHost: h.example:80\r\nConnection: close\r\n"
        post += b"Content-Length: %d\r\n\r\n" % len(big) + big
        get = b"GET /health HTTP/1.1\r\nHost: h.example\r\nConnection: close\r\n\r\n"
        assert (await talk(ports[1], post, context)).endswith(big)
        assert b"200 OK" in await talk(ports[0], get)
        answer = await talk(ports[0], post)
        assert answer.startswith(b"HTTP/1.1 308 ")
        assert b"Location: https://h.example:8443/echo?a=b\r\n" in answer
        answer = await talk(
            ports[0], get.replace(b"/health", b"/x").replace(b"h.example", b"[::1]")
        )
        assert b"Location: https://[::1]:8443/x\r\n" in answer
        for server in (plain, secure):
            await server.close()

    asyncio.run(scenario())
