"""What every client connection has, whatever it is doing: a phase, a deadline that fits it, and ways to end.

The lower half of `server.py`, which adds requests and responses. A connection is always in one phase; the phase says
which deadline runs and what its passing means. Every phase has one.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Protocol

from proxy.base.errors import HttpReason
from proxy.base.jobs import ConnectionInfo
from proxy.base.observe import ProxyObserver
from proxy.config.schema import HttpConfig
from proxy.http.exchange import Exchange
from proxy.http.pool import UpstreamPool
from proxy.http.problem import HttpProblem
from proxy.http.request import RequestParser
from proxy.http.timer import MovingDeadline
from proxy.http.wire import ClientWire


class Phase(Enum):
    """What a client's connection is doing."""

    IDLE = auto()
    """Waits for a request; part of a head may have come."""
    EXCHANGE = auto()
    TUNNEL = auto()
    LINGER = auto()
    """Everything is answered; what the client still sends is thrown away."""
    CLOSING = auto()


# As globals: attributes of enums are slow to look up in CPython 3.11.
IDLE, EXCHANGE, TUNNEL, LINGER, CLOSING = Phase


class Routes(Protocol):
    """What a connection asks of its factory."""

    config: HttpConfig
    observer: ProxyObserver
    via: bytes

    def route(self, host: bytes, info: ConnectionInfo | None) -> tuple[str, UpstreamPool, bytes]:
        """Return (site, its upstream, Host to forward); `host` may be b"". Raises HttpProblem 421."""

    def opened(self, connection: ClientConnection) -> None:
        """A connection exists from now on."""

    def closed(self, connection: ClientConnection) -> None:
        """It is gone."""


class ClientConnection(asyncio.Protocol):
    """One client connection without its requests; `HttpProtocol` is the whole."""

    def __init__(self, routes: Routes, loop: asyncio.AbstractEventLoop) -> None:
        self._routes = routes
        self._loop = loop
        self._config = routes.config
        self._parser = RequestParser(routes.config)
        self._deadline = MovingDeadline(loop, self._deadline_passed)
        self._wire: ClientWire | None = None
        self._phase = IDLE
        self._exchange: Exchange | None = None
        self._keeps = True
        self._is_held = self._is_blocked = self._is_draining = self._has_head_begun = False

    def head_is_late(self, problem: HttpProblem) -> None:
        """A request's head did not arrive in time: answer and close."""
        raise NotImplementedError

    def hold(self) -> None:
        """Read nothing for now."""
        if not self._is_held and self._wire is not None:
            self._is_held = True
            self._wire.pause()
            self._arm()

    def go_on(self) -> None:
        """Read again."""
        if self._is_held and self._wire is not None:
            self._is_held = False
            self._wire.resume()
            self._arm()

    # ends

    def drain(self) -> None:
        """Close when idle, else after the response under way. A tunnel goes on until its ends close it."""
        self._is_draining = True
        if self._phase is IDLE and not self._parser.has_started:
            self._close()

    def abort(self) -> None:
        """Cut the connection now, whatever it does."""
        self._client_gone()
        self._abort()

    def _close(self) -> None:
        self._phase = CLOSING
        if self._wire is not None:
            self._wire.close()
        self._arm()

    def _abort(self) -> None:
        self._phase = CLOSING
        if self._wire is not None:
            self._wire.abort()

    def _client_gone(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if exchange.is_tunnel:
            exchange.close_tunnel()
        else:
            exchange.client_gone()

    def _write(self, pieces: list[bytes]) -> None:
        if self._wire is not None:
            self._wire.write(pieces)

    # deadlines

    def _arm(self) -> None:
        """Set the deadline that fits the phase; IDLE and LINGER have theirs set when they begin."""
        phase, wire, exchange = self._phase, self._wire, self._exchange
        if wire is None or phase is IDLE or phase is LINGER:
            return
        if phase is CLOSING and not wire.has_unsent:
            self._deadline.clear()  # the transport closes by itself now: nobody has to wait for the client
        elif self._is_blocked or phase is CLOSING:
            wire.note_progress()
            self._deadline.set(self._config.send_timeout_s)
        elif phase is TUNNEL and exchange is not None:
            self._deadline.set(exchange.tunnel_timeout_s)
        elif exchange is not None and not (self._parser.is_complete or self._is_held or exchange.awaits_continue):
            self._deadline.set(self._config.body_timeout_s)
        else:
            self._deadline.clear()

    def _deadline_passed(self) -> None:
        phase, wire = self._phase, self._wire
        if wire is None:
            return
        if (self._is_blocked or phase is CLOSING) and phase not in (IDLE, LINGER):
            if wire.has_progressed:
                self._arm()
            else:
                self.abort()
        elif phase is IDLE and self._has_head_begun:
            self._keeps = False
            self.head_is_late(_timeout("the request's head did not arrive in time"))
        elif phase is EXCHANGE and self._exchange is not None:
            self._keeps = False
            self._exchange.client_failed(_timeout("the request's body did not arrive in time"))
        else:
            self._client_gone()
            self._close()


def _timeout(detail: str) -> HttpProblem:
    return HttpProblem(408, HttpReason.REQUEST_TIMEOUT, detail)
