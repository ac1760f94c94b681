"""The router under any order of events: each job ends once, in time, and only nodes that may be asked are asked."""

from __future__ import annotations

from collections import Counter
from random import Random
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from hsm.wire.schemes import KeyFamily
from proxy.base.errors import SigningError, SigningReason
from proxy.base.jobs import SignJob
from proxy.signing import dispatch
from proxy.signing.commands import (
    CancelAttempt,
    RoutedJob,
)
from proxy.signing.facts import NodeFacts
from proxy.signing.fleet import BUSY_MAX_S, BUSY_MIN_S
from proxy.signing.inventory import MISS_MEMORY_S
from proxy.signing.router import Router
from tests.support.play import node_address, policy
from tests.support.router_world import (
    ALL,
    AT_FIRST,
    EC,
    HEDGE_SHARE,
    KEYS,
    KINDS,
    MAX_ATTEMPTS,
    MAX_WAITING,
    NO_NODE_WAIT_S,
    RETRY_BURST,
    RETRY_SHARE,
    SCHEMES,
    TICK_S,
    WIDEST,
    RouterWorld,
    Watched,
)

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


class RouterMachine(RouterWorld):
    """Anything may happen in the world, in any order."""

    @initialize(seed=st.integers(0, 1000), up=st.lists(st.sampled_from(AT_FIRST), unique=True), knows=st.booleans())
    def begin(self, seed: int, up: list[str], knows: bool) -> None:
        limits = {"max_in_flight_per_node": WIDEST, "max_waiting_jobs": MAX_WAITING, "max_attempts": MAX_ATTEMPTS}
        with patch.object(dispatch, "RETRY_BURST", RETRY_BURST):
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
