"""Works off the lanes of tokens: in the event loop, in threads, or in a token that answers later.

A runner takes tickets from its lane, has them signed and hands them back through `Ends`. It knows no clients and
decides nothing about who may sign. All methods belong to the event loop's thread, unless they say otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from hsm.backends.base import AwaitedBackend, Backend, BackendError
from hsm.node.admission import Lane, TicketState
from hsm.node.requests import SignTicket
from hsm.node.threads import SigningThreads
from hsm.shared.logs import get_logger
from hsm.wire.errors import ErrorCode

MAX_TICK_S = 0.05
AHEAD_PER_THREAD = 4
PATIENCE_S = 0.0015
"""Longest time an answer waits for others to leave with it, while the threads have more to sign."""
LOOP_SERVICE_S = 0.0001
TOO_LONG = "the token took too long"
LATE_IN_QUEUE = "the deadline passed in the queue"


class Ends(Protocol):
    """Hears how tickets end."""

    def answered(self, ticket: SignTicket) -> None:
        """Its signature or error is there, and somebody waits for it."""

    def came_late(self, ticket: SignTicket, detail: str) -> None:
        """Its deadline passed."""


class Runner(Protocol):
    """What works off one lane."""

    @property
    def lane(self) -> Lane:
        """Where tickets are offered and cancelled."""
        ...

    def offered(self, now: float) -> None:
        """The lane took a ticket."""

    def stop(self, timeout_s: float) -> bool:
        """Begins nothing more; False where work still hangs after `timeout_s`."""
        ...


def sign_now(backend: Backend, ticket: SignTicket) -> None:
    """Signs, in whatever thread; never raises."""
    begin = time.perf_counter()
    try:
        ticket.signature = backend.sign(ticket.key.ski, ticket.scheme, ticket.payload)
    except BackendError as error:
        ticket.error = error
    except Exception as error:
        ticket.error = _crashed(ticket, error)
    ticket.sign_s = time.perf_counter() - begin


def _crashed(ticket: SignTicket, error: Exception) -> BackendError:
    # A backend that breaks its contract must not take the node down. Its message may hold anything: log the type only.
    get_logger("node").error("backend_crashed", key=ticket.key.label, error=type(error).__name__)
    return BackendError(ErrorCode.INTERNAL, "the node's backend failed")


def _is_late(ticket: SignTicket, lane: Lane, ends: Ends, now: float) -> bool:
    """Ends a taken ticket whose deadline passed while it waited."""
    if now < ticket.deadline:
        return False
    lane.release(ticket)
    ends.came_late(ticket, LATE_IN_QUEUE)
    return True


class LoopTurns:
    """Signs in the event loop for all tokens, a signature of each in turn, and lets the loop breathe in between."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], ends: Ends, tick_budget_s: float
    ) -> None:
        self.tick_budget_s = tick_budget_s
        self._loop = loop
        self._clock = clock
        self._ends = ends
        self._runners: list[LoopRunner] = []
        self._turn: deque[LoopRunner] = deque()
        """Those that have something to sign."""
        self._is_scheduled = False
        self._scheduled_at = 0.0

    def runner(self, backend: Backend, queue_limit: int) -> LoopRunner:
        """A runner of one more token."""
        runner = LoopRunner(self, backend, Lane(1, queue_limit, is_serial=True, service_s=LOOP_SERVICE_S))
        self._runners.append(runner)
        return runner

    def wants(self, runner: LoopRunner, now: float) -> None:
        """The runner's lane has a ticket."""
        if not runner.is_in_turn:
            runner.is_in_turn = True
            self._turn.append(runner)
        if not self._is_scheduled:
            self._schedule(now)

    def _schedule(self, now: float) -> None:
        self._is_scheduled = True
        self._scheduled_at = now
        self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        """Signs until the queues are empty or the loop must look at its sockets again.

        Reading got its share of time before the tick; signing gets as much. Otherwise a flood of requests would leave
        time to refuse them only.
        """
        self._is_scheduled = False
        turn, clock = self._turn, self._clock
        now = clock()
        until = now + max(self.tick_budget_s, min(now - self._scheduled_at, MAX_TICK_S))
        while turn and now < until:
            runner = turn[0]
            ticket = runner.lane.take(now)
            if ticket is None:
                turn.popleft()
                runner.is_in_turn = False
                continue
            assert isinstance(ticket, SignTicket)
            if len(turn) > 1:
                turn.rotate(-1)
            if not _is_late(ticket, runner.lane, self._ends, now):
                sign_now(runner.backend, ticket)
                now = clock()
                runner.lane.finish(ticket, now)
                self._ends.answered(ticket)
        for runner in self._runners:
            runner.lane.settle(now)
        if turn:
            self._schedule(now)


class LoopRunner:
    """Signs one token's cheap keys, when it is its turn."""

    def __init__(self, turns: LoopTurns, backend: Backend, lane: Lane) -> None:
        self.lane = lane
        self.backend = backend
        self.is_in_turn = False
        self._turns = turns

    def offered(self, now: float) -> None:
        """The lane took a ticket."""
        self._turns.wants(self, now)

    def stop(self, timeout_s: float) -> bool:
        """Nothing is ever under way between two turns of the loop."""
        return True


class _TimedRunner:
    """What threads and awaited tokens have in common: work that may hang, so that deadlines need a timer."""

    def __init__(self, lane: Lane, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], ends: Ends) -> None:
        self.lane = lane
        self._loop = loop
        self._clock = clock
        self._ends = ends
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def offered(self, now: float) -> None:
        """The lane took a ticket."""
        self._start(now)

    def _start(self, now: float) -> None:
        lane = self.lane
        while (ticket := lane.take(now)) is not None:
            assert isinstance(ticket, SignTicket)
            if not _is_late(ticket, lane, self._ends, now):
                self._begin(ticket)
        self._set_timer(now)

    def _begin(self, ticket: SignTicket) -> None:
        raise NotImplementedError

    def _set_timer(self, now: float) -> None:
        deadline = self.lane.next_deadline()
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - now), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._clock()
        for ticket in self.lane.expire(now):
            assert isinstance(ticket, SignTicket)
            self._ends.came_late(ticket, TOO_LONG if ticket.has_begun else LATE_IN_QUEUE)
        self._set_timer(now)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ThreadRunner(_TimedRunner):
    """Signs one token's dear keys, in threads of its own.

    Its lane takes tickets ahead, `AHEAD_PER_THREAD`: a thread that is done goes on at once, and answers leave together.
    """

    def __init__(
        self, backend: Backend, lane: Lane, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], ends: Ends
    ) -> None:
        super().__init__(lane, loop, clock, ends)
        self._backend = backend
        self._threads: SigningThreads[SignTicket] = SigningThreads(
            lane.places, self._work, self._wake, patience_s=PATIENCE_S
        )

    def stop(self, timeout_s: float) -> bool:
        """Ends the threads; False where one hangs in the backend for longer than `timeout_s`."""
        self._stop_timer()
        return self._threads.stop(timeout_s)

    def _begin(self, ticket: SignTicket) -> None:
        self._threads.give(ticket)

    def _work(self, ticket: SignTicket) -> None:
        """In a signing thread."""
        if ticket.state is TicketState.RUNNING:  # else nobody waits for it any more
            ticket.has_begun, ticket.started = True, self._clock()
            sign_now(self._backend, ticket)

    def _wake(self) -> None:
        """In a signing thread: results wait."""
        try:
            self._loop.call_soon_threadsafe(self._collect)
        except RuntimeError:
            # The loop was closed while the token still worked: nobody waits for the result.
            return

    def _collect(self) -> None:
        now = self._clock()
        for ticket in self._threads.collect():
            if not ticket.has_begun:
                self.lane.release(ticket)
            elif self.lane.finish(ticket, now, ticket.sign_s):
                self._ends.answered(ticket)
        self._start(now)


class AwaitedRunner(_TimedRunner):
    """Hands one token's requests over and hears later how they went.

    A request whose deadline passed keeps its place until the token says how it ended: one that hangs fills the
    places, and not the memory.
    """

    def __init__(
        self,
        backend: AwaitedBackend,
        lane: Lane,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        ends: Ends,
    ) -> None:
        super().__init__(lane, loop, clock, ends)
        self._backend = backend

    def stop(self, timeout_s: float) -> bool:
        """Closing the token ends what is under way."""
        self._stop_timer()
        return True

    def _begin(self, ticket: SignTicket) -> None:
        ticket.has_begun = True
        on_signed = partial(self._on_signed, ticket, time.perf_counter())
        try:
            self._backend.begin(ticket.key.ski, ticket.scheme, ticket.payload, on_signed)
        except Exception as error:
            self._loop.call_soon(on_signed, _crashed(ticket, error))

    def _on_signed(self, ticket: SignTicket, begun: float, outcome: bytes | BackendError) -> None:
        if ticket.state is TicketState.ENDED:
            return  # a backend that tells twice
        ticket.sign_s = time.perf_counter() - begun
        if isinstance(outcome, BackendError):
            ticket.error = outcome
        else:
            ticket.signature = outcome
        now = self._clock()
        if self.lane.finish(ticket, now):
            self._ends.answered(ticket)
        self._start(now)
