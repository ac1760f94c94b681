"""Bring Sealgate's OpenSSL provider into the OpenSSL that serves TLS, and name keys for it.

Does: load the provider (`install`), make key references and SKIs, set the function that gets signatures.
Does not: sign, talk to nodes, or read certificates. Importing this module does not import `cryptography`, because
OpenSSL reads its configuration once, when it is loaded: `install` must come first. See docs/provider.md.
"""

from __future__ import annotations

import base64
import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from proxy.tls import _provider
from proxy.tls.openssl_conf import ConfError, UserConf, merged_conf, read_user_conf

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

Upcall = Callable[[bytes, str, bytes], bytes]

PEM_LABEL = "SEALGATE KEY REFERENCE"
_OPENSSL_OF_THE_WHEEL = "cryptography.hazmat.bindings._rust"
_REFERENCE_VERSION = 1
_KIND_RSA, _KIND_ED25519 = 1, 5
_KIND_BY_CURVE = {"secp256r1": 2, "secp384r1": 3, "secp521r1": 4}
_PROBE_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
"""A public key that nobody signs with: the first Ed25519 test vector (RFC 8032 7.1)."""

_lock = threading.Lock()
_is_installed = False


class ProviderError(Exception):
    """The provider can't be used; the text is one sentence that says why and what to do."""


def install() -> None:
    """Load the provider into the OpenSSL of `cryptography`; must run before anything imports that.

    The standard library's ssl is loaded first, with the user's own OpenSSL configuration. The other OpenSSL then
    reads a configuration that includes the user's own and adds our provider; the environment is as before afterwards.
    Safe to call again. Raises ProviderError.
    """
    global _is_installed
    with _lock:
        if _is_installed:
            return
        if _OPENSSL_OF_THE_WHEEL not in sys.modules:
            _load_openssl()
        elif not _answers():
            raise ProviderError(
                "the cryptography package was imported before proxy.tls.provider.install() ran, so OpenSSL is loaded "
                "without Sealgate's provider; call install() first, before any import of cryptography or OpenSSL"
            )
        _is_installed = True


def is_installed() -> bool:
    """Whether `install` has succeeded in this process."""
    return _is_installed


def set_upcall(upcall: Upcall | None) -> Upcall | None:
    """Set what makes signatures, for the whole process, and return what did before.

    An upcall is a function (SKI, scheme name, whole message) -> signature; the name is the value of a
    `hsm.wire.schemes.Scheme`. It runs inside OpenSSL's signature call, with the GIL, and may switch greenlets. What it
    raises fails the signature and is kept for `take_error`. Without an upcall (None) signatures fail.
    """
    return _provider.set_upcall(upcall)


def take_error() -> BaseException | None:
    """Return and forget what the upcall last raised in this thread (or the error in what it returned)."""
    return _provider.take_error()


def ski_of(public_key: CertificatePublicKeyTypes) -> bytes:
    """The 20 bytes that name a key: SHA-1 of its subjectPublicKey (RFC 5280 4.2.1.2, method 1)."""
    from cryptography.x509 import SubjectKeyIdentifier

    return SubjectKeyIdentifier.from_public_key(public_key).digest


def key_reference(public_key: CertificatePublicKeyTypes) -> bytes:
    """A PEM that stands where a private key file would; it holds the SKI and the public key, nothing secret.

    Raises ProviderError for a key that Sealgate has no scheme for.
    """
    kind, public_part, exponent = _parts(public_key)
    return _reference(kind, ski_of(public_key), public_part, exponent)


def _parts(public_key: CertificatePublicKeyTypes) -> tuple[int, bytes, bytes]:
    """Kind, public part and RSA exponent as proxy/native describes them."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if isinstance(public_key, rsa.RSAPublicKey):
        numbers = public_key.public_numbers()
        return _KIND_RSA, _number(numbers.n), _number(numbers.e)
    if isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name in _KIND_BY_CURVE:
        point = public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return _KIND_BY_CURVE[public_key.curve.name], point, b""
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return _KIND_ED25519, public_key.public_bytes_raw(), b""
    curve = f" on {public_key.curve.name}" if isinstance(public_key, ec.EllipticCurvePublicKey) else ""
    raise ProviderError(
        f"a {type(public_key).__name__}{curve} can't sign here; use RSA, P-256, P-384, P-521 or Ed25519"
    )


def _number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _reference(kind: int, ski: bytes, public_part: bytes, exponent: bytes) -> bytes:
    sized = b"".join(len(part).to_bytes(2, "big") + part for part in (public_part, exponent))
    text = base64.b64encode(bytes([_REFERENCE_VERSION, kind]) + ski + sized).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {PEM_LABEL}-----", *lines, f"-----END {PEM_LABEL}-----", ""]).encode()


def _load_openssl() -> None:
    user = os.environ.get("OPENSSL_CONF") or None
    try:
        user_conf = read_user_conf(Path(user)) if user else UserConf()
        _load_stdlib_openssl(user)
        conf = merged_conf(user_conf, _module_path())
    except ConfError as error:
        raise ProviderError(str(error)) from None
    with _conf_file(conf) as path, _environment("OPENSSL_CONF", path):
        _import_wheel(user)
    if not _answers():
        raise ProviderError(_why_it_is_silent(user))
    if user is None and (own := _own_default_conf()).exists():
        raise ProviderError(
            f"{own} is the default configuration of this OpenSSL and would be passed over; "
            "set OPENSSL_CONF to it, then it is merged with Sealgate's, or remove it"
        )


def _load_stdlib_openssl(user: str | None) -> None:
    """Make the standard library's libcrypto read the user's configuration now, not ours later."""
    import hashlib
    import ssl

    try:
        hashlib.sha256(b"").digest()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    except (ValueError, OSError) as error:  # ssl.SSLError is an OSError
        raise ProviderError(
            f"Python's own OpenSSL does not work with the configuration {user or 'of this system'}: {error}; "
            "correct it or unset OPENSSL_CONF"
        ) from None


def _import_wheel(user: str | None) -> None:
    try:
        from OpenSSL import SSL

        SSL.Context(SSL.TLS_METHOD)
    except Exception as error:  # whatever a restricted OpenSSL makes of it
        raise ProviderError(
            f"cryptography can't be imported with the OpenSSL configuration {user or 'of this system'}: "
            f"{type(error).__name__}: {error}"
        ) from None


def _module_path() -> Path:
    path = Path(_provider.__file__).resolve()
    if not os.access(path, os.R_OK):
        raise ProviderError(f"{path} can't be read, so OpenSSL can't load the provider; fix its permissions")
    return path


@contextlib.contextmanager
def _conf_file(text: str) -> Iterator[str]:
    """A file that exists while OpenSSL reads it: in memory where the system can, so that no disk must be writable."""
    try:
        with contextlib.ExitStack() as stack:
            if sys.platform == "linux" and os.path.isdir("/proc/self/fd"):
                descriptor = os.memfd_create("sealgate-openssl-conf")
                file: IO[bytes] = stack.enter_context(open(descriptor, "wb"))
                name = f"/proc/self/fd/{descriptor}"
            else:
                file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".cnf"))
                name = file.name
            file.write(os.fsencode(text))
            file.flush()
            yield name
    except OSError as error:
        raise ProviderError(
            f"no temporary file for the OpenSSL configuration: {error}; point TMPDIR to a folder that can be written"
        ) from None


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _answers() -> bool:
    """Whether a key reference becomes a key, which only our provider can do."""
    from OpenSSL import crypto

    try:
        crypto.load_privatekey(crypto.FILETYPE_PEM, _reference(_KIND_ED25519, bytes(20), _PROBE_KEY, b""))
    except crypto.Error:
        return False
    return True


def _own_default_conf() -> Path:
    """The file that OpenSSL reads when OPENSSL_CONF is not set."""
    from OpenSSL import SSL

    folder = SSL.OpenSSL_version(SSL.OPENSSL_DIR).decode().partition('"')[2].rstrip('"')
    return Path(folder or "/") / "openssl.cnf"


def _why_it_is_silent(user: str | None) -> str:
    import ssl

    from OpenSSL import SSL

    if SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode() == ssl.OPENSSL_VERSION:
        return (
            f"cryptography shares {ssl.OPENSSL_VERSION} with Python's own ssl, so it is configured before Sealgate can "
            "be; install the cryptography wheel from PyPI, which brings an OpenSSL of its own"
        )
    if user:
        return (
            f"OpenSSL does not load Sealgate's provider together with the configuration {user} (from OPENSSL_CONF): it "
            "has an error or restricts which providers may be used; correct it or unset OPENSSL_CONF"
        )
    return f"OpenSSL does not load Sealgate's provider from {_module_path()}; is the file whole, and for this machine?"
