"""The `[tls]` section, checked against what is safe and what this OpenSSL knows, and put on contexts.

Nothing is ignored: an unknown or weak name is a problem with a clear text, never a silent omission. OpenSSL's lists
have a syntax of their own ("?name", "-name", "DEFAULT"); only plain names are let through to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from OpenSSL import SSL

# pyOpenSSL has no public setter for groups and signature algorithms, and no name for the partial-write mode.
from OpenSSL._util import lib

from proxy.config.schema import TlsConfig
from proxy.tls.openssl_errors import forget_errors
from proxy.tls.problems import OptionProblem

SIGNATURE_ALGORITHMS: Final = frozenset(
    {"ecdsa_secp256r1_sha256", "ecdsa_secp384r1_sha384", "ecdsa_secp521r1_sha512", "ed25519"}
    | {f"rsa_pss_rsae_sha{bits}" for bits in (256, 384, 512)}
    | {f"rsa_pkcs1_sha{bits}" for bits in (256, 384, 512)}
)
"""TLS names (RFC 8446 4.2.3) of what nodes can sign."""

_SESSION_ID_CONTEXT: Final = b"sealgate"
"""The same on every context, or a session would not resume after a switch by SNI."""
_OP_PRIORITIZE_CHACHA: Final = 1 << 21
"""SSL_OP_PRIORITIZE_CHACHA (ssl.h), which pyOpenSSL does not name: clients without AES hardware get ChaCha20."""
_VERSIONS: Final = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SAFE_CIPHER: Final = re.compile(
    r"ECDHE-ECDSA-AES(128|256)-CCM|ECDHE-(ECDSA|RSA)-(AES128-GCM-SHA256|AES256-GCM-SHA384|CHACHA20-POLY1305)"
)
_SAFE_CIPHERSUITE: Final = re.compile(r"TLS_(AES_(128_GCM|128_CCM)_SHA256|AES_256_GCM_SHA384|CHACHA20_POLY1305_SHA256)")


def check_options(tls: TlsConfig) -> list[OptionProblem]:
    """Every problem of the section; an empty list means `apply_options` will work."""
    scratch = SSL.Context(SSL.TLS_SERVER_METHOD)
    problems = [
        *_check_names(
            "groups", tls.groups, lambda name: _is_known_group(scratch, name), "this OpenSSL has no such group"
        ),
        *_check_names(
            "ciphers",
            tls.ciphers,
            lambda name: _SAFE_CIPHER.fullmatch(name) is not None,
            "not a TLS 1.2 cipher suite with AEAD and ECDHE, by its OpenSSL name (ECDHE-ECDSA-AES128-GCM-SHA256)",
        ),
        *_check_names(
            "ciphersuites",
            tls.ciphersuites,
            lambda name: _SAFE_CIPHERSUITE.fullmatch(name) is not None,
            "not a TLS 1.3 cipher suite (TLS_AES_128_GCM_SHA256)",
        ),
        *_check_names(
            "signature_algorithms",
            tls.signature_algorithms,
            SIGNATURE_ALGORITHMS.__contains__,
            f"nodes cannot sign that; they can sign {', '.join(sorted(SIGNATURE_ALGORITHMS))}",
        ),
        *_check_protocols(tls.alpn),
    ]
    if tls.min_version > tls.max_version:
        reason = f"{tls.min_version} is above max_version {tls.max_version}"
        problems.append(OptionProblem("tls.min_version", reason))
    return problems or _check_whole(scratch, tls)


def _check_names(
    option: str, names: Sequence[str], is_good: Callable[[str], bool], complaint: str
) -> list[OptionProblem]:
    problems = [
        OptionProblem(f"tls.{option}", f"{name[:80]!r}: {complaint}")
        for name in names
        if not (_PLAIN_NAME.fullmatch(name) and is_good(name))
    ]
    repeated = sorted({name for name in names if names.count(name) > 1})
    problems += [OptionProblem(f"tls.{option}", f"{name!r} is given twice") for name in repeated]
    if not names:
        problems.append(OptionProblem(f"tls.{option}", "the list is empty; leave it out for the defaults"))
    return problems


def _check_protocols(protocols: Sequence[str]) -> list[OptionProblem]:
    return [
        OptionProblem("tls.alpn", f"{protocol[:80]!r}: a protocol's name has 1 to 255 ASCII characters")
        for protocol in protocols
        if not (protocol.isascii() and 1 <= len(protocol) <= 255)
    ]


def _check_whole(scratch: SSL.Context, tls: TlsConfig) -> list[OptionProblem]:
    """Names that are each good may still be unknown to an OpenSSL that was built with less."""
    try:
        apply_options(scratch, tls)
    except (SSL.Error, ValueError) as error:
        return [OptionProblem("tls", f"OpenSSL refuses these options: {error}")]
    return []


def _is_known_group(scratch: SSL.Context, name: str) -> bool:
    if name.upper() == "DEFAULT":  # a list of OpenSSL's own choice, no group
        return False
    is_known = bool(lib.SSL_CTX_set1_curves_list(scratch._context, name.encode()) == 1)
    forget_errors()
    return is_known


def apply_options(context: SSL.Context, tls: TlsConfig) -> None:
    """Put checked options on a context, with all that is not up to the config: no renegotiation, no compression."""
    context.set_min_proto_version(_VERSIONS[tls.min_version])
    context.set_max_proto_version(_VERSIONS[tls.max_version])
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_options(_OP_PRIORITIZE_CHACHA)
    context.set_cipher_list(":".join(tls.ciphers).encode())
    context.set_tls13_ciphersuites(":".join(tls.ciphersuites).encode())
    _set_list(lib.SSL_CTX_set1_curves_list, context, "groups", tls.groups)
    _set_list(lib.SSL_CTX_set1_sigalgs_list, context, "signature_algorithms", tls.signature_algorithms)
    # Partial writes would return after one record (16 KiB); idle connections should not keep 34 KiB of buffers each.
    context.clear_mode(lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    _set_sessions(context, tls)


def _set_list(setter: Callable[..., int], context: SSL.Context, option: str, names: Sequence[str]) -> None:
    if setter(context._context, ":".join(names).encode()) != 1:
        forget_errors()
        raise ValueError(f"tls.{option}: {', '.join(names)}")


def _set_sessions(context: SSL.Context, tls: TlsConfig) -> None:
    """Sessions live in tickets only: no worker remembers anything, so any worker can resume."""
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(_SESSION_ID_CONTEXT)
    context.set_timeout(tls.session_lifetime_s)
    if not tls.tickets:
        context.set_options(SSL.OP_NO_TICKET)
