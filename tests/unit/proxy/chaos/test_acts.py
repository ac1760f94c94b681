"""Links that are broken again and again are whole in the end, and a sleeping node is always woken."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from proxy.chaos import acts
from proxy.chaos.acts import ACTS, Stage


@dataclass
class FakeProgram:
    signals: list[int] = field(default_factory=list)

    def signal(self, number: int) -> None:
        self.signals.append(number)


@dataclass
class FakeCluster:
    node_programs: dict[str, FakeProgram]


@dataclass
class FakeStage:
    """Writes down what is done."""

    orders: list[tuple[str, str]] = field(default_factory=list)
    faults: list[tuple[object, ...]] = field(default_factory=list)
    cluster: FakeCluster = field(default_factory=lambda: FakeCluster({"node-1": FakeProgram()}))
    is_relay_gone: bool = False

    async def order(self, node: str, what: str) -> None:
        if self.is_relay_gone:
            raise ConnectionRefusedError(111, "Connection refused")
        self.orders.append((node, what))

    async def break_device(self, node: str, fault: dict[str, Any]) -> None:
        self.faults.append(("break", node, fault))

    async def mend_device(self, node: str, kind: str) -> None:
        self.faults.append(("mend", node, kind))


async def play(name: str, stage: FakeStage, seconds: float = 0.0) -> None:
    async with ACTS[name](cast("Stage", stage), ["node-1"]):
        await asyncio.sleep(seconds)


async def test_a_link_that_flaps_is_cut_and_whole_in_turn_and_whole_in_the_end() -> None:
    flap = acts._link(("cut", 0.02), ("pass", 0.02))
    stage = FakeStage()
    async with flap(cast("Stage", stage), ["node-1"]):
        async with asyncio.timeout(5):
            while len(stage.orders) < 5:
                await asyncio.sleep(0.005)
    orders = [what for _, what in stage.orders]
    assert orders[:4] == ["cut", "pass", "cut", "pass"]
    assert orders[-1] == "pass"


@pytest.mark.parametrize(("name", "first"), [("reset", "reset"), ("half-open", "swallow"), ("flap", "cut")])
async def test_links_break_at_once_and_end_whole(name: str, first: str) -> None:
    stage = FakeStage()
    await play(name, stage, 0.05)
    assert stage.orders == [("node-1", first), ("node-1", "pass")]


async def test_a_relay_that_is_gone_is_no_fault_that_was_borne() -> None:
    with pytest.raises(ConnectionRefusedError):
        await play("reset", FakeStage(is_relay_gone=True), 0.05)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("hang", {"kind": "hang"}),
        ("slow", {"kind": "slow", "factor": 10}),
        ("error", {"kind": "error", "rate": 1.0}),
        ("error-some", {"kind": "error", "rate": 0.3}),
        ("wrong-signature", {"kind": "wrong-signature", "rate": 1.0}),
        ("lost-key", {"kind": "lost-key"}),
    ],
)
async def test_devices_are_broken_and_mended_by_the_same_name(name: str, fault: dict[str, object]) -> None:
    stage = FakeStage()
    await play(name, stage)
    assert stage.faults == [("break", "node-1", fault), ("mend", "node-1", fault["kind"])]


async def test_a_sleeping_node_is_woken_also_when_the_play_is_broken_off() -> None:
    stage = FakeStage()
    with pytest.raises(KeyboardInterrupt):
        async with ACTS["freeze"](cast("Stage", stage), ["node-1"]):
            raise KeyboardInterrupt
    assert stage.cluster.node_programs["node-1"].signals == [signal.SIGSTOP, signal.SIGCONT]
