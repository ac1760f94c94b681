"""Opens a software vault as a token of a node."""

from __future__ import annotations

import os

from hsm.backends.vault import VaultAdmin, VaultBackend, VaultError, VaultReason, open_store
from hsm.node.opening.opened import OpenToken, Surroundings, TokenProblem
from hsm.node.refusals import Refusal, RefusalReason
from hsm.node.token_config import VaultTokenConfig
from hsm.store.store import Store


async def open_vault(config: VaultTokenConfig, surroundings: Surroundings, unsealing: object) -> OpenToken:
    """Opens the vault and loads its keys; may take a second (Argon2id). Raises TokenProblem."""

    def load() -> tuple[Store, VaultBackend]:
        store = open_store(
            surroundings.resolve(config.store),
            passphrase_file=surroundings.resolve(config.passphrase_file) if config.passphrase_file else None,
            key_file=surroundings.resolve(config.key_file) if config.key_file else None,
        )
        return store, VaultBackend(store)

    if config.shares or config.wrapping_key is not None:
        raise TokenProblem(f"token {config.name!r}: opening a vault by shares or by a wrapping key is not available")
    try:
        store, backend = await surroundings.calls.run(load)
    except VaultError as error:
        raise TokenProblem(f"can't open the vault of token {config.name!r}: {error}") from None

    async def close() -> None:
        backend.close()
        store.close()

    return OpenToken(
        name=config.name,
        kind="vault",
        backend=backend,
        places=config.concurrency or len(os.sched_getaffinity(0)),
        queue=config.queue,
        loop_queue=config.loop_queue,
        admin=VaultAdmin(store),
        refusal_of=vault_refusal,
        close=close,
    )


_REASONS = {
    VaultReason.NOT_FOUND: RefusalReason.NOT_FOUND,
    VaultReason.EXISTS: RefusalReason.CONFLICT,
    VaultReason.CONFLICT: RefusalReason.CONFLICT,
    VaultReason.UNAVAILABLE: RefusalReason.UNAVAILABLE,
    VaultReason.TAMPERED: RefusalReason.UNAVAILABLE,
}


def vault_refusal(error: Exception) -> Refusal | None:
    """What a vault's admin raises, as data; None for what it was not meant to raise."""
    if not isinstance(error, VaultError):
        return None
    return Refusal(_REASONS.get(error.reason, RefusalReason.INVALID), str(error))
