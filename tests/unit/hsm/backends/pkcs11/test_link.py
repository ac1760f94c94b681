"""A worker's socket in the event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from hsm.backends.pkcs11.framing import frame, request_reader
from hsm.backends.pkcs11.link import READ_BYTES, WorkerLink
from hsm.backends.pkcs11.messages import Answer, Done, Ping, Request, Sign, Signed
from tests.support.node import until


class Ends:
    """A link, the other end of its socket, and what the link said."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.answers: list[Answer] = []
        self.lost: list[str] = []
        self.link = WorkerLink(ours, asyncio.get_running_loop(), self.answers.append, self.lost.append)
        self.reader = request_reader()
        self.pieces = 0

    def requests(self) -> list[Request]:
        """What has come at the worker's end."""
        try:
            data = self.theirs.recv(10_000_000)
        except BlockingIOError:
            return []
        self.pieces += 1
        return self.reader.feed(data)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ends = Ends()
    yield ends
    ends.link.close()
    ends.theirs.close()


async def test_what_one_turn_sends_leaves_in_one_piece(ends: Ends) -> None:
    for number in range(64):
        ends.link.send(Ping(id=number))
    assert ends.requests() == []
    await asyncio.sleep(0)
    assert ends.requests() == [Ping(id=number) for number in range(64)]
    assert ends.pieces == 1


async def test_answers_come_in_order_however_they_are_cut(ends: Ends) -> None:
    data = b"".join(frame(Signed(id=number, signature=b"x" * number)) for number in range(50))
    for at in range(0, len(data), 7):
        ends.theirs.send(data[at : at + 7])
        await asyncio.sleep(0)
    await until(lambda: len(ends.answers) == 50)
    assert ends.answers == [Signed(id=number, signature=b"x" * number) for number in range(50)]
    assert ends.lost == []


async def test_a_worker_that_reads_slowly_gets_everything(ends: Ends) -> None:
    sent = [
        Sign(id=number, key=b"k" * 20, scheme="ed25519", payload=bytes([number % 256]) * 50_000)
        for number in range(100)
    ]
    for request in sent:
        ends.link.send(request)
    got: list[Request] = []
    while len(got) < 100:
        got += ends.requests()
        await asyncio.sleep(0)
    assert got == sent
    ends.link.send(Ping(id=1))
    await asyncio.sleep(0)
    assert ends.requests() == [Ping(id=1)]


async def test_read_takes_what_has_come_without_the_loop(ends: Ends) -> None:
    ends.theirs.setblocking(True)
    ends.theirs.sendall(frame(Done(id=1)))
    ends.link.read()
    assert ends.answers == [Done(id=1)]


async def test_more_than_one_read_takes_is_taken_in_one_turn(ends: Ends) -> None:
    answer = frame(Signed(id=1, signature=b"s" * 1000))
    count = 0
    ends.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * READ_BYTES)
    while count < 400:
        try:
            ends.theirs.send(answer)
        except BlockingIOError:
            break
        count += 1
    ends.link.read()
    assert len(ends.answers) == count


async def test_a_worker_that_hangs_up_is_lost_once(ends: Ends) -> None:
    ends.theirs.send(frame(Done(id=7)))
    ends.theirs.close()
    await until(lambda: ends.lost != [])
    assert ends.answers == [Done(id=7)], "its last words are heard"
    assert ends.lost == ["the token's process hung up"]
    ends.link.close()
    ends.link.read()
    assert len(ends.lost) == 1


async def test_a_worker_that_is_gone_can_not_be_written_to(ends: Ends) -> None:
    ends.theirs.close()
    ends.link.send(Ping(id=1))
    await until(lambda: ends.lost != [])
    assert len(ends.lost) == 1


async def test_nonsense_ends_the_link(ends: Ends) -> None:
    ends.theirs.send(frame(Done(id=1)) + b"\xff" * 8)
    await until(lambda: ends.lost != [])
    assert "does not speak as it should" in ends.lost[0]


async def test_nothing_is_heard_after_close(ends: Ends) -> None:
    ends.link.send(Ping(id=1))
    ends.theirs.send(frame(Done(id=1)))
    ends.link.close()
    await asyncio.sleep(0.01)
    assert ends.answers == []
    assert ends.lost == []
