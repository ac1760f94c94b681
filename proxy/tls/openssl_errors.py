"""OpenSSL's error queue, turned into a TlsReason by one table of reason codes.

Codes, not texts: the codes are part of OpenSSL's ABI (`sslerr.h`), the texts are not. `reason_of` is pure;
`take_errors` empties the calling thread's queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# The queue is not reachable through pyOpenSSL's public API except as texts.
from OpenSSL._util import ffi, lib

from proxy.base.errors import TlsReason

_LIB_SSL = 20
_LIB_SHIFT, _LIB_MASK, _REASON_MASK = 23, 0xFF, 0x7FFFFF
_FIRST_ALERT, _LAST_ALERT = 1000, 1255
"""A fatal alert from the peer is queued as 1000 + its number (SSL_AD_REASON_OFFSET)."""
_MAX_ERRORS = 16

_REASONS: dict[int, TlsReason] = {
    101: TlsReason.NO_SHARED_GROUP,  # NO_SUITABLE_KEY_SHARE
    112: TlsReason.NO_SHARED_SIGNATURE,  # MISSING_SIGALGS_EXTENSION
    116: TlsReason.PROTOCOL_VERSION,  # BAD_PROTOCOL_VERSION_NUMBER
    118: TlsReason.NO_SHARED_SIGNATURE,  # NO_SUITABLE_SIGNATURE_ALGORITHM
    155: TlsReason.NOT_TLS,  # HTTPS_PROXY_REQUEST
    156: TlsReason.NOT_TLS,  # HTTP_REQUEST
    166: TlsReason.PROTOCOL_VERSION,  # VERSION_TOO_HIGH
    193: TlsReason.NO_SHARED_CIPHER,  # NO_SHARED_CIPHER
    209: TlsReason.NO_SHARED_GROUP,  # MISSING_SUPPORTED_GROUPS_EXTENSION
    235: TlsReason.NO_SHARED_ALPN,  # NO_APPLICATION_PROTOCOL
    252: TlsReason.PROTOCOL_VERSION,  # UNKNOWN_PROTOCOL
    258: TlsReason.PROTOCOL_VERSION,  # UNSUPPORTED_PROTOCOL
    259: TlsReason.PROTOCOL_VERSION,  # UNSUPPORTED_SSL_VERSION
    266: TlsReason.PROTOCOL_VERSION,  # WRONG_SSL_VERSION
    294: TlsReason.TRUNCATED,  # UNEXPECTED_EOF_WHILE_READING
    295: TlsReason.NO_SHARED_GROUP,  # NO_SUITABLE_GROUPS
    315: TlsReason.NO_SHARED_GROUP,  # UNSUPPORTED_ELLIPTIC_CURVE
    339: TlsReason.RENEGOTIATION,  # NO_RENEGOTIATION
    373: TlsReason.PROTOCOL_VERSION,  # INAPPROPRIATE_FALLBACK (RFC 7507)
    376: TlsReason.NO_SHARED_SIGNATURE,  # NO_SHARED_SIGNATURE_ALGORITHMS
    396: TlsReason.PROTOCOL_VERSION,  # VERSION_TOO_LOW
    410: TlsReason.NO_SHARED_GROUP,  # NO_SHARED_GROUPS
}
"""Reason codes of libssl that mean something more precise than a bad record."""


@dataclass(frozen=True, slots=True)
class OpenSslError:
    """One entry of the queue."""

    code: int
    text: str

    @property
    def is_of_libssl(self) -> bool:
        """Tell whether libssl itself raised it, rather than a library below it or a provider."""
        return (self.code >> _LIB_SHIFT) & _LIB_MASK == _LIB_SSL

    @property
    def reason_code(self) -> int:
        """The reason within its library."""
        return self.code & _REASON_MASK


def reason_of(errors: Sequence[OpenSslError]) -> TlsReason:
    """What the errors of one failed call mean; they are ordered as they happened, the cause first."""
    codes = [error.reason_code for error in errors if error.is_of_libssl]
    for code in codes:
        if _FIRST_ALERT <= code <= _LAST_ALERT:
            return TlsReason.CLIENT_ALERT
        if code in _REASONS:
            return _REASONS[code]
    return TlsReason.BAD_RECORD if codes else TlsReason.OTHER


def describe(errors: Sequence[OpenSslError]) -> str:
    """One phrase for a log line."""
    return "; ".join(dict.fromkeys(error.text for error in errors)) or "no detail"


def take_errors() -> list[OpenSslError]:
    """Empty this thread's queue and return what was in it, the oldest first."""
    errors: list[OpenSslError] = []
    while (code := lib.ERR_get_error()) and len(errors) < _MAX_ERRORS:
        text = lib.ERR_reason_error_string(code)
        errors.append(OpenSslError(code, ffi.string(text).decode() if text != ffi.NULL else f"error {code:#x}"))
    lib.ERR_clear_error()
    return errors


def forget_errors() -> None:
    """Empty this thread's queue: what another handshake left must not be taken for this one's failure."""
    lib.ERR_clear_error()
