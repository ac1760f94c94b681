"""What answers mean, and which bytes can be a signature."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.wire.errors import ErrorCode
from hsm.wire.schemes import KeyFamily, Scheme
from proxy.base.errors import SigningReason
from proxy.signing.answers import is_plausible, reason_of
from tests.support import pki
from tests.support.fake_node import FakeKey

KINDS = {KeyFamily.EC: ["p256", "p384", "p521"], KeyFamily.RSA: ["rsa-2048"], KeyFamily.ED25519: ["ed25519"]}
CASES = [(kind, scheme) for scheme in Scheme for kind in KINDS[scheme.family]]


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_reason(code: ErrorCode) -> None:
    assert reason_of(code) in SigningReason


def test_codes_that_mean_something_of_their_own() -> None:
    assert reason_of(ErrorCode.BUSY) is SigningReason.BUSY
    assert reason_of(ErrorCode.KEY_NOT_FOUND) is SigningReason.KEY_NOT_FOUND
    assert reason_of(ErrorCode.CRYPTOGRAPHY) is SigningReason.NODE_ERROR


@pytest.mark.parametrize(("kind", "scheme"), CASES, ids=lambda value: getattr(value, "name", value))
def test_real_signatures_are_plausible(kind: str, scheme: Scheme) -> None:
    key = pki.shared_key(kind)
    for number in range(8):
        assert is_plausible(scheme, pki.sign(key, scheme, b"message %d" % number))


@given(st.binary(max_size=200), st.sampled_from(Scheme))
def test_any_bytes_can_be_judged(data: bytes, scheme: Scheme) -> None:
    is_plausible(scheme, data)


@pytest.mark.parametrize("signature", [b"", b"\x30", b"\x30\x81", b"no signature at all", bytes(64), bytes(8)])
def test_other_bytes_are_no_ecdsa_signature(signature: bytes) -> None:
    assert not is_plausible(Scheme.ECDSA_SHA256, signature)


def test_an_answer_of_another_kind_of_key_is_not_plausible() -> None:
    key = FakeKey.make("p256")
    ecdsa = key.sign(Scheme.ECDSA_SHA256, bytes(32))
    assert not is_plausible(Scheme.ED25519, ecdsa)
    assert not is_plausible(Scheme.RSA_PSS_SHA256, ecdsa)
    assert not is_plausible(Scheme.RSA_PSS_SHA256, bytes(255))
