"""The life of a token as its node sees it: which worker process runs, what it was asked, what to do when it fails.

Theory of operation. A token is used through one worker process at a time. `Supervision` hears what happened, with the
time, and returns commands; whoever drives it carries them out. A worker that hangs is killed, one that lost its token
is told to end (and killed if it does not); once it is really gone it is replaced: at once after a long good time, else
after pauses that grow from `retry_min_s` to `retry_max_s`. A PIN that the token refused is never tried again, because
tokens lock themselves: its source is read now and then, and a worker is started only with another PIN, or when the
operator says so.

A request is asked of a token that is up, or refused at once. It ends exactly once: answered, or ended by the machine
when its worker is given up. Rule: everything that changes the state is in this file.

======================= ======================= ==========================================================
state                   happening               next
======================= ======================= ==========================================================
starting                PIN read                opening; PIN_REFUSED where the token refused this PIN before
starting                PIN can't be read       backing off
opening                 opened                  up
opening                 open failed, too late   replacing
up                      ended                   starting, or backing off when it was up for a short time
up                      hung, token gone        replacing
opening, up             PIN refused             pin refused
replacing               ended                   starting, or backing off
backing off             time                    starting
pin refused             another PIN read        opening
any                     stop                    stopped
======================= ======================= ==========================================================

Pure: no clock, no process, no socket. Times are seconds on one clock of the caller's choosing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from hsm.backends.base import BackendError
from hsm.backends.pkcs11.commands import (
    GRACE_S,
    Command,
    Counts,
    EndRequests,
    EndWorker,
    KillWorker,
    ReadPin,
    RefusedPins,
    SendPing,
    StartWorker,
    Timing,
    TokenState,
)
from hsm.backends.pkcs11.results import Failure
from hsm.wire.errors import ErrorCode

T = TypeVar("T")

TROUBLE_COUNT = 3
TROUBLE_S = 1.0
"""So many failures of sessions in a row, over so long: the worker did not heal by itself and is replaced."""
STRAGGLER_FACTOR = 10.0
"""While others are answered, a request may take so many times its limit: a token with much to do is slow, not hung."""
SOON_S = 0.25
"""When to ask again while a worker is being started: about what that takes."""


@dataclass(slots=True)
class _Request(Generic[T]):
    asked: T
    deadline: float


class Supervision(Generic[T]):
    """The state machine of one token; `T` is what a driver keeps with a request.

    After each method that takes `now`: carry out what it returned, then call `tick` at `next_tick()`.
    """

    def __init__(self, timing: Timing, refused: RefusedPins, max_requests: int) -> None:
        self._timing = timing
        self._refused = refused
        self._max_requests = max_requests
        self.state = TokenState.STOPPED
        self.since = 0.0
        """When the state was entered."""
        self.problem = ""
        """What went wrong last, as a sentence; "" once the token is up again."""
        self.problem_kind: Failure | None = None
        self.counts = Counts()
        self._requests: dict[int, _Request[T]] = {}
        self._last_id = 0
        self._answers = 0
        self._answers_seen = 0
        self._answered_at = 0.0
        self._has_worker = False
        self._mark = b""
        self._reading = 0
        self._failures = 0
        self._due: float | None = None
        self._ping_at = 0.0
        self._ping: tuple[int, float] | None = None
        self._trouble = 0
        self._trouble_since = 0.0
        self._is_unexplained = False

    # the life of workers

    def start(self, now: float) -> list[Command[T]]:
        """Begin. Once."""
        return self._read_pin(now)

    def pin_read(self, number: int, mark: bytes, now: float) -> list[Command[T]]:
        """The PIN was read; `mark` tells whether it is one that was refused."""
        if not self._is_awaited(number):
            return []
        self._mark = mark
        if mark in self._refused:
            return self._wait_for_another_pin(now)
        self._has_worker = True
        self.counts.workers += 1
        self._enter(TokenState.OPENING, now, now + self._timing.open_timeout_s)
        return [StartWorker()]

    def pin_unreadable(self, number: int, sentence: str, now: float) -> list[Command[T]]:
        """There is no PIN to be had."""
        if not self._is_awaited(number):
            return []
        self._note(Failure.BROKEN, sentence)
        if self.state is TokenState.PIN_REFUSED:
            return self._wait_for_another_pin(now)
        return self._retry(now)

    def opened(self, now: float) -> list[Command[T]]:
        """The worker opened the token."""
        if self.state is not TokenState.OPENING:
            return []
        self._enter(TokenState.UP, now, now)
        self.problem, self.problem_kind = "", None
        self.counts.openings += 1
        self._trouble = 0
        self._ping, self._ping_at = None, now + self._timing.ping_interval_s
        self._due = self._ping_at
        return []

    def open_failed(self, kind: Failure, sentence: str, now: float) -> list[Command[T]]:
        """The worker could not open the token."""
        if self.state is not TokenState.OPENING:
            return []
        return self._give_up(kind, sentence, now)

    def worker_ended(self, sentence: str, now: float) -> list[Command[T]]:
        """The worker's process is gone, killed or not. `sentence` says how; "" for one that was killed."""
        self._has_worker = False
        if self.state is TokenState.REPLACING:
            if self._is_unexplained and sentence:
                self._note(Failure.TOKEN_GONE, sentence)
            return self._retry(now)
        if self.state not in (TokenState.OPENING, TokenState.UP):
            return []
        self.counts.crashes += 1
        self._note(Failure.TOKEN_GONE, sentence or "the token's process was killed")
        return [*self._end_requests("the token's process ended"), *self._retry(now)]

    def link_lost(self, sentence: str, now: float) -> list[Command[T]]:
        """Nothing more can be asked of the worker, though its process may still be there."""
        if self.state not in (TokenState.OPENING, TokenState.UP):
            return []
        self.counts.crashes += 1
        commands = self._give_up(Failure.TOKEN_GONE, sentence, now)
        self._is_unexplained = True
        return commands

    def try_again(self, now: float) -> list[Command[T]]:
        """The operator wants it tried now, also with a PIN that was refused."""
        self._refused.forgive()
        if self.state is TokenState.PIN_REFUSED:
            if self._has_worker:
                self._enter(TokenState.REPLACING, now, now + GRACE_S)
                return []
            return self._read_pin(now)
        return self._read_pin(now) if self.state is TokenState.BACKING_OFF else []

    def stop(self, now: float) -> list[Command[T]]:
        """End the worker and every request."""
        if self.state is TokenState.STOPPED:
            return []
        self._enter(TokenState.STOPPED, now, now + GRACE_S if self._has_worker else None)
        end: list[Command[T]] = [EndWorker()] if self._has_worker else []
        return [*end, *self._end_requests("the node stops")]

    # requests

    def ask(self, asked: T, now: float, limit_s: float) -> int | BackendError:
        """The number of a new request, which may take `limit_s`; or why there can be none now."""
        if self.state is not TokenState.UP:
            detail = f"the token is not up: {self.state.value.replace('_', ' ')}"
            return BackendError(ErrorCode.BUSY, detail, self.retry_after_s(now))
        if len(self._requests) >= self._max_requests:
            return BackendError(ErrorCode.BUSY, "the token has too many requests", SOON_S)
        self._last_id += 1
        self._requests[self._last_id] = _Request(asked, now + limit_s)
        return self._last_id

    def answered(self, number: int) -> T | None:
        """A request was answered, well; None for one that has ended."""
        self._answers += 1
        request = self._requests.pop(number, None)
        if request is None:
            return None
        self._trouble = 0
        return request.asked

    def failed(self, number: int, kind: Failure, sentence: str, now: float) -> tuple[T | None, list[Command[T]]]:
        """A request was answered with a failure, which may mean that the worker must go."""
        self._answers += 1
        request = self._requests.pop(number, None)
        asked = request.asked if request is not None else None
        if self.state is not TokenState.UP:
            return asked, []
        if kind in (Failure.PIN_REFUSED, Failure.TOKEN_GONE) or self._is_lasting_trouble(kind, now):
            return asked, self._give_up(kind, sentence, now)
        return asked, []

    def ponged(self, number: int) -> None:
        """The worker is there."""
        if self._ping is not None and self._ping[0] == number:
            self._ping = None

    @property
    def in_flight(self) -> int:
        """Requests that wait for their end."""
        return len(self._requests)

    def retry_after_s(self, now: float) -> float:
        """When the token may be up again; a guess."""
        if self.state is TokenState.PIN_REFUSED:
            return self._timing.retry_max_s
        if self.state is TokenState.BACKING_OFF and self._due is not None:
            return min(max(0.0, self._due - now), self._timing.retry_max_s) + SOON_S
        return SOON_S

    # time

    def next_tick(self) -> float | None:
        """When `tick` is to be called next; None for never."""
        return self._due

    def tick(self, now: float) -> list[Command[T]]:
        """Time passed. Feed every answer that has come before calling it: what waits unread is no hang."""
        if self._due is None or now < self._due:
            return []
        if self.state is TokenState.UP:
            return self._look_after(now)
        if self.state is TokenState.OPENING:
            self.counts.hangs += 1
            sentence = f"the token was not open after {self._timing.open_timeout_s:g} s"
            return self._give_up(Failure.TOKEN_GONE, sentence, now, is_hung=True)
        if self.state in (TokenState.REPLACING, TokenState.STOPPED):
            self._due = None
            return [KillWorker()] if self._has_worker else []
        if self.state is TokenState.STARTING:
            self._note(Failure.BROKEN, f"the PIN could not be read within {self._timing.open_timeout_s:g} s")
            return self._retry(now)
        if self.state is TokenState.PIN_REFUSED:
            return self._read_another_pin(now)
        return self._read_pin(now)

    def _look_after(self, now: float) -> list[Command[T]]:
        """The worker that is up: does it answer?"""
        hung_at = self._hung_at(now)
        if hung_at is not None and hung_at <= now:
            return self._give_up_hung("a call of the library did not return", now)
        if self._ping is not None and self._ping[1] <= now:
            return self._give_up_hung("the worker did not answer", now)
        commands: list[Command[T]] = []
        if self._ping_at <= now:
            self._ping_at = now + self._timing.ping_interval_s
            if self._ping is None:
                self._last_id += 1
                self._ping = (self._last_id, now + self._timing.call_timeout_s)
                commands.append(SendPing(self._last_id))
        self._due = self._ping_at if hung_at is None else min(self._ping_at, hung_at)
        return commands

    def _hung_at(self, now: float) -> float | None:
        """When the worker is to be taken for hung, should no answer come; None where nothing is asked.

        Limits count from the asking, and a token works off what was asked before: with answers coming, a request that
        is late shows that there is much to do.
        """
        if self._answers != self._answers_seen:
            self._answers_seen, self._answered_at = self._answers, now
        oldest = min((request.deadline for request in self._requests.values()), default=None)
        if oldest is None:
            return None
        limit_s = self._timing.call_timeout_s
        return min(max(oldest, self._answered_at + limit_s), oldest + (STRAGGLER_FACTOR - 1.0) * limit_s)

    def _give_up_hung(self, what: str, now: float) -> list[Command[T]]:
        self.counts.hangs += 1
        return self._give_up(Failure.TOKEN_GONE, f"{what} in time", now, is_hung=True)

    # transitions

    def _read_pin(self, now: float) -> list[Command[T]]:
        self._enter(TokenState.STARTING, now, now + self._timing.open_timeout_s)
        self._reading += 1
        return [ReadPin(self._reading)]

    def _read_another_pin(self, now: float) -> list[Command[T]]:
        self._due = now + self._timing.retry_max_s
        if self._has_worker:
            return [KillWorker()]
        self._reading += 1
        return [ReadPin(self._reading)]

    def _wait_for_another_pin(self, now: float) -> list[Command[T]]:
        if self.state is not TokenState.PIN_REFUSED:
            self._enter(TokenState.PIN_REFUSED, now, None)
        self._due = now + self._timing.retry_max_s
        return []

    def _give_up(self, kind: Failure, sentence: str, now: float, *, is_hung: bool = False) -> list[Command[T]]:
        """End the worker; a new one follows when it is gone, unless the PIN was refused."""
        self._note(kind, sentence)
        self._forget_old_failures(now)
        if kind is Failure.PIN_REFUSED:
            self._refused.add(self._mark)
            self._wait_for_another_pin(now)
        else:
            self._enter(TokenState.REPLACING, now, None if is_hung else now + GRACE_S)
        end = KillWorker() if is_hung else EndWorker()
        return [end, *self._end_requests("the token's process is being replaced")]

    def _retry(self, now: float) -> list[Command[T]]:
        """A new worker, at once after a long good time, else after a pause."""
        self._forget_old_failures(now)
        self._failures += 1
        if self._failures == 1 and self.counts.openings:
            return self._read_pin(now)
        self._enter(TokenState.BACKING_OFF, now, now + self._pause_s())
        return []

    def _pause_s(self) -> float:
        doublings = max(0, self._failures - (2 if self.counts.openings else 1))
        return min(self._timing.retry_min_s * 2.0 ** min(doublings, 32), self._timing.retry_max_s)

    def _forget_old_failures(self, now: float) -> None:
        if self.state is TokenState.UP and now - self.since >= self._timing.retry_max_s:
            self._failures = 0

    def _end_requests(self, why: str) -> list[Command[T]]:
        asked = tuple(request.asked for request in self._requests.values())
        self._requests.clear()
        self._ping = None
        return [EndRequests(asked, BackendError(ErrorCode.INTERNAL, why))] if asked else []

    def _is_lasting_trouble(self, kind: Failure, now: float) -> bool:
        if kind not in (Failure.SESSION_LOST, Failure.LOGGED_OUT, Failure.BROKEN):
            return False
        if self._trouble == 0:
            self._trouble_since = now
        self._trouble += 1
        return self._trouble >= TROUBLE_COUNT and now - self._trouble_since >= TROUBLE_S

    def _is_awaited(self, number: int) -> bool:
        if number != self._reading or self._has_worker:
            return False
        return self.state in (TokenState.STARTING, TokenState.PIN_REFUSED)

    def _note(self, kind: Failure, sentence: str) -> None:
        self.problem, self.problem_kind = sentence, kind
        self._is_unexplained = False

    def _enter(self, state: TokenState, now: float, due: float | None) -> None:
        self.state, self.since, self._due = state, now, due
