/*
 * What the files of the provider share: the theory of operation is in provider.c, that of the upcall in upcall.c.
 *
 * One shape for each file: theory, types, typed forward declarations, functions, and the tables that OpenSSL sees at
 * the bottom. Functions return 1 for good and 0 (or NULL) for bad; who finds the fault raises it, once, with FAIL. Where
 * OpenSSL only asks whether something is so (has, match, "would you export this?"), 0 raises nothing.
 */
#ifndef SEALGATE_H
#define SEALGATE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/core.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/params.h>

#define ENTRY(function) ((void (*)(void))(function)) /* a typed function in an OSSL_DISPATCH */
#define FAIL(provider, reason, ...) sealgate_fail((provider), __FILE__, __LINE__, __func__, (reason), __VA_ARGS__)

enum {
    SKI_BYTES = 20,
    MAX_PUBLIC_BYTES = 2048, /* RSA of 16384 bits, OpenSSL's own limit */
    MAX_EXPONENT_BYTES = 32,
};

enum { /* reasons; their texts are in provider.c */
    REASON_MEMORY = 1,
    REASON_BAD_REFERENCE,
    REASON_BAD_PUBLIC_KEY,
    REASON_PARAMETER,
    REASON_NO_PRIVATE_KEY,
    REASON_DIGEST,
    REASON_PADDING,
    REASON_SALT,
    REASON_NO_UPCALL,
    REASON_UPCALL,
    REASON_SIGNATURE_LENGTH,
    REASON_BUFFER,
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

/* A kind of key; RSA has its sizes from the modulus. */
typedef struct {
    FAMILY family;
    const char *group;
    const char *aliases[2];
    int bits, security_bits;
    size_t field_bytes, max_signature_bytes;
} KIND;

enum { KIND_RSA = 1, KIND_P256, KIND_P384, KIND_P521, KIND_ED25519, KIND_END }; /* as in a key reference */

typedef struct {
    atomic_int references;
    const PROVIDER *provider;
    FAMILY family;
    const KIND *kind;    /* NULL: nothing was imported yet */
    int can_sign;        /* came from a reference, so a node has the private part */
    size_t public_bytes; /* 0: no public part (an EC key may be only its group for a while) */
    size_t exponent_bytes;
    unsigned char ski[SKI_BYTES];
    unsigned char exponent[MAX_EXPONENT_BYTES];  /* big-endian, no leading zeros */
    unsigned char public_part[MAX_PUBLIC_BYTES]; /* modulus (as above), point or Ed25519 key */
} KEY;

extern const KIND KINDS[KIND_END];
extern const char *const FAMILY_NAMES[]; /* indexed by FAMILY; the names of OpenSSL's key types */
extern const OSSL_DISPATCH RSA_KEYMGMT[], EC_KEYMGMT[], ED25519_KEYMGMT[], SIGNATURE_FUNCTIONS[];
extern const OSSL_DISPATCH RSA_DECODER[], EC_DECODER[], ED25519_DECODER[];

/* provider.c: raise an error in the libcrypto that `provider` belongs to; always 0. */
int sealgate_fail(const PROVIDER *provider, const char *file, int line, const char *function, uint32_t reason,
                  const char *format, ...);

/* params.c: OSSL_PARAM without libcrypto's functions for it. A put into NULL (nobody asked) is good. */
OSSL_PARAM *find(const OSSL_PARAM *params, const char *name);
void copy_native(unsigned char *to, const unsigned char *from, size_t bytes);
int put_number(OSSL_PARAM *param, const unsigned char *number, size_t bytes);
int put_int(OSSL_PARAM *param, size_t value);
int put_bytes(OSSL_PARAM *param, const void *bytes, size_t length);
int put_text(OSSL_PARAM *param, const char *text);
int get_int(const OSSL_PARAM *param, int *value);
int get_text(const OSSL_PARAM *param, char *text, size_t room);

/* keys.c */
KEY *key_of_reference(const PROVIDER *provider, const KIND *kind, const unsigned char *ski,
                      const unsigned char *public_part, size_t public_bytes, const unsigned char *exponent,
                      size_t exponent_bytes);
KEY *key_hold(KEY *key);
void key_free(void *key);
size_t max_signature_bytes(const KEY *key);

/* upcall.c: have `scheme` sign a message with `key`; the caller holds the key and has room for its longest signature. */
int ask_for_signature(const KEY *key, const char *scheme, const unsigned char *message, size_t bytes,
                      unsigned char *out, size_t *out_bytes);

#endif
