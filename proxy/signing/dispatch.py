"""Where jobs go: to a node, into the queue, to a second node, or to their end. Pure.

`router.py` says what happened, this says what follows: every method appends the commands that must be carried out. A
job that is handed in here is nowhere, and is at exactly one place when the method returns.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.base.errors import SigningError
from proxy.base.policy import RoutingPolicy, SigningPolicy
from proxy.signing import endings
from proxy.signing.attempts import Attempts
from proxy.signing.budget import ShareBudget
from proxy.signing.commands import Attempt, CancelAttempt, Command, DelayRetry, Fail, RoutedJob, SendTo
from proxy.signing.fleet import Fleet
from proxy.signing.hedging import Hedges
from proxy.signing.queueing import JobQueue, Refused
from proxy.signing.selection import NodeLoad, Seat, Seats, Selection

RETRY_BURST = 100.0
"""Retries that may be made at once, whatever the traffic: as many as one node may owe when it stops answering."""

OWING_AT_EASE = 256
"""Jobs that wait, up to which each that owes a retry asks for it after every `retry_backoff_s`."""


class Dispatch:
    """The nodes, the queue, the attempts under way and the budgets of one router."""

    def __init__(
        self, fleet: Fleet, queue: JobQueue, selection: Selection, policy: SigningPolicy, routing: RoutingPolicy
    ) -> None:
        self._policy, self._selection = policy, selection
        self.fleet, self.queue = fleet, queue
        self.waiting = queue.jobs
        self.attempts = Attempts()
        self.hedges = Hedges(routing.hedge_share)
        self.retries = ShareBudget(routing.retry_share, burst=RETRY_BURST, initial=RETRY_BURST)
        self._holders: set[str] = set()
        """The nodes that hold a key for which jobs are in line ..."""
        self._holders_as_of = (-1, -1)
        """... since these."""
        self.is_stopping = False
        """No job may wait any more."""

    def place(self, routed: RoutedJob, now: float, commands: list[Command]) -> None:
        """Send a job to the best node, or let it wait, or fail it."""
        seats = self.fleet.seats_of(routed.ski, now)
        if now + seats.least_s >= routed.deadline:
            return self.fail_late(routed, now, commands)
        seat = self._selection.choose(seats, now, routed.tried)
        if seat is None and routed.tried and now >= routed.not_before:
            seat = self._choose_again(routed, seats, now)
        if seat is not None:
            return self._send(routed, seat, now, commands)
        if all(seat.name in routed.refused for seat in seats):
            return self.fail(routed, endings.nowhere(routed), commands)
        if self.is_stopping:
            return self.fail(routed, endings.stopped(), commands)
        return self.refuse(self.queue.enter(routed, seats, now), commands)

    def _choose_again(self, routed: RoutedJob, seats: Seats, now: float) -> Seat | None:
        """Begin another round, in which every node may be asked once more."""
        seat = self._selection.choose(seats, now, routed.refused)
        if seat is not None:
            routed.rounds += 1
            routed.tried = routed.refused
        return seat

    def try_again(
        self, routed: RoutedJob, error: SigningError, now: float, commands: list[Command], *, is_final: bool
    ) -> None:
        """No attempt is left: another one, if there may be one."""
        if is_final or routed.attempts >= self._policy.max_attempts:
            self.fail(routed, error, commands)
        elif now >= routed.deadline:
            self.fail_late(routed, now, commands)
        elif error.reason in endings.PAID and not self.retries.spend():
            if self.is_stopping:
                return self.fail(routed, endings.stopped(), commands)
            commands.append(DelayRetry(routed))
            self._owe(routed, now, commands)
        else:
            self.place(routed, now, commands)

    def _owe(self, routed: RoutedJob, now: float, commands: list[Command]) -> None:
        """Let a job rest until the retry budget may have a token for it."""
        routed.owes_retry = True
        # The more there are, the less often each asks: else an outage would keep the worker busy with asking.
        until = max(routed.not_before, now + self._policy.retry_backoff_s * (1 + len(self.waiting) / OWING_AT_EASE))
        self.refuse(self.queue.rest(routed, until), commands)

    def _send(self, routed: RoutedJob, seat: Seat, now: float, commands: list[Command]) -> None:
        routed.waits_until = 0.0
        usual = seat.pace.usual
        usual.refresh(now)
        attempt = self.attempts.begin(routed, seat, now, self.fleet.attempt_timeout_s(seat))
        self.hedges.note(attempt, usual.slow_s, now)
        commands.append(SendTo(attempt))

    def hedge(self, attempt: Attempt, now: float, commands: list[Command]) -> None:
        """Ask a second node beside a slow one, where that takes nothing from jobs that have no node yet."""
        routed = attempt.routed
        if routed.hedge is not None or self.waiting.has_line(routed.site, routed.ski) or now >= attempt.deadline:
            return
        seats = self.fleet.seats_of(routed.ski, now)
        seat = self.hedges.take(attempt, lambda: self._selection.choose(seats, now, (*routed.tried, attempt.node)), now)
        if seat is not None:
            timeout_s = self.fleet.attempt_timeout_s(seat)
            commands.append(SendTo(self.attempts.begin(routed, seat, now, timeout_s, is_hedge=True)))

    def outrun(self, attempt: Attempt, now: float, commands: list[Command]) -> None:
        """Another node was faster than this attempt."""
        self.fleet.outrun(attempt.seat, now - attempt.started, now)
        self.attempts.end(attempt)
        commands.append(CancelAttempt(attempt, is_outrun=True))
        self.fill(attempt.seat.load, now, commands)

    def rest_the_lonely(self, now: float, commands: list[Command]) -> None:
        """Jobs in line whose key has no node any more that may be asked: they wait for one, or fail."""
        lonely = self.waiting.take_ready(lambda ski: not self.fleet.has_node_for(ski, now))
        self.place_all(lonely, now, commands)

    def place_all(self, jobs: Iterable[RoutedJob], now: float, commands: list[Command]) -> list[Command]:
        for routed in jobs:
            # Where no node may be asked there is nothing to pay for: the job waits for one, or fails, like others.
            if routed.owes_retry and now < routed.deadline and self.fleet.has_node_for(routed.ski, now):
                if not self.retries.spend():
                    self._owe(routed, now, commands)
                    continue
                routed.owes_retry = False
            self.place(routed, now, commands)
        return commands

    def fill_all(self, now: float, commands: list[Command]) -> None:
        """Give waiting jobs to whoever may have room: a node is asked also because a better one is no more."""
        if self.waiting:
            for load in list(self.fleet.loads.values()):
                self.fill(load, now, commands)

    def fill(self, load: NodeLoad, now: float, commands: list[Command]) -> None:
        """Give waiting jobs to a node that may have room. Each turn sends or ends one job, so this ends."""
        while self.waiting and load.can_take(now) and self._may_serve(load, now):
            routed = self.waiting.first_ready(lambda ski: self._is_due(ski, load, now))
            if routed is None:
                return
            self.waiting.remove(routed)
            seats = self.fleet.seats_of(routed.ski, now)
            seat = seats.by_name.get(load.name)
            if seat is not None and seat.is_free(now) and not routed.tried and now + seats.least_s < routed.deadline:
                self._send(routed, seat, now, commands)
            else:
                self.place(routed, now, commands)
            if routed.attempt is not None:
                self.waiting.served(routed, now)

    def _may_serve(self, load: NodeLoad, now: float) -> bool:
        """Whether jobs may wait for this node: lines that it can't help are not looked at, however many there are."""
        mark = (self.waiting.joined, self.fleet.inventory.revision)
        if mark != self._holders_as_of:
            self._holders_as_of, self._holders = mark, set()
            for ski in self.waiting.ready_keys():
                seats = self.fleet.seats_of(ski, now)
                self._holders.update(seats.by_name if seats else self.fleet.loads)
                if len(self._holders) >= len(self.fleet.loads):
                    break
        return load.name in self._holders

    def _is_due(self, ski: bytes, load: NodeLoad, now: float) -> bool:
        """Whether a job of this key can be sent, or must fail, now that `load` may have room."""
        seats = self.fleet.seats_of(ski, now)
        seat = seats.by_name.get(load.name)
        if seat is None:
            return not seats
        return seat.is_free(now) or self._selection.choose(seats, now) is not None

    # bookkeeping

    def refuse(self, refused: Refused, commands: list[Command]) -> None:
        for routed, error in refused:
            self.fail(routed, error, commands)

    def fail(self, routed: RoutedJob, error: SigningError, commands: list[Command]) -> None:
        routed.is_over = True
        commands.append(Fail(routed, error))

    def fail_late(self, routed: RoutedJob, now: float, commands: list[Command]) -> None:
        self.fail(routed, endings.too_late(routed, has_node=self.fleet.has_node_for(routed.ski, now)), commands)
