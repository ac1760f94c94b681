from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from hsm.backends.attributes import KeyAttributes, KeyState, Usage
from hsm.backends.base import BackendError
from hsm.backends.vault import VaultAdmin, VaultBackend, VaultError
from hsm.backends.vault import backend as vault_backend
from hsm.store.store import Scan, Store
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType, Scheme

DIGEST = b"d" * 32
NOW = datetime(2030, 1, 2, tzinfo=UTC)


def altered(store: Store, statement: str) -> None:
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute(statement)


def test_keys_that_exist_are_loaded_and_described(store: Store, admin: VaultAdmin) -> None:
    b, a = admin.generate(KeyType.P384, "b"), admin.generate(KeyType.ED25519, "a")
    backend = VaultBackend(store)
    assert backend.keys() == (KeyEntry(a.ski, KeyType.ED25519, "a"), KeyEntry(b.ski, KeyType.P384, "b"))
    assert backend.revision == 2
    assert (backend.cost(a.ski), backend.cost(b.ski), backend.cost(bytes(20))) == ("cheap", "dear", "cheap")


def test_what_another_process_generates_and_destroys_comes_and_goes(
    store: Store, other_store: Store, admin: VaultAdmin
) -> None:
    backend = VaultBackend(other_store)
    assert backend.refresh() is False
    made = admin.generate(KeyType.P256, "new")
    with pytest.raises(BackendError):
        backend.sign(made.ski, Scheme.ECDSA_SHA256, DIGEST)
    assert backend.refresh() is True
    assert backend.refresh() is False
    assert backend.sign(made.ski, Scheme.ECDSA_SHA256, DIGEST)
    before = backend.revision
    admin.destroy("new")
    assert backend.refresh() is True
    assert backend.keys() == ()
    assert backend.revision > before
    with pytest.raises(BackendError) as caught:
        backend.sign(made.ski, Scheme.ECDSA_SHA256, DIGEST)
    assert caught.value.code is ErrorCode.KEY_NOT_FOUND


def test_an_administrator_in_the_same_process_does_not_hide_changes(store: Store, admin: VaultAdmin) -> None:
    backend = VaultBackend(store)
    admin.generate(KeyType.P256, "new")
    admin.list()
    assert backend.refresh() is True


def test_a_request_that_does_not_fit_is_refused_with_its_code(store: Store, admin: VaultAdmin) -> None:
    elliptic, edwards = admin.generate(KeyType.P256, "ec"), admin.generate(KeyType.ED25519, "ed")
    backend = VaultBackend(store)
    for ski, scheme, payload, code, words in (
        (b"x" * 20, Scheme.ECDSA_SHA256, DIGEST, ErrorCode.KEY_NOT_FOUND, "no key 7878"),
        (b"", Scheme.ECDSA_SHA256, DIGEST, ErrorCode.KEY_NOT_FOUND, "no key"),
        (elliptic.ski, Scheme.RSA_PSS_SHA256, DIGEST, ErrorCode.CRYPTOGRAPHY, "a p256 key can't sign rsa_pss_sha256"),
        (elliptic.ski, Scheme.ED25519, DIGEST, ErrorCode.CRYPTOGRAPHY, "a p256 key can't sign ed25519"),
        (edwards.ski, Scheme.ECDSA_SHA256, DIGEST, ErrorCode.CRYPTOGRAPHY, "an? ed25519 key can't sign"),
        (elliptic.ski, Scheme.ECDSA_SHA384, DIGEST, ErrorCode.MALFORMED, "a digest of 48 bytes, 32 were given"),
        (elliptic.ski, Scheme.ECDSA_SHA256, b"", ErrorCode.MALFORMED, "a digest of 32 bytes, 0 were given"),
    ):
        with pytest.raises(BackendError, match=words) as caught:
            backend.sign(ski, scheme, payload)
        assert caught.value.code is code
    for message in (b"", b"m" * 5000):
        assert len(backend.sign(edwards.ski, Scheme.ED25519, message)) == 64


def test_a_key_that_was_tampered_with_is_named_and_the_others_sign(store: Store, admin: VaultAdmin) -> None:
    bad, good = admin.generate(KeyType.P256, "bad"), admin.generate(KeyType.P256, "good")
    running = VaultBackend(store)
    altered(store, f"UPDATE records SET value = zeroblob(200) WHERE path = 'keys/{bad.ski.hex()}'")
    with capture_logs() as logs:
        fresh = VaultBackend(store)
    assert [entry.label for entry in fresh.keys()] == ["good"]  # noqa: SIM118
    assert fresh.sign(good.ski, Scheme.ECDSA_SHA256, DIGEST)
    (sentence,) = fresh.damaged
    assert f"'keys/{bad.ski.hex()}' was altered" in sentence
    assert [(entry["event"], entry["error"]) for entry in logs] == [("vault_key_damaged", sentence)]
    with capture_logs() as logs:
        assert running.refresh() is False, "the key in memory is authentic and stays"
        altered(store, "UPDATE header SET revision = revision + 1")
        running.refresh()
    assert [entry["event"] for entry in logs] == ["vault_key_damaged"], "said once"
    assert running.sign(bad.ski, Scheme.ECDSA_SHA256, DIGEST)


def test_an_older_row_that_is_put_back_does_not_undo_a_retirement(store: Store, admin: VaultAdmin) -> None:
    made = admin.generate(KeyType.P256, "www")
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        old = other.execute("SELECT * FROM records WHERE path LIKE 'keys/%'").fetchone()
    backend = VaultBackend(store)
    admin.change("www", lambda record: KeyAttributes(state=KeyState.RETIRED))
    assert backend.refresh() is True
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)", old)
    with capture_logs() as lines:
        backend.refresh()
    assert backend.attributes_of(made.ski).state is KeyState.RETIRED
    assert ["older ones put back" in line["error"] for line in lines] == [True]


def test_a_store_that_fails_leaves_the_keys_as_they_are(store: Store, admin: VaultAdmin) -> None:
    made = admin.generate(KeyType.P256, "a")
    backend = VaultBackend(store)
    away = store.path.with_suffix(".away")
    store.path.rename(away)
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(BackendError, match="was removed or replaced"):
                backend.refresh()
    assert [entry["event"] for entry in logs] == ["vault_refresh_failed"]
    assert backend.sign(made.ski, Scheme.ECDSA_SHA256, DIGEST)
    with pytest.raises(VaultError, match="was removed or replaced"):
        VaultBackend(store)
    away.rename(store.path)
    admin.generate(KeyType.P256, "b")
    assert backend.refresh() is True


def test_a_key_that_stays_is_not_decoded_again(store: Store, admin: VaultAdmin) -> None:
    made = admin.generate(KeyType.P256, "a")
    backend = VaultBackend(store)
    before = backend._snapshot.keys[made.ski]
    admin.generate(KeyType.P256, "b")
    assert backend.refresh() is True
    assert backend._snapshot.keys[made.ski] is before


def test_attributes_come_with_the_key_and_their_changes_are_noticed(
    store: Store, other_store: Store, admin: VaultAdmin
) -> None:
    made = admin.generate(KeyType.P256, "a", KeyAttributes(max_rate=3.0))
    backend = VaultBackend(other_store)
    assert backend.attributes_of(made.ski) == KeyAttributes(max_rate=3.0)
    assert backend.attributes_of(bytes(20)) == KeyAttributes(), "the defaults, of a key that it does not have"
    before, signers = backend.revision, backend._snapshot.keys[made.ski].signers
    admin.change("a", lambda _: KeyAttributes(state=KeyState.RETIRED))
    assert backend.refresh() is True
    assert backend.attributes_of(made.ski).state is KeyState.RETIRED
    assert backend.revision > before
    assert backend.keys() == (KeyEntry(made.ski, KeyType.P256, "a"),), "listed whatever its state"
    assert backend._snapshot.keys[made.ski].signers is signers, "not decoded again"
    before = backend.revision
    admin.change("a", lambda record: record.attributes)
    assert backend.refresh() is False
    assert backend.revision == before


def test_counting_does_not_have_the_keys_read_again(
    store: Store, other_store: Store, admin: VaultAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = admin.generate(KeyType.P256, "a")
    backend = VaultBackend(other_store)
    before, scan = backend.revision, other_store.scan
    scans: list[str] = []

    def counted(prefix: str) -> Scan:
        scans.append(prefix)
        return scan(prefix)

    monkeypatch.setattr(other_store, "scan", counted)
    for _ in range(3):
        admin.add_usage("node-1", {made.ski: Usage(1, NOW)})
        assert backend.refresh() is False
    assert (scans, backend.revision) == ([], before)
    admin.generate(KeyType.P256, "b")
    admin.add_usage("node-1", {made.ski: Usage(1, NOW)})
    assert backend.refresh() is True, "a key among the counts is seen"
    assert len(backend.keys()) == 2


def test_a_store_that_changes_is_read_whole_once_in_a_while(
    store: Store, other_store: Store, admin: VaultAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, bad = admin.generate(KeyType.P256, "a"), admin.generate(KeyType.P256, "bad")
    backend = VaultBackend(other_store)
    altered(store, f"UPDATE records SET value = zeroblob(200) WHERE path = 'keys/{bad.ski.hex()}'")
    admin.add_usage("node-1", {made.ski: Usage(1, NOW)})
    with capture_logs() as logs:
        assert backend.refresh() is False
        assert logs == [], "hidden behind a count"
        monkeypatch.setattr(vault_backend, "FULL_SCAN_INTERVAL_S", 0.0)
        admin.add_usage("node-1", {made.ski: Usage(1, NOW)})
        assert backend.refresh() is False
    assert [entry["event"] for entry in logs] == ["vault_key_damaged"]


def test_threads_sign_while_the_keys_change(store: Store, other_store: Store, admin: VaultAdmin) -> None:
    made = admin.generate(KeyType.P256, "a")
    backend = VaultBackend(other_store)
    failures: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                backend.sign(made.ski, Scheme.ECDSA_SHA256, DIGEST)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(10):
        admin.generate(KeyType.ED25519, f"k{number}")
        assert backend.refresh() is True
    stop.set()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert len(backend.keys()) == 11


def test_a_library_error_becomes_a_code_without_detail(store: Store, admin: VaultAdmin) -> None:
    made = admin.generate(KeyType.P256, "a")
    backend = VaultBackend(store)
    with capture_logs() as logs, pytest.raises(BackendError, match="could not be made") as caught:
        backend.sign(made.ski, Scheme.ECDSA_SHA256, ["x"] * 32)  # type: ignore[arg-type]  # to make the library fail
    assert caught.value.code is ErrorCode.CRYPTOGRAPHY
    assert [(entry["event"], entry["error"]) for entry in logs] == [("vault_sign_failed", "TypeError")]


def test_a_closed_backend_has_no_keys(store: Store, admin: VaultAdmin) -> None:
    made = admin.generate(KeyType.P256, "a")
    backend = VaultBackend(store)
    backend.close()
    backend.close()
    assert backend.keys() == ()
    with pytest.raises(BackendError):
        backend.sign(made.ski, Scheme.ECDSA_SHA256, DIGEST)
