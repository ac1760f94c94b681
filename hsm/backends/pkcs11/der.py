"""The little of DER (X.690) that a token's attributes need: read and write tag, length, value. Pure.

By hand, so that the process that holds the HSM maker's library starts quickly and needs no second OpenSSL.
"""

from __future__ import annotations

INTEGER, BIT_STRING, OCTET_STRING, NULL, OID, PRINTABLE, SEQUENCE = 0x02, 0x03, 0x04, 0x05, 0x06, 0x13, 0x30
CONTEXT_0 = 0xA0


class DerError(ValueError):
    """The bytes are not the DER that was expected."""


def wrap(tag: int, *contents: bytes) -> bytes:
    """One element around `contents`."""
    body = b"".join(contents)
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def integer(value: int) -> bytes:
    """A non-negative INTEGER."""
    return wrap(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def read(data: bytes, at: int = 0) -> tuple[int, int, int]:
    """Tag, start and end of the value of the element at `at`. Raises DerError."""
    if at + 2 > len(data):
        raise DerError("an element is cut off")
    tag, length, start = data[at], data[at + 1], at + 2
    if tag & 0x1F == 0x1F:
        raise DerError("tags of several bytes do not occur here")
    if length >= 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4 or start + count > len(data):
            raise DerError("a length is not that of DER")
        length = int.from_bytes(data[start : start + count], "big")
        start += count
        if length < 0x80 or length < 1 << 8 * (count - 1):
            raise DerError("a length is not in its shortest form")
    if start + length > len(data):
        raise DerError("an element is cut off")
    return tag, start, start + length


def only(data: bytes, tag: int) -> bytes:
    """The value of the one element that `data` is. Raises DerError for another tag, or bytes after it."""
    found, start, end = read(data)
    if found != tag or end != len(data):
        raise DerError("the element is another, or more follows")
    return data[start:end]


def elements(data: bytes) -> list[tuple[int, bytes, bytes]]:
    """Tag, value and whole encoding of each element in the value of a constructed one. Raises DerError."""
    found, at = [], 0
    while at < len(data):
        tag, start, end = read(data, at)
        found.append((tag, data[start:end], data[at:end]))
        at = end
    return found


def public_key_of_certificate(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of an X.509 certificate (RFC 5280 4.1). Raises DerError."""
    signed = elements(only(certificate, SEQUENCE))
    if not signed or signed[0][0] != SEQUENCE:
        raise DerError("this is no certificate")
    fields = elements(signed[0][1])
    if fields and fields[0][0] == CONTEXT_0:  # version; the default, 1, is left out
        del fields[0]
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
    if len(fields) < 6 or fields[5][0] != SEQUENCE:
        raise DerError("this is no certificate")
    return fields[5][2]
