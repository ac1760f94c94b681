from __future__ import annotations

from pathlib import Path

from hsm.backends.base import Backend, BackendError
from hsm.backends.vault import VaultBackend
from hsm.shared.logs import Secret
from hsm.store.master_key import KeyFile
from hsm.store.store import Store
from hsm.wire.errors import ErrorCode


def test_an_error_says_its_code_and_detail() -> None:
    error = BackendError(ErrorCode.KEY_NOT_FOUND, "no key")
    assert (error.code, error.detail, str(error)) == (ErrorCode.KEY_NOT_FOUND, "no key", "key_not_found: no key")


def test_the_vault_is_a_backend(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.db", KeyFile(Secret(b"k" * 32)))
    backend: Backend = VaultBackend(store)
    assert backend.keys() == ()
    assert backend.refresh() is False
    backend.close()
    store.close()
