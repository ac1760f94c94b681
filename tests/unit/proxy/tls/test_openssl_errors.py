"""Reason codes mean what the table says, in this OpenSSL."""

from __future__ import annotations

import pytest
from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from proxy.base.errors import TlsReason
from proxy.tls.openssl_errors import _REASONS, OpenSslError, describe, forget_errors, reason_of, take_errors

_SSL = 20 << 23
_EVP = 6 << 23


def error(reason: int, library: int = _SSL) -> OpenSslError:
    return OpenSslError(library | reason, f"reason {reason}")


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([], TlsReason.OTHER),
        ([error(7, _EVP)], TlsReason.OTHER),
        ([error(7, _EVP), error(156)], TlsReason.NOT_TLS),
        ([error(193)], TlsReason.NO_SHARED_CIPHER),
        ([error(1048)], TlsReason.CLIENT_ALERT),
        ([error(1000), error(193)], TlsReason.CLIENT_ALERT),
        ([error(193), error(1048)], TlsReason.NO_SHARED_CIPHER),
        ([error(159)], TlsReason.BAD_RECORD),
        ([error(193, _EVP)], TlsReason.OTHER),
        ([error(1256)], TlsReason.BAD_RECORD),
    ],
)
def test_the_first_meaningful_code_counts(errors: list[OpenSslError], reason: TlsReason) -> None:
    assert reason_of(errors) is reason


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (101, "key share"),
        (118, "signature algorithm"),
        (155, "proxy"),
        (156, "http"),
        (193, "cipher"),
        (235, "application protocol"),
        (258, "protocol"),
        (294, "eof"),
        (339, "renegotiation"),
        (373, "fallback"),
        (376, "signature algorithms"),
        (410, "groups"),
        (1048, "unknown ca"),
    ],
)
def test_codes_are_those_of_this_openssl(code: int, word: str) -> None:
    text = lib.ERR_reason_error_string(_SSL | code)
    assert text != ffi.NULL
    assert word in ffi.string(text).decode().lower()


def test_every_code_of_the_table_is_known_to_this_openssl() -> None:
    unknown = [code for code in _REASONS if lib.ERR_reason_error_string(_SSL | code) == ffi.NULL]
    assert unknown == []


def test_the_queue_is_taken_whole() -> None:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    for _ in range(3):
        lib.SSL_CTX_use_certificate_chain_file(context._context, b"/nonexistent")
    errors = take_errors()
    assert len(errors) >= 3
    assert "No such file" in describe(errors) or "system lib" in describe(errors)
    assert take_errors() == []
    assert describe([]) == "no detail"


def test_the_queue_is_forgotten() -> None:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    lib.SSL_CTX_use_certificate_chain_file(context._context, b"/nonexistent")
    forget_errors()
    assert take_errors() == []
