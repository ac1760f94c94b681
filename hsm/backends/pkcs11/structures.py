"""The C structures of PKCS#11 that are used here, and how Python values fill them. Knows no library.

CK_ULONG is an unsigned long, and on Linux nothing is packed (the `#pragma pack(1)` of the headers is Windows').
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_char, c_char_p, c_ubyte, c_ulong, c_void_p
from typing import Any, ClassVar, TypeAlias

Value: TypeAlias = bool | int | bytes
"""CK_BBOOL, CK_ULONG or bytes."""
Template: TypeAlias = Mapping[int, Value]
"""Attributes by their CKA_ number."""

ULONG_BYTES = ctypes.sizeof(c_ulong)
UNAVAILABLE = c_ulong(-1).value
"""CK_UNAVAILABLE_INFORMATION: the length of an attribute that is not there, or is not told."""

Fields: TypeAlias = Sequence[tuple[str, Any]]


class Version(ctypes.Structure):
    """CK_VERSION."""

    _fields_: ClassVar[Fields] = [("major", c_ubyte), ("minor", c_ubyte)]


class InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS: four functions for mutexes that are left out, flags, and a reserved pointer."""

    _fields_: ClassVar[Fields] = [
        ("create", c_void_p),
        ("destroy", c_void_p),
        ("lock", c_void_p),
        ("unlock", c_void_p),
        ("flags", c_ulong),
        ("reserved", c_void_p),
    ]


class Info(ctypes.Structure):
    """CK_INFO."""

    _fields_: ClassVar[Fields] = [
        ("cryptoki", Version),
        ("manufacturer", c_char * 32),
        ("flags", c_ulong),
        ("description", c_char * 32),
        ("version", Version),
    ]


class SlotInfo(ctypes.Structure):
    """CK_SLOT_INFO."""

    _fields_: ClassVar[Fields] = [
        ("description", c_char * 64),
        ("manufacturer", c_char * 32),
        ("flags", c_ulong),
        ("hardware", Version),
        ("firmware", Version),
    ]


class TokenInfo(ctypes.Structure):
    """CK_TOKEN_INFO."""

    _fields_: ClassVar[Fields] = [
        ("label", c_char * 32),
        ("manufacturer", c_char * 32),
        ("model", c_char * 16),
        ("serial", c_char * 16),
        ("flags", c_ulong),
        *((name, c_ulong) for name in ("max_sessions", "sessions", "max_rw_sessions", "rw_sessions")),
        *((name, c_ulong) for name in ("max_pin_len", "min_pin_len")),
        *((name, c_ulong) for name in ("total_public", "free_public", "total_private", "free_private")),
        ("hardware", Version),
        ("firmware", Version),
        ("utc_time", c_char * 16),
    ]


class SessionInfo(ctypes.Structure):
    """CK_SESSION_INFO."""

    _fields_: ClassVar[Fields] = [(name, c_ulong) for name in ("slot", "state", "flags", "device_error")]


class Attribute(ctypes.Structure):
    """CK_ATTRIBUTE."""

    _fields_: ClassVar[Fields] = [("type", c_ulong), ("value", c_void_p), ("length", c_ulong)]


class Mechanism(ctypes.Structure):
    """CK_MECHANISM."""

    _fields_: ClassVar[Fields] = [("mechanism", c_ulong), ("parameter", c_void_p), ("length", c_ulong)]


class Interface(ctypes.Structure):
    """CK_INTERFACE (3.0)."""

    _fields_: ClassVar[Fields] = [("name", c_char_p), ("functions", POINTER(Version)), ("flags", c_ulong)]


def text_of(raw: bytes) -> str:
    """A text field: padded with blanks, not ended by a zero byte (though some libraries do)."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace").rstrip()


def value_bytes(value: Value) -> bytes:
    """An attribute's value as it stands in memory."""
    if isinstance(value, bool):
        return b"\1" if value else b"\0"
    if isinstance(value, int):
        return bytes(c_ulong(value))
    return value


def number_of(raw: bytes) -> int | None:
    """A CK_ULONG attribute as a number; None for another length."""
    return c_ulong.from_buffer_copy(raw).value if len(raw) == ULONG_BYTES else None


def attributes_of(template: Template) -> tuple[ctypes.Array[Attribute], list[Any]]:
    """A template as an array; the second value must live as long as the first is used."""
    buffers = [ctypes.create_string_buffer(raw, max(len(raw), 1)) for raw in map(value_bytes, template.values())]
    array = (Attribute * len(template))()
    for slot, kind, value, buffer in zip(array, template, template.values(), buffers, strict=True):
        slot.type, slot.value, slot.length = kind, ctypes.addressof(buffer), len(value_bytes(value))
    return array, buffers


class MechanismCall:
    """A mechanism with its parameter, ready to be handed to C; keeps both alive."""

    __slots__ = ("_parameter", "_structure", "reference")

    def __init__(self, mechanism: int, parameter: bytes = b"") -> None:
        self._parameter = ctypes.create_string_buffer(parameter, max(len(parameter), 1))
        address = ctypes.addressof(self._parameter) if parameter else None
        self._structure = Mechanism(mechanism, address, len(parameter))
        self.reference = ctypes.byref(self._structure)
