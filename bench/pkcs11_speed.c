/* How many signatures a PKCS#11 token makes when it is called directly: one thread, C_SignInit and C_Sign in a loop.
 *
 *     pkcs11_speed MODULE TOKEN_LABEL PIN_FILE KIND SECONDS
 *
 * KIND is "p256" (CKM_ECDSA) or "rsa2048" (CKM_RSA_PKCS_PSS with SHA-256): the first private key of that type signs
 * SHA-256 digests. Prints JSON: {"signatures": N, "seconds": S, "cpu_seconds": C}. The declarations are those of PKCS#11 2.40 that it
 * needs, so no header has to be installed.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long ck_ulong;
typedef unsigned char ck_byte;

struct mechanism {
    ck_ulong type;
    void *parameter;
    ck_ulong parameter_len;
};

struct pss_parameters {
    ck_ulong hash, mgf, salt_len;
};

struct attribute {
    ck_ulong type;
    void *value;
    ck_ulong value_len;
};

/* CK_TOKEN_INFO begins with the label; the rest is not looked at, and the size leaves room for it. */
struct token_info {
    char label[32];
    char rest[512];
};

/* CK_FUNCTION_LIST: a version, then pointers in the order of the standard. */
struct functions {
    ck_byte version[2];
    ck_ulong (*initialize)(void *arguments);
    ck_ulong (*finalize)(void *reserved);
    void *info, *function_list;
    ck_ulong (*slots)(ck_byte only_with_token, ck_ulong *ids, ck_ulong *count);
    void *slot_info;
    ck_ulong (*token_info)(ck_ulong slot, struct token_info *info);
    void *mechanisms, *mechanism_info, *init_token, *init_pin, *set_pin;
    ck_ulong (*open_session)(ck_ulong slot, ck_ulong flags, void *application, void *notify, ck_ulong *session);
    void *close_session, *close_all, *session_info, *operation_state, *set_operation_state;
    ck_ulong (*login)(ck_ulong session, ck_ulong user, const ck_byte *pin, ck_ulong pin_len);
    void *logout, *create, *copy, *destroy, *object_size, *get_attributes, *set_attributes;
    ck_ulong (*find_begin)(ck_ulong session, struct attribute *wanted, ck_ulong count);
    ck_ulong (*find)(ck_ulong session, ck_ulong *objects, ck_ulong most, ck_ulong *found);
    ck_ulong (*find_end)(ck_ulong session);
    void *encrypt[4], *decrypt[4], *digest[5];
    ck_ulong (*sign_begin)(ck_ulong session, struct mechanism *mechanism, ck_ulong key);
    ck_ulong (*sign)(ck_ulong session, ck_byte *data, ck_ulong data_len, ck_byte *signature, ck_ulong *signature_len);
};

enum {
    CKF_SERIAL_SESSION = 4,
    CKU_USER = 1,
    CKO_PRIVATE_KEY = 3,
    CKK_RSA = 0,
    CKK_EC = 3,
    CKA_CLASS = 0,
    CKA_KEY_TYPE = 0x100,
    CKM_RSA_PKCS_PSS = 0x0D,
    CKM_SHA256 = 0x250,
    CKM_ECDSA = 0x1041,
    CKG_MGF1_SHA256 = 2,
    MOST_SLOTS = 64
};

static void check(ck_ulong result, const char *what)
{
    if (result != 0) {
        fprintf(stderr, "%s failed: 0x%lx\n", what, result);
        exit(1);
    }
}

static struct functions *load(const char *module)
{
    ck_ulong (*get)(struct functions **) = NULL;
    struct functions *found = NULL;
    void *library = dlopen(module, RTLD_NOW | RTLD_LOCAL);
    if (library != NULL)
        *(void **)&get = dlsym(library, "C_GetFunctionList");
    if (get == NULL) {
        fprintf(stderr, "%s is no PKCS#11 module\n", module);
        exit(1);
    }
    check(get(&found), "C_GetFunctionList");
    return found;
}

static ck_ulong slot_of(struct functions *p11, const char *label)
{
    ck_ulong slots[MOST_SLOTS], count = MOST_SLOTS;
    size_t length = strlen(label);
    check(p11->slots(1, slots, &count), "C_GetSlotList");
    for (ck_ulong i = 0; i < count; i++) {
        struct token_info info;
        check(p11->token_info(slots[i], &info), "C_GetTokenInfo");
        /* Labels are padded with spaces. */
        if (length <= 32 && memcmp(info.label, label, length) == 0 && (length == 32 || info.label[length] == ' '))
            return slots[i];
    }
    fprintf(stderr, "there is no token \"%s\"\n", label);
    exit(1);
}

static void log_in(struct functions *p11, ck_ulong session, const char *pin_file)
{
    char pin[256] = "";
    FILE *file = fopen(pin_file, "r");
    if (file == NULL || fgets(pin, sizeof pin, file) == NULL) {
        fprintf(stderr, "%s has no PIN\n", pin_file);
        exit(1);
    }
    fclose(file);
    check(p11->login(session, CKU_USER, (const ck_byte *)pin, strcspn(pin, "\r\n")), "C_Login");
}

static ck_ulong find_key(struct functions *p11, ck_ulong session, ck_ulong type)
{
    ck_ulong class = CKO_PRIVATE_KEY, key = 0, found = 0;
    struct attribute wanted[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}};
    check(p11->find_begin(session, wanted, 2), "C_FindObjectsInit");
    check(p11->find(session, &key, 1, &found), "C_FindObjects");
    check(p11->find_end(session), "C_FindObjectsFinal");
    if (found == 0) {
        fprintf(stderr, "the token has no such key\n");
        exit(1);
    }
    return key;
}

static double now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int count, char **arguments)
{
    if (count != 6) {
        fprintf(stderr, "usage: pkcs11_speed MODULE TOKEN_LABEL PIN_FILE p256|rsa2048 SECONDS\n");
        return 2;
    }
    int is_rsa = strcmp(arguments[4], "rsa2048") == 0;
    double seconds = atof(arguments[5]);
    struct pss_parameters pss = {CKM_SHA256, CKG_MGF1_SHA256, 32};
    struct mechanism mechanism = {CKM_ECDSA, NULL, 0};
    if (is_rsa)
        mechanism = (struct mechanism){CKM_RSA_PKCS_PSS, &pss, sizeof pss};

    struct functions *p11 = load(arguments[1]);
    ck_ulong session;
    check(p11->initialize(NULL), "C_Initialize");
    check(p11->open_session(slot_of(p11, arguments[2]), CKF_SERIAL_SESSION, NULL, NULL, &session), "C_OpenSession");
    log_in(p11, session, arguments[3]);
    ck_ulong key = find_key(p11, session, is_rsa ? CKK_RSA : CKK_EC);

    ck_byte digest[32] = {0}, signature[1024];
    unsigned long signatures = 0;
    double started = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID), passed = 0;
    while (passed < seconds) {
        for (int i = 0; i < 8; i++, signatures++) {
            ck_ulong length = sizeof signature;
            memcpy(digest, &signatures, sizeof signatures);
            check(p11->sign_begin(session, &mechanism, key), "C_SignInit");
            check(p11->sign(session, digest, sizeof digest, signature, &length), "C_Sign");
        }
        passed = now(CLOCK_MONOTONIC) - started;
    }
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("{\"signatures\": %lu, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n", signatures, passed, cpu);
    p11->finalize(NULL);
    return 0;
}
