"""Opening a vault as a token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hsm.backends.attributes import KeyAttributes
from hsm.backends.vault import VaultError, VaultReason
from hsm.node.blocking import BlockingCalls
from hsm.node.opening.opened import Surroundings, TokenProblem
from hsm.node.opening.vault import open_vault
from hsm.node.refusals import RefusalReason
from hsm.node.token_config import VaultTokenConfig
from hsm.shared.tasks import Tasks
from hsm.wire.schemes import KeyType
from tests.support.node import NodeHome, make_home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("opening"))


@pytest.fixture
async def surroundings(home: NodeHome) -> AsyncIterator[Surroundings]:
    tasks = Tasks()
    yield Surroundings(home.path, BlockingCalls(), tasks, asyncio.get_running_loop())
    await tasks.stop()


CONFIG = VaultTokenConfig(name="main", store="vault.db", key_file="master.key", concurrency=3, queue=5, loop_queue=7)


async def test_a_vault_is_opened_with_its_admin(surroundings: Surroundings) -> None:
    token = await open_vault(CONFIG, surroundings, None)
    backend = token.backend
    assert backend is not None
    assert (token.name, token.kind, token.state()) == ("main", "vault", "up")
    assert (token.places, token.queue, token.loop_queue) == (3, 5, 7)
    before = backend.keys()
    assert {key.label for key in before} == {"www-p256", "mail"}
    token.admin.generate(KeyType.ED25519, "made", KeyAttributes())
    assert backend.refresh()
    assert len(backend.keys()) == 3
    await token.close()
    assert backend.keys() == ()


async def test_the_wrong_key_is_one_clear_sentence(surroundings: Surroundings, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.key"
    wrong.touch(mode=0o600)
    wrong.write_bytes(b"w" * 32)
    config = VaultTokenConfig(name="main", store="vault.db", key_file=str(wrong))
    with pytest.raises(TokenProblem, match=r"^can't open the vault of token 'main': "):
        await open_vault(config, surroundings, None)


async def test_refusals_become_data(surroundings: Surroundings) -> None:
    token = await open_vault(CONFIG, surroundings, None)
    for reason, expected in (
        (VaultReason.NOT_FOUND, RefusalReason.NOT_FOUND),
        (VaultReason.EXISTS, RefusalReason.CONFLICT),
        (VaultReason.INVALID, RefusalReason.INVALID),
        (VaultReason.UNAVAILABLE, RefusalReason.UNAVAILABLE),
    ):
        refusal = token.refusal_of(VaultError(reason, "because"))
        assert refusal is not None
        assert (refusal.reason, refusal.sentence) == (expected, "because")
    assert token.refusal_of(RuntimeError()) is None
    await token.close()
