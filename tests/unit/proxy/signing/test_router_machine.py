"""The router under any order of events: each job ends once, in time, and only nodes that may be asked are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from random import Random
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hsm.wire.schemes import KeyFamily, KeyType, Scheme
from proxy.base.errors import SigningError, SigningReason
from proxy.base.jobs import SignJob
from proxy.base.policy import RoutingPolicy
from proxy.signing import latency
from proxy.signing import router as router_module
from proxy.signing.commands import (
    Attempt,
    CancelAttempt,
    Command,
    DelayRetry,
    Fail,
    Finish,
    NodeEjected,
    NodeReturned,
    RoutedJob,
    SendTo,
)
from proxy.signing.endings import PAID
from proxy.signing.facts import NodeFacts
from proxy.signing.fleet import BUSY_MAX_S, BUSY_MIN_S
from proxy.signing.inventory import MISS_MEMORY_S
from proxy.signing.router import Router
from proxy.signing.selection import BestOfTwo, Seat, Seats
from tests.support.play import node_address, policy

ALL = ["a", "b", "c", "d"]
AT_FIRST = ALL[:3]
EC, OTHER_EC, RSA = KEYS = [bytes([number]) * 20 for number in range(3)]
KINDS = {EC: KeyType.P256, RSA: KeyType.RSA_2048}
SCHEMES = {EC: Scheme.ECDSA_SHA256, OTHER_EC: Scheme.ECDSA_SHA256, RSA: Scheme.RSA_PSS_SHA256}
WIDEST, MAX_WAITING, MAX_ATTEMPTS = 4, 5, 4
HEDGE_SHARE, RETRY_SHARE, RETRY_BURST = 0.2, 0.2, 2.0
NO_NODE_WAIT_S = 0.5
TICK_S = 0.001
REASONS = [
    SigningReason.BUSY,
    SigningReason.NODE_ERROR,
    SigningReason.WRONG_SIGNATURE,
    SigningReason.KEY_NOT_FOUND,
    SigningReason.DENIED,
    SigningReason.DRAINING,
    SigningReason.LINK_LOST,
]
node_names = st.sampled_from(ALL)
families = st.frozensets(st.sampled_from([KeyFamily.RSA, KeyFamily.EC]))


class Watched(BestOfTwo):
    """The router's own choice; what it chooses must be allowed at that moment."""

    def __init__(self, machine: RouterMachine, seed: int) -> None:
        super().__init__(machine.routing, Random(seed))
        self._machine = machine

    def choose(self, seats: Seats, now: float, avoid: Container[str] = ()) -> Seat | None:
        """See BestOfTwo."""
        seat = super().choose(seats, now, avoid)
        if seat is not None:
            assert seat in seats
            assert seat.name not in avoid
            self._machine.may_be_asked(seat)
        return seat


class RouterMachine(RuleBasedStateMachine):
    """A world around the router: it keeps the caller's promises about time and lets anything else happen."""

    def __init__(self) -> None:
        super().__init__()
        self.quick = patch.multiple(latency, FEWEST_SAMPLES=4, REFRESH_S=0.0)
        """A few answers tell what is usual, so that hedges are made."""
        self.quick.start()
        self.now = 100.0
        self.facts: dict[str, NodeFacts] = {}
        self.paused: dict[str, bool] = {}
        self.listed: dict[str, set[bytes] | None] = {}
        self.missing: dict[tuple[str, bytes], float] = {}
        self.busy_until: dict[str, float] = {}
        self.ejected: set[tuple[str, bytes]] = set()
        self.jobs: list[RoutedJob] = []
        self.ends: dict[int, str] = {}
        self.attempts: list[Attempt] = []
        self.denied: set[tuple[int, str]] = set()
        self.delayed: set[int] = set()
        self.lonely_since: dict[int, float] = {}
        self.hedges = self.paid_retries = 0
        self.is_stopping = False
        self.routing = RoutingPolicy(
            window_initial=3,
            window_min=1,
            hedge_share=HEDGE_SHARE,
            retry_share=RETRY_SHARE,
            eject_after=3,
            eject_volume=5,
            no_node_wait_s=NO_NODE_WAIT_S,
        )

    @initialize(seed=st.integers(0, 1000), up=st.lists(st.sampled_from(AT_FIRST), unique=True), knows=st.booleans())
    def begin(self, seed: int, up: list[str], knows: bool) -> None:
        limits = {"max_in_flight_per_node": WIDEST, "max_waiting_jobs": MAX_WAITING, "max_attempts": MAX_ATTEMPTS}
        with patch.object(router_module, "RETRY_BURST", RETRY_BURST):
            self.router = Router(
                [node_address(name) for name in AT_FIRST],
                policy(**limits),
                self.routing,
                rng=Random(seed),
                kinds=KINDS,
                selection=Watched(self, seed),
            )
        for name in AT_FIRST:
            self.know(name)
        for name in up:
            self.list_keys(name, set(KEYS))
            self.learn_facts(name, True, frozenset())
        if up and knows:
            self.signs_for_a_while(EC)

    # what may happen to jobs

    @rule(
        key=st.sampled_from(KEYS),
        site=st.sampled_from(["s", "t"]),
        lasts_s=st.floats(0.001, 6.0),
        count=st.integers(1, 6),
    )
    def submit(self, key: bytes, site: str, lasts_s: float, count: int) -> None:
        for _ in range(count):
            job = SignJob(ski=key, scheme=SCHEMES[key], message=b"", site=site, deadline=self.now + lasts_s)
            self.jobs.append(RoutedJob(job, self.now, job.deadline))
            self.carry_out(self.router.submit(self.jobs[-1], self.now))

    @rule(key=st.sampled_from(KEYS))
    def signs_for_a_while(self, key: bytes) -> None:
        """Enough answers for the router to know what is usual."""
        for _ in range(25):
            self.submit(key, "s", 1.0, 1)
            attempt = self.jobs[-1].attempt
            if attempt is None:
                return
            self.advance(self.now + 0.002)
            if not attempt.is_over:
                self.carry_out(self.router.on_signed(attempt, b"signature", self.now))

    @rule(key=st.sampled_from(KEYS), passes_s=st.floats(0.001, 0.04))
    def answers_slowly(self, key: bytes, passes_s: float) -> None:
        """Long enough for a second node to be asked, mostly, and not for the first to be given up."""
        self.submit(key, "s", 1.0, 1)
        self.advance(self.now + passes_s)

    @precondition(lambda self: self.open_attempts())
    @rule(data=st.data())
    def sign(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.open_attempts()))
        self.carry_out(self.router.on_signed(attempt, b"signature", self.now))
        assert self.ends[id(attempt.routed)] == "signed"

    @precondition(lambda self: self.open_attempts())
    @rule(
        data=st.data(),
        reason=st.sampled_from(REASONS),
        retry_after_s=st.none() | st.floats(0, 5),
        is_final=st.sampled_from([False, False, False, True]),
    )
    def answer_with_an_error(
        self, data: st.DataObject, reason: SigningReason, retry_after_s: float | None, is_final: bool
    ) -> None:
        attempt = data.draw(st.sampled_from(self.open_attempts()))
        node, routed = attempt.node, attempt.routed
        if reason is SigningReason.DRAINING:
            self.facts[node] = NodeFacts(False, self.facts[node].failing)
        elif reason is SigningReason.DENIED:
            self.denied.add((id(routed), node))
        elif reason is SigningReason.KEY_NOT_FOUND:
            self.missing[node, routed.ski] = self.now + MISS_MEMORY_S
        elif reason is SigningReason.BUSY:
            after_s = BUSY_MIN_S if retry_after_s is None else min(max(retry_after_s, BUSY_MIN_S), BUSY_MAX_S)
            self.busy_until[node] = self.now + after_s
        error = SigningError(reason, node=node)
        self.failed(
            attempt,
            reason,
            self.router.on_error(attempt, error, self.now, retry_after_s=retry_after_s, is_final=is_final),
        )

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def answer_late(self, data: st.DataObject) -> None:
        over = [attempt for attempt in self.attempts if attempt.is_over]
        if over:
            attempt = data.draw(st.sampled_from(over))
            assert self.router.on_signed(attempt, b"late", self.now) == []
            assert self.router.on_attempt_timeout(attempt, self.now) == []

    @precondition(lambda self: self.open_jobs())
    @rule(data=st.data())
    def client_leaves(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.open_jobs()))
        live = {attempt for attempt in (job.attempt, job.hedge) if attempt is not None}
        self.ends[id(job)] = "cancelled"
        commands = self.router.cancel(job, self.now)
        told = {command.attempt for command in commands if isinstance(command, CancelAttempt)}
        assert told == live
        self.carry_out(commands)

    # what may happen to nodes

    @rule(name=node_names, is_usable=st.booleans(), failing=families)
    def learn_facts(self, name: str, is_usable: bool, failing: frozenset[KeyFamily]) -> None:
        if name not in self.facts:
            return
        if is_usable and not self.facts[name].is_usable:
            self.busy_until[name] = 0.0
        self.facts[name] = NodeFacts(is_usable, failing)
        self.carry_out(self.router.on_facts(name, self.facts[name], self.now))

    @rule(name=node_names)
    def lose_link(self, name: str) -> None:
        if name in self.facts:
            self.facts[name], self.paused[name] = NodeFacts(), False
            self.carry_out(self.router.on_link_lost(name, self.now))
            assert not any(attempt.node == name for attempt in self.open_attempts())

    @rule(name=node_names, is_paused=st.booleans())
    def pause(self, name: str, is_paused: bool) -> None:
        if name in self.facts:
            self.paused[name] = is_paused
            self.carry_out(self.router.on_paused(name, self.now, is_paused=is_paused))

    @rule(name=node_names, keys=st.none() | st.sets(st.sampled_from(KEYS)))
    def list_keys(self, name: str, keys: set[bytes] | None) -> None:
        if name in self.facts:
            self.listed[name] = keys
            self.missing = {pair: until for pair, until in self.missing.items() if pair[0] != name}
            self.carry_out(self.router.on_keys(name, keys, self.now))

    @rule(name=node_names, key=st.sampled_from(KEYS))
    def probe_finds_no_key(self, name: str, key: bytes) -> None:
        if name in self.facts:
            self.missing[name, key] = self.now + MISS_MEMORY_S
            self.carry_out(self.router.on_key_missing(name, key, self.now))

    @rule(name=node_names, key=st.sampled_from([*KEYS, b""]))
    def probe_is_good(self, name: str, key: bytes) -> None:
        self.router.on_proven(name, key, 0.002, self.now)

    @rule(name=node_names)
    def node_comes(self, name: str) -> None:
        if name not in self.facts:
            self.know(name)
            self.carry_out(self.router.add_node(node_address(name), self.now))

    @rule(name=node_names)
    def node_goes(self, name: str) -> None:
        if name in self.facts:
            del self.facts[name]
            self.missing = {pair: until for pair, until in self.missing.items() if pair[0] != name}
            commands = self.router.remove_node(name, self.now)
            self.ejected = {pair for pair in self.ejected if pair[0] != name}
            self.carry_out(commands)
            assert not any(attempt.node == name for attempt in self.open_attempts())

    @rule(passes_s=st.floats(0.0005, 3.0))
    def time_passes(self, passes_s: float) -> None:
        self.advance(self.now + passes_s)

    @precondition(lambda self: len(self.jobs) > 30)
    @rule()
    def proxy_stops(self) -> None:
        self.is_stopping = True
        self.carry_out(self.router.stop())
        assert self.router.waiting == 0

    # the caller's promises

    def advance(self, until: float) -> None:
        for _turn in range(100_000):
            due = min([attempt.deadline for attempt in self.open_attempts()] + [self.router.next_time(self.now)])
            assert due > self.now - TICK_S, "the router's timer does not move on: it would spin"
            if due > until:
                break
            self.now = max(self.now, due)
            for attempt in self.open_attempts():
                if attempt.deadline <= self.now and not attempt.is_over:
                    self.failed(attempt, SigningReason.TIMEOUT, self.router.on_attempt_timeout(attempt, self.now))
            self.carry_out(self.router.on_time(self.now))
        else:
            raise AssertionError("time stands still")
        self.now = until

    def failed(self, attempt: Attempt, reason: SigningReason, commands: list[Command]) -> None:
        """An attempt failed: was another one, at the expense of the retry budget, what followed?"""
        routed = attempt.routed
        is_delayed = any(isinstance(command, DelayRetry) and command.routed is routed for command in commands)
        is_ended = any(isinstance(command, Fail) and command.routed is routed for command in commands)
        had_other = any(
            each is not attempt and each.routed is routed for each in self.attempts if not each.is_over
        ) and not any(isinstance(command, SendTo) and command.attempt.routed is routed for command in commands)
        if reason in PAID and not (is_delayed or is_ended or had_other):
            self.paid_retries += 1
        self.carry_out(commands)

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, SendTo):
                self.sent(command.attempt)
            elif isinstance(command, Finish):
                self.ended(command.routed, "signed")
            elif isinstance(command, Fail):
                self.ended(command.routed, command.error.reason.value)
            elif isinstance(command, DelayRetry):
                self.delayed.add(id(command.routed))
            elif isinstance(command, NodeEjected):
                assert (command.node, command.ski) not in self.ejected
                assert command.until > self.now
                self.ejected.add((command.node, command.ski))
            elif isinstance(command, NodeReturned):
                self.ejected.remove((command.node, command.ski))
            else:
                assert isinstance(command, CancelAttempt)
                assert command.attempt.is_over

    def sent(self, attempt: Attempt) -> None:
        routed = attempt.routed
        assert id(routed) not in self.ends, "a job that is over was sent"
        assert (id(routed), attempt.node) not in self.denied, "it said that it will never sign this"
        assert self.now < attempt.deadline <= routed.deadline
        self.delayed.discard(id(routed))
        self.hedges += attempt.is_hedge
        self.attempts.append(attempt)

    def ended(self, routed: RoutedJob, how: str) -> None:
        assert id(routed) not in self.ends, f"ended twice: {self.ends[id(routed)]}, then {how}"
        assert self.now <= routed.deadline + TICK_S, "ended after its deadline"
        assert not self.is_stopping or how in ("signed", "stopped") or routed.attempts or routed.refused or routed.tried
        self.ends[id(routed)] = how

    # what must be so

    def may_be_asked(self, seat: Seat) -> None:
        name, load = seat.name, seat.load
        assert self.facts[name].is_usable, f"{name} is not up"
        assert not self.paused[name]
        assert self.now >= self.busy_until[name], f"{name} is busy"
        assert self.holds(name, seat.ski), f"{name} does not hold the key"
        assert load.in_flight < load.limit <= WIDEST
        assert seat.in_flight < load.key_limit

    def holds(self, name: str, ski: bytes) -> bool:
        keys = self.listed[name]
        return (keys is None or ski in keys) and self.missing.get((name, ski), 0.0) <= self.now

    def open_attempts(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.is_over]

    def open_jobs(self) -> list[RoutedJob]:
        return [job for job in self.jobs if id(job) not in self.ends]

    def know(self, name: str) -> None:
        self.facts[name], self.paused[name], self.listed[name] = NodeFacts(), False, None
        self.busy_until[name] = 0.0

    @invariant()
    def what_is_under_way_is_counted_once(self) -> None:
        if not hasattr(self, "router"):
            return
        live = self.open_attempts()
        assert self.router.active == len(live)
        here = Counter(attempt.node for attempt in live)
        assert {name: self.router.load_of(name).in_flight for name in self.facts} == {
            name: here[name] for name in self.facts
        }
        seats = Counter((attempt.node, attempt.routed.ski) for attempt in live)
        for attempt in live:
            assert attempt.seat.in_flight == seats[attempt.node, attempt.routed.ski]
        for job in self.jobs:
            mine = [attempt for attempt in live if attempt.routed is job]
            assert mine == [attempt for attempt in (job.attempt, job.hedge) if attempt is not None]
            assert len({attempt.node for attempt in mine}) == len(mine) <= 2
            assert not (mine and id(job) in self.ends), "a node still works for a job that is over"

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "router"):
            return
        assert 0 <= self.router.waiting <= MAX_WAITING
        assert self.router.waiting == sum(job.attempt is None for job in self.open_jobs())
        assert all(job.attempts <= MAX_ATTEMPTS + 1 for job in self.jobs)
        assert all(self.now < job.deadline + TICK_S for job in self.open_jobs())
        assert self.hedges <= HEDGE_SHARE * len(self.jobs)
        assert self.paid_retries <= RETRY_SHARE * len(self.jobs) + RETRY_BURST

    @invariant()
    def nobody_waits_beside_a_node_that_would_take_it(self) -> None:
        if not hasattr(self, "router"):
            return
        for job in self.open_jobs():
            if job.attempt is not None or job.refused or id(job) in self.delayed or self.now < job.not_before:
                continue
            seats = self.router.fleet.seats_of(job.ski, self.now)
            seat = Watched(self, 1).choose(seats, self.now)
            assert seat is None, f"{job.ski!r} waits beside {seat}"

    @invariant()
    def nobody_waits_long_for_a_node_of_its_key(self) -> None:
        if not hasattr(self, "router"):
            return
        lonely = [
            job
            for job in self.open_jobs()
            if not any(facts.is_usable and self.holds(name, job.ski) for name, facts in self.facts.items())
            and job.attempt is None
        ]
        self.lonely_since = {id(job): self.lonely_since.get(id(job), self.now) for job in lonely}
        for job in lonely:
            resting_s = max(0.0, job.not_before - self.lonely_since[id(job)])
            assert self.now - self.lonely_since[id(job)] <= NO_NODE_WAIT_S + resting_s + 0.06

    def teardown(self) -> None:
        self.quick.stop()
        if not hasattr(self, "router"):
            return
        if len(self.jobs) % 2:
            self.carry_out(self.router.abandon())
            assert not self.open_jobs(), "a job was left"
        self.advance(self.now + 40.0)
        assert not self.open_jobs(), "a job never ended"
        assert self.router.waiting == self.router.active == 0
        assert not self.ejected, "an ejection never ended"
        assert self.router.next_time(self.now) == float("inf")
        for name in list(self.facts):
            self.node_goes(name)
        assert self.router.next_time(self.now) == float("inf")
        self.submit(EC, "s", 1.0, 1)
        assert self.ends[id(self.jobs[-1])] in ("key_not_found", "stopped")


TestRouterMachine = RouterMachine.TestCase
TestRouterMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
