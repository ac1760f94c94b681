"""Serves what operators and their machines read: /metrics, /healthz, /readyz and a program's own routes.

Plain HTTP on a TCP address that should not be public, or on a Unix socket that only its owner may open. What is
served comes from functions of the caller; nothing is computed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from aiohttp import web

from hsm.shared.addresses import format_address, parse_address
from hsm.shared.logs import get_logger

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_REQUEST_BYTES = 64 * 1024
_MAX_LINE_BYTES = 4096
_SHUTDOWN_TIMEOUT_S = 2.0
_BACKLOG = 128
MAX_CONNECTIONS = 64
"""Open at once per address. When there are more, the oldest gives way: who connects and says nothing must not be able
to use up the files that the program needs."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ListenError(Exception):
    """An address can't be listened on; `str()` is a sentence for the user."""


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of /healthz (alive) or /readyz (fit for work): 200 or 503, with the detail as JSON."""

    ok: bool
    detail: Mapping[str, object] = field(default_factory=dict)


def ops_app(
    metrics: Callable[[], bytes],
    health: Callable[[], Health],
    ready: Callable[[], Health],
    routes: Iterable[web.RouteDef] = (),
    *,
    max_request_bytes: int = MAX_REQUEST_BYTES,
) -> web.Application:
    """The application; `metrics` returns the Prometheus text format. Unexpected errors become a short 500."""

    async def serve_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": METRICS_CONTENT_TYPE})

    async def serve_health(_request: web.Request) -> web.Response:
        return _health_response(health())

    async def serve_ready(_request: web.Request) -> web.Response:
        return _health_response(ready())

    app = web.Application(client_max_size=max_request_bytes, middlewares=[_short_errors])
    app.router.add_get("/metrics", serve_metrics)
    app.router.add_get("/healthz", serve_health)
    app.router.add_get("/readyz", serve_ready)
    app.router.add_routes(list(routes))
    return app


def json_response(value: object, status: int = 200) -> web.Response:
    """A JSON answer; `value` is anything msgspec encodes, such as a frozen dataclass."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _health_response(health: Health) -> web.Response:
    word = "ok" if health.ok else "failing"
    return json_response({"status": word, **health.detail}, 200 if health.ok else 503)


@web.middleware
async def _short_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception:
        get_logger("ops").exception("ops_request_crashed", method=request.method, path=request.path)
        return web.Response(status=500, text="internal error; see the log\n")


class Running:
    """A server that listens; `address` is the real one, also where port 0 was asked for."""

    def __init__(
        self, runner: web.AppRunner, listener: asyncio.AbstractServer, address: str, socket_path: Path | None
    ) -> None:
        self._runner = runner
        self._listener = listener
        self.address = address
        self._socket_path = socket_path

    async def stop(self) -> None:
        """Close the listener and its connections; the Unix socket's file goes, too. May be called again."""
        self._listener.close()
        await self._runner.cleanup()
        if self._socket_path is not None:
            with contextlib.suppress(FileNotFoundError):
                self._socket_path.unlink()
            self._socket_path = None


async def serve(app: web.Application, address: str | Path) -> Running:
    """Listen on "host:port", or on a Unix socket where `address` is a Path or a text with a slash (mode 0600).

    Raises ListenError with a sentence, ValueError for a text that is no address.
    """
    path = Path(address) if isinstance(address, Path) or "/" in address else None
    listening = _listen_unix(path) if path is not None else _listen_tcp(str(address))
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
        keepalive_timeout=30.0,
        max_line_size=_MAX_LINE_BYTES,
        max_field_size=_MAX_LINE_BYTES,
    )
    try:
        await runner.setup()
        listener = await _accept(runner, listening)
    except BaseException:
        listening.close()
        await runner.cleanup()
        raise
    shown = str(path) if path is not None else format_address(*listening.getsockname()[:2])
    return Running(runner, listener, shown, path)


async def _accept(runner: web.AppRunner, listening: socket.socket) -> asyncio.AbstractServer:
    server = runner.server
    assert server is not None  # after `setup`

    def make_protocol() -> asyncio.BaseProtocol:
        transports = [connection.transport for connection in server.connections]
        live = [transport for transport in transports if transport is not None and not transport.is_closing()]
        for transport in live[: max(0, len(live) - MAX_CONNECTIONS + 1)]:
            transport.abort()
        return server()

    return await asyncio.get_running_loop().create_server(make_protocol, sock=listening, backlog=_BACKLOG)


def _listen_tcp(address: str) -> socket.socket:
    host, port = parse_address(address)
    try:
        family, _type, _proto, _name, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(target[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ListenError(f"can't listen on {address}: {_plain(error)}; is another program using it?") from None


def _listen_unix(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        # The mode must be right from the first instant: whoever connects may do what the owner may.
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(_BACKLOG)
    except (OSError, ListenError) as error:
        listening.close()
        if isinstance(error, ListenError):
            raise
        raise ListenError(f"can't listen on the Unix socket {path}: {_plain(error)}") from None
    listening.setblocking(False)
    return listening


def _plain(error: OSError) -> str:
    return error.strerror or str(error)


def _remove_stale(path: Path) -> None:
    """Remove the socket file of a process that died; refuse one that somebody answers on, and other files."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ListenError(f"can't listen on the Unix socket {path}: a file that is no socket is in its place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise ListenError(f"can't listen on the Unix socket {path}: another process listens there; stop it first")
