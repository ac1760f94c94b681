"""PKCS#11 URIs (RFC 7512): text to frozen values, and back. Pure.

    pkcs11:token=web;object=www.example.com?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/pin

The path says which token and which keys are meant, the query how to get there. What could widen the choice in silence
(an attribute that is not known here, the same one twice) is refused, and so is a PIN: a URI stands in files, in logs
and on command lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import quote

import msgspec

from hsm.backends.pkcs11.messages import ObjectMatch, TokenMatch

ObjectType: TypeAlias = Literal["private", "secret-key"]

MAX_URI_CHARACTERS = 4096
_SCHEME = "pkcs11:"
_MAX_SLOT_ID = 2**64 - 1
# RFC 7512 2.3: unreserved, some reserved characters, and percent-encoded bytes; "&" only in the path, "/?|" only after.
_PATH_VALUE = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()+*,=&-]|%[0-9A-Fa-f]{2})*\Z", re.ASCII)
_QUERY_VALUE = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()+*,=/?|-]|%[0-9A-Fa-f]{2})*\Z", re.ASCII)
_VERSION = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3})?\Z", re.ASCII)
_TEXT_OF_TOKEN = {
    "token": "token",
    "manufacturer": "manufacturer",
    "model": "model",
    "serial": "serial",
    "slot-description": "slot_description",
    "slot-manufacturer": "slot_manufacturer",
    "library-description": "library_description",
    "library-manufacturer": "library_manufacturer",
    "library-version": "library_version",
}
_PATH_NAMES = (*_TEXT_OF_TOKEN, "slot-id", "object", "id", "type")
_QUERY_NAMES = ("module-path", "module-name", "pin-source")
_TYPES: dict[str, ObjectType] = {"private": "private", "secret-key": "secret-key"}


class UriProblem(Exception):
    """The text is no PKCS#11 URI that can be used. `sentence` says why; it never holds the PIN."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """What a URI says; None where it says nothing."""

    token: TokenMatch
    objects: ObjectMatch
    module_path: str | None = None
    """Absolute path of the library."""
    module_name: str | None = None
    """Name of the library without its folder, prefix and suffix: "softhsm2" is `libsofthsm2.so`."""
    pin_source: str | None = None
    """Where the PIN stands, as written; `hsm.backends.pkcs11.pin.source_of_uri` reads it."""
    object_type: ObjectType | None = None


def parse_uri(text: str) -> Pkcs11Uri:
    """Read a URI. Raises UriProblem."""
    if len(text) > MAX_URI_CHARACTERS:
        raise UriProblem(f"a PKCS#11 URI has at most {MAX_URI_CHARACTERS} characters, this one has {len(text)}")
    if text[: len(_SCHEME)].lower() != _SCHEME:
        raise UriProblem("a PKCS#11 URI begins with `pkcs11:`, such as pkcs11:token=web?module-path=/usr/lib/hsm.so")
    path, _, query = text[len(_SCHEME) :].partition("?")
    if re.search(r"pin-value", query, re.IGNORECASE) or re.search(r"pin-value", path, re.IGNORECASE):
        raise UriProblem("a PIN (`pin-value`) must not stand in a URI; name a file that holds it with `pin-source`")
    place = _attributes(path, ";", _PATH_NAMES, _PATH_VALUE)
    access = _attributes(query, "&", _QUERY_NAMES, _QUERY_VALUE)
    module_path = _text("module-path", access)
    if module_path is not None and not module_path.startswith("/"):
        raise UriProblem("`module-path` in the PKCS#11 URI must be an absolute path")  # RFC 7512 2.4
    module_name = _text("module-name", access)
    if module_name is not None and ("/" in module_name or module_name in ("", ".", "..")):
        raise UriProblem("`module-name` in the PKCS#11 URI is a name without folders; use `module-path` for a path")
    return Pkcs11Uri(
        _token_of(place),
        ObjectMatch(label=_text("object", place), id=place.get("id")),
        module_path=module_path,
        module_name=module_name,
        pin_source=_text("pin-source", access),
        object_type=_type_of(place),
    )


def format_uri(uri: Pkcs11Uri) -> str:
    """The text of a URI: `parse_uri` of it gives the same again."""
    path = [f"{name}={_quoted(value)}" for name, value in _place_of(uri)]
    access = (
        ("module-path", uri.module_path),
        ("module-name", uri.module_name),
        ("pin-source", uri.pin_source),
    )
    query = [f"{name}={quote(value, safe='/:|')}" for name, value in access if value is not None]
    return _SCHEME + ";".join(path) + ("?" + "&".join(query) if query else "")


def _place_of(uri: Pkcs11Uri) -> list[tuple[str, str | bytes]]:
    token = msgspec.structs.asdict(uri.token)
    place: list[tuple[str, str | bytes]] = [
        (name, token[field]) for name, field in _TEXT_OF_TOKEN.items() if token[field] is not None
    ]
    if uri.token.slot_id is not None:
        place.append(("slot-id", str(uri.token.slot_id)))
    objects = (("object", uri.objects.label), ("id", uri.objects.id), ("type", uri.object_type))
    return place + [(name, value) for name, value in objects if value is not None]


def _quoted(value: str | bytes) -> str:
    # RFC 7512 2.3: a CKA_ID is written with each byte percent-encoded.
    return "".join(f"%{byte:02X}" for byte in value) if isinstance(value, bytes) else quote(value, safe="")


def _attributes(text: str, separator: str, known: tuple[str, ...], form: re.Pattern[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if name not in known:
            # Its value is not repeated: nobody knows what it is. A mistyped `pin-value` is one.
            raise UriProblem(f"in the PKCS#11 URI, {_shown(name)} is not known in its place; use {', '.join(known)}")
        if not equals:
            raise UriProblem(f"`{name}` in the PKCS#11 URI has no value")
        if name in found:
            raise UriProblem(f"`{name}` stands twice in the PKCS#11 URI")
        if not form.match(value):
            raise UriProblem(f"`{name}` in the PKCS#11 URI holds characters that must be percent-encoded (space: %20)")
        found[name] = _decoded(value)
    return found


def _decoded(value: str) -> bytes:
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), value.encode("ascii"))


def _text(name: str, attributes: dict[str, bytes]) -> str | None:
    if (value := attributes.get(name)) is None:
        return None
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise UriProblem(f"`{name}` in the PKCS#11 URI is not UTF-8") from None
    if "\0" in text:
        raise UriProblem(f"`{name}` in the PKCS#11 URI holds a zero byte")
    return text


def _token_of(place: dict[str, bytes]) -> TokenMatch:
    texts = {field: _text(name, place) for name, field in _TEXT_OF_TOKEN.items()}
    version = texts["library_version"]
    if version is not None and not _VERSION.match(version):
        raise UriProblem("`library-version` in the PKCS#11 URI must look like 2 or 2.6")
    return TokenMatch(slot_id=_slot_of(place), **texts)


def _slot_of(place: dict[str, bytes]) -> int | None:
    text = _text("slot-id", place)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,20}", text, re.ASCII) or int(text) > _MAX_SLOT_ID:
        raise UriProblem("`slot-id` in the PKCS#11 URI must be a decimal number")
    return int(text)


def _type_of(place: dict[str, bytes]) -> ObjectType | None:
    text = _text("type", place)
    if text is not None and text not in _TYPES:
        raise UriProblem(f"`type` in the PKCS#11 URI is {_shown(text)}; keys are `private` or `secret-key`")
    return None if text is None else _TYPES[text]


def _shown(word: str) -> str:
    """A word of the user, unless it may be more than a word."""
    return f"`{word}`" if re.fullmatch(r"[A-Za-z_-]{1,40}", word, re.ASCII) else "a part of it"
