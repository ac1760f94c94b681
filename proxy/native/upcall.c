/*
 * The upcall: the only place where OpenSSL's world and Python's meet, and the Python module proxy.tls._provider.
 *
 * The upcall may switch to another greenlet of its thread. This C stack is then put aside; other handshakes run here,
 * are put aside and end in any order. That is sound because nothing that must survive the upcall lives outside this C
 * stack and what it owns:
 *   - PyGILState_Ensure tells whether this thread held the GIL (cffi gives it up, a Rust caller may not) in a value on
 *     our own stack. Besides, it only counts up in the thread's PyThreadState; counts don't mind the order in which
 *     they are undone, and the count of a thread that Python started never reaches the 0 at which a state is deleted.
 *     A greenlet never leaves its thread, so Release finds the same PyThreadState. What else belongs to a Python stack
 *     (frames, recursion depth, the exception being handled) is greenlet's to swap.
 *     (PyGILState_Check is no substitute for Ensure's own test: it always says yes once a subinterpreter was made.)
 *   - The key and the upcall are held by references of our own; the buffers belong to the suspended OpenSSL call.
 *   - OpenSSL's error queue belongs to the thread, therefore to all handshakes on it: our errors are raised after the
 *     upcall is back, and who resumes a handshake clears the queue first.
 *
 * What the upcall raises can't pass through OpenSSL. It waits for take_error() in a slot of its thread, where the next
 * failure replaces it; the error that OpenSSL reports names its type.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

#include "sealgate.h"

#define ERROR_SLOT "proxy.tls._provider.error"

enum { TYPE_NAME_BYTES = 64, MIN_ECDSA_BYTES = 8 };

PyMODINIT_FUNC PyInit__provider(void); /* what Python looks for */

static PyObject *the_upcall; /* guarded by the GIL */

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

/* Keep the exception for take_error(). */
static void stash_raised(char *type_name)
{
    PyObject *error = take_raised(), *slots = PyThreadState_GetDict();

    if (error != NULL)
        strncpy(type_name, Py_TYPE(error)->tp_name, TYPE_NAME_BYTES - 1);
    if (error != NULL && slots != NULL && PyDict_SetItemString(slots, ERROR_SLOT, error) != 0)
        PyErr_Clear();
    Py_XDECREF(error);
}

/* With the GIL. Runs other greenlets of this thread, perhaps for long, before it returns; see above. */
static int call_upcall(const KEY *key, const char *scheme, const unsigned char *message, size_t bytes,
                       unsigned char *out, size_t *out_bytes)
{
    size_t most = max_signature_bytes(key), least = key->family == FAMILY_EC ? MIN_ECDSA_BYTES : most;
    PyObject *upcall = the_upcall, *answer;
    char *data, type_name[TYPE_NAME_BYTES] = "";
    Py_ssize_t length;

    if (upcall == NULL)
        return FAIL(key->provider, REASON_NO_UPCALL, "set_upcall() was not called");
    Py_INCREF(upcall);
    answer = PyObject_CallFunction(upcall, "y#sy#", (const char *)key->ski, (Py_ssize_t)SKI_BYTES, scheme,
                                   (const char *)message, (Py_ssize_t)bytes);
    Py_DECREF(upcall);
    if (answer == NULL || PyBytes_AsStringAndSize(answer, &data, &length) != 0) {
        stash_raised(type_name);
        Py_XDECREF(answer);
        return FAIL(key->provider, REASON_UPCALL, "%s", type_name);
    }
    if ((size_t)length < least || (size_t)length > most) {
        Py_DECREF(answer);
        return FAIL(key->provider, REASON_SIGNATURE_LENGTH, "%d bytes for %s", (int)length, scheme);
    }
    memcpy(out, data, (size_t)length);
    *out_bytes = (size_t)length;
    Py_DECREF(answer);
    return 1;
}

int ask_for_signature(const KEY *key, const char *scheme, const unsigned char *message, size_t bytes,
                      unsigned char *out, size_t *out_bytes)
{
    PyGILState_STATE gil;
    int is_signed;

    if (!Py_IsInitialized())
        return FAIL(key->provider, REASON_NO_UPCALL, "Python is not running");
    if (bytes > PY_SSIZE_T_MAX)
        return FAIL(key->provider, REASON_BUFFER, "the message is too long");
    gil = PyGILState_Ensure();
    is_signed = call_upcall(key, scheme, message, bytes, out, out_bytes);
    PyGILState_Release(gil);
    return is_signed;
}

static PyObject *set_upcall(PyObject *module, PyObject *function)
{
    PyObject *before = the_upcall;

    (void)module;
    if (function != Py_None && !PyCallable_Check(function))
        return PyErr_Format(PyExc_TypeError, "an upcall is a function (ski, scheme, message) -> signature, or None");
    the_upcall = function == Py_None ? NULL : Py_NewRef(function);
    return before != NULL ? before : Py_NewRef(Py_None); /* our reference becomes the caller's */
}

static PyObject *take_error(PyObject *module, PyObject *unused)
{
    PyObject *slots = PyThreadState_GetDict();
    PyObject *error = slots != NULL ? PyDict_GetItemString(slots, ERROR_SLOT) : NULL;

    (void)module;
    (void)unused;
    if (error == NULL)
        Py_RETURN_NONE;
    Py_INCREF(error);
    if (PyDict_DelItemString(slots, ERROR_SLOT) != 0)
        PyErr_Clear();
    return error;
}

static PyMethodDef METHODS[] = {
    {"set_upcall", set_upcall, METH_O, "Set the function (ski, scheme, message) -> signature, or None; return the one before."},
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
