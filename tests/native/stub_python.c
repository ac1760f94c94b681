/*
 * Just enough of CPython to link the provider without it: objects that are counted, one exception, one upcall.
 *
 * Python itself under a sanitizer reports more of Python than of us. What the provider does with real Python is in
 * tests/unit/proxy/tls and tests/native/sanitized_play.py.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <openssl/rsa.h>
#include <stdarg.h>

#include "stub_python.h"

typedef struct {
    PyObject_HEAD
    Py_ssize_t length;
    unsigned char data[4096];
} OBJECT;

EVP_PKEY *stub_signer;
int stub_answer;
char stub_scheme[32];
unsigned char stub_ski[20];

static PyTypeObject bytes_type = {.tp_name = "bytes"}, error_type = {.tp_name = "StubError"},
                    other_type = {.tp_name = "other"};
static PyObject error_class = {.ob_refcnt = 1000, .ob_type = &other_type};
static long alive, gil_depth;
static PyObject *raised, *stashed;
PyObject _Py_NoneStruct = {.ob_refcnt = 1000, .ob_type = &other_type};
PyObject *PyExc_TypeError = &error_class;
static PyModuleDef *module_def;

void *__real_calloc(size_t count, size_t bytes);

static OBJECT *object_new(PyTypeObject *type)
{
    OBJECT *object = __real_calloc(1, sizeof *object); /* only the provider's allocations are to fail */

    object->ob_base.ob_refcnt = 1;
    object->ob_base.ob_type = type;
    alive++;
    return object;
}

void _Py_Dealloc(PyObject *object)
{
    alive--;
    free(object);
}

int Py_IsInitialized(void) { return 1; }

PyGILState_STATE PyGILState_Ensure(void)
{
    gil_depth++;
    return PyGILState_UNLOCKED;
}

void PyGILState_Release(PyGILState_STATE state)
{
    if (state != PyGILState_UNLOCKED || --gil_depth != 0 || raised != NULL)
        abort();
}

static size_t sign(const char *scheme, unsigned char *out, size_t room, const char *message, Py_ssize_t bytes)
{
    const char *digest = strstr(scheme, "256")   ? "SHA256"
                         : strstr(scheme, "384") ? "SHA384"
                         : strstr(scheme, "512") ? "SHA512"
                                                 : NULL;
    EVP_MD_CTX *signing = EVP_MD_CTX_new();
    EVP_PKEY_CTX *options;

    if (EVP_DigestSignInit_ex(signing, &options, digest, NULL, NULL, stub_signer, NULL) != 1 ||
        (strstr(scheme, "pss") && (EVP_PKEY_CTX_set_rsa_padding(options, RSA_PKCS1_PSS_PADDING) != 1 ||
                                   EVP_PKEY_CTX_set_rsa_pss_saltlen(options, RSA_PSS_SALTLEN_DIGEST) != 1)) ||
        EVP_DigestSign(signing, out, &room, (const unsigned char *)message, (size_t)bytes) != 1)
        abort();
    EVP_MD_CTX_free(signing);
    return room;
}

PyObject *PyObject_CallFunction(PyObject *upcall, const char *format, ...)
{
    va_list arguments;
    const char *ski, *scheme, *message;
    Py_ssize_t ski_bytes, bytes;
    OBJECT *answer;

    (void)upcall;
    if (strcmp(format, "y#sy#") != 0 || gil_depth != 1)
        abort();
    va_start(arguments, format);
    ski = va_arg(arguments, const char *);
    ski_bytes = va_arg(arguments, Py_ssize_t);
    scheme = va_arg(arguments, const char *);
    message = va_arg(arguments, const char *);
    bytes = va_arg(arguments, Py_ssize_t);
    va_end(arguments);
    memcpy(stub_ski, ski, (size_t)ski_bytes);
    strcpy(stub_scheme, scheme);
    if (stub_answer == STUB_RAISES) {
        raised = (PyObject *)object_new(&error_type);
        return NULL;
    }
    answer = object_new(stub_answer == STUB_NO_BYTES ? &other_type : &bytes_type);
    answer->length = stub_answer == STUB_SIGNS      ? (Py_ssize_t)sign(scheme, answer->data, sizeof answer->data, message, bytes)
                     : stub_answer == STUB_TOO_LONG ? EVP_PKEY_get_size(stub_signer) + 1
                                                    : 7;
    return (PyObject *)answer;
}

int PyBytes_AsStringAndSize(PyObject *object, char **data, Py_ssize_t *length)
{
    if (Py_TYPE(object) != &bytes_type) {
        raised = (PyObject *)object_new(&error_type);
        return -1;
    }
    *data = (char *)((OBJECT *)object)->data;
    *length = ((OBJECT *)object)->length;
    return 0;
}

#if PY_VERSION_HEX >= 0x030c0000
PyObject *PyErr_GetRaisedException(void)
{
    PyObject *error = raised;
    raised = NULL;
    return error;
}
#else
void PyErr_Fetch(PyObject **type, PyObject **value, PyObject **traceback)
{
    *type = raised != NULL ? Py_NewRef(&error_class) : NULL;
    *value = raised;
    *traceback = NULL;
    raised = NULL;
}

void PyErr_NormalizeException(PyObject **type, PyObject **value, PyObject **traceback)
{
    (void)type, (void)value, (void)traceback;
}

int PyException_SetTraceback(PyObject *error, PyObject *traceback)
{
    (void)error, (void)traceback;
    abort();
}
#endif

void PyErr_Clear(void) { Py_CLEAR(raised); }

PyObject *PyErr_Format(PyObject *type, const char *format, ...)
{
    (void)type, (void)format;
    return NULL;
}

PyObject *PyThreadState_GetDict(void) { return &_Py_NoneStruct; }

int PyDict_SetItemString(PyObject *dict, const char *name, PyObject *value)
{
    (void)dict, (void)name;
    Py_XSETREF(stashed, Py_NewRef(value));
    return 0;
}

PyObject *PyDict_GetItemString(PyObject *dict, const char *name)
{
    (void)dict, (void)name;
    return stashed;
}

int PyDict_DelItemString(PyObject *dict, const char *name)
{
    (void)dict, (void)name;
    Py_CLEAR(stashed);
    return 0;
}

int PyCallable_Check(PyObject *object) { return object != &_Py_NoneStruct; }

PyObject *PyModule_Create2(PyModuleDef *definition, int version)
{
    (void)version;
    module_def = definition;
    return Py_NewRef(&_Py_NoneStruct);
}

PyMODINIT_FUNC PyInit__provider(void);

void stub_start(void)
{
    PyObject *upcall = (PyObject *)object_new(&other_type);

    Py_DECREF(PyInit__provider());
    Py_XDECREF(module_def->m_methods[0].ml_meth(NULL, upcall));
    Py_DECREF(upcall);
}

void stub_stop(void)
{
    PyObject *error = module_def->m_methods[1].ml_meth(NULL, NULL); /* take_error */

    if (error == NULL || Py_TYPE(error) != &error_type)
        abort();
    Py_DECREF(error);
    Py_XDECREF(module_def->m_methods[0].ml_meth(NULL, &_Py_NoneStruct));
    if (alive != 0 || gil_depth != 0)
        abort();
}
