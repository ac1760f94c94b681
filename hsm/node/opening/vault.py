"""Opens a software vault as a token of a node: by a file, by shares that people send, or by a key in an HSM."""

from __future__ import annotations

import os
from pathlib import Path

from hsm.backends.vault import VaultAdmin, VaultBackend, VaultError, VaultReason, open_store
from hsm.backends.vault.opening import open_store_with, share_set_of
from hsm.node.opening.opened import OpenToken, Surroundings, TokenProblem
from hsm.node.refusals import Refusal, RefusalReason
from hsm.node.token_config import VaultOpening, VaultTokenConfig
from hsm.node.unsealing import Unsealing
from hsm.store.master_key import SharedSecret
from hsm.store.shares import ShareSet
from hsm.store.store import Store


async def open_vault(config: VaultTokenConfig, surroundings: Surroundings, unsealing: Unsealing | None) -> OpenToken:
    """Opens the vault and loads its keys; may take a second (Argon2id), or as long as people take to send shares.

    Raises TokenProblem.
    """
    store, backend = await _opened(config, surroundings, unsealing)

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


async def _opened(
    config: VaultOpening, surroundings: Surroundings, unsealing: Unsealing | None
) -> tuple[Store, VaultBackend]:
    path = surroundings.resolve(config.store)

    def by_file() -> tuple[Store, VaultBackend]:
        store = open_store(
            path,
            passphrase_file=surroundings.resolve(config.passphrase_file) if config.passphrase_file else None,
            key_file=surroundings.resolve(config.key_file) if config.key_file else None,
        )
        return _loaded(store)

    def by_token(uri: str) -> tuple[Store, VaultBackend]:
        # Imported here: most vaults need nothing of PKCS#11.
        from hsm.backends.vault.wrapping_key import token_key

        return _loaded(open_store_with(path, token_key(uri, config.environment)))

    async def by_shares(secret: SharedSecret) -> tuple[Store, VaultBackend]:
        try:
            return await surroundings.calls.run(lambda: _loaded(open_store_with(path, secret)))
        except VaultError as error:
            raise TokenProblem(f"can't open the vault of token {config.name!r}: {error}") from None

    try:
        if config.wrapping_key is not None:
            uri = config.wrapping_key
            return await surroundings.calls.run(lambda: by_token(uri))
        if not config.shares:
            return await surroundings.calls.run(by_file)
    except VaultError as error:
        raise TokenProblem(f"can't open the vault of token {config.name!r}: {error}") from None
    share_set = await surroundings.calls.run(lambda: shares_of(config, path))
    if unsealing is None:
        raise TokenProblem(f"the vault of token {config.name!r} is opened by shares; nobody can give them here")
    return await unsealing.open(config.name, share_set, by_shares)


def shares_of(config: VaultOpening, path: Path) -> ShareSet:
    """The shares that a sealed vault waits for, without opening it. Blocks. Raises TokenProblem."""
    try:
        return share_set_of(path)
    except VaultError as error:
        raise TokenProblem(f"can't open the vault of token {config.name!r}: {error}") from None


def _loaded(store: Store) -> tuple[Store, VaultBackend]:
    try:
        return store, VaultBackend(store)
    except BaseException:
        store.close()
        raise


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
