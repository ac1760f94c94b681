/*
 * A PKCS#11 module for tests: it passes every call on to a real module and, when it is told to, fails as HSMs fail.
 *
 * SHIM_MODULE names the real module; SHIM_CONTROL names a file of `struct control` that the shim maps, so that a test
 * switches faults while the module is in use, in whatever process. A fault that counts is made so many times; EVER
 * makes it until it is set to 0 again. tests/support/pkcs11_shim.py is the test's side of it.
 *
 * Only the types that it needs are declared: PKCS#11 2.40, with natural alignment as on every Unix.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long CK_ULONG;
typedef CK_ULONG CK_RV;
typedef unsigned char CK_BYTE;
typedef void (*any_function)(void);

#define CKR_OK 0x00UL
#define CKR_GENERAL_ERROR 0x05UL
#define CKR_FUNCTION_FAILED 0x06UL
#define CKR_DEVICE_ERROR 0x30UL
#define CKR_SESSION_HANDLE_INVALID 0xB3UL
#define CKR_TOKEN_NOT_PRESENT 0xE0UL
#define CKR_USER_NOT_LOGGED_IN 0x101UL

#define EVER UINT32_MAX
#define FUNCTIONS 68 /* of CK_FUNCTION_LIST 2.40 */

/* Where the functions that are intercepted stand in the list (PKCS#11 2.40, pkcs11f.h). */
enum {
    GET_FUNCTION_LIST = 3,
    GET_SLOT_LIST = 4,
    GET_TOKEN_INFO = 6,
    OPEN_SESSION = 12,
    GET_SESSION_INFO = 15,
    LOGIN = 18,
    LOGOUT = 19,
    GET_ATTRIBUTE_VALUE = 24,
    FIND_OBJECTS_INIT = 26,
    FIND_OBJECTS = 27,
    SIGN_INIT = 42,
    SIGN = 43,
};

struct function_list {
    CK_BYTE version[2];
    any_function functions[FUNCTIONS];
};

/* The fields stand in the order of tests/support/pkcs11_shim.py. */
struct control {
    _Atomic uint32_t device_error;    /* calls that fail with CKR_DEVICE_ERROR */
    _Atomic uint32_t busy;            /* signatures that fail with CKR_FUNCTION_FAILED */
    _Atomic uint32_t lost_sessions;   /* raised by one: sessions opened before are invalid for ever */
    _Atomic uint32_t logouts;         /* raised by one: nobody is logged in until C_Login */
    _Atomic uint32_t latency_ms;      /* of every signature */
    _Atomic uint32_t hang;            /* signatures do not return while it is set */
    _Atomic uint32_t segfaults;       /* signatures that crash the process */
    _Atomic uint32_t token_gone;      /* no token is present while it is set */
    _Atomic uint32_t wrong_signature; /* signatures that are wrong */
    _Atomic uint32_t empty_finds;     /* searches that find nothing */
    /* What was seen, by all processes together. */
    _Atomic uint32_t sessions_opened;
    _Atomic uint32_t logins;
    _Atomic uint32_t sign_inits;
    _Atomic uint32_t signs;
    _Atomic uint32_t faults_made;
    _Atomic uint32_t login_tries; /* C_Login, well or not */
};

/* The lock guards `opened_at`, which tells sessions that were opened before a loss from those after it. */
#define MAX_SESSIONS 4096
static struct {
    CK_ULONG handle;
    uint32_t opened_at;
} sessions[MAX_SESSIONS];
static size_t session_count;
static pthread_mutex_t sessions_lock = PTHREAD_MUTEX_INITIALIZER;

static struct control *control;
static struct function_list *real;
static struct function_list shim;
static _Atomic uint32_t logouts_done;
static _Atomic int is_logged_out;

/* Whether a fault is to be made now; counts it down unless it is to be made for ever. */
static int take(_Atomic uint32_t *fault)
{
    uint32_t left = atomic_load(fault);

    while (left != 0) {
        if (left == EVER || atomic_compare_exchange_weak(fault, &left, left - 1)) {
            atomic_fetch_add(&control->faults_made, 1);
            return 1;
        }
    }
    return 0;
}

static void sleep_ms(uint32_t ms)
{
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000L};

    nanosleep(&time, NULL);
}

static void remember_session(CK_ULONG handle)
{
    size_t at = 0;

    pthread_mutex_lock(&sessions_lock);
    while (at < session_count && sessions[at].handle != handle)
        at++;
    if (at == session_count && session_count < MAX_SESSIONS)
        session_count++;
    if (at < MAX_SESSIONS) {
        sessions[at].handle = handle;
        sessions[at].opened_at = atomic_load(&control->lost_sessions);
    }
    pthread_mutex_unlock(&sessions_lock);
}

static int is_session_lost(CK_ULONG handle)
{
    uint32_t lost = atomic_load(&control->lost_sessions);
    int answer = 0;

    pthread_mutex_lock(&sessions_lock);
    for (size_t at = 0; at < session_count; at++)
        if (sessions[at].handle == handle)
            answer = sessions[at].opened_at != lost;
    pthread_mutex_unlock(&sessions_lock);
    return answer;
}

/* Logs out for real once, so that handles of private objects become invalid as PKCS#11 says (C_Logout). */
static void follow_logout(CK_ULONG session)
{
    CK_RV (*logout)(CK_ULONG) = (CK_RV(*)(CK_ULONG))real->functions[LOGOUT];
    uint32_t wanted = atomic_load(&control->logouts);
    uint32_t done = atomic_load(&logouts_done);

    if (wanted != done && atomic_compare_exchange_strong(&logouts_done, &done, wanted)) {
        atomic_store(&is_logged_out, 1);
        logout(session);
        atomic_fetch_add(&control->faults_made, 1);
    }
}

/* What a call within a session fails with now; CKR_OK where it does not. */
static CK_RV session_fault(CK_ULONG session)
{
    if (atomic_load(&control->token_gone))
        return CKR_TOKEN_NOT_PRESENT;
    if (take(&control->device_error))
        return CKR_DEVICE_ERROR;
    if (is_session_lost(session)) {
        atomic_fetch_add(&control->faults_made, 1);
        return CKR_SESSION_HANDLE_INVALID;
    }
    follow_logout(session);
    return CKR_OK;
}

static CK_RV get_slot_list(CK_BYTE present, CK_ULONG *slots, CK_ULONG *count)
{
    CK_RV (*call)(CK_BYTE, CK_ULONG *, CK_ULONG *) =
        (CK_RV(*)(CK_BYTE, CK_ULONG *, CK_ULONG *))real->functions[GET_SLOT_LIST];

    if (present && atomic_load(&control->token_gone)) {
        *count = 0;
        return CKR_OK;
    }
    return call(present, slots, count);
}

static CK_RV get_token_info(CK_ULONG slot, void *info)
{
    CK_RV (*call)(CK_ULONG, void *) = (CK_RV(*)(CK_ULONG, void *))real->functions[GET_TOKEN_INFO];

    if (atomic_load(&control->token_gone))
        return CKR_TOKEN_NOT_PRESENT;
    return call(slot, info);
}

static CK_RV open_session(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session)
{
    CK_RV (*call)(CK_ULONG, CK_ULONG, void *, void *, CK_ULONG *) =
        (CK_RV(*)(CK_ULONG, CK_ULONG, void *, void *, CK_ULONG *))real->functions[OPEN_SESSION];
    CK_RV rv;

    if (atomic_load(&control->token_gone))
        return CKR_TOKEN_NOT_PRESENT;
    if (take(&control->device_error))
        return CKR_DEVICE_ERROR;
    rv = call(slot, flags, application, notify, session);
    if (rv == CKR_OK) {
        atomic_fetch_add(&control->sessions_opened, 1);
        remember_session(*session);
    }
    return rv;
}

static CK_RV get_session_info(CK_ULONG session, void *info)
{
    CK_RV (*call)(CK_ULONG, void *) = (CK_RV(*)(CK_ULONG, void *))real->functions[GET_SESSION_INFO];
    CK_RV fault = session_fault(session);

    return fault != CKR_OK ? fault : call(session, info);
}

static CK_RV login(CK_ULONG session, CK_ULONG user, CK_BYTE *pin, CK_ULONG length)
{
    CK_RV (*call)(CK_ULONG, CK_ULONG, CK_BYTE *, CK_ULONG) =
        (CK_RV(*)(CK_ULONG, CK_ULONG, CK_BYTE *, CK_ULONG))real->functions[LOGIN];
    CK_RV fault = session_fault(session), rv;

    if (fault != CKR_OK)
        return fault;
    atomic_fetch_add(&control->login_tries, 1);
    rv = call(session, user, pin, length);
    if (rv == CKR_OK) {
        atomic_fetch_add(&control->logins, 1);
        atomic_store(&is_logged_out, 0);
    }
    return rv;
}

static CK_RV get_attribute_value(CK_ULONG session, CK_ULONG object, void *template, CK_ULONG count)
{
    CK_RV (*call)(CK_ULONG, CK_ULONG, void *, CK_ULONG) =
        (CK_RV(*)(CK_ULONG, CK_ULONG, void *, CK_ULONG))real->functions[GET_ATTRIBUTE_VALUE];
    CK_RV fault = session_fault(session);

    return fault != CKR_OK ? fault : call(session, object, template, count);
}

static CK_RV find_objects_init(CK_ULONG session, void *template, CK_ULONG count)
{
    CK_RV (*call)(CK_ULONG, void *, CK_ULONG) =
        (CK_RV(*)(CK_ULONG, void *, CK_ULONG))real->functions[FIND_OBJECTS_INIT];
    CK_RV fault = session_fault(session);

    return fault != CKR_OK ? fault : call(session, template, count);
}

static CK_RV find_objects(CK_ULONG session, CK_ULONG *objects, CK_ULONG room, CK_ULONG *count)
{
    CK_RV (*call)(CK_ULONG, CK_ULONG *, CK_ULONG, CK_ULONG *) =
        (CK_RV(*)(CK_ULONG, CK_ULONG *, CK_ULONG, CK_ULONG *))real->functions[FIND_OBJECTS];

    if (take(&control->empty_finds)) {
        *count = 0;
        return CKR_OK;
    }
    return call(session, objects, room, count);
}

static CK_RV sign_init(CK_ULONG session, void *mechanism, CK_ULONG key)
{
    CK_RV (*call)(CK_ULONG, void *, CK_ULONG) = (CK_RV(*)(CK_ULONG, void *, CK_ULONG))real->functions[SIGN_INIT];
    CK_RV fault = session_fault(session);

    atomic_fetch_add(&control->sign_inits, 1);
    if (fault != CKR_OK)
        return fault;
    if (atomic_load(&is_logged_out))
        return CKR_USER_NOT_LOGGED_IN;
    if (take(&control->busy))
        return CKR_FUNCTION_FAILED;
    return call(session, mechanism, key);
}

static CK_RV sign(CK_ULONG session, CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *size)
{
    CK_RV (*call)(CK_ULONG, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *) =
        (CK_RV(*)(CK_ULONG, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *))real->functions[SIGN];
    CK_RV fault, rv;

    atomic_fetch_add(&control->signs, 1);
    if (take(&control->segfaults))
        raise(SIGSEGV);
    if (atomic_load(&control->hang)) {
        atomic_fetch_add(&control->faults_made, 1);
        while (atomic_load(&control->hang))
            sleep_ms(5);
    }
    sleep_ms(atomic_load(&control->latency_ms));
    fault = session_fault(session);
    if (fault != CKR_OK)
        return fault;
    rv = call(session, data, length, signature, size);
    if (rv == CKR_OK && signature != NULL && take(&control->wrong_signature))
        signature[*size - 1] ^= 1;
    return rv;
}

CK_RV C_GetFunctionList(struct function_list **list);

static int map_control(void)
{
    const char *path = getenv("SHIM_CONTROL");
    int file = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *place;

    if (file < 0)
        return 0;
    place = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (place == MAP_FAILED)
        return 0;
    control = place;
    atomic_store(&logouts_done, atomic_load(&control->logouts));
    return 1;
}

static int load_real(void)
{
    const char *path = getenv("SHIM_MODULE");
    void *module = path != NULL ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    CK_RV (*get)(struct function_list **) = NULL;

    if (module == NULL)
        return 0;
    *(void **)&get = dlsym(module, "C_GetFunctionList");
    return get != NULL && get(&real) == CKR_OK;
}

static void make_list(void)
{
    shim = *real;
    shim.functions[GET_FUNCTION_LIST] = (any_function)C_GetFunctionList;
    shim.functions[GET_SLOT_LIST] = (any_function)get_slot_list;
    shim.functions[GET_TOKEN_INFO] = (any_function)get_token_info;
    shim.functions[OPEN_SESSION] = (any_function)open_session;
    shim.functions[GET_SESSION_INFO] = (any_function)get_session_info;
    shim.functions[LOGIN] = (any_function)login;
    shim.functions[GET_ATTRIBUTE_VALUE] = (any_function)get_attribute_value;
    shim.functions[FIND_OBJECTS_INIT] = (any_function)find_objects_init;
    shim.functions[FIND_OBJECTS] = (any_function)find_objects;
    shim.functions[SIGN_INIT] = (any_function)sign_init;
    shim.functions[SIGN] = (any_function)sign;
}

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(struct function_list **list)
{
    static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
    static int is_ready;

    pthread_mutex_lock(&once);
    if (!is_ready && map_control() && load_real()) {
        make_list();
        is_ready = 1;
    }
    pthread_mutex_unlock(&once);
    if (!is_ready) {
        fprintf(stderr, "pkcs11_shim: set SHIM_MODULE and SHIM_CONTROL\n");
        return CKR_GENERAL_ERROR;
    }
    *list = &shim;
    return CKR_OK;
}
