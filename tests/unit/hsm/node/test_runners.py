"""Several tokens behind one service: each has its lanes, and none waits for another."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from hsm.backends.base import BackendError
from hsm.node.access import AccessRule
from hsm.node.admission import Lane
from hsm.node.observe import LaneName, LaneStatus, Outcome
from hsm.node.requests import Client, ServiceLimits
from hsm.node.runners import TOO_LONG
from hsm.node.service import Service
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType, Scheme
from hsm.wire.session import SignRequested
from tests.support.node import PROXY, FakeAwaited, FakeBackend, open_token, until
from tests.unit.hsm.node.test_service import Answers, Ear

VAULT_EC = KeyEntry(b"\x01" * 20, KeyType.P256, "vault-ec")
OTHER_EC = KeyEntry(b"\x02" * 20, KeyType.P256, "other-ec")
HSM_EC = KeyEntry(b"\x03" * 20, KeyType.P256, "hsm-ec")
BUSY = BackendError(ErrorCode.BUSY, "the token is being opened again", 0.7)


class Hall:
    """Two vaults and an HSM with two places, behind one service."""

    def __init__(self) -> None:
        self.vault = FakeBackend({VAULT_EC: "cheap"})
        self.other = FakeBackend({OTHER_EC: "cheap"})
        self.hsm = FakeAwaited(HSM_EC)
        self.ear, self.answers = Ear(), Answers()
        self.service = Service(
            [
                open_token("vault", self.vault),
                open_token("other", self.other),
                open_token("hsm", self.hsm, places=2, queue=2),
            ],
            [AccessRule(PROXY, ("*",), digests=True)],
            ServiceLimits(1000, 5.0, 30.0, 0.002),
            self.ear,
            asyncio.get_running_loop(),
        )
        self.client: Client = self.service.attach(PROXY, self.answers)
        self._ids = 0

    def ask(self, key: KeyEntry, *, deadline_s: float | None = None) -> int:
        self._ids += 1
        digest = self._ids.to_bytes(32, "big")
        self.service.sign(
            self.client, SignRequested(self._ids, key.ski, Scheme.ECDSA_SHA256, digest, deadline_s, "", "", "")
        )
        return self._ids

    def lane(self, token: int, name: LaneName) -> LaneStatus:
        return self.service.token_status()[token].lanes[name]

    async def answered(self, count: int) -> None:
        await until(lambda: self.answers.count >= count, f"{count} answers")


@pytest.fixture
async def hall() -> AsyncIterator[Hall]:
    hall = Hall()
    yield hall
    assert hall.service.stop(5.0) == ()


async def test_each_token_signs_with_its_own_keys(hall: Hall) -> None:
    ids = [hall.ask(key) for key in (VAULT_EC, OTHER_EC, HSM_EC)]
    hall.hsm.end()
    await hall.answered(3)
    assert sorted(hall.answers.signatures) == ids
    assert (hall.vault.signed, hall.other.signed) == (1, 1)
    assert [(status.name, status.kind, status.keys) for status in hall.service.token_status()] == [
        ("vault", "vault", 1),
        ("other", "vault", 1),
        ("hsm", "pkcs11", 1),
    ]


async def test_the_loop_serves_its_tokens_in_turn(hall: Hall) -> None:
    hall.vault.delay_s = hall.other.delay_s = 0.0005
    for _ in range(50):
        hall.ask(VAULT_EC)
    for _ in range(5):
        hall.ask(OTHER_EC)
    await hall.answered(55)
    signed = hall.ear.signed
    assert signed[:10] == ["vault-ec", "other-ec"] * 5, "a queue of 50 does not stand before one of 5"


async def test_an_awaited_token_has_as_many_under_way_as_it_has_places(hall: Hall) -> None:
    ids = [hall.ask(HSM_EC) for _ in range(4)]
    assert len(hall.hsm.begun) == 2
    lane = hall.lane(2, LaneName.AWAITED)
    assert (lane.in_flight, lane.places, lane.queued, lane.queue_limit) == (2, 2, 2, 2)
    refused = hall.ask(HSM_EC)
    assert hall.answers.errors[refused] == (ErrorCode.BUSY, "the queue is full")
    hall.hsm.end()
    assert len(hall.hsm.begun) == 2, "the next one took the free place"
    for _ in range(3):
        hall.hsm.end()
    assert sorted(hall.answers.signatures) == ids


async def test_a_hung_token_keeps_its_places_and_nobody_waiting(hall: Hall) -> None:
    hanging = [hall.ask(HSM_EC, deadline_s=0.05) for _ in range(3)]
    await hall.answered(3)
    details = [hall.answers.errors[number] for number in hanging]
    assert details[:2] == [(ErrorCode.DEADLINE, TOO_LONG)] * 2
    assert details[2] == (ErrorCode.DEADLINE, "the deadline passed in the queue")
    lane = hall.lane(2, LaneName.AWAITED)
    assert (lane.in_flight, lane.abandoned, lane.queued) == (2, 2, 0)
    assert hall.ask(VAULT_EC) not in hall.answers.errors
    await hall.answered(4)
    hall.hsm.end()
    hall.hsm.end(BUSY)
    assert hall.lane(2, LaneName.AWAITED).in_flight == 0
    assert hall.answers.count == 4, "nobody is told twice"
    again = hall.ask(HSM_EC)
    hall.hsm.end()
    assert again in hall.answers.signatures


async def test_when_a_token_expects_to_be_back_reaches_the_client(hall: Hall) -> None:
    refused = hall.ask(HSM_EC)
    hall.hsm.end(BUSY)
    assert hall.answers.errors[refused] == (ErrorCode.BUSY, "the token is being opened again")
    assert hall.answers.hints[refused][0] == 0.7
    assert ("hsm-ec", Outcome.BUSY) in hall.ear.ended


async def test_a_token_that_answers_twice_is_heard_once(hall: Hall) -> None:
    hall.ask(HSM_EC)
    [(_payload, on_signed)] = hall.hsm.begun
    on_signed(b"first")
    on_signed(b"second")
    on_signed(BUSY)
    assert list(hall.answers.signatures.values()) == [b"first"]
    assert hall.lane(2, LaneName.AWAITED).in_flight == 0


async def test_a_token_that_breaks_its_contract_is_answered_for(hall: Hall) -> None:
    hall.hsm.breaks_its_contract = True
    with capture_logs() as lines:
        failed = hall.ask(HSM_EC)
        await hall.answered(1)
    assert hall.answers.errors[failed] == (ErrorCode.INTERNAL, "the node's backend failed")
    assert "secret" not in str(lines)


async def test_cancelled_requests_leave_the_queue_and_keep_their_place(hall: Hall) -> None:
    ids = [hall.ask(HSM_EC) for _ in range(3)]
    hall.service.cancel(hall.client, ids[2])
    hall.service.cancel(hall.client, ids[0])
    lane = hall.lane(2, LaneName.AWAITED)
    assert (lane.in_flight, lane.abandoned, lane.queued) == (2, 1, 0)
    hall.hsm.end()
    hall.hsm.end()
    assert list(hall.answers.signatures) == [ids[1]]


async def test_a_key_of_two_tokens_is_signed_with_by_the_first_and_told_once(hall: Hall) -> None:
    hall.hsm.entries = (HSM_EC, VAULT_EC)
    with capture_logs() as lines:
        hall.service.keys_changed()
        hall.service.keys_changed()
    [line] = [line for line in lines if line["event"] == "key_in_two_tokens"]
    assert (line["signs"], line["does_not_sign"]) == ("vault", "hsm")
    assert hall.service.key_count == 3
    assert [status.keys for status in hall.service.token_status()] == [1, 1, 1]
    hall.ask(VAULT_EC)
    await hall.answered(1)
    assert not hall.hsm.begun
    hall.vault.costs = {}
    hall.service.keys_changed()
    hall.ask(VAULT_EC)
    assert hall.hsm.begun, "the second one takes over when the first has it no more"
    hall.hsm.end()


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_tokens_do_each_request_ends_exactly_once(seed: int) -> None:
    """Answered once, or cancelled and not answered; `Answers` refuses a second answer."""
    dice, hall = random.Random(seed), Hall()
    cancelled: set[int] = set()
    asked = 0
    for _ in range(500):
        happening = dice.random()
        if happening < 0.5:
            asked = hall.ask(dice.choice((VAULT_EC, OTHER_EC, HSM_EC, HSM_EC)), deadline_s=dice.choice((None, 0.002)))
        elif happening < 0.6 and asked:
            victim = dice.randint(1, asked)
            if victim in hall.client.tickets:
                cancelled.add(victim)
            hall.service.cancel(hall.client, victim)
        elif happening < 0.85 and hall.hsm.begun:
            hall.hsm.begun.append(hall.hsm.begun.pop(0))
            hall.hsm.end(dice.choice((None, None, BUSY)))
        else:
            await asyncio.sleep(dice.choice((0, 0, 0.003)))
        lane = hall.lane(2, LaneName.AWAITED)
        assert lane.in_flight <= lane.places
        assert lane.queued <= lane.queue_limit
        assert len(hall.hsm.begun) == lane.in_flight
    while hall.hsm.begun:
        hall.hsm.end()
    await until(lambda: hall.service.open_requests == 0)
    assert hall.answers.count + len(cancelled) == asked
    assert len(hall.ear.signed) + len(hall.ear.ended) == asked
    assert not cancelled & (hall.answers.signatures.keys() | hall.answers.errors.keys())
    assert hall.service.stop(5.0) == ()


def test_a_lane_of_the_loop_learns_nothing_of_the_time_it_did_not_work() -> None:
    lane = Lane(1, 10, is_serial=True, service_s=0.0001)
    lane.settle(100.0)
    assert lane.service_s == 0.0001
