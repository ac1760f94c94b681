"""A whole node in the test's own process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hsm.backends.vault import VaultAdmin, open_store
from hsm.node.app import Node
from hsm.node.config import load_config
from hsm.node.opening.opened import TokenProblem
from hsm.shared.exposition import ListenError
from hsm.wire.messages import Failed, KeysChanged, KeysListed, Signed
from hsm.wire.schemes import KeyType, Scheme
from tests.support.node import PROXY, Link, NodeHome, make_home, until, verify
from tests.support.tls_messages import certificate_verify

StartNode = Callable[..., Awaitable[Node]]


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return make_home(tmp_path)


@pytest.fixture
async def start(home: NodeHome) -> AsyncIterator[StartNode]:
    nodes: list[Node] = []

    async def make(name: str = "node-1", **more: str) -> Node:
        path = home.write_config(name, **more)
        node = Node(load_config(path), home.path, path)
        nodes.append(node)
        await node.start()
        return node

    yield make
    for node in nodes:
        await node.stop()


async def get(node: Node, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{node.ops_address}{path}") as response:
        return response.status, await response.text()


async def manage(node: Node, method: str, path: str, body: Any = None) -> Any:
    connector = aiohttp.UnixConnector(path=str(node.management_socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, f"http://node{path}", json=body) as response,
    ):
        assert response.status < 300, await response.text()
        return await response.json()


async def test_a_node_signs_and_tells_how_it_is(start: StartNode, home: NodeHome) -> None:
    node = await start()
    assert (await get(node, "/healthz"))[0] == 200
    status, text = await get(node, "/readyz")
    assert status == 200
    assert json.loads(text)["keys"] == 2
    link = await Link.open(node.address, home.identity("proxy"))
    ski, public = home.keys["www-p256"]
    answer = await link.ask(ski, Scheme.ECDSA_SHA256, b"hello")
    assert isinstance(answer, Signed)
    verify(public, Scheme.ECDSA_SHA256, answer.signature, b"hello")
    assert isinstance(await link.ask(home.ski("mail"), Scheme.ECDSA_SHA256, b"x"), Failed)
    _status, metrics = await get(node, "/metrics")
    assert 'sealgate_node_signatures_total{key="www-p256",outcome="signed",scheme="ecdsa_sha256"} 1.0' in metrics
    assert "sealgate_node_connections 1.0" in metrics
    assert "PRIVATE" not in metrics
    await link.close()


async def test_a_key_made_at_one_node_signs_at_another_within_a_second(start: StartNode, home: NodeHome) -> None:
    first, second = await start("node-1"), await start("node-2")
    link = await Link.open(second.address, home.identity("proxy"))
    await link.greet()
    loop = asyncio.get_running_loop()
    made = (await manage(first, "POST", "/keys", {"type": KeyType.ED25519.value, "label": "www-new"}))["key"]
    begin = loop.time()
    while not any(isinstance(event, KeysChanged) for event in link.events):
        assert await link.receive()
    assert loop.time() - begin < 1.0
    handshake = certificate_verify()
    answer = await link.ask(bytes.fromhex(made["ski"]), Scheme.ED25519, handshake)
    assert isinstance(answer, Signed)
    verify(made["public_key"], Scheme.ED25519, answer.signature, handshake)
    await manage(second, "POST", "/keys/www-new/destroy", {"grace_s": 0})
    on_first = await Link.open(first.address, home.identity("proxy"))
    await until(lambda: first.status().keys == 2, timeout_s=2.0)
    assert isinstance(await on_first.ask(bytes.fromhex(made["ski"]), Scheme.ED25519, b"x"), Failed)
    await link.close()
    await on_first.close()


async def test_a_key_is_usable_at_its_own_node_when_it_is_acknowledged(start: StartNode, home: NodeHome) -> None:
    node = await start(node="refresh_interval_s = 60")
    made = (await manage(node, "POST", "/keys", {"type": "p256", "label": "www-new"}))["key"]
    link = await Link.open(node.address, home.identity("proxy"))
    assert isinstance(await link.ask(bytes.fromhex(made["ski"]), Scheme.ECDSA_SHA256, b"x"), Signed)
    listed = await link.greet()
    assert isinstance(listed, KeysListed)
    assert {key.label for key in listed.keys} == {"www-p256", "www-new"}
    await link.close()


async def test_a_node_with_two_tokens_signs_with_the_keys_of_both(start: StartNode, home: NodeHome) -> None:
    folder = home.path / "second"
    folder.mkdir(mode=0o700)
    second = make_home(folder, (KeyType.P384,))
    more = second.vault_token("second").replace('"vault.db"', '"second/vault.db"').replace('"mas', '"second/mas')
    node = await start(tokens=home.vault_token("first") + more)
    link = await Link.open(node.address, home.identity("proxy"))
    for keys, label in ((home.keys, "www-p256"), (second.keys, "www-p384")):
        ski, public = keys[label]
        answer = await link.ask(ski, Scheme.ECDSA_SHA384, b"hello")
        assert isinstance(answer, Signed)
        verify(public, Scheme.ECDSA_SHA384, answer.signature, b"hello")
    assert [(token.name, token.keys, token.is_up) for token in node.status().tokens] == [
        ("first", 2, True),
        ("second", 2, True),
    ]
    _status, metrics = await get(node, "/metrics")
    assert 'sealgate_node_in_flight_limit{lane="dear",token="second"}' in metrics
    assert 'sealgate_node_token_up{kind="vault",token="first"} 1.0' in metrics
    ages = json.loads((await get(node, "/healthz"))[1])["refreshed_s_ago"]
    assert set(ages) == {"first", "second"}
    await link.close()


async def test_one_token_that_is_not_heard_of_is_no_reason_to_restart_a_node(start: StartNode, home: NodeHome) -> None:
    node = await start(tokens=home.vault_token("first") + home.vault_token("second"), node="refresh_interval_s = 60")
    first, second = node._refreshes
    first._refreshed_at -= 1000
    assert (await get(node, "/healthz"))[0] == 200
    second._refreshed_at -= 1000
    assert (await get(node, "/healthz"))[0] == 503


async def test_a_node_is_ready_while_one_of_its_tokens_is_up(start: StartNode, home: NodeHome) -> None:
    node = await start(tokens=home.vault_token("first") + home.vault_token("second"))
    assert node._service is not None
    tokens = node._service._tokens
    tokens[0].token = replace(tokens[0].token, state=lambda: "reopening")
    assert (await get(node, "/readyz"))[0] == 200
    tokens[1].token = replace(tokens[1].token, state=lambda: "reopening")
    assert (await get(node, "/readyz"))[0] == 503
    assert 'sealgate_node_token_up{kind="vault",token="second"} 0.0' in (await get(node, "/metrics"))[1]


async def test_what_was_signed_is_told_to_the_token_at_a_stop(start: StartNode, home: NodeHome) -> None:
    node = await start()
    link = await Link.open(node.address, home.identity("proxy"))
    ski = home.ski("www-p256")
    for _ in range(3):
        assert isinstance(await link.ask(ski, Scheme.ECDSA_SHA256, b"x"), Signed)
    assert isinstance(await link.ask(home.ski("mail"), Scheme.ECDSA_SHA256, b"x"), Failed)
    await link.close()
    await node.stop()
    store = open_store(home.store, key_file=home.key_file)
    usage = VaultAdmin(store).usage()
    store.close()
    assert {ski: used.signatures for ski, used in usage.items()} == {ski: 3}
    assert usage[ski].last_used is not None


async def test_a_key_that_is_retired_signs_no_more_and_proxies_are_told(start: StartNode, home: NodeHome) -> None:
    node = await start(node="refresh_interval_s = 60")
    link = await Link.open(node.address, home.identity("proxy"))
    await link.greet()
    ski = home.ski("www-p256")
    assert isinstance(await link.ask(ski, Scheme.ECDSA_SHA256, b"x"), Signed)
    await manage(node, "POST", "/keys/www-p256/retire", {})
    refused = await link.ask(ski, Scheme.ECDSA_SHA256, b"x")
    assert isinstance(refused, Failed)
    assert refused.detail == "this key is not active"
    assert any(isinstance(event, KeysChanged) for event in link.events)
    listed = await link.greet()
    assert isinstance(listed, KeysListed)
    assert listed.keys == ()
    await link.close()


async def test_other_rules_take_effect_for_who_is_connected(start: StartNode, home: NodeHome) -> None:
    node = await start()
    link = await Link.open(node.address, home.identity("proxy"))
    await link.greet()
    mail = home.ski("mail")
    assert isinstance(await link.ask(mail, Scheme.ECDSA_SHA256, b"x"), Failed)
    path = home.write_config(extra=f'[[access]]\nclient = "{PROXY}"\nkeys = ["mail"]\ndigests = true\n')
    answer = await manage(node, "POST", "/reload")
    assert answer == {"applied": ["access"], "needs_restart": []}
    assert isinstance(await link.ask(mail, Scheme.ECDSA_SHA256, b"x"), Signed)
    assert any(isinstance(event, KeysChanged) for event in link.events)
    path.write_text("nonsense")
    with pytest.raises(AssertionError, match="not valid TOML"):
        await manage(node, "POST", "/reload")
    assert isinstance(await link.ask(mail, Scheme.ECDSA_SHA256, b"x"), Signed)
    await link.close()


async def test_rules_that_came_while_a_node_started_are_its_rules(home: NodeHome) -> None:
    path = home.write_config(rule="digests = false")
    node = Node(load_config(path), home.path, path)
    home.write_config(rule="digests = true")
    await node._reload.reload()
    await node.start()
    link = await Link.open(node.address, home.identity("proxy"))
    assert isinstance(await link.ask(home.ski("www-p256"), Scheme.ECDSA_SHA256, b"x"), Signed)
    await link.close()
    await node.stop()


async def test_a_draining_node_is_not_ready(start: StartNode) -> None:
    node = await start()
    await node.drain()
    status, text = await get(node, "/readyz")
    assert status == 503
    assert json.loads(text)["draining"] is True
    assert (await get(node, "/healthz"))[0] == 200
    _status, metrics = await get(node, "/metrics")
    assert "sealgate_node_draining 1.0" in metrics


async def test_a_start_that_fails_leaves_nothing_behind(home: NodeHome) -> None:
    path = home.write_config()
    config = load_config(path)
    home.key_file.write_bytes(b"w" * 32)
    node = Node(config, home.path)
    with pytest.raises(TokenProblem):
        await node.start()
    await node.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(node, "/healthz")
    assert not node.management_socket.exists()


async def test_a_second_node_on_the_same_socket_is_refused(start: StartNode, home: NodeHome) -> None:
    await start("node-1")
    with pytest.raises(ListenError, match="another process listens there"):
        await start("node-1")


async def test_a_hurried_drain_ends_at_once(start: StartNode, home: NodeHome) -> None:
    node = await start(node="drain_timeout_s = 60")
    link = await Link.open(node.address, home.identity("proxy"))
    await link.greet()
    node.hurry()
    await asyncio.wait_for(node.drain(), 5)
    await link.close()


async def test_a_refresh_that_fails_is_survived_and_seen(start: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node = await start(node="refresh_interval_s = 0.01")
    calls = 0

    def broken() -> bool:
        nonlocal calls
        calls += 1
        raise OSError("disk")

    monkeypatch.setattr(node._tokens[0].backend, "refresh", broken)
    await until(lambda: calls >= 3)
    assert (await get(node, "/healthz"))[0] == 200
    node._refreshes[0]._refreshed_at -= 100
    assert (await get(node, "/healthz"))[0] == 503


async def test_a_store_that_hangs_does_not_keep_a_node_from_stopping(
    start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start(node="refresh_interval_s = 0.01")
    hangs, gate = threading.Event(), threading.Event()

    def hang() -> bool:
        hangs.set()
        return not gate.wait(30)

    closed: list[bool] = []
    (opened,) = node._tokens

    async def close() -> None:
        closed.append(True)

    monkeypatch.setattr(opened.backend, "refresh", hang)
    monkeypatch.setattr(node, "_tokens", (replace(opened, close=close),))
    await until(hangs.is_set)
    await asyncio.wait_for(node.drain(), 5)
    await asyncio.wait_for(node.stop(), 5)
    assert not closed, "the store was closed under a thread that is in it"
    gate.set()
    assert await node._calls.finished(10)
    await opened.close()
