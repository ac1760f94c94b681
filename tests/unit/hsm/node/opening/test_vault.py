"""Opening a vault as a token."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from hsm.backends.attributes import KeyAttributes
from hsm.backends.vault import VaultError, VaultReason
from hsm.backends.vault.wrapping_key import token_key
from hsm.node.blocking import BlockingCalls
from hsm.node.observe import NodeStatus
from hsm.node.opening.opened import Surroundings, TokenProblem
from hsm.node.opening.vault import open_vault
from hsm.node.refusals import RefusalReason
from hsm.node.token_config import VaultTokenConfig
from hsm.node.unsealing import Unsealing
from hsm.shared.logs import Secret
from hsm.shared.tasks import Tasks
from hsm.store.master_key import SharedSecret
from hsm.store.share_text import encode
from hsm.store.shares import deal
from hsm.store.store import Store
from hsm.wire.schemes import KeyType
from tests.support.node import NodeHome, make_home, until
from tests.support.softhsm import SoftToken

STATUS = NodeStatus("node-1", "1", False, False, 0, 9, 0, 0, 0.5, (), ("main",))


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


async def test_a_vault_waits_for_its_shares(surroundings: Surroundings, tmp_path: Path) -> None:
    made, path = deal(2, 3), tmp_path / "vault.db"
    secret = bytes(made.secret.reveal())
    Store.create(path, SharedSecret(made.secret, made.share_set)).close()
    config = VaultTokenConfig(name="main", store=str(path), shares=True)
    unsealing = Unsealing(tick_s=0.01)
    async with (
        TestClient(TestServer(unsealing.app(lambda: STATUS))) as client,
        asyncio.TaskGroup() as group,
    ):
        opening = group.create_task(open_vault(config, surroundings, unsealing))
        await until(lambda: unsealing.sealed == ("main",))
        await client.post("/unseal", json={"share": encode(made.shares[0])})
        # What the shares must open is looked at when they are there: a header that was altered meanwhile is told.
        with closing(sqlite3.connect(path)) as other, other:
            (header,) = other.execute("SELECT master_key FROM header").fetchone()
            other.execute("UPDATE header SET master_key = ?", (header.replace(b'"nonce":"', b'"nonce":"AAAA'),))
        async with client.post("/unseal", json={"share": encode(made.shares[1])}) as response:
            assert response.status == 503
            assert "(or the store's header was altered)" in (await response.json())["error"]
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE header SET master_key = ?", (header,))
        for share in made.shares[1:]:
            async with client.post("/unseal", json={"share": encode(share)}) as response:
                assert response.status == 200
        token = await opening
    assert token.state() == "up"
    token.admin.generate(KeyType.P256, "made", KeyAttributes())
    await token.close()
    Store.open(path, SharedSecret(Secret(secret), made.share_set)).close()


async def test_a_vault_without_shares_is_not_waited_for(surroundings: Surroundings) -> None:
    config = VaultTokenConfig(name="main", store="vault.db", shares=True)
    with pytest.raises(TokenProblem, match="is not opened by shares but by a key-file; `sealgate vault rewrap`"):
        await open_vault(config, surroundings, Unsealing())


async def test_where_nobody_can_give_shares_it_is_said(surroundings: Surroundings, tmp_path: Path) -> None:
    made = deal(2, 3)
    Store.create(tmp_path / "vault.db", SharedSecret(made.secret, made.share_set)).close()
    config = VaultTokenConfig(name="main", store=str(tmp_path / "vault.db"), shares=True)
    with pytest.raises(TokenProblem, match="is opened by shares; nobody can give them here"):
        await open_vault(config, surroundings, None)


async def test_a_vault_is_opened_by_a_key_in_an_hsm(surroundings: Surroundings, tmp_path: Path) -> None:
    folder = tmp_path / "token"
    folder.mkdir()
    soft = SoftToken(folder).init()
    uri = f"pkcs11:token={soft.label};object=vault-key?module-path={soft.module}&pin-source=file:{soft.pin_file()}"
    Store.create(tmp_path / "vault.db", token_key(uri, soft.environment, make=True)).close()
    config = VaultTokenConfig(
        name="main", store=str(tmp_path / "vault.db"), wrapping_key=uri, environment=soft.environment
    )
    token = await open_vault(config, surroundings, None)
    token.admin.generate(KeyType.P256, "made", KeyAttributes())
    await token.close()
    soft.wipe()
    with pytest.raises(
        TokenProblem, match="can't open the vault of token 'main': the wrapping key 'vault-key'"
    ) as caught:
        await open_vault(config, surroundings, None)
    assert soft.pin not in str(caught.value)
