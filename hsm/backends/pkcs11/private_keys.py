"""Keys of a token in the shape in which `cryptography` wants private keys, so that its X.509 builders sign with them.

They sign through whoever knows the token, and give no private bytes: there are none here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias, cast

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm.backends.pkcs11.messages import FoundKey
from hsm.wire.schemes import KeyFamily, Scheme

Sign: TypeAlias = Callable[[Scheme, bytes], bytes]
"""Has the token sign a payload (`Scheme.payload_of`)."""
TokenPrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def private_key_of(key: FoundKey, sign: Sign) -> TokenPrivateKey:
    """The key as an object that signs messages through `sign`."""
    public = load_der_public_key(key.public_key)
    if key.type.family is KeyFamily.RSA:
        return TokenRsaKey(cast("rsa.RSAPublicKey", public), sign)
    if key.type.family is KeyFamily.EC:
        return TokenEcKey(cast("ec.EllipticCurvePublicKey", public), sign)
    return TokenEd25519Key(cast("ed25519.Ed25519PublicKey", public), sign)


def _stays() -> NoReturn:
    raise TypeError("the private key stays in its token")


def _scheme(family: KeyFamily, algorithm: object, *, is_pss: bool = False) -> Scheme:
    name = algorithm.name if isinstance(algorithm, HashAlgorithm) else ""
    for scheme in Scheme:
        if (scheme.family, scheme.digest, scheme.is_pss) == (family, name, is_pss):
            return scheme
    raise ValueError("tokens sign messages with SHA-256, SHA-384 or SHA-512")


class TokenRsaKey(rsa.RSAPrivateKey):
    """An RSA key in a token."""

    def __init__(self, public: rsa.RSAPublicKey, sign: Sign) -> None:
        self._public = public
        self._sign = sign

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._public.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        """Its public half."""
        return self._public

    def sign(self, data: Any, padding: padding.AsymmetricPadding, algorithm: object) -> bytes:
        """PKCS #1 v1.5, or PSS with a salt as long as the digest."""
        scheme = _scheme(KeyFamily.RSA, algorithm, is_pss=_is_pss(padding))
        return self._sign(scheme, scheme.payload_of(bytes(data)))

    def decrypt(self, ciphertext: bytes, padding: padding.AsymmetricPadding) -> bytes:
        """It only signs."""
        _stays()

    def private_numbers(self) -> rsa.RSAPrivateNumbers:
        """It does not leave its token."""
        _stays()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:
        """It does not leave its token."""
        _stays()

    def __copy__(self) -> TokenRsaKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> TokenRsaKey:
        return self


class TokenEcKey(ec.EllipticCurvePrivateKey):
    """An EC key in a token."""

    def __init__(self, public: ec.EllipticCurvePublicKey, sign: Sign) -> None:
        self._public = public
        self._sign = sign

    @property
    def curve(self) -> ec.EllipticCurve:
        """Its curve."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Bits of the curve."""
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Its public half."""
        return self._public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """ECDSA, in DER."""
        scheme = _scheme(KeyFamily.EC, signature_algorithm.algorithm)
        return self._sign(scheme, scheme.payload_of(bytes(data)))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """It only signs."""
        _stays()

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """It does not leave its token."""
        _stays()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:
        """It does not leave its token."""
        _stays()

    def __copy__(self) -> TokenEcKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> TokenEcKey:
        return self


class TokenEd25519Key(ed25519.Ed25519PrivateKey):
    """An Ed25519 key in a token."""

    def __init__(self, public: ed25519.Ed25519PublicKey, sign: Sign) -> None:
        self._public = public
        self._sign = sign

    def public_key(self) -> ed25519.Ed25519PublicKey:
        """Its public half."""
        return self._public

    def sign(self, data: Any) -> bytes:
        """RFC 8032."""
        return self._sign(Scheme.ED25519, bytes(data))

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:
        """It does not leave its token."""
        _stays()

    def private_bytes_raw(self) -> bytes:
        """It does not leave its token."""
        _stays()

    def __copy__(self) -> TokenEd25519Key:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> TokenEd25519Key:
        return self


def _is_pss(chosen: object) -> bool:
    if isinstance(chosen, padding.PSS):
        return True
    if isinstance(chosen, padding.PKCS1v15):
        return False
    raise ValueError("tokens sign with PKCS #1 v1.5 or PSS")
