"""The life of a request for a signature: access and message -> admission -> token -> answer.

It runs in the event loop, knows no sockets and no TLS: a connection attaches as a `Client` and is answered through
its `Replies`. The runners of each token do the work: cheap keys are signed in the loop, a few at a time
(`tick_budget_s`), so that sockets are served in between; dear keys in threads; those of an HSM in its own process. Each
request is answered exactly once, or not at all when it was cancelled. The wire session has checked ids and lengths.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from hsm.node.access import AccessList, AccessRule, ClientGrants, Denial
from hsm.node.gate import Denied, Gate
from hsm.node.line_budget import LineBudgets
from hsm.node.observe import UNKNOWN, NodeObserver, Outcome, TokenStatus
from hsm.node.opening.opened import OpenToken
from hsm.node.requests import Client, Replies, ServiceLimits, SignTicket
from hsm.node.runners import LoopTurns
from hsm.node.served import Double, ServedKey, ServedToken, serve_keys
from hsm.node.usage import UsageCounts
from hsm.shared.logs import get_logger
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import KeyEntry
from hsm.wire.session import SignRequested

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
        tokens: Sequence[OpenToken],
        rules: Iterable[AccessRule],
        limits: ServiceLimits,
        observer: NodeObserver,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._wall = wall
        self._log = get_logger("node")
        self._denial_lines = LineBudgets()
        self._access = AccessList(rules)
        self._gate = Gate(wall)
        self.counts = UsageCounts()
        """Signatures that the tokens were not told of yet."""
        self._epoch = 0
        self._changes = 0
        """Of the rules, and of which keys may be used at this time."""
        self._looked_at = wall()
        self._turns = LoopTurns(loop, clock, self, limits.tick_budget_s)
        self._tokens = tuple(ServedToken(token, self._turns, loop, clock, self) for token in tokens)
        self._served: dict[bytes, ServedKey] = {}
        self._times: tuple[datetime, ...] = ()
        """When keys begin and cease to be usable."""
        self._known_doubles: set[Double] = set()
        self._clients: set[Client] = set()
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
        """The keys this client may use now."""
        return self._grants(client).usable_keys(self._wall())

    # requests

    def sign(self, client: Client, request: SignRequested) -> None:
        """Takes a request; its answer follows through `client.replies`, perhaps at once."""
        decision = self._grants(client).decide(request.ski, request.scheme)
        served = self._served.get(request.ski)
        payload = self._gate.payload(decision, served, request)
        if isinstance(payload, Denied) or served is None:
            assert isinstance(payload, Denied)
            self._deny(client, request, payload)
        elif self.is_draining:
            self._refuse(client, request, served, ErrorCode.DRAINING, "the node is shutting down")
        elif len(client.tickets) >= self._limits.max_in_flight_per_client:
            self._refuse(client, request, served, ErrorCode.BUSY, "too many requests in flight on this connection")
        else:
            now = self._clock()
            limited = self._gate.limit(decision, served, request, client.identity, now)
            if limited is None:
                self._admit(client, request, payload, served, now)
            else:
                self._observer.request_ended(served.entry.label, request.scheme, Outcome.RATE_LIMITED)
                self._reply_busy(client, request, limited.sentence, limited.retry_after_s, None)

    def cancel(self, client: Client, request_id: int) -> None:
        """The client does not want an answer any more. Unknown ids are ignored: the answer may be on its way."""
        ticket = client.tickets.pop(request_id, None)
        if ticket is not None and ticket.lane.cancel(ticket):
            self._observer.request_ended(ticket.key.label, ticket.scheme, Outcome.CANCELLED)

    def _admit(self, client: Client, request: SignRequested, payload: bytes, served: ServedKey, now: float) -> None:
        wanted_s = request.deadline_s if request.deadline_s is not None else self._limits.default_deadline_s
        deadline = now + min(wanted_s, self._limits.max_deadline_s)
        ticket = SignTicket(client, request, payload, served, now, deadline)
        refusal = ticket.lane.offer(ticket, now)
        if refusal is not None:
            detail = "the queue is full" if refusal.is_full else "the deadline can't be made"
            self._observer.request_ended(ticket.key.label, request.scheme, Outcome.BUSY)
            self._reply_busy(client, request, detail, refusal.retry_after_s, refusal.queue_depth)
            return
        client.tickets[request.request_id] = ticket
        served.runner.offered(now)

    def _reply_busy(
        self, client: Client, request: SignRequested, detail: str, retry_after_s: float, queue_depth: int | None
    ) -> None:
        client.replies.reply_error(request.request_id, ErrorCode.BUSY, detail, retry_after_s, queue_depth)

    def _deny(self, client: Client, request: SignRequested, denied: Denied) -> None:
        is_unknown = denied.reason is Denial.UNKNOWN_KEY
        outcome = Outcome.KEY_NOT_FOUND if is_unknown else Outcome.DENIED
        self._observer.request_ended(denied.key.label if denied.key is not None else UNKNOWN, request.scheme, outcome)
        if not is_unknown:
            self._observer.request_denied(client.grants.known_as or UNKNOWN, denied.reason)
        self._log_denial(client, request, denied)
        code = ErrorCode.KEY_NOT_FOUND if is_unknown else ErrorCode.DENIED
        client.replies.reply_error(request.request_id, code, denied.reason.sentence)

    def _log_denial(self, client: Client, request: SignRequested, denied: Denied) -> None:
        left_out = self._denial_lines.take(client.identity, self._clock())
        if left_out is not None:
            self._log.warning(
                "request_denied",
                client=client.identity,
                key=denied.key.label if denied.key is not None else request.ski.hex(),
                scheme=request.scheme.value,
                reason=denied.reason.value,
                why=denied.reason.sentence,
                server_name=request.server_name,
                left_out=left_out,
            )

    def _refuse(self, client: Client, request: SignRequested, key: ServedKey, code: ErrorCode, detail: str) -> None:
        self._observer.request_ended(key.entry.label, request.scheme, _OUTCOMES[code])
        client.replies.reply_error(request.request_id, code, detail)

    # what runners tell

    def answered(self, ticket: SignTicket) -> None:
        """A signature or an error is there."""
        client = ticket.client
        client.tickets.pop(ticket.request_id, None)
        if ticket.signature is not None:
            count = ticket.count
            count.signatures += 1
            count.last_at = ticket.started
            self._observer.request_signed(
                ticket.token, ticket.key.label, ticket.scheme, ticket.started - ticket.arrived, ticket.sign_s
            )
            client.replies.reply_signature(ticket.request_id, ticket.signature)
        elif (error := ticket.error) is not None:
            outcome = _OUTCOMES.get(error.code, Outcome.FAILED)
            self._observer.request_ended(ticket.key.label, ticket.scheme, outcome)
            client.replies.reply_error(ticket.request_id, error.code, error.detail, error.retry_after_s)

    def came_late(self, ticket: SignTicket, detail: str) -> None:
        """A deadline passed."""
        ticket.client.tickets.pop(ticket.request_id, None)
        self._observer.request_ended(ticket.key.label, ticket.scheme, Outcome.DEADLINE)
        ticket.client.replies.reply_error(ticket.request_id, ErrorCode.DEADLINE, detail)

    # the node

    def keys_changed(self) -> None:
        """The tokens hold other keys now; grants are made anew, per client, when it asks next."""
        self._served, doubles = serve_keys(self._tokens, self.counts)
        attributes = [key.attributes for key in self._served.values()]
        self._times = tuple(when for kept in attributes for when in (kept.not_before, kept.not_after) if when)
        self._epoch += 1
        self._access = self._access.with_keys(self._served.values())
        self._observer.keys_changed(tuple(key.entry.label for key in self._served.values()))
        for double in doubles:
            if double not in self._known_doubles:
                self._known_doubles.add(double)
                self._log.warning(
                    "key_in_two_tokens", ski=double.ski.hex(), signs=double.first, does_not_sign=double.second
                )
        self._known_doubles &= set(doubles)

    def apply(self, rules: Iterable[AccessRule], limits: ServiceLimits) -> None:
        """Other rules and limits, at once, also for clients that are connected."""
        self._access = self._access.with_rules(rules)
        self._limits = limits
        self._turns.tick_budget_s = limits.tick_budget_s
        self._epoch += 1
        self._changes += 1

    def has_time_changed_keys(self) -> bool:
        """Whether, since the last call, a key's time began or ended; `revision` is another one then."""
        before, now = self._looked_at, self._wall()
        self._looked_at = now
        has_changed = any(before <= when < now for when in self._times)
        self._changes += has_changed
        return has_changed

    def drain(self) -> None:
        """From now on new requests are answered DRAINING; what was taken is still signed."""
        self.is_draining = True

    @property
    def revision(self) -> int:
        """Changes with each change of the keys, and of who may use them."""
        return self._changes + sum(token.holder.revision for token in self._tokens)

    @property
    def key_count(self) -> int:
        """Keys the node can sign with."""
        return len(self._served)

    @property
    def open_requests(self) -> int:
        """Requests that were taken and not answered yet."""
        return sum(len(client.tickets) for client in self._clients)

    def token_status(self) -> tuple[TokenStatus, ...]:
        """How the tokens are and how busy they are, in the order of the config."""
        return tuple(token.status() for token in self._tokens)

    def stop(self, timeout_s: float) -> tuple[str, ...]:
        """Ends the lanes' work; the names of tokens in which a thread hangs for longer than `timeout_s`."""
        share_s = timeout_s / len(self._tokens)
        return tuple(token.name for token in self._tokens if not token.stop(share_s))

    def _grants(self, client: Client) -> ClientGrants:
        if client.epoch != self._epoch:
            client.grants = self._access.grants_for(client.identity)
            client.epoch = self._epoch
        return client.grants
