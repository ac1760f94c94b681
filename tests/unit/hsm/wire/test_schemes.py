"""Schemes: what is signed, and by which keys."""

from __future__ import annotations

import hashlib

import pytest

from hsm.wire.schemes import SCHEME_BY_NAME, SCHEME_BY_OPCODE, KeyFamily, KeyType, Scheme


def test_schemes_are_found_by_opcode_and_name() -> None:
    assert all(SCHEME_BY_OPCODE[scheme.opcode] is scheme for scheme in Scheme)
    assert all(SCHEME_BY_NAME[scheme.value] is scheme for scheme in Scheme)
    assert len(SCHEME_BY_OPCODE) == len(SCHEME_BY_NAME) == len(Scheme) == 10


@pytest.mark.parametrize("scheme", list(Scheme))
def test_the_payload_is_the_digest_of_the_message(scheme: Scheme) -> None:
    payload = scheme.payload_of(b"a message")
    if scheme is Scheme.ED25519:
        assert payload == b"a message"
        assert scheme.payload_bytes is None
    else:
        assert payload == hashlib.new(str(scheme.digest), b"a message").digest()
        assert len(payload) == scheme.payload_bytes


def test_families_of_key_types() -> None:
    assert KeyType.RSA_OTHER.family is KeyFamily.RSA
    assert KeyType.P521.family is KeyFamily.EC
    assert KeyType.ED25519.family is KeyFamily.ED25519
    assert {scheme.family for scheme in Scheme if scheme.is_pss} == {KeyFamily.RSA}
