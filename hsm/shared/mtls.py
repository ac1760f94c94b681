"""TLS contexts of the links between our own programs, and who the peer is.

This is the standard library's `ssl`; the TLS that clients see is elsewhere. Both sides show a certificate of the
same CA. Files are read once, when a context is built.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsm.shared.strict_toml import ConfigError

_TLS12_CIPHERS = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
"""What plain Keyless clients speak, and nothing weaker; TLS 1.3 has suites of its own."""
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+\Z")
"""A scheme and no control characters (RFC 3986 2, 3): "CN=..." is none, so a URI name can't pass for a common name."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this program is on a link, and whom it believes. PEM files."""

    ca: Path
    """The CA whose certificates are believed."""
    certificate: Path
    """Own certificate, then intermediates."""
    private_key: Path
    """Its key, without a password. It opens links; it is no site's key."""


def server_context(identity: Identity) -> ssl.SSLContext:
    """For a node: clients must show a certificate of the CA. TLS 1.2 and 1.3. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _fill(context, identity)
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


def client_context(identity: Identity) -> ssl.SSLContext:
    """For a proxy: the node must show a certificate of the CA with the expected name. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _fill(context, identity)
    context.check_hostname = True
    # A common name says who somebody is, not where (RFC 9525 6.2): a client whose certificate has no DNS names must not
    # pass for the node that it is called like.
    context.hostname_checks_common_name = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _fill(context: ssl.SSLContext, identity: Identity) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    for path in (identity.ca, identity.certificate, identity.private_key):
        _check_readable(path)
    try:
        context.load_verify_locations(cafile=str(identity.ca))
    except (ssl.SSLError, OSError):
        raise ConfigError(identity.ca, ["holds no PEM certificates; give the CA's certificate file"]) from None
    _load_own_chain(context, identity)


def _check_readable(path: Path) -> None:
    try:
        with Path(path).open("rb") as file:
            if not file.read(1):
                raise ConfigError(path, ["is empty; give a PEM file"])
    except OSError as error:
        raise ConfigError(path, [f"can't be read: {error.strerror}; check the path and its permissions"]) from None


class _PasswordNeeded(Exception):
    """The private key file is encrypted."""


def _load_own_chain(context: ssl.SSLContext, identity: Identity) -> None:
    def refuse() -> str:  # without it OpenSSL would ask at the terminal
        raise _PasswordNeeded

    try:
        context.load_cert_chain(str(identity.certificate), str(identity.private_key), password=refuse)
    except _PasswordNeeded:
        sentence = "is protected by a password; links need a key file without one, readable by its owner only"
        raise ConfigError(identity.private_key, [sentence]) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            sentence = f"is not the key of {identity.certificate}; give the certificate and key that belong together"
            raise ConfigError(identity.private_key, [sentence]) from None
        sentence = f"can't be used together with the key {identity.private_key}: {_reason(error)}; both must be PEM"
        raise ConfigError(identity.certificate, [sentence]) from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "not valid PEM").lower().replace("_", " ")


def peer_identity(peercert: Mapping[str, Any]) -> str:
    """Who a verified peer is, from `SSLObject.getpeercert()`: its first URI name, else "CN=..." of its subject.

    Raises ValueError when the certificate has neither, or there is none, or the name could be read as another; such a
    peer must be refused.
    """
    for kind, value in peercert.get("subjectAltName", ()):
        if kind == "URI" and value:
            if _URI.match(value) is None:
                raise ValueError(f"the URI name {value!r} in the peer's certificate is not a URI")
            return str(value)
    for relative_name in peercert.get("subject", ()):
        for kind, value in relative_name:
            if kind == "commonName" and value:
                if not value.isprintable():
                    raise ValueError(f"the common name {value!r} in the peer's certificate has control characters")
                return f"CN={value}"
    raise ValueError("the peer's certificate has no URI name and no common name; issue one that says who it is")
