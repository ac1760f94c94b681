"""One open connection to a node: `asyncio.Protocol` around `ClientSession`.

Bytes go in, answers go to whoever asked. Requests made in one turn of the event loop leave in one write, and one timer
serves all deadlines. `node_link.py` opens connections and replaces those that are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from hsm.wire.errors import ErrorCode, WireError
from hsm.wire.messages import (
    ClientEvent,
    DrainingAnnounced,
    Expired,
    Failed,
    KeyEntry,
    KeysChanged,
    KeysListed,
    Lost,
    Ponged,
    Signed,
)
from hsm.wire.session import ClientSession

Answer = Signed | Failed | Expired | Lost | Ponged
_ANSWERS = (Signed, Failed, Expired, Lost, Ponged)
OnAnswer = Callable[[Any, Answer], None]
"""Called once with the tag of the request and its end."""

WRITE_BUFFER_BYTES = 256 * 1024
"""Unsent bytes from which a connection counts as full."""
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 10, 5, 3
UNACKNOWLEDGED_S = 10
"""Bytes that the node's machine has not acknowledged for so long break the connection (TCP_USER_TIMEOUT)."""
TIMER_STEP_S = 0.001
"""Loops count milliseconds: a timer may fire this much early, and is not set closer than this."""
_PLAIN_CODES = (ErrorCode.BAD_OPCODE, ErrorCode.UNEXPECTED_OPCODE)
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_S * 1000),
)


class ConnectionOwner(Protocol):
    """Hears what becomes of a connection."""

    def connection_ended(self, connection: NodeConnection, why: str) -> None:
        """It can't be used any more. Its requests end with Lost right after this."""

    def connection_writable(self, connection: NodeConnection) -> None:
        """`is_writable` changed."""

    def connection_draining(self, connection: NodeConnection) -> None:
        """The node wants no new requests."""

    def connection_keys(self, connection: NodeConnection, keys: tuple[KeyEntry, ...]) -> None:
        """The node's keys changed after they were listed first."""


class NodeConnection(asyncio.Protocol):
    """One connection, from the end of its TLS handshake to its end.

    `first_keys` is done when the node has listed its keys (None: it can't, being a plain Keyless node), or fails with
    ConnectionError. `closed` tells why the connection ended.
    """

    def __init__(self, owner: ConnectionOwner, session: ClientSession, list_timeout_s: float) -> None:
        self._owner = owner
        self.session = session
        self._list_timeout_s = list_timeout_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._awaited: dict[int, tuple[OnAnswer, Any]] = {}
        self._list_id = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._flush_is_due = False
        self.is_writable = True
        self.is_draining = False
        self.why_ended = ""
        self.heard_at = time.monotonic()
        """When the last byte came."""
        self.first_keys: asyncio.Future[tuple[KeyEntry, ...] | None] = self._loop.create_future()
        self.closed: asyncio.Future[str] = self._loop.create_future()

    def await_answer(self, request_id: int, on_answer: OnAnswer, tag: Any, deadline: float) -> None:
        """Expect the end of a request that was just made in `session`, and send it this turn."""
        self._awaited[request_id] = (on_answer, tag)
        if deadline < self._timer_at:
            self._arm(deadline)
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def cancel(self, request_id: int) -> None:
        """Forget a request; the node is told."""
        if self._awaited.pop(request_id, None) is not None:
            self.session.cancel(request_id)
            self._flush_soon()

    def close(self, why: str) -> None:
        """End the connection now: requests under way end with Lost before this returns."""
        transport = self._transport
        self._end(why)
        if transport is not None and not transport.is_closing():
            transport.close()

    def abort(self, why: str) -> None:
        """End the connection now, like `close`, and leave nothing to be sent: nobody would acknowledge it."""
        self._abort(why)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up: ask for the keys."""
        self._transport = cast("asyncio.Transport", transport)
        if self.why_ended:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        link_socket = transport.get_extra_info("socket")
        for level, option, value in _SOCKET_OPTIONS:
            with contextlib.suppress(OSError, AttributeError):  # a kernel that lacks one of them
                link_socket.setsockopt(level, option, value)
        self._list_keys()

    def data_received(self, data: bytes) -> None:
        """Answers from the node."""
        self.heard_at = time.monotonic()
        fault = ""
        try:
            self.session.receive_data(data)
        except WireError as error:
            fault = error.reason
        self._report(self.session.events())
        if fault:
            self._abort(f"the node broke the protocol: {fault}")

    def eof_received(self) -> bool:
        """The node closed its side; nothing can be answered any more."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The transport is gone."""
        self._end(str(error) if error else "the node closed the connection")

    def pause_writing(self) -> None:
        """The send buffer is full."""
        self.is_writable = False
        self._owner.connection_writable(self)

    def resume_writing(self) -> None:
        """The send buffer has room again."""
        self.is_writable = True
        self._owner.connection_writable(self)

    # events

    def _report(self, events: list[ClientEvent]) -> None:
        for event in events:
            if isinstance(event, _ANSWERS):
                awaited = self._awaited.pop(event.request_id, None)
                if awaited is not None:
                    awaited[0](awaited[1], event)
                elif event.request_id == self._list_id:
                    self._list_failed(event)
            elif isinstance(event, KeysListed):
                self._listed(event.keys)
            elif isinstance(event, KeysChanged):
                self._list_keys()
            elif isinstance(event, DrainingAnnounced):
                self.is_draining = True
                self._owner.connection_draining(self)
            else:
                raise RuntimeError(f"unknown event {event!r}")

    def _list_keys(self) -> None:
        if self.why_ended:
            return
        if self._list_id:
            # The answer under way may be older than the change.
            self.session.cancel(self._list_id)
        now = time.monotonic()
        deadline = now + self._list_timeout_s
        self._list_id = self.session.list_keys(now=now, deadline=deadline)
        if deadline < self._timer_at:
            self._arm(deadline)
        self._flush_soon()

    def _listed(self, keys: tuple[KeyEntry, ...] | None) -> None:
        self._list_id = 0
        if not self.first_keys.done():
            self.first_keys.set_result(keys)
        elif keys is not None:
            self._owner.connection_keys(self, keys)

    def _list_failed(self, event: Answer) -> None:
        self._list_id = 0
        if self.first_keys.done():
            # What was listed before stays in use; ask again, at the pace of the timeout.
            if not self.why_ended:
                self._loop.call_later(0.0 if isinstance(event, Expired) else self._list_timeout_s, self._list_keys)
        elif isinstance(event, Failed) and event.code in _PLAIN_CODES:
            self._listed(None)
        elif isinstance(event, Failed):
            self._abort(f"the node does not list its keys: {event.code.name.lower()} {event.detail}".rstrip())
        else:
            self._abort("the node did not list its keys in time")

    # time and bytes

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        now = time.monotonic()
        self.session.expire(now)
        self._report(self.session.events())
        if self.why_ended:
            return
        if self.session.is_stalled:
            self._abort("the node owes too many answers")
            return
        deadline = self.session.next_deadline()
        if deadline is not None and deadline < self._timer_at:
            self._arm(max(deadline, now + TIMER_STEP_S))

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        data = self.session.data_to_send()
        if data and self._transport is not None and not self.why_ended:
            self._transport.write(data)

    def _abort(self, why: str) -> None:
        self._end(why)
        if self._transport is not None:
            self._transport.abort()

    def _end(self, why: str) -> None:
        if self.why_ended:
            return
        self.why_ended = why
        if self._timer is not None:
            self._timer.cancel()
        self._owner.connection_ended(self, why)
        self.session.connection_lost()
        self._report(self.session.events())
        if not self.first_keys.done():
            self.first_keys.set_exception(ConnectionError(why))
            self.first_keys.exception()  # seen, even if nobody awaits it
        if not self.closed.done():
            self.closed.set_result(why)
