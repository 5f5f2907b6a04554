// TLS sessions in memory over Mbed TLS: see tls.h.
#include "tls.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "mbedtls/ctr_drbg.h"
#include "mbedtls/entropy.h"
#include "mbedtls/error.h"
#include "mbedtls/pk.h"
#include "mbedtls/ssl.h"
#include "mbedtls/ssl_ticket.h"
#include "mbedtls/x509_crt.h"
#include "psa/crypto.h"

enum {
    MAX_PAIRS = 2,   // an ECDSA and an RSA certificate
    MAX_SUITES = 32, // that tls_context_ciphers() takes
    // Of a ticket, in seconds; a client that comes back within it needs no certificate.
    TICKET_LIFETIME = 24 * 3600,
};

typedef struct {
    mbedtls_x509_crt certificate;
    mbedtls_pk_context key;
} pair;

struct tls_context {
    unsigned references; // its owner's, and one of each session
    bool is_server, has_trust;
    mbedtls_ssl_config config;
    tls_judge *judge;
    void *judge_argument;
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
    mbedtls_ssl_ticket_context tickets;
    mbedtls_x509_crt authorities;
    pair pairs[MAX_PAIRS];
    size_t n_pairs;
    int suites[MAX_SUITES + 1];
    char protocol[TLS_PROTOCOLS][32];
    const char *protocols[TLS_PROTOCOLS + 1];
};

struct tls_session {
    tls_context *context;
    mbedtls_ssl_context ssl;
    bool ended;
    int failed; // the code of a fatal error, for every call after it
    size_t input_start, input_end, output_start, output_end;
    uint8_t input[TLS_INPUT], output[TLS_OUTPUT];
};

// Suites with forward secrecy and authenticated encryption, AES first.
static const int suites[] = {
    MBEDTLS_TLS1_3_AES_128_GCM_SHA256,
    MBEDTLS_TLS1_3_AES_256_GCM_SHA384,
    MBEDTLS_TLS1_3_CHACHA20_POLY1305_SHA256,
    MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    MBEDTLS_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    MBEDTLS_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    MBEDTLS_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    MBEDTLS_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    0,
};
static const int chacha_first[] = {
    MBEDTLS_TLS1_3_CHACHA20_POLY1305_SHA256,
    MBEDTLS_TLS1_3_AES_128_GCM_SHA256,
    MBEDTLS_TLS1_3_AES_256_GCM_SHA384,
    MBEDTLS_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    MBEDTLS_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    MBEDTLS_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    MBEDTLS_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    0,
};

// Called by Mbed TLS, which declares it.
int mbedtls_hardware_poll(void *data, unsigned char *output, size_t size, size_t *given) {
    (void)data;
    ssize_t got = getrandom(output, size, 0);
    *given = got < 0 ? 0 : (size_t)got;
    return got < 0 ? MBEDTLS_ERR_ENTROPY_SOURCE_FAILED : 0;
}

// --- contexts

// The parts of a context that may fail; what is initialised by then can be freed.
static int set_up(tls_context *context) {
    static const unsigned char purpose[] = "cllm tls";
    int code = mbedtls_ctr_drbg_seed(&context->random, mbedtls_entropy_func, &context->entropy,
        purpose, sizeof purpose - 1);
    if (code == 0) {
        code = mbedtls_ssl_config_defaults(&context->config,
            context->is_server ? MBEDTLS_SSL_IS_SERVER : MBEDTLS_SSL_IS_CLIENT,
            MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT);
    }
    mbedtls_ssl_conf_rng(&context->config, mbedtls_ctr_drbg_random, &context->random);
    tls_context_version(context, 0x0303);
    mbedtls_ssl_conf_ciphersuites(&context->config, suites);
    mbedtls_ssl_conf_authmode(&context->config, MBEDTLS_SSL_VERIFY_NONE);
    if (context->is_server && code == 0) {
        // Keys live in memory only and change with each start, and once in a lifetime.
        code = mbedtls_ssl_ticket_setup(&context->tickets, mbedtls_ctr_drbg_random,
            &context->random, MBEDTLS_CIPHER_AES_256_GCM, TICKET_LIFETIME);
        mbedtls_ssl_conf_session_tickets_cb(&context->config, mbedtls_ssl_ticket_write,
            mbedtls_ssl_ticket_parse, &context->tickets);
        mbedtls_ssl_conf_preference_order(&context->config,
            MBEDTLS_SSL_SRV_CIPHERSUITE_ORDER_SERVER);
    }
    return code;
}

tls_context *tls_context_new(int is_server, int *error) {
    tls_context *context = calloc(1, sizeof *context);
    if (!context) {
        *error = TLS_MEMORY;
        return NULL;
    }
    context->references = 1;
    context->is_server = is_server != 0;
    mbedtls_ssl_config_init(&context->config);
    mbedtls_entropy_init(&context->entropy);
    mbedtls_ctr_drbg_init(&context->random);
    mbedtls_ssl_ticket_init(&context->tickets);
    mbedtls_x509_crt_init(&context->authorities);
    for (size_t i = 0; i < MAX_PAIRS; i++) {
        mbedtls_x509_crt_init(&context->pairs[i].certificate);
        mbedtls_pk_init(&context->pairs[i].key);
    }
    *error = psa_crypto_init() == PSA_SUCCESS ? set_up(context) : MBEDTLS_ERR_ENTROPY_SOURCE_FAILED;
    if (*error != 0) {
        tls_context_release(context);
        return NULL;
    }
    return context;
}

void tls_context_release(tls_context *context) {
    if (!context || --context->references) {
        return;
    }
    mbedtls_ssl_config_free(&context->config);
    for (size_t i = 0; i < MAX_PAIRS; i++) {
        mbedtls_x509_crt_free(&context->pairs[i].certificate);
        mbedtls_pk_free(&context->pairs[i].key);
    }
    mbedtls_x509_crt_free(&context->authorities);
    mbedtls_ssl_ticket_free(&context->tickets);
    mbedtls_ctr_drbg_free(&context->random);
    mbedtls_entropy_free(&context->entropy);
    free(context);
}

// Mbed TLS takes PEM with its terminating zero, and DER without. Sets *copy, which is to be freed.
static int with_zero(const uint8_t *data, size_t size, uint8_t **copy, size_t *length) {
    static const char begin[] = "-----BEGIN";
    bool pem = false;
    for (size_t i = 0; !pem && size >= sizeof begin - 1 && i <= size - (sizeof begin - 1); i++) {
        pem = memcmp(data + i, begin, sizeof begin - 1) == 0;
    }
    *copy = malloc(size + 1);
    if (!*copy) {
        return TLS_MEMORY;
    }
    memcpy(*copy, data, size);
    (*copy)[size] = 0;
    *length = size + pem;
    return 0;
}

static int parse_certificates(mbedtls_x509_crt *to, const uint8_t *data, size_t size) {
    uint8_t *copy;
    size_t length;
    int code = with_zero(data, size, &copy, &length);
    if (code == 0) {
        code = mbedtls_x509_crt_parse(to, copy, length);
        free(copy);
    }
    // A positive number counts certificates of a chain that could not be read.
    return code > 0 ? MBEDTLS_ERR_X509_INVALID_FORMAT : code;
}

static int parse_key(tls_context *context, mbedtls_pk_context *to, const uint8_t *data,
    size_t size) {
    uint8_t *copy;
    size_t length;
    int code = with_zero(data, size, &copy, &length);
    if (code == 0) {
        code = mbedtls_pk_parse_key(to, copy, length, NULL, 0, mbedtls_ctr_drbg_random,
            &context->random);
        memset(copy, 0, length);
        free(copy);
    }
    return code;
}

int tls_context_certificate(tls_context *context, const uint8_t *certificate,
    size_t certificate_size, const uint8_t *key, size_t key_size) {
    if (context->n_pairs == MAX_PAIRS) {
        return MBEDTLS_ERR_SSL_BAD_INPUT_DATA;
    }
    pair *to = &context->pairs[context->n_pairs];
    int code = parse_certificates(&to->certificate, certificate, certificate_size);
    if (code == 0) {
        code = parse_key(context, &to->key, key, key_size);
    }
    if (code == 0
        && mbedtls_pk_check_pair(&to->certificate.pk, &to->key, mbedtls_ctr_drbg_random,
            &context->random)) {
        code = TLS_WRONG_KEY;
    }
    if (code == 0) {
        code = mbedtls_ssl_conf_own_cert(&context->config, &to->certificate, &to->key);
    }
    if (code != 0) {
        mbedtls_x509_crt_free(&to->certificate);
        mbedtls_pk_free(&to->key);
        mbedtls_x509_crt_init(&to->certificate);
        mbedtls_pk_init(&to->key);
        return code;
    }
    context->n_pairs++;
    return 0;
}

int tls_context_trust(tls_context *context, const uint8_t *authorities, size_t size) {
    int code = parse_certificates(&context->authorities, authorities, size);
    if (code == 0) {
        context->has_trust = true;
        mbedtls_ssl_conf_ca_chain(&context->config, &context->authorities, NULL);
    }
    return code;
}

void tls_context_verify(tls_context *context, int mode) {
    mbedtls_ssl_conf_authmode(&context->config, mode);
}

void tls_context_version(tls_context *context, int version) {
    mbedtls_ssl_conf_min_tls_version(&context->config,
        version == 0x0304 ? MBEDTLS_SSL_VERSION_TLS1_3 : MBEDTLS_SSL_VERSION_TLS1_2);
}

static int judge(void *argument, mbedtls_x509_crt *certificate, int depth, uint32_t *flags) {
    const tls_context *context = argument;
    *flags = context->judge(context->judge_argument, certificate->raw.p, certificate->raw.len,
        depth, *flags);
    return 0;
}

void tls_context_judge(tls_context *context, tls_judge *function, void *argument) {
    context->judge = function;
    context->judge_argument = argument;
    mbedtls_ssl_conf_verify(&context->config, function ? judge : NULL, context);
}

int tls_context_protocols(tls_context *context, const char *const *names, size_t count) {
    if (count > TLS_PROTOCOLS) {
        return MBEDTLS_ERR_SSL_BAD_INPUT_DATA;
    }
    for (size_t i = 0; i < count; i++) {
        size_t size = strlen(names[i]);
        if (size == 0 || size >= sizeof context->protocol[i]) {
            return MBEDTLS_ERR_SSL_BAD_INPUT_DATA;
        }
    }
    for (size_t i = 0; i < count; i++) {
        strcpy(context->protocol[i], names[i]);
        context->protocols[i] = context->protocol[i];
    }
    context->protocols[count] = NULL;
    return mbedtls_ssl_conf_alpn_protocols(&context->config, context->protocols);
}

int tls_context_ciphers(tls_context *context, const char *const *names, size_t count) {
    int found[MAX_SUITES + 1] = {0};
    if (count == 0 || count > MAX_SUITES) {
        return MBEDTLS_ERR_SSL_BAD_INPUT_DATA;
    }
    for (size_t i = 0; i < count; i++) {
        found[i] = mbedtls_ssl_get_ciphersuite_id(names[i]);
        if (!found[i]) {
            return MBEDTLS_ERR_SSL_BAD_INPUT_DATA;
        }
    }
    memcpy(context->suites, found, sizeof found);
    mbedtls_ssl_conf_ciphersuites(&context->config, context->suites);
    return 0;
}

void tls_context_prefer_chacha(tls_context *context, int prefer) {
    mbedtls_ssl_conf_ciphersuites(&context->config, prefer ? chacha_first : suites);
}

// --- sessions

static int send_output(void *argument, const unsigned char *data, size_t size) {
    tls_session *session = argument;
    if (session->output_start) {
        memmove(session->output, session->output + session->output_start,
            session->output_end - session->output_start);
        session->output_end -= session->output_start;
        session->output_start = 0;
    }
    size_t room = TLS_OUTPUT - session->output_end;
    if (room == 0) {
        return MBEDTLS_ERR_SSL_WANT_WRITE;
    }
    size_t taken = size < room ? size : room;
    memcpy(session->output + session->output_end, data, taken);
    session->output_end += taken;
    return (int)taken;
}

static int receive_input(void *argument, unsigned char *to, size_t size) {
    tls_session *session = argument;
    size_t there = session->input_end - session->input_start;
    if (there == 0) {
        return session->ended ? 0 : MBEDTLS_ERR_SSL_WANT_READ;
    }
    size_t given = size < there ? size : there;
    memcpy(to, session->input + session->input_start, given);
    session->input_start += given;
    return (int)given;
}

// Turns what Mbed TLS returned into what tls.h says; remembers what cannot be mended.
static int result(tls_session *session, int code) {
    if (code >= 0) {
        return code;
    }
    switch (code) {
        case MBEDTLS_ERR_SSL_WANT_READ:
        case MBEDTLS_ERR_SSL_WANT_WRITE:
        case MBEDTLS_ERR_SSL_ASYNC_IN_PROGRESS:
        case MBEDTLS_ERR_SSL_CRYPTO_IN_PROGRESS:
            return TLS_AGAIN;
        case MBEDTLS_ERR_SSL_ALLOC_FAILED:
        case MBEDTLS_ERR_X509_ALLOC_FAILED:
        case MBEDTLS_ERR_MPI_ALLOC_FAILED:
        case MBEDTLS_ERR_PK_ALLOC_FAILED:
        case MBEDTLS_ERR_ECP_ALLOC_FAILED:
            code = TLS_MEMORY;
            break;
        default:
            break;
    }
    session->failed = code;
    return code;
}

tls_session *tls_session_new(tls_context *context, const char *server_name, int *error) {
    tls_session *session = calloc(1, sizeof *session);
    if (!session) {
        *error = TLS_MEMORY;
        return NULL;
    }
    session->context = context;
    context->references++;
    mbedtls_ssl_init(&session->ssl);
    *error = mbedtls_ssl_setup(&session->ssl, &context->config);
    if (*error == 0 && !context->is_server) {
        // NULL tells Mbed TLS that it is on purpose that no name is checked.
        *error = mbedtls_ssl_set_hostname(&session->ssl, server_name);
    }
    if (*error != 0) {
        *error = result(session, *error);
        tls_session_free(session);
        return NULL;
    }
    mbedtls_ssl_set_bio(&session->ssl, session, send_output, receive_input, NULL);
    return session;
}

void tls_session_free(tls_session *session) {
    if (!session) {
        return;
    }
    mbedtls_ssl_free(&session->ssl);
    tls_context_release(session->context);
    free(session);
}

size_t tls_feed(tls_session *session, const uint8_t *data, size_t size) {
    if (session->input_start) {
        memmove(session->input, session->input + session->input_start, tls_input_size(session));
        session->input_end -= session->input_start;
        session->input_start = 0;
    }
    size_t room = TLS_INPUT - session->input_end;
    size_t taken = size < room ? size : room;
    if (taken) {
        memcpy(session->input + session->input_end, data, taken);
        session->input_end += taken;
    }
    return taken;
}

void tls_end(tls_session *session) {
    session->ended = true;
}

const uint8_t *tls_output(const tls_session *session, size_t *size) {
    *size = session->output_end - session->output_start;
    return session->output + session->output_start;
}

void tls_sent(tls_session *session, size_t size) {
    size_t there = session->output_end - session->output_start;
    session->output_start += size < there ? size : there;
}

size_t tls_input_size(const tls_session *session) {
    return session->input_end - session->input_start;
}

int tls_step(tls_session *session) {
    if (session->failed) {
        return session->failed;
    }
    if (tls_done(session)) {
        return 1;
    }
    if (session->context->is_server && !session->context->n_pairs) {
        return session->failed = TLS_NO_KEY;
    }
    int code = mbedtls_ssl_handshake_step(&session->ssl);
    if (code != 0) {
        return result(session, code);
    }
    return tls_done(session);
}

int tls_done(const tls_session *session) {
    return mbedtls_ssl_is_handshake_over((mbedtls_ssl_context *)&session->ssl);
}

int tls_read(tls_session *session, uint8_t *to, size_t size) {
    if (session->failed) {
        return session->failed;
    }
    if (size == 0) {
        return TLS_AGAIN;
    }
    int code = mbedtls_ssl_read(&session->ssl, to, size);
    switch (code) {
        case MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET: // a client's business; data may follow
            return TLS_AGAIN;
        case MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY:
            session->ended = true;
            return 0;
        default:
            return result(session, code);
    }
}

size_t tls_readable(const tls_session *session) {
    return mbedtls_ssl_get_bytes_avail(&session->ssl);
}

int tls_write(tls_session *session, const uint8_t *from, size_t size) {
    if (session->failed) {
        return session->failed;
    }
    // A record that did not fit would have to be offered again with the same bytes
    // (mbedtls_ssl_write), so it is begun only where it fits: header, nonce and tag come on top.
    if (session->output_end - session->output_start
        > TLS_OUTPUT - MBEDTLS_SSL_OUT_CONTENT_LEN - 512) {
        return TLS_AGAIN;
    }
    return size ? result(session, mbedtls_ssl_write(&session->ssl, from, size)) : 0;
}

int tls_close(tls_session *session) {
    if (session->failed) {
        return session->failed;
    }
    return result(session, mbedtls_ssl_close_notify(&session->ssl));
}

const char *tls_version(const tls_session *session) {
    return mbedtls_ssl_get_version(&session->ssl);
}

const char *tls_cipher(const tls_session *session) {
    return mbedtls_ssl_get_ciphersuite(&session->ssl);
}

const char *tls_protocol(const tls_session *session) {
    return mbedtls_ssl_get_alpn_protocol(&session->ssl);
}

const uint8_t *tls_peer_certificate(const tls_session *session, size_t *size) {
    const mbedtls_x509_crt *peer = mbedtls_ssl_get_peer_cert(&session->ssl);
    *size = peer ? peer->raw.len : 0;
    return peer ? peer->raw.p : NULL;
}

const char *tls_suite(size_t place) {
    size_t count = sizeof suites / sizeof *suites - 1;
    return place < count ? mbedtls_ssl_get_ciphersuite_name(suites[place]) : NULL;
}

void tls_error_text(const tls_session *session, int code, char *to, size_t size) {
    if (size == 0) {
        return;
    }
    to[0] = 0;
    const char *text = code == TLS_MEMORY ? "no memory"
        : code == TLS_NO_KEY              ? "a server needs a certificate and its key"
        : code == TLS_WRONG_KEY           ? "the key does not belong to the certificate"
                                          : NULL;
    if (text) {
        strncat(to, text, size - 1);
    } else if (code == MBEDTLS_ERR_X509_CERT_VERIFY_FAILED && session) {
        int length = mbedtls_x509_crt_verify_info(to, size, "",
            mbedtls_ssl_get_verify_result(&session->ssl));
        // One line for each reason.
        for (int i = 0; i < length; i++) {
            to[i] = to[i] == '\n' ? (i == length - 1 ? 0 : ' ') : to[i];
        }
    } else {
        mbedtls_strerror(code, to, size);
    }
}
