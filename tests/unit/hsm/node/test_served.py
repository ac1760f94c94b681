"""Which token signs with which key."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from hsm.backends.attributes import KeyAttributes, Purpose
from hsm.node.observe import LaneName
from hsm.node.requests import SignTicket
from hsm.node.runners import LoopTurns
from hsm.node.served import Double, ServedToken, serve_keys
from hsm.node.usage import UsageCounts
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType
from tests.support.node import FakeAwaited, FakeBackend, open_token

EC = KeyEntry(b"\x01" * 20, KeyType.P256, "ec")
RSA = KeyEntry(b"\x02" * 20, KeyType.RSA_2048, "rsa")
HSM = KeyEntry(b"\x03" * 20, KeyType.P256, "hsm")


class Nobody:
    """Hears of tickets that there are none of."""

    def answered(self, ticket: SignTicket) -> None:
        raise AssertionError(ticket)

    def came_late(self, ticket: SignTicket, detail: str) -> None:
        raise AssertionError(ticket)


def served(name: str, backend: FakeBackend | FakeAwaited) -> ServedToken:
    loop = asyncio.get_running_loop()
    token = open_token(name, backend, places=2, queue=7, loop_queue=9)
    return ServedToken(token, LoopTurns(loop, time.monotonic, Nobody(), 0.002), loop, time.monotonic, Nobody())


async def test_each_key_waits_in_the_lane_that_fits_it() -> None:
    vault, hsm = served("vault", FakeBackend({EC: "cheap", RSA: "dear"})), served("hsm", FakeAwaited(HSM))
    keys, doubles = serve_keys((vault, hsm), UsageCounts())
    assert doubles == []
    assert keys[EC.ski].runner is vault.runners[LaneName.CHEAP]
    assert keys[RSA.ski].runner is vault.runners[LaneName.DEAR]
    assert keys[HSM.ski].runner is hsm.runners[LaneName.AWAITED]
    limits = {name: (lane.places, lane.queue_limit) for name, lane in vault.status().lanes.items()}
    assert limits == {LaneName.CHEAP: (1, 9), LaneName.DEAR: (2, 7)}
    assert {name: lane.places for name, lane in hsm.status().lanes.items()} == {LaneName.AWAITED: 2}
    assert vault.stop(5.0)
    assert hsm.stop(5.0)


async def test_the_first_token_of_the_config_signs_with_a_key_of_two() -> None:
    first, second = served("first", FakeAwaited(EC, HSM)), served("second", FakeAwaited(HSM, RSA))
    for tokens, owner in (((first, second), first), ((second, first), second)):
        keys, doubles = serve_keys(tokens, UsageCounts())
        assert len(keys) == 3
        assert keys[HSM.ski].token is owner
        assert doubles == [Double(HSM.ski, tokens[0].name, tokens[1].name)]
        assert sum(token.status().keys for token in tokens) == 3


async def test_what_the_owner_says_of_a_key_is_kept_with_it_and_its_count_stays() -> None:
    hsm, counts = FakeAwaited(EC, HSM), UsageCounts()
    hsm.attributes = {EC.ski: KeyAttributes(purpose=Purpose.CA)}
    token = served("hsm", hsm)
    keys, _doubles = serve_keys((token,), counts)
    assert not keys[EC.ski].is_tls_only
    assert keys[HSM.ski].is_tls_only, "what nobody said anything about signs handshakes only"
    keys[EC.ski].count.signatures += 1
    again, _doubles = serve_keys((token,), counts)
    assert again[EC.ski].count is keys[EC.ski].count


async def test_how_a_token_is_is_asked_of_itself() -> None:
    token = served("hsm", FakeAwaited(EC))
    assert token.status().is_up
    token.token = replace(token.token, state=lambda: "reopening", details=lambda: {"crashes": 3})
    status = token.status()
    assert (status.name, status.kind, status.state, status.is_up) == ("hsm", "pkcs11", "reopening", False)
    assert status.details == {"crashes": 3}


async def test_a_token_signs_in_one_way() -> None:
    loop = asyncio.get_running_loop()
    neither = replace(open_token("odd", FakeAwaited()), awaited=None)
    with pytest.raises(ValueError, match="'odd' has no backend"):
        ServedToken(neither, LoopTurns(loop, time.monotonic, Nobody(), 0.002), loop, time.monotonic, Nobody())
