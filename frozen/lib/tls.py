"""MicroPython's `tls` module: sockets that encrypt, over `_tls` (Mbed TLS in memory).

An SSLSocket is a stream over any other stream. Over a socket of this machine it is watched by
asyncio as that is (net/aio.py): nobody polls it. Where it must not wait, a read or write does one
step of the handshake, which is one signature or key exchange at most, and all connections together
do one in a turn of asyncio's loop; so a stream's tokens wait for one step, not for a handshake.
"""
# SPDX-License-Identifier: MIT

import io
import sys

import _tls
from micropython import const

PROTOCOL_TLS_CLIENT = 0
PROTOCOL_TLS_SERVER = 1
CERT_NONE = 0
CERT_OPTIONAL = 1
CERT_REQUIRED = 2
MBEDTLS_VERSION = "Mbed TLS 3.6.6"

# Requests and events of py/stream.h.
_IOCTL_POLL = const(3)
_IOCTL_CLOSE = const(4)
_POLL_RD = const(0x01)
_POLL_WR = const(0x04)
_POLL_NVAL = const(0x20)

_EBADF = const(9)
_EAGAIN = const(11)
_EINVAL = const(22)

_RECORD = const(4096)  # MBEDTLS_SSL_OUT_CONTENT_LEN

# What was read of a stream, between the two copies. One is enough: nobody waits while it is used.
_ciphertext = memoryview(bytearray(4096))
_plaintext = memoryview(bytearray(16384))


class _Turn:
    # The turn of asyncio's loop in which a step of a handshake was done last.
    last = -1


def _turn():
    # The number of asyncio's turn; None where it does not count them.
    core = sys.modules.get("asyncio.core")
    return getattr(core._io_queue, "turn", None) if core is not None else None


class TLSVersion:
    """Versions as they are on the wire (RFC 8446 4.2.1)."""

    TLSv1_2 = 0x0303
    TLSv1_3 = 0x0304


class SSLContext:
    """What many connections share. protocol: PROTOCOL_TLS_CLIENT or _SERVER.

    A client's peer must have a certificate (verify_mode CERT_REQUIRED) that load_verify_locations()
    vouches for; a server asks for none.
    """

    def __init__(self, protocol):
        if protocol not in (PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER):
            raise ValueError("protocol")
        self._server = protocol == PROTOCOL_TLS_SERVER
        self._context = _tls.Context(self._server)
        self._ciphers = None
        self._callback = None
        self._mode = None
        self._version = TLSVersion.TLSv1_2
        self.verify_mode = CERT_NONE if self._server else CERT_REQUIRED

    @property
    def verify_mode(self):
        return self._mode

    @verify_mode.setter
    def verify_mode(self, mode):
        self._context.verify(mode)
        self._mode = mode

    @property
    def minimum_version(self):
        """The least version, of TLSVersion."""
        return self._version

    @minimum_version.setter
    def minimum_version(self, version):
        self._context.version(version)
        self._version = version

    @property
    def verify_callback(self):
        """None, or f(certificate in DER, depth) -> 0 for one that is taken, called for each."""
        return self._callback

    @verify_callback.setter
    def verify_callback(self, callback):
        self._context.judge(callback)
        self._callback = callback

    def load_cert_chain(self, certificate, key):
        """Offer a certificate, with those that vouch for it, and its key: bytes, PEM or DER.

        ValueError: they are not, or do not belong together. Call it twice for two kinds of key.
        """
        try:
            self._context.certificate(certificate, key)
        except OSError as exc:
            raise ValueError(exc.args[1])

    def load_verify_locations(self, cadata):
        """Trust authorities: bytes, PEM or DER. ValueError: they are not."""
        try:
            self._context.trust(cadata)
        except OSError as exc:
            raise ValueError(exc.args[1])

    def get_ciphers(self):
        """Return the names of the cipher suites, in order of preference."""
        return list(self._ciphers or _tls.suites())

    def set_ciphers(self, names):
        """Take these suites only. OSError: an unknown name."""
        self._context.ciphers(names)
        self._ciphers = list(names)

    def set_alpn_protocols(self, names):
        """Agree on one of these application protocols, in order of preference; four at most."""
        self._context.protocols(names)

    def prefer_chacha(self, flag):
        """Prefer ChaCha20 to AES, which is slow without the processor's instructions."""
        self._context.prefer_chacha(flag)

    def wrap_socket(
        self, sock, *, server_side=False, do_handshake_on_connect=True, server_hostname=None
    ):
        """Return an SSLSocket over a stream. server_side: the context knows it, too.

        ValueError: a client that checks certificates needs the name that they have to be for.
        """
        if not self._server and self._mode == CERT_REQUIRED and not server_hostname:
            raise ValueError("CERT_REQUIRED requires server_hostname")
        made = SSLSocket(self, sock, _tls.Session(self._context, server_hostname))
        if do_handshake_on_connect:
            made.do_handshake()
        return made


class SSLSocket(io.IOBase):
    """A TLS connection over a stream: made by SSLContext.wrap_socket()."""

    def __init__(self, context, sock, session):
        self.context = context
        self._socket = sock
        self._session = session
        self._done = False  # the handshake is
        # A client speaks first, once it is connected.
        self._begun = context._server
        self._blocks = True
        self._closed = False
        self._failed = None  # the exception that every later call raises
        # Whether a read would find something without new input.
        self._more = False
        # Bytes of a write that are encrypted, but not all of them sent: the next write begins with
        # the same bytes and counts them.
        self._owed = 0

    # -- Ciphertext -------------------------------------------------------------------------

    def _fill(self):
        # Feeds what the stream has; returns whether there was anything, an end included.
        count = self._socket.readinto(_ciphertext)
        if count is None:
            return False
        if count == 0:
            self._session.end()
        elif self._session.feed(_ciphertext[:count]) != count:
            raise OSError(_EINVAL)  # its room is for what is asked for when it is empty
        return True

    def _flush(self):
        # Sends; returns whether all is sent.
        while True:
            data = self._session.output()
            if not data:
                return True
            count = self._socket.write(data)
            if not count:
                return False
            self._session.sent(count)

    def _check(self):
        if self._closed:
            raise OSError(_EBADF)
        if self._failed is not None:
            raise self._failed

    def _fail(self, exc):
        # The peer gets the alert that says why.
        self._failed = exc
        self._more = True  # a poll reports it
        try:
            self._flush()
        except OSError:
            pass
        raise exc

    # -- Handshake --------------------------------------------------------------------------

    def do_handshake(self):
        """Do the whole handshake, whether or not the stream waits. OSError: it failed."""
        self._check()
        while not self._step():
            if not self._more and not self._blocks:
                _wait(self._socket)

    def _step(self):
        # One step of the handshake; returns whether it is done. _more: there is more to do without
        # new input.
        if self._done:
            return True
        self._begun = True
        try:
            done = self._session.step()
        except OSError as exc:
            self._fail(exc)
        self._flush()
        if done is None:
            self._more = self._fill()
        else:
            self._done = done
            self._more = not done or self._session.input_size() > 0
        return self._done

    def _shaken(self):
        # Goes on with the handshake as far as this call may; returns whether it is done.
        while not self._done:
            if not self._blocks:
                turn = _turn()
                if turn is not None:
                    if turn == _Turn.last:
                        self._more = True  # in a later turn
                        return False
                    _Turn.last = turn
                return self._step()
            self._step()
        return True

    # -- Plaintext --------------------------------------------------------------------------

    def _read_into(self, buf):
        # Returns how many bytes, 0 at the end, None where more would need waiting.
        self._check()
        if not self._done and not self._shaken():
            return None
        session = self._session
        while True:
            try:
                count = session.readinto(buf)
            except OSError as exc:
                self._fail(exc)
            if count is not None:
                self._more = count > 0 and (session.readable() or session.input_size()) > 0
                return count
            self._flush()
            if not self._fill():
                self._more = False
                return None

    def readinto(self, buf, size=0):
        """Read into `buf` what is there, at most `size` bytes unless it is 0; return how many."""
        if size:
            buf = memoryview(buf)[:size]
        return self._read_into(buf)

    def read(self, size=-1):
        """Return `size` bytes, fewer at the end or where more would need waiting; -1: all."""
        if size < -1:
            raise ValueError("negative size")
        parts = []
        left = size
        while left:
            count = self._read_into(_plaintext if left < 0 else _plaintext[:left])
            if not count:
                if count is None and not parts:
                    return None
                break
            parts.append(bytes(_plaintext[:count]))
            left -= count if left > 0 else 0
            if not self._blocks and not self._more:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def recv(self, size):
        """Return at most `size` bytes, b"" at the end. OSError EAGAIN: it would need waiting."""
        count = self._read_into(_plaintext[:size])
        if count is None:
            raise OSError(_EAGAIN)
        return bytes(_plaintext[:count])

    def recv_into(self, buf, size=0):
        """As readinto(). OSError EAGAIN: it would need waiting."""
        count = self.readinto(buf, size)
        if count is None:
            raise OSError(_EAGAIN)
        return count

    def readline(self, size=-1):
        """Return a line with its end; less at the end or where more would need waiting."""
        line = b""
        while size < 0 or len(line) < size:
            count = self._read_into(_plaintext[:1])
            if not count:
                if count is None and not line:
                    return None
                break
            line += _plaintext[:1]
            if line.endswith(b"\n"):
                break
        return line

    def write(self, data):
        """Write `data`; return how many bytes, None where even one would need waiting.

        After fewer than all, the next call has to begin with the bytes that follow these.
        """
        self._check()
        if not self._done and not self._shaken():
            return None
        view = memoryview(data)
        size = len(view)
        at = 0
        while True:
            if not self._flush():
                return at or None
            at += self._owed
            self._owed = 0
            if at >= size:
                return at
            try:
                # With all output sent there is room for a record.
                self._owed = self._session.write(view[at : at + _RECORD])
            except OSError as exc:
                self._fail(exc)

    def send(self, data):
        """As write(). OSError EAGAIN: it would need waiting."""
        count = self.write(data)
        if count is None:
            raise OSError(_EAGAIN)
        return count

    def sendall(self, data):
        """Write all of `data`."""
        at = 0
        data = memoryview(data)
        while at < len(data):
            at += self.send(data[at:])

    # -- The connection ---------------------------------------------------------------------

    def close(self):
        """Tell the peer, as far as that needs no waiting, and close the stream."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._done and self._failed is None:
                self._session.close()
                self._flush()
        except OSError:
            pass
        self._session.free()
        if hasattr(self._socket, "close"):
            self._socket.close()
        else:
            self._socket.ioctl(_IOCTL_CLOSE, 0)

    def __repr__(self):
        return "<SSLSocket>"

    def setblocking(self, flag):
        """Let calls wait, or not."""
        self._blocks = bool(flag)
        self._socket.setblocking(flag)

    def settimeout(self, seconds):
        """Let each call wait for `seconds` at most for the stream; None: without end."""
        self._blocks = seconds is None or seconds > 0
        self._socket.settimeout(seconds)

    def setsockopt(self, *args):
        self._socket.setsockopt(*args)

    def makefile(self, mode="rb", buffering=0):
        """Return the socket itself, which is a stream."""
        return self

    def getpeercert(self, binary_form):
        """Return the peer's certificate in DER, None for none. binary_form: must be True."""
        if not binary_form:
            raise NotImplementedError
        self._check()
        return self._session.peer_certificate()

    def cipher(self):
        """Return (name of the cipher suite, version of the protocol)."""
        self._check()
        return (self._session.cipher(), self._session.version())

    def version(self):
        """Return "TLSv1.2" or "TLSv1.3"."""
        self._check()
        return self._session.version()

    def selected_alpn_protocol(self):
        """Return the application protocol that both sides agreed on, or None."""
        self._check()
        return self._session.protocol()

    def ioctl(self, request, argument):
        """Answer a stream's poll and close requests, and pass others on."""
        if request == _IOCTL_POLL:
            return self._polled(argument, False)
        if request == _IOCTL_CLOSE:
            self.close()
            return 0
        if not hasattr(self._socket, "ioctl"):
            raise OSError(_EINVAL)
        return self._socket.ioctl(request, argument)

    def _polled(self, mask, watched):
        if self._closed or (self._failed is not None and not self._more):
            return _POLL_NVAL
        if self._more and mask & _POLL_RD:
            return _POLL_RD
        if not self._done and mask & (_POLL_RD | _POLL_WR):
            # Either way, the handshake is what goes on, and most times that needs input.
            wanted = mask & (_POLL_RD | _POLL_WR)
            if self._more:
                return wanted
            mask = mask & ~wanted | (_POLL_RD if self._begun else _POLL_WR)
            return wanted if self._ask(mask, watched) else 0
        return self._ask(mask, watched)

    def _ask(self, mask, watched):
        sock = self._socket
        return sock.events(mask) if watched else sock.ioctl(_IOCTL_POLL, mask)

    # -- For net.aio, see socket.socket -----------------------------------------------------

    def watch(self, entry, writing):
        self._socket.watch(entry, writing)

    def events(self, mask):
        return self._polled(mask, True)


def _wait(stream):
    # Until a stream that does not wait itself has input.
    import select

    poll = select.poll()
    poll.register(stream, select.POLLIN)
    poll.poll()
