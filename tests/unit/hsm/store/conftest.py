from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm.shared.logs import Secret
from hsm.store.master_key import KeyFile
from hsm.store.store import Store

UNLOCK = KeyFile(Secret(b"k" * 32))


@pytest.fixture
def unlock() -> KeyFile:
    """A key that opens the stores of these tests without the cost of a passphrase."""
    return UNLOCK


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(store_path: Path, unlock: KeyFile) -> Iterator[Store]:
    opened = Store.create(store_path, unlock, busy_timeout_s=0.2)
    yield opened
    opened.close()
