"""The binding on libraries made for the test: where it looks for functions, what it hands over, how it reads errors.

Real libraries are used by the tests of the worker.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11.cryptoki import Cryptoki, CryptokiError, LibraryProblem
from hsm.backends.pkcs11.results import Failure
from hsm.backends.pkcs11.structures import MechanismCall

# Function number i of the list gives the vendor's code i; some do more.
LIBRARY = r"""
#include <stddef.h>
#include <string.h>
typedef unsigned long UL;
typedef struct { UL type; void *value; UL length; } attribute;
typedef struct { void *create, *destroy, *lock, *unlock; UL flags; void *reserved; } arguments;
typedef struct { unsigned char major, minor; void *functions[92]; } list;
typedef struct { const char *name; void *functions; UL flags; } interface;

static UL initialize(arguments *given) {
    if (!given) return 0x0A;  /* CKR_CANT_LOCK: the program says it has one thread */
    if (given->flags != 2 || given->create || given->lock || given->reserved) return 0x07;
    return INITIALIZED;
}
static UL slots(unsigned char present, UL *slots, UL *count) {
    static int grown;
    if (!present) return 7;
    if (!slots) { *count = grown ? 3 : 1; return 0; }
    if (!grown) { grown = 1; *count = 3; return 0x150; }  /* tokens came between the calls */
    slots[0] = 11; slots[1] = 12; slots[2] = 13; *count = 3;
    return 0;
}
static UL get(UL session, UL object, attribute *wanted, UL count) {
    /* Knows a label; has a secret; stops at what it does not know, as it should not. */
    for (UL i = 0; i < count; i++) {
        if (wanted[i].type == 3) {
            if (wanted[i].value) memcpy(wanted[i].value, "web", 3);
            wanted[i].length = 3;
        } else if (wanted[i].type == 0x11) {
            wanted[i].length = (UL)-1;
            return 0x11;
        } else {
            wanted[i].length = (UL)-1;
            return 0x12;
        }
    }
    return 0;
}
static UL found;
static UL find_init(UL session, attribute *t, UL count) { found = 600; return 0; }
static UL find(UL session, UL *handles, UL room, UL *count) {
    for (*count = 0; *count < room && found; ++*count) handles[*count] = found--;
    return FIND_RESULT;
}
static int finals;
static UL find_final(UL session) { finals++; return 0; }
UL finals_seen(void) { return finals; }
static UL sign_init(UL session, void *mechanism, UL key) { return session == 5 && key == 6 && mechanism ? 0 : 7; }
static UL sign(UL session, char *data, UL length, char *out, UL *room) {
    if (*room < length) return 0x150;
    for (UL i = 0; i < length; i++) out[i] = data[length - 1 - i];
    *room = length;
    return 0;
}
#define STUB(i) static UL stub##i(void) { return 0x80000000UL + i; }
#define ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18) \
    X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31) X(32) X(33) X(34) X(35) X(36) X(37) \
    X(38) X(39) X(40) X(41) X(42) X(43) X(44) X(45) X(46) X(47) X(48) X(49) X(50) X(51) X(52) X(53) X(54) X(55) X(56) \
    X(57) X(58) X(59) X(60) X(61) X(62) X(63) X(64) X(65) X(66) X(67)
ALL(STUB)
#define FILL(i) made.functions[i] = (void *)stub##i;
static list *filled(unsigned char major, unsigned char minor) {
    static list made;
    ALL(FILL)
    made.major = major; made.minor = minor;
    made.functions[0] = (void *)initialize;
    made.functions[4] = (void *)slots;
    made.functions[24] = (void *)get;
    made.functions[26] = (void *)find_init;
    made.functions[27] = (void *)find;
    made.functions[28] = (void *)find_final;
    made.functions[42] = (void *)sign_init;
    made.functions[43] = (void *)sign;
    if (LEFT_OUT) made.functions[LEFT_OUT] = NULL;
    return &made;
}
#ifdef OLD
UL C_GetFunctionList(list **out) { *out = filled(OLD, 40); return OLD_RESULT; }
#endif
#ifdef NEW
UL C_GetInterface(const char *name, void *version, interface **out, UL flags) {
    static interface made;
    if (strcmp(name, "PKCS 11") || version || flags) return 7;
    made.name = "PKCS 11"; made.functions = filled(NEW, 0);
    *out = &made;
    return NEW_RESULT;
}
#endif
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Compiles the library; keywords are its macros."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.fail("a C compiler is needed: run `.ci/packages test`")

    def build(**macros: object) -> str:
        folder = tmp_path_factory.mktemp("library")
        source, library = folder / "library.c", folder / "library.so"
        source.write_text(LIBRARY)
        defaults = {"INITIALIZED": 0, "FIND_RESULT": 0, "LEFT_OUT": 0, "OLD_RESULT": 0, "NEW_RESULT": 0}
        flags = [f"-D{name}={value}" for name, value in {**defaults, **macros}.items()]
        subprocess.run([compiler, "-shared", "-fPIC", "-w", *flags, "-o", library, source], check=True, timeout=60)
        return str(library)

    return build


@pytest.fixture(scope="module")
def cryptoki(build: Callable[..., str]) -> Cryptoki:
    return Cryptoki(build(OLD=2))


def test_the_function_list_of_2_40(cryptoki: Cryptoki) -> None:
    assert cryptoki.standard == (2, 40)
    cryptoki.initialize()


def test_the_default_interface_of_3_0_comes_first(build: Callable[..., str]) -> None:
    assert Cryptoki(build(OLD=2, NEW=3)).standard == (3, 0)
    assert Cryptoki(build(NEW=3)).standard == (3, 0)


def test_an_interface_that_is_refused_or_unknown_is_passed_over(build: Callable[..., str]) -> None:
    assert Cryptoki(build(OLD=2, NEW=3, NEW_RESULT=6)).standard == (2, 40)
    assert Cryptoki(build(OLD=2, OLD_RESULT=0)).standard == (2, 40)


def test_functions_are_where_the_standard_puts_them(cryptoki: Cryptoki) -> None:
    mechanism = MechanismCall(0)
    calls = {
        "C_Finalize": (1, lambda: cryptoki.finalize()),
        "C_GetInfo": (2, lambda: cryptoki.info()),
        "C_GetSlotInfo": (5, lambda: cryptoki.slot_info(1)),
        "C_GetTokenInfo": (6, lambda: cryptoki.token_info(1)),
        "C_OpenSession": (12, lambda: cryptoki.open_session(1)),
        "C_CloseSession": (13, lambda: cryptoki.close_session(1)),
        "C_GetSessionInfo": (15, lambda: cryptoki.is_logged_in(1)),
        "C_Login": (18, lambda: cryptoki.login(1, b"1234")),
        "C_Logout": (19, lambda: cryptoki.logout(1)),
        "C_CreateObject": (20, lambda: cryptoki.create(1, {3: b"x"})),
        "C_DestroyObject": (22, lambda: cryptoki.destroy(1, 1)),
        "C_SetAttributeValue": (25, lambda: cryptoki.set_attributes(1, 1, {3: b"x"})),
        "C_GenerateKey": (58, lambda: cryptoki.generate_key(1, mechanism, {})),
        "C_GenerateKeyPair": (59, lambda: cryptoki.generate_key_pair(1, mechanism, {}, {})),
    }
    for name, (place, call) in calls.items():
        with pytest.raises(CryptokiError) as caught:
            call()
        assert (caught.value.call, caught.value.rv) == (name, c.CKR_VENDOR_DEFINED + place)
        assert caught.value.failure is Failure.BROKEN


@pytest.mark.parametrize(("result", "is_good"), [(0, True), (c.CKR_CRYPTOKI_ALREADY_INITIALIZED, True), (0x0A, False)])
def test_initialising_says_that_there_are_threads(build: Callable[..., str], result: int, is_good: bool) -> None:
    library = Cryptoki(build(OLD=2, INITIALIZED=result))
    if is_good:
        return library.initialize()
    with pytest.raises(CryptokiError, match="can't be used by several threads"):
        library.initialize()


def test_tokens_that_come_while_they_are_counted(cryptoki: Cryptoki) -> None:
    assert cryptoki.slots() == [11, 12, 13]


def test_attributes_that_are_not_told_are_left_out(cryptoki: Cryptoki) -> None:
    """Also by a library that stops at the first of them."""
    assert cryptoki.attributes(1, 1, (c.CKA_VALUE, c.CKA_LABEL, c.CKA_ID, c.CKA_LABEL + 0x8000)) == {
        c.CKA_LABEL: b"web"
    }
    assert cryptoki.attributes(1, 1, (c.CKA_VALUE,)) == {}
    assert cryptoki.attributes(1, 1, ()) == {}


def test_objects_are_fetched_until_there_are_no_more(cryptoki: Cryptoki) -> None:
    assert sorted(cryptoki.find(1, {c.CKA_CLASS: c.CKO_PRIVATE_KEY})) == list(range(1, 601))


def test_a_search_that_fails_is_ended(build: Callable[..., str]) -> None:
    library = Cryptoki(build(OLD=2, FIND_RESULT=c.CKR_DEVICE_ERROR))
    with pytest.raises(CryptokiError) as caught:
        library.find(1, {})
    assert (caught.value.call, caught.value.rv) == ("C_FindObjects", c.CKR_DEVICE_ERROR)
    assert library._library.finals_seen() == 1


def test_signing_hands_over_session_key_and_data(cryptoki: Cryptoki) -> None:
    assert cryptoki.sign_once(5, MechanismCall(1), 6, b"data\0with zero") == b"orez htiw\0atad"
    with pytest.raises(CryptokiError, match=r"C_SignInit: CKR_ARGUMENTS_BAD"):
        cryptoki.sign_once(5, MechanismCall(1), 7, b"data")
    with pytest.raises(CryptokiError, match=r"C_Sign: CKR_BUFFER_TOO_SMALL"):
        cryptoki.sign_once(5, MechanismCall(1), 6, bytes(100), room=50)


@pytest.mark.parametrize(
    ("macros", "says"),
    [
        ({"OLD": 1}, "offers PKCS#11 1.40; 2.x and 3.x are known"),
        ({"OLD": 2, "LEFT_OUT": 43}, "has no C_Sign"),
        ({}, "has no C_GetFunctionList"),
        ({"NEW": 4}, "has no C_GetFunctionList"),
    ],
)
def test_libraries_that_are_none(build: Callable[..., str], macros: dict[str, int], says: str) -> None:
    with pytest.raises(LibraryProblem) as caught:
        Cryptoki(build(**macros))
    assert says in caught.value.sentence


def test_a_library_that_refuses_its_list(build: Callable[..., str]) -> None:
    with pytest.raises(CryptokiError, match=r"C_GetFunctionList: CKR_HOST_MEMORY"):
        Cryptoki(build(OLD=2, OLD_RESULT=2))


def test_files_that_are_no_library(tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("no library")
    for path, says in (
        (str(text), "can't be loaded"),
        (str(tmp_path / "none.so"), "does not exist"),
        ("x.so", "absolute"),
    ):
        with pytest.raises(LibraryProblem) as caught:
            Cryptoki(path)
        assert says in caught.value.sentence
