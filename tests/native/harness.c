/*
 * Plays OpenSSL's part against the provider, under AddressSanitizer and UBSan, and lets each allocation fail in turn.
 *
 * The provider's sources are linked in, and so is stub_python.c: the few functions of CPython that they use, with an
 * upcall in C that signs with the real private key. What the provider signs is verified with the real public key.
 * Usage: harness [seed]. Prints the name of each part; aborts at the first thing that is wrong.
 */
#include <openssl/decoder.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sealgate.h"
#include "stub_python.h"

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            ERR_print_errors_fp(stderr);                                                                               \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { KEYS = 6, MAX_BODY = 4096 };

typedef struct {
    const char *name;
    int kind;
    EVP_PKEY *real;
    unsigned char ski[SKI_BYTES];
    unsigned char body[MAX_BODY];
    size_t body_bytes;
} SUBJECT;

static SUBJECT subjects[KEYS] = {{.name = "RSA-2048", .kind = KIND_RSA}, {.name = "RSA-3072", .kind = KIND_RSA},
                                 {.name = "P-256", .kind = KIND_P256},   {.name = "P-384", .kind = KIND_P384},
                                 {.name = "P-521", .kind = KIND_P521},   {.name = "ED25519", .kind = KIND_ED25519}};
static OSSL_LIB_CTX *context; /* default beside ours */
extern OSSL_provider_init_fn OSSL_provider_init;

/* ---- allocation failure: the linker sends the provider's malloc and calloc here ---- */

static long fail_at, allocations; /* fail_at 0: never */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);

void *__wrap_malloc(size_t bytes) { return ++allocations == fail_at ? NULL : __real_malloc(bytes); }
void *__wrap_calloc(size_t count, size_t bytes)
{
    return ++allocations == fail_at ? NULL : __real_calloc(count, bytes);
}

/* ---- keys and references ---- */

static size_t put_sized(unsigned char *at, const unsigned char *bytes, size_t length)
{
    at[0] = (unsigned char)(length >> 8);
    at[1] = (unsigned char)length;
    memcpy(at + 2, bytes, length);
    return length + 2;
}

static size_t number_of(EVP_PKEY *key, const char *name, unsigned char *to)
{
    BIGNUM *number = NULL;
    size_t bytes;

    CHECK(EVP_PKEY_get_bn_param(key, name, &number));
    bytes = (size_t)BN_bn2bin(number, to);
    BN_free(number);
    return bytes;
}

static void prepare(SUBJECT *subject)
{
    unsigned char part[MAX_BODY], exponent[64], *at = subject->body;
    size_t bytes, exponent_bytes = 0;

    if (subject->kind == KIND_RSA) {
        subject->real = EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)atoi(subject->name + 4));
        bytes = number_of(subject->real, "n", part);
        exponent_bytes = number_of(subject->real, "e", exponent);
    } else {
        subject->real = subject->kind == KIND_ED25519 ? EVP_PKEY_Q_keygen(NULL, NULL, "ED25519")
                                                      : EVP_PKEY_Q_keygen(NULL, NULL, "EC", subject->name);
        CHECK(EVP_PKEY_get_octet_string_param(subject->real, "pub", part, sizeof part, &bytes));
    }
    SHA1(part, bytes, subject->ski); /* not quite the SKI for RSA, but a name */
    *at++ = 1;
    *at++ = (unsigned char)subject->kind;
    memcpy(at, subject->ski, SKI_BYTES);
    at += SKI_BYTES;
    at += put_sized(at, part, bytes);
    at += put_sized(at, exponent, exponent_bytes);
    subject->body_bytes = (size_t)(at - subject->body);
}

static EVP_PKEY *read_text(const char *text, size_t bytes)
{
    BIO *bio = BIO_new_mem_buf(text, (int)bytes);
    EVP_PKEY *key = PEM_read_bio_PrivateKey_ex(bio, NULL, NULL, NULL, context, NULL);

    BIO_free(bio);
    return key;
}

static EVP_PKEY *read_body(const unsigned char *body, size_t bytes)
{
    char text[2 * MAX_BODY + 256];
    int length = sprintf(text, "-----BEGIN SEALGATE KEY REFERENCE-----\n");

    length += EVP_EncodeBlock((unsigned char *)text + length, body, (int)bytes);
    length += sprintf(text + length, "\n-----END SEALGATE KEY REFERENCE-----\n");
    return read_text(text, (size_t)length);
}

static EVP_PKEY *public_of(EVP_PKEY *key, OSSL_LIB_CTX *where)
{
    unsigned char *der = NULL;
    const unsigned char *at;
    int bytes = i2d_PUBKEY(key, &der);
    EVP_PKEY *public_key;

    CHECK(bytes > 0);
    at = der;
    public_key = d2i_PUBKEY_ex(NULL, &at, bytes, where, "provider=default");
    OPENSSL_free(der);
    return public_key;
}

/* ---- parts ---- */

static void play_facts(SUBJECT *subject)
{
    EVP_PKEY *ours = read_body(subject->body, subject->body_bytes), *copy, *certified = public_of(subject->real, context);
    OSSL_PARAM *data = NULL;
    unsigned char *der_a = NULL, *der_b = NULL;
    int bytes_a, bytes_b;
    char text[64];

    CHECK(ours != NULL && certified != NULL);
    CHECK(EVP_PKEY_get_bits(ours) == EVP_PKEY_get_bits(subject->real));
    CHECK(EVP_PKEY_get_security_bits(ours) == EVP_PKEY_get_security_bits(subject->real));
    CHECK(EVP_PKEY_get_size(ours) == EVP_PKEY_get_size(subject->real));
    CHECK(EVP_PKEY_get_base_id(ours) == EVP_PKEY_get_base_id(subject->real));
    CHECK(EVP_PKEY_eq(ours, certified) == 1 && EVP_PKEY_eq(certified, ours) == 1);
    CHECK((bytes_a = i2d_PUBKEY(ours, &der_a)) > 0 && (bytes_b = i2d_PUBKEY(subject->real, &der_b)) == bytes_a);
    CHECK(memcmp(der_a, der_b, (size_t)bytes_a) == 0);
    CHECK(EVP_PKEY_get_default_digest_name(ours, text, sizeof text) == (subject->kind == KIND_ED25519 ? 2 : 1));
    CHECK(strcmp(text, subject->kind == KIND_ED25519 ? "UNDEF" : "SHA256") == 0);
    if (subject->kind >= KIND_P256 && subject->kind <= KIND_P521) {
        CHECK(EVP_PKEY_get_group_name(ours, text, sizeof text, NULL) && strcmp(text, KINDS[subject->kind].group) == 0);
        CHECK(EVP_PKEY_get_ec_point_conv_form(ours) == POINT_CONVERSION_UNCOMPRESSED);
        CHECK(EVP_PKEY_parameters_eq(ours, certified) == 1 && EVP_PKEY_parameters_eq(certified, ours) == 1);
        CHECK(number_of(ours, "qx", der_a) == number_of(subject->real, "qx", der_b));
    }
    CHECK((copy = EVP_PKEY_dup(ours)) != NULL && EVP_PKEY_eq(copy, ours) == 1);
    CHECK(EVP_PKEY_todata(ours, EVP_PKEY_PUBLIC_KEY, &data) == 1);
    OSSL_PARAM_free(data);
    data = NULL;
    CHECK(EVP_PKEY_todata(ours, EVP_PKEY_KEYPAIR, &data) == 0);
    OSSL_PARAM_free(data);
    ERR_clear_error();
    for (int i = 0; i < KEYS; i++)
        CHECK(&subjects[i] == subject || EVP_PKEY_eq(ours, subjects[i].real) != 1);
    OPENSSL_free(der_a);
    OPENSSL_free(der_b);
    EVP_PKEY_free(copy);
    EVP_PKEY_free(certified);
    EVP_PKEY_free(ours);
    ERR_clear_error();
}

static void play_refusals(SUBJECT *subject)
{
    EVP_PKEY *ours = read_body(subject->body, subject->body_bytes);
    BIO *sink = BIO_new(BIO_s_mem());
    EVP_MD_CTX *signing = EVP_MD_CTX_new();
    EVP_PKEY_CTX *use;

    CHECK(PEM_write_bio_PrivateKey(sink, ours, NULL, NULL, 0, NULL, NULL) != 1);
    CHECK(i2d_PrivateKey(ours, NULL) <= 0);
    BIO_free(sink);
    use = EVP_PKEY_CTX_new_from_pkey(context, ours, NULL);
    CHECK(EVP_PKEY_decrypt_init(use) != 1 && EVP_PKEY_sign_init(use) != 1);
    if (subject->kind != KIND_RSA)
        CHECK(EVP_PKEY_derive_init(use) != 1);
    EVP_PKEY_CTX_free(use);
    /* A private key from elsewhere is not taken in, and one whose private part is unknown does not sign. */
    CHECK(EVP_DigestSignInit_ex(signing, NULL, NULL, context, "provider=sealgate", subject->real, NULL) != 1);
    EVP_PKEY_free(ours);
    ours = public_of(subject->real, context);
    CHECK(EVP_DigestSignInit_ex(signing, NULL, NULL, context, "provider=sealgate", ours, NULL) != 1);
    EVP_MD_CTX_free(signing);
    EVP_PKEY_free(ours);
    ERR_clear_error();
}

/* `pad` 0: none is set; `salt` NULL: none is set. 1 good, 0 refused. */
static int sign_and_verify(SUBJECT *subject, EVP_PKEY *ours, const char *digest, int pad, const char *salt,
                           const char *mgf1, const char *scheme)
{
    static const unsigned char message[] = "what a handshake signs";
    unsigned char signature[2048];
    size_t bytes = 0;
    EVP_MD_CTX *signing = EVP_MD_CTX_new(), *verifying = EVP_MD_CTX_new();
    EVP_PKEY_CTX *options;
    OSSL_PARAM params[4] = {OSSL_PARAM_END, OSSL_PARAM_END, OSSL_PARAM_END, OSSL_PARAM_END}, *next = params;
    int is_good;

    stub_signer = subject->real;
    stub_scheme[0] = '\0';
    if (pad != 0)
        *next++ = OSSL_PARAM_construct_int("pad-mode", &pad);
    if (salt != NULL)
        *next++ = OSSL_PARAM_construct_utf8_string("saltlen", (char *)salt, 0);
    if (mgf1 != NULL)
        *next++ = OSSL_PARAM_construct_utf8_string("mgf1-digest", (char *)mgf1, 0);
    is_good = EVP_DigestSignInit_ex(signing, &options, digest, context, NULL, ours, params) == 1 &&
              EVP_DigestSign(signing, NULL, &bytes, message, sizeof message) == 1 &&
              EVP_DigestSign(signing, signature, &bytes, message, sizeof message) == 1;
    if (is_good) {
        CHECK(strcmp(stub_scheme, scheme) == 0 && memcmp(stub_ski, subject->ski, SKI_BYTES) == 0);
        CHECK(EVP_DigestVerifyInit_ex(verifying, &options, digest, NULL, NULL, subject->real, NULL) == 1);
        if (pad == RSA_PKCS1_PSS_PADDING)
            CHECK(EVP_PKEY_CTX_set_rsa_padding(options, pad) == 1 &&
                  EVP_PKEY_CTX_set_rsa_pss_saltlen(options, RSA_PSS_SALTLEN_DIGEST) == 1);
        CHECK(EVP_DigestVerify(verifying, signature, bytes, message, sizeof message) == 1);
    }
    EVP_MD_CTX_free(signing);
    EVP_MD_CTX_free(verifying);
    ERR_clear_error();
    return is_good;
}

static void play_rsa_schemes(SUBJECT *subject, EVP_PKEY *ours, const char *digest, const char *pkcs1, const char *pss)
{
    const char *bytes = strstr(digest, "256") ? "32" : strstr(digest, "384") ? "48" : "64";
    int pad = RSA_PKCS1_PSS_PADDING;

    CHECK(sign_and_verify(subject, ours, digest, 0, NULL, NULL, pkcs1));
    CHECK(sign_and_verify(subject, ours, digest, RSA_PKCS1_PADDING, NULL, NULL, pkcs1));
    CHECK(sign_and_verify(subject, ours, digest, pad, NULL, NULL, pss));
    CHECK(sign_and_verify(subject, ours, digest, pad, "digest", NULL, pss));
    CHECK(sign_and_verify(subject, ours, digest, pad, bytes, digest, pss));
    CHECK(!sign_and_verify(subject, ours, digest, pad, "20", NULL, pss));
    CHECK(!sign_and_verify(subject, ours, digest, pad, "max", NULL, pss));
    CHECK(!sign_and_verify(subject, ours, digest, pad, "auto", NULL, pss));
    CHECK(!sign_and_verify(subject, ours, digest, pad, "99999999999999", NULL, pss));
    CHECK(!sign_and_verify(subject, ours, digest, pad, NULL, "SHA1", pss));
    CHECK(!sign_and_verify(subject, ours, digest, pad, NULL, strcmp(bytes, "32") ? "SHA256" : "SHA384", pss));
    CHECK(!sign_and_verify(subject, ours, digest, RSA_NO_PADDING, NULL, NULL, pss));
    CHECK(!sign_and_verify(subject, ours, digest, RSA_PKCS1_OAEP_PADDING, NULL, NULL, pss));
}

static void play_schemes(SUBJECT *subject)
{
    static const char *digests[][4] = {{"SHA256", "rsa_pkcs1_sha256", "rsa_pss_sha256", "ecdsa_sha256"},
                                       {"SHA2-384", "rsa_pkcs1_sha384", "rsa_pss_sha384", "ecdsa_sha384"},
                                       {"sha512", "rsa_pkcs1_sha512", "rsa_pss_sha512", "ecdsa_sha512"}};
    EVP_PKEY *ours = read_body(subject->body, subject->body_bytes);

    CHECK(ours != NULL);
    if (subject->kind == KIND_ED25519) {
        CHECK(sign_and_verify(subject, ours, NULL, 0, NULL, NULL, "ed25519"));
        CHECK(!sign_and_verify(subject, ours, "SHA256", 0, NULL, NULL, ""));
    } else {
        CHECK(!sign_and_verify(subject, ours, "SHA1", 0, NULL, NULL, ""));
        CHECK(!sign_and_verify(subject, ours, "SHA224", 0, NULL, NULL, ""));
        CHECK(!sign_and_verify(subject, ours, "SHA3-256", 0, NULL, NULL, ""));
    }
    for (size_t i = 0; i < 3 && subject->kind != KIND_ED25519; i++) {
        if (subject->kind == KIND_RSA)
            play_rsa_schemes(subject, ours, digests[i][0], digests[i][1], digests[i][2]);
        else
            CHECK(sign_and_verify(subject, ours, digests[i][0], 0, NULL, NULL, digests[i][3]));
    }
    if (subject->kind != KIND_RSA)
        CHECK(!sign_and_verify(subject, ours, "SHA256", RSA_PKCS1_PSS_PADDING, NULL, NULL, ""));
    for (stub_answer = STUB_RAISES; stub_answer < STUB_END; stub_answer++)
        CHECK(!sign_and_verify(subject, ours, subject->kind == KIND_ED25519 ? NULL : "SHA256", 0, NULL, NULL, ""));
    stub_answer = STUB_SIGNS;
    EVP_PKEY_free(ours);
}

/* Anything may come in a file: what is taken must be usable, what is not must leave nothing. */
static void play_hostile(SUBJECT *subject)
{
    unsigned char body[MAX_BODY];
    char text[20000];
    EVP_PKEY *key;
    size_t length;

    for (length = 0; length < subject->body_bytes; length++)
        CHECK(read_body(subject->body, length) == NULL);
    for (int round = 0; round < 600; round++) {
        length = subject->body_bytes - (size_t)(rand() % 2 ? 0 : rand() % 30);
        memcpy(body, subject->body, length);
        for (int flips = rand() % 4; flips >= 0; flips--)
            body[(size_t)rand() % (rand() % 2 ? 30 : length)] ^= (unsigned char)(1 << rand() % 8);
        if ((key = read_body(body, length)) != NULL)
            CHECK(EVP_PKEY_get_size(key) > 0 && EVP_PKEY_get_size(key) <= MAX_PUBLIC_BYTES);
        EVP_PKEY_free(key);
    }
    for (int round = 0; round < 100; round++) {
        length = (size_t)sprintf(text, "-----BEGIN SEALGATE KEY REFERENCE-----%s", rand() % 5 ? "\n" : "");
        for (int more = rand() % 19000; more > 0; more--)
            text[length++] = (char)(rand() % 3 ? "AB=\n-/+"[rand() % 7] : rand());
        if (rand() % 2)
            length += (size_t)sprintf(text + length, "\n-----END SEALGATE KEY REFERENCE-----");
        CHECK(read_text(text, length) == NULL);
    }
    ERR_clear_error();
}

/* Import, match, export, get and set through the tables, with parameters that libcrypto would never make. */
static int count_params(const OSSL_PARAM params[], void *counted)
{
    for (; params->key != NULL; params++)
        ++*(int *)counted;
    return 1;
}

#define FUNCTION(table, type, id) ((type *)function_of(table, id))

static void (*function_of(const OSSL_DISPATCH *table, int id))(void)
{
    for (; table->function_id != 0; table++)
        if (table->function_id == id)
            return table->function;
    abort();
}

static void play_odd_parameters(const PROVIDER *provider)
{
    OSSL_FUNC_keymgmt_new_fn *new = FUNCTION(RSA_KEYMGMT, OSSL_FUNC_keymgmt_new_fn, OSSL_FUNC_KEYMGMT_NEW);
    OSSL_FUNC_keymgmt_import_fn *import = FUNCTION(RSA_KEYMGMT, OSSL_FUNC_keymgmt_import_fn, OSSL_FUNC_KEYMGMT_IMPORT);
    OSSL_FUNC_keymgmt_has_fn *has = FUNCTION(RSA_KEYMGMT, OSSL_FUNC_keymgmt_has_fn, OSSL_FUNC_KEYMGMT_HAS);
    OSSL_FUNC_keymgmt_export_fn *export = FUNCTION(RSA_KEYMGMT, OSSL_FUNC_keymgmt_export_fn, OSSL_FUNC_KEYMGMT_EXPORT);
    OSSL_FUNC_keymgmt_get_params_fn *get =
        FUNCTION(RSA_KEYMGMT, OSSL_FUNC_keymgmt_get_params_fn, OSSL_FUNC_KEYMGMT_GET_PARAMS);
    unsigned char n[MAX_PUBLIC_BYTES + 16] = {1}, e[8] = {3}, wide[600];
    OSSL_PARAM public_part[] = {OSSL_PARAM_BN("n", n, 0), OSSL_PARAM_BN("e", e, sizeof e), OSSL_PARAM_END};
    int counted = 0;
    KEY *key = new ((void *)provider);

    CHECK(!has(key, OSSL_KEYMGMT_SELECT_PUBLIC_KEY) && !export(key, OSSL_KEYMGMT_SELECT_PUBLIC_KEY, count_params, &counted));
    for (size_t bytes = 0; bytes < 128; bytes++) { /* too short for 1024 bits, or all zeros above */
        public_part[0].data_size = bytes;
        CHECK(!import(key, OSSL_KEYMGMT_SELECT_ALL, public_part));
    }
    public_part[0].data_size = sizeof n;
    n[2047 + 1] = 1; /* a bit more than 16384 bits */
    CHECK(!import(key, OSSL_KEYMGMT_SELECT_ALL, public_part));
    n[2048] = 0, n[255] = 0x80; /* 2048 bits, with zeros above */
    OSSL_PARAM whole[] = {public_part[0], public_part[1], OSSL_PARAM_BN("d", e, sizeof e), OSSL_PARAM_END};
    CHECK(!import(key, OSSL_KEYMGMT_SELECT_KEYPAIR, whole));
    CHECK(import(key, OSSL_KEYMGMT_SELECT_ALL, public_part));
    CHECK(!import(key, OSSL_KEYMGMT_SELECT_ALL, public_part));
    CHECK(has(key, OSSL_KEYMGMT_SELECT_PUBLIC_KEY) && !has(key, OSSL_KEYMGMT_SELECT_PRIVATE_KEY));
    CHECK(export(key, OSSL_KEYMGMT_SELECT_PUBLIC_KEY, count_params, &counted) && counted == 2);
    CHECK(!export(key, OSSL_KEYMGMT_SELECT_KEYPAIR, count_params, &counted));
    for (size_t bytes = 1; bytes <= 16; bytes++) {
        for (unsigned int type = OSSL_PARAM_INTEGER; type <= OSSL_PARAM_UNSIGNED_INTEGER; type++) {
            OSSL_PARAM asked[] = {{"bits", type, wide, bytes, 0}, OSSL_PARAM_END};
            int is_little = wide[0] = 0;

            CHECK(get(key, asked) == (bytes >= 2) && asked[0].return_size == (bytes >= 2 ? bytes : 2));
            CHECK(bytes < 2 || (wide[is_little] == 0 && wide[1] == 8));
        }
    }
    for (size_t bytes = 255; bytes <= 600; bytes++) {
        OSSL_PARAM asked[] = {{"n", OSSL_PARAM_UNSIGNED_INTEGER, wide, bytes, 0}, OSSL_PARAM_END};
        CHECK(get(key, asked) == (bytes >= 256));
        asked[0].data_type = OSSL_PARAM_INTEGER; /* needs one for the sign */
        CHECK(get(key, asked) == (bytes >= 257));
    }
    OSSL_PARAM sizes[] = {{"n", OSSL_PARAM_UNSIGNED_INTEGER, NULL, 0, 0}, {"max-size", OSSL_PARAM_INTEGER, NULL, 0, 0},
                          {"default-digest", OSSL_PARAM_UTF8_STRING, NULL, 0, 0}, OSSL_PARAM_END};
    CHECK(get(key, sizes) && sizes[0].return_size == 256 && sizes[1].return_size == 2 && sizes[2].return_size == 6);
    OSSL_PARAM wrong[] = {{"bits", OSSL_PARAM_UTF8_STRING, wide, sizeof wide, 0}, OSSL_PARAM_END};
    CHECK(!get(key, wrong));
    key_free(key);
    ERR_clear_error();
}

/* Pad mode and salt in every width; the salt that OpenSSL calls "as the digest" is negative. */
static void play_odd_options(const PROVIDER *provider, KEY *key)
{
    OSSL_FUNC_keymgmt_dup_fn *dup_key = FUNCTION(RSA_KEYMGMT, OSSL_FUNC_keymgmt_dup_fn, OSSL_FUNC_KEYMGMT_DUP);
    KEY *public_key = dup_key(key, OSSL_KEYMGMT_SELECT_PUBLIC_KEY);
    OSSL_FUNC_signature_newctx_fn *new =
        FUNCTION(SIGNATURE_FUNCTIONS, OSSL_FUNC_signature_newctx_fn, OSSL_FUNC_SIGNATURE_NEWCTX);
    OSSL_FUNC_signature_freectx_fn *done =
        FUNCTION(SIGNATURE_FUNCTIONS, OSSL_FUNC_signature_freectx_fn, OSSL_FUNC_SIGNATURE_FREECTX);
    OSSL_FUNC_signature_dupctx_fn *dup =
        FUNCTION(SIGNATURE_FUNCTIONS, OSSL_FUNC_signature_dupctx_fn, OSSL_FUNC_SIGNATURE_DUPCTX);
    OSSL_FUNC_signature_digest_sign_init_fn *init =
        FUNCTION(SIGNATURE_FUNCTIONS, OSSL_FUNC_signature_digest_sign_init_fn, OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT);
    OSSL_FUNC_signature_set_ctx_params_fn *set =
        FUNCTION(SIGNATURE_FUNCTIONS, OSSL_FUNC_signature_set_ctx_params_fn, OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS);
    OSSL_FUNC_signature_digest_sign_fn *sign =
        FUNCTION(SIGNATURE_FUNCTIONS, OSSL_FUNC_signature_digest_sign_fn, OSSL_FUNC_SIGNATURE_DIGEST_SIGN);
    void *signature = new ((void *)provider, NULL), *copy;
    unsigned char out[1024];
    size_t bytes;

    CHECK(!init(signature, "SHA256", public_key, NULL) && !sign(signature, NULL, &bytes, 0, out, 1));
    key_free(public_key);
    CHECK(!init(signature, "SHA256", NULL, NULL) && !sign(signature, out, &bytes, sizeof out, out, 1));
    CHECK(init(signature, "SHA256", key, NULL) && set(signature, NULL));
    for (size_t width = 1; width <= 9; width++) {
        unsigned char minus_one[9], six[9] = {6};
        memset(minus_one, 0xff, sizeof minus_one);
        OSSL_PARAM good[] = {{"saltlen", OSSL_PARAM_INTEGER, minus_one, width, 0},
                             {"pad-mode", OSSL_PARAM_UNSIGNED_INTEGER, six, width, 0}, OSSL_PARAM_END};
        OSSL_PARAM bad[] = {{"saltlen", OSSL_PARAM_UNSIGNED_INTEGER, minus_one, width, 0}, OSSL_PARAM_END};
        CHECK(set(signature, good) == (width <= 8));
        CHECK(set(signature, bad) == (width < 4)); /* then it is a big number, refused when it signs */
        CHECK(width >= 4 || !sign(signature, out, &bytes, sizeof out, out, 1));
    }
    OSSL_PARAM unterminated[] = {{"pad-mode", OSSL_PARAM_UTF8_STRING, (char *)"psst", 3, 0},
                                 {"saltlen", OSSL_PARAM_UTF8_STRING, (char *)"digest", 6, 0}, OSSL_PARAM_END};
    OSSL_PARAM nothing[] = {{"pad-mode", OSSL_PARAM_UTF8_STRING, NULL, 0, 0}, OSSL_PARAM_END};
    CHECK(set(signature, unterminated) && !set(signature, nothing));
    CHECK(!sign(signature, out, &bytes, 255, out, 1)); /* no room */
    CHECK((copy = dup(signature)) != NULL);
    done(signature);
    CHECK(sign(copy, out, &bytes, sizeof out, out, 1) && bytes == 256 && strcmp(stub_scheme, "rsa_pss_sha256") == 0);
    done(copy);
    done(NULL);
    ERR_clear_error();
}

/* Everything once; good or not, nothing may leak or break when one allocation fails. */
static int play_once(SUBJECT *subject)
{
    EVP_PKEY *ours = read_body(subject->body, subject->body_bytes), *certified = public_of(subject->real, context);
    EVP_PKEY *copy = ours != NULL ? EVP_PKEY_dup(ours) : NULL;
    int is_good = ours != NULL && copy != NULL && EVP_PKEY_eq(certified, ours) == 1 && EVP_PKEY_eq(ours, certified) == 1;

    if (ours != NULL)
        is_good = sign_and_verify(subject, ours, subject->kind == KIND_ED25519 ? NULL : "SHA256",
                                  subject->kind == KIND_RSA ? RSA_PKCS1_PSS_PADDING : 0, NULL, NULL,
                                  subject->kind == KIND_RSA ? "rsa_pss_sha256"
                                  : subject->kind == KIND_ED25519 ? "ed25519" : "ecdsa_sha256") && is_good;
    EVP_PKEY_free(copy);
    EVP_PKEY_free(certified);
    EVP_PKEY_free(ours);
    ERR_clear_error();
    return is_good;
}

static void play_failing_allocations(SUBJECT *subject)
{
    int failed = 0;
    long count;

    for (fail_at = 1;; fail_at++) {
        int is_good;

        allocations = 0;
        is_good = play_once(subject);
        count = allocations;
        if (count < fail_at) {
            CHECK(is_good);
            break;
        }
        failed += !is_good;
    }
    fail_at = 0;
    CHECK(failed >= 3 && play_once(subject));
    printf("  %s: %ld allocations, %d of them needed\n", subject->name, count, failed);
}

static void play_failing_start(void)
{
    OSSL_LIB_CTX *other = OSSL_LIB_CTX_new();
    OSSL_PROVIDER *ours;

    CHECK(OSSL_PROVIDER_add_builtin(other, "sealgate", OSSL_provider_init));
    allocations = 0, fail_at = 1;
    CHECK(OSSL_PROVIDER_load(other, "sealgate") == NULL);
    fail_at = 0;
    CHECK((ours = OSSL_PROVIDER_load(other, "sealgate")) != NULL);
    CHECK(strcmp(OSSL_PROVIDER_get0_name(ours), "sealgate") == 0 && OSSL_PROVIDER_self_test(ours));
    OSSL_PROVIDER_unload(ours);
    OSSL_LIB_CTX_free(other);
    ERR_clear_error();
}

static void *play_thread(void *shared)
{
    for (int i = 0; i < 300; i++) {
        EVP_MD_CTX *signing = EVP_MD_CTX_new();
        CHECK(EVP_DigestSignInit_ex(signing, NULL, NULL, context, NULL, shared, NULL) == 1);
        EVP_MD_CTX_free(signing);
    }
    ERR_clear_error();
    return NULL;
}

static void play_threads(SUBJECT *subject)
{
    EVP_PKEY *ours = read_body(subject->body, subject->body_bytes);
    pthread_t threads[4];

    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, play_thread, ours) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    EVP_PKEY_free(ours);
}

int main(int argc, char **argv)
{
    OSSL_PROVIDER *builtin, *ours;
    const PROVIDER *instance;
    KEY *key;

    srand(argc > 1 ? (unsigned int)atoi(argv[1]) : 1);
    play_failing_start();
    context = OSSL_LIB_CTX_new();
    CHECK((builtin = OSSL_PROVIDER_load(context, "default")) != NULL);
    CHECK(OSSL_PROVIDER_add_builtin(context, "sealgate", OSSL_provider_init));
    CHECK((ours = OSSL_PROVIDER_load(context, "sealgate")) != NULL);
    instance = OSSL_PROVIDER_get0_provider_ctx(ours);
    stub_start();
    for (SUBJECT *subject = subjects; subject < subjects + KEYS; subject++)
        prepare(subject);
    for (SUBJECT *subject = subjects; subject < subjects + KEYS; subject++) {
        puts(subject->name);
        play_facts(subject);
        play_refusals(subject);
        play_schemes(subject);
        play_hostile(subject);
        play_failing_allocations(subject);
        play_threads(subject);
    }
    play_odd_parameters(instance);
    key = key_of_reference(instance, &KINDS[KIND_RSA], subjects[0].ski, subjects[0].body + 24, 256,
                           (const unsigned char *)"\1\0\1", 3);
    CHECK(key != NULL);
    stub_signer = subjects[0].real;
    play_odd_options(instance, key);
    key_free(key);
    for (SUBJECT *subject = subjects; subject < subjects + KEYS; subject++)
        EVP_PKEY_free(subject->real);
    stub_stop();
    OSSL_PROVIDER_unload(ours);
    OSSL_PROVIDER_unload(builtin);
    OSSL_LIB_CTX_free(context);
    puts("all is well");
    return 0;
}
