from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from hsm.backends.vault import keys
from hsm.backends.vault.keys import PrivateKey
from hsm.backends.vault.signing import cost_of, signers_of
from hsm.wire.schemes import KeyFamily, KeyType, Scheme

MESSAGE = b"what the handshake says"
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
TYPES = [KeyType.RSA_2048, KeyType.P256, KeyType.P384, KeyType.P521, KeyType.ED25519]


@pytest.fixture(scope="module")
def made() -> dict[KeyType, PrivateKey]:
    return {type_: keys.generate(type_) for type_ in TYPES}


def verify(public: object, scheme: Scheme, signature: bytes, message: bytes) -> None:
    """Check with the message, not with the digest that was signed."""
    if isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(signature, message)
        return
    algorithm = HASHES[scheme.digest or ""]
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, message, ec.ECDSA(algorithm))
        return
    assert isinstance(public, rsa.RSAPublicKey)
    pss = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
    public.verify(signature, message, pss if scheme.is_pss else padding.PKCS1v15(), algorithm)


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("type_", TYPES)
def test_each_key_signs_exactly_the_schemes_of_its_family(
    type_: KeyType, scheme: Scheme, made: dict[KeyType, PrivateKey]
) -> None:
    key = made[type_]
    signers = signers_of(key)
    assert (scheme in signers) == (scheme.family is type_.family)
    if scheme not in signers:
        return
    signature = signers[scheme](scheme.payload_of(MESSAGE))
    verify(key.public_key(), scheme, signature, MESSAGE)
    with pytest.raises(InvalidSignature):
        verify(key.public_key(), scheme, signature, MESSAGE + b"!")


@pytest.mark.parametrize("bits", [2056, 3072])
def test_rsa_of_other_sizes_signs_every_rsa_scheme(bits: int) -> None:
    key = rsa.generate_private_key(65537, bits)
    for scheme, sign in signers_of(key).items():
        assert scheme.family is KeyFamily.RSA
        verify(key.public_key(), scheme, sign(scheme.payload_of(MESSAGE)), MESSAGE)


def test_only_the_fast_curves_are_cheap() -> None:
    assert {type_ for type_ in KeyType if cost_of(type_) == "cheap"} == {KeyType.P256, KeyType.ED25519}
