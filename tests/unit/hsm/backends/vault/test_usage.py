from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hsm.backends.attributes import Usage
from hsm.backends.vault import VaultAdmin, VaultError, VaultReason, usage
from hsm.store.store import Put, Store
from hsm.wire.schemes import KeyType

NOW = datetime(2030, 1, 2, tzinfo=UTC)


def test_what_nodes_count_is_summed_and_survives(admin: VaultAdmin, other_store: Store) -> None:
    a, b = admin.generate(KeyType.P256, "a").ski, admin.generate(KeyType.P256, "b").ski
    admin.add_usage("node-1", {a: Usage(3, NOW)})
    admin.add_usage("node-1", {a: Usage(2, NOW - timedelta(days=1)), b: Usage(1, NOW)})
    VaultAdmin(other_store).add_usage("node-2", {a: Usage(5, NOW + timedelta(days=1))})
    assert VaultAdmin(other_store).usage() == {a: Usage(10, NOW + timedelta(days=1)), b: Usage(1, NOW)}


def test_a_count_is_few_rows_however_many_keys_there_are(admin: VaultAdmin, store: Store) -> None:
    skis = [admin.generate(KeyType.ED25519, f"k{number}").ski for number in range(40)]
    before = store.revision()
    admin.add_usage("node-1", {ski: Usage(1, NOW) for ski in skis})
    assert store.revision() == before + 1, "one transaction"
    assert len(store.scan("usage/").records) <= 16
    assert set(admin.usage()) == set(skis)


def test_keys_that_are_gone_are_left_out(admin: VaultAdmin, store: Store) -> None:
    made = admin.generate(KeyType.P256, "a")
    before = store.revision()
    admin.add_usage("node-1", {b"x" * 20: Usage(1, NOW)})
    admin.add_usage("node-1", {})
    assert store.revision() == before, "and nothing is written for nothing"
    admin.add_usage("node-1", {made.ski: Usage(1, NOW), b"x" * 20: Usage(1, NOW)})
    assert admin.usage() == {made.ski: Usage(1, NOW)}
    admin.destroy("a")
    admin.add_usage("node-1", {made.ski: Usage(1, NOW)})
    assert admin.usage() == {}, "a node may say late what it did"


def test_a_count_that_meets_another_is_made_again(
    admin: VaultAdmin, other_store: Store, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = admin.generate(KeyType.P256, "a")
    write, first = store.write, [True]

    def interrupted(changes: list[Put]) -> int:
        if first.pop() if first else False:
            VaultAdmin(other_store).add_usage("node-1", {made.ski: Usage(5, NOW)})
        return write(changes)

    monkeypatch.setattr(store, "write", interrupted)
    admin.add_usage("node-1", {made.ski: Usage(1, NOW)})
    assert admin.usage() == {made.ski: Usage(6, NOW)}


def test_a_form_of_a_newer_version_is_named(admin: VaultAdmin, store: Store) -> None:
    store.write([Put("usage/node-1/a", b"\xc1", 0)])
    with pytest.raises(VaultError, match="'usage/node-1/a' is stored in a form this version does not know") as caught:
        usage.total(store)
    assert caught.value.reason is VaultReason.INVALID
