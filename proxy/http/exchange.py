"""One request and its response: joins a client's side with an upstream connection, and knows how far both are.

The client's side (HTTP/1.1 today) is behind `ClientSide`, the upstream's behind `UpstreamConnection`; bytes pass
through without being collected, and each side's slowness pauses the other. An exchange ends once, in `_finish` (whole)
or `_end` (broken off): the connection is given back or cut, the observer told. Never awaits.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from proxy.base.errors import HttpReason
from proxy.base.observe import ProxyObserver
from proxy.http.framing import CHUNKED, NONE
from proxy.http.headers import LAST_CHUNK, chunk
from proxy.http.pool import Server, UpstreamPool
from proxy.http.problem import HttpProblem
from proxy.http.request import Request
from proxy.http.response import Response
from proxy.http.upstream import UpstreamConnection

_METHODS = {
    name.encode(): name
    for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "REPORT", "SEARCH")
}


class ClientSide(Protocol):
    """What an exchange asks of the client's connection."""

    def respond(self, response: Response, parts: list[bytes], is_complete: bool) -> None:
        """Send the head, and what is there of the body."""

    def respond_interim(self, response: Response) -> None:
        """Send a 1xx response, where the client's version knows them."""

    def send_body(self, parts: list[bytes], is_complete: bool) -> None:
        """Send more of the body, or its end."""

    def refuse(self, problem: HttpProblem) -> None:
        """Send an error response of ours; the exchange is over."""

    def cut(self) -> None:
        """End the connection so that the client sees that the response is not whole."""

    def hold(self) -> None:
        """Read no more of the request for now."""

    def go_on(self) -> None:
        """Read the request again."""

    def tunnel_opened(self, response: Response, rest: bytes) -> None:
        """101: pass bytes on from now on; `rest` came with the head."""

    def tunnel_send(self, data: bytes) -> None:
        """Bytes of the upstream for the client."""

    def tunnel_closed(self) -> None:
        """The upstream closed the tunnel."""


class Exchange:
    """One request under way. It is the pool's Waiter and the connection's Receiver."""

    __slots__ = (
        "_attempted_at",
        "_bytes_in",
        "_bytes_out",
        "_client",
        "_connection",
        "_has_continued",
        "_head",
        "_is_client_blocked",
        "_is_over",
        "_loop",
        "_observer",
        "_pending",
        "_pool",
        "_server",
        "_started_at",
        "has_response",
        "is_request_done",
        "is_tunnel",
        "is_waiting",
        "request",
        "response",
        "site",
        "tried",
        "wants_fresh",
    )

    def __init__(
        self,
        client: ClientSide,
        request: Request,
        head: bytes,
        site: str,
        pool: UpstreamPool,
        observer: ProxyObserver,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.request = request
        self.site = site
        self.is_request_done = request.framing is NONE
        self.is_tunnel = False
        self.has_response = False
        self.response: Response | None = None
        self.is_waiting = True
        self.wants_fresh = False
        self.tried: list[Server] = []
        self._client = client
        self._head = head
        self._pool = pool
        self._observer = observer
        self._loop = loop
        self._connection: UpstreamConnection | None = None
        self._server: Server | None = None
        self._pending: list[bytes] = []
        self._is_over = self._has_continued = self._is_client_blocked = False
        self._bytes_in = self._bytes_out = 0
        self._started_at = self._attempted_at = time.monotonic()

    def start(self) -> None:
        """Ask the pool for a connection."""
        self._pool.acquire(self)

    # the client's side

    def send_body(self, parts: list[bytes], *, is_complete: bool) -> None:
        """The client sent more of its request, or its end."""
        if self._is_over:
            return
        self._bytes_in += sum(map(len, parts))
        if self.request.framing is CHUNKED:
            parts = chunk(parts)
            if is_complete:
                parts.append(LAST_CHUNK)
        self.is_request_done = is_complete
        if self._connection is None:
            self._pending += parts
            self._client.hold()
            return
        self._connection.send(parts)
        if is_complete:
            self._connection.request_done()

    def client_failed(self, problem: HttpProblem) -> None:
        """The rest of the request is wrong or late: answer if nothing was answered yet, else cut."""
        self._fail(problem)

    def client_gone(self) -> None:
        """Nobody waits for the response any more."""
        if not self._is_over:
            self._end(HttpReason.CLIENT_ABORTED, 0)

    def client_blocked(self) -> None:
        """The client takes no more bytes for now."""
        self._is_client_blocked = True
        if self._connection is not None:
            self._connection.pause()

    def client_unblocked(self) -> None:
        """The client takes bytes again."""
        self._is_client_blocked = False
        if self._connection is not None:
            self._connection.resume()

    def tunnel_send(self, data: bytes) -> None:
        """Bytes of the client for the upstream."""
        if self._connection is not None:
            self._bytes_in += len(data)
            self._connection.send([data])

    @property
    def awaits_continue(self) -> bool:
        """Whether the client may be waiting for 100 (Continue) before it sends its body."""
        return self.request.expects_continue and not (self._bytes_in or self._has_continued or self.has_response)

    @property
    def tunnel_timeout_s(self) -> float:
        """Longest silence of a tunnel, in seconds."""
        return self._pool.config.tunnel_timeout_s

    # the pool's waiter

    def connection_ready(self, connection: UpstreamConnection, server: Server) -> None:
        """See Waiter."""
        self.is_waiting = False
        self._connection, self._server = connection, server
        self._attempted_at = time.monotonic()
        request = self.request
        pending, self._pending = self._pending, []
        is_done = self.is_request_done
        if request.framing is not NONE:
            self._client.go_on()  # first: the connection may say at once that it is full
        connection.start(
            self,
            self._head,
            pending,
            to_head=request.method == b"HEAD",
            is_done=is_done,
            awaits=is_done or request.expects_continue,
        )
        if self._is_client_blocked:  # since before there was a connection that could have been paused
            connection.pause()

    def connection_refused(self, problem: HttpProblem, server: Server | None) -> None:
        """See Waiter."""
        if server is not None:
            self._observer.upstream_attempted(
                self._pool.name, server.address, problem.reason, time.monotonic() - self._attempted_at
            )
            self.tried.append(server)
            if len(self.tried) < len(self._pool.servers):
                self._attempted_at = time.monotonic()
                self._pool.acquire(self)
                return
        self._fail(problem)

    # the connection's receiver

    def interim_received(self, response: Response) -> None:
        """See Receiver."""
        self._has_continued = self._has_continued or response.status == 100
        self._client.respond_interim(response)

    def response_started(self, response: Response, parts: list[bytes], is_complete: bool) -> None:
        """See Receiver."""
        self._attempt_ended(None)
        if response.status == 101:
            self._open_tunnel(response)
            return
        self.has_response = True
        self.response = response
        if is_complete:
            self._connection = None
        for part in parts:
            self._bytes_out += len(part)
        if is_complete:
            self._finish()
        self._client.respond(response, parts, is_complete)

    def response_continued(self, parts: list[bytes], is_complete: bool) -> None:
        """See Receiver."""
        for part in parts:
            self._bytes_out += len(part)
        if is_complete:
            self._connection = None
            self._finish()
        self._client.send_body(parts, is_complete)

    def upstream_failed(self, problem: HttpProblem, *, is_unanswered: bool) -> None:
        """See Receiver. A request that may be repeated is, where a kept connection had died (RFC 9112 9.3.1)."""
        connection, self._connection = self._connection, None
        if not self.has_response:
            self._attempt_ended(problem.reason)
        is_stale = is_unanswered and connection is not None and connection.uses > 1
        is_unsent = self.request.framing is NONE or not (self._bytes_in or self.is_request_done)
        if is_stale and is_unsent and self.request.is_idempotent and not self.wants_fresh:
            self.wants_fresh = self.is_waiting = True
            self._pool.acquire(self)
            return
        self._fail(problem)

    def upstream_blocked(self) -> None:
        """See Receiver."""
        if not self.is_request_done or self.is_tunnel:
            self._client.hold()

    def upstream_unblocked(self) -> None:
        """See Receiver."""
        self._client.go_on()

    def tunnel_received(self, data: bytes) -> None:
        """See Receiver."""
        self._bytes_out += len(data)
        self._client.tunnel_send(data)

    def tunnel_closed(self) -> None:
        """See Receiver."""
        self._connection = None
        self._finish()
        self._client.tunnel_closed()

    def close_tunnel(self) -> None:
        """The client closed the tunnel, or nobody used it for too long: what is under way still goes out."""
        if not self._is_over:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
            self._finish()

    # ends

    def _open_tunnel(self, response: Response) -> None:
        connection = self._connection
        if not self.request.upgrade or connection is None:
            self._fail(HttpProblem(502, HttpReason.UPSTREAM_BAD_RESPONSE, "the upstream switched protocols unasked"))
            return
        self.is_tunnel = self.has_response = True
        self.response = response
        rest = connection.become_tunnel()
        self._bytes_out += len(rest)
        self._client.tunnel_opened(response, rest)

    def _attempt_ended(self, reason: HttpReason | None) -> None:
        if self._server is not None:
            duration = time.monotonic() - self._attempted_at
            self._observer.upstream_attempted(self._pool.name, self._server.address, reason, duration)

    def _fail(self, problem: HttpProblem) -> None:
        if self._is_over:
            return
        if self.has_response:
            self._end(problem.reason, 0)
            self._client.cut()
        else:
            self._end(problem.reason, problem.status)
            self._client.refuse(problem)

    def _end(self, reason: HttpReason, status: int) -> None:
        """It broke off: free what it held, exactly once."""
        self._is_over = True
        self._pending = []
        if self.is_waiting:
            self.is_waiting = False
            self._pool.cancel(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        self._observer.request_failed(self.site, self._pool.name, reason, status)

    def _finish(self) -> None:
        """It came to its proper end; the connection is given back already."""
        self._is_over = True
        request = self.request
        self._observer.request_finished(
            self.site,
            self._pool.name,
            _METHODS.get(request.method, "OTHER"),
            self.response.status if self.response is not None else 0,
            time.monotonic() - self._started_at,
            self._bytes_in,
            self._bytes_out,
        )
