"""A TLS client on pyOpenSSL, for what Debian's older tools can't show: hybrid groups, and sessions that resume."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from OpenSSL import SSL
from OpenSSL._util import lib  # pyOpenSSL has neither a setter for groups nor SSL_session_reused

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Visit:
    """What one connection was like."""

    version: str
    group: str
    is_resumed: bool
    answer: bytes
    session: SSL.Session | None


def _finish(connection: SSL.Connection, wire: socket.socket) -> None:
    """Sends what OpenSSL wants to send."""
    try:
        while True:
            wire.sendall(connection.bio_read(65536))
    except SSL.WantReadError:
        return


def _drive(connection: SSL.Connection, wire: socket.socket, call: object) -> bytes | None:
    """Calls until OpenSSL needs nothing more from the wire; the connection's end is None."""
    while True:
        try:
            result = call()  # type: ignore[operator]
        except SSL.WantReadError:
            _finish(connection, wire)
            data = wire.recv(65536)
            if not data:
                return None
            connection.bio_write(data)
        except SSL.ZeroReturnError:
            return None
        else:
            _finish(connection, wire)
            return result if isinstance(result, bytes) else b""


def visit(
    port: int,
    name: str,
    *,
    groups: str | None = None,
    version: int | None = None,
    session: SSL.Session | None = None,
    context: SSL.Context | None = None,
    path: str = "/small",
) -> Visit:
    """One request over one connection; the certificate is not verified (other tests do that)."""
    context = context or SSL.Context(SSL.TLS_CLIENT_METHOD)
    if version is not None:
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    connection.set_tlsext_host_name(name.encode())
    if groups is not None:
        assert lib.SSL_set1_curves_list(connection._ssl, groups.encode()) == 1, groups
    if session is not None:
        connection.set_session(session)
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as wire:
        _drive(connection, wire, connection.do_handshake)
        request = f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()
        _drive(connection, wire, lambda: connection.send(request))
        answer = b""
        while data := _drive(connection, wire, lambda: connection.recv(65536)):
            answer += data
        # OpenSSL does not resume sessions of connections that ended without the client's own close_notify.
        connection.shutdown()
        _finish(connection, wire)
        return Visit(
            connection.get_protocol_version_name(),
            connection.get_group_name() or "",
            lib.SSL_session_reused(connection._ssl) == 1,
            answer,
            connection.get_session(),
        )


def negotiated_group(port: int, name: str, groups: str) -> str:
    """Which key exchange group a client that offers `groups` ends up with."""
    seen = visit(port, name, groups=groups)
    assert seen.answer.startswith(b"HTTP/1.1 200 "), seen.answer[:80]
    return seen.group
