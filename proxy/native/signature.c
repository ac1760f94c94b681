/*
 * Signatures: which scheme OpenSSL wants, told apart by key, digest, padding and salt.
 *
 * libssl signs in one shot (EVP_DigestSign), so the whole message is known and goes to the upcall. libssl also asks
 * "could you sign with this digest?" several times a handshake (EVP_PKEY_digestsign_supports_digest), and then for the
 * length: all of that is answered here. There is no SIGN for ready-made digests (TLS 1.1 and older).
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "sealgate.h"

enum {
    PAD_PKCS1 = 1,               /* RSA_PKCS1_PADDING */
    PAD_PSS = 6,                 /* RSA_PKCS1_PSS_PADDING */
    SALT_AS_DIGEST = -1,         /* RSA_PSS_SALTLEN_DIGEST */
    SALT_AS_DIGEST_AT_MOST = -4, /* RSA_PSS_SALTLEN_AUTO_DIGEST_MAX; our keys are never too short for the digest's */
};

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

static OSSL_FUNC_signature_newctx_fn signature_new;
static OSSL_FUNC_signature_freectx_fn signature_free;
static OSSL_FUNC_signature_dupctx_fn signature_dup;
static OSSL_FUNC_signature_digest_sign_init_fn signature_init;
static OSSL_FUNC_signature_digest_sign_fn signature_sign;
static OSSL_FUNC_signature_set_ctx_params_fn signature_set_params;
static OSSL_FUNC_signature_settable_ctx_params_fn signature_settable;

static const DIGEST DIGESTS[] = {
    {{"SHA256", "SHA2-256", "SHA-256", "2.16.840.1.101.3.4.2.1"}, 32, "rsa_pkcs1_sha256", "rsa_pss_sha256", "ecdsa_sha256"},
    {{"SHA384", "SHA2-384", "SHA-384", "2.16.840.1.101.3.4.2.2"}, 48, "rsa_pkcs1_sha384", "rsa_pss_sha384", "ecdsa_sha384"},
    {{"SHA512", "SHA2-512", "SHA-512", "2.16.840.1.101.3.4.2.3"}, 64, "rsa_pkcs1_sha512", "rsa_pss_sha512", "ecdsa_sha512"},
};

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
    if (is_ed25519 && (digest != NULL || find(params, "instance") != NULL || find(params, "context-string") != NULL))
        return FAIL(signature->provider, REASON_PARAMETER, "only plain Ed25519 (RFC 8032 5.1) is known");
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

static int signature_sign(void *vsignature, unsigned char *out, size_t *out_bytes, size_t room,
                          const unsigned char *message, size_t bytes)
{
    SIGNATURE *signature = vsignature;
    KEY *key = signature->key;
    const char *scheme;
    int is_signed;

    if (key == NULL)
        return FAIL(signature->provider, REASON_NO_PRIVATE_KEY, "no key was given");
    if (out == NULL) {
        *out_bytes = max_signature_bytes(key);
        return 1;
    }
    if (room < max_signature_bytes(key))
        return FAIL(signature->provider, REASON_BUFFER, "%d bytes are needed", (int)max_signature_bytes(key));
    if ((scheme = scheme_of(signature)) == NULL)
        return 0;
    key_hold(key); /* other handshakes run before the answer; whatever they do, this key stays */
    is_signed = ask_for_signature(key, scheme, message, bytes, out, out_bytes);
    key_free(key);
    return is_signed;
}

/* ---- table ---- */

const OSSL_DISPATCH SIGNATURE_FUNCTIONS[] = {
    {OSSL_FUNC_SIGNATURE_NEWCTX, ENTRY(signature_new)},
    {OSSL_FUNC_SIGNATURE_FREECTX, ENTRY(signature_free)},
    {OSSL_FUNC_SIGNATURE_DUPCTX, ENTRY(signature_dup)},
    {OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, ENTRY(signature_init)},
    {OSSL_FUNC_SIGNATURE_DIGEST_SIGN, ENTRY(signature_sign)},
    {OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, ENTRY(signature_set_params)},
    {OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, ENTRY(signature_settable)},
    {0, NULL},
};
