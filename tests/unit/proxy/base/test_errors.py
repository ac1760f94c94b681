"""Errors carry their reason as data and make their sentence from it."""

from __future__ import annotations

from proxy.base.errors import ErrorSource, HttpReason, ProxyError, SigningError, SigningReason, TlsReason


def test_error_says_reason_and_detail() -> None:
    error = SigningError(SigningReason.TIMEOUT, "node-1 was silent for 1 s", node="node-1")
    assert str(error) == "timeout: node-1 was silent for 1 s"
    assert (error.source, error.reason, error.node) == (ErrorSource.HSM, SigningReason.TIMEOUT, "node-1")
    assert str(ProxyError(TlsReason.NOT_TLS)) == "not_tls"


def test_reasons_are_labels() -> None:
    """They end up in metrics: lower case, no spaces, no two alike within one enum."""
    for enum in (SigningReason, TlsReason, HttpReason):
        values = [member.value for member in enum]
        assert len(values) == len(set(values))
        assert all(value.replace("_", "").isalnum() and value == value.lower() for value in values)
