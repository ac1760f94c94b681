"""A world around the router, for its state machine: it carries out commands and keeps the promises about time."""

from __future__ import annotations

from collections.abc import Container
from random import Random
from unittest.mock import patch

from hypothesis.stateful import RuleBasedStateMachine

from hsm.wire.schemes import KeyType, Scheme
from proxy.base.errors import SigningReason
from proxy.base.policy import RoutingPolicy
from proxy.signing import latency
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
from proxy.signing.router import Router
from proxy.signing.selection import BestOfTwo, Seat, Seats

ALL = ["a", "b", "c", "d"]
AT_FIRST = ALL[:3]
EC, OTHER_EC, RSA = KEYS = [bytes([number]) * 20 for number in range(3)]
KINDS = {EC: KeyType.P256, RSA: KeyType.RSA_2048}
SCHEMES = {EC: Scheme.ECDSA_SHA256, OTHER_EC: Scheme.ECDSA_SHA256, RSA: Scheme.RSA_PSS_SHA256}
WIDEST, MAX_WAITING, MAX_ATTEMPTS = 4, 5, 4
HEDGE_SHARE, RETRY_SHARE, RETRY_BURST = 0.2, 0.2, 2.0
NO_NODE_WAIT_S = 0.5
TICK_S = 0.001


class Watched(BestOfTwo):
    """The router's own choice; what it chooses must be allowed at that moment."""

    def __init__(self, machine: RouterWorld, seed: int) -> None:
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


class RouterWorld(RuleBasedStateMachine):
    """A world around the router: it keeps the caller's promises about time and checks what is commanded."""

    router: Router

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
