"""Asking tokens for changed keys."""

from __future__ import annotations

import threading

import pytest
from structlog.testing import capture_logs

from hsm.backends.base import BackendError
from hsm.node.blocking import BlockingCalls
from hsm.node.refreshing import TokenRefresh
from hsm.shared.tasks import Tasks
from hsm.wire.errors import ErrorCode
from tests.support.node import FakeAwaited, open_token, until


class Told(FakeAwaited):
    """A token whose refresh does what the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = False
        self.failure: Exception | None = None
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()

    def refresh(self) -> bool:
        self.asked += 1
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        changed, self.changed = self.changed, False
        return changed


class Ear:
    """A refresh, what it told, and its clock."""

    def __init__(self) -> None:
        self.token, self.heard, self.now = Told(), 0, 0.0
        self.calls = BlockingCalls()
        self.refresh = TokenRefresh(open_token("hsm", self.token), self.calls, self.hear, now=lambda: self.now)

    def hear(self) -> None:
        self.heard += 1


async def test_changes_are_told_and_nothing_else() -> None:
    ear = Ear()
    await ear.refresh.refresh()
    assert ear.heard == 0
    ear.token.changed = True
    await ear.refresh.refresh()
    await ear.refresh.refresh()
    assert ear.heard == 1


async def test_how_long_a_token_has_not_answered_is_known() -> None:
    ear = Ear()
    ear.now = 10.0
    assert ear.refresh.age_s == 10.0
    ear.token.failure = BackendError(ErrorCode.READ, "the disk is gone")
    with pytest.raises(BackendError):
        await ear.refresh.refresh()
    assert ear.refresh.age_s == 10.0
    ear.token.failure = None
    await ear.refresh.refresh()
    assert ear.refresh.age_s == 0.0


@pytest.mark.parametrize("failure", [BackendError(ErrorCode.READ, "gone"), OSError("secret")])
async def test_it_goes_on_after_failures(failure: Exception) -> None:
    ear, tasks = Ear(), Tasks()
    ear.token.failure = failure
    with capture_logs() as lines:
        tasks.start(ear.refresh.refresh_forever(0.005), name="refresh")
        await until(lambda: ear.token.asked >= 3)
        ear.token.failure, ear.token.changed = None, True
        await until(lambda: ear.heard == 1)
        await tasks.stop()
    assert "secret" not in str(lines)


async def test_a_token_that_hangs_keeps_no_other_from_being_heard() -> None:
    hung, other, tasks = Ear(), Ear(), Tasks()
    hung.token.gate.clear()
    other.token.changed = True
    for ear in (hung, other):
        tasks.start(ear.refresh.refresh_forever(0.005), name="refresh")
    await until(lambda: other.heard == 1)
    assert hung.token.asked == 1
    await tasks.stop()
    hung.token.gate.set()
    assert await hung.calls.finished(10)
