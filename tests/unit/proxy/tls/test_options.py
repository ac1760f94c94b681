"""The [tls] section: bad names are refused with a clear text."""

from __future__ import annotations

import pytest
from OpenSSL import SSL
from OpenSSL._util import lib

from proxy.config.schema import TlsConfig
from proxy.tls.options import apply_options, check_options


def complaints(**changes: object) -> list[str]:
    return [str(problem) for problem in check_options(TlsConfig(**changes))]  # type: ignore[arg-type]  # any field


def test_the_defaults_are_good() -> None:
    assert complaints() == []


@pytest.mark.parametrize(
    ("option", "name", "complaint"),
    [
        ("groups", "X25519MLKEM", "this OpenSSL has no such group"),
        ("groups", "?X25519", "this OpenSSL has no such group"),
        ("groups", "X25519:P-256", "this OpenSSL has no such group"),
        ("groups", "DEFAULT", "this OpenSSL has no such group"),
        ("ciphers", "AES128-SHA", "not a TLS 1.2 cipher suite with AEAD and ECDHE"),
        ("ciphers", "ECDHE-RSA-AES128-SHA256", "not a TLS 1.2 cipher suite with AEAD and ECDHE"),
        ("ciphers", "DHE-RSA-AES128-GCM-SHA256", "not a TLS 1.2 cipher suite with AEAD and ECDHE"),
        ("ciphers", "AES128-GCM-SHA256", "not a TLS 1.2 cipher suite with AEAD and ECDHE"),
        ("ciphers", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "by its OpenSSL name"),
        ("ciphers", "ALL", "not a TLS 1.2 cipher suite"),
        ("ciphers", "HIGH:!aNULL", "not a TLS 1.2 cipher suite"),
        ("ciphers", "@SECLEVEL=0", "not a TLS 1.2 cipher suite"),
        ("ciphersuites", "TLS_AES_128_CCM_8_SHA256", "not a TLS 1.3 cipher suite"),
        ("ciphersuites", "TLS_NULL", "not a TLS 1.3 cipher suite"),
        ("signature_algorithms", "rsa_pkcs1_sha1", "nodes cannot sign that"),
        ("signature_algorithms", "mldsa65", "nodes cannot sign that"),
        ("signature_algorithms", "ECDSA+SHA256", "nodes cannot sign that"),
    ],
)
def test_bad_names_are_named(option: str, name: str, complaint: str) -> None:
    (line,) = complaints(**{option: (*getattr(TlsConfig(), option), name)})
    assert line.startswith(f"tls.{option}: {name!r}: ")
    assert complaint in line


@pytest.mark.parametrize("option", ["groups", "ciphers", "ciphersuites", "signature_algorithms"])
def test_empty_and_repeated(option: str) -> None:
    assert complaints(**{option: ()}) == [f"tls.{option}: the list is empty; leave it out for the defaults"]
    name = getattr(TlsConfig(), option)[0]
    assert complaints(**{option: (name, name)}) == [f"tls.{option}: {name!r} is given twice"]


def test_everything_is_reported_at_once() -> None:
    lines = complaints(groups=("nope",), ciphers=("nope",), min_version="1.3", max_version="1.2", alpn=("",))
    assert [line.split(":")[0] for line in lines] == ["tls.groups", "tls.ciphers", "tls.alpn", "tls.min_version"]


def test_all_safe_choices_are_known() -> None:
    assert (
        complaints(groups=("SecP256r1MLKEM768", "X25519", "P-521", "x448"), ciphers=("ECDHE-ECDSA-AES256-CCM",)) == []
    )
    assert complaints(ciphersuites=("TLS_AES_128_CCM_SHA256",)) == []


def test_contexts_are_hardened() -> None:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    apply_options(context, TlsConfig(session_lifetime_s=1234))
    options = context.set_options(0)
    assert options & SSL.OP_NO_RENEGOTIATION
    assert options & SSL.OP_NO_COMPRESSION
    assert options & SSL.OP_CIPHER_SERVER_PREFERENCE
    assert not options & SSL.OP_NO_TICKET
    assert context.get_timeout() == 1234
    assert context.get_session_cache_mode() == SSL.SESS_CACHE_OFF
    mode = context.set_mode(0)
    assert mode & SSL.MODE_RELEASE_BUFFERS
    assert not mode & lib.SSL_MODE_ENABLE_PARTIAL_WRITE
