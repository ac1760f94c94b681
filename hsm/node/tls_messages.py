"""Says whether a message is what a TLS server signs in a handshake. Pure; it neither hashes nor signs.

A key that only signs TLS signs two forms of message. In TLS 1.3 it is the input of a server's CertificateVerify
(RFC 8446 4.4.3): 64 spaces, "TLS 1.3, server CertificateVerify", a zero byte, and a transcript hash. In TLS 1.2 it is
the input of a ServerKeyExchange (RFC 8422 5.4): both randoms, a named curve, and the server's point on it. No other
message is let through. The second form leaves most of its bytes to whoever asks: a whole certificate fits into it, with
the curve in the middle of a name. So what can be read as what certificates, revocation lists or CMS sign is refused,
though it has this form; a genuine handshake looks so once in some thousand million times, by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hsm.node.asn1_look import is_signed_structure
from hsm.wire.schemes import KeyFamily, KeyType, Scheme

PADDING = b" " * 64
SERVER_CONTEXT = b"TLS 1.3, server CertificateVerify\0"
CLIENT_CONTEXT = b"TLS 1.3, client CertificateVerify\0"
TLS13_PREFIX = PADDING + SERVER_CONTEXT
TLS13_LENGTHS = (len(TLS13_PREFIX) + 32, len(TLS13_PREFIX) + 48)
"""With a transcript hash of SHA-256 or SHA-384, as all cipher suites of TLS 1.3 have (RFC 8446 B.4)."""

RANDOMS = 64
NAMED_CURVE = 3
_EXPLICIT_CURVES = (1, 2)
_HEADER = RANDOMS + 4
"""Randoms, curve type, curve, length of the point."""
_LOOK_FOR_CONTEXT = 256


class TlsMessage(StrEnum):
    """What a TLS server signs."""

    CERTIFICATE_VERIFY = "certificate_verify"
    """TLS 1.3."""
    SERVER_KEY_EXCHANGE = "server_key_exchange"
    """TLS 1.2."""


class Refusal(StrEnum):
    """Why a message is none that a TLS server signs with this key and scheme."""

    NOT_TLS = "not_tls"
    WRONG_PADDING = "wrong_padding"
    CLIENT_CONTEXT = "client_context"
    OTHER_CONTEXT = "other_context"
    HASH_LENGTH = "hash_length"
    SCHEME_NOT_IN_TLS13 = "scheme_not_in_tls13"
    DIGEST_NOT_OF_CURVE = "digest_not_of_curve"
    SCHEME_UNFIT = "scheme_unfit_for_key"
    EXPLICIT_CURVE = "explicit_curve"
    UNKNOWN_CURVE = "unknown_curve"
    POINT_LENGTH = "point_length"
    TRUNCATED = "truncated"
    TRAILING_BYTES = "trailing_bytes"
    POINT_FORM = "point_form"
    POINT_NOT_ON_CURVE = "point_not_on_curve"
    ALSO_ASN1 = "also_asn1"

    @property
    def sentence(self) -> str:
        """The reason, for people."""
        return _SENTENCES[self]


_SENTENCES = {
    Refusal.NOT_TLS: "the message is none that a TLS server signs, and this key signs nothing else",
    Refusal.WRONG_PADDING: "a TLS 1.3 CertificateVerify begins with exactly 64 spaces, and this message does not",
    Refusal.CLIENT_CONTEXT: "the message is a TLS client's CertificateVerify, and this key signs as a server only",
    Refusal.OTHER_CONTEXT: "what follows the 64 spaces is not the context of a TLS 1.3 server CertificateVerify",
    Refusal.HASH_LENGTH: "the transcript hash of a TLS 1.3 CertificateVerify has 32 or 48 bytes, and this one has not",
    Refusal.SCHEME_NOT_IN_TLS13: "TLS 1.3 handshakes are not signed with PKCS #1 v1.5",
    Refusal.DIGEST_NOT_OF_CURVE: "TLS 1.3 binds the digest to the key's curve, and this scheme has another digest",
    Refusal.SCHEME_UNFIT: "a key of this type can't sign with this scheme",
    Refusal.EXPLICIT_CURVE: "the TLS 1.2 ServerKeyExchange describes a curve instead of naming one",
    Refusal.UNKNOWN_CURVE: "the TLS 1.2 ServerKeyExchange names a curve that this node does not know",
    Refusal.POINT_LENGTH: "the point of the TLS 1.2 ServerKeyExchange has not the length of its curve",
    Refusal.TRUNCATED: "the TLS 1.2 ServerKeyExchange ends within its point",
    Refusal.TRAILING_BYTES: "bytes follow the point of the TLS 1.2 ServerKeyExchange",
    Refusal.POINT_FORM: "the point of the TLS 1.2 ServerKeyExchange is not in uncompressed form",
    Refusal.POINT_NOT_ON_CURVE: "the point of the TLS 1.2 ServerKeyExchange is not on its curve",
    Refusal.ALSO_ASN1: "the TLS 1.2 ServerKeyExchange can be read as part of a certificate, too",
}


@dataclass(frozen=True, slots=True)
class _Curve:
    """A named curve; `prime` and `b` of y^2 = x^3 - 3x + b for those whose points are checked, else 0."""

    point_bytes: int
    prime: int = 0
    b: int = 0


_P256 = 2**256 - 2**224 + 2**192 + 2**96 - 1
_P384 = 2**384 - 2**128 - 2**96 + 2**32 - 1
_P521 = 2**521 - 1
_CURVES = {
    # IANA TLS Supported Groups; the constants are those of NIST SP 800-186, 3.2.1.
    23: _Curve(65, _P256, 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B),
    24: _Curve(
        97,
        _P384,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    ),
    25: _Curve(
        133,
        _P521,
        int(
            "0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF07"
            "3573DF883D2C34F1EF451FD46B503F00",
            16,
        ),
    ),
    29: _Curve(32),
    30: _Curve(56),
}
_FAMILY_OF = {key_type: key_type.family for key_type in KeyType}
_DIGEST_OF_CURVE = {KeyType.P256: "sha256", KeyType.P384: "sha384", KeyType.P521: "sha512"}


def check(message: bytes, scheme: Scheme, key_type: KeyType) -> TlsMessage | Refusal:
    """Whether a TLS server with a key of this type signs `message` with `scheme`, and if not, why. Never raises."""
    family = scheme.family
    if family is not _FAMILY_OF[key_type]:
        return Refusal.SCHEME_UNFIT
    if message.startswith(TLS13_PREFIX):
        if len(message) not in TLS13_LENGTHS:
            return Refusal.HASH_LENGTH
        if family is KeyFamily.RSA and not scheme.is_pss:
            return Refusal.SCHEME_NOT_IN_TLS13
        if family is KeyFamily.EC and scheme.digest != _DIGEST_OF_CURVE[key_type]:
            return Refusal.DIGEST_NOT_OF_CURVE
        return TlsMessage.CERTIFICATE_VERIFY
    return _key_exchange(message)


def _key_exchange(message: bytes) -> TlsMessage | Refusal:
    """RFC 8422 5.4: ClientHello.random, ServerHello.random, ECParameters, ECPoint. All schemes are allowed."""
    if len(message) < _HEADER or message[RANDOMS] != NAMED_CURVE:
        return _why_not_tls(message)
    curve = _CURVES.get(message[65] << 8 | message[66])
    if curve is None:
        return Refusal.UNKNOWN_CURVE
    if message[67] != curve.point_bytes:
        return Refusal.POINT_LENGTH
    over = len(message) - _HEADER - curve.point_bytes
    if over:
        return Refusal.TRAILING_BYTES if over > 0 else Refusal.TRUNCATED
    if curve.prime:
        if message[_HEADER] != 4:
            return Refusal.POINT_FORM
        if not _is_on(curve, message[_HEADER + 1 :]):
            return Refusal.POINT_NOT_ON_CURVE
    if is_signed_structure(message):
        return Refusal.ALSO_ASN1
    return TlsMessage.SERVER_KEY_EXCHANGE


def _is_on(curve: _Curve, coordinates: bytes) -> bool:
    half, prime = len(coordinates) // 2, curve.prime
    x, y = int.from_bytes(coordinates[:half], "big"), int.from_bytes(coordinates[half:], "big")
    return x < prime and y < prime and (y * y - (x * x - 3) * x - curve.b) % prime == 0


def _why_not_tls(message: bytes) -> Refusal:
    """The reason that fits best: only people care which."""
    if message.startswith(PADDING):
        return Refusal.CLIENT_CONTEXT if message.startswith(CLIENT_CONTEXT, 64) else Refusal.OTHER_CONTEXT
    if SERVER_CONTEXT in message[:_LOOK_FOR_CONTEXT]:
        return Refusal.WRONG_PADDING
    if len(message) >= _HEADER and message[RANDOMS] in _EXPLICIT_CURVES:
        return Refusal.EXPLICIT_CURVE
    return Refusal.NOT_TLS
