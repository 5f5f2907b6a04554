// TLS 1.2 and 1.3 by Mbed TLS, without I/O: ciphertext is fed and taken in memory, so that whoever
// owns the connection decides when to compute. Not for more than one thread at a time.
//
// Functions that can fail return 0 or a count on success and a negative code on failure: one of
// those below or one of Mbed TLS's, which tls_error_text() names.
#ifndef CLLM_TLS_H
#define CLLM_TLS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// A session's own room for ciphertext, each way. Output waits where it is full.
enum { TLS_INPUT = 17 * 1024, TLS_OUTPUT = 20 * 1024 };

enum { TLS_PROTOCOLS = 4 };

// Codes that no error of Mbed TLS has.
enum {
    TLS_AGAIN = -1,     // more input, or room for output, is needed
    TLS_MEMORY = -2,    // malloc() failed
    TLS_NO_KEY = -3,    // a server without a certificate
    TLS_WRONG_KEY = -4, // the key is not the certificate's
};

enum { TLS_VERIFY_NONE = 0, TLS_VERIFY_OPTIONAL = 1, TLS_VERIFY_REQUIRED = 2 };

typedef struct tls_context tls_context;
typedef struct tls_session tls_session;

// What many sessions share. A context lives until it is released and its last session is freed.
// *error is set where it returns NULL.
tls_context *tls_context_new(int is_server, int *error);
void tls_context_release(tls_context *context);

// The certificate with its chain, and its key: PEM or DER. A second pair, of another kind of key,
// is offered beside the first.
int tls_context_certificate(tls_context *context, const uint8_t *certificate,
    size_t certificate_size, const uint8_t *key, size_t key_size);

// Authorities that peers are checked against: PEM or DER. How they are checked: TLS_VERIFY_.
int tls_context_trust(tls_context *context, const uint8_t *authorities, size_t size);
void tls_context_verify(tls_context *context, int mode);
// The least version: 0x0303 (TLS 1.2, the default) or 0x0304.
void tls_context_version(tls_context *context, int version);
// Called for each certificate of a peer's chain, from the authority to depth 0, with flags that say
// what Mbed TLS finds wrong with it (MBEDTLS_X509_BADCERT_); returns those that are to count.
// TLS_REFUSED is one of them. May be NULL.
enum { TLS_REFUSED = 0x0100 }; // MBEDTLS_X509_BADCERT_OTHER
typedef uint32_t tls_judge(void *argument, const uint8_t *der, size_t size, int depth,
    uint32_t flags);
void tls_context_judge(tls_context *context, tls_judge *judge, void *argument);
// ALPN names (RFC 7301) that a server takes and a client offers, the preferred first: at most
// TLS_PROTOCOLS of 1 to 31 bytes.
int tls_context_protocols(tls_context *context, const char *const *names, size_t count);
// Cipher suites by name, in order of preference, instead of the default; count of at most 32.
int tls_context_ciphers(tls_context *context, const char *const *names, size_t count);
// Whether ChaCha20-Poly1305 comes before AES: where the processor has no AES instructions. For a
// server it decides in TLS 1.2 only: in 1.3 Mbed TLS takes the first suite of the client's list.
void tls_context_prefer_chacha(tls_context *context, int prefer);

// server_name: of the peer, for SNI and the check of its certificate (clients); NULL: none. *error
// is set where it returns NULL.
tls_session *tls_session_new(tls_context *context, const char *server_name, int *error);
void tls_session_free(tls_session *session);

// Hands over ciphertext from the peer; returns how much was taken.
size_t tls_feed(tls_session *session, const uint8_t *data, size_t size);
// The peer has closed its side: nothing more will be fed.
void tls_end(tls_session *session);
// Ciphertext for the peer: where it lies, and how much; tls_sent() drops its first `size` bytes.
const uint8_t *tls_output(const tls_session *session, size_t *size);
void tls_sent(tls_session *session, size_t size);
// Ciphertext that was fed and is not read yet, in bytes.
size_t tls_input_size(const tls_session *session);

// One step of the handshake, which computes one signature or key exchange at most. 1: the handshake
// is done; 0: call again; TLS_AGAIN: feed first, or take output.
int tls_step(tls_session *session);
int tls_done(const tls_session *session);

// Plaintext. 0: the peer has ended its side, with notice or without (HTTP's own framing shows what
// is missing). TLS_AGAIN: feed first.
int tls_read(tls_session *session, uint8_t *to, size_t size);
// Plaintext that is decrypted already, in bytes.
size_t tls_readable(const tls_session *session);
// Encrypts at most one record; returns how much was taken. TLS_AGAIN: take output first.
int tls_write(tls_session *session, const uint8_t *from, size_t size);
// Tells the peer that nothing follows.
int tls_close(tls_session *session);

// The names of the version and the cipher suite, once the handshake is done.
const char *tls_version(const tls_session *session);
const char *tls_cipher(const tls_session *session);
// The chosen ALPN name, NULL for none.
const char *tls_protocol(const tls_session *session);
// The peer's certificate in DER, NULL for none.
const uint8_t *tls_peer_certificate(const tls_session *session, size_t *size);
// The name of the suite with this place in the list of all, NULL after the last.
const char *tls_suite(size_t place);

// What a code means, as text; for a certificate that was refused, why. session may be NULL.
void tls_error_text(const tls_session *session, int code, char *to, size_t size);

#ifdef __cplusplus
}
#endif

#endif
