/*
 * Sealgate's OpenSSL provider: private keys that are somewhere else.
 *
 * One shared object is two things at once: an OpenSSL provider (OSSL_provider_init, below) and the CPython extension
 * module proxy.tls._provider (upcall.c). libssl uses a key of ours like any other; where the private key would compute,
 * a Python function is called, which gets the signature from a node. No private key is in this process.
 *
 * Theory of operation, in the order of a key's life:
 *   decoder.c    a key reference (a PEM that holds no secret) becomes a key object;
 *   keys.c       OpenSSL compares it with the certificate, asks for its size, and is refused its private part;
 *   signature.c  libssl chooses a scheme and hands over the whole message that is to be signed;
 *   upcall.c     Python gets the key's SKI, the scheme and the message, and returns the signature, perhaps much later.
 * No decryption, no key agreement, no digests, no random numbers: those stay with the default provider, which must be
 * active beside us, and before us: of two that offer "RSA", OpenSSL's search without a provider's name takes the first.
 *
 * Several libcryptos. The standard library's ssl and the cryptography wheel each have one, and both may load us. What
 * a core gave us is kept per instance (PROVIDER) and never in a static variable. Only the upcall is one for the process.
 * We link against no OpenSSL at all, so that no symbol of the wrong one can be called.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "sealgate.h"

#define SEALGATE_NAME "sealgate"
#define SEALGATE_VERSION "1"
#define SEALGATE_PROPERTIES "provider=" SEALGATE_NAME

static OSSL_FUNC_provider_teardown_fn provider_teardown;
static OSSL_FUNC_provider_gettable_params_fn provider_gettable;
static OSSL_FUNC_provider_get_params_fn provider_get_params;
static OSSL_FUNC_provider_query_operation_fn provider_query;
static OSSL_FUNC_provider_get_reason_strings_fn provider_reasons;

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

int sealgate_fail(const PROVIDER *provider, const char *file, int line, const char *function, uint32_t reason,
                  const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    provider->new_error(provider->handle);
    provider->set_error_debug(provider->handle, file, line, function);
    provider->vset_error(provider->handle, reason, format, arguments);
    va_end(arguments);
    return 0;
}

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
