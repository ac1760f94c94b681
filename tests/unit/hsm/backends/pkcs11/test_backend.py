"""A token's backend over a fake worker: keys, attributes, failures in the words of the wire."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from hsm.backends.attributes import KeyAttributes, KeyState
from hsm.backends.base import AwaitedBackend, BackendError
from hsm.backends.book import Book
from hsm.backends.pkcs11.backend import Pkcs11Backend
from hsm.backends.pkcs11.login import LoginSource
from hsm.backends.pkcs11.messages import KeysFound, ListKeys
from hsm.backends.pkcs11.problems import WorkerProblem
from hsm.backends.pkcs11.settings import TokenSettings
from hsm.node.blocking import BlockingCalls
from hsm.wire.errors import ErrorCode
from hsm.wire.schemes import Scheme
from tests.support.fake_token_worker import FakeToken, ski_of, start_fake
from tests.support.node import until


def in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


class Rig:
    def __init__(self, folder: Path, **more: Any) -> None:
        self.token = FakeToken(folder)
        self.book = Book(folder / "hsm.book")
        timing = {"rescan_interval_s": 0.1, "retry_min_s": 0.05, "retry_max_s": 0.2, "call_timeout_s": 2.0, **more}
        self.settings = TokenSettings(
            module=Path("/none.so"), pin=None, environment=self.token.environment, concurrency=4, **timing
        )
        loop = asyncio.get_running_loop()
        self.backend = Pkcs11Backend(
            self.settings, self.book, LoginSource(None), loop, in_thread, start_worker=start_fake
        )
        self.calls = BlockingCalls()

    async def refresh(self) -> bool:
        return await self.calls.run(self.backend.refresh)

    async def sign(self, label: str = "www") -> bytes | BackendError:
        ended: asyncio.Future[bytes | BackendError] = asyncio.get_running_loop().create_future()
        self.backend.begin(ski_of(label), Scheme.ECDSA_SHA256, b"digest", ended.set_result)
        return await asyncio.wait_for(ended, 10.0)

    def labels(self) -> list[str]:
        keys = self.backend.keys()
        return [key.label for key in keys]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.backend.start()
    yield rig
    await rig.backend.stop()


async def test_it_is_a_backend_that_signs(rig: Rig) -> None:
    backend: AwaitedBackend = rig.backend
    assert rig.backend.state == "up"
    (key,) = backend.keys()
    assert [(key.ski, key.label)] == [(ski_of("www"), "www")]
    assert await rig.sign() == b"signed:digest"
    details = rig.backend.details()
    assert details["library"] == "fake 1.0"
    assert details["label"] == "fake"
    assert details["workers_started"] == 1
    assert details["problem"] == ""


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("busy", ErrorCode.BUSY),
        ("key_gone", ErrorCode.KEY_NOT_FOUND),
        ("unfit", ErrorCode.CRYPTOGRAPHY),
        ("invalid", ErrorCode.CRYPTOGRAPHY),
        ("session_lost", ErrorCode.INTERNAL),
        ("logged_out", ErrorCode.INTERNAL),
        ("broken", ErrorCode.INTERNAL),
    ],
)
async def test_failures_are_said_in_the_words_of_the_wire(rig: Rig, kind: str, code: ErrorCode) -> None:
    rig.token.say(sign=kind)
    error = await rig.sign()
    assert isinstance(error, BackendError)
    assert (error.code, error.detail) == (code, f"C_Call failed: {kind}")


async def test_keys_that_come_and_go_are_noticed(rig: Rig) -> None:
    assert await rig.refresh(), "the keys of the opening are new"
    assert not await rig.refresh()
    before = rig.backend.revision
    rig.token.say(keys=["www", "mail"])
    await until(lambda: rig.labels() == ["mail", "www"], "the key is seen")
    assert rig.backend.revision > before
    assert await rig.refresh()
    assert not await rig.refresh()
    rig.token.say(keys=[])
    await until(lambda: rig.labels() == [])
    assert await rig.refresh()


async def test_a_refresh_after_a_change_sees_it_at_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, rescan_interval_s=3600.0)
    await rig.backend.start()
    await rig.refresh()
    rig.token.say(keys=["www", "new"])
    assert not await rig.refresh()
    rig.backend.keys_changed()
    assert await rig.refresh()
    assert rig.labels() == ["new", "www"]
    await rig.backend.stop()


async def test_a_listing_that_fails_is_made_again(rig: Rig) -> None:
    await rig.refresh()
    rig.token.say(listkeys="busy", keys=["www", "new"])
    rig.backend.keys_changed()
    for _ in range(2):
        with pytest.raises(BackendError, match="busy"):
            await rig.refresh()
    rig.token.say(listkeys="ok")
    assert await rig.refresh()
    assert rig.labels() == ["new", "www"]


async def test_attributes_are_those_of_the_book(rig: Rig) -> None:
    await rig.refresh()
    assert rig.backend.attributes_of(ski_of("www")) == KeyAttributes()
    other = Book(rig.book.path)
    retired = KeyAttributes(state=KeyState.RETIRED)
    other.add(ski_of("www"), retired)
    assert await rig.refresh()
    assert rig.backend.attributes_of(ski_of("www")) == retired
    other.add(ski_of("a key of another token"), retired)
    assert not await rig.refresh()


async def test_a_book_that_can_not_be_read_leaves_attributes_as_they_were(rig: Rig) -> None:
    await rig.refresh()
    retired = KeyAttributes(state=KeyState.RETIRED)
    rig.book.add(ski_of("www"), retired)
    assert await rig.refresh()
    rig.book.path.write_text("nonsense")
    for _ in range(2):
        with pytest.raises(BackendError, match="book") as raised:
            await rig.refresh()
        assert raised.value.code is ErrorCode.READ
    assert rig.backend.attributes_of(ski_of("www")) == retired
    assert await rig.sign() == b"signed:digest"


async def test_keys_stay_listed_while_the_token_is_away(rig: Rig) -> None:
    await rig.refresh()
    rig.token.say(sign="crash", open="token_gone")
    error = await rig.sign()
    assert isinstance(error, BackendError)
    await until(lambda: rig.backend.state == "backing_off", "the token is away")
    assert rig.labels() == ["www"]
    busy = await rig.sign()
    assert isinstance(busy, BackendError)
    assert busy.code is ErrorCode.BUSY
    assert busy.retry_after_s is not None
    rig.backend.keys_changed()
    assert not await rig.refresh(), "that a token is away is no failure of the node"
    details = rig.backend.details()
    assert details["problem"] == "C_Call failed: token_gone"
    assert details["warning"] == f"the token is not up ({rig.backend.state.replace('_', ' ')}): {details['problem']}"
    rig.token.say(sign="ok", open="ok")
    await until(lambda: rig.backend.state == "up")
    assert await rig.sign() == b"signed:digest"
    assert not await rig.refresh(), "the keys are the same"


async def test_a_key_that_is_gone_is_looked_for(tmp_path: Path) -> None:
    rig = Rig(tmp_path, rescan_interval_s=3600.0)
    await rig.backend.start()
    await rig.refresh()
    rig.token.say(keys=[], sign="key_gone")
    await rig.sign()
    assert await rig.refresh()
    assert rig.labels() == []
    await rig.backend.stop()


async def test_keys_that_are_missing_after_an_opening_are_looked_for_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, rescan_interval_s=3600.0)
    await rig.backend.start()
    await rig.refresh()
    rig.token.say(sign="crash", keys=[])
    await rig.sign()
    await until(lambda: rig.backend.details()["openings"] == 2, "the token is open again")
    assert rig.labels() == []
    rig.token.say(sign="ok", keys=["www"])
    await rig.refresh()
    assert rig.labels() == ["www"]
    await rig.backend.stop()


async def test_threads_may_ask_the_running_worker(rig: Rig) -> None:
    answer = await rig.calls.run(lambda: rig.backend.ask(ListKeys(id=0)))
    assert isinstance(answer, KeysFound)
    rig.token.say(listkeys="busy")
    with pytest.raises(WorkerProblem, match="busy"):
        await rig.calls.run(lambda: rig.backend.ask(ListKeys(id=0)))
    rig.token.say(sign="crash", open="token_gone")
    await rig.sign()
    await until(lambda: rig.backend.state == "backing_off")
    with pytest.raises(WorkerProblem, match="not up"):
        await rig.calls.run(lambda: rig.backend.ask(ListKeys(id=0)))


async def test_a_listing_that_comes_late_does_not_undo_a_later_one(rig: Rig) -> None:
    first, second = rig.backend._next_listing(), rig.backend._next_listing()
    answer = await rig.calls.run(lambda: rig.backend.ask(ListKeys(id=0)))
    assert isinstance(answer, KeysFound)
    rig.backend._take_up(second, KeysFound(id=0, keys=()))
    rig.backend._take_up(first, KeysFound(id=0, keys=()))
    assert rig.labels() == ["www"]


async def test_a_stopped_backend_has_no_keys_and_refuses(rig: Rig) -> None:
    await rig.backend.stop()
    await rig.backend.stop()
    assert rig.backend.keys() == ()
    assert isinstance(await rig.sign(), BackendError)
