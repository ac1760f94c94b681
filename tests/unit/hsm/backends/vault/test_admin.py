from __future__ import annotations

import inspect
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from msgspec.structs import replace

from hsm.backends.attributes import KeyAttributes, KeyState, Purpose, Usage
from hsm.backends.vault import VaultAdmin, VaultBackend, VaultError, VaultReason
from hsm.backends.vault.keys import KeyRecord, PrivateKey
from hsm.store.store import Store
from hsm.wire.schemes import KeyType, Scheme


def pem_of(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("type_", [KeyType.RSA_2048, KeyType.P256, KeyType.P384, KeyType.P521, KeyType.ED25519])
def test_each_type_is_generated_listed_certified_and_destroyed(type_: KeyType, admin: VaultAdmin) -> None:
    made = admin.generate(type_, "www")
    assert admin.list() == [made]
    assert (made.type, made.label, made.imported, len(made.ski)) == (type_, "www", False, 20)
    assert made.public_key.startswith("-----BEGIN PUBLIC KEY-----")
    assert abs(made.created - datetime.now(UTC)) < timedelta(minutes=1)
    request = x509.load_pem_x509_csr(admin.csr("www", "CN=www.example,O=Example", ["www.example", "10.0.0.1"]))
    assert request.is_signature_valid
    assert x509.SubjectKeyIdentifier.from_public_key(request.public_key()).digest == made.ski
    assert request.subject.rfc4514_string() == "CN=www.example,O=Example"
    certificate = x509.load_pem_x509_certificate(admin.self_sign(made.ski, "www.example", ["www.example"], 30))
    certificate.verify_directly_issued_by(certificate)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc < timedelta(days=30)
    assert admin.destroy(made.ski.hex()) == made
    assert admin.list() == []
    with pytest.raises(VaultError) as caught:
        admin.get("www")
    assert caught.value.reason is VaultReason.NOT_FOUND


def test_the_slow_sizes_are_generated_too(admin: VaultAdmin) -> None:
    for type_ in (KeyType.RSA_3072, KeyType.RSA_4096):
        admin.generate(type_, type_.value)
    assert [record.type for record in admin.list()] == [KeyType.RSA_3072, KeyType.RSA_4096]


def test_keys_are_found_by_label_hex_and_bytes(admin: VaultAdmin) -> None:
    made = admin.generate(KeyType.P256, "www")
    for reference in ("www", made.ski, made.ski.hex(), made.ski.hex().upper()):
        assert admin.get(reference) == made
    for reference in ("nope", b"x" * 20, b"", "ab" * 20):
        with pytest.raises(VaultError, match="the vault has no key"):
            admin.get(reference)
    with pytest.raises(VaultError, match="is not a label"):
        admin.get("../etc")


def test_a_label_names_one_key_only(admin: VaultAdmin, other_store: Store) -> None:
    admin.generate(KeyType.P256, "www")
    with pytest.raises(VaultError, match="a key labelled 'www' exists already") as caught:
        VaultAdmin(other_store).generate(KeyType.P256, "www")
    assert caught.value.reason is VaultReason.EXISTS
    admin.destroy("www")
    again = admin.generate(KeyType.P256, "www")
    assert admin.list() == [again]


def test_two_who_choose_one_label_at_once_do_not_both_get_it(
    admin: VaultAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.generate(KeyType.P256, "www")
    monkeypatch.setattr(admin, "_refuse_taken", lambda _label: None)  # as if the other came in between
    with pytest.raises(VaultError, match="a key labelled 'www' exists already"):
        admin.generate(KeyType.P256, "www")
    assert len(admin.list()) == 1


def test_imported_keys_are_flagged_for_ever(admin: VaultAdmin, other_store: Store) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    made = admin.import_pem(pem_of(key), None, "legacy")
    assert made.imported
    assert [record.imported for record in VaultAdmin(other_store).list()] == [True]
    with pytest.raises(VaultError, match="in the vault already, as 'legacy'"):
        admin.import_pem(pem_of(key), None, "again")
    with pytest.raises(VaultError, match="exists already"):
        admin.import_pem(pem_of(ec.generate_private_key(ec.SECP256R1())), None, "legacy")
    assert len(admin.list()) == 1


def test_what_makes_no_sense_is_refused_before_anything_changes(admin: VaultAdmin, store: Store) -> None:
    admin.generate(KeyType.P256, "www")
    before = store.revision()
    for call in (
        lambda: admin.generate(KeyType.P256, "a b"),
        lambda: admin.generate(KeyType.RSA_OTHER, "x"),
        lambda: admin.import_pem(b"junk", None, "x"),
        lambda: admin.csr("www", "", ["a"]),
        lambda: admin.csr("www", "CN=a", []),
        lambda: admin.csr("www", "CN=a", ["not a name"]),
        lambda: admin.self_sign("www", "CN=a", ["a"], 0),
        lambda: admin.self_sign("www", "CN=a", ["a"], 398),
    ):
        with pytest.raises(VaultError) as caught:
            call()
        assert caught.value.reason is VaultReason.INVALID
    assert store.revision() == before


def test_a_self_signed_certificate_satisfies_a_verifier(admin: VaultAdmin) -> None:
    admin.generate(KeyType.P256, "www")
    certificate = x509.load_pem_x509_certificate(
        admin.self_sign("www", "www.example", ["www.example", "*.www.example"])
    )
    extensions = certificate.extensions
    assert extensions.get_extension_for_class(x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH]
    )
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    assert certificate.serial_number.bit_length() > 100


def test_a_key_that_was_tampered_with_is_named_and_the_others_work(admin: VaultAdmin, store: Store) -> None:
    bad, good = admin.generate(KeyType.P256, "bad"), admin.generate(KeyType.P256, "good")
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute(f"UPDATE records SET value = randomblob(300) WHERE path = 'keys/{bad.ski.hex()}'")
    assert admin.list() == [good]
    (sentence,) = admin.damaged()
    assert bad.ski.hex() in sentence
    with pytest.raises(VaultError, match=bad.ski.hex()) as caught:
        admin.csr("bad", "CN=a", ["a"])
    assert caught.value.reason is VaultReason.TAMPERED
    assert admin.csr("good", "CN=a", ["a"])


def test_errors_of_the_store_are_sentences_of_the_vault(admin: VaultAdmin, store: Store) -> None:
    store.close()
    with pytest.raises(VaultError, match="was closed") as caught:
        admin.list()
    assert caught.value.reason is VaultReason.INVALID


def retired(record: KeyRecord) -> KeyAttributes:
    return replace(record.attributes, state=KeyState.RETIRED)


def test_attributes_are_kept_with_the_key(admin: VaultAdmin, other_store: Store) -> None:
    said = KeyAttributes(
        purpose=Purpose.CA, schemes=("ecdsa_sha256",), not_after=datetime(2040, 1, 1, tzinfo=UTC), max_rate=0.5
    )
    made = admin.generate(KeyType.P256, "made", said)
    taken = admin.import_pem(pem_of(ec.generate_private_key(ec.SECP256R1())), None, "taken", said)
    assert made.attributes == taken.attributes == said
    other = VaultAdmin(other_store)
    assert {record.label: record.attributes for record in other.list()} == {"made": said, "taken": said}
    changed = other.change("made", retired)
    assert changed.attributes == replace(said, state=KeyState.RETIRED)
    assert admin.get("made") == changed
    assert (changed.ski, changed.created, changed.public_key) == (made.ski, made.created, made.public_key)
    assert admin.csr("made", "CN=a", []), "it is the same key"


def test_keys_of_older_versions_open_with_the_defaults(admin: VaultAdmin, store: Store) -> None:
    made = admin.generate(KeyType.P256, "old")
    value = store.get(f"keys/{made.ski.hex()}").value
    assert b"attributes" not in value, "what says nothing new looks as it always did"
    assert admin.get("old").attributes == KeyAttributes()
    admin.change("old", retired)
    assert b"attributes" in store.get(f"keys/{made.ski.hex()}").value


def test_what_a_change_refuses_changes_nothing(admin: VaultAdmin, store: Store) -> None:
    made = admin.generate(KeyType.P256, "www")
    before = store.revision()

    def refuse(_: KeyRecord) -> KeyAttributes:
        raise LookupError("no")

    with pytest.raises(LookupError):
        admin.change("www", refuse)
    with pytest.raises(VaultError, match="a p256 key can't sign ed25519") as caught:
        admin.change("www", lambda _: KeyAttributes(schemes=("ed25519",)))
    assert caught.value.reason is VaultReason.INVALID
    with pytest.raises(VaultError, match="no key 'none'"):
        admin.change("none", retired)
    with pytest.raises(VaultError, match="'dsa' is no scheme"):
        admin.generate(KeyType.P256, "x", KeyAttributes(schemes=("dsa",)))
    pem = pem_of(ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(VaultError, match="can't sign ecdsa_sha256"):
        admin.import_pem(pem, None, "x", KeyAttributes(schemes=("ecdsa_sha256",)))
    assert (admin.list(), store.revision()) == ([made], before)


def test_a_slower_change_is_made_again_on_what_the_faster_one_left(admin: VaultAdmin, other_store: Store) -> None:
    admin.generate(KeyType.P256, "www")
    other = VaultAdmin(other_store)
    seen: list[KeyAttributes] = []

    def slow(record: KeyRecord) -> KeyAttributes:
        seen.append(record.attributes)
        if len(seen) == 1:
            other.change("www", lambda record: replace(record.attributes, max_rate=7.0))
        return retired(record)

    assert admin.change("www", slow).attributes == KeyAttributes(state=KeyState.RETIRED, max_rate=7.0)
    assert seen == [KeyAttributes(), KeyAttributes(max_rate=7.0)]


def test_a_change_that_nothing_differs_by_still_overtakes_slower_ones(admin: VaultAdmin, other_store: Store) -> None:
    admin.generate(KeyType.P256, "www")
    seen: list[KeyAttributes] = []

    def slow(record: KeyRecord) -> KeyAttributes:
        seen.append(record.attributes)
        if len(seen) == 1:
            VaultAdmin(other_store).change("www", lambda record: record.attributes)
        return record.attributes

    admin.change("www", slow)
    assert len(seen) == 2


def test_a_change_of_what_others_change_all_the_time_gives_up(admin: VaultAdmin, other_store: Store) -> None:
    admin.generate(KeyType.P256, "www")

    def always_late(record: KeyRecord) -> KeyAttributes:
        VaultAdmin(other_store).change("www", lambda record: record.attributes)
        return record.attributes

    with pytest.raises(VaultError, match="others change 'www' all the time") as caught:
        admin.change("www", always_late)
    assert caught.value.reason is VaultReason.CONFLICT


def test_a_key_that_is_destroyed_takes_its_use_along(admin: VaultAdmin, store: Store) -> None:
    a, b = admin.generate(KeyType.P256, "a"), admin.generate(KeyType.P256, "b")
    now = datetime.now(UTC)
    for node in ("node-1", "node-2"):
        admin.add_usage(node, {a.ski: Usage(1, now), b.ski: Usage(2, now)})
    before = store.revision()
    admin.destroy("a")
    assert store.revision() == before + 1, "all at once"
    assert admin.usage() == {b.ski: Usage(4, now)}


@pytest.mark.parametrize("purpose", Purpose)
def test_requests_and_certificates_suit_the_purpose(admin: VaultAdmin, purpose: Purpose) -> None:
    admin.generate(KeyType.P256, "k", KeyAttributes(purpose=purpose))
    names = ["a.example"] if purpose is Purpose.TLS_SERVER else []
    certificate = x509.load_pem_x509_certificate(admin.self_sign("k", "CN=a", names))
    certificate.verify_directly_issued_by(certificate)
    extensions = certificate.extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is (purpose is Purpose.CA)
    request = x509.load_pem_x509_csr(admin.csr("k", "CN=a", names))
    assert request.is_signature_valid


def private_parts(key: PrivateKey) -> list[bytes]:
    """Each secret number of a key, in the forms in which it could be given out."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        found = [numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp]
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        found = [key.private_numbers().private_value]
    else:
        found = [int.from_bytes(key.private_bytes_raw())]
    sizes = [(number.bit_length() + 7) // 8 for number in found]
    raw = [number.to_bytes(size) for number, size in zip(found, sizes, strict=True)]
    return [
        form for part in raw for form in (part, part[::-1], part.hex().encode(), str(int.from_bytes(part)).encode())
    ]


def everything_in(value: object) -> bytes:
    """All a caller could learn from a value: its repr, its fields, and the DER within PEM."""
    parts = [repr(value).encode(), str(value).encode()]
    if isinstance(value, bytes):
        parts.append(value)
        for loader in (x509.load_pem_x509_csr, x509.load_pem_x509_certificate):
            try:
                parts.append(loader(value).public_bytes(Encoding.DER))
            except ValueError:
                continue
    if isinstance(value, list | tuple):
        parts += [everything_in(item) for item in value]
    for name in getattr(value, "__dataclass_fields__", ()):
        parts.append(everything_in(getattr(value, name)))
    return b"\0".join(parts)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65537, 2048),
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_no_public_method_gives_out_private_bytes(make: Any, admin: VaultAdmin, store: Store) -> None:
    key = make()
    parts = private_parts(key)
    assert any(part in pem_and_der(key) for part in parts), "the search finds them where they are"
    backend = VaultBackend(store)
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    arguments: dict[object, dict[str, tuple[Any, ...]]] = {
        admin: {
            "generate": (KeyType.P256, "other"),
            "import_pem": (pem_of(key), None, "known"),
            "list": (),
            "damaged": (),
            "get": ("known",),
            "csr": ("known", "CN=a", ["a.example"]),
            "self_sign": ("known", "CN=a", ["a.example"], 30),
            "change": ("known", lambda record: record.attributes),
            "add_usage": ("node-1", {ski: Usage(1, datetime.now(UTC))}),
            "usage": (),
            "destroy": ("known",),
        },
        backend: {
            "refresh": (),
            "keys": (),
            "cost": (ski,),
            "attributes_of": (ski,),
            "sign": (ski, next(s for s in Scheme if s.family in ("rsa", "ec", "ed25519") and fits(key, s)), b"d" * 32),
            "revision": (),
            "damaged": (),
            "close": (),
        },
    }
    order = [
        (admin, "import_pem"), (backend, "refresh"), (backend, "keys"), (backend, "cost"), (backend, "sign"),
        (backend, "revision"), (backend, "damaged"), (backend, "attributes_of"), (admin, "generate"), (admin, "list"),
        (admin, "damaged"), (admin, "get"), (admin, "csr"), (admin, "self_sign"), (admin, "change"),
        (admin, "add_usage"), (admin, "usage"), (admin, "destroy"), (backend, "close"),
    ]  # fmt: skip
    for owner, calls in arguments.items():
        public = {name for name, _ in inspect.getmembers(type(owner)) if not name.startswith("_")}
        assert public == set(calls), "a new method must be walked here, too"
    seen = [repr(admin).encode(), repr(backend).encode()]
    for owner, name in order:
        member = getattr(owner, name)
        seen.append(everything_in(member(*arguments[owner][name]) if callable(member) else member))
        seen.append(everything_in(list(vars(owner).values())))
    everything = b"\0".join(seen)
    assert not [part for part in parts if part in everything]
    for name in os.listdir(store.path.parent):
        content = (store.path.parent / name).read_bytes()
        assert not [part for part in parts if part in content]


def fits(key: PrivateKey, scheme: Scheme) -> bool:
    if isinstance(key, rsa.RSAPrivateKey):
        return scheme is Scheme.RSA_PSS_SHA256
    return scheme is (Scheme.ECDSA_SHA256 if isinstance(key, ec.EllipticCurvePrivateKey) else Scheme.ED25519)


def pem_and_der(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
