"""Opening all tokens of a config."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from hsm.backends.vault import VaultBackend
from hsm.node.blocking import BlockingCalls
from hsm.node.opening import vault
from hsm.node.opening.factory import open_tokens
from hsm.node.opening.opened import OpenToken, Surroundings, TokenProblem
from hsm.node.token_config import VaultTokenConfig
from hsm.shared.tasks import Tasks
from tests.support.node import NodeHome, make_home


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
