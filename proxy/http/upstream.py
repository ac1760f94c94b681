"""One connection to one server: writes a request, reads its response, and tells both to whoever uses it.

The asyncio shell round `ResponseParser`. A connection is idle, or used by exactly one receiver; it gives itself back to
its owner (the pool) when a response is complete, before it tells the receiver so. Its deadlines are here: silence
before and within a response, a server that takes nothing, and the end of an unused connection's life.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, cast

from proxy.base.errors import HttpReason
from proxy.config.schema import UpstreamConfig
from proxy.http.problem import HttpProblem
from proxy.http.progress import unsent_bytes
from proxy.http.response import Response, ResponseParser
from proxy.http.timer import MovingDeadline

WRITE_HIGH_WATER_BYTES = 256 * 1024
"""What may wait in a connection's write buffer before its source is paused."""


class Receiver(Protocol):
    """Who uses a connection. After `is_complete`, `upstream_failed` or `tunnel_closed` nothing more is told."""

    def interim_received(self, response: Response) -> None:
        """A 1xx response other than 101."""

    def response_started(self, response: Response, parts: list[bytes], is_complete: bool) -> None:
        """The final head, and what came with it of the body."""

    def response_continued(self, parts: list[bytes], is_complete: bool) -> None:
        """More of the body, or its end."""

    def upstream_failed(self, problem: HttpProblem, *, is_unanswered: bool) -> None:
        """The connection is of no use any more; `is_unanswered`: not one byte of a response came."""

    def upstream_blocked(self) -> None:
        """The server takes no more bytes for now."""

    def upstream_unblocked(self) -> None:
        """The server takes bytes again."""

    def tunnel_received(self, data: bytes) -> None:
        """Bytes of an upgraded connection."""

    def tunnel_closed(self) -> None:
        """The server closed an upgraded connection."""


class Owner(Protocol):
    """The pool, as its connections see it."""

    def released(self, connection: UpstreamConnection) -> None:
        """A response is complete and the connection may be used again."""

    def gone(self, connection: UpstreamConnection) -> None:
        """The connection is closed, or will be and must not be counted on."""


class UpstreamConnection(asyncio.Protocol):
    """One TCP connection to one server."""

    __slots__ = (
        "_config",
        "_deadline",
        "_has_answered",
        "_is_awaiting",
        "_is_blocked",
        "_is_closed",
        "_is_paused",
        "_is_request_done",
        "_is_tunnel",
        "_owner",
        "_parser",
        "_receiver",
        "_response",
        "_transport",
        "_unsent",
        "uses",
    )

    def __init__(self, config: UpstreamConfig, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self._owner = owner
        self._parser = ResponseParser(config.max_header_bytes)
        self._deadline = MovingDeadline(loop, self._deadline_passed)
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._response: Response | None = None
        self._has_answered = self._is_blocked = self._is_closed = self._is_paused = False
        self._is_request_done = self._is_awaiting = self._is_tunnel = False
        self._unsent = 0
        self.uses = 0
        """Requests that were sent on it."""

    # what a receiver does

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent on it."""
        return not self._is_closed and self._transport is not None and not self._transport.is_closing()

    @property
    def was_made(self) -> bool:
        """Whether it ever was connected; then `gone` is or will be told of its end."""
        return self._transport is not None or self._is_closed

    def start(
        self, receiver: Receiver, head: bytes, parts: Sequence[bytes], *, to_head: bool, is_done: bool, awaits: bool
    ) -> None:
        """Send a request's head with the first parts of its body.

        `is_done`: that is the whole request. `awaits`: an answer is due from now on.
        """
        assert self._transport is not None
        assert self._receiver is None
        self._receiver = receiver
        self._is_request_done, self._is_awaiting, self._has_answered = is_done, awaits, False
        self._response = None
        self.uses += 1
        self._parser.expect(to_head=to_head)
        if parts:
            self._transport.writelines([head, *parts])
        else:
            self._transport.write(head)
        if awaits:
            self._deadline.set(self._config.response_timeout_s)
        else:
            self._deadline.clear()

    def send(self, parts: Sequence[bytes]) -> None:
        """Send more of the request's body, or bytes of a tunnel."""
        if self._transport is not None and parts and not self._is_closed:
            self._transport.writelines(parts)
            self._is_awaiting = False
            if not self._is_blocked and self._response is None:
                self._deadline.clear()  # while a request is being sent its sender's silence is what is timed

    def request_done(self) -> None:
        """The request is sent whole."""
        self._is_request_done = self._is_awaiting = True
        if self._response is None and not self._is_blocked:
            self._deadline.set(self._config.response_timeout_s)

    def pause(self) -> None:
        """Read nothing for now: the client is slow."""
        if not self._is_paused and self._transport is not None and not self._is_closed:
            self._is_paused = True
            self._transport.pause_reading()
            self._arm()

    def resume(self) -> None:
        """Read again."""
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            if self.is_usable:
                self._transport.resume_reading()
                self._arm()

    def become_tunnel(self) -> bytes:
        """After 101: from now on bytes are passed on as they are. Returns those that came with the head."""
        self._is_tunnel = True
        self._deadline.clear()
        return self._parser.take_rest()

    def abandon(self) -> None:
        """Cut the connection; the receiver hears nothing more."""
        self._receiver = None
        if not self._is_closed and self._transport is not None:
            self._is_closed = True
            self._owner.gone(self)
            self._transport.abort()

    def close(self) -> None:
        """Close after what is buffered is written (a tunnel's end), or at once where nothing is; bounded in time."""
        self._receiver = None
        if not self._is_closed and self._transport is not None:
            self._is_closed = True
            self._owner.gone(self)
            self._transport.close()
            self._deadline.set(self._config.idle_timeout_s)

    def rest(self) -> None:
        """Be idle from now on."""
        self._deadline.set(self._config.keepalive_s)

    # what the event loop does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        receiver = self._receiver
        if receiver is None:
            # Nobody asked: such bytes would become the next request's response.
            self.close()
            return
        self._has_answered = True
        if self._is_tunnel:
            receiver.tunnel_received(data)
            return
        self._parser.feed(data)
        try:
            if self._response is None:
                self._read_head(receiver)
            else:
                self._continue(receiver)
        except HttpProblem as problem:
            self._fail(problem)

    def _read_head(self, receiver: Receiver) -> None:
        parser = self._parser
        while (response := parser.read_head()) is not None:
            if response.status < 200 and response.is_interim:
                receiver.interim_received(response)
                if self._receiver is not receiver:
                    return
                if response.status == 100:  # from here on it is the body that is waited for
                    self._is_awaiting = self._is_request_done
                self._arm()
                continue
            self._response = response
            if response.status == 101:
                receiver.response_started(response, [], False)
                return
            parts = parser.read_body()
            is_complete = parser.is_complete
            if is_complete:
                self._complete()
            elif not self._is_blocked:
                self._arm()
            receiver.response_started(response, parts, is_complete)
            return

    def _continue(self, receiver: Receiver) -> None:
        parts = self._parser.read_body()
        is_complete = self._parser.is_complete
        if is_complete:
            self._complete()
        else:
            self._arm()
        receiver.response_continued(parts, is_complete)

    def _complete(self) -> None:
        """Give the connection back. It is of use only where both messages ended cleanly (RFC 9112 9.3)."""
        self._receiver = None
        is_clean = (
            self._response is not None
            and self._response.keep_alive
            and self._is_request_done
            and not self._is_blocked
            and not self._parser.has_rest
            and self.is_usable
        )
        if is_clean:
            self.resume()
            self._owner.released(self)
        elif self._is_request_done:
            self.close()
        else:
            self.abandon()

    def eof_received(self) -> None:
        """See asyncio.Protocol; the transport then closes."""

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._deadline.close()
        receiver, self._receiver = self._receiver, None
        if not self._is_closed:
            self._is_closed = True
            self._owner.gone(self)
        self._transport = None
        if receiver is None:
            return
        if self._is_tunnel:
            receiver.tunnel_closed()
        elif self._response is not None and error is None and self._parser.end_of_stream():
            receiver.response_continued([], True)
        else:
            problem = HttpProblem(502, HttpReason.UPSTREAM_CLOSED, "the upstream closed before its response was whole")
            receiver.upstream_failed(problem, is_unanswered=not self._has_answered)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._is_blocked = True
        if self._receiver is not None:
            self._arm()
            self._receiver.upstream_blocked()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._is_blocked = False
        if self._receiver is not None:
            self._arm()
            self._receiver.upstream_unblocked()

    # deadlines

    def _arm(self) -> None:
        """Set the deadline that fits the state; a tunnel's is its exchange's."""
        if self._is_tunnel:
            return
        if self._is_blocked:
            self._unsent = self._measure_unsent()
            self._deadline.set(self._config.idle_timeout_s)
        elif self._response is None and self._is_awaiting:
            self._deadline.set(self._config.response_timeout_s)
        elif self._response is not None and not self._is_paused:
            self._deadline.set(self._config.idle_timeout_s)
        else:
            self._deadline.clear()

    def _measure_unsent(self) -> int:
        return unsent_bytes(self._transport) if self._transport is not None else 0

    def _deadline_passed(self) -> None:
        if self._is_closed:
            if self._transport is not None:
                self._transport.abort()
        elif self._receiver is None:
            self.close()
        elif self._is_blocked and self._measure_unsent() < self._unsent:
            self._arm()
        else:
            self._fail(HttpProblem(504, HttpReason.UPSTREAM_TIMEOUT, "the upstream did not answer in time"))

    def _fail(self, problem: HttpProblem) -> None:
        receiver = self._receiver
        self.abandon()
        if receiver is not None:
            receiver.upstream_failed(problem, is_unanswered=False)
