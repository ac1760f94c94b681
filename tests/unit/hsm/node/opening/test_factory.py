"""Opening all tokens of a config."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hsm.backends.vault import VaultBackend
from hsm.node.blocking import BlockingCalls
from hsm.node.opening import vault
from hsm.node.opening.factory import needs_people, open_tokens
from hsm.node.opening.opened import OpenToken, Surroundings, TokenProblem
from hsm.node.token_config import VaultTokenConfig
from hsm.node.unsealing import Unsealing
from hsm.shared.tasks import Tasks
from hsm.store.master_key import SharedSecret
from hsm.store.shares import deal
from hsm.store.store import Store
from tests.support.node import NodeHome, make_home, until


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("factory"))


@pytest.fixture
async def surroundings(home: NodeHome) -> AsyncIterator[Surroundings]:
    tasks = Tasks()
    yield Surroundings(home.path, BlockingCalls(), tasks, asyncio.get_running_loop())
    await tasks.stop()


def config_of(name: str, key_file: str = "master.key") -> VaultTokenConfig:
    return VaultTokenConfig(name=name, store="vault.db", key_file=key_file)


async def test_tokens_come_in_the_order_of_the_config(surroundings: Surroundings) -> None:
    opened = await open_tokens([config_of("b"), config_of("a")], surroundings, None)
    assert [token.name for token in opened] == ["b", "a"]
    for token in opened:
        await token.close()


async def test_when_one_fails_none_is_left_open(surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    real, closed = vault.open_vault, []

    async def watched(config: VaultTokenConfig, around: Surroundings, unsealing: object) -> OpenToken:
        token = await real(config, around, unsealing)  # type: ignore[arg-type]
        assert isinstance(token.backend, VaultBackend)
        closed.append(token.backend)
        return token

    monkeypatch.setattr(vault, "open_vault", watched)
    with pytest.raises(TokenProblem, match="token 'bad'"):
        await open_tokens([config_of("good"), config_of("bad", "ca.pem")], surroundings, None)
    assert [backend.keys() for backend in closed] == [()]


async def test_sealed_vaults_wait_together_and_after_the_others(
    surroundings: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    may_open = asyncio.Event()
    real = vault.open_vault

    async def watched(config: VaultTokenConfig, around: Surroundings, unsealing: object) -> OpenToken:
        begun.append(config.name)
        if config.shares:
            await may_open.wait()
        return await real(config_of(config.name), around, None)

    monkeypatch.setattr(vault, "open_vault", watched)
    sealed = [VaultTokenConfig(name=name, store="vault.db", shares=True) for name in ("one", "two")]
    assert [needs_people(config) for config in (sealed[0], config_of("file"))] == [True, False]
    opening = surroundings.tasks.start(
        open_tokens([sealed[0], config_of("file"), sealed[1]], surroundings, Unsealing()), name="opening"
    )
    await until(lambda: len(begun) == 3)
    assert begun == ["file", "one", "two"]
    may_open.set()
    tokens = await opening
    assert [token.name for token in tokens] == ["one", "file", "two"]
    for token in tokens:
        await token.close()


async def test_a_start_that_is_given_up_leaves_nothing_open(surroundings: Surroundings, tmp_path: Path) -> None:
    made = deal(2, 2)
    Store.create(tmp_path / "vault.db", SharedSecret(made.secret, made.share_set)).close()
    unsealing = Unsealing(tick_s=0.01)
    sealed = VaultTokenConfig(name="sealed", store=str(tmp_path / "vault.db"), shares=True)
    opening = surroundings.tasks.start(
        open_tokens([sealed, config_of("file")], surroundings, unsealing), name="opening"
    )
    await until(lambda: unsealing.sealed == ("sealed",))
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert unsealing.sealed == ()
    bad = VaultTokenConfig(name="bad", store="vault.db", shares=True)
    with pytest.raises(TokenProblem, match=r"token 'bad': .* is not opened by shares"):
        await open_tokens([sealed, bad], surroundings, unsealing)
    assert unsealing.sealed == ()
