/*
 * Keys: the public part of a key whose private part a node has (from a reference), or only a public key (imported).
 *
 * Keys never change once a caller has them, so threads share them with an atomic count. EXPORT refuses whenever the
 * private part is among what is wanted: OpenSSL asks for each signature whether the default provider could make it,
 * and a public part alone would satisfy it, until it signs. IMPORT takes public keys only: EVP_PKEY_eq needs it to
 * compare a certificate's key with ours, in either direction.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "sealgate.h"

enum { MIN_RSA_BITS = 1024 };

static OSSL_FUNC_keymgmt_new_fn rsa_new, ec_new, ed25519_new;
static OSSL_FUNC_keymgmt_load_fn key_load;
static OSSL_FUNC_keymgmt_dup_fn key_dup;
static OSSL_FUNC_keymgmt_has_fn key_has;
static OSSL_FUNC_keymgmt_match_fn key_match;
static OSSL_FUNC_keymgmt_import_fn key_import;
static OSSL_FUNC_keymgmt_import_types_fn rsa_types, ec_types, ed25519_types;
static OSSL_FUNC_keymgmt_export_fn key_export;
static OSSL_FUNC_keymgmt_get_params_fn key_get_params;
static OSSL_FUNC_keymgmt_gettable_params_fn rsa_gettable, ec_gettable, ed25519_gettable;
static OSSL_FUNC_keymgmt_query_operation_name_fn rsa_operation, ec_operation, ed25519_operation;
const KIND KINDS[KIND_END] = {
    [KIND_RSA] = {FAMILY_RSA, NULL, {NULL, NULL}, 0, 0, 0, 0},
    [KIND_P256] = {FAMILY_EC, "prime256v1", {"P-256", "secp256r1"}, 256, 128, 32, 72},
    [KIND_P384] = {FAMILY_EC, "secp384r1", {"P-384", "ansip384r1"}, 384, 192, 48, 104},
    [KIND_P521] = {FAMILY_EC, "secp521r1", {"P-521", "ansip521r1"}, 521, 256, 66, 139},
    [KIND_ED25519] = {FAMILY_ED25519, NULL, {NULL, NULL}, 256, 128, 32, 64},
};

const char *const FAMILY_NAMES[] = {[FAMILY_RSA] = "RSA", [FAMILY_EC] = "EC", [FAMILY_ED25519] = "ED25519"};

static KEY *key_new(const PROVIDER *provider, FAMILY family)
{
    KEY *key = calloc(1, sizeof *key);

    if (key == NULL) {
        FAIL(provider, REASON_MEMORY, "key");
        return NULL;
    }
    atomic_init(&key->references, 1);
    key->provider = provider;
    key->family = family;
    return key;
}

static void *rsa_new(void *provider) { return key_new(provider, FAMILY_RSA); }
static void *ec_new(void *provider) { return key_new(provider, FAMILY_EC); }
static void *ed25519_new(void *provider) { return key_new(provider, FAMILY_ED25519); }

KEY *key_hold(KEY *key)
{
    if (key != NULL)
        atomic_fetch_add_explicit(&key->references, 1, memory_order_relaxed);
    return key;
}

void key_free(void *vkey)
{
    KEY *key = vkey;

    if (key != NULL && atomic_fetch_sub_explicit(&key->references, 1, memory_order_acq_rel) == 1)
        free(key);
}

static void strip_zeros(const unsigned char **number, size_t *bytes)
{
    while (*bytes > 0 && **number == 0) {
        (*number)++;
        (*bytes)--;
    }
}

static int rsa_bits(const KEY *key)
{
    int bits = (int)key->public_bytes * 8;

    for (unsigned char top = key->public_part[0]; (top & 0x80) == 0; top <<= 1)
        bits--;
    return bits;
}

static int rsa_fill(KEY *key, const unsigned char *n, size_t n_bytes, const unsigned char *e, size_t e_bytes)
{
    strip_zeros(&n, &n_bytes);
    strip_zeros(&e, &e_bytes);
    if (n_bytes < MIN_RSA_BITS / 8 || n_bytes > sizeof key->public_part || (n[n_bytes - 1] & 1) == 0 ||
        e_bytes == 0 || e_bytes > sizeof key->exponent || (e[e_bytes - 1] & 1) == 0 || (e_bytes == 1 && e[0] == 1))
        return 0;
    memcpy(key->public_part, n, n_bytes);
    memcpy(key->exponent, e, e_bytes);
    key->public_bytes = n_bytes;
    key->exponent_bytes = e_bytes;
    key->kind = &KINDS[KIND_RSA];
    return 1;
}

/* A compressed point only comes in with a certificate; its x and the parity of y are enough to compare it. */
static int fill(KEY *key, const KIND *kind, const unsigned char *bytes, size_t length, int may_be_compressed)
{
    size_t field = kind->field_bytes;
    int is_good = length == field;

    if (kind->family == FAMILY_EC)
        is_good = (length == 1 + 2 * field && bytes[0] == 4) ||
                  (may_be_compressed && length == 1 + field && (bytes[0] == 2 || bytes[0] == 3));
    if (!is_good)
        return 0;
    memcpy(key->public_part, bytes, length);
    key->public_bytes = length;
    key->kind = kind;
    return 1;
}

KEY *key_of_reference(const PROVIDER *provider, const KIND *kind, const unsigned char *ski,
                      const unsigned char *public_part, size_t public_bytes, const unsigned char *exponent,
                      size_t exponent_bytes)
{
    KEY *key = key_new(provider, kind->family);
    int is_good;

    if (key == NULL)
        return NULL;
    if (kind->family == FAMILY_RSA)
        is_good = rsa_fill(key, public_part, public_bytes, exponent, exponent_bytes);
    else
        is_good = exponent_bytes == 0 && fill(key, kind, public_part, public_bytes, 0);
    if (!is_good) {
        FAIL(provider, REASON_BAD_REFERENCE, "public part does not fit %s", FAMILY_NAMES[kind->family]);
        key_free(key);
        return NULL;
    }
    memcpy(key->ski, ski, SKI_BYTES);
    key->can_sign = 1;
    return key;
}

static void *key_load(const void *reference, size_t bytes)
{
    KEY *key;

    if (bytes != sizeof key)
        return NULL;
    memcpy(&key, reference, sizeof key);
    memset((void *)reference, 0, sizeof key); /* taken: the decoder no longer frees it */
    return key;
}

static void *key_dup(const void *vkey, int selection)
{
    const KEY *key = vkey;
    KEY *copy = key_new(key->provider, key->family);

    if (copy == NULL)
        return NULL;
    copy->kind = key->kind;
    if ((selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) == 0)
        return copy;
    copy->can_sign = key->can_sign && (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0;
    memcpy(copy->ski, key->ski, sizeof copy->ski);
    memcpy(copy->exponent, key->exponent, copy->exponent_bytes = key->exponent_bytes);
    memcpy(copy->public_part, key->public_part, copy->public_bytes = key->public_bytes);
    return copy;
}

static int key_has(const void *vkey, int selection)
{
    const KEY *key = vkey;

    if (key == NULL || ((selection & OSSL_KEYMGMT_SELECT_DOMAIN_PARAMETERS) != 0 && key->kind == NULL))
        return 0;
    if ((selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) != 0 && key->public_bytes == 0)
        return 0;
    return (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) == 0 || key->can_sign;
}

static int ec_points_are_equal(const KEY *a, const KEY *b)
{
    int a_is_odd = a->public_part[a->public_part[0] == 4 ? a->public_bytes - 1 : 0] & 1;
    int b_is_odd = b->public_part[b->public_part[0] == 4 ? b->public_bytes - 1 : 0] & 1;

    if (a->public_bytes == b->public_bytes)
        return memcmp(a->public_part, b->public_part, a->public_bytes) == 0;
    return a_is_odd == b_is_odd && memcmp(a->public_part + 1, b->public_part + 1, a->kind->field_bytes) == 0;
}

/* Whoever asks for private parts gets the public ones compared: a private part has exactly one public one. */
static int key_match(const void *va, const void *vb, int selection)
{
    const KEY *a = va, *b = vb;

    if (a->kind == NULL || a->kind != b->kind)
        return 0;
    if ((selection & OSSL_KEYMGMT_SELECT_KEYPAIR) == 0)
        return 1;
    if (a->public_bytes == 0 || b->public_bytes == 0)
        return 0;
    if (a->family == FAMILY_EC)
        return ec_points_are_equal(a, b);
    return a->public_bytes == b->public_bytes && memcmp(a->public_part, b->public_part, a->public_bytes) == 0 &&
           a->exponent_bytes == b->exponent_bytes && memcmp(a->exponent, b->exponent, a->exponent_bytes) == 0;
}

static int rsa_import(KEY *key, const OSSL_PARAM *params)
{
    const OSSL_PARAM *n = find(params, OSSL_PKEY_PARAM_RSA_N), *e = find(params, OSSL_PKEY_PARAM_RSA_E);
    unsigned char modulus[MAX_PUBLIC_BYTES + 16], exponent[MAX_PUBLIC_BYTES + 16]; /* callers may pad with zeros */

    if (n == NULL || e == NULL || n->data == NULL || e->data == NULL ||
        n->data_type != OSSL_PARAM_UNSIGNED_INTEGER || e->data_type != OSSL_PARAM_UNSIGNED_INTEGER ||
        n->data_size > sizeof modulus || e->data_size > sizeof exponent)
        return 0;
    copy_native(modulus, n->data, n->data_size);
    copy_native(exponent, e->data, e->data_size);
    return rsa_fill(key, modulus, n->data_size, exponent, e->data_size);
}

static const KIND *kind_of_group(const char *group)
{
    for (int i = KIND_P256; i <= KIND_P521; i++)
        if (strcasecmp(group, KINDS[i].group) == 0 || strcasecmp(group, KINDS[i].aliases[0]) == 0 ||
            strcasecmp(group, KINDS[i].aliases[1]) == 0)
            return &KINDS[i];
    return NULL;
}

static int ec_import(KEY *key, int selection, const OSSL_PARAM *params)
{
    const OSSL_PARAM *group = find(params, OSSL_PKEY_PARAM_GROUP_NAME), *pub = find(params, OSSL_PKEY_PARAM_PUB_KEY);
    char name[32];
    const KIND *kind = group != NULL && get_text(group, name, sizeof name) ? kind_of_group(name) : NULL;

    if (kind != NULL && (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) == 0) {
        key->kind = kind; /* as EVP_PKEY_parameters_eq wants it */
        return 1;
    }
    return kind != NULL && pub != NULL && pub->data != NULL && pub->data_type == OSSL_PARAM_OCTET_STRING &&
           fill(key, kind, pub->data, pub->data_size, 1);
}

static int ed25519_import(KEY *key, const OSSL_PARAM *params)
{
    const OSSL_PARAM *pub = find(params, OSSL_PKEY_PARAM_PUB_KEY);

    return pub != NULL && pub->data != NULL && pub->data_type == OSSL_PARAM_OCTET_STRING &&
           fill(key, &KINDS[KIND_ED25519], pub->data, pub->data_size, 0);
}

/* OpenSSL may select everything for a key that is only public, so what counts is what is there. */
static int key_import(void *vkey, int selection, const OSSL_PARAM params[])
{
    KEY *key = vkey;
    const char *private_name = key->family == FAMILY_RSA ? OSSL_PKEY_PARAM_RSA_D : OSSL_PKEY_PARAM_PRIV_KEY;
    int is_good;

    if (key->kind != NULL)
        return FAIL(key->provider, REASON_BAD_PUBLIC_KEY, "a key is imported once");
    if (find(params, private_name) != NULL)
        return FAIL(key->provider, REASON_BAD_PUBLIC_KEY, "private keys are not taken in");
    is_good = key->family == FAMILY_RSA  ? rsa_import(key, params)
              : key->family == FAMILY_EC ? ec_import(key, selection, params)
                                         : ed25519_import(key, params);
    return is_good || FAIL(key->provider, REASON_BAD_PUBLIC_KEY, "not a usable %s public key", FAMILY_NAMES[key->family]);
}

/* Never with a private part: see above. OpenSSL tries it for each signature, so the refusal raises nothing. */
static int key_export(void *vkey, int selection, OSSL_CALLBACK *callback, void *argument)
{
    KEY *key = vkey;
    unsigned char n[MAX_PUBLIC_BYTES], e[MAX_EXPONENT_BYTES];
    int has_public = (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) != 0 && key->public_bytes > 0;
    OSSL_PARAM params[3] = {OSSL_PARAM_END, OSSL_PARAM_END, OSSL_PARAM_END}, *next = params;

    if (key->kind == NULL || (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0)
        return 0;
    if (key->family == FAMILY_EC)
        *next++ = (OSSL_PARAM)OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char *)key->kind->group,
                                                     strlen(key->kind->group));
    if (has_public && key->family == FAMILY_RSA) {
        copy_native(n, key->public_part, key->public_bytes);
        copy_native(e, key->exponent, key->exponent_bytes);
        *next++ = (OSSL_PARAM)OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, n, key->public_bytes);
        *next++ = (OSSL_PARAM)OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, e, key->exponent_bytes);
    } else if (has_public) {
        *next++ = (OSSL_PARAM)OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, key->public_part, key->public_bytes);
    }
    return callback(params, argument);
}

/* Lists of what can be had, and of which type. */
#define LIST_TEXT(name) OSSL_PARAM_utf8_string(name, NULL, 0)
#define LIST_BYTES(name) OSSL_PARAM_octet_string(name, NULL, 0)
#define LIST_NUMBER(name) OSSL_PARAM_BN(name, NULL, 0)
#define TYPES(name, ...)                                                                                               \
    static const OSSL_PARAM *name(int selection)                                                                       \
    {                                                                                                                  \
        static const OSSL_PARAM types[] = {__VA_ARGS__, OSSL_PARAM_END};                                               \
        return (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) != 0 ? types : NULL;                                       \
    }
TYPES(rsa_types, LIST_NUMBER(OSSL_PKEY_PARAM_RSA_N), LIST_NUMBER(OSSL_PKEY_PARAM_RSA_E))
TYPES(ec_types, LIST_TEXT(OSSL_PKEY_PARAM_GROUP_NAME), LIST_BYTES(OSSL_PKEY_PARAM_PUB_KEY))
TYPES(ed25519_types, LIST_BYTES(OSSL_PKEY_PARAM_PUB_KEY))

/* NIST SP 800-57 part 1, table 2; between its sizes the smaller counts. */
static int rsa_security_bits(int bits)
{
    static const int steps[][KIND_P256] = {{15360, 256}, {7680, 192}, {4096, 152}, {3072, 128}, {2048, 112}, {1024, 80}};

    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (bits >= steps[i][0])
            return steps[i][1];
    return 0;
}

size_t max_signature_bytes(const KEY *key)
{
    return key->family == FAMILY_RSA ? key->public_bytes : key->kind->max_signature_bytes;
}

static int ec_get_params(const KEY *key, OSSL_PARAM params[])
{
    const unsigned char *x = key->public_part + 1, *y = x + key->kind->field_bytes;
    int has_y = key->public_part[0] == 4;

    return put_text(find(params, OSSL_PKEY_PARAM_GROUP_NAME), key->kind->group) &&
           put_text(find(params, OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT), has_y ? "uncompressed" : "compressed") &&
           put_int(find(params, OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS), 0) &&
           put_number(find(params, OSSL_PKEY_PARAM_EC_PUB_X), x, key->kind->field_bytes) &&
           (!has_y || put_number(find(params, OSSL_PKEY_PARAM_EC_PUB_Y), y, key->kind->field_bytes));
}

static int key_get_params(void *vkey, OSSL_PARAM params[])
{
    const KEY *key = vkey;
    int is_rsa = key->family == FAMILY_RSA, bits, security_bits;

    if (key->public_bytes == 0)
        return key->kind != NULL && put_text(find(params, OSSL_PKEY_PARAM_GROUP_NAME), key->kind->group);
    bits = is_rsa ? rsa_bits(key) : key->kind->bits;
    security_bits = is_rsa ? rsa_security_bits(bits) : key->kind->security_bits;
    if (!put_int(find(params, OSSL_PKEY_PARAM_BITS), (size_t)bits) ||
        !put_int(find(params, OSSL_PKEY_PARAM_SECURITY_BITS), (size_t)security_bits) ||
        !put_int(find(params, OSSL_PKEY_PARAM_MAX_SIZE), max_signature_bytes(key)))
        return 0;
    if (key->family == FAMILY_ED25519 ? !put_text(find(params, OSSL_PKEY_PARAM_MANDATORY_DIGEST), "")
                                      : !put_text(find(params, OSSL_PKEY_PARAM_DEFAULT_DIGEST), "SHA256"))
        return 0;
    if (is_rsa)
        return put_number(find(params, OSSL_PKEY_PARAM_RSA_N), key->public_part, key->public_bytes) &&
               put_number(find(params, OSSL_PKEY_PARAM_RSA_E), key->exponent, key->exponent_bytes);
    return put_bytes(find(params, OSSL_PKEY_PARAM_PUB_KEY), key->public_part, key->public_bytes) &&
           put_bytes(find(params, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY), key->public_part, key->public_bytes) &&
           (key->family != FAMILY_EC || ec_get_params(key, params));
}

#define GETTABLE(name, ...)                                                                                            \
    static const OSSL_PARAM *name(void *provider)                                                                      \
    {                                                                                                                  \
        static const OSSL_PARAM params[] = {OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, NULL),                                \
                                            OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, NULL),                       \
                                            OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, NULL), __VA_ARGS__,               \
                                            OSSL_PARAM_END};                                                           \
        (void)provider;                                                                                                \
        return params;                                                                                                 \
    }
GETTABLE(rsa_gettable, LIST_TEXT(OSSL_PKEY_PARAM_DEFAULT_DIGEST), LIST_NUMBER(OSSL_PKEY_PARAM_RSA_N),
         LIST_NUMBER(OSSL_PKEY_PARAM_RSA_E))
GETTABLE(ec_gettable, LIST_TEXT(OSSL_PKEY_PARAM_DEFAULT_DIGEST), LIST_TEXT(OSSL_PKEY_PARAM_GROUP_NAME),
         LIST_TEXT(OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT),
         OSSL_PARAM_int(OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS, NULL), LIST_BYTES(OSSL_PKEY_PARAM_PUB_KEY),
         LIST_BYTES(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY), LIST_NUMBER(OSSL_PKEY_PARAM_EC_PUB_X),
         LIST_NUMBER(OSSL_PKEY_PARAM_EC_PUB_Y))
GETTABLE(ed25519_gettable, LIST_TEXT(OSSL_PKEY_PARAM_MANDATORY_DIGEST), LIST_BYTES(OSSL_PKEY_PARAM_PUB_KEY),
         LIST_BYTES(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY))

static const char *rsa_operation(int operation) { return operation == OSSL_OP_SIGNATURE ? "RSA" : NULL; }
static const char *ec_operation(int operation) { return operation == OSSL_OP_SIGNATURE ? "ECDSA" : NULL; }
static const char *ed25519_operation(int operation) { return operation == OSSL_OP_SIGNATURE ? "ED25519" : NULL; }

/* ---- tables ---- */

#define KEYMGMT(family)                                                                                                \
    {                                                                                                                  \
        {OSSL_FUNC_KEYMGMT_NEW, ENTRY(family##_new)}, {OSSL_FUNC_KEYMGMT_FREE, ENTRY(key_free)},                       \
            {OSSL_FUNC_KEYMGMT_LOAD, ENTRY(key_load)}, {OSSL_FUNC_KEYMGMT_DUP, ENTRY(key_dup)},                        \
            {OSSL_FUNC_KEYMGMT_HAS, ENTRY(key_has)}, {OSSL_FUNC_KEYMGMT_MATCH, ENTRY(key_match)},                      \
            {OSSL_FUNC_KEYMGMT_IMPORT, ENTRY(key_import)}, {OSSL_FUNC_KEYMGMT_IMPORT_TYPES, ENTRY(family##_types)},    \
            {OSSL_FUNC_KEYMGMT_EXPORT, ENTRY(key_export)}, {OSSL_FUNC_KEYMGMT_EXPORT_TYPES, ENTRY(family##_types)},    \
            {OSSL_FUNC_KEYMGMT_GET_PARAMS, ENTRY(key_get_params)},                                                     \
            {OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, ENTRY(family##_gettable)},                                             \
            {OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, ENTRY(family##_operation)}, {0, NULL}                             \
    }
const OSSL_DISPATCH RSA_KEYMGMT[] = KEYMGMT(rsa), EC_KEYMGMT[] = KEYMGMT(ec), ED25519_KEYMGMT[] = KEYMGMT(ed25519);
