"""The life of a request for a signature: access -> admission -> backend -> answer.

It runs in the event loop, knows no sockets and no TLS: a connection attaches as a `Client` and is answered through
its `Replies`. Cheap keys are signed here in the loop, a few at a time (`tick_budget_s`), so that sockets are served in
between; dear keys are signed in threads. Each request is answered exactly once, or not at all when it was cancelled.
The wire session has checked ids and payload lengths.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from hsm.backends.base import Backend, BackendError
from hsm.node.access import AccessList, AccessRule, ClientGrants, Decision, Denial
from hsm.node.admission import Lane, TicketState
from hsm.node.line_budget import LineBudget
from hsm.node.observe import UNKNOWN, LaneName, LaneStatus, NodeObserver, Outcome
from hsm.node.requests import Client, Replies, ServiceLimits, SignTicket
from hsm.node.threads import SigningThreads
from hsm.shared.logs import get_logger
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import KeyEntry
from hsm.wire.session import SignRequested

MAX_TICK_S = 0.05
_OUTCOMES = {
    ErrorCode.BUSY: Outcome.BUSY,
    ErrorCode.DEADLINE: Outcome.DEADLINE,
    ErrorCode.DENIED: Outcome.DENIED,
    ErrorCode.DRAINING: Outcome.DRAINING,
    ErrorCode.KEY_NOT_FOUND: Outcome.KEY_NOT_FOUND,
    ErrorCode.MALFORMED: Outcome.MALFORMED,
}


class Service:
    """Signs for clients. All methods belong to the event loop's thread."""

    def __init__(
        self,
        backend: Backend,
        rules: Iterable[AccessRule],
        limits: ServiceLimits,
        observer: NodeObserver,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._limits = limits
        self._observer = observer
        self._loop = loop
        self._clock = clock
        self._log = get_logger("node")
        self._denial_lines = LineBudget()
        self._access = AccessList(rules)
        self._epoch = 0
        self._lane_of: dict[bytes, Lane] = {}
        self._cheap = Lane(1, limits.cheap_queue, is_serial=True, service_s=0.0001)
        self._dear = Lane(limits.threads, limits.queue)
        self._threads: SigningThreads[SignTicket] = SigningThreads(limits.threads, self._work, self._wake)
        self._clients: set[Client] = set()
        self._is_tick_scheduled = False
        self._scheduled_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.is_draining = False
        self.keys_changed()

    # clients

    def attach(self, identity: str, replies: Replies) -> Client:
        """A client with a verified identity is connected."""
        client = Client(identity, replies, self._access.grants_for(identity), self._epoch)
        self._clients.add(client)
        return client

    def detach(self, client: Client) -> None:
        """The connection is gone: what waits is dropped, what is under way is abandoned. May be called again."""
        self._clients.discard(client)
        for ticket in client.tickets.values():
            if ticket.lane.cancel(ticket):
                self._observer.request_ended(ticket.key.label, ticket.scheme, Outcome.CANCELLED)
        client.tickets.clear()

    def usable_keys(self, client: Client) -> tuple[KeyEntry, ...]:
        """The keys this client may use."""
        return self._grants(client).usable_keys

    # requests

    def sign(self, client: Client, request: SignRequested) -> None:
        """Takes a request; its answer follows through `client.replies`, perhaps at once."""
        decision = self._grants(client).decide(request.ski, request.scheme)
        key = decision.key
        if decision.denial is not None or key is None:
            self._deny(client, request, decision)
        elif self.is_draining:
            self._refuse(client, request, key, ErrorCode.DRAINING, "the node is shutting down")
        elif len(client.tickets) >= self._limits.max_in_flight_per_client:
            self._refuse(client, request, key, ErrorCode.BUSY, "too many requests in flight on this connection")
        else:
            self._admit(client, request, key)

    def cancel(self, client: Client, request_id: int) -> None:
        """The client does not want an answer any more. Unknown ids are ignored: the answer may be on its way."""
        ticket = client.tickets.pop(request_id, None)
        if ticket is not None and ticket.lane.cancel(ticket):
            self._observer.request_ended(ticket.key.label, ticket.scheme, Outcome.CANCELLED)

    def _admit(self, client: Client, request: SignRequested, key: KeyEntry) -> None:
        now = self._clock()
        wanted_s = request.deadline_s if request.deadline_s is not None else self._limits.default_deadline_s
        lane = self._lane_of[key.ski]
        ticket = SignTicket(client, request, key, lane, now, now + min(wanted_s, self._limits.max_deadline_s))
        refusal = lane.offer(ticket, now)
        if refusal is not None:
            detail = "the queue is full" if refusal.is_full else "the deadline can't be made"
            self._observer.request_ended(key.label, request.scheme, Outcome.BUSY)
            client.replies.reply_error(
                request.request_id, ErrorCode.BUSY, detail, refusal.retry_after_s, refusal.queue_depth
            )
            return
        client.tickets[request.request_id] = ticket
        if lane is self._cheap:
            self._schedule_tick(now)
        else:
            self._start_dear(now)

    def _deny(self, client: Client, request: SignRequested, decision: Decision) -> None:
        is_unknown = decision.denial is Denial.UNKNOWN_KEY
        label = decision.key.label if decision.key is not None else UNKNOWN
        outcome = Outcome.KEY_NOT_FOUND if is_unknown else Outcome.DENIED
        self._observer.request_ended(label, request.scheme, outcome)
        if decision.denial is not None and not is_unknown:
            self._observer.request_denied(client.grants.known_as or UNKNOWN, decision.denial)
        self._log_denial(request, decision)
        code = ErrorCode.KEY_NOT_FOUND if is_unknown else ErrorCode.DENIED
        client.replies.reply_error(request.request_id, code, decision.sentence)

    def _log_denial(self, request: SignRequested, decision: Decision) -> None:
        left_out = self._denial_lines.take(self._clock())
        if left_out is not None:
            self._log.warning(
                "request_denied",
                client=decision.client,
                key=decision.key.label if decision.key is not None else request.ski.hex(),
                scheme=request.scheme.value,
                reason=decision.denial.value if decision.denial is not None else "",
                server_name=request.server_name,
                left_out=left_out,
            )

    def _refuse(self, client: Client, request: SignRequested, key: KeyEntry, code: ErrorCode, detail: str) -> None:
        self._observer.request_ended(key.label, request.scheme, _OUTCOMES[code])
        client.replies.reply_error(request.request_id, code, detail)

    # cheap work, in the loop

    def _schedule_tick(self, now: float) -> None:
        if not self._is_tick_scheduled:
            self._is_tick_scheduled = True
            self._scheduled_at = now
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        """Signs until the queue is empty or the loop must look at its sockets again.

        Reading got its share of time before the tick; signing gets as much. Otherwise a flood of requests would leave
        time to refuse them only.
        """
        self._is_tick_scheduled = False
        lane, clock = self._cheap, self._clock
        now = clock()
        until = now + max(self._limits.tick_budget_s, min(now - self._scheduled_at, MAX_TICK_S))
        while now < until and (ticket := lane.take(now)) is not None:
            assert isinstance(ticket, SignTicket)
            if self._is_late(ticket, now):
                continue
            self._work(ticket)
            now = clock()
            lane.finish(ticket, now)
            self._answer(ticket)
        lane.settle(now)
        if lane.queued:
            self._schedule_tick(now)

    # dear work, in threads

    def _start_dear(self, now: float) -> None:
        while (ticket := self._dear.take(now)) is not None:
            assert isinstance(ticket, SignTicket)
            if not self._is_late(ticket, now):
                self._threads.give(ticket)
        self._set_timer(now)

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
            if self._dear.finish(ticket, now):
                self._answer(ticket)
        self._start_dear(now)

    def _set_timer(self, now: float) -> None:
        deadline = self._dear.next_deadline()
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(0.0, deadline - now), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._clock()
        for ticket in self._dear.expire(now):
            assert isinstance(ticket, SignTicket)
            is_running = ticket.state is TicketState.ABANDONED
            self._end_late(ticket, "the token took too long" if is_running else "the deadline passed in the queue")
        self._set_timer(now)

    # both

    def _work(self, ticket: SignTicket) -> None:
        """Signs, in whatever thread; never raises."""
        begin = time.perf_counter()
        try:
            ticket.signature = self._backend.sign(ticket.key.ski, ticket.scheme, ticket.payload)
        except BackendError as error:
            ticket.error = error
        except Exception as error:
            # A backend that breaks its contract must not take the node down. Its message may hold anything: log the
            # type only.
            self._log.error("backend_crashed", key=ticket.key.label, error=type(error).__name__)
            ticket.error = BackendError(ErrorCode.INTERNAL, "the node's backend failed")
        ticket.sign_s = time.perf_counter() - begin

    def _answer(self, ticket: SignTicket) -> None:
        client = ticket.client
        client.tickets.pop(ticket.request_id, None)
        if ticket.signature is not None:
            self._observer.request_signed(
                ticket.key.label, ticket.scheme, ticket.started - ticket.arrived, ticket.sign_s
            )
            client.replies.reply_signature(ticket.request_id, ticket.signature)
        elif (error := ticket.error) is not None:
            outcome = _OUTCOMES.get(error.code, Outcome.FAILED)
            self._observer.request_ended(ticket.key.label, ticket.scheme, outcome)
            client.replies.reply_error(ticket.request_id, error.code, error.detail)

    def _is_late(self, ticket: SignTicket, now: float) -> bool:
        """Ends a taken ticket whose deadline passed while it waited."""
        if now < ticket.deadline:
            return False
        ticket.lane.release(ticket)
        self._end_late(ticket, "the deadline passed in the queue")
        return True

    def _end_late(self, ticket: SignTicket, detail: str) -> None:
        ticket.client.tickets.pop(ticket.request_id, None)
        self._observer.request_ended(ticket.key.label, ticket.scheme, Outcome.DEADLINE)
        ticket.client.replies.reply_error(ticket.request_id, ErrorCode.DEADLINE, detail)

    # the node

    def keys_changed(self) -> None:
        """The backend holds other keys now; grants are made anew, per client, when it asks next."""
        keys = self._backend.keys()
        self._epoch += 1
        self._access = self._access.with_keys(keys)
        self._lane_of = {key.ski: self._cheap if self._backend.cost(key.ski) == "cheap" else self._dear for key in keys}
        self._observer.keys_changed(tuple(key.label for key in keys))

    def drain(self) -> None:
        """From now on new requests are answered DRAINING; what was taken is still signed."""
        self.is_draining = True

    @property
    def revision(self) -> int:
        """The backend's revision of its keys."""
        return self._backend.revision

    @property
    def key_count(self) -> int:
        """Keys the node can sign with."""
        return len(self._lane_of)

    @property
    def open_requests(self) -> int:
        """Requests that were taken and not answered yet."""
        return sum(len(client.tickets) for client in self._clients)

    def lanes(self) -> dict[LaneName, LaneStatus]:
        """How busy the node is now."""
        return {name: _status(lane) for name, lane in ((LaneName.CHEAP, self._cheap), (LaneName.DEAR, self._dear))}

    def stop(self, timeout_s: float) -> bool:
        """Ends the signing threads; False where one hangs in the backend for longer than `timeout_s`."""
        if self._timer is not None:
            self._timer.cancel()
        return self._threads.stop(timeout_s)

    def _grants(self, client: Client) -> ClientGrants:
        if client.epoch != self._epoch:
            client.grants = self._access.grants_for(client.identity)
            client.epoch = self._epoch
        return client.grants


def _status(lane: Lane) -> LaneStatus:
    return LaneStatus(
        queued=lane.queued,
        queue_limit=lane.queue_limit,
        in_flight=lane.occupied,
        places=lane.places,
        abandoned=lane.abandoned,
        service_s=lane.service_s,
    )
