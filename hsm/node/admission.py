"""How much work a node takes: bounded lanes that say busy before an answer would be late.

Theory of operation. A request becomes a `Ticket` and is offered to a `Lane`. A lane has a number of places where work
goes on at once (1 for the event loop, N for N threads) and a bounded queue before them. When all places are taken, a
newcomer's wait is estimated from the recent time per signature and the tickets ahead of it; one that could not be done
before its deadline is refused at once, with a hint when to come back, so that its client can ask another node while
there still is time. A newcomer that finds a free place is never refused: whatever the estimate has become, fresh
measurements go on and the lane recovers.

A ticket ends exactly once: done, expired, or cancelled. Work that is under way can't be stopped; if its ticket ends
early, the work keeps its place until it really ends (`finish`), so that a hung token fills the places instead of
piling up hidden work.

Pure: no clock, no loop, no threads. All times are seconds on one clock of the caller's choosing.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

MIN_RETRY_AFTER_S = 0.005
MAX_RETRY_AFTER_S = 5.0
EWMA_WEIGHT = 0.1
"""Weight of the newest signature in the average time per signature."""
MAX_RUN_WEIGHT = 0.5
"""Weight of the newest run of a serial lane, where it was long."""
MAX_SAMPLE_RATIO = 20
MIN_SERVICE_S = 0.0001
WAIT_MARGIN = 1.25
"""An estimate is a mean: without a margin half of those admitted at the brink would be late."""
MAX_STALE_TIMERS = 64


class TicketState(Enum):
    """Where a ticket is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    ABANDONED = "abandoned"
    """It has ended for its client, but its work still runs."""
    ENDED = "ended"


class Ticket:
    """One request in a lane. Callers subclass it to carry what they need; its fields are the lane's to write."""

    __slots__ = ("arrived", "deadline", "started", "state")

    def __init__(self, arrived: float, deadline: float) -> None:
        self.arrived = arrived
        self.deadline = deadline
        self.started = 0.0
        self.state = TicketState.QUEUED

    @property
    def is_open(self) -> bool:
        """Whether its client still waits for an answer."""
        return self.state is TicketState.QUEUED or self.state is TicketState.RUNNING


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a ticket was not taken, and when the lane expects room."""

    is_full: bool
    """True: the queue is full. False: there is room, but the deadline can't be made."""
    retry_after_s: float
    queue_depth: int


class Lane:
    """One kind of work: `places` at once, at most `queue_limit` waiting.

    `is_serial` is for work inside the event loop: what else the loop does between two runs of signatures then counts
    as time per signature, because that is what the next in the queue will see. The caller ends a run with `settle`.

    `ahead` tickets more than there are places may be taken, so that a thread that is done finds its next work at hand;
    who takes tickets ahead tells `finish` how long the work itself took.
    """

    def __init__(
        self, places: int, queue_limit: int, *, ahead: int = 0, is_serial: bool = False, service_s: float = 0.001
    ) -> None:
        if places < 1 or queue_limit < 0 or ahead < 0:
            raise ValueError("a lane needs a place, and its queue can't be negative")
        self.places = places
        self._most_taken = places + ahead
        self.queue_limit = queue_limit
        self._is_serial = is_serial
        self._service_s = service_s
        self._queue: OrderedDict[Ticket, None] = OrderedDict()
        self._occupied: set[Ticket] = set()
        self._timers: list[tuple[float, int, Ticket]] = []
        self._timer_count = 0
        self._settled_at = 0.0
        self._run_began = 0.0
        self._run_count = 0

    @property
    def queued(self) -> int:
        """Tickets that wait, also those that were taken ahead."""
        ahead = len(self._occupied) - self.places
        if ahead > 0:
            ahead = min(ahead, sum(ticket.is_open for ticket in self._occupied))
        return len(self._queue) + max(0, ahead)

    @property
    def occupied(self) -> int:
        """Places where work goes on, abandoned work included."""
        return min(len(self._occupied), self.places)

    @property
    def abandoned(self) -> int:
        """Places held by work nobody waits for."""
        return min(sum(ticket.state is TicketState.ABANDONED for ticket in self._occupied), self.places)

    @property
    def service_s(self) -> float:
        """Recent time per signature, a moving average."""
        return self._service_s

    def estimated_wait_s(self) -> float:
        """How long a newcomer would wait for a place."""
        ahead = len(self._queue) + len(self._occupied) - self.places + 1
        return max(0, ahead) * self._service_s / self.places

    def offer(self, ticket: Ticket, now: float) -> Refusal | None:
        """Queues a ticket, or says why not. A ticket is offered once."""
        free = self.places - len(self._occupied) - len(self._queue)
        if free <= 0:
            is_full = -free >= self.queue_limit
            wait_s = self.estimated_wait_s() * WAIT_MARGIN
            if is_full or now + wait_s + self._service_s > ticket.deadline:
                ticket.state = TicketState.ENDED
                return Refusal(is_full, self._retry_after_s(), self.queued)
        self._queue[ticket] = None
        if not self._is_serial:
            # A serial lane is looked at many times a second by `take`; threads may hang, so these need a timer.
            self._add_timer(ticket)
        return None

    def take(self, now: float) -> Ticket | None:
        """The next ticket to work on, if there is one and a place for it.

        Its deadline may have passed; the caller looks, and then gives it back with `release`.
        """
        if not self._queue or len(self._occupied) >= self._most_taken:
            return None
        ticket, _ = self._queue.popitem(last=False)
        ticket.state = TicketState.RUNNING
        ticket.started = now
        self._occupied.add(ticket)
        return ticket

    def finish(self, ticket: Ticket, now: float, took_s: float | None = None) -> bool:
        """Its work ended, well or not; gives the place back. False where nobody waits for the result any more.

        `took_s` is what the work took; by default, the time since the ticket was taken.
        """
        self._occupied.discard(ticket)
        is_open = ticket.state is TicketState.RUNNING
        ticket.state = TicketState.ENDED
        if not self._is_serial:
            self._learn(now - ticket.started if took_s is None else took_s, EWMA_WEIGHT)
        else:
            if not self._run_count:
                self._run_began = max(ticket.arrived, self._settled_at)
            self._run_count += 1
        return is_open

    def settle(self, now: float) -> None:
        """A serial lane's run of work ends, and the loop does other things: learn from the run as a whole."""
        if self._run_count:
            share = min(MAX_RUN_WEIGHT, EWMA_WEIGHT * self._run_count)
            self._learn((now - self._run_began) / self._run_count, share)
            self._run_count = 0
        self._settled_at = now

    def _learn(self, sample_s: float, weight: float) -> None:
        # One stalled token must not shut the door for long: no sample counts as more than a multiple of the average.
        sample_s = min(max(0.0, sample_s), MAX_SAMPLE_RATIO * max(self._service_s, MIN_SERVICE_S))
        self._service_s += weight * (sample_s - self._service_s)

    def release(self, ticket: Ticket) -> None:
        """Gives back the place of a taken ticket whose work was never begun, so that nothing is learnt from it."""
        self._occupied.discard(ticket)
        ticket.state = TicketState.ENDED

    def cancel(self, ticket: Ticket) -> bool:
        """Its client does not want it any more. False where it had ended already."""
        if ticket.state is TicketState.QUEUED:
            del self._queue[ticket]
            ticket.state = TicketState.ENDED
            self._drop_stale_timers()
            return True
        if ticket.state is TicketState.RUNNING:
            ticket.state = TicketState.ABANDONED
            return True
        return False

    def expire(self, now: float) -> list[Ticket]:
        """Ends the tickets whose deadline has passed; their clients are to be told. Running work is abandoned."""
        expired = []
        while self._timers and self._timers[0][0] <= now:
            ticket = heapq.heappop(self._timers)[2]
            if self.cancel(ticket):
                expired.append(ticket)
        return expired

    def next_deadline(self) -> float | None:
        """When `expire` is to be called next; None for never. May be early, never late."""
        while self._timers and not self._timers[0][2].is_open:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def _retry_after_s(self) -> float:
        return min(max(self.estimated_wait_s(), MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)

    def _add_timer(self, ticket: Ticket) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (ticket.deadline, self._timer_count, ticket))
        self._drop_stale_timers()

    def _drop_stale_timers(self) -> None:
        """Keeps the heap's size within a small multiple of the open tickets, however many ended early."""
        if len(self._timers) > MAX_STALE_TIMERS + 2 * (len(self._queue) + len(self._occupied)):
            self._timers = [entry for entry in self._timers if entry[2].is_open]
            heapq.heapify(self._timers)
