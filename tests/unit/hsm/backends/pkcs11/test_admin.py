"""What an owner does with the keys of a SoftHSM2 token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)

from hsm.backends.attributes import KeyAttributes, KeyState, Purpose, Usage
from hsm.backends.base import KeyAdmin
from hsm.backends.book import Book
from hsm.backends.pkcs11 import admin as admin_module
from hsm.backends.pkcs11.admin import Pkcs11Admin
from hsm.backends.pkcs11.blocking_worker import BlockingWorker
from hsm.backends.pkcs11.messages import FoundKey, TokenMatch
from hsm.backends.pkcs11.pin import PinFile
from hsm.backends.pkcs11.problems import Pkcs11Problem, ProblemKind, WorkerProblem
from hsm.backends.pkcs11.results import Failure
from hsm.backends.pkcs11.settings import TokenSettings
from hsm.wire.schemes import KeyType
from tests.support.softhsm import SoftToken


def settings_of(token: SoftToken) -> TokenSettings:
    return TokenSettings(
        module=Path(token.module),
        token=TokenMatch(token=token.label),
        pin=PinFile(token.pin_file()),
        environment=token.environment,
    )


class Owned:
    """A token, its owner's tools, and how often a change was told."""

    def __init__(self, folder: Path) -> None:
        self.token = SoftToken(folder).init()
        self.settings = settings_of(self.token)
        self.book = Book(folder / "hsm.book")
        self.changes = 0
        self.admin = Pkcs11Admin(self.settings, self.book, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def refused(self, work: Callable[[], object]) -> Pkcs11Problem:
        with pytest.raises(Pkcs11Problem) as raised:
            work()
        assert self.token.pin not in str(raised.value)
        return raised.value


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Owned:
    """Without a node: every operation starts a worker of its own."""
    return Owned(tmp_path_factory.mktemp("token"))


@pytest.fixture(scope="module")
def owned(alone: Owned) -> Iterator[Owned]:
    """As within a node: what only looks or signs goes through a worker that runs anyway."""
    with BlockingWorker.open(alone.settings) as running:
        alone.admin = Pkcs11Admin(alone.settings, alone.book, alone._changed, running=running)
        yield alone


def test_a_worker_of_its_own_is_started_where_none_runs(alone: Owned) -> None:
    admin = Pkcs11Admin(alone.settings, alone.book)
    record = admin.generate(KeyType.P256, "alone")
    assert admin.list() == [record]
    assert x509.load_pem_x509_csr(admin.csr("alone", "CN=a.example", ["a.example"])).is_signature_valid
    admin.destroy("alone")


def test_a_key_is_made_listed_and_destroyed(owned: Owned) -> None:
    admin: KeyAdmin = owned.admin
    attributes = KeyAttributes(state=KeyState.INACTIVE, max_rate=5.0)
    before = owned.changes
    made = admin.generate(KeyType.P256, "made", attributes)
    assert owned.changes == before + 1
    assert (made.type, made.label, made.imported) == (KeyType.P256, "made", False)
    assert made.attributes == attributes
    assert made.created is not None
    assert abs(datetime.now(UTC) - made.created) < timedelta(minutes=1)
    public = load_pem_public_key(made.public_key.encode())
    assert x509.SubjectKeyIdentifier.from_public_key(public).digest == made.ski
    assert made in admin.list()
    assert admin.get("made") == admin.get(made.ski.hex()) == made
    assert admin.destroy("made") == made
    assert owned.changes == before + 2
    assert made.ski not in [record.ski for record in admin.list()]
    assert owned.book.entry(made.ski).created is None
    assert owned.refused(lambda: admin.get("made")).kind is ProblemKind.NOT_FOUND


@pytest.mark.parametrize("type_", [KeyType.RSA_2048, KeyType.P384, KeyType.ED25519])
def test_certificates_are_signed_in_the_token(owned: Owned, type_: KeyType) -> None:
    record = owned.admin.generate(type_, f"cert-{type_.value}")
    request = x509.load_pem_x509_csr(owned.admin.csr(record.label, "CN=example.com", ["example.com"]))
    assert request.is_signature_valid
    certificate = x509.load_pem_x509_certificate(
        owned.admin.self_sign(record.ski.hex(), "example.com", ["example.com", "127.0.0.1"], days=30)
    )
    certificate.verify_directly_issued_by(certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["example.com"]
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca


def test_the_purpose_decides_what_a_certificate_says(owned: Owned) -> None:
    owned.admin.generate(KeyType.P256, "ca", KeyAttributes(purpose=Purpose.CA))
    certificate = x509.load_pem_x509_certificate(owned.admin.self_sign("ca", "CN=Root", [], days=3650))
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign


@pytest.mark.parametrize("kind", ["rsa", "p256"])
def test_a_key_from_outside_is_flagged_for_ever(owned: Owned, kind: str) -> None:
    key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    assert "password" in owned.refused(lambda: owned.admin.import_pem(pem, None, f"in-{kind}")).sentence
    record = owned.admin.import_pem(pem, b"secret", f"in-{kind}")
    assert record.imported
    assert record.ski == x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    assert x509.load_pem_x509_csr(owned.admin.csr(f"in-{kind}", "a.example", ["a.example"])).is_signature_valid
    owned.book.forget(record.ski)
    assert owned.admin.get(f"in-{kind}").imported, "the token says so itself"


def test_a_key_that_is_in_the_token_twice_is_gone_when_it_is_destroyed(owned: Owned, tmp_path: Path) -> None:
    """Else the copy that is left would be a key about which nobody said anything: active."""
    pem = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    for number in ("c1", "c2"):
        what = ("--import", str(tmp_path / "key.pem"), "--label", f"copy-{number}", "--id", number)
        owned.token.util(*what, "--force", "--token", owned.token.label, "--pin", owned.token.pin)
    (record,) = [found for found in owned.admin.list() if found.label.startswith("copy-")]
    owned.admin.change(record.ski.hex(), lambda _: KeyAttributes(state=KeyState.RETIRED))
    assert owned.admin.destroy(record.ski.hex()).ski == record.ski
    assert record.ski not in [found.ski for found in owned.admin.list()]
    assert owned.book.attributes(record.ski) == KeyAttributes()


def test_the_same_key_is_not_imported_twice(owned: Owned) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    record = owned.admin.import_pem(pem, None, "once")
    owned.refused(lambda: owned.admin.import_pem(pem, None, "twice"))
    assert [found.label for found in owned.admin.list() if found.ski == record.ski] == ["once"]
    assert owned.admin.get("once").created is not None


@pytest.mark.parametrize(
    ("work", "kind", "word"),
    [
        (lambda admin: admin.generate(KeyType.P256, "no label"), ProblemKind.INVALID, "not a label"),
        (lambda admin: admin.generate(KeyType.P256, "a" * 40), ProblemKind.INVALID, "40 hex digits"),
        (lambda admin: admin.generate(KeyType.RSA_OTHER, "odd"), ProblemKind.INVALID, "can't be generated"),
        (
            lambda admin: admin.generate(KeyType.P256, "odd", KeyAttributes(schemes=("ed25519",))),
            ProblemKind.INVALID,
            "ed25519",
        ),
        (lambda admin: admin.import_pem(b"nonsense", None, "odd"), ProblemKind.INVALID, "PEM"),
        (lambda admin: admin.get("nothing"), ProblemKind.NOT_FOUND, "nothing"),
        (lambda admin: admin.get("0" * 40), ProblemKind.NOT_FOUND, "0" * 40),
        (lambda admin: admin.destroy("nothing"), ProblemKind.NOT_FOUND, "nothing"),
        (lambda admin: admin.csr("nothing", "CN=a", ["a"]), ProblemKind.NOT_FOUND, "nothing"),
        (lambda admin: admin.change("nothing", lambda record: record.attributes), ProblemKind.NOT_FOUND, "nothing"),
    ],
)
def test_what_is_wrong_is_said(
    owned: Owned, work: Callable[[Pkcs11Admin], object], kind: ProblemKind, word: str
) -> None:
    problem = owned.refused(lambda: work(owned.admin))
    assert problem.kind is kind
    assert word in problem.sentence


def test_bad_names_and_days_are_refused(owned: Owned) -> None:
    owned.admin.generate(KeyType.P256, "names")
    assert owned.refused(lambda: owned.admin.csr("names", "CN=a", ["not a name!"])).kind is ProblemKind.INVALID
    assert owned.refused(lambda: owned.admin.self_sign("names", "CN=a", ["a"], days=1000)).kind is ProblemKind.INVALID


def test_a_label_is_given_once(owned: Owned) -> None:
    owned.admin.generate(KeyType.P256, "taken")
    problem = owned.refused(lambda: owned.admin.generate(KeyType.P256, "taken"))
    assert problem.kind is ProblemKind.EXISTS


def test_two_keys_of_one_label_are_named_by_their_skis() -> None:
    # Sealgate makes no such keys, but others may have.
    keys = [FoundKey(bytes([number]) * 20, KeyType.P256, "twin", b"", b"", True, False) for number in (1, 2)]
    with pytest.raises(Pkcs11Problem) as raised:
        admin_module._the_key(keys, "twin")
    assert raised.value.kind is ProblemKind.INVALID
    assert all(key.ski.hex() in raised.value.sentence for key in keys)
    assert admin_module._the_key(keys, keys[1].ski.hex()) is keys[1]


def test_attributes_are_changed(owned: Owned) -> None:
    record = owned.admin.generate(KeyType.P256, "changed")
    retired = KeyAttributes(state=KeyState.RETIRED)
    seen = []

    def change(found: object) -> KeyAttributes:
        seen.append(found)
        return retired

    assert owned.admin.change("changed", change).attributes == retired
    assert seen == [record]
    assert owned.admin.get("changed").attributes == retired

    def refuse(found: object) -> KeyAttributes:
        raise LookupError("not this one")

    with pytest.raises(LookupError):
        owned.admin.change("changed", refuse)
    wrong = KeyAttributes(schemes=("rsa_pss_sha256",))
    assert owned.refused(lambda: owned.admin.change("changed", lambda _: wrong)).kind is ProblemKind.INVALID
    assert owned.admin.get("changed").attributes == retired


def test_use_is_counted_for_keys_that_are_there(owned: Owned) -> None:
    record = owned.admin.generate(KeyType.P256, "used")
    now = datetime(2026, 1, 2, tzinfo=UTC)
    owned.admin.add_usage("node-1", {record.ski: Usage(3, now), b"?" * 20: Usage(7, now)})
    owned.admin.add_usage("node-2", {record.ski: Usage(2, None)})
    owned.admin.add_usage("node-2", {})
    assert owned.admin.usage()[record.ski] == Usage(5, now)
    assert b"?" * 20 not in owned.admin.usage()
    owned.admin.destroy("used")
    assert record.ski not in owned.admin.usage()


def test_use_is_counted_while_the_token_is_away(tmp_path: Path) -> None:
    class Away:
        def ask(self, request: object) -> NoReturn:
            raise WorkerProblem(Failure.BUSY, "the token is not up")

    settings = TokenSettings(module=Path("/none.so"), pin=None)
    admin = Pkcs11Admin(settings, Book(tmp_path / "book"), running=Away())
    admin.add_usage("node-1", {b"k" * 20: Usage(3, None)})
    assert admin.usage() == {b"k" * 20: Usage(3, None)}
    with pytest.raises(Pkcs11Problem, match="not up"):
        admin.list()


def test_a_key_whose_attributes_can_not_be_kept_does_not_stay(owned: Owned, tmp_path: Path) -> None:
    book = Book(tmp_path / "no" / "such" / "folder" / "book")
    admin = Pkcs11Admin(owned.settings, book)
    before = {record.ski for record in owned.admin.list()}
    assert owned.refused(lambda: admin.generate(KeyType.P256, "lost")).kind is ProblemKind.UNAVAILABLE
    assert {record.ski for record in owned.admin.list()} == before


def test_a_wrong_pin_is_tried_once(tmp_path: Path) -> None:
    owned = Owned(tmp_path)
    (tmp_path / "pin").write_text("wrong-pin\n")
    for _ in range(5):
        assert owned.refused(owned.admin.list).kind is ProblemKind.UNAVAILABLE
    (tmp_path / "pin").write_text(owned.token.pin + "\n")
    assert owned.admin.list() == [], "it is not locked"


def test_records_show_no_private_bytes() -> None:
    assert admin_module.TokenKeyRecord.__slots__ == (
        "ski", "type", "label", "created", "imported", "public_key", "attributes"
    )  # fmt: skip
