"""The load: it goes on in time whatever becomes of handshakes, and writes down every one of them."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.chaos import load as load_module
from proxy.chaos.figures import Handshake
from proxy.chaos.load import Load, client_context, error_text, read_handshakes
from tests.support.pki import issue, make_ca, write_chain, write_key

DEADLINE_S = 0.4


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Who connects there is never answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        yield server.getsockname()[1]


async def play(port: int, rate: float, seconds: float, context: ssl.SSLContext, deadline_s: float) -> list[Handshake]:
    out, stop = io.StringIO(), asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    await Load(port, context, deadline_s, out).run({"localhost": rate}, stop)
    return [Handshake(*json.loads(line)) for line in out.getvalue().splitlines()]


async def test_times_of_the_schedule_are_kept_while_nobody_answers(silent_port: int) -> None:
    """Handshakes that hang hold up no other: an open loop. Each ends at its deadline, counted from when it was due."""
    found = await play(silent_port, 100, 0.6, ssl.create_default_context(), DEADLINE_S)
    assert 30 < len(found) < 110
    assert {each.error for each in found} == {f"no end within {DEADLINE_S:g} s"}
    assert all(DEADLINE_S - 0.01 <= each.latency_s < DEADLINE_S + 1 for each in found)


async def test_a_server_that_closes_is_an_error_with_a_name() -> None:
    class Closes(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

    server = await asyncio.get_running_loop().create_server(Closes, "127.0.0.1", 0)
    found = await play(server.sockets[0].getsockname()[1], 100, 0.2, ssl.create_default_context(), 5.0)
    server.close()
    assert found
    assert all(each.error.startswith(("ConnectionReset", "TLS:", "ConnectionAborted")) for each in found)


async def test_more_than_may_be_under_way_fails_at_once(monkeypatch: pytest.MonkeyPatch, silent_port: int) -> None:
    monkeypatch.setattr(load_module, "MAX_OPEN", 5)
    found = await play(silent_port, 100, 0.3, ssl.create_default_context(), DEADLINE_S)
    refused = [each for each in found if "too many" in each.error]
    assert refused
    assert all(each.ended == each.started for each in refused)
    assert len(found) - len(refused) <= 5


async def test_good_handshakes_are_full_ones_of_tls_1_3(tmp_path: Path) -> None:
    ca = make_ca()
    leaf = issue(ca, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_chain(tmp_path / "leaf.pem", leaf), write_key(tmp_path / "leaf.key", leaf))
    versions: list[str | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        versions.append(f"{tls.version()} {tls.session_reused}")
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    trusting = client_context(write_chain(tmp_path / "ca.pem", ca))
    found = await play(server.sockets[0].getsockname()[1], 50, 0.3, trusting, 5.0)
    server.close()
    assert found
    assert [each.error for each in found] == [""] * len(found)
    assert set(versions) == {"TLSv1.3 False"}


def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "handshakes.jsonl"
    path.write_text('["localhost", 1.0, 1.1, 1.2, ""]\n["localhost", 2.0, 2.')
    assert read_handshakes(path) == [Handshake("localhost", 1.0, 1.1, 1.2, "")]


def test_errors_of_the_same_cause_have_the_same_words() -> None:
    alert = ssl.SSLError(1, "[SSL: TLSV1_ALERT_INTERNAL_ERROR] tlsv1 alert internal error (_ssl.c:1006)")
    alert.reason = "TLSV1_ALERT_INTERNAL_ERROR"
    assert error_text(alert) == "TLS: tlsv1 alert internal error"
    assert error_text(ConnectionRefusedError(111, "Connection refused")) == "ConnectionRefusedError: Connection refused"
    assert error_text(ConnectionResetError()) == "ConnectionResetError"
