"""What is asked of a token when keys are made, and what it then does: real SoftHSM2, and a fake that does it badly."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509 import SubjectKeyIdentifier

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11 import key_making
from hsm.backends.pkcs11.cryptoki import Cryptoki, CryptokiError
from hsm.backends.pkcs11.messages import Failed, Import, KeysFound, ListKeys, Mac, ObjectMatch, Signed
from hsm.backends.pkcs11.objects import list_keys
from hsm.backends.pkcs11.results import Failure, Refused
from hsm.wire.schemes import KeyType, Scheme
from tests.support.fake_cryptoki import FakeCryptoki, certificate
from tests.support.softhsm import SoftToken
from tests.support.token_worker import ROOT, TokenWorker, expect

MADE = [KeyType.RSA_2048, KeyType.P256, KeyType.P384, KeyType.P521, KeyType.ED25519]
PROBE = """
import json, sys
from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11.cryptoki import Cryptoki, CryptokiError
from hsm.backends.pkcs11.structures import Attribute, MechanismCall
import ctypes

cryptoki = Cryptoki(sys.argv[1])
cryptoki.initialize()
slot = next(s for s in cryptoki.slots() if cryptoki.token_info(s).flags & c.CKF_TOKEN_INITIALIZED)
session = cryptoki.open_session(slot, read_write=True)
cryptoki.login(session, sys.stdin.read().encode())
names = {v: k for k, v in vars(c).items() if k.startswith("CKA_")}
out = []
for kind in (c.CKO_PRIVATE_KEY, c.CKO_SECRET_KEY):
    for handle in cryptoki.find(session, {c.CKA_CLASS: kind}):
        told = {names[k]: v.hex() for k, v in cryptoki.attributes(session, handle, names).items()}
        weaker = []
        for change in ({c.CKA_SENSITIVE: False}, {c.CKA_EXTRACTABLE: True}):
            try:
                cryptoki.set_attributes(session, handle, change)
                weaker.append(names[next(iter(change))])
            except CryptokiError:
                pass
        buffer = ctypes.create_string_buffer(4096)
        refused = {}
        for secret in (c.CKA_VALUE, c.CKA_PRIVATE_EXPONENT, c.CKA_PRIME_1, c.CKA_PRIME_2, c.CKA_EXPONENT_1,
                       c.CKA_EXPONENT_2, c.CKA_COEFFICIENT):
            wanted = (Attribute * 1)(Attribute(secret, ctypes.addressof(buffer), 4096))
            refused[names[secret]] = cryptoki._calls["C_GetAttributeValue"](session, handle, wanted, 1)
        raw = buffer.raw.strip(b"\\0").hex()
        out.append({"told": told, "weaker": weaker, "refused": refused, "raw": raw})
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    return SoftToken(tmp_path_factory.mktemp("token")).init()


@pytest.fixture(scope="module")
def owner(token: SoftToken) -> Iterator[TokenWorker]:
    with TokenWorker(token) as running:
        running.open()
        yield running


def private_keys() -> dict[KeyType, Any]:
    return {
        KeyType.RSA_2048: rsa.generate_private_key(65537, 2048),
        KeyType.RSA_OTHER: rsa.generate_private_key(3, 2056),
        KeyType.P256: ec.generate_private_key(ec.SECP256R1()),
        KeyType.P384: ec.generate_private_key(ec.SECP384R1()),
        # With zero bytes in front: the token must get them all.
        KeyType.P521: ec.derive_private_key(2**300 + secrets.randbits(256), ec.SECP521R1()),
        KeyType.ED25519: ed25519.Ed25519PrivateKey.generate(),
    }


def test_imported_keys_sign_like_the_originals(token: SoftToken) -> None:
    scheme_of = {"rsa": Scheme.RSA_PKCS1_SHA256, "ec": Scheme.ECDSA_SHA256, "ed25519": Scheme.ED25519}
    originals = private_keys()
    with TokenWorker(token) as running:
        running.open(sessions=1)
        found = {type_: running.import_key(key, f"imported-{type_.value}") for type_, key in originals.items()}
        for type_, key in found.items():
            public = originals[type_].public_key()
            assert key.type is type_
            assert key.public_key == public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            assert key.id == key.ski == SubjectKeyIdentifier.from_public_key(public).digest
            assert not key.is_local
            assert not key.is_extractable
            scheme = scheme_of[type_.family.value]
            made = running.sign(key.ski, str(scheme.value), scheme.payload_of(b"message"))
            _verify(public, made)
        listed = expect(running.ask(ListKeys(id=running.next_id())), KeysFound)
        assert {key.label for key in listed.keys} >= {f"imported-{type_.value}" for type_ in originals}
        assert listed.left_out == ()


def _verify(public: Any, signature: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    if isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(signature, b"message")
    elif isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, b"message", PKCS1v15(), SHA256())
    else:
        public.verify(signature, b"message", ec.ECDSA(SHA256()))


def test_no_private_byte_can_be_read_from_any_key(owner: TokenWorker, token: SoftToken) -> None:
    originals = private_keys()
    for type_ in MADE:
        owner.generate(type_, f"closed-{type_.value}")
    for type_, key in originals.items():
        owner.import_key(key, f"closed-import-{type_.value}")
    expect(owner.ask(Mac(id=owner.next_id(), label="closed-mac", data=b"", make=True)), Signed)
    run = subprocess.run(
        [sys.executable, "-c", PROBE, token.module],
        cwd=ROOT,
        env={**token.environment, "PATH": ""},
        input=token.pin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    objects = [
        found for found in json.loads(run.stdout) if bytes.fromhex(found["told"]["CKA_LABEL"]).startswith(b"closed-")
    ]
    assert len(objects) == len(MADE) + len(originals) + 1
    for found in objects:
        told = found["told"]
        assert (told["CKA_SENSITIVE"], told["CKA_EXTRACTABLE"], told["CKA_PRIVATE"]) == ("01", "00", "01")
        assert told["CKA_SIGN"] == "01"
        for never in ("CKA_DECRYPT", "CKA_UNWRAP", "CKA_SIGN_RECOVER", "CKA_DERIVE", "CKA_ENCRYPT", "CKA_WRAP"):
            assert told.get(never, "00") == "00", (never, told)
        for secret in ("CKA_VALUE", "CKA_PRIVATE_EXPONENT", "CKA_PRIME_1", "CKA_COEFFICIENT"):
            assert secret not in told
        assert found["weaker"] == []
        assert all(rv in (c.CKR_ATTRIBUTE_SENSITIVE, c.CKR_ATTRIBUTE_TYPE_INVALID) for rv in found["refused"].values())
        assert c.CKR_ATTRIBUTE_SENSITIVE in found["refused"].values()
        assert found["raw"] == ""


def test_generated_keys_were_never_out(owner: TokenWorker) -> None:
    made = owner.generate(KeyType.P256, "fresh")
    assert made.is_local
    assert not made.is_extractable
    assert load_der_public_key(made.public_key)


@pytest.mark.parametrize(
    ("pkcs8", "says"),
    [
        (b"", "no private key in PKCS#8"),
        (b"\x30\x03\x02\x01\x00", "no private key in PKCS#8"),
        ("secp256k1", "its curve is not"),
        ("rsa-1024", "1024 bits"),
        ("dsa", "keys must be RSA"),
    ],
)
def test_what_can_not_be_imported(owner: TokenWorker, pkcs8: bytes | str, says: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import x25519
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    if isinstance(pkcs8, str):
        key: Any = {
            "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
            "rsa-1024": lambda: rsa.generate_private_key(65537, 1024),
            "dsa": x25519.X25519PrivateKey.generate,
        }[pkcs8]()
        pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    failed = expect(owner.ask(Import(id=owner.next_id(), label="bad", private_key=pkcs8)), Failed)
    assert failed.kind == "invalid"
    assert says in failed.detail


def test_a_key_is_imported_once_and_labels_are_not_shared(owner: TokenWorker) -> None:
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    owner.import_key(key, "once")
    forms = Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    again = Import(id=owner.next_id(), label="twice", private_key=key.private_bytes(*forms))
    assert 'has this key already, with the label "once"' in expect(owner.ask(again), Failed).detail
    taken = Import(id=owner.next_id(), label="once", private_key=other.private_bytes(*forms))
    assert 'has a key with the label "once" already' in expect(owner.ask(taken), Failed).detail


class Weak:
    """A fake token whose library does something else than it is asked."""

    def __init__(self) -> None:
        self.library = FakeCryptoki()
        self.session = self.library.open_session(0, read_write=True)
        self.library.login(self.session, b"1234")

    def generate(self, label: str = "web") -> Any:
        return key_making.generate(cast("Cryptoki", self.library), self.session, KeyType.P256, label)


@pytest.fixture
def weak() -> Weak:
    return Weak()


@pytest.mark.parametrize(
    "weakened",
    [
        {c.CKA_EXTRACTABLE: True},
        {c.CKA_SENSITIVE: False},
        {c.CKA_PRIVATE: False},
        {c.CKA_SIGN: False},
        {c.CKA_DECRYPT: True},
        {c.CKA_UNWRAP: True},
        {c.CKA_DERIVE: True},
    ],
)
def test_a_token_that_makes_a_weaker_key_than_asked_keeps_nothing(weak: Weak, weakened: dict[int, bool]) -> None:
    weak.library.weakened = weakened
    with pytest.raises(Refused, match="was removed again") as caught:
        weak.generate()
    assert caught.value.failure is Failure.UNFIT
    assert weak.library.objects == {}


def test_a_token_that_does_not_know_an_attribute_is_asked_without_it(weak: Weak) -> None:
    weak.library.fail("C_GenerateKeyPair", c.CKR_ATTRIBUTE_TYPE_INVALID)
    weak.generate()
    (private,) = [told for told in weak.library.objects.values() if c.CKA_SENSITIVE in told]
    assert c.CKA_DECRYPT not in private
    assert (private[c.CKA_SENSITIVE], private[c.CKA_EXTRACTABLE], private[c.CKA_SIGN]) == (b"\1", b"\0", b"\1")
    weak.library.weakened = {c.CKA_DECRYPT: True}  # what it then grants unasked
    weak.library.fail("C_GenerateKeyPair", c.CKR_ATTRIBUTE_TYPE_INVALID)
    with pytest.raises(Refused, match="was removed again"):
        weak.generate("other")


@pytest.mark.parametrize("rv", [c.CKR_FUNCTION_FAILED, c.CKR_DEVICE_ERROR, c.CKR_MECHANISM_INVALID])
def test_a_token_that_can_not_is_not_asked_twice(weak: Weak, rv: int) -> None:
    weak.library.fail("C_GenerateKeyPair", rv)
    with pytest.raises(CryptokiError) as caught:
        weak.generate()
    assert caught.value.rv == rv
    assert weak.library.calls.count("C_GenerateKeyPair") == 1


def test_a_token_that_lets_no_id_be_set_keeps_the_first(weak: Weak) -> None:
    weak.library.fail("C_SetAttributeValue", c.CKR_ATTRIBUTE_READ_ONLY)
    key = weak.generate()
    assert len(key.found.id) == 16
    ids = {told[c.CKA_ID] for told in weak.library.objects.values()}
    assert ids == {key.found.id}


def test_both_objects_keep_the_same_id_when_only_one_can_be_set(weak: Weak) -> None:
    weak.library.fail("C_SetAttributeValue", c.CKR_OK, c.CKR_ATTRIBUTE_READ_ONLY)
    key = weak.generate()
    assert {told[c.CKA_ID] for told in weak.library.objects.values()} == {key.found.id}


def test_a_failure_after_the_generation_leaves_nothing(weak: Weak) -> None:
    weak.library.fail("C_SetAttributeValue", c.CKR_FUNCTION_FAILED)
    with pytest.raises(CryptokiError):
        weak.generate()
    assert weak.library.objects == {}


def test_of_two_who_take_a_label_at_once_one_gives_way(weak: Weak) -> None:
    honest = weak.library.generate_key_pair

    def race(*arguments: Any) -> tuple[int, int]:
        weak.library.add_p256("web", b"\7")
        return honest(*arguments)

    weak.library.generate_key_pair = race  # type: ignore[method-assign]
    with pytest.raises(Refused, match="was just given the label"):
        weak.generate()
    assert {told[c.CKA_ID] for told in weak.library.objects.values()} == {b"\7"}


@pytest.mark.parametrize("label", ["", "a\0b", "x" * 256, "tab\t"])
def test_labels_that_are_none(label: str) -> None:
    with pytest.raises(Refused, match="a label has 1 to 255 bytes"):
        key_making.check_label(label)


def test_a_wrapping_key_must_be_the_only_one(tmp_path: Path, weak: Weak) -> None:
    for _ in range(2):
        weak.library.add(c.CKO_SECRET_KEY, {c.CKA_LABEL: b"wrap"})
    with pytest.raises(Refused, match="2 secret keys"):
        key_making.mac(cast("Cryptoki", weak.library), weak.session, "wrap", b"", make=True)


def test_what_belongs_to_a_key_is_destroyed_with_it_and_nothing_else(weak: Weak) -> None:
    """Also where others have the same CKA_ID: the public key decides."""
    library, cryptoki = weak.library, cast("Cryptoki", weak.library)
    web = library.add_p256("web", b"\1")
    other = library.add_p256("other", b"\2")
    for key in (web, other):
        library.add(c.CKO_CERTIFICATE, {c.CKA_ID: b"\1", c.CKA_VALUE: certificate(key)})
    library.add(c.CKO_CERTIFICATE, {c.CKA_ID: b"\1", c.CKA_VALUE: b"not of X.509"})
    library.add(c.CKO_SECRET_KEY, {c.CKA_ID: b"\1"})
    listed = {key.found.label: key for key in list_keys(cryptoki, weak.session, ObjectMatch()).keys}
    key_making.destroy(cryptoki, weak.session, listed["web"])
    left = [(int.from_bytes(told[c.CKA_CLASS], sys.byteorder), told[c.CKA_ID]) for told in library.objects.values()]
    assert sorted(left) == sorted(
        [
            (c.CKO_PRIVATE_KEY, b"\2"),
            (c.CKO_PUBLIC_KEY, b"\2"),
            (c.CKO_CERTIFICATE, b"\1"),
            (c.CKO_CERTIFICATE, b"\1"),
            (c.CKO_SECRET_KEY, b"\1"),
        ]
    )
    with pytest.raises(Refused, match="not in the token any more"):
        key_making.destroy(cryptoki, weak.session, listed["web"])
