"""A worker process under supervision: a fake one, so that each fault comes when the test wants it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from hsm.backends.base import BackendError
from hsm.backends.pkcs11.commands import TokenState
from hsm.backends.pkcs11.login import LoginSource
from hsm.backends.pkcs11.messages import Opened, Sign, Signed
from hsm.backends.pkcs11.pin import PinFile
from hsm.backends.pkcs11.results import Failure
from hsm.backends.pkcs11.settings import TokenSettings
from hsm.backends.pkcs11.supervisor import TokenSupervisor
from hsm.wire.errors import ErrorCode
from tests.support.fake_token_worker import FakeToken, ski_of, start_fake
from tests.support.node import until


def in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


class Rig:
    """A supervisor over a fake token."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.token = FakeToken(folder)
        self.pin_file = folder / "pin"
        self.write_pin("1234")
        timing = {"call_timeout_s": 1.0, "open_timeout_s": 10.0, "retry_min_s": 0.05, "retry_max_s": 0.2, **more}
        self.settings = TokenSettings(
            module=Path("/none.so"),
            pin=PinFile(self.pin_file),
            environment=self.token.environment,
            concurrency=4,
            **timing,
        )
        self.openings: list[Opened] = []
        self.login = LoginSource(self.settings.pin)
        self.supervisor = TokenSupervisor(
            self.settings,
            self.login,
            asyncio.get_running_loop(),
            in_thread,
            self.openings.append,
            start_worker=start_fake,
        )

    def write_pin(self, pin: str) -> None:
        draft = self.pin_file.with_suffix(".draft")
        draft.touch(mode=0o600)
        draft.write_text(pin + "\n")
        draft.rename(self.pin_file)

    def begin(self, payload: bytes = b"digest") -> asyncio.Future[Any]:
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.supervisor.ask(
            lambda number: Sign(id=number, key=ski_of("www"), scheme="ecdsa_sha256", payload=payload),
            ended.set_result,  # a second call would raise
            1.0,
        )
        assert not ended.done(), "in a later turn of the loop"
        return ended

    async def sign(self, payload: bytes = b"digest") -> Any:
        return await asyncio.wait_for(self.begin(payload), 10.0)

    async def is_up(self) -> None:
        await until(lambda: self.supervisor.state is TokenState.UP, "the token is up")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    await rig.supervisor.stop()
    assert rig.supervisor.worker_pid is None
    assert rig.supervisor.in_flight == 0


async def test_many_requests_in_one_turn_are_all_answered(rig: Rig) -> None:
    await rig.supervisor.start()
    assert rig.supervisor.state is TokenState.UP
    assert [opened.token for opened in rig.openings] == ["fake"]
    assert rig.token.pins() == ["1234"]
    payloads = [b"%d" % number for number in range(64)]
    answers = await asyncio.gather(*(rig.begin(payload) for payload in payloads))
    assert [answer.signature for answer in answers] == [b"signed:" + payload for payload in payloads]


async def test_requests_are_bounded(rig: Rig) -> None:
    await rig.supervisor.start()
    rig.token.say(sign="silence")
    begun = [rig.begin() for _ in range(2 * 4 + 64 + 1)]
    refused = await asyncio.wait_for(begun[-1], 5.0)
    assert isinstance(refused, BackendError)
    assert refused.code is ErrorCode.BUSY
    await rig.supervisor.stop()
    errors = await asyncio.gather(*begun)
    assert all(isinstance(error, BackendError) for error in errors)


async def test_a_crash_ends_what_is_in_flight_and_the_next_worker_signs(rig: Rig) -> None:
    await rig.supervisor.start()
    first = rig.supervisor.worker_pid
    rig.token.say(sign="crash")
    error = await rig.sign()
    assert isinstance(error, BackendError)
    assert error.code is ErrorCode.INTERNAL
    rig.token.say(sign="ok")
    refused = await rig.sign()
    assert isinstance(refused, BackendError)
    assert refused.code is ErrorCode.BUSY
    assert refused.retry_after_s is not None
    await rig.is_up()
    assert isinstance(await rig.sign(), Signed)
    assert rig.supervisor.worker_pid not in (first, None)
    assert first is not None
    assert not psutil.pid_exists(first)
    assert len(rig.openings) == 2


async def test_workers_that_come_and_go_leave_nothing(rig: Rig) -> None:
    await rig.supervisor.start()
    process = psutil.Process()
    files, threads, children = process.num_fds(), process.num_threads(), len(process.children())
    for number in range(1, 6):
        rig.token.say(sign="crash" if number % 2 else "garbage")
        assert isinstance(await rig.sign(), BackendError)
        rig.token.say(sign="ok")
        await until(lambda: len(rig.openings) == number + 1, "the token is open again")  # noqa: B023
        await rig.is_up()
    assert process.num_fds() == files
    await until(lambda: process.num_threads() <= threads, "the threads that waited for workers ended")
    assert len(process.children()) == children


async def test_the_end_of_a_worker_is_explained(rig: Rig) -> None:
    await rig.supervisor.start()
    rig.token.say(sign="crash", open="busy")
    await rig.sign()
    await until(lambda: "SIGSEGV" in rig.supervisor.problem[1], "the reason is known")
    rig.token.say(sign="ok", open="ok")
    await rig.is_up()
    assert rig.supervisor.problem == (None, "")


async def test_a_call_that_hangs_costs_the_worker_its_life(rig: Rig) -> None:
    await rig.supervisor.start()
    rig.token.say(sign="hang")
    begun = [rig.begin() for _ in range(3)]
    errors = await asyncio.wait_for(asyncio.gather(*begun), 5.0)
    assert {error.code for error in errors} == {ErrorCode.INTERNAL}
    assert rig.supervisor.counts.hangs == 1
    rig.token.say(sign="ok")
    await rig.is_up()
    assert isinstance(await rig.sign(), Signed)


async def test_a_worker_that_does_not_answer_pings_is_replaced(rig: Rig) -> None:
    await rig.supervisor.start()
    first = rig.supervisor.worker_pid
    rig.token.say(ping="silence")
    await until(lambda: rig.supervisor.counts.hangs == 1, "the worker is taken for hung")
    rig.token.say(ping="ok")
    await rig.is_up()
    assert rig.supervisor.worker_pid != first


async def test_a_stopped_worker_is_taken_for_hung(rig: Rig) -> None:
    await rig.supervisor.start()
    assert rig.supervisor.worker_pid is not None
    os.kill(rig.supervisor.worker_pid, 19)
    await until(lambda: rig.supervisor.counts.hangs == 1, "the worker is taken for hung")
    await rig.is_up()
    assert isinstance(await rig.sign(), Signed)


async def test_a_worker_that_talks_nonsense_is_replaced(rig: Rig) -> None:
    await rig.supervisor.start()
    rig.token.say(sign="garbage")
    error = await rig.sign()
    assert isinstance(error, BackendError)
    rig.token.say(sign="ok")
    await rig.is_up()
    assert isinstance(await rig.sign(), Signed)


async def test_a_token_that_is_gone_is_opened_anew(rig: Rig) -> None:
    await rig.supervisor.start()
    rig.token.say(sign="token_gone", open="token_gone")
    answer = await rig.sign()
    assert answer.kind == Failure.TOKEN_GONE
    await until(lambda: rig.supervisor.state is TokenState.BACKING_OFF, "the token is away")
    rig.token.say(sign="ok", open="ok")
    await rig.is_up()
    assert isinstance(await rig.sign(), Signed)


async def test_a_token_that_is_away_at_the_start_comes_later(rig: Rig) -> None:
    rig.token.say(open="token_gone")
    await rig.supervisor.start()
    assert rig.supervisor.problem == (Failure.TOKEN_GONE, "C_Call failed: token_gone")
    assert rig.openings == []
    rig.token.say(open="ok")
    await rig.is_up()
    assert len(rig.openings) == 1


async def test_an_opening_that_hangs_is_given_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path, open_timeout_s=1.5)
    rig.token.say(open="hang")
    await rig.supervisor.start()
    assert rig.supervisor.problem[0] is Failure.TOKEN_GONE
    assert "was not open after 1.5 s" in rig.supervisor.problem[1]
    await rig.supervisor.stop()
    assert rig.supervisor.worker_pid is None


async def test_a_refused_pin_is_tried_once_and_another_at_once(rig: Rig) -> None:
    rig.token.say(pin="5678")
    await rig.supervisor.start()
    assert rig.supervisor.problem[0] is Failure.PIN_REFUSED
    assert rig.supervisor.state is TokenState.PIN_REFUSED
    read, reads = rig.login.read, []
    rig.login.read = lambda: reads.append(1) or read()  # type: ignore[method-assign, func-returns-value]
    await until(lambda: len(reads) >= 3, "the file is read several times")
    assert rig.token.pins() == ["1234"]
    rig.write_pin("5678")
    await rig.is_up()
    assert rig.token.pins() == ["1234", "5678"]


async def test_a_pin_that_somebody_else_is_just_trying_is_waited_for(rig: Rig) -> None:
    with rig.login.turn(0.0):
        starting = asyncio.ensure_future(rig.supervisor.start())
        await asyncio.sleep(0.1)
        assert rig.supervisor.state is TokenState.STARTING
        rig.login.refused.add(rig.login.read().mark)
    await starting
    assert rig.supervisor.state is TokenState.PIN_REFUSED
    assert rig.token.pins() == []
    await rig.supervisor.stop()


async def test_the_operator_may_have_the_same_pin_tried_again(rig: Rig) -> None:
    rig.token.say(pin="5678")
    await rig.supervisor.start()
    rig.token.say(pin="1234")
    await until(lambda: rig.supervisor.worker_pid is None, "the worker is gone")
    rig.supervisor.try_again()
    await rig.is_up()
    assert rig.token.pins() == ["1234", "1234"]


async def test_a_pin_file_that_is_missing_is_waited_for(rig: Rig) -> None:
    rig.pin_file.unlink()
    await rig.supervisor.start()
    assert rig.supervisor.state is TokenState.BACKING_OFF
    assert "pin" in rig.supervisor.problem[1]
    rig.write_pin("1234")
    await rig.is_up()


async def test_a_worker_that_can_not_be_started_is_tried_again(rig: Rig) -> None:
    starts = 0

    def start(settings: TokenSettings) -> Any:
        nonlocal starts
        starts += 1
        if starts == 1:
            raise OSError(12, "Cannot allocate memory")
        return start_fake(settings)

    rig.supervisor._start_worker = start
    await rig.supervisor.start()
    await rig.is_up()
    assert starts == 2


async def test_a_process_that_can_have_no_more_threads_goes_on_when_it_can(rig: Rig) -> None:
    """Neither a PIN that nobody reads nor a worker whose end nobody hears keeps a token away for ever."""
    readers, processes = iter((False, True, True, True)), []

    def in_a_thread_or_not(work: Callable[[], None]) -> None:
        if not next(readers):
            raise RuntimeError("can't start new thread")
        in_thread(work)

    def start(settings: TokenSettings) -> Any:
        worker = start_fake(settings)
        processes.append(worker)
        if len(processes) == 1:
            worker.watch = no_thread  # type: ignore[method-assign]
        return worker

    def no_thread(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    rig.supervisor._in_thread = in_a_thread_or_not
    rig.supervisor._start_worker = start
    await rig.supervisor.start()
    await rig.is_up()
    first, second = processes
    assert first.pid != second.pid == rig.supervisor.worker_pid
    assert first.wait(0.0), "it was ended"
    assert isinstance(await rig.sign(), Signed)


async def test_a_node_that_was_stopped_for_long_does_not_take_its_worker_for_hung(rig: Rig) -> None:
    await rig.supervisor.start()
    begun = rig.begin()
    await asyncio.sleep(0)  # it is sent
    await asyncio.sleep(0)
    threading.Event().wait(1.5)  # the loop stands still for longer than a call may take
    assert isinstance(await asyncio.wait_for(begun, 5.0), Signed)
    assert rig.supervisor.counts.hangs == 0


async def test_the_worker_gets_no_environment_but_its_own(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALGATE_TEST_SECRET", "hunter2")
    await rig.supervisor.start()
    process = psutil.Process(rig.supervisor.worker_pid)
    environment = process.environ()
    assert "SEALGATE_TEST_SECRET" not in environment
    assert environment["FAKE_TOKEN"] == rig.token.environment["FAKE_TOKEN"]
    assert "1234" not in " ".join([*process.cmdline(), *environment.values()])


async def test_stop_may_come_at_any_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.supervisor.stop()
    other = Rig(tmp_path)
    starting = asyncio.get_running_loop().create_task(other.supervisor.start())
    await until(lambda: other.supervisor.state is TokenState.OPENING, "the worker starts")
    await other.supervisor.stop()
    await asyncio.wait_for(starting, 5.0)
    assert other.supervisor.worker_pid is None
    refused = await other.sign()
    assert isinstance(refused, BackendError)
