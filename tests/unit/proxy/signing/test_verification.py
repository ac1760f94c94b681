"""Signatures are verified as TLS would, and as often as the policy wants."""

from __future__ import annotations

from random import Random

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import _util

from hsm.wire.schemes import KeyFamily, Scheme
from proxy.base.policy import Verify
from proxy.signing.verification import PROVEN_AFTER, SAMPLE_BITS, KeyVerifier, NodeTrust, make_verifiers
from tests.support import pki
from tests.support.fake_node import FakeKey

KINDS = {KeyFamily.EC: ["p256", "p384", "p521"], KeyFamily.RSA: ["rsa-2048"], KeyFamily.ED25519: ["ed25519"]}
CASES = [(kind, scheme) for scheme in Scheme for kind in KINDS[scheme.family]]
KEY = FakeKey.make()
VERIFIER = KeyVerifier(KEY.public_pem)
EC, RSA = Scheme.ECDSA_SHA256, Scheme.RSA_PSS_SHA256


@pytest.mark.parametrize(("kind", "scheme"), CASES, ids=lambda value: getattr(value, "name", value))
def test_a_signature_is_good_for_its_message_scheme_and_key_only(kind: str, scheme: Scheme) -> None:
    key, other = FakeKey.make(kind), FakeKey.make(kind, number=1)
    signature = pki.sign(key.key, scheme, b"message")
    verifier = KeyVerifier(key.public_pem)
    assert verifier.is_good(scheme, b"message", signature)
    assert not verifier.is_good(scheme, b"message!", signature)
    assert not KeyVerifier(other.public_pem).is_good(scheme, b"message", signature)
    for wrong in set(Scheme) - {scheme}:
        assert not verifier.is_good(wrong, b"message", signature)


@given(st.binary(max_size=300), st.sampled_from(Scheme))
def test_any_bytes_can_be_judged(signature: bytes, scheme: Scheme) -> None:
    assert not VERIFIER.is_good(scheme, b"message", signature)


def test_a_wrong_signature_leaves_no_error_for_the_next_handshake() -> None:
    wrong = {kind: (pki.sign(FakeKey.make(kind, number=1).key, scheme, b"m"), scheme) for kind, scheme in CASES}
    for kind, (signature, scheme) in wrong.items():
        for bad in (signature, signature[:-1], signature[:3] + b"\xff" + signature[4:]):
            assert not KeyVerifier(FakeKey.make(kind).public_pem).is_good(scheme, b"m", bad)
            assert _util.lib.ERR_peek_error() == 0


def test_keys_of_other_kinds_are_refused() -> None:
    public = x25519.X25519PrivateKey.generate().public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="signs no TLS handshake"):
        KeyVerifier(pem)


def test_verifiers_are_found_by_key() -> None:
    [(ski, verifier)] = make_verifiers({KEY.ski: KEY.public_pem}).items()
    assert ski == KEY.ski
    assert verifier.is_good(EC, b"m", pki.sign(KEY.key, EC, b"m"))


def share(trust: NodeTrust, scheme: Scheme = EC, ski: bytes = KEY.ski, count: int = 3200) -> float:
    return sum(trust.must_verify(ski, scheme) for _ in range(count)) / count


@pytest.mark.parametrize(("mode", "wanted"), [("always", 1.0), ("never", 0.0)])
def test_always_and_never_mean_it(mode: Verify, wanted: float) -> None:
    trust = NodeTrust(mode, Random(1))
    for _ in range(PROVEN_AFTER * 2):
        trust.was_good(KEY.ski)
    assert share(trust) == wanted
    trust.forget()
    assert share(trust) == share(trust, RSA) == wanted


def test_a_sample_is_verified_of_a_node_that_has_proven_itself() -> None:
    trust = NodeTrust("sampled", Random(1))
    for _ in range(PROVEN_AFTER):
        assert share(trust, count=50) == 1.0
        trust.was_good(KEY.ski)
    assert share(trust) == pytest.approx(1 / (1 << SAMPLE_BITS), rel=0.3)
    assert share(trust, ski=b"another key of it...") == 1.0
    trust.forget()
    assert share(trust) == 1.0


def test_rsa_signatures_are_never_left_to_chance() -> None:
    trust = NodeTrust("sampled", Random(1))
    for _ in range(PROVEN_AFTER):
        trust.was_good(KEY.ski)
    assert share(trust, RSA) == share(trust, Scheme.RSA_PKCS1_SHA256) == 1.0
