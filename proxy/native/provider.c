/*
 * Sealgate's OpenSSL provider: private keys that are somewhere else.
 *
 * This one shared object is two things at once: an OpenSSL provider (OSSL_provider_init) and the CPython extension
 * module proxy.tls._provider. libssl uses a key of ours like any other; where the private key would compute, a Python
 * function is called, which gets the signature from a node. There is no private key in this process to steal.
 *
 * Theory of operation
 * -------------------
 * Key reference. The decoder knows one PEM label, SEALGATE KEY REFERENCE. Its body is
 *     version 1 (u8) | kind (u8: 1 RSA, 2 P-256, 3 P-384, 4 P-521, 5 Ed25519) | SKI (20 bytes) |
 *     public part (u16 length: modulus, uncompressed point or Ed25519 key) | RSA exponent (u16 length, else empty)
 * with big-endian numbers and nothing after them. The public part always comes along, because OpenSSL compares it with
 * the certificate's. Another label is not ours: "carry on". Our label with a bad body is an error.
 *
 * Key management. Keys never change once a caller has them, so threads share them with an atomic count. EXPORT fails
 * when the private part is among what is wanted: OpenSSL would take the answer to the default provider and try to sign
 * there. IMPORT takes public keys only; EVP_PKEY_eq needs that to compare a certificate's key with ours.
 *
 * Signature. libssl signs in one shot (EVP_DigestSign), so the whole message is known and goes to the upcall, named
 * with the key's SKI and the TLS scheme. libssl asks "could you sign with this digest?" several times a handshake:
 * nothing up to and including the length query leaves this file. There is no SIGN for ready-made digests (TLS 1.1 and
 * older), no decryption and no key agreement.
 *
 * The upcall, the GIL and greenlets. The upcall may switch to another greenlet of its thread; this C stack is then put
 * aside, and other handshakes run here, are put aside and end in any order. That is sound because nothing that must
 * survive the upcall lives outside this C stack and what it owns:
 *   - PyGILState_Ensure tells whether this thread held the GIL (cffi gives it up, a Rust caller may not) in a value on
 *     our own stack. Besides, it only counts up in the thread's PyThreadState; counts don't mind the order in which
 *     they are undone, and the count of a thread that Python started never reaches the 0 at which a state is deleted.
 *     A greenlet never leaves its thread, so Release finds the same PyThreadState. What else belongs to a Python stack
 *     (frames, recursion depth, the exception being handled) is greenlet's to swap.
 *     PyGILState_Check is no substitute for Ensure's own test: it always says yes once a subinterpreter was made.
 *   - The key and the upcall are held by references of our own; the output buffer belongs to the suspended OpenSSL call.
 *   - OpenSSL's error queue belongs to the thread, therefore to all handshakes on it: our errors are raised after the
 *     upcall is back, and who resumes a handshake clears the queue first.
 *
 * Several libcryptos. The standard library's ssl and the cryptography wheel each have one, and both may load us. What
 * a core gave us is kept per instance (PROVIDER) and never in a static variable. Only the upcall is one for the process.
 *
 * Errors. Functions return 1 for good and 0 (or NULL) for bad; who finds the fault raises it, once, with FAIL. Where
 * OpenSSL only asks whether something is so (has, match), 0 raises nothing.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <openssl/core.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/core_object.h>
#include <openssl/params.h>

#define SEALGATE_NAME "sealgate"
#define SEALGATE_VERSION "1"
#define SEALGATE_PROPERTIES "provider=" SEALGATE_NAME
#define REFERENCE_LABEL "SEALGATE KEY REFERENCE"

enum {
    SKI_BYTES = 20,
    REFERENCE_VERSION = 1,
    MIN_RSA_BITS = 1024,
    MAX_PUBLIC_BYTES = 2048, /* RSA of 16384 bits, OpenSSL's own limit */
    MAX_EXPONENT_BYTES = 32,
    MAX_FIELD_BYTES = 66,  /* P-521 */
    MAX_PEM_BYTES = 16384, /* how far into a file a reference is looked for */
    SALT_AS_DIGEST = -1,   /* RSA_PSS_SALTLEN_DIGEST */
    SALT_AS_DIGEST_AT_MOST = -4, /* RSA_PSS_SALTLEN_AUTO_DIGEST_MAX: the digest's, since our keys are never too short */
    PAD_PKCS1 = 1,         /* RSA_PKCS1_PADDING */
    PAD_PSS = 6,           /* RSA_PKCS1_PSS_PADDING */
    TYPE_NAME_BYTES = 64
};

enum { /* reasons; texts in REASONS */
    REASON_MEMORY = 1,
    REASON_BAD_REFERENCE,
    REASON_NOT_EXPORTABLE,
    REASON_BAD_PUBLIC_KEY,
    REASON_PARAMETER,
    REASON_NO_PRIVATE_KEY,
    REASON_DIGEST,
    REASON_PADDING,
    REASON_SALT,
    REASON_NO_UPCALL,
    REASON_UPCALL,
    REASON_SIGNATURE_LENGTH,
    REASON_BUFFER
};

typedef enum { FAMILY_RSA, FAMILY_EC, FAMILY_ED25519 } FAMILY;

/* What one libcrypto gave us when it loaded us. */
typedef struct {
    const OSSL_CORE_HANDLE *handle;
    OSSL_FUNC_BIO_read_ex_fn *bio_read_ex;
    OSSL_FUNC_core_new_error_fn *new_error;
    OSSL_FUNC_core_set_error_debug_fn *set_error_debug;
    OSSL_FUNC_core_vset_error_fn *vset_error;
} PROVIDER;

/* A kind of key; for RSA, sizes are those of the modulus. */
typedef struct {
    FAMILY family;
    const char *group;
    const char *aliases[2];
    int bits, security_bits;
    size_t field_bytes, max_signature_bytes;
} KIND;

typedef struct {
    atomic_int references;
    const PROVIDER *provider;
    FAMILY family;
    const KIND *kind; /* NULL: no public part yet (between NEW and IMPORT) */
    int can_sign;     /* came from a reference, so a node has the private part */
    unsigned char ski[SKI_BYTES];
    size_t public_bytes, exponent_bytes;
    unsigned char exponent[MAX_EXPONENT_BYTES];  /* big-endian, no leading zeros */
    unsigned char public_part[MAX_PUBLIC_BYTES]; /* modulus (as above), point or Ed25519 key */
} KEY;

typedef struct {
    const char *names[4];
    int bytes;
    const char *pkcs1, *pss, *ecdsa; /* scheme names, as in hsm/wire/schemes.py */
} DIGEST;

/* One signature being made. */
typedef struct {
    const PROVIDER *provider;
    KEY *key;
    const DIGEST *digest, *mgf1; /* mgf1 NULL: as digest; both NULL for Ed25519 */
    int padding, salt;           /* RSA only; salt in bytes or SALT_AS_DIGEST */
} SIGNATURE;

/* What is left to read of a reference's body. */
typedef struct {
    const unsigned char *at;
    size_t left;
} CURSOR;

static OSSL_FUNC_keymgmt_new_fn rsa_new, ec_new, ed25519_new;
static OSSL_FUNC_keymgmt_free_fn key_free;
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
static OSSL_FUNC_signature_newctx_fn signature_new;
static OSSL_FUNC_signature_freectx_fn signature_free;
static OSSL_FUNC_signature_dupctx_fn signature_dup;
static OSSL_FUNC_signature_digest_sign_init_fn signature_init;
static OSSL_FUNC_signature_digest_sign_fn signature_sign;
static OSSL_FUNC_signature_set_ctx_params_fn signature_set_params;
static OSSL_FUNC_signature_settable_ctx_params_fn signature_settable;
static OSSL_FUNC_decoder_newctx_fn decoder_new;
static OSSL_FUNC_decoder_freectx_fn decoder_free;
static OSSL_FUNC_decoder_does_selection_fn decoder_does_selection;
static OSSL_FUNC_decoder_decode_fn rsa_decode, ec_decode, ed25519_decode;
static OSSL_FUNC_provider_teardown_fn provider_teardown;
static OSSL_FUNC_provider_gettable_params_fn provider_gettable;
static OSSL_FUNC_provider_get_params_fn provider_get_params;
static OSSL_FUNC_provider_query_operation_fn provider_query;
static OSSL_FUNC_provider_get_reason_strings_fn provider_reasons;

/* Indexed by the kind byte of a reference. */
static const KIND KINDS[] = {
    [1] = {FAMILY_RSA, NULL, {NULL, NULL}, 0, 0, 0, 0},
    [2] = {FAMILY_EC, "prime256v1", {"P-256", "secp256r1"}, 256, 128, 32, 72},
    [3] = {FAMILY_EC, "secp384r1", {"P-384", "ansip384r1"}, 384, 192, 48, 104},
    [4] = {FAMILY_EC, "secp521r1", {"P-521", "ansip521r1"}, 521, 256, 66, 139},
    [5] = {FAMILY_ED25519, NULL, {NULL, NULL}, 256, 128, 32, 64},
};
enum { KIND_RSA = 1, KIND_P256, KIND_P384, KIND_P521, KIND_ED25519, KIND_END };

static const char *const FAMILY_NAMES[] = {[FAMILY_RSA] = "RSA", [FAMILY_EC] = "EC", [FAMILY_ED25519] = "ED25519"};

static const DIGEST DIGESTS[] = {
    {{"SHA256", "SHA2-256", "SHA-256", "2.16.840.1.101.3.4.2.1"}, 32, "rsa_pkcs1_sha256", "rsa_pss_sha256", "ecdsa_sha256"},
    {{"SHA384", "SHA2-384", "SHA-384", "2.16.840.1.101.3.4.2.2"}, 48, "rsa_pkcs1_sha384", "rsa_pss_sha384", "ecdsa_sha384"},
    {{"SHA512", "SHA2-512", "SHA-512", "2.16.840.1.101.3.4.2.3"}, 64, "rsa_pkcs1_sha512", "rsa_pss_sha512", "ecdsa_sha512"},
};

static PyObject *the_upcall; /* guarded by the GIL */

/* ---- errors ---- */

#define FAIL(provider, reason, ...) fail((provider), __LINE__, __func__, (reason), __VA_ARGS__)

static int fail(const PROVIDER *provider, int line, const char *function, uint32_t reason, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    provider->new_error(provider->handle);
    provider->set_error_debug(provider->handle, "provider.c", line, function);
    provider->vset_error(provider->handle, reason, format, arguments);
    va_end(arguments);
    return 0;
}

/* ---- OSSL_PARAM, without libcrypto's functions for it ---- */

static OSSL_PARAM *find(const OSSL_PARAM *params, const char *name)
{
    for (; params != NULL && params->key != NULL; params++)
        if (strcmp(params->key, name) == 0)
            return (OSSL_PARAM *)params;
    return NULL;
}

/* Integers in an OSSL_PARAM have any width and the machine's byte order; ours are big-endian bytes. */
static void copy_native(unsigned char *to, const unsigned char *from, size_t bytes)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    memcpy(to, from, bytes);
#else
    for (size_t i = 0; i < bytes; i++)
        to[i] = from[bytes - 1 - i];
#endif
}

static int put_number(OSSL_PARAM *param, const unsigned char *number, size_t bytes)
{
    unsigned char padded[MAX_PUBLIC_BYTES + 1] = {0};
    size_t wanted = bytes;

    if (param == NULL)
        return 1;
    if (param->data_type != OSSL_PARAM_INTEGER && param->data_type != OSSL_PARAM_UNSIGNED_INTEGER)
        return 0;
    if (param->data_type == OSSL_PARAM_INTEGER && (number[0] & 0x80) != 0)
        wanted++; /* room for the sign */
    param->return_size = wanted;
    if (param->data == NULL)
        return 1;
    if (param->data_size < wanted)
        return 0;
    memcpy(padded + wanted - bytes, number, bytes);
    memset(param->data, 0, param->data_size);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    copy_native((unsigned char *)param->data + param->data_size - wanted, padded, wanted);
#else
    copy_native(param->data, padded, wanted);
#endif
    param->return_size = param->data_size;
    return 1;
}

static int put_int(OSSL_PARAM *param, size_t value)
{
    unsigned char number[2] = {(unsigned char)(value >> 8), (unsigned char)value};
    int skip = number[0] == 0;

    return put_number(param, number + skip, sizeof number - skip);
}

static int put_bytes(OSSL_PARAM *param, unsigned int type, const void *bytes, size_t length)
{
    if (param == NULL)
        return 1;
    if (param->data_type != type)
        return 0;
    param->return_size = length;
    if (param->data == NULL)
        return 1;
    if (param->data_size < length)
        return 0;
    memcpy(param->data, bytes, length);
    if (type == OSSL_PARAM_UTF8_STRING && param->data_size > length)
        ((char *)param->data)[length] = '\0';
    return 1;
}

static int put_text(OSSL_PARAM *param, const char *text)
{
    return put_bytes(param, OSSL_PARAM_UTF8_STRING, text, strlen(text));
}

/* A small integer of any width and signedness; the bytes above the lowest four only repeat the sign. */
static int get_int(const OSSL_PARAM *param, int *value)
{
    unsigned char big[8];
    int is_signed = param->data_type == OSSL_PARAM_INTEGER, is_negative;
    uint32_t low = 0;

    if ((!is_signed && param->data_type != OSSL_PARAM_UNSIGNED_INTEGER) || param->data == NULL ||
        param->data_size == 0 || param->data_size > sizeof big)
        return 0;
    copy_native(big, param->data, param->data_size); /* its own inverse */
    is_negative = is_signed && (big[0] & 0x80) != 0;
    low = is_negative ? UINT32_MAX : 0;
    for (size_t i = 0; i < param->data_size; i++) {
        if (i + 4 < param->data_size && big[i] != (is_negative ? 0xff : 0))
            return 0;
        low = low << 8 | big[i];
    }
    if ((low >> 31) != (uint32_t)is_negative)
        return 0;
    *value = is_negative ? -(int)(~low) - 1 : (int)low;
    return 1;
}

/* Text may lack its NUL; what does not fit is no word we know. */
static int get_text(const OSSL_PARAM *param, char *text, size_t room)
{
    size_t length;

    if (param->data_type != OSSL_PARAM_UTF8_STRING || param->data == NULL)
        return 0;
    length = strnlen(param->data, param->data_size);
    if (length >= room)
        return 0;
    memcpy(text, param->data, length);
    text[length] = '\0';
    return 1;
}

/* ---- keys ---- */

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

static KEY *key_hold(KEY *key)
{
    if (key != NULL)
        atomic_fetch_add_explicit(&key->references, 1, memory_order_relaxed);
    return key;
}

static void key_free(void *vkey)
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

    if (copy == NULL || (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) == 0)
        return copy; /* without a public part there is nothing that we keep */
    copy->kind = key->kind;
    copy->can_sign = key->can_sign && (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0;
    memcpy(copy->ski, key->ski, sizeof copy->ski);
    memcpy(copy->exponent, key->exponent, copy->exponent_bytes = key->exponent_bytes);
    memcpy(copy->public_part, key->public_part, copy->public_bytes = key->public_bytes);
    return copy;
}

static int key_has(const void *vkey, int selection)
{
    const KEY *key = vkey;

    if (key == NULL || ((selection & OSSL_KEYMGMT_SELECT_ALL) != 0 && key->kind == NULL))
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

static int ec_or_ed25519_import(KEY *key, const OSSL_PARAM *params)
{
    const OSSL_PARAM *group = find(params, OSSL_PKEY_PARAM_GROUP_NAME), *pub = find(params, OSSL_PKEY_PARAM_PUB_KEY);
    const KIND *kind = &KINDS[KIND_ED25519];
    char name[32];

    if (key->family == FAMILY_EC)
        kind = group != NULL && get_text(group, name, sizeof name) ? kind_of_group(name) : NULL;
    return kind != NULL && pub != NULL && pub->data != NULL && pub->data_type == OSSL_PARAM_OCTET_STRING &&
           fill(key, kind, pub->data, pub->data_size, 1);
}

/* OpenSSL may select everything for a key that is only public, so what counts is what is there. */
static int key_import(void *vkey, int selection, const OSSL_PARAM params[])
{
    KEY *key = vkey;
    const char *private_name = key->family == FAMILY_RSA ? OSSL_PKEY_PARAM_RSA_D : OSSL_PKEY_PARAM_PRIV_KEY;

    if (key->kind != NULL || (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) == 0)
        return FAIL(key->provider, REASON_BAD_PUBLIC_KEY, "a public key is imported once, and whole");
    if (find(params, private_name) != NULL)
        return FAIL(key->provider, REASON_BAD_PUBLIC_KEY, "private keys are not taken in");
    if (!(key->family == FAMILY_RSA ? rsa_import(key, params) : ec_or_ed25519_import(key, params)))
        return FAIL(key->provider, REASON_BAD_PUBLIC_KEY, "not a usable %s public key", FAMILY_NAMES[key->family]);
    return 1;
}

/* Never with a private part: see the theory of operation. OpenSSL tries this for each signature, so it is no error. */
static int key_export(void *vkey, int selection, OSSL_CALLBACK *callback, void *argument)
{
    KEY *key = vkey;
    unsigned char n[MAX_PUBLIC_BYTES], e[MAX_EXPONENT_BYTES];
    OSSL_PARAM params[3] = {OSSL_PARAM_END, OSSL_PARAM_END, OSSL_PARAM_END}, *next = params;

    if (key->kind == NULL || (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0)
        return 0;
    if (key->family == FAMILY_RSA && (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) != 0) {
        copy_native(n, key->public_part, key->public_bytes);
        copy_native(e, key->exponent, key->exponent_bytes);
        *next++ = (OSSL_PARAM)OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, n, key->public_bytes);
        *next++ = (OSSL_PARAM)OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, e, key->exponent_bytes);
        return callback(params, argument);
    }
    if (key->family == FAMILY_EC)
        *next++ = (OSSL_PARAM)OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char *)key->kind->group,
                                                     strlen(key->kind->group));
    if (key->family != FAMILY_RSA && (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) != 0)
        *next++ = (OSSL_PARAM)OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, key->public_part, key->public_bytes);
    return callback(params, argument);
}

static const OSSL_PARAM *rsa_types(int selection)
{
    static const OSSL_PARAM types[] = {OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, NULL, 0),
                                       OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, NULL, 0), OSSL_PARAM_END};
    return (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) != 0 ? types : NULL;
}

static const OSSL_PARAM *ec_types(int selection)
{
    static const OSSL_PARAM types[] = {OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
                                       OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0), OSSL_PARAM_END};
    return (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) != 0 ? types : NULL;
}

static const OSSL_PARAM *ed25519_types(int selection)
{
    static const OSSL_PARAM types[] = {OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0), OSSL_PARAM_END};
    return (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) != 0 ? types : NULL;
}

/* NIST SP 800-57 part 1, table 2; between its sizes the smaller counts. */
static int rsa_security_bits(int bits)
{
    static const int steps[][2] = {{15360, 256}, {7680, 192}, {4096, 152}, {3072, 128}, {2048, 112}, {1024, 80}};

    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (bits >= steps[i][0])
            return steps[i][1];
    return 0;
}

static size_t max_signature_bytes(const KEY *key)
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

    if (key->kind == NULL)
        return 0;
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
    return put_bytes(find(params, OSSL_PKEY_PARAM_PUB_KEY), OSSL_PARAM_OCTET_STRING, key->public_part,
                     key->public_bytes) &&
           put_bytes(find(params, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY), OSSL_PARAM_OCTET_STRING, key->public_part,
                     key->public_bytes) &&
           (key->family != FAMILY_EC || ec_get_params(key, params));
}

#define COMMON_GETTABLE                                                                                                \
    OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, NULL), OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, NULL),                   \
        OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, NULL)

static const OSSL_PARAM *rsa_gettable(void *provider)
{
    static const OSSL_PARAM params[] = {COMMON_GETTABLE, OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_DEFAULT_DIGEST, NULL, 0),
                                        OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, NULL, 0),
                                        OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, NULL, 0), OSSL_PARAM_END};
    (void)provider;
    return params;
}

static const OSSL_PARAM *ec_gettable(void *provider)
{
    static const OSSL_PARAM params[] = {
        COMMON_GETTABLE,
        OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_DEFAULT_DIGEST, NULL, 0),
        OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
        OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT, NULL, 0),
        OSSL_PARAM_int(OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS, NULL),
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, NULL, 0),
        OSSL_PARAM_BN(OSSL_PKEY_PARAM_EC_PUB_X, NULL, 0),
        OSSL_PARAM_BN(OSSL_PKEY_PARAM_EC_PUB_Y, NULL, 0),
        OSSL_PARAM_END};
    (void)provider;
    return params;
}

static const OSSL_PARAM *ed25519_gettable(void *provider)
{
    static const OSSL_PARAM params[] = {COMMON_GETTABLE,
                                        OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_MANDATORY_DIGEST, NULL, 0),
                                        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0),
                                        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, NULL, 0),
                                        OSSL_PARAM_END};
    (void)provider;
    return params;
}

static const char *rsa_operation(int operation) { return operation == OSSL_OP_SIGNATURE ? "RSA" : NULL; }
static const char *ec_operation(int operation) { return operation == OSSL_OP_SIGNATURE ? "ECDSA" : NULL; }
static const char *ed25519_operation(int operation) { return operation == OSSL_OP_SIGNATURE ? "ED25519" : NULL; }

/* ---- signatures ---- */

static void *signature_new(void *provider, const char *properties)
{
    SIGNATURE *signature = calloc(1, sizeof *signature);

    (void)properties;
    if (signature == NULL)
        FAIL(provider, REASON_MEMORY, "signature");
    else
        signature->provider = provider;
    return signature;
}

static void signature_free(void *vsignature)
{
    SIGNATURE *signature = vsignature;

    if (signature != NULL)
        key_free(signature->key);
    free(signature);
}

static void *signature_dup(void *vsignature)
{
    const SIGNATURE *signature = vsignature;
    SIGNATURE *copy = signature_new((void *)signature->provider, NULL);

    if (copy != NULL) {
        *copy = *signature;
        key_hold(copy->key);
    }
    return copy;
}

static const DIGEST *digest_named(const char *name)
{
    for (size_t i = 0; i < sizeof DIGESTS / sizeof *DIGESTS; i++)
        for (int j = 0; j < 4; j++)
            if (strcasecmp(name, DIGESTS[i].names[j]) == 0)
                return &DIGESTS[i];
    return NULL;
}

static int set_padding(SIGNATURE *signature, const OSSL_PARAM *param)
{
    char name[16] = "";
    int padding = 0;

    if (get_text(param, name, sizeof name))
        padding = strcmp(name, OSSL_PKEY_RSA_PAD_MODE_PSS) == 0     ? PAD_PSS
                  : strcmp(name, OSSL_PKEY_RSA_PAD_MODE_PKCSV15) == 0 ? PAD_PKCS1
                                                                      : 0;
    else if (!get_int(param, &padding))
        return FAIL(signature->provider, REASON_PADDING, "not a name or number");
    if (padding != PAD_PKCS1 && padding != PAD_PSS)
        return FAIL(signature->provider, REASON_PADDING, "padding '%s' (%d); pkcs1 and pss are known", name, padding);
    signature->padding = padding;
    return 1;
}

/* As a number, a word, or a number in text (how EVP_PKEY_CTX_set_rsa_pss_saltlen arrives). */
static int set_salt(SIGNATURE *signature, const OSSL_PARAM *param)
{
    char text[16], *end = text;
    int salt;

    if (get_text(param, text, sizeof text)) {
        long number = strtol(text, &end, 10);
        int is_number = end != text && *end == '\0' && number >= INT_MIN && number <= INT_MAX;

        if (strcmp(text, OSSL_PKEY_RSA_PSS_SALT_LEN_DIGEST) == 0 || strcmp(text, "auto-digestmax") == 0)
            salt = SALT_AS_DIGEST;
        else if (is_number)
            salt = (int)number;
        else
            return FAIL(signature->provider, REASON_SALT, "'%s'", text);
    } else if (!get_int(param, &salt)) {
        return FAIL(signature->provider, REASON_SALT, "not a word or number");
    }
    if (salt == SALT_AS_DIGEST_AT_MOST)
        salt = SALT_AS_DIGEST;
    if (salt < 0 && salt != SALT_AS_DIGEST)
        return FAIL(signature->provider, REASON_SALT, "%d", salt);
    signature->salt = salt;
    return 1;
}

static int set_digest(const SIGNATURE *signature, const DIGEST **digest, const OSSL_PARAM *param)
{
    char name[32] = "";

    *digest = get_text(param, name, sizeof name) ? digest_named(name) : NULL;
    return *digest != NULL || FAIL(signature->provider, REASON_DIGEST, "'%s'", name);
}

static int signature_set_params(void *vsignature, const OSSL_PARAM params[])
{
    SIGNATURE *signature = vsignature;
    const OSSL_PARAM *padding = find(params, OSSL_SIGNATURE_PARAM_PAD_MODE);
    const OSSL_PARAM *salt = find(params, OSSL_SIGNATURE_PARAM_PSS_SALTLEN);
    const OSSL_PARAM *digest = find(params, OSSL_SIGNATURE_PARAM_DIGEST);
    const OSSL_PARAM *mgf1 = find(params, OSSL_SIGNATURE_PARAM_MGF1_DIGEST);
    int is_rsa = signature->key != NULL && signature->key->family == FAMILY_RSA;
    int is_ed25519 = signature->key != NULL && signature->key->family == FAMILY_ED25519;

    if (!is_rsa && (padding != NULL || salt != NULL || mgf1 != NULL))
        return FAIL(signature->provider, REASON_PARAMETER, "padding, salt and MGF1 are for RSA keys");
    if (is_ed25519 && digest != NULL)
        return FAIL(signature->provider, REASON_PARAMETER, "Ed25519 has no digest to choose");
    return (padding == NULL || set_padding(signature, padding)) && (salt == NULL || set_salt(signature, salt)) &&
           (digest == NULL || set_digest(signature, &signature->digest, digest)) &&
           (mgf1 == NULL || set_digest(signature, &signature->mgf1, mgf1));
}

static const OSSL_PARAM *signature_settable(void *signature, void *provider)
{
    static const OSSL_PARAM params[] = {OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, NULL, 0),
                                        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PSS_SALTLEN, NULL, 0),
                                        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_DIGEST, NULL, 0),
                                        OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_MGF1_DIGEST, NULL, 0),
                                        OSSL_PARAM_END};
    (void)signature;
    (void)provider;
    return params;
}

/* libssl calls this several times a handshake only to ask which digests we can sign: keep it cheap and local. */
static int signature_init(void *vsignature, const char *digest_name, void *vkey, const OSSL_PARAM params[])
{
    SIGNATURE *signature = vsignature;
    const DIGEST *digest = NULL;
    KEY *key = vkey != NULL ? vkey : signature->key;
    int has_name = digest_name != NULL && digest_name[0] != '\0';

    if (key == NULL || !key->can_sign)
        return FAIL(signature->provider, REASON_NO_PRIVATE_KEY, "only the public part of this key is known");
    if (key->family != FAMILY_ED25519)
        digest = digest_named(has_name ? digest_name : "SHA256");
    if (key->family == FAMILY_ED25519 ? has_name : digest == NULL)
        return FAIL(signature->provider, REASON_DIGEST, "'%s' for %s", digest_name, FAMILY_NAMES[key->family]);
    key_hold(key);
    key_free(signature->key);
    signature->key = key;
    signature->digest = digest;
    signature->mgf1 = NULL;
    signature->padding = PAD_PKCS1;
    signature->salt = SALT_AS_DIGEST;
    return signature_set_params(signature, params);
}

/* TLS knows PSS only with one digest and a salt as long as it (RFC 8446 4.2.3); nodes sign nothing else. */
static const char *scheme_of(const SIGNATURE *signature)
{
    const DIGEST *digest = signature->digest;

    if (signature->key->family == FAMILY_ED25519)
        return "ed25519";
    if (signature->key->family == FAMILY_EC)
        return digest->ecdsa;
    if (signature->padding == PAD_PKCS1)
        return digest->pkcs1;
    if (signature->salt != SALT_AS_DIGEST && signature->salt != digest->bytes) {
        FAIL(signature->provider, REASON_SALT, "%d bytes; the digest has %d", signature->salt, digest->bytes);
        return NULL;
    }
    if (signature->mgf1 != NULL && signature->mgf1 != digest) {
        FAIL(signature->provider, REASON_DIGEST, "MGF1 with another digest than the signature's");
        return NULL;
    }
    return digest->pss;
}

static PyObject *take_raised(void)
{
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

/* Keep the exception for take_error() of this thread: OpenSSL can't carry it, and no handshake runs until it is back. */
static void stash_raised(char *type_name)
{
    PyObject *error = take_raised(), *slots = PyThreadState_GetDict();

    if (error != NULL)
        strncpy(type_name, Py_TYPE(error)->tp_name, TYPE_NAME_BYTES - 1);
    if (error != NULL && slots != NULL && PyDict_SetItemString(slots, "proxy.tls._provider.error", error) != 0)
        PyErr_Clear();
    Py_XDECREF(error);
}

/* With the GIL. May run other greenlets of this thread before it returns; see the theory of operation. */
static int call_upcall(const SIGNATURE *signature, const char *scheme, const unsigned char *message, size_t bytes,
                       unsigned char *out, size_t *out_bytes)
{
    const KEY *key = signature->key;
    size_t most = max_signature_bytes(key), least = key->family == FAMILY_EC ? 8 : most;
    PyObject *upcall = the_upcall, *answer;
    char *data, type_name[TYPE_NAME_BYTES] = "";
    Py_ssize_t length;

    if (upcall == NULL)
        return FAIL(signature->provider, REASON_NO_UPCALL, "set_upcall() was not called");
    Py_INCREF(upcall);
    answer = PyObject_CallFunction(upcall, "y#sy#", (const char *)key->ski, (Py_ssize_t)SKI_BYTES, scheme,
                                   (const char *)message, (Py_ssize_t)bytes);
    Py_DECREF(upcall);
    if (answer == NULL || PyBytes_AsStringAndSize(answer, &data, &length) != 0) {
        stash_raised(type_name);
        Py_XDECREF(answer);
        return FAIL(signature->provider, REASON_UPCALL, "%s", type_name);
    }
    if ((size_t)length < least || (size_t)length > most) {
        Py_DECREF(answer);
        return FAIL(signature->provider, REASON_SIGNATURE_LENGTH, "%d bytes for %s", (int)length, scheme);
    }
    memcpy(out, data, (size_t)length);
    *out_bytes = (size_t)length;
    Py_DECREF(answer);
    return 1;
}

static int signature_sign(void *vsignature, unsigned char *out, size_t *out_bytes, size_t room,
                          const unsigned char *message, size_t bytes)
{
    SIGNATURE *signature = vsignature, held;
    const char *scheme;
    PyGILState_STATE gil;
    int is_signed;

    if (signature->key == NULL)
        return FAIL(signature->provider, REASON_NO_PRIVATE_KEY, "no key was given");
    if (out == NULL) {
        *out_bytes = max_signature_bytes(signature->key);
        return 1;
    }
    if (room < max_signature_bytes(signature->key) || bytes > PY_SSIZE_T_MAX)
        return FAIL(signature->provider, REASON_BUFFER, "a signature may have %d bytes",
                    (int)max_signature_bytes(signature->key));
    if ((scheme = scheme_of(signature)) == NULL)
        return 0;
    if (!Py_IsInitialized())
        return FAIL(signature->provider, REASON_NO_UPCALL, "Python is not running");
    held = *signature; /* on our own stack: whatever the upcall does, this key stays */
    key_hold(held.key);
    gil = PyGILState_Ensure();
    is_signed = call_upcall(&held, scheme, message, bytes, out, out_bytes);
    PyGILState_Release(gil);
    key_free(held.key);
    return is_signed;
}

/* ---- decoder ---- */

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
    int is_good;

    *key = NULL;
    if (head == NULL || ski == NULL || public_part == NULL || exponent == NULL || body.left != 0)
        return FAIL(provider, REASON_BAD_REFERENCE, "wrong length");
    if (head[0] != REFERENCE_VERSION || head[1] < KIND_RSA || head[1] >= KIND_END)
        return FAIL(provider, REASON_BAD_REFERENCE, "version %d, kind %d", head[0], head[1]);
    if (KINDS[head[1]].family != family)
        return 1;
    if ((*key = key_new(provider, family)) == NULL)
        return 0;
    memcpy((*key)->ski, ski, SKI_BYTES);
    (*key)->can_sign = 1;
    is_good = family == FAMILY_RSA ? rsa_fill(*key, public_part, public_bytes, exponent, exponent_bytes)
                                   : exponent_bytes == 0 && fill(*key, &KINDS[head[1]], public_part, public_bytes, 0);
    if (is_good)
        return 1;
    key_free(*key);
    *key = NULL;
    return FAIL(provider, REASON_BAD_REFERENCE, "public part does not fit %s", FAMILY_NAMES[family]);
}

/* Find the body between our two lines and decode it; good with nothing in *body: there is no label of ours. */
static int find_reference(const PROVIDER *provider, unsigned char *text, size_t bytes, CURSOR *body)
{
    static const char begin[] = "-----BEGIN " REFERENCE_LABEL "-----", end[] = "\n-----END " REFERENCE_LABEL "-----";
    unsigned char *at = memmem(text, bytes, begin, sizeof begin - 1), *stop;
    size_t length;

    *body = (CURSOR){NULL, 0};
    if (at == NULL || (at != text && at[-1] != '\n'))
        return 1;
    at += sizeof begin - 1;
    stop = memmem(at, bytes - (size_t)(at - text), end, sizeof end - 1);
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

#define ENTRY(function) ((void (*)(void))(function))

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
static const OSSL_DISPATCH RSA_KEYMGMT[] = KEYMGMT(rsa), EC_KEYMGMT[] = KEYMGMT(ec), ED25519_KEYMGMT[] = KEYMGMT(ed25519);

static const OSSL_DISPATCH SIGNATURE_FUNCTIONS[] = {
    {OSSL_FUNC_SIGNATURE_NEWCTX, ENTRY(signature_new)},
    {OSSL_FUNC_SIGNATURE_FREECTX, ENTRY(signature_free)},
    {OSSL_FUNC_SIGNATURE_DUPCTX, ENTRY(signature_dup)},
    {OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, ENTRY(signature_init)},
    {OSSL_FUNC_SIGNATURE_DIGEST_SIGN, ENTRY(signature_sign)},
    {OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, ENTRY(signature_set_params)},
    {OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, ENTRY(signature_settable)},
    {0, NULL},
};

#define DECODE(family)                                                                                                 \
    {                                                                                                                  \
        {OSSL_FUNC_DECODER_NEWCTX, ENTRY(decoder_new)}, {OSSL_FUNC_DECODER_FREECTX, ENTRY(decoder_free)},              \
            {OSSL_FUNC_DECODER_DOES_SELECTION, ENTRY(decoder_does_selection)},                                         \
            {OSSL_FUNC_DECODER_DECODE, ENTRY(family##_decode)}, {0, NULL}                                              \
    }
static const OSSL_DISPATCH RSA_DECODER[] = DECODE(rsa), EC_DECODER[] = DECODE(ec), ED25519_DECODER[] = DECODE(ed25519);

/* The names must be the default provider's: OpenSSL tells what is the same algorithm by them. */
#define RSA_NAMES "RSA:rsaEncryption:1.2.840.113549.1.1.1"
#define EC_NAMES "EC:id-ecPublicKey:1.2.840.10045.2.1"
#define ED25519_NAMES "ED25519:1.3.101.112"

static const OSSL_ALGORITHM KEYMGMTS[] = {
    {RSA_NAMES, SEALGATE_PROPERTIES, RSA_KEYMGMT, "RSA key on a node"},
    {EC_NAMES, SEALGATE_PROPERTIES, EC_KEYMGMT, "EC key on a node"},
    {ED25519_NAMES, SEALGATE_PROPERTIES, ED25519_KEYMGMT, "Ed25519 key on a node"},
    {NULL, NULL, NULL, NULL},
};

static const OSSL_ALGORITHM SIGNATURES[] = {
    {RSA_NAMES, SEALGATE_PROPERTIES, SIGNATURE_FUNCTIONS, "RSA signature by a node"},
    {"ECDSA", SEALGATE_PROPERTIES, SIGNATURE_FUNCTIONS, "ECDSA signature by a node"},
    {ED25519_NAMES, SEALGATE_PROPERTIES, SIGNATURE_FUNCTIONS, "Ed25519 signature by a node"},
    {NULL, NULL, NULL, NULL},
};

static const OSSL_ALGORITHM DECODERS[] = {
    {RSA_NAMES, SEALGATE_PROPERTIES ",input=pem", RSA_DECODER, "RSA key reference"},
    {EC_NAMES, SEALGATE_PROPERTIES ",input=pem", EC_DECODER, "EC key reference"},
    {ED25519_NAMES, SEALGATE_PROPERTIES ",input=pem", ED25519_DECODER, "Ed25519 key reference"},
    {NULL, NULL, NULL, NULL},
};

static const OSSL_ITEM REASONS[] = {
    {REASON_MEMORY, "out of memory"},
    {REASON_BAD_REFERENCE, "malformed key reference"},
    {REASON_NOT_EXPORTABLE, "private keys stay on their node"},
    {REASON_BAD_PUBLIC_KEY, "public key refused"},
    {REASON_PARAMETER, "parameter does not fit the key"},
    {REASON_NO_PRIVATE_KEY, "no private key"},
    {REASON_DIGEST, "digest not supported"},
    {REASON_PADDING, "padding not supported"},
    {REASON_SALT, "salt length not supported"},
    {REASON_NO_UPCALL, "nobody to ask for a signature"},
    {REASON_UPCALL, "signature upcall failed"},
    {REASON_SIGNATURE_LENGTH, "signature has the wrong length"},
    {REASON_BUFFER, "buffer too small for a signature"},
    {0, NULL},
};

static const OSSL_PARAM PROVIDER_PARAMS[] = {
    OSSL_PARAM_utf8_ptr(OSSL_PROV_PARAM_NAME, NULL, 0),
    OSSL_PARAM_utf8_ptr(OSSL_PROV_PARAM_VERSION, NULL, 0),
    OSSL_PARAM_int(OSSL_PROV_PARAM_STATUS, NULL),
    OSSL_PARAM_END,
};

/* ---- provider ---- */

static void provider_teardown(void *provider) { free(provider); }

static const OSSL_PARAM *provider_gettable(void *provider)
{
    (void)provider;
    return PROVIDER_PARAMS;
}

static int put_pointer(OSSL_PARAM *param, const char *text)
{
    if (param == NULL)
        return 1;
    if (param->data_type != OSSL_PARAM_UTF8_PTR)
        return put_text(param, text);
    param->return_size = strlen(text);
    if (param->data != NULL)
        *(const char **)param->data = text;
    return 1;
}

static int provider_get_params(void *provider, OSSL_PARAM params[])
{
    (void)provider;
    return put_pointer(find(params, OSSL_PROV_PARAM_NAME), SEALGATE_NAME) &&
           put_pointer(find(params, OSSL_PROV_PARAM_VERSION), SEALGATE_VERSION) &&
           put_int(find(params, OSSL_PROV_PARAM_STATUS), 1);
}

static const OSSL_ALGORITHM *provider_query(void *provider, int operation, int *no_cache)
{
    (void)provider;
    *no_cache = 0;
    switch (operation) {
    case OSSL_OP_KEYMGMT:
        return KEYMGMTS;
    case OSSL_OP_SIGNATURE:
        return SIGNATURES;
    case OSSL_OP_DECODER:
        return DECODERS;
    default:
        return NULL;
    }
}

static const OSSL_ITEM *provider_reasons(void *provider)
{
    (void)provider;
    return REASONS;
}

static const OSSL_DISPATCH PROVIDER_FUNCTIONS[] = {
    {OSSL_FUNC_PROVIDER_TEARDOWN, ENTRY(provider_teardown)},
    {OSSL_FUNC_PROVIDER_GETTABLE_PARAMS, ENTRY(provider_gettable)},
    {OSSL_FUNC_PROVIDER_GET_PARAMS, ENTRY(provider_get_params)},
    {OSSL_FUNC_PROVIDER_QUERY_OPERATION, ENTRY(provider_query)},
    {OSSL_FUNC_PROVIDER_GET_REASON_STRINGS, ENTRY(provider_reasons)},
    {0, NULL},
};

OSSL_provider_init_fn OSSL_provider_init; /* declared, so that the compiler checks it */

__attribute__((visibility("default"))) int OSSL_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in,
                                                              const OSSL_DISPATCH **out, void **context)
{
    PROVIDER *provider = calloc(1, sizeof *provider);

    if (provider == NULL)
        return 0;
    provider->handle = handle;
    for (; in->function_id != 0; in++) {
        switch (in->function_id) {
        case OSSL_FUNC_BIO_READ_EX:
            provider->bio_read_ex = OSSL_FUNC_BIO_read_ex(in);
            break;
        case OSSL_FUNC_CORE_NEW_ERROR:
            provider->new_error = OSSL_FUNC_core_new_error(in);
            break;
        case OSSL_FUNC_CORE_SET_ERROR_DEBUG:
            provider->set_error_debug = OSSL_FUNC_core_set_error_debug(in);
            break;
        case OSSL_FUNC_CORE_VSET_ERROR:
            provider->vset_error = OSSL_FUNC_core_vset_error(in);
            break;
        }
    }
    if (provider->bio_read_ex == NULL || provider->new_error == NULL || provider->set_error_debug == NULL ||
        provider->vset_error == NULL) {
        free(provider);
        return 0;
    }
    *out = PROVIDER_FUNCTIONS;
    *context = provider;
    return 1;
}

/* ---- Python module ---- */

static PyObject *set_upcall(PyObject *module, PyObject *function)
{
    PyObject *old = the_upcall;

    (void)module;
    if (function != Py_None && !PyCallable_Check(function))
        return PyErr_Format(PyExc_TypeError, "an upcall is a function (ski, scheme, message) -> signature, or None");
    the_upcall = function == Py_None ? NULL : Py_NewRef(function);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *take_error(PyObject *module, PyObject *unused)
{
    PyObject *slots = PyThreadState_GetDict();
    PyObject *error = slots != NULL ? PyDict_GetItemString(slots, "proxy.tls._provider.error") : NULL;

    (void)module;
    (void)unused;
    if (error == NULL)
        Py_RETURN_NONE;
    Py_INCREF(error);
    if (PyDict_DelItemString(slots, "proxy.tls._provider.error") != 0)
        PyErr_Clear();
    return error;
}

static PyMethodDef METHODS[] = {
    {"set_upcall", set_upcall, METH_O, "Set the function (ski, scheme, message) -> signature, or None."},
    {"take_error", take_error, METH_NOARGS, "Return and forget what the upcall last raised in this thread, or None."},
    {NULL, NULL, 0, NULL},
};

/* m_size -1: the upcall is one for the process, so subinterpreters are refused. */
static struct PyModuleDef MODULE = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "proxy.tls._provider",
    .m_doc = "The Python side of Sealgate's OpenSSL provider.",
    .m_size = -1,
    .m_methods = METHODS,
};

PyMODINIT_FUNC PyInit__provider(void) { return PyModule_Create(&MODULE); }
