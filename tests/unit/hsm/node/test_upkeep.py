"""What a node does for its tokens by the clock."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from hsm.backends.attributes import KeyAttributes, KeyState, Usage
from hsm.backends.base import KeyAdmin
from hsm.backends.vault import VaultAdmin, VaultBackend, open_store
from hsm.node.blocking import BlockingCalls
from hsm.node.opening.opened import OpenToken
from hsm.node.opening.vault import vault_refusal
from hsm.node.upkeep import TokenUpkeep, tell_all
from hsm.node.usage import UsageCounts
from hsm.shared.tasks import Tasks
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType
from tests.support.node import FakeBackend, make_home, open_token, until

KEY = KeyEntry(b"\x01" * 20, KeyType.P256, "www")
WALL = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class Ledger:
    """Where a token is told of its use; it can be made to fail and to hang."""

    def __init__(self) -> None:
        self.told: dict[bytes, Usage] = {}
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.calls = 0

    def add_usage(self, node: str, used: Mapping[bytes, Usage]) -> None:
        assert node == "node-1"
        self.calls += 1
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        for ski, usage in used.items():
            self.told[ski] = self.told.get(ski, Usage()).plus(usage)


class Desk:
    """The upkeep of one token in memory."""

    def __init__(self) -> None:
        self.ledger, self.counts, self.calls = Ledger(), UsageCounts(), BlockingCalls()
        token = open_token("vault", FakeBackend({KEY: "cheap"}), admin=cast("KeyAdmin", self.ledger))
        self.upkeep = TokenUpkeep("node-1", token, self.counts, self.calls, now=lambda: 0.0, wall=lambda: WALL)

    def sign(self, times: int) -> None:
        self.counts.of("vault", KEY.ski).signatures += times


async def test_what_was_signed_is_told_once() -> None:
    desk = Desk()
    desk.sign(3)
    assert await desk.upkeep.tell_usage()
    assert await desk.upkeep.tell_usage()
    assert desk.ledger.told == {KEY.ski: Usage(3, WALL)}
    assert desk.ledger.calls == 1, "nothing to tell is not told"


async def test_what_could_not_be_told_is_told_later_and_nothing_is_lost() -> None:
    desk = Desk()
    desk.ledger.failure = OSError("secret")
    with capture_logs() as lines:
        for _ in range(3):
            desk.sign(2)
            assert not await desk.upkeep.tell_usage()
    assert [line["event"] for line in lines] == ["usage_not_told"], "said once"
    assert "secret" not in str(lines)
    desk.ledger.failure = None
    assert await desk.upkeep.tell_usage()
    assert desk.ledger.told[KEY.ski].signatures == 6


async def test_a_token_that_hangs_does_not_keep_a_node_from_stopping() -> None:
    desk, other = Desk(), Desk()
    desk.sign(1)
    other.sign(1)
    desk.ledger.gate.clear()
    await tell_all((desk.upkeep, other.upkeep), 0.05)
    assert other.ledger.told[KEY.ski].signatures == 1
    assert desk.ledger.told == {}
    desk.ledger.gate.set()
    assert await desk.calls.finished(10)


@pytest.mark.parametrize("failure", [None, OSError("disk")])
async def test_what_a_cancelled_telling_wrote_is_not_told_again(failure: Exception | None) -> None:
    desk, tasks = Desk(), Tasks()
    desk.sign(3)
    desk.ledger.gate.clear()
    telling = tasks.start(desk.upkeep.tell_usage(), name="telling")
    await until(lambda: desk.ledger.calls == 1)
    telling.cancel()
    desk.ledger.failure = failure
    last = tasks.start(desk.upkeep.tell_usage(), name="last")
    desk.ledger.gate.set()
    await until(lambda: desk.ledger.calls == 2 or last.done())
    desk.ledger.failure = None
    await until(last.done)
    await desk.upkeep.tell_usage()
    assert desk.ledger.told[KEY.ski].signatures == 3
    await tasks.stop()


async def test_it_goes_on_by_the_clock() -> None:
    desk, tasks = Desk(), Tasks()
    tasks.start(desk.upkeep.run_forever(0.01), name="upkeep")
    for total in (1, 2):
        desk.sign(1)
        await until(lambda: KEY.ski in desk.ledger.told and desk.ledger.told[KEY.ski].signatures == total)  # noqa: B023
    await tasks.stop()


async def test_keys_are_destroyed_when_their_time_has_come(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    store = open_store(home.store, key_file=home.key_file)
    admin, backend = VaultAdmin(store), VaultBackend(store)
    due = KeyAttributes(state=KeyState.DESTROYING, destroy_at=datetime.now(UTC) - timedelta(seconds=5))
    admin.change("mail", lambda _record: due)
    backend.refresh()

    async def close() -> None:
        store.close()

    token = OpenToken(
        name="vault",
        kind="vault",
        backend=backend,
        places=1,
        queue=1,
        admin=admin,
        refusal_of=vault_refusal,
        close=close,
    )
    upkeep = TokenUpkeep("node-1", token, UsageCounts(), BlockingCalls())
    with capture_logs() as lines:
        await upkeep.do_what_is_due()
    assert [line["event"] for line in lines if line.get("room") != "vault"] == ["key_was_due"]
    assert backend.refresh()
    left = backend.keys()
    assert [key.label for key in left] == ["www-p256"]
    await upkeep.do_what_is_due()
    await token.close()


async def test_keys_that_could_not_be_looked_after_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    calls = 0

    def broken(_admin: KeyAdmin, _now: datetime, _since: datetime) -> list[str]:
        nonlocal calls
        calls += 1
        raise OSError("disk")

    monkeypatch.setattr("hsm.node.upkeep.run_due", broken)
    monkeypatch.setattr("hsm.node.upkeep.may_be_due", lambda _holder, _now: True)
    with capture_logs() as lines:
        await desk.upkeep.do_what_is_due()
        await desk.upkeep.do_what_is_due()
    assert calls == 2
    assert [line["event"] for line in lines] == ["keys_not_looked_after"]


async def test_a_time_in_which_nobody_could_sign_is_no_quiet_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage the proxies need a moment to use a key again that is being rotated."""
    clock, state, seen = [WALL], ["up"], list[datetime]()
    backend = FakeBackend({KEY: "cheap"})
    token = replace(open_token("vault", backend), state=lambda: state[0])
    upkeep = TokenUpkeep("node-1", token, UsageCounts(), BlockingCalls(), now=lambda: 0.0, wall=lambda: clock[0])

    def due(_admin: KeyAdmin, _now: datetime, since: datetime) -> list[str]:
        seen.append(since)
        return []

    async def look_after(seconds: float) -> timedelta:
        clock[0] += timedelta(seconds=seconds)
        await upkeep.do_what_is_due()
        return clock[0] - seen[-1]

    monkeypatch.setattr("hsm.node.upkeep.run_due", due)
    monkeypatch.setattr("hsm.node.upkeep.may_be_due", lambda _holder, _now: True)
    assert await look_after(10) == timedelta(seconds=10), "the node was off before"
    assert await look_after(10) == timedelta(seconds=20)
    assert await look_after(3600) == timedelta(0), "its host was suspended"
    assert await look_after(10) == timedelta(seconds=10)
    state[0] = "reopening"
    assert await look_after(10) == timedelta(0), "the token is away"
    state[0] = "up"
    assert await look_after(10) == timedelta(seconds=10)
    assert await look_after(-5) == timedelta(0), "the clock was set back"
