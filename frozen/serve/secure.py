"""TLS for the server: its context from the configuration, and what the plain port answers then."""
# SPDX-License-Identifier: MIT

from httpd import App, HttpError

from .config_keys import ConfigError

_VERSIONS = {"1.2": 0x0303, "1.3": 0x0304}


class Tls:
    """The section "tls" of a configuration, with its defaults. port: of TLS; plain: what the other
    port does; context: an ssl.SSLContext.

    path_of: returns the path of a file that the configuration names. make_context: returns a
    server's ssl.SSLContext; the module lies above this package. ConfigError: a file is not there,
    or holds no certificate or no key to it.
    """

    def __init__(self, values, path_of, make_context):
        self.port = values["port"]
        self.plain = values["plain"]
        self.context = context = make_context()
        paths = []
        for key in ("cert", "key"):
            paths.append(path_of(values[key]))
            try:
                open(paths[-1], "rb").close()
            except OSError:
                raise ConfigError(("tls", key), "names no file: " + values[key][:64])
        try:
            context.load_cert_chain(paths[0], paths[1])
        except (OSError, ValueError) as exc:
            words = "and its key cannot be used: %s" % exc
            raise ConfigError(("tls", "cert"), words)
        context.minimum_version = _VERSIONS[values["version"]]
        context.set_alpn_protocols(["http/1.1"])


class Redirect(App):
    """Answers on the plain port: the health of the machine, and for all else where TLS is.

    app: the application on the other port, whose `found` paths are answered here, too. port: of
    TLS, as the client sees it where nothing forwards it.
    """

    OPEN = ("/health", "/v1/health")

    def __init__(self, app, port):
        super().__init__()
        self._app = app
        self._port = port

    def find(self, request):
        if request.path in self.OPEN and request.method in ("GET", "HEAD"):
            return self._app.find(request)
        host = request.headers.get("host", "")
        if host.startswith("["):
            host = host[: host.find("]") + 1]
        else:
            host = host.partition(":")[0]
        if not host:
            raise HttpError(400, "this server is reached by TLS, on port %d" % self._port)
        port = "" if self._port == 443 else ":%d" % self._port
        # 308: a POST stays one (RFC 9110 15.4.9).
        raise HttpError(
            308,
            "this server is reached by TLS",
            {"Location": "https://%s%s%s" % (host, port, request.target)},
        )
