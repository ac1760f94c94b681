"""Opens the backend that a config names: the one place of the node that knows which kinds there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hsm.backends.base import Backend
from hsm.backends.vault import VaultAdmin, VaultBackend, VaultError, VaultReason, open_store
from hsm.node.config import BackendConfig, NodeFiles
from hsm.node.management import KeyAdmin
from hsm.node.refusals import Refusal, RefusalReason


class BackendProblem(Exception):
    """The backend can't be opened; `str()` is a sentence for the user."""


@dataclass(frozen=True)
class Opened:
    """A backend that is ready to sign, and its owner's tools."""

    backend: Backend
    admin: KeyAdmin
    refusal_of: Callable[[Exception], Refusal | None]
    """Turns what `admin` raises when it refuses into data; None for what it was not meant to raise."""
    close: Callable[[], None]
    """Forgets the keys and closes what they came from."""


def open_backend(config: BackendConfig, files: NodeFiles) -> Opened:
    """Opens the backend and loads its keys; may take a second (Argon2id). Raises BackendProblem."""
    try:
        store = open_store(files.store, passphrase_file=files.passphrase_file, key_file=files.key_file)
        backend = VaultBackend(store)
    except VaultError as error:
        raise BackendProblem(f"can't open the {config.type}: {error}") from None

    def close() -> None:
        backend.close()
        store.close()

    return Opened(backend, VaultAdmin(store), _vault_refusal, close)


_REASONS = {
    VaultReason.NOT_FOUND: RefusalReason.NOT_FOUND,
    VaultReason.EXISTS: RefusalReason.CONFLICT,
    VaultReason.CONFLICT: RefusalReason.CONFLICT,
    VaultReason.UNAVAILABLE: RefusalReason.UNAVAILABLE,
    VaultReason.TAMPERED: RefusalReason.UNAVAILABLE,
}


def _vault_refusal(error: Exception) -> Refusal | None:
    if not isinstance(error, VaultError):
        return None
    return Refusal(_REASONS.get(error.reason, RefusalReason.INVALID), str(error))
