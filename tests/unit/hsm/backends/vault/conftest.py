from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm.backends.vault import VaultAdmin
from hsm.shared.logs import Secret
from hsm.store.master_key import KeyFile
from hsm.store.store import Store

UNLOCK = KeyFile(Secret(b"k" * 32))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.create(tmp_path / "store.db", UNLOCK)
    yield opened
    opened.close()


@pytest.fixture
def other_store(store: Store) -> Iterator[Store]:
    """The same store as another process has it open."""
    opened = Store.open(store.path, UNLOCK)
    yield opened
    opened.close()


@pytest.fixture
def admin(store: Store) -> VaultAdmin:
    return VaultAdmin(store)
