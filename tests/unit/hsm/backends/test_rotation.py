from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from hsm.backends.attributes import KeyAttributes, KeyState, Purpose, Usage
from hsm.backends.book import Book
from hsm.backends.lifecycle import LifecycleProblem, run_due, scheduled
from hsm.backends.pkcs11.admin import Pkcs11Admin
from hsm.backends.pkcs11.blocking_worker import BlockingWorker
from hsm.backends.pkcs11.messages import TokenMatch
from hsm.backends.pkcs11.pin import PinFile
from hsm.backends.pkcs11.settings import TokenSettings
from hsm.backends.rotation import Names, rotate
from hsm.backends.vault import VaultAdmin, VaultError, VaultReason
from hsm.backends.x509_forms import FormProblem
from hsm.shared.logs import Secret
from hsm.store.master_key import KeyFile
from hsm.store.store import Store
from hsm.wire.schemes import KeyType
from tests.support.softhsm import SoftToken

NOW = datetime.now(UTC)
SITE = Names(("www.example",))


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[VaultAdmin]:
    store = Store.create(tmp_path / "store.db", KeyFile(Secret(b"k" * 32)))
    yield VaultAdmin(store)
    store.close()


def labels(admin: VaultAdmin) -> list[str]:
    return [record.label for record in admin.list()]


@pytest.mark.parametrize("type_", [KeyType.P256, KeyType.P384, KeyType.ED25519, KeyType.RSA_2048])
def test_a_successor_is_made_certified_and_takes_over(admin: VaultAdmin, type_: KeyType) -> None:
    now = datetime.now(UTC)  # keys are created by the clock
    old = admin.generate(type_, "www", KeyAttributes(max_rate=9.0, not_after=now + timedelta(days=10)))
    done = rotate(admin, "www", now, SITE, quiet_s=60.0)
    assert (done.successor.label, done.successor.type) == ("www-2", type_)
    assert done.successor.attributes.max_rate == 9.0
    assert done.old == admin.get("www")
    assert done.old.attributes.successor == done.successor.ski
    request = x509.load_pem_x509_csr(done.csr)
    assert request.is_signature_valid
    assert x509.SubjectKeyIdentifier.from_public_key(request.public_key()).digest == done.successor.ski
    admin.add_usage("n", {old.ski: Usage(5, now), done.successor.ski: Usage(1, now)})
    assert run_due(admin, now + timedelta(seconds=30)) == []
    (sentence,) = run_due(admin, now + timedelta(seconds=90))
    assert sentence.startswith("retired key 'www' ")
    assert admin.get("www").attributes.state is KeyState.RETIRED
    again = rotate(admin, "www-2", now, SITE, quiet_s=60.0)
    assert again.successor.label == "www-3"


def test_labels_that_others_have_are_left_to_them(admin: VaultAdmin) -> None:
    admin.generate(KeyType.P256, "www")
    admin.generate(KeyType.P256, "www-2")
    assert rotate(admin, "www", NOW, SITE, quiet_s=1.0, taken=("www-3",)).successor.label == "www-4"


def test_what_can_not_be_certified_is_refused_before_a_key_is_made(admin: VaultAdmin) -> None:
    admin.generate(KeyType.P256, "www")
    for names in (Names(), Names(("not a name",)), Names(("a.example",), "XX=1"), Names(("a" * 63 + ".example",))):
        with pytest.raises(FormProblem):
            rotate(admin, "www", NOW, names, quiet_s=1.0)
    admin.change("www", lambda _: KeyAttributes(state=KeyState.RETIRED))
    with pytest.raises(LifecycleProblem):
        rotate(admin, "www", NOW, SITE, quiet_s=1.0)
    assert labels(admin) == ["www"]


@pytest.mark.parametrize("step", ["csr", "change"])
def test_a_rotation_that_fails_half_way_leaves_no_successor(
    admin: VaultAdmin, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = admin.generate(KeyType.P256, "www")

    def fail(*_: object) -> None:
        raise VaultError(VaultReason.UNAVAILABLE, "the disk is full")

    monkeypatch.setattr(admin, step, fail)
    with pytest.raises(VaultError, match="the disk is full"):
        rotate(admin, "www", NOW, SITE, quiet_s=1.0)
    assert admin.list() == [before]


def test_subjects_suit_the_key(admin: VaultAdmin) -> None:
    site = admin.generate(KeyType.P256, "www")
    root = admin.generate(KeyType.P256, "root", KeyAttributes(purpose=Purpose.CA))
    assert Names(("a.example", "b.example")).subject_for(site) == "CN=a.example"
    assert Names(("a" * 63 + ".example", "b.example")).subject_for(site) == "CN=b.example"
    assert Names(("a.example",), "CN=me,O=Org").subject_for(site) == "CN=me,O=Org"
    assert Names().subject_for(root) == "CN=root"
    with pytest.raises(FormProblem, match="give at least one name"):
        Names(subject="CN=me").subject_for(site)


def test_the_more_keys_there_are_the_longer_the_quiet_must_be(admin: VaultAdmin) -> None:
    for number in range(3):
        admin.generate(KeyType.ED25519, f"k{number}")
    assert rotate(admin, "k0", NOW, SITE).old.attributes.retire_quiet_s == 600


def test_a_key_of_an_hsm_lives_the_same_life(tmp_path: Path) -> None:
    now = datetime.now(UTC)  # keys are created by the clock
    token = SoftToken(tmp_path).init()
    settings = TokenSettings(
        module=Path(token.module),
        token=TokenMatch(token=token.label),
        pin=PinFile(token.pin_file()),
        environment=token.environment,
    )
    with BlockingWorker.open(settings) as running:
        admin = Pkcs11Admin(settings, Book(tmp_path / "hsm.book"), running=running)
        old = admin.generate(KeyType.P256, "www", KeyAttributes(max_rate=5.0))
        done = rotate(admin, "www", now, SITE, quiet_s=60.0)
        request = x509.load_pem_x509_csr(done.csr)
        assert request.is_signature_valid
        assert x509.SubjectKeyIdentifier.from_public_key(request.public_key()).digest == done.successor.ski
        assert (done.successor.label, done.successor.attributes) == ("www-2", KeyAttributes(max_rate=5.0))
        admin.add_usage("n", {old.ski: Usage(5, now), done.successor.ski: Usage(1, now)})
        assert run_due(admin, now + timedelta(seconds=30)) == []
        assert len(run_due(admin, now + timedelta(seconds=90))) == 1
        assert admin.get("www").attributes.state is KeyState.RETIRED
        admin.change("www", lambda record: scheduled(record, now, timedelta(hours=1)))
        assert run_due(admin, now + timedelta(minutes=59)) == []
        (sentence,) = run_due(admin, now + timedelta(hours=1))
        assert sentence.startswith("destroyed key 'www' ")
        assert [record.label for record in admin.list()] == ["www-2"]
        assert set(admin.usage()) == {done.successor.ski}
