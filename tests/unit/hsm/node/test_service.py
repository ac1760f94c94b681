"""The life of a request."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from hsm.backends.base import BackendError
from hsm.node.access import AccessRule, Denial
from hsm.node.observe import LaneName, LaneStatus, NodeObserver, Outcome
from hsm.node.requests import Client, ServiceLimits
from hsm.node.service import Service
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType, Scheme
from hsm.wire.session import SignRequested
from tests.support.node import PROXY, FakeBackend, open_token, until

EC = KeyEntry(b"\x01" * 20, KeyType.P256, "www-ec")
RSA = KeyEntry(b"\x02" * 20, KeyType.RSA_2048, "www-rsa")
MAIL = KeyEntry(b"\x03" * 20, KeyType.P256, "mail")
DIGEST = b"d" * 32


@dataclass
class Answers:
    """What a connection is told."""

    signatures: dict[int, bytes] = field(default_factory=dict)
    errors: dict[int, tuple[ErrorCode, str]] = field(default_factory=dict)
    hints: dict[int, tuple[float | None, int | None]] = field(default_factory=dict)

    def reply_signature(self, request_id: int, signature: bytes) -> None:
        assert request_id not in self.signatures
        assert request_id not in self.errors
        self.signatures[request_id] = signature

    def reply_error(
        self,
        request_id: int,
        code: ErrorCode,
        detail: str = "",
        retry_after_s: float | None = None,
        queue_depth: int | None = None,
    ) -> None:
        assert request_id not in self.signatures
        assert request_id not in self.errors
        self.errors[request_id] = (code, detail)
        self.hints[request_id] = (retry_after_s, queue_depth)

    @property
    def count(self) -> int:
        return len(self.signatures) + len(self.errors)


class Ear(NodeObserver):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.signed: list[str] = []
        self.ended: list[tuple[str, Outcome]] = []
        self.denied: list[tuple[str, Denial]] = []

    def request_signed(self, token: str, key: str, scheme: Scheme, queue_s: float, sign_s: float) -> None:
        assert queue_s >= 0
        assert sign_s >= 0
        self.signed.append(key)

    def request_ended(self, key: str, scheme: Scheme, outcome: Outcome) -> None:
        self.ended.append((key, outcome))

    def request_denied(self, client: str, denial: Denial) -> None:
        self.denied.append((client, denial))


class Play:
    """A service with a fake backend and one client."""

    def __init__(
        self, limits: ServiceLimits | None = None, *, threads: int = 1, queue: int = 4, loop_queue: int = 100
    ) -> None:
        self.backend = FakeBackend({EC: "cheap", RSA: "dear", MAIL: "cheap"})
        self.ear = Ear()
        self.answers = Answers()
        self.service = Service(
            [open_token("vault", self.backend, places=threads, queue=queue, loop_queue=loop_queue)],
            [AccessRule(PROXY, ("www-*",), ("*",), digests=True)],
            limits or limits_of(),
            self.ear,
            asyncio.get_running_loop(),
        )
        self.client = self.service.attach(PROXY, self.answers)
        self._ids = 0

    def ask(
        self,
        key: KeyEntry = EC,
        scheme: Scheme | None = None,
        *,
        deadline_s: float | None = None,
        client: Client | None = None,
    ) -> int:
        self._ids += 1
        scheme = scheme or (Scheme.RSA_PSS_SHA256 if key is RSA else Scheme.ECDSA_SHA256)
        request = SignRequested(self._ids, key.ski, scheme, DIGEST, deadline_s, "", "", "")
        self.service.sign(client or self.client, request)
        return self._ids

    async def answered(self, count: int) -> None:
        await until(lambda: self.answers.count >= count, f"{count} answers")
        assert self.answers.count == count


def limits_of(*, in_flight: int = 1000, tick_s: float = 0.002) -> ServiceLimits:
    return ServiceLimits(in_flight, 5.0, 30.0, tick_s)


def lane_of(play: Play, lane: LaneName, token: int = 0) -> LaneStatus:
    return play.service.token_status()[token].lanes[lane]


@pytest.fixture
async def play() -> AsyncIterator[Play]:
    play = Play()
    yield play
    play.backend.gate.set()
    assert play.service.stop(5.0) == ()


async def test_cheap_and_dear_keys_sign(play: Play) -> None:
    cheap, dear = play.ask(EC), play.ask(RSA)
    await play.answered(2)
    assert play.answers.signatures == {cheap: b"signed:" + DIGEST, dear: b"signed:" + DIGEST}
    assert sorted(play.ear.signed) == ["www-ec", "www-rsa"]
    assert play.service.open_requests == 0


async def test_what_the_access_list_does_not_allow_is_denied_and_counted(play: Play) -> None:
    forbidden = play.ask(MAIL)
    unfit = play.ask(EC, Scheme.RSA_PSS_SHA256)
    unknown = play.ask(KeyEntry(b"\x09" * 20, KeyType.P256, "?"))
    stranger = play.service.attach("CN=stranger", play.answers)
    strange = play.ask(EC, client=stranger)
    codes = {number: code for number, (code, _detail) in play.answers.errors.items()}
    assert codes == {
        forbidden: ErrorCode.DENIED,
        unfit: ErrorCode.DENIED,
        unknown: ErrorCode.KEY_NOT_FOUND,
        strange: ErrorCode.DENIED,
    }
    assert play.ear.denied == [
        (PROXY, Denial.KEY_NOT_ALLOWED),
        (PROXY, Denial.SCHEME_UNFIT),
        ("unknown", Denial.UNKNOWN_CLIENT),
    ]
    assert ("unknown", Outcome.KEY_NOT_FOUND) in play.ear.ended
    assert play.backend.signed == 0


async def test_denials_are_logged_with_who_what_and_why_in_bounded_number(play: Play) -> None:
    with capture_logs() as lines:
        for _ in range(100):
            play.ask(MAIL)
    assert 1 <= len(lines) <= 20
    assert lines[0]["event"] == "request_denied"
    assert (lines[0]["client"], lines[0]["key"], lines[0]["reason"]) == (PROXY, "mail", "key_not_allowed")
    assert len(play.answers.errors) == 100


async def test_inventory_holds_only_what_the_client_may_use(play: Play) -> None:
    assert play.service.usable_keys(play.client) == (EC, RSA)
    assert play.service.usable_keys(play.service.attach("CN=x", play.answers)) == ()


async def test_a_full_queue_says_busy_at_once_and_recovers(play: Play) -> None:
    play.backend.gate.clear()
    for _ in range(5):
        play.ask(RSA)
    refused = play.ask(RSA)
    assert play.answers.errors[refused] == (ErrorCode.BUSY, "the queue is full")
    retry_after_s, depth = play.answers.hints[refused]
    assert retry_after_s is not None
    assert retry_after_s > 0
    assert depth == 4
    assert play.ask(EC) not in play.answers.errors, "cheap work has a queue of its own"
    play.backend.gate.set()
    await play.answered(7)
    late = play.ask(RSA)
    await play.answered(8)
    assert late in play.answers.signatures


async def test_a_deadline_ends_waiting_and_hanging_requests(play: Play) -> None:
    play.backend.gate.clear()
    hanging = play.ask(RSA, deadline_s=0.05)
    await until(lambda: play.backend.begun == 1)
    waiting = play.ask(RSA, deadline_s=0.05)
    await play.answered(2)
    assert play.answers.errors == {
        hanging: (ErrorCode.DEADLINE, "the token took too long"),
        waiting: (ErrorCode.DEADLINE, "the deadline passed in the queue"),
    }
    lane = lane_of(play, LaneName.DEAR)
    assert (lane.queued, lane.in_flight, lane.abandoned) == (0, 1, 1)
    play.backend.gate.set()
    await until(lambda: lane_of(play, LaneName.DEAR).in_flight == 0)
    assert play.answers.count == 2
    assert play.backend.begun == 1, "nobody waited for the second one when its thread came to it"


async def test_a_deadline_in_the_cheap_queue_is_kept(play: Play) -> None:
    play.backend.delay_s = 0.02
    first, second = play.ask(EC), play.ask(EC, deadline_s=0.01)
    await play.answered(2)
    assert first in play.answers.signatures
    assert play.answers.errors[second][0] is ErrorCode.DEADLINE


async def test_cancelled_work_is_not_answered_and_not_done(play: Play) -> None:
    play.backend.gate.clear()
    running, waiting = play.ask(RSA), play.ask(RSA)
    await until(lambda: play.backend.begun == 1)
    play.service.cancel(play.client, waiting)
    play.service.cancel(play.client, running)
    play.service.cancel(play.client, running)
    play.service.cancel(play.client, 999)
    play.backend.gate.set()
    await until(lambda: lane_of(play, LaneName.DEAR).in_flight == 0)
    assert play.answers.count == 0
    assert play.backend.signed == 1
    assert play.ear.ended == [("www-rsa", Outcome.CANCELLED)] * 2


async def test_a_client_that_leaves_takes_its_work_with_it(play: Play) -> None:
    play.backend.gate.clear()
    play.ask(RSA)
    await until(lambda: play.backend.begun == 1)
    for key in (RSA, EC):
        play.ask(key)
    play.service.detach(play.client)
    play.service.detach(play.client)
    assert play.service.open_requests == 0
    play.backend.gate.set()
    await until(lambda: lane_of(play, LaneName.DEAR).in_flight == 0)
    assert play.answers.count == 0
    assert play.backend.signed == 1


async def test_requests_in_flight_are_bounded_per_client() -> None:
    play = Play(limits_of(in_flight=2), queue=100)
    play.backend.gate.clear()
    play.ask(RSA)
    play.ask(RSA)
    third = play.ask(RSA)
    assert play.answers.errors[third][0] is ErrorCode.BUSY
    play.backend.gate.set()
    await play.answered(3)
    assert play.service.stop(5.0) == ()


async def test_cheap_work_lets_the_loop_breathe() -> None:
    play = Play(loop_queue=1000)
    play.backend.delay_s = 0.0005
    loop = asyncio.get_running_loop()
    longest = 0.0
    last = loop.time()

    def watch() -> None:
        nonlocal longest, last
        now = loop.time()
        longest, last = max(longest, now - last), now
        if play.answers.count < 200:
            loop.call_soon(watch)

    for _ in range(200):
        play.ask(EC, deadline_s=20)
    loop.call_soon(watch)
    await play.answered(200)
    assert len(play.answers.signatures) == 200
    assert longest < 0.1, "200 signatures of 0.5 ms were made without a look at the sockets"
    assert play.service.stop(5.0) == ()


async def test_a_draining_node_finishes_and_takes_nothing_new(play: Play) -> None:
    play.backend.gate.clear()
    taken = play.ask(RSA)
    play.service.drain()
    late = play.ask(EC)
    assert play.answers.errors[late][0] is ErrorCode.DRAINING
    assert play.service.open_requests == 1
    play.backend.gate.set()
    await play.answered(2)
    assert taken in play.answers.signatures


@pytest.mark.parametrize(
    ("failure", "code", "detail"),
    [
        (BackendError(ErrorCode.CRYPTOGRAPHY, "no"), ErrorCode.CRYPTOGRAPHY, "no"),
        (BackendError(ErrorCode.KEY_NOT_FOUND, "gone"), ErrorCode.KEY_NOT_FOUND, "gone"),
        (RuntimeError("secret"), ErrorCode.INTERNAL, "the node's backend failed"),
    ],
)
@pytest.mark.parametrize("key", [EC, RSA])
async def test_failures_of_the_backend_become_answers(
    play: Play, key: KeyEntry, failure: Exception, code: ErrorCode, detail: str
) -> None:
    play.backend.failure = failure
    failed = play.ask(key)
    await play.answered(1)
    assert play.answers.errors[failed] == (code, detail)
    play.backend.failure = None
    assert play.ask(key) != failed
    await play.answered(2)
    assert len(play.answers.signatures) == 1


async def test_changed_keys_change_what_clients_may_do(play: Play) -> None:
    new = KeyEntry(b"\x04" * 20, KeyType.P384, "www-new")
    play.backend.costs = {new: "cheap", MAIL: "cheap"}
    play.service.keys_changed()
    assert play.service.key_count == 2
    assert play.service.usable_keys(play.client) == (new,)
    signed, gone = play.ask(new, Scheme.ECDSA_SHA256), play.ask(EC)
    await play.answered(2)
    assert signed in play.answers.signatures
    assert play.answers.errors[gone][0] is ErrorCode.KEY_NOT_FOUND


async def test_asked_for_deadlines_are_capped() -> None:
    play = Play(ServiceLimits(10, 0.05, 0.1, 0.002))
    play.backend.gate.clear()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    play.ask(RSA, deadline_s=10_000)
    play.ask(RSA)
    await play.answered(2)
    assert loop.time() - begin < 2.0
    play.backend.gate.set()
    assert play.service.stop(5.0) == ()


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_each_request_ends_exactly_once(seed: int) -> None:
    """Answered once, or cancelled and not answered; `Answers` refuses a second answer."""
    dice = random.Random(seed)
    play = Play(limits_of(in_flight=20), threads=2, queue=5, loop_queue=8)
    open_ids: set[int] = set()
    cancelled: set[int] = set()
    asked = 0
    for _ in range(400):
        happening = dice.random()
        if happening < 0.6:
            key = dice.choice((EC, RSA, RSA, MAIL))
            open_ids.add(play.ask(key, deadline_s=dice.choice((None, 0.0, 0.002, 1.0))))
            asked += 1
        elif happening < 0.75 and open_ids:
            victim = dice.choice(sorted(open_ids))
            if victim not in play.answers.signatures and victim not in play.answers.errors:
                cancelled.add(victim)
            play.service.cancel(play.client, victim)
        elif happening < 0.8:
            play.backend.gate.set() if dice.random() < 0.7 else play.backend.gate.clear()
        else:
            await asyncio.sleep(dice.choice((0, 0, 0.001)))
        open_ids -= set(play.answers.signatures) | set(play.answers.errors) | cancelled
    play.backend.gate.set()
    await until(lambda: play.service.open_requests == 0)
    lanes = (LaneName.CHEAP, LaneName.DEAR)
    await until(lambda: all(not lane_of(play, name).in_flight and not lane_of(play, name).queued for name in lanes))
    assert not cancelled & (set(play.answers.signatures) | set(play.answers.errors))
    assert play.answers.count + len(cancelled) == asked
    assert len(play.ear.signed) + len(play.ear.ended) == asked
    assert play.service.stop(5.0) == ()
