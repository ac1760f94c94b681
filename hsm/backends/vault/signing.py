"""Which schemes a key can sign, and how. The hot path: everything that can be made ahead is made ahead."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, AsymmetricPadding, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from hsm.backends.base import Cost
from hsm.backends.vault.keys import PrivateKey
from hsm.wire.schemes import KeyFamily, KeyType, Scheme

Sign = Callable[[bytes], bytes]

_HASHES: dict[str, HashAlgorithm] = {"sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}
_CHEAP = frozenset((KeyType.P256, KeyType.ED25519))


def cost_of(type_: KeyType) -> Cost:
    """P-256 and Ed25519 take some 20 to 50 us; P-384 and up take several hundred, RSA more."""
    return "cheap" if type_ in _CHEAP else "dear"


def signers_of(key: PrivateKey) -> Mapping[Scheme, Sign]:
    """A function for each scheme the key can sign; it takes what `Scheme.payload_of` gives."""
    if isinstance(key, RSAPrivateKey):
        return {scheme: _rsa(key, scheme) for scheme in Scheme if scheme.family is KeyFamily.RSA}
    if isinstance(key, EllipticCurvePrivateKey):
        return {scheme: _ecdsa(key, scheme) for scheme in Scheme if scheme.family is KeyFamily.EC}
    return {Scheme.ED25519: key.sign}


def _hash(scheme: Scheme) -> HashAlgorithm:
    assert scheme.digest is not None
    return _HASHES[scheme.digest]


def _rsa(key: RSAPrivateKey, scheme: Scheme) -> Sign:
    algorithm = _hash(scheme)
    prehashed = Prehashed(algorithm)
    # RFC 8446 4.2.3: the salt is as long as the digest, MGF1 uses the same digest.
    padding: AsymmetricPadding = PSS(MGF1(algorithm), PSS.DIGEST_LENGTH) if scheme.is_pss else PKCS1v15()
    return lambda digest: key.sign(digest, padding, prehashed)


def _ecdsa(key: EllipticCurvePrivateKey, scheme: Scheme) -> Sign:
    algorithm = ECDSA(Prehashed(_hash(scheme)))
    return lambda digest: key.sign(digest, algorithm)
