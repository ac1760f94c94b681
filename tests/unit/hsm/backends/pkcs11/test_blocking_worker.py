"""A worker for one operation: a fake one, so that each fault comes when the test wants it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from hsm.backends.pkcs11.blocking_worker import BlockingWorker
from hsm.backends.pkcs11.login import LoginSource
from hsm.backends.pkcs11.messages import KeysFound, ListKeys, Sign, Signed
from hsm.backends.pkcs11.pin import PinFile
from hsm.backends.pkcs11.problems import WorkerProblem
from hsm.backends.pkcs11.results import Failure
from hsm.backends.pkcs11.settings import TokenSettings
from tests.support.fake_token_worker import FakeToken, ski_of, start_fake


class Rig:
    def __init__(self, folder: Path) -> None:
        self.token = FakeToken(folder)
        self.pin_file = folder / "pin"
        self.pin_file.touch(mode=0o600)
        self.pin_file.write_text("1234\n")
        self.settings = TokenSettings(
            module=Path("/none.so"),
            pin=PinFile(self.pin_file),
            environment=self.token.environment,
            open_timeout_s=5.0,
        )
        self.login = LoginSource(self.settings.pin)

    def open(self) -> Any:
        return BlockingWorker.open(self.settings, self.login, start_worker=start_fake)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def refused(rig: Rig) -> WorkerProblem:
    with pytest.raises(WorkerProblem) as raised, rig.open():
        pytest.fail("it opened")
    return raised.value


def test_it_answers_and_ends(rig: Rig) -> None:
    with rig.open() as worker:
        pid = worker._process.pid
        assert isinstance(worker.ask(ListKeys(id=0)), KeysFound)
        signed = worker.ask(Sign(id=0, key=ski_of("www"), scheme="ecdsa_sha256", payload=b"digest"))
        assert signed == Signed(id=2, signature=b"signed:digest")
    assert not psutil.pid_exists(pid)


def test_a_failure_is_raised_with_its_sentence_and_the_worker_goes_on(rig: Rig) -> None:
    rig.token.say(listkeys="busy")
    with rig.open() as worker:
        with pytest.raises(WorkerProblem, match="C_Call failed: busy") as raised:
            worker.ask(ListKeys(id=0))
        assert raised.value.kind is Failure.BUSY
        rig.token.say(listkeys="ok")
        assert isinstance(worker.ask(ListKeys(id=0)), KeysFound)


def test_an_answer_that_does_not_come_ends_the_worker(rig: Rig) -> None:
    rig.token.say(listkeys="hang")
    with rig.open() as worker:
        with pytest.raises(WorkerProblem, match=r"did not answer within 0\.1 s") as raised:
            worker.ask(ListKeys(id=0), timeout_s=0.1)
        assert raised.value.kind is Failure.TOKEN_GONE
        assert worker._process.wait(5.0)
        with pytest.raises(WorkerProblem):
            worker.ask(ListKeys(id=0))


def test_a_crash_is_said(rig: Rig) -> None:
    rig.token.say(listkeys="crash")
    with rig.open() as worker, pytest.raises(WorkerProblem, match="ended by SIGSEGV"):
        worker.ask(ListKeys(id=0))


def test_nonsense_is_said(rig: Rig) -> None:
    rig.token.say(listkeys="garbage")
    with rig.open() as worker, pytest.raises(WorkerProblem, match="does not speak as it should"):
        worker.ask(ListKeys(id=0))


@pytest.mark.parametrize("kind", [Failure.TOKEN_GONE, Failure.INVALID, Failure.BROKEN])
def test_a_token_that_does_not_open_is_a_problem(rig: Rig, kind: Failure) -> None:
    rig.token.say(open=kind.value)
    assert refused(rig).kind is kind


def test_a_worker_that_crashes_while_it_opens_is_a_problem(rig: Rig) -> None:
    rig.token.say(open="crash")
    assert "SIGSEGV" in refused(rig).sentence


def test_a_refused_pin_is_tried_once(rig: Rig) -> None:
    rig.token.say(pin="5678")
    assert refused(rig).kind is Failure.PIN_REFUSED
    problem = refused(rig)
    assert problem.kind is Failure.PIN_REFUSED
    assert "before" in problem.sentence
    assert rig.token.pins() == ["1234"]
    rig.pin_file.write_text("5678\n")
    with rig.open():
        assert rig.token.pins() == ["1234", "5678"]


def test_a_wrong_pin_is_tried_once_by_many_at_the_same_time(rig: Rig) -> None:
    """Tokens lock themselves after three."""
    rig.token.say(pin="5678")
    with ThreadPoolExecutor(6) as pool:
        problems = list(pool.map(lambda _: refused(rig), range(6)))
    assert {problem.kind for problem in problems} == {Failure.PIN_REFUSED}
    assert rig.token.pins() == ["1234"]


def test_an_opening_that_lasts_does_not_keep_others_for_ever(rig: Rig) -> None:
    with rig.login.turn(0.0) as is_ours:
        assert is_ours
        rig.settings = replace(rig.settings, open_timeout_s=0.05)
        assert refused(rig).kind is Failure.BUSY
    rig.settings = replace(rig.settings, open_timeout_s=5.0)
    with rig.open(), rig.open():
        pass


def test_a_missing_pin_is_a_problem(rig: Rig) -> None:
    rig.pin_file.unlink()
    assert "pin" in refused(rig).sentence
    assert rig.token.pins() == []
