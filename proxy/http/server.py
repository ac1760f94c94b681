"""A client's HTTP/1.x connection: requests in, in order, one exchange at a time, responses out.

Theory of operation. Bytes are fed to the parser and pulled from it only when they can be used: a head when no exchange
runs, a body while its upstream takes it. What a client sends ahead (pipelining) waits unparsed and bounded. A response
that is sent before its request was read to the end is followed by a linger: the rest is read and thrown away for a
moment, because closing with unread bytes would reset the connection under the response (RFC 9112 9.6). Phases and
deadlines are in `client.py`.

Runs on any asyncio.Transport; it is told of TLS through CONNECTION_INFO only.
"""

from __future__ import annotations

import asyncio
from typing import cast

from proxy.base.jobs import CONNECTION_INFO, ConnectionInfo
from proxy.http.client import CLOSING, EXCHANGE, IDLE, LINGER, TUNNEL, ClientConnection, Routes
from proxy.http.exchange import Exchange
from proxy.http.framing import CHUNKED, NONE, UNTIL_CLOSE
from proxy.http.headers import ForwardedFields
from proxy.http.pages import error_response
from proxy.http.pool import UpstreamPool
from proxy.http.problem import HttpProblem
from proxy.http.reply import UPGRADE_LINES, body_bytes, client_framing, connection_line, response_head
from proxy.http.request import Request
from proxy.http.response import Response
from proxy.http.wire import ClientWire

MAX_BUFFERED_BYTES = 64 * 1024
"""What a client may send ahead of its turn before it is read no more."""


class HttpProtocol(ClientConnection):
    """One client connection. Also the exchange's ClientSide."""

    def __init__(self, routes: Routes, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(routes, loop)
        self._info: ConnectionInfo | None = None
        self._routed: tuple[str, UpstreamPool, bytes] | None = None
        self._routed_host = b""
        self._framing = NONE
        self._minor = 1

    # the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._wire = ClientWire(cast("asyncio.Transport", transport))
        info: ConnectionInfo | None = transport.get_extra_info(CONNECTION_INFO)
        self._info = info
        if info is not None:
            ip, port, scheme = info.client_ip, info.local_port, "https"
        else:
            peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
            ip, port, scheme = (peer[0] if peer else ""), (local[1] if local else 0), "http"
        self._forwarded = ForwardedFields(self._config.forwarded, ip, scheme, port)
        self._routes.opened(self)
        self._deadline.set(self._config.keepalive_timeout_s)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        phase = self._phase
        if phase is IDLE:
            self._parser.feed(data)
            if not self._is_blocked:
                self._next_request()
            elif self._parser.buffered > MAX_BUFFERED_BYTES:
                self.hold()
        elif phase is EXCHANGE:
            self._parser.feed(data)
            if not self._parser.is_complete:
                self._read_body()
            elif self._parser.buffered > MAX_BUFFERED_BYTES:
                self.hold()
        elif phase is TUNNEL and self._exchange is not None:
            self._arm()
            self._exchange.tunnel_send(data)

    def eof_received(self) -> None:
        """See asyncio.Protocol. A client that closes its side while it waits has gone away."""
        self._client_gone()
        self._phase = CLOSING
        self._arm()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._deadline.close()
        self._client_gone()
        self._wire = None
        self._phase = CLOSING
        self._routes.closed(self)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._is_blocked = True
        if self._exchange is not None:
            self._exchange.client_blocked()
        self._arm()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._is_blocked = False
        if self._exchange is not None:
            self._exchange.client_unblocked()
        elif self._phase is IDLE and self._parser.buffered:
            self.go_on()
            self._next_request()
        self._arm()

    # requests

    def _next_request(self) -> None:
        """Read the next head and start its exchange."""
        if self._phase is not IDLE or self._is_blocked:
            return
        request: Request | None = None
        try:
            request = self._parser.read_head()
            if request is None:
                self._wait_for_head()
                return
            self._has_head_begun = False
            self._minor, self._keeps = request.minor, request.keep_alive and not self._is_draining
            site, pool, host = self._route(request)
        except HttpProblem as problem:
            self._refuse_head(problem, to_head=request is not None and request.method == b"HEAD")
            return
        head = request.onward_head(host, self._forwarded, self._routes.via)
        exchange = Exchange(self, request, head, site, pool, self._routes.observer, self._loop)
        self._phase, self._exchange = EXCHANGE, exchange
        self._deadline.clear()
        exchange.start()
        if request.framing is not NONE and self._exchange is exchange:
            self._arm()
            self._read_body()

    def _route(self, request: Request) -> tuple[str, UpstreamPool, bytes]:
        """Ask the factory, unless the host is that of the last request."""
        if request.host != self._routed_host or self._routed is None:
            self._routed = self._routes.route(request.host, self._info)
            self._routed_host = request.host
        return self._routed

    def _wait_for_head(self) -> None:
        if self._parser.has_started and not self._has_head_begun:
            self._has_head_begun = True
            self._deadline.set(self._config.header_timeout_s)

    def _read_body(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        try:
            parts = self._parser.read_body()
        except HttpProblem as problem:
            self._keeps = False
            exchange.client_failed(problem)
            return
        is_complete = self._parser.is_complete
        if parts or is_complete:
            exchange.send_body(parts, is_complete=is_complete)
        self._arm()

    def head_is_late(self, problem: HttpProblem) -> None:
        """See ClientConnection."""
        self._refuse_head(problem)

    def _refuse_head(self, problem: HttpProblem, *, to_head: bool = False) -> None:
        """Answer a request that has no exchange. Its framing is in doubt, unless it was merely for another site."""
        self._keeps = self._keeps and problem.status == 421 and self._parser.is_complete
        site = self._info.site if self._info is not None else ""
        self._routes.observer.request_failed(site, "", problem.reason, problem.status)
        self._send_refusal(problem, to_head=to_head)

    # the exchange's ClientSide

    def respond(self, response: Response, parts: list[bytes], is_complete: bool) -> None:
        """See ClientSide."""
        framing = self._framing = client_framing(response, self._minor)
        # RFC 9112 9.6: with a request that is not read to its end the connection cannot go on.
        if framing is UNTIL_CLOSE or not self._parser.is_complete or self._is_draining:
            self._keeps = False
        line = b"" if self._keeps and self._minor else connection_line(self._minor, keeps=self._keeps)
        if framing is CHUNKED:
            parts = body_bytes(CHUNKED, parts, is_complete=is_complete)
        self._write([response_head(response, framing, line), *parts])
        if is_complete:
            self._response_sent()

    def respond_interim(self, response: Response) -> None:
        """See ClientSide (RFC 9110 15.2: never to HTTP/1.0)."""
        if self._minor:
            self._write([response_head(response, NONE, b"")])
            self._arm()

    def send_body(self, parts: list[bytes], is_complete: bool) -> None:
        """See ClientSide."""
        if self._framing is CHUNKED:
            parts = body_bytes(CHUNKED, parts, is_complete=is_complete)
        if parts:
            self._write(parts)
        if is_complete:
            self._response_sent()

    def refuse(self, problem: HttpProblem) -> None:
        """See ClientSide."""
        exchange, self._exchange = self._exchange, None
        self._keeps = self._keeps and self._parser.is_complete and not self._is_draining
        self._send_refusal(problem, to_head=exchange is not None and exchange.request.method == b"HEAD")

    def cut(self) -> None:
        """See ClientSide."""
        self._exchange = None
        if self._framing is UNTIL_CLOSE:
            # Only a reset tells such a client that the body is not whole.
            self._phase = CLOSING
            if self._wire is not None:
                self._wire.reset()
        else:
            self._close()

    def tunnel_opened(self, response: Response, rest: bytes) -> None:
        """See ClientSide."""
        self._phase = TUNNEL
        self._write([response_head(response, NONE, UPGRADE_LINES), rest])
        self._arm()
        self.go_on()  # a client that sent much ahead is held; from here on the upstream decides about that
        early = self._parser.take_rest()
        if early and self._exchange is not None:
            self._exchange.tunnel_send(early)

    def tunnel_send(self, data: bytes) -> None:
        """See ClientSide."""
        self._write([data])
        if not self._is_blocked:
            self._arm()

    def tunnel_closed(self) -> None:
        """See ClientSide."""
        self._exchange = None
        self._close()

    # ends

    def _response_sent(self) -> None:
        self._exchange = None
        if not self._keeps or self._is_draining:
            self._end_connection()
            return
        self._phase = IDLE
        self._has_head_begun = False
        self._deadline.set(self._config.keepalive_timeout_s)
        if self._is_held:
            self.go_on()
        if self._parser.buffered:
            # Not at once: a thousand pipelined requests that are refused would be a thousand calls deep.
            self._loop.call_soon(self._next_request)

    def _send_refusal(self, problem: HttpProblem, *, to_head: bool) -> None:
        line = connection_line(self._minor, keeps=self._keeps)
        self._write([error_response(problem, to_head=to_head, connection=line)])
        self._response_sent()

    def _end_connection(self) -> None:
        """Everything is answered: close, or linger where the client may still be sending."""
        if self._parser.is_complete and not self._parser.buffered and not self._parser.has_failed:
            self._close()
            return
        self._phase = LINGER
        self.go_on()
        self._deadline.set(self._config.linger_timeout_s)
        if self._wire is not None:
            self._wire.end_writing()
