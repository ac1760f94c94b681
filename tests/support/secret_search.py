"""Looks for secrets in whatever a program gave out: as they are, as numbers, in hex, base64 and decimal, in part.

A needle is the middle of a secret, so that a part of it that is worth something is found, too; line breaks, colons and
escaped line breaks of what is searched don't hide it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

NEEDLE_BYTES = 18
_BETWEEN = re.compile(rb"\\[nr]|[\s:]")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def values_of(key: PrivateKey) -> Mapping[str, bytes]:
    """Every secret number of a key, big-endian."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {"seed": key.private_bytes_raw()}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = (key.key_size + 7) // 8
        return {"scalar": key.private_numbers().private_value.to_bytes(size, "big")}
    numbers, half = key.private_numbers(), key.key_size // 16
    parts = {"p": numbers.p, "q": numbers.q, "dp": numbers.dmp1, "dq": numbers.dmq1, "qinv": numbers.iqmp}
    found = {name: number.to_bytes(half, "big") for name, number in parts.items()}
    return {**found, "d": numbers.d.to_bytes(key.key_size // 8, "big")}


def forms_of(value: bytes) -> Iterator[tuple[str, bytes]]:
    """How a secret may stand somewhere."""
    begin = max(0, (len(value) - NEEDLE_BYTES) // 2)
    middle = value[begin : begin + NEEDLE_BYTES]
    yield "bytes", middle
    yield "bytes, backwards", middle[::-1]
    yield "hex", middle.hex().encode()
    yield "HEX", middle.hex().upper().encode()
    for offset in range(3):
        # What stands before it shifts base64 by 0, 2 or 4 bits; the characters that it shares with others are left out.
        encoded = base64.b64encode(bytes(offset) + middle)
        yield f"base64, shifted by {offset}", encoded[(0, 2, 3)[offset] : (offset + len(middle)) * 8 // 6]
    number = int.from_bytes(value, "big")
    yield "decimal", str(number).encode()
    digits = bytearray()
    while number:
        digits += (number & (2**30 - 1)).to_bytes(4, "little")
        number >>= 30
    yield "an int of Python", bytes(digits)


class Secrets:
    """What is looked for, by name."""

    def __init__(self) -> None:
        self._needles: dict[str, dict[str, bytes]] = {}

    def add(self, name: str, value: bytes) -> None:
        """A secret; a text as its bytes."""
        assert len(value) >= 12, f"{name} is too short to be told from chance"
        self._needles[name] = dict(forms_of(value))

    def add_key(self, name: str, key: PrivateKey) -> None:
        """All secret numbers of a key."""
        for part, value in values_of(key).items():
            self.add(f"{name} {part}", value)

    @property
    def names(self) -> frozenset[str]:
        """Of all secrets."""
        return frozenset(self._needles)

    def found_in(self, data: bytes) -> set[str]:
        """Names and forms of the secrets that stand in `data`."""
        squeezed = _BETWEEN.sub(b"", data).translate(_URL_SAFE)
        return {
            f"{name} ({form})"
            for name, forms in self._needles.items()
            for form, needle in forms.items()
            if needle in data or needle in squeezed
        }


def files_below(folder: Path, but: frozenset[Path]) -> Iterator[tuple[Path, bytes]]:
    """Every regular file, hidden ones too, with the sockets' and folders' names being looked at as well."""
    for path in sorted(folder.rglob("*")):
        if path in but or any(parent in but for parent in path.parents):
            continue
        yield path, str(path).encode() + b"\n" + (path.read_bytes() if path.is_file() else b"")
