"""The router under any order of events: each job ends once, in time, and only healthy nodes with its key are asked."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hsm.wire.schemes import Scheme
from proxy.base.errors import SigningError, SigningReason
from proxy.base.jobs import SignJob
from proxy.signing.commands import Attempt, CancelAttempt, Command, Fail, Finish, RoutedJob, SendTo
from proxy.signing.router import Router
from tests.support.play import policy

NODES = ["a", "b", "c"]
KEYS = [bytes([number]) * 20 for number in range(3)]
LIMIT, MAX_WAITING, MAX_ATTEMPTS = 3, 5, 4
TICK_S = 0.001
node_names = st.sampled_from(NODES)
REASONS = [
    SigningReason.BUSY,
    SigningReason.NODE_ERROR,
    SigningReason.WRONG_SIGNATURE,
    SigningReason.KEY_NOT_FOUND,
    SigningReason.DENIED,
    SigningReason.DRAINING,
    SigningReason.LINK_LOST,
]


class RouterMachine(RuleBasedStateMachine):
    """A world around the router: it keeps the caller's promises about time and lets anything else happen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.links: dict[str, bool] = dict.fromkeys(NODES, False)
        self.paused: dict[str, bool] = dict.fromkeys(NODES, False)
        self.listed: dict[str, set[bytes] | None] = dict.fromkeys(NODES)
        self.jobs: list[RoutedJob] = []
        self.ends: dict[int, str] = {}
        self.attempts: list[Attempt] = []
        self.failures: dict[int, int] = {}

    @initialize(seed=st.integers(0, 1000), up=st.lists(node_names, unique=True))
    def begin(self, seed: int, up: list[str]) -> None:
        limits = {"max_in_flight_per_node": LIMIT, "max_waiting_jobs": MAX_WAITING, "max_attempts": MAX_ATTEMPTS}
        self.router = Router(NODES, policy(**limits), rng=Random(seed))
        for node in up:
            self.list_keys(node, set(KEYS))
            self.come_up(node)

    # what may happen

    @rule(key=st.sampled_from(KEYS), lasts_s=st.floats(0.001, 6.0), count=st.integers(1, 6))
    def submit(self, key: bytes, lasts_s: float, count: int) -> None:
        for _ in range(count):
            job = SignJob(ski=key, scheme=Scheme.ECDSA_SHA256, message=b"", site="s", deadline=self.now + lasts_s)
            self.jobs.append(RoutedJob(job, self.now, job.deadline))
            self.carry_out(self.router.submit(self.jobs[-1], self.now))

    @precondition(lambda self: self.open_attempts())
    @rule(data=st.data())
    def sign(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.open_attempts()))
        self.carry_out(self.router.on_signed(attempt, b"signature", self.now))

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
        if reason is SigningReason.DRAINING:
            self.links[attempt.node] = False
        error = SigningError(reason, node=attempt.node)
        self.carry_out(self.router.on_error(attempt, error, self.now, retry_after_s=retry_after_s, is_final=is_final))

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
        self.ends[id(job)] = "cancelled"
        self.carry_out(self.router.cancel(job, self.now))

    @rule(node=node_names)
    def come_up(self, node: str) -> None:
        self.links[node] = True
        self.carry_out(self.router.on_node_changed(node, self.now, is_up=True))

    @rule(node=node_names)
    def go_down(self, node: str) -> None:
        self.links[node] = False
        self.carry_out(self.router.on_node_changed(node, self.now, is_up=False))

    @rule(node=node_names)
    def lose_link(self, node: str) -> None:
        self.links[node] = self.paused[node] = False
        self.carry_out(self.router.on_link_lost(node, self.now))
        assert not any(attempt.node == node for attempt in self.open_attempts())

    @rule(node=node_names, is_paused=st.booleans())
    def pause(self, node: str, is_paused: bool) -> None:
        self.paused[node] = is_paused
        self.carry_out(self.router.on_paused(node, self.now, is_paused=is_paused))

    @rule(node=node_names, keys=st.none() | st.sets(st.sampled_from(KEYS)))
    def list_keys(self, node: str, keys: set[bytes] | None) -> None:
        self.listed[node] = keys
        self.carry_out(self.router.on_keys(node, keys, self.now))

    @rule(passes_s=st.floats(0.0005, 3.0))
    def time_passes(self, passes_s: float) -> None:
        self.advance(self.now + passes_s)

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
                    self.carry_out(self.router.on_attempt_timeout(attempt, self.now))
            self.carry_out(self.router.on_time(self.now))
        else:
            raise AssertionError("time stands still")
        self.now = until

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, SendTo):
                self.sent(command.attempt)
            elif isinstance(command, Finish):
                self.ended(command.routed, "signed")
            elif isinstance(command, Fail):
                self.ended(command.routed, str(command.error))
            else:
                assert isinstance(command, CancelAttempt)
                assert command.attempt.is_over

    def sent(self, attempt: Attempt) -> None:
        node, routed = attempt.node, attempt.routed
        keys = self.listed[node]
        assert id(routed) not in self.ends, "a job that is over was sent"
        assert self.links[node], f"{node} is not up"
        assert not self.paused[node]
        assert keys is None or routed.ski in keys, f"{node} does not hold the key"
        assert attempt.deadline <= routed.deadline
        assert self.now < routed.deadline
        self.attempts.append(attempt)

    def ended(self, routed: RoutedJob, how: str) -> None:
        assert id(routed) not in self.ends, f"ended twice: {self.ends[id(routed)]}, then {how}"
        assert self.now <= routed.deadline + TICK_S, "ended after its deadline"
        self.ends[id(routed)] = how

    def open_attempts(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.is_over]

    def open_jobs(self) -> list[RoutedJob]:
        return [job for job in self.jobs if id(job) not in self.ends]

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "router"):
            return
        loads = [self.router.load_of(node) for node in NODES]
        assert all(0 <= load.in_flight <= LIMIT for load in loads)
        assert sum(load.in_flight for load in loads) == len(self.open_attempts()) == self.router.active
        assert 0 <= self.router.waiting <= MAX_WAITING
        assert self.router.active + self.router.waiting == len(self.open_jobs())
        assert all(job.attempts <= MAX_ATTEMPTS for job in self.jobs)
        assert all(self.now < job.deadline + TICK_S for job in self.open_jobs())

    @invariant()
    def nobody_waits_beside_a_free_node(self) -> None:
        for job in self.open_jobs():
            if job.attempt is None and not job.tried:
                holders = self.router.inventory.holders(job.ski, self.now)
                assert not any(self.router.load_of(node).can_take(self.now) for node in holders)

    def teardown(self) -> None:
        if hasattr(self, "router"):
            self.advance(self.now + 7.0)
            assert not self.open_jobs(), "a job never ended"
            assert self.router.waiting == self.router.active == 0


TestRouterMachine = RouterMachine.TestCase
TestRouterMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
