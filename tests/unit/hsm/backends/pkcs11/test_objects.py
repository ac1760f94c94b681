from __future__ import annotations

from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import SubjectKeyIdentifier

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11.cryptoki import Cryptoki
from hsm.backends.pkcs11.messages import ObjectMatch
from hsm.backends.pkcs11.objects import FEW, Listing, find_key, list_keys
from hsm.backends.pkcs11.structures import Template
from hsm.wire.schemes import KeyType
from tests.support.fake_cryptoki import P256_PARAMETERS, FakeCryptoki, certificate, point_of

EC: Template = {c.CKA_KEY_TYPE: c.CKK_EC, c.CKA_EC_PARAMS: P256_PARAMETERS, c.CKA_SIGN: True}


class Place:
    """A fake token, logged in."""

    def __init__(self) -> None:
        self.library = FakeCryptoki()
        self.cryptoki = cast("Cryptoki", self.library)
        self.session = self.library.open_session(0)
        self.library.login(self.session, b"1234")

    def private(self, label: str, identifier: bytes, more: Template | None = None) -> None:
        self.library.add(c.CKO_PRIVATE_KEY, {**EC, c.CKA_LABEL: label.encode(), c.CKA_ID: identifier, **(more or {})})

    def public(self, identifier: bytes, key: EllipticCurvePrivateKey) -> None:
        self.library.add(c.CKO_PUBLIC_KEY, {**EC, c.CKA_ID: identifier, c.CKA_EC_POINT: point_of(key)})

    def list(self, wanted: ObjectMatch | None = None) -> Listing:
        return list_keys(self.cryptoki, self.session, wanted or ObjectMatch())


@pytest.fixture
def place() -> Place:
    return Place()


def ski(key: object) -> bytes:
    return SubjectKeyIdentifier.from_public_key(key.public_key()).digest  # type: ignore[attr-defined]


def spki(key: object) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]


def test_the_public_key_of_an_rsa_key_is_in_itself(place: Place) -> None:
    key = generate_rsa(65537, 2048)
    numbers = key.public_key().public_numbers()
    parts: Template = {
        c.CKA_KEY_TYPE: c.CKK_RSA,
        c.CKA_MODULUS: numbers.n.to_bytes(257, "big"),
        c.CKA_PUBLIC_EXPONENT: b"\1\0\1",
    }
    place.library.add(c.CKO_PRIVATE_KEY, {**parts, c.CKA_LABEL: b"rsa", c.CKA_ID: b"x", c.CKA_LOCAL: True})
    (found,) = place.list().keys
    assert (found.ski, found.found.type, found.found.public_key) == (ski(key), KeyType.RSA_2048, spki(key))
    assert (found.signature_bytes, found.found.is_local, found.found.is_extractable) == (256, True, False)


def test_a_private_key_that_tells_its_point(place: Place) -> None:
    key = generate_private_key(SECP256R1())
    place.private("web", b"", {c.CKA_EC_POINT: point_of(key)})
    assert [found.ski for found in place.list().keys] == [ski(key)]


def test_a_private_key_that_tells_its_public_key_info(place: Place) -> None:
    key = generate_private_key(SECP256R1())
    place.private("web", b"", {c.CKA_PUBLIC_KEY_INFO: spki(key)})
    assert [found.ski for found in place.list().keys] == [ski(key)]


def test_a_public_key_object_of_the_same_id(place: Place) -> None:
    key = place.library.add_p256("web", b"\7")
    place.library.add_p256("other", b"\x08")
    listing = place.list()
    assert {found.found.label: found.ski for found in listing.keys}["web"] == ski(key)
    assert listing.left_out == ()


def test_without_an_id_the_label_joins_them(place: Place) -> None:
    web, other = place.library.add_p256("web", b""), place.library.add_p256("other", b"")
    assert {found.found.label: found.ski for found in place.list().keys} == {"web": ski(web), "other": ski(other)}


def test_a_certificate_of_the_same_id(place: Place) -> None:
    key = generate_private_key(SECP256R1())
    place.private("web", b"\1")
    place.library.add(c.CKO_CERTIFICATE, {c.CKA_ID: b"\1", c.CKA_VALUE: b"broken"})
    place.library.add(c.CKO_CERTIFICATE, {c.CKA_ID: b"\1", c.CKA_VALUE: certificate(key)})
    assert [found.ski for found in place.list().keys] == [ski(key)]


def test_a_public_key_of_another_kind_is_not_taken(place: Place) -> None:
    place.private("web", b"\1")
    place.library.add(
        c.CKO_PUBLIC_KEY,
        {
            c.CKA_ID: b"\1",
            c.CKA_KEY_TYPE: c.CKK_RSA,
            c.CKA_MODULUS: b"\x80" + bytes(254) + b"\1",
            c.CKA_PUBLIC_EXPONENT: b"\3",
        },
    )
    assert "no public key" in place.list().left_out[0]


def test_a_public_key_on_another_curve_is_not_taken(place: Place) -> None:
    p384 = bytes.fromhex("06052b81040022")
    place.library.add(c.CKO_PRIVATE_KEY, {**EC, c.CKA_EC_PARAMS: p384, c.CKA_LABEL: b"web", c.CKA_ID: b"\1"})
    place.public(b"\1", generate_private_key(SECP256R1()))
    assert "no public key" in place.list().left_out[0]


def test_what_can_not_be_used_is_left_out_with_the_reason(place: Place) -> None:
    place.private("no-public", b"\1")
    place.private("no-name", b"")
    place.private("no-sign", b"\2", {c.CKA_SIGN: False})
    place.private("pin-always", b"\3", {c.CKA_ALWAYS_AUTHENTICATE: True})
    place.library.add(c.CKO_PRIVATE_KEY, {c.CKA_LABEL: b"dsa\n", c.CKA_KEY_TYPE: 1})
    place.library.add(c.CKO_PRIVATE_KEY, {})
    place.private(
        "secp256k1", b"\4", {c.CKA_EC_PARAMS: bytes.fromhex("06052b8104000a"), c.CKA_EC_POINT: b"\4" + bytes(64)}
    )
    place.private("two", b"\5")
    for _ in range(2):
        place.public(b"\5", generate_private_key(SECP256R1()))
    good = place.library.add_p256("good", b"\6")
    listing = place.list()
    assert [found.ski for found in listing.keys] == [ski(good)]
    text = "\n".join(sorted(listing.left_out))
    for line in (
        'the private key "no-public" (CKA_ID 01) has no public key',
        'the private key "no-sign" (CKA_ID 02) may not sign',
        'the private key "pin-always" (CKA_ID 03) wants the PIN before every signature',
        'the private key "dsa?" (CKA_ID empty) is neither RSA nor EC nor Ed25519',
        'the private key "" (CKA_ID empty) is neither',
        'the private key "secp256k1" (CKA_ID 04) is of no use here: its curve is not P-256',
        'the private key "two" (CKA_ID 05) shares its CKA_ID with several public keys',
    ):
        assert line in text
    assert len(listing.left_out) == 8


def test_the_same_key_twice_is_listed_once(place: Place) -> None:
    key = generate_private_key(SECP256R1())
    for identifier in (b"\1", b"\2"):
        place.library.add_p256("web", identifier, key=key)
    listing = place.list()
    assert len(listing.keys) == 1
    assert "twice" in listing.left_out[0]


def test_two_private_keys_of_one_id_and_one_public_key_can_not_be_told_apart(place: Place) -> None:
    """Whichever the public key belongs to: a signature might be the other one's."""
    key = place.library.add_p256("web", b"\1")
    (found,) = place.list().keys
    place.private("stranger", b"\1")
    listing = place.list()
    assert listing.keys == ()
    assert "one public key for both" in listing.left_out[0]
    assert find_key(place.cryptoki, place.session, found) is None, "nor when it has come since the listing"
    assert found.ski == ski(key)


@pytest.mark.parametrize("identifier", [True, False])
def test_a_token_with_many_keys_is_searched_a_few_times_only(place: Place, *, identifier: bool) -> None:
    """Each search looks at every object: one for each of a thousand keys takes SoftHSM2 40 s."""
    keys = {}
    for number in range(3 * FEW):
        label = f"web-{number}"
        keys[label] = ski(place.library.add_p256(label, bytes((number,)) if identifier else b""))
    alone = generate_private_key(SECP256R1())
    place.private("certified", b"cert")
    place.library.add(c.CKO_CERTIFICATE, {c.CKA_ID: b"cert", c.CKA_VALUE: certificate(alone)})
    place.private("", b"")
    place.library.calls.clear()
    listing = place.list()
    assert {found.found.label: found.ski for found in listing.keys} == {**keys, "certified": ski(alone)}
    assert len(listing.left_out) == 1
    assert place.library.calls.count("C_FindObjectsInit") <= 3


def test_keys_are_chosen_by_label_or_id(place: Place) -> None:
    web, api = place.library.add_p256("web", b"\1"), place.library.add_p256("api", b"\2")
    assert [key.ski for key in place.list(ObjectMatch(label="web")).keys] == [ski(web)]
    assert [key.ski for key in place.list(ObjectMatch(id=b"\2")).keys] == [ski(api)]
    assert place.list(ObjectMatch(label="web", id=b"\2")) == Listing((), ())


def test_objects_of_a_session_are_no_keys_of_the_token(place: Place) -> None:
    place.private("web", b"\1", {c.CKA_TOKEN: False, c.CKA_EC_POINT: point_of(generate_private_key(SECP256R1()))})
    assert place.list() == Listing((), ())


def test_a_key_is_found_again_among_those_of_its_id(place: Place) -> None:
    """Two keys share CKA_ID and label; each tells its own point."""
    keys = [generate_private_key(SECP256R1()) for _ in range(3)]
    for key in keys:
        place.private("web", b"\1", {c.CKA_EC_POINT: point_of(key)})
    for found in place.list().keys:
        handle = find_key(place.cryptoki, place.session, found)
        assert handle is not None
        told = place.library.attributes(place.session, handle, (c.CKA_EC_POINT,))
        assert told[c.CKA_EC_POINT] in {point_of(key) for key in keys if ski(key) == found.ski}


@pytest.mark.parametrize(("label", "identifier"), [("web", b""), ("", b"\1"), ("", b"")])
def test_keys_with_little_of_a_name_are_found(place: Place, label: str, identifier: bytes) -> None:
    key = generate_private_key(SECP256R1())
    place.private(label, identifier, {c.CKA_EC_POINT: point_of(key)})
    (found,) = place.list().keys
    assert find_key(place.cryptoki, place.session, found) is not None


def test_labels_that_are_no_utf8_are_shown_somehow(place: Place) -> None:
    place.library.add(
        c.CKO_PRIVATE_KEY, {**EC, c.CKA_LABEL: b"\xff\xfe", c.CKA_EC_POINT: point_of(generate_private_key(SECP256R1()))}
    )
    (found,) = place.list().keys
    assert found.label == b"\xff\xfe"
    assert found.found.label == "��"
    assert find_key(place.cryptoki, place.session, found) is not None
