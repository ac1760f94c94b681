"""Tells systemd how the node is, by the datagram protocol of sd_notify(3). Does nothing where nobody asked for it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"


def notify(message: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Sends one message to the socket named by NOTIFY_SOCKET; False where there is none or it does not listen."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        # A name in the abstract namespace (unix(7)) starts with a NUL byte.
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1.0)
        sender.sendto(message.encode(), address)
        return True
    return False
