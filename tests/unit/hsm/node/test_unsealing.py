"""Shares that come over the management socket, without a node around it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from hsm.node.observe import NodeStatus
from hsm.node.opening.opened import TokenProblem
from hsm.node.unsealing import ShareBody, Unsealing
from hsm.store.master_key import SharedSecret
from hsm.store.share_text import encode
from hsm.store.shares import Deal, deal
from tests.support.node import until

STATUS = NodeStatus("node-1", "1", False, False, 0, 9, 0, 0, 0.5, (), ("main",))
Client = TestClient[web.Request, web.Application]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Vault:
    """What is opened: it keeps the secrets it was tried with, and refuses while it has a `problem`."""

    def __init__(self) -> None:
        self.tried: list[bytes] = []
        self.problem = ""
        self.may_open = asyncio.Event()
        self.may_open.set()

    async def attempt(self, secret: SharedSecret) -> str:
        self.tried.append(bytes(secret.secret.reveal()))
        await self.may_open.wait()
        if self.problem:
            raise TokenProblem(self.problem)
        return "opened"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def unsealing(clock: Clock) -> Unsealing:
    return Unsealing(timeout_s=900, tick_s=0.01, clock=clock)


@pytest.fixture
async def client(unsealing: Unsealing) -> AsyncIterator[Client]:
    async with TestClient(TestServer(unsealing.app(lambda: STATUS))) as client:
        yield client


@pytest.fixture
def made() -> Deal:
    return deal(2, 3)


async def give(client: Client, text: str) -> tuple[int, dict[str, Any]]:
    async with client.post("/unseal", json={"share": text}) as response:
        return response.status, await response.json()


async def state(client: Client) -> list[dict[str, Any]]:
    async with client.get("/unseal") as response:
        return list((await response.json())["sealed"])


async def test_enough_shares_open_the_vault(unsealing: Unsealing, client: Client, made: Deal) -> None:
    vault = Vault()
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(unsealing.open("main", made.share_set, vault.attempt))
        await until(lambda: unsealing.sealed == ("main",))
        name = made.share_set.name
        status, answer = await give(client, encode(made.shares[1]))
        assert (status, answer["sentence"]) == (200, f"share 2 of set {name} accepted, 1 more needed")
        assert (answer["missing"], answer["opened"]) == (1, False)
        (waiting,) = await state(client)
        assert waiting == {
            "token": "main",
            "set": name,
            "needed": 2,
            "of": 3,
            "have": [2],
            "forgotten_in_s": 900.0,
        }
        status, answer = await give(client, encode(made.shares[0]).lower())
        assert status == 200
        assert answer["sentence"] == f"share 1 of set {name} accepted, that is enough: the vault 'main' is open"
        assert answer["opened"] is True
    assert opening.result() == "opened"
    assert vault.tried == [bytes(made.secret.reveal())]
    assert (unsealing.sealed, await state(client)) == ((), [])
    status, answer = await give(client, encode(made.shares[2]))
    assert (status, answer["error"]) == (409, "nothing is sealed here: no vault of this node waits for shares")


async def test_while_a_node_starts_more_vaults_may_come(unsealing: Unsealing, client: Client, made: Deal) -> None:
    unsealing.is_starting = True
    status, answer = await give(client, encode(made.shares[2]))
    assert (status, "try again in a moment" in answer["error"]) == (409, True)


@pytest.fixture
async def waiting(unsealing: Unsealing, made: Deal) -> AsyncIterator[Vault]:
    """A vault that waits for its shares."""
    vault = Vault()
    opening = asyncio.gather(unsealing.open("main", made.share_set, vault.attempt), return_exceptions=True)
    await until(lambda: bool(unsealing.sealed))
    yield vault
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    assert unsealing.sealed == ()


async def test_each_wrong_share_is_named_and_costs_nothing(waiting: Vault, client: Client, made: Deal) -> None:
    good, other = made.shares[0], deal(2, 3).shares[2]
    forged = dataclasses.replace(good, body=bytes(32))
    mistyped = encode(good).split()
    mistyped[4] = mistyped[4][::-1] if mistyped[4] != mistyped[4][::-1] else "AAAAA"
    assert (await give(client, encode(good)))[0] == 200
    for text, status, fault, words in (
        (encode(forged), 400, "not_made", "share 1 is not the one that was made for this vault"),
        (encode(other), 400, "other_set", f"share 3 of set {other.set_id.hex()} belongs to another vault"),
        (" ".join(mistyped), 400, "mistyped", "group 5 (line 1, word 5) is mistyped"),
        (encode(good), 409, "given_already", "share 1 was given already; 1 more of the others needed"),
    ):
        got, answer = await give(client, text)
        assert (got, answer["fault"]) == (status, fault), answer
        assert answer["error"].startswith(words)
    assert [entry["have"] for entry in await state(client)] == [[1]]
    assert waiting.tried == []


async def test_shares_are_forgotten_after_a_while(
    waiting: Vault, client: Client, made: Deal, clock: Clock, unsealing: Unsealing
) -> None:
    with capture_logs() as logs:
        await give(client, encode(made.shares[0]))
        clock.now = 899.0
        assert (await state(client))[0]["forgotten_in_s"] == 1.0
        clock.now = 900.0
        await until(lambda: unsealing.state()[0].have == ())
        await until(lambda: any(entry["event"] == "shares_forgotten" for entry in logs))
    _status, answer = await give(client, encode(made.shares[1]))
    assert answer["missing"] == 1


async def test_shares_can_be_taken_back(waiting: Vault, client: Client, made: Deal) -> None:
    await give(client, encode(made.shares[0]))
    async with client.delete("/unseal") as response:
        assert (await response.json())["sealed"][0]["have"] == []
    assert (await give(client, encode(made.shares[1])))[1]["missing"] == 1


async def test_a_vault_that_does_not_open_is_said_and_can_be_tried_again(
    waiting: Vault, client: Client, made: Deal, unsealing: Unsealing
) -> None:
    waiting.problem = "can't open the vault of token 'main': it is locked"
    await give(client, encode(made.shares[0]))
    status, answer = await give(client, encode(made.shares[1]))
    assert status == 503
    assert answer["error"].endswith("but can't open the vault of token 'main': it is locked; the shares were forgotten")
    assert (await state(client))[0]["have"] == []
    waiting.problem = ""
    await give(client, encode(made.shares[2]))
    assert (await give(client, encode(made.shares[1])))[1]["opened"] is True
    assert len(waiting.tried) == 2


async def test_shares_that_come_while_it_is_tried_wait(waiting: Vault, client: Client, made: Deal) -> None:
    waiting.may_open.clear()
    await give(client, encode(made.shares[0]))
    last = asyncio.gather(give(client, encode(made.shares[1])))
    await until(lambda: bool(waiting.tried))
    status, answer = await give(client, encode(made.shares[2]))
    assert (status, answer["error"]) == (409, "the vault 'main' is being opened; wait a moment")
    waiting.may_open.set()
    ((_status, answer),) = await last
    assert answer["opened"] is True


async def test_several_vaults_are_told_apart_by_their_set(unsealing: Unsealing, client: Client) -> None:
    vaults = {name: (deal(2, 2), Vault()) for name in ("main", "spare")}
    async with asyncio.TaskGroup() as group:
        for name, (dealt, vault) in vaults.items():
            group.create_task(unsealing.open(name, dealt.share_set, vault.attempt))
        await until(lambda: len(unsealing.sealed) == 2)
        for index in range(2):
            for name in ("spare", "main"):
                _status, answer = await give(client, encode(vaults[name][0].shares[index]))
                assert answer["set"] == vaults[name][0].share_set.name
                assert answer["opened"] is (index == 1)
    for dealt, vault in vaults.values():
        assert vault.tried == [bytes(dealt.secret.reveal())]


async def test_what_opens_a_vault_is_wiped(unsealing: Unsealing, client: Client, made: Deal) -> None:
    seen: list[SharedSecret] = []

    async def attempt(secret: SharedSecret) -> None:
        seen.append(secret)

    async with asyncio.TaskGroup() as group:
        group.create_task(unsealing.open("main", made.share_set, attempt))
        await until(lambda: bool(unsealing.sealed))
        for share in made.shares[:2]:
            await give(client, encode(share))
    assert seen[0].secret.reveal() == bytearray(32)


async def test_nothing_that_was_typed_is_logged_or_answered(waiting: Vault, client: Client, made: Deal) -> None:
    texts = [encode(share) for share in made.shares]
    mistyped = texts[0].replace(texts[0].split()[7], "AAAAA")
    with capture_logs() as logs:
        answers = [await give(client, text) for text in (mistyped, *texts, texts[0])]
    shown = repr(logs) + repr(answers)
    assert "share_accepted" in shown
    assert not any(group in shown for text in texts for group in text.split())
    assert "secret" in repr(ShareBody(texts[0]))
    assert texts[0] not in repr(ShareBody(texts[0]))


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"share": 5}', b'{"share": "\xff"}', b'{"share": "x", "more": 1}', b"x" * 20_000]
)
async def test_a_body_that_is_no_share_is_refused(waiting: Vault, client: Client, body: bytes) -> None:
    async with client.post("/unseal", data=body) as response:
        assert response.status == 400
        assert "it must be one share as text" in (await response.json())["error"]


async def test_all_else_is_told_how_to_unseal(waiting: Vault, client: Client) -> None:
    for method, path in (("GET", "/keys"), ("POST", "/keys/import"), ("DELETE", "/keys/a"), ("GET", "/")):
        async with client.request(method, path) as response:
            assert response.status == 503
            assert "`sealgate node unseal`" in (await response.json())["error"]
    async with client.get("/status") as response:
        assert (await response.json())["sealed"] == ["main"]


async def test_systemd_waits_for_people(made: Deal) -> None:
    told: list[str] = []
    unsealing = Unsealing(tick_s=0.001, tell_systemd=told.append)
    opening = asyncio.gather(unsealing.open("main", made.share_set, Vault().attempt), return_exceptions=True)
    await until(lambda: len(told) > 2)
    assert set(told) == {"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=Sealed: waiting for shares"}
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening


async def test_an_unexpected_error_ends_the_wait(unsealing: Unsealing, client: Client, made: Deal) -> None:
    async def attempt(_secret: SharedSecret) -> None:
        raise LookupError("a bug")

    opening = asyncio.gather(unsealing.open("main", made.share_set, attempt), return_exceptions=True)
    await until(lambda: bool(unsealing.sealed))
    await give(client, encode(made.shares[0]))
    answered = asyncio.gather(give(client, encode(made.shares[1])))
    (error,) = await opening
    assert isinstance(error, LookupError)
    ((status, answer),) = await answered
    assert (status, unsealing.sealed) == (503, ())
    assert answer["error"].endswith("but the node gave its start up meanwhile; see its log")
