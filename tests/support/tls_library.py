"""native/tls from Python: contexts and sessions in memory, and a peer that is CPython's ssl."""

import ssl

import cffi
from cllm import build

LIBRARY = build.TLS_LIBRARY / "libtls_test.so"
AGAIN = -1

CDEF = """
typedef struct tls_context tls_context;
typedef struct tls_session tls_session;
tls_context *tls_context_new(int is_server, int *error);
void tls_context_version(tls_context *context, int version);
void tls_context_release(tls_context *context);
int tls_context_certificate(tls_context *context, const uint8_t *certificate,
    size_t certificate_size, const uint8_t *key, size_t key_size);
int tls_context_trust(tls_context *context, const uint8_t *authorities, size_t size);
void tls_context_verify(tls_context *context, int mode);
int tls_context_protocols(tls_context *context, const char *const *names, size_t count);
int tls_context_ciphers(tls_context *context, const char *const *names, size_t count);
void tls_context_prefer_chacha(tls_context *context, int prefer);
tls_session *tls_session_new(tls_context *context, const char *server_name, int *error);
void tls_session_free(tls_session *session);
size_t tls_feed(tls_session *session, const uint8_t *data, size_t size);
void tls_end(tls_session *session);
const uint8_t *tls_output(const tls_session *session, size_t *size);
void tls_sent(tls_session *session, size_t size);
size_t tls_input_size(const tls_session *session);
int tls_step(tls_session *session);
int tls_done(const tls_session *session);
int tls_read(tls_session *session, uint8_t *to, size_t size);
size_t tls_readable(const tls_session *session);
int tls_write(tls_session *session, const uint8_t *from, size_t size);
int tls_close(tls_session *session);
const char *tls_version(const tls_session *session);
const char *tls_cipher(const tls_session *session);
const char *tls_protocol(const tls_session *session);
const uint8_t *tls_peer_certificate(const tls_session *session, size_t *size);
const char *tls_suite(size_t place);
void tls_error_text(const tls_session *session, int code, char *to, size_t size);
"""


class TlsError(Exception):
    """What native/tls refused. code: as tls.h numbers it."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Library:
    def __init__(self):
        self.ffi = cffi.FFI()
        self.ffi.cdef(CDEF)
        self.so = self.ffi.dlopen(str(LIBRARY))

    def check(self, code, session=None):
        """Return the code; raise TlsError for one that is no success and not AGAIN."""
        if code >= AGAIN:
            return code
        text = self.ffi.new("char[256]")
        self.so.tls_error_text(session or self.ffi.NULL, code, text, 256)
        raise TlsError(code, self.ffi.string(text).decode())

    def suites(self):
        names: list[str] = []
        while (name := self.so.tls_suite(len(names))) != self.ffi.NULL:
            names.append(self.ffi.string(name).decode())
        return names


class Context:
    """server: whether it is a server's. version: the least, as tls.h has it."""

    def __init__(self, library, server=True, version=0x0303):
        self.library = library
        error = library.ffi.new("int *")
        self.pointer = library.so.tls_context_new(server, error)
        if self.pointer == library.ffi.NULL:
            library.check(error[0])
        library.so.tls_context_version(self.pointer, version)

    def certificate(self, certificate, key):
        so = self.library.so
        self.library.check(
            so.tls_context_certificate(self.pointer, certificate, len(certificate), key, len(key))
        )

    def trust(self, authorities, mode=2):
        so = self.library.so
        self.library.check(so.tls_context_trust(self.pointer, authorities, len(authorities)))
        so.tls_context_verify(self.pointer, mode)

    def ciphers(self, *names):
        self._with_names("ciphers", names)

    def protocols(self, *names):
        self._with_names("protocols", names)

    def _with_names(self, what, names):
        ffi = self.library.ffi
        texts = [ffi.new("char[]", name.encode()) for name in names]
        function = getattr(self.library.so, f"tls_context_{what}")
        self.library.check(function(self.pointer, texts, len(texts)))

    def release(self):
        self.library.so.tls_context_release(self.pointer)


class Session:
    """One side of a connection. name: of the server, for a client."""

    def __init__(self, context, name=None):
        library = self.library = context.library
        error = library.ffi.new("int *")
        text = library.ffi.NULL if name is None else name.encode()
        self.pointer = library.so.tls_session_new(context.pointer, text, error)
        if self.pointer == library.ffi.NULL:
            library.check(error[0])
        self.steps = 0

    def feed(self, data):
        """Hand over as much of the data as is taken; return how much that is."""
        return self.library.so.tls_feed(self.pointer, data, len(data))

    def take(self):
        """Return all ciphertext for the peer."""
        size = self.library.ffi.new("size_t *")
        data = self.library.so.tls_output(self.pointer, size)
        taken = bytes(self.library.ffi.buffer(data, size[0]))
        self.library.so.tls_sent(self.pointer, size[0])
        return taken

    def step(self):
        """Do steps of the handshake until it is done or waits; return whether it is done."""
        while True:
            code = self.library.check(self.library.so.tls_step(self.pointer), self.pointer)
            self.steps += 1
            if code != 0:
                return code == 1

    def read(self, size=65536):
        """Return plaintext: b"" at the end, None where more must be fed first."""
        to = self.library.ffi.new("uint8_t[]", size)
        code = self.library.check(self.library.so.tls_read(self.pointer, to, size), self.pointer)
        return None if code == AGAIN else bytes(self.library.ffi.buffer(to, code))

    def write(self, data):
        """Return how much was taken, None where output must be taken first."""
        code = self.library.check(
            self.library.so.tls_write(self.pointer, data, len(data)), self.pointer
        )
        return None if code == AGAIN else code

    def close(self):
        self.library.check(self.library.so.tls_close(self.pointer), self.pointer)

    def text(self, function):
        """Return what a function of tls.h says of the session: "version", "cipher", "protocol"."""
        found = getattr(self.library.so, "tls_" + function)(self.pointer)
        return None if found == self.library.ffi.NULL else self.library.ffi.string(found).decode()

    def peer_certificate(self):
        size = self.library.ffi.new("size_t *")
        data = self.library.so.tls_peer_certificate(self.pointer, size)
        return bytes(self.library.ffi.buffer(data, size[0])) if size[0] else None

    def free(self):
        self.library.so.tls_session_free(self.pointer)


class Peer:
    """CPython's ssl (OpenSSL) as the other side. context: an ssl.SSLContext."""

    def __init__(self, context, server_side=False, name=None, session=None):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=server_side,
            server_hostname=name,
            session=session,
        )
        self.done = False

    def feed(self, data):
        self.incoming.write(data)
        return len(data)

    def take(self):
        return self.outgoing.read()

    def step(self):
        if not self.done:
            try:
                self.object.do_handshake()
                self.done = True
            except ssl.SSLWantReadError:
                pass
        return self.done

    def read(self, size=65536):
        try:
            return self.object.read(size)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""

    def write(self, data):
        return self.object.write(data)


def carry(one, other):
    """Carry the ciphertext of both sides to each other; return how many bytes went each way."""
    moved = [0, 0]
    for direction, (source, sink) in enumerate(((one, other), (other, one))):
        data = source.take()
        moved[direction] = len(data)
        while data:
            taken = sink.feed(data)
            data = data[taken:]
            if data and not taken:
                raise AssertionError("a side takes no more input")
    return moved


def shake_hands(one, other, rounds=20):
    """Do the handshake of both sides; raises what a side raises."""
    for _ in range(rounds):
        done = one.step(), other.step()
        moved = carry(one, other)
        if all(done) and not any(moved):
            return
    raise AssertionError("the handshake does not end")
