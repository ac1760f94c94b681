"""Cryptoki for Python: a PKCS#11 library, loaded and called through ctypes (OASIS PKCS#11 2.40; 3.0 where offered).

Each method is one C function, or the few that belong together; a result other than CKR_OK is raised as CryptokiError.
The GIL is released during each call. Every method may be called from any thread, as long as no session is used by two
at once. Nothing here is healed or tried again, and nothing is known of keys.

    General theory: C_GetInterface (3.0) or C_GetFunctionList gives a structure that begins with a CK_VERSION, after
    which the functions stand in an order that never changed since 2.0; 3.0 only adds some at the end. So one list of
    offsets is good for all versions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from ctypes import POINTER, byref, c_char_p, c_ubyte, c_ulong, c_void_p
from pathlib import Path
from typing import Any

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11.results import Failure, classify, sentence
from hsm.backends.pkcs11.structures import (
    UNAVAILABLE,
    Attribute,
    Info,
    InitializeArgs,
    Interface,
    MechanismCall,
    SessionInfo,
    SlotInfo,
    Template,
    TokenInfo,
    Version,
    attributes_of,
    text_of,
)

_MAX_ATTRIBUTE_BYTES = 1024 * 1024
_NOT_ANSWERED = UNAVAILABLE - 1
_FIND_AT_ONCE = 256
_MAX_OBJECTS = 1_000_000
_UL, _P = c_ulong, c_void_p
_PUL = POINTER(c_ulong)
_TEMPLATE = (POINTER(Attribute), _UL)
# Place in CK_FUNCTION_LIST and types of the arguments.
_FUNCTIONS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "C_Initialize": (0, (POINTER(InitializeArgs),)),
    "C_Finalize": (1, (_P,)),
    "C_GetInfo": (2, (POINTER(Info),)),
    "C_GetSlotList": (4, (c_ubyte, _PUL, _PUL)),
    "C_GetSlotInfo": (5, (_UL, POINTER(SlotInfo))),
    "C_GetTokenInfo": (6, (_UL, POINTER(TokenInfo))),
    "C_OpenSession": (12, (_UL, _UL, _P, _P, _PUL)),
    "C_CloseSession": (13, (_UL,)),
    "C_GetSessionInfo": (15, (_UL, POINTER(SessionInfo))),
    "C_Login": (18, (_UL, _UL, c_char_p, _UL)),
    "C_Logout": (19, (_UL,)),
    "C_CreateObject": (20, (_UL, *_TEMPLATE, _PUL)),
    "C_DestroyObject": (22, (_UL, _UL)),
    "C_GetAttributeValue": (24, (_UL, _UL, *_TEMPLATE)),
    "C_SetAttributeValue": (25, (_UL, _UL, *_TEMPLATE)),
    "C_FindObjectsInit": (26, (_UL, *_TEMPLATE)),
    "C_FindObjects": (27, (_UL, _PUL, _UL, _PUL)),
    "C_FindObjectsFinal": (28, (_UL,)),
    "C_SignInit": (42, (_UL, _P, _UL)),
    "C_Sign": (43, (_UL, c_char_p, _UL, _P, _PUL)),
    "C_GenerateKey": (58, (_UL, _P, *_TEMPLATE, _PUL)),
    "C_GenerateKeyPair": (59, (_UL, _P, *_TEMPLATE, *_TEMPLATE, _PUL, _PUL)),
}
_SUPPORTED_MAJORS = (2, 3)


class CryptokiError(Exception):
    """A call of the library did not succeed. `rv` is its CKR_ code, `call` the function's name."""

    def __init__(self, rv: int, call: str) -> None:
        super().__init__(rv, call)
        self.rv = rv
        self.call = call

    @property
    def failure(self) -> Failure:
        """What it asks for."""
        return classify(self.rv, self.call)

    def __str__(self) -> str:
        return sentence(self.rv, self.call)


class LibraryProblem(Exception):
    """The file is no PKCS#11 library that can be used. `sentence` says why."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class Cryptoki:
    """One library. `initialize` comes first; `finalize` last, when no call is under way."""

    def __init__(self, module: str) -> None:
        """Load the library and take its function list. Raises LibraryProblem, CryptokiError."""
        self._library = _loaded(module)  # kept: the functions live in it
        table = _function_table(self._library, module)
        version = table.contents
        if version.major not in _SUPPORTED_MAJORS:
            raise LibraryProblem(f"{module} offers PKCS#11 {version.major}.{version.minor}; 2.x and 3.x are known")
        self.standard = (version.major, version.minor)
        """Version of PKCS#11 of the function list in use."""
        start = ctypes.cast(table, c_void_p).value or 0
        pointers = (c_void_p * 68).from_address(start + ctypes.alignment(c_void_p))
        self._calls: dict[str, Callable[..., int]] = {}
        for name, (place, types) in _FUNCTIONS.items():
            address = pointers[place]
            if not address:
                raise LibraryProblem(f"{module} has no {name}")
            self._calls[name] = ctypes.CFUNCTYPE(c_ulong, *types)(address)
        self.sign_init = self._calls["C_SignInit"]
        """`sign_init(session, mechanism.reference, key) -> rv`: as it is, because signing is the hot path."""
        self.sign = self._calls["C_Sign"]
        """`sign(session, data, len(data), buffer, byref(length)) -> rv`."""

    def _call(self, name: str, *arguments: Any) -> None:
        rv = self._calls[name](*arguments)
        if rv != c.CKR_OK:
            raise CryptokiError(rv, name)

    def initialize(self) -> None:
        """C_Initialize for a program with threads. With NULL arguments a library may leave its locks out, and crash."""
        arguments = InitializeArgs(flags=c.CKF_OS_LOCKING_OK)
        try:
            self._call("C_Initialize", byref(arguments))
        except CryptokiError as error:
            if error.rv != c.CKR_CRYPTOKI_ALREADY_INITIALIZED:
                raise

    def finalize(self) -> None:
        """C_Finalize: ends all sessions."""
        self._call("C_Finalize", None)

    def info(self) -> Info:
        """C_GetInfo."""
        info = Info()
        self._call("C_GetInfo", byref(info))
        return info

    def description(self) -> str:
        """The library, for people: "Implementation of PKCS11 2.6 (PKCS#11 2.40)"."""
        info = self.info()
        standard = f"{self.standard[0]}.{self.standard[1]:02d}"
        return f"{text_of(info.description)} {info.version.major}.{info.version.minor} (PKCS#11 {standard})"

    def slots(self) -> list[int]:
        """C_GetSlotList: slots that hold a token."""
        for _ in range(3):  # tokens may come between the two calls
            count = c_ulong()
            self._call("C_GetSlotList", 1, None, byref(count))
            slots = (c_ulong * max(count.value, 1))()
            try:
                self._call("C_GetSlotList", 1, slots, byref(count))
            except CryptokiError as error:
                if error.rv == c.CKR_BUFFER_TOO_SMALL:
                    continue
                raise
            return list(slots[: count.value])
        raise CryptokiError(c.CKR_BUFFER_TOO_SMALL, "C_GetSlotList")

    def slot_info(self, slot: int) -> SlotInfo:
        """C_GetSlotInfo."""
        info = SlotInfo()
        self._call("C_GetSlotInfo", slot, byref(info))
        return info

    def token_info(self, slot: int) -> TokenInfo:
        """C_GetTokenInfo."""
        info = TokenInfo()
        self._call("C_GetTokenInfo", slot, byref(info))
        return info

    def open_session(self, slot: int, *, read_write: bool = False) -> int:
        """C_OpenSession. Handle of the session."""
        session = c_ulong()
        flags = c.CKF_SERIAL_SESSION | (c.CKF_RW_SESSION if read_write else 0)
        self._call("C_OpenSession", slot, flags, None, None, byref(session))
        return session.value

    def close_session(self, session: int) -> None:
        """C_CloseSession. With the last session goes the login."""
        self._call("C_CloseSession", session)

    def is_logged_in(self, session: int) -> bool:
        """Whether the session is one of the user (C_GetSessionInfo)."""
        info = SessionInfo()
        self._call("C_GetSessionInfo", session, byref(info))
        return info.state in (c.CKS_RO_USER_FUNCTIONS, c.CKS_RW_USER_FUNCTIONS)

    def login(self, session: int, pin: bytes | None) -> None:
        """C_Login as the user, for all sessions of this process. None: the token asks for the PIN itself."""
        self._call("C_Login", session, c.CKU_USER, pin, len(pin or b""))

    def logout(self, session: int) -> None:
        """C_Logout."""
        self._call("C_Logout", session)

    def find(self, session: int, template: Template) -> list[int]:
        """Handles of the objects that fit (C_FindObjectsInit, C_FindObjects, C_FindObjectsFinal)."""
        array, _keep = attributes_of(template)
        self._call("C_FindObjectsInit", session, array, len(array))
        found: list[int] = []
        try:
            handles, count = (c_ulong * _FIND_AT_ONCE)(), c_ulong()
            while len(found) < _MAX_OBJECTS:
                self._call("C_FindObjects", session, handles, _FIND_AT_ONCE, byref(count))
                if not count.value:
                    break
                found += handles[: count.value]
        except CryptokiError:
            self._calls["C_FindObjectsFinal"](session)  # the first error is the one that counts
            raise
        self._call("C_FindObjectsFinal", session)
        return found

    def attributes(self, session: int, key: int, wanted: Iterable[int]) -> dict[int, bytes]:
        """C_GetAttributeValue: the attributes that the object has and tells."""
        kinds = tuple(wanted)
        lengths = self._lengths(session, key, kinds)
        if not lengths:
            return {}
        array = (Attribute * len(lengths))()
        buffers = [ctypes.create_string_buffer(max(length, 1)) for length in lengths.values()]
        for slot, (kind, length), buffer in zip(array, lengths.items(), buffers, strict=True):
            slot.type, slot.value, slot.length = kind, ctypes.addressof(buffer), length
        self._call("C_GetAttributeValue", session, key, array, len(array))
        told = zip(array, buffers, strict=True)
        return {slot.type: buffer.raw[: slot.length] for slot, buffer in told if slot.length != UNAVAILABLE}

    def _lengths(self, session: int, key: int, kinds: Sequence[int]) -> dict[int, int]:
        """Lengths of the attributes that are told. One that is not should not hinder the others, but may: ask again."""
        array = (Attribute * len(kinds))(*(Attribute(kind, None, _NOT_ANSWERED) for kind in kinds))
        rv = self._calls["C_GetAttributeValue"](session, key, array, len(array))
        if rv not in (c.CKR_OK, c.CKR_ATTRIBUTE_SENSITIVE, c.CKR_ATTRIBUTE_TYPE_INVALID):
            raise CryptokiError(rv, "C_GetAttributeValue")
        lengths = {slot.type: slot.length for slot in array if slot.length <= _MAX_ATTRIBUTE_BYTES}
        if len(kinds) > 1:
            for slot in array:
                if slot.length == _NOT_ANSWERED:
                    lengths |= self._lengths(session, key, (slot.type,))
        return lengths

    def set_attributes(self, session: int, key: int, template: Template) -> None:
        """C_SetAttributeValue."""
        array, _keep = attributes_of(template)
        self._call("C_SetAttributeValue", session, key, array, len(array))

    def create(self, session: int, template: Template) -> int:
        """C_CreateObject. Its handle."""
        array, _keep = attributes_of(template)
        handle = c_ulong()
        try:
            self._call("C_CreateObject", session, array, len(array), byref(handle))
        finally:
            for buffer in _keep:
                ctypes.memset(buffer, 0, len(buffer))  # it may hold a private key
        return handle.value

    def destroy(self, session: int, key: int) -> None:
        """C_DestroyObject."""
        self._call("C_DestroyObject", session, key)

    def generate_key(self, session: int, mechanism: MechanismCall, template: Template) -> int:
        """C_GenerateKey. Its handle."""
        array, _keep = attributes_of(template)
        handle = c_ulong()
        self._call("C_GenerateKey", session, mechanism.reference, array, len(array), byref(handle))
        return handle.value

    def generate_key_pair(
        self, session: int, mechanism: MechanismCall, public: Template, private: Template
    ) -> tuple[int, int]:
        """C_GenerateKeyPair. Handles of the public and the private key."""
        first, _keep_first = attributes_of(public)
        second, _keep_second = attributes_of(private)
        handles = c_ulong(), c_ulong()
        templates = first, len(first), second, len(second)
        self._call("C_GenerateKeyPair", session, mechanism.reference, *templates, byref(handles[0]), byref(handles[1]))
        return handles[0].value, handles[1].value

    def sign_once(self, session: int, mechanism: MechanismCall, key: int, data: bytes, room: int = 1024) -> bytes:
        """C_SignInit and C_Sign, with a buffer for one call: not the hot path."""
        self._call("C_SignInit", session, mechanism.reference, key)
        buffer, length = ctypes.create_string_buffer(room), c_ulong(room)
        self._call("C_Sign", session, data, len(data), buffer, byref(length))
        return buffer.raw[: length.value]


def _loaded(module: str) -> ctypes.CDLL:
    if not Path(module).is_absolute():
        raise LibraryProblem(f"{module}: give the absolute path of the PKCS#11 library")
    if not Path(module).exists():
        raise LibraryProblem(f"the PKCS#11 library {module} does not exist")
    try:
        return ctypes.CDLL(module)
    except OSError as error:
        raise LibraryProblem(f"the PKCS#11 library {module} can't be loaded: {error}") from None


def _function_table(library: ctypes.CDLL, module: str) -> Any:
    """A pointer to the version at the start of the function list: of the newest interface where there are several."""
    table = POINTER(Version)()
    if hasattr(library, "C_GetInterface"):
        interface = POINTER(Interface)()
        get_interface = library.C_GetInterface
        get_interface.restype = c_ulong
        get_interface.argtypes = (c_char_p, POINTER(Version), POINTER(POINTER(Interface)), c_ulong)
        # PKCS#11 3.0, 5.4.5: no version asked for gives the library's default.
        if get_interface(b"PKCS 11", None, byref(interface), 0) == c.CKR_OK and interface:
            functions = interface.contents.functions
            if functions and functions.contents.major in _SUPPORTED_MAJORS:
                return functions
    if not hasattr(library, "C_GetFunctionList"):
        raise LibraryProblem(f"{module} is no PKCS#11 library: it has no C_GetFunctionList")
    get_list = library.C_GetFunctionList
    get_list.restype = c_ulong
    get_list.argtypes = (POINTER(POINTER(Version)),)
    if (rv := get_list(byref(table))) != c.CKR_OK:
        raise CryptokiError(rv, "C_GetFunctionList")
    if not table:
        raise LibraryProblem(f"{module} gave no function list")
    return table
