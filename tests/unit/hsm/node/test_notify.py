"""Messages to systemd."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hsm.node.notify import READY, notify


def test_without_a_socket_nothing_is_sent() -> None:
    assert not notify(READY, {})
    assert not notify(READY, {"NOTIFY_SOCKET": "/nonexistent/notify"})


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_message_arrives(tmp_path: Path, is_abstract: bool) -> None:
    name = f"@sealgate-test-{tmp_path.name}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1) if is_abstract else name)
        receiver.settimeout(5)
        assert notify(READY, {"NOTIFY_SOCKET": name})
        assert receiver.recv(100) == b"READY=1"
