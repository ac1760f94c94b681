/*
 * The decoder: from a key reference file to a key object.
 *
 * A reference is PEM with a label of our own, SEALGATE KEY REFERENCE. Its body is
 *     version 1 (u8) | kind (u8: 1 RSA, 2 P-256, 3 P-384, 4 P-521, 5 Ed25519) | SKI (20 bytes) |
 *     public part (u16 length: modulus, uncompressed point or Ed25519 key) | RSA exponent (u16 length, else empty)
 * with big-endian numbers and nothing after them; it is at most MAX_PEM_BYTES into a file. OpenSSL tries every decoder
 * on every PEM file. Another label, or a key for another decoder of ours, is therefore "carry on" (1, and no object);
 * our label with a bad body is an error.
 */
#define _GNU_SOURCE /* memmem */
#include <stdlib.h>
#include <string.h>

#include <openssl/core_object.h>

#include "sealgate.h"

#define REFERENCE_LABEL "SEALGATE KEY REFERENCE"

enum { REFERENCE_VERSION = 1, MAX_PEM_BYTES = 16384 };

/* What is left to read of a reference's body. */
typedef struct {
    const unsigned char *at;
    size_t left;
} CURSOR;

static OSSL_FUNC_decoder_newctx_fn decoder_new;
static OSSL_FUNC_decoder_freectx_fn decoder_free;
static OSSL_FUNC_decoder_does_selection_fn decoder_does_selection;
static OSSL_FUNC_decoder_decode_fn rsa_decode, ec_decode, ed25519_decode;

static void *decoder_new(void *provider) { return provider; } /* a decoder has no state */

static void decoder_free(void *provider) { (void)provider; }

static int decoder_does_selection(void *provider, int selection)
{
    (void)provider;
    return selection == 0 || (selection & OSSL_KEYMGMT_SELECT_KEYPAIR) != 0;
}

static int base64_value(unsigned char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c != '\0' ? strchr(digits, c) : NULL;

    return at != NULL ? (int)(at - digits) : -1;
}

/* In place, as RFC 4648 4 has it: padded, no stray bits; only line ends are skipped. */
static int base64_decode(unsigned char *text, size_t bytes, size_t *decoded)
{
    uint32_t group = 0;
    int digits = 0, pads = 0;
    size_t out = 0;

    for (size_t i = 0; i < bytes; i++) {
        int value = base64_value(text[i]);

        if (text[i] == '\n' || text[i] == '\r')
            continue;
        if (text[i] == '=')
            pads++, value = 0;
        else if (value < 0 || pads > 0)
            return 0;
        group = group << 6 | (uint32_t)value;
        if (++digits % 4 != 0)
            continue;
        if (pads > 2 || (pads > 0 && (group & ((1u << 8 * pads) - 1)) != 0))
            return 0;
        for (int shift = 16; shift >= 8 * pads; shift -= 8)
            text[out++] = (unsigned char)(group >> shift);
        group = 0;
    }
    *decoded = out;
    return digits % 4 == 0;
}

static const unsigned char *take(CURSOR *cursor, size_t bytes)
{
    const unsigned char *at = cursor->at;

    if (cursor->left < bytes)
        return NULL;
    cursor->at += bytes;
    cursor->left -= bytes;
    return at;
}

static const unsigned char *take_sized(CURSOR *cursor, size_t *bytes)
{
    const unsigned char *size = take(cursor, 2);

    if (size == NULL)
        return NULL;
    *bytes = (size_t)size[0] << 8 | size[1];
    return take(cursor, *bytes);
}

/* Good with *key NULL: a reference, but to a key of another family, which another of our decoders takes. */
static int parse_reference(const PROVIDER *provider, FAMILY family, CURSOR body, KEY **key)
{
    size_t public_bytes, exponent_bytes;
    const unsigned char *head = take(&body, 2), *ski = take(&body, SKI_BYTES);
    const unsigned char *public_part = take_sized(&body, &public_bytes);
    const unsigned char *exponent = take_sized(&body, &exponent_bytes);

    if (head == NULL || ski == NULL || public_part == NULL || exponent == NULL || body.left != 0)
        return FAIL(provider, REASON_BAD_REFERENCE, "wrong length");
    if (head[0] != REFERENCE_VERSION || head[1] < KIND_RSA || head[1] >= KIND_END)
        return FAIL(provider, REASON_BAD_REFERENCE, "version %d, kind %d", head[0], head[1]);
    if (KINDS[head[1]].family != family)
        return 1;
    *key = key_of_reference(provider, &KINDS[head[1]], ski, public_part, public_bytes, exponent, exponent_bytes);
    return *key != NULL;
}

/* Where a line of ours begins, or NULL. */
static unsigned char *find_line(unsigned char *text, size_t bytes, const char *line)
{
    unsigned char *at = text;

    while ((at = memmem(at, bytes - (size_t)(at - text), line, strlen(line))) != NULL && at != text && at[-1] != '\n')
        at++;
    return at;
}

/* Find the body between our two lines and decode it; good with nothing in *body: there is no label of ours. */
static int find_reference(const PROVIDER *provider, unsigned char *text, size_t bytes, CURSOR *body)
{
    static const char begin[] = "-----BEGIN " REFERENCE_LABEL "-----", end[] = "-----END " REFERENCE_LABEL "-----";
    unsigned char *at = find_line(text, bytes, begin), *stop;
    size_t length;

    *body = (CURSOR){NULL, 0};
    if (at == NULL)
        return 1;
    at += sizeof begin - 1;
    stop = find_line(at, bytes - (size_t)(at - text), end);
    if (stop == NULL || (*at != '\n' && *at != '\r') || !base64_decode(at, (size_t)(stop - at), &length))
        return FAIL(provider, REASON_BAD_REFERENCE, "no base64, or no END line");
    *body = (CURSOR){at, length};
    return 1;
}

static int pass_on(KEY *key, OSSL_CALLBACK *callback, void *argument)
{
    int type = OSSL_OBJECT_PKEY, is_taken;
    char *data_type = (char *)FAMILY_NAMES[key->family];
    OSSL_PARAM params[] = {OSSL_PARAM_int(OSSL_OBJECT_PARAM_TYPE, &type),
                           OSSL_PARAM_utf8_string(OSSL_OBJECT_PARAM_DATA_TYPE, data_type, strlen(data_type)),
                           OSSL_PARAM_octet_string(OSSL_OBJECT_PARAM_REFERENCE, &key, sizeof key), OSSL_PARAM_END};

    is_taken = callback(params, argument);
    key_free(key); /* key_load set it to NULL if it took it */
    return is_taken;
}

static int decode(const PROVIDER *provider, FAMILY family, OSSL_CORE_BIO *bio, OSSL_CALLBACK *callback, void *argument)
{
    unsigned char *text = malloc(MAX_PEM_BYTES);
    size_t bytes = 0, more = 0;
    CURSOR body;
    KEY *key = NULL;
    int is_good;

    if (text == NULL)
        return FAIL(provider, REASON_MEMORY, "decoder");
    while (bytes < MAX_PEM_BYTES && provider->bio_read_ex(bio, text + bytes, MAX_PEM_BYTES - bytes, &more) && more > 0)
        bytes += more;
    is_good = find_reference(provider, text, bytes, &body) &&
              (body.at == NULL || parse_reference(provider, family, body, &key));
    free(text);
    return key != NULL ? pass_on(key, callback, argument) : is_good;
}

#define DECODER(name, family)                                                                                          \
    static int name(void *provider, OSSL_CORE_BIO *bio, int selection, OSSL_CALLBACK *callback, void *argument,        \
                    OSSL_PASSPHRASE_CALLBACK *passphrase, void *passphrase_argument)                                   \
    {                                                                                                                  \
        (void)selection, (void)passphrase, (void)passphrase_argument;                                                  \
        return decode(provider, family, bio, callback, argument);                                                      \
    }
DECODER(rsa_decode, FAMILY_RSA)
DECODER(ec_decode, FAMILY_EC)
DECODER(ed25519_decode, FAMILY_ED25519)

/* ---- tables ---- */

#define DECODE(family)                                                                                                 \
    {                                                                                                                  \
        {OSSL_FUNC_DECODER_NEWCTX, ENTRY(decoder_new)}, {OSSL_FUNC_DECODER_FREECTX, ENTRY(decoder_free)},              \
            {OSSL_FUNC_DECODER_DOES_SELECTION, ENTRY(decoder_does_selection)},                                         \
            {OSSL_FUNC_DECODER_DECODE, ENTRY(family##_decode)}, {0, NULL}                                              \
    }
const OSSL_DISPATCH RSA_DECODER[] = DECODE(rsa), EC_DECODER[] = DECODE(ec), ED25519_DECODER[] = DECODE(ed25519);
