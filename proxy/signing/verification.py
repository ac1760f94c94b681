"""Whether a signature is the key's, and which signatures are worth asking that.

A node that signs wrongly is found by verifying with the public key of the site's certificate. Verifiers are made once
for each key; `cryptography` is imported when the first is made, because in a proxy process the OpenSSL provider must
be in place before. What verifying costs, and why the default samples, is in docs/signing.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from hsm.wire.schemes import KeyFamily, Scheme
from proxy.base.policy import Verify

PROVEN_AFTER = 64
"""Good signatures in a row after which only a sample of what a node signs with a key is verified."""
SAMPLE_BITS = 4
"""One signature in 2**SAMPLE_BITS is verified, drawn at random: a node can't know which."""


class KeyVerifier:
    """Verifies signatures of one key."""

    __slots__ = ("_invalid", "_key", "_terms")

    def __init__(self, public_key_pem: bytes) -> None:
        """ValueError if `public_key_pem` is no public key of a kind that signs TLS handshakes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization

        key = serialization.load_pem_public_key(public_key_pem)
        self._key: Any = key
        self._terms = _terms_of(key)
        self._invalid = InvalidSignature

    def is_good(self, scheme: Scheme, message: bytes, signature: bytes) -> bool:
        """Whether the key made `signature` over the whole `message` with `scheme`."""
        terms = self._terms.get(scheme)
        if terms is None:
            return False
        try:
            self._key.verify(signature, message, *terms)
        except self._invalid:
            return False
        return True


def make_verifiers(public_keys: Mapping[bytes, bytes]) -> dict[bytes, KeyVerifier]:
    """Verifiers by SKI, of public keys (PEM) by SKI."""
    return {ski: KeyVerifier(pem) for ski, pem in public_keys.items()}


def _terms_of(key: object) -> dict[Scheme, tuple[Any, ...]]:
    """By scheme, what the key's `verify` wants to know besides signature and message."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    digests = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
    terms: dict[Scheme, tuple[Any, ...]] = {}
    for scheme in Scheme:
        digest = digests.get(scheme.digest or "")
        if digest is None:
            if isinstance(key, ed25519.Ed25519PublicKey):
                terms[scheme] = ()
        elif scheme.family is KeyFamily.EC and isinstance(key, ec.EllipticCurvePublicKey):
            terms[scheme] = (ec.ECDSA(digest),)
        elif scheme.family is KeyFamily.RSA and isinstance(key, rsa.RSAPublicKey):
            # RFC 8446 4.2.3: the salt is as long as the digest.
            pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
            terms[scheme] = (pss if scheme.is_pss else padding.PKCS1v15(), digest)
    if not terms:
        raise ValueError("the public key is of a kind that signs no TLS handshake")
    return terms


class NodeTrust:
    """How far one node's signatures are believed unseen. Pure, but for chance."""

    __slots__ = ("_good", "_mode", "_rng")

    def __init__(self, mode: Verify, rng: Random) -> None:
        self._mode, self._rng = mode, rng
        self._good: dict[bytes, int] = {}

    def must_verify(self, ski: bytes, scheme: Scheme) -> bool:
        """Whether the signature that has just come is to be verified.

        RSA signatures always are, where any are: it is cheap, and a single faulty RSA signature that reaches a client
        can give the private key away (Boneh, DeMillo and Lipton 1997; found in TLS servers by Weimer in 2015).
        """
        if self._mode != "sampled":
            return self._mode == "always"
        return (
            scheme.family is KeyFamily.RSA
            or self._good.get(ski, 0) < PROVEN_AFTER
            or self._rng.getrandbits(SAMPLE_BITS) == 0
        )

    def was_good(self, ski: bytes) -> None:
        """A signature with this key was verified and is good."""
        self._good[ski] = self._good.get(ski, 0) + 1

    def forget(self) -> None:
        """The node has to prove itself again, with each of its keys."""
        self._good.clear()
