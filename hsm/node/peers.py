"""Who is at the other end of the management socket, as the kernel knows it: for the log, never for a decision."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")
_NO_LOGIN = 2**32 - 1
"""What the kernel says of processes that nobody logged in for."""


def who_is(transport: asyncio.BaseTransport | None, proc: Path = Path("/proc")) -> dict[str, int]:
    """`pid` and `uid` of the process that connected (unix(7): SO_PEERCRED), and the `login_uid` it descends from.

    That last one stays what it was through su and sudo (loginuid of proc(5)), so it tells people apart who all act as
    the node's user. What is not known is left out.
    """
    number = _number_of(transport)
    if number is None:
        return {}
    try:
        # Transports hand out a stand-in that has no getsockopt; detached, so that the number stays theirs to close.
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=number)
        try:
            answer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        finally:
            connection.detach()
        pid, uid, _gid = _CREDENTIALS.unpack(answer)
    except (OSError, AttributeError, struct.error):
        return {}
    found = {"pid": pid, "uid": uid} if pid > 0 else {}
    login_uid = _login_uid(proc / str(pid) / "loginuid") if found else None
    return found if login_uid is None else {**found, "login_uid": login_uid}


def _number_of(transport: asyncio.BaseTransport | None) -> int | None:
    if transport is None or transport.is_closing():
        return None  # its number may be another connection's by now
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    number: int = connection.fileno()
    return number if number >= 0 else None


def _login_uid(path: Path) -> int | None:
    try:
        number = int(path.read_text())
    except (OSError, ValueError):
        return None
    return number if number != _NO_LOGIN else None
