from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from structlog.testing import capture_logs

from proxy.base.observe import LookupOutcome, ProxyObserver
from proxy.base.policy import DiscoverySource, NodeAddress
from proxy.signing import membership
from proxy.signing.discovery import Answer, Record
from proxy.signing.membership import DiscoverySources

SOURCE = DiscoverySource(name="hsm", record="hsm.test", port=7)
LISTED = [NodeAddress(name="listed", address="10.0.0.9:7")]
OTHER = DiscoverySource(name="other", record="other.test", port=7)


def hosts(*last: int) -> Answer:
    return Answer(LookupOutcome.OK, tuple(Record(f"10.0.0.{each}", 7, "A") for each in last), 5.0)


class Holder:
    """Stands for the signer."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeAddress] = {}
        self.told: list[str] = []

    def add_node(self, address: NodeAddress) -> None:
        self.nodes[address.name] = address
        self.told.append(f"+{address.name}")

    def remove_node(self, name: str) -> None:
        del self.nodes[name]
        self.told.append(f"-{name}")


class Counts(ProxyObserver):
    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str]] = []
        self.known: dict[str, int] = {}
        self.crashes: list[str] = []

    def discovery_answered(self, source: str, outcome: LookupOutcome) -> None:
        self.outcomes.append((source, outcome.value))

    def discovery_known(self, source: str, nodes: int) -> None:
        self.known[source] = nodes

    def task_crashed(self, name: str) -> None:
        self.crashes.append(name)


class Names:
    """Stands for the DNS: answers what is next, at once, and then nothing more."""

    def __init__(self, **answers: list[Answer | Exception]) -> None:
        self._answers = answers

    async def __call__(self, source: DiscoverySource) -> Answer:
        if not self._answers[source.name]:
            await asyncio.Event().wait()
        answer = self._answers[source.name].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def are_used_up(self) -> None:
        async with asyncio.timeout(5):
            while any(self._answers.values()):
                await asyncio.sleep(0)
            for _ in range(3):  # the last answers are taken in
                await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long sleeps would have been."""
    slept: list[float] = []
    real: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def sleep(delay_s: float) -> None:
        if delay_s:
            slept.append(delay_s)
        await real(0)

    monkeypatch.setattr(membership.asyncio, "sleep", sleep)
    return slept


async def run(names: Names, *sources: DiscoverySource) -> tuple[Holder, Counts]:
    holder, counts = Holder(), Counts()
    discovery = DiscoverySources(
        sources,
        [NodeAddress(name="listed", address="10.0.0.9:7")],
        holder=holder,
        observer=counts,
        rng=Random(1),
        look_up=names,
    )
    discovery.start()
    await names.are_used_up()
    assert {node.name for node in discovery.nodes} == set(holder.nodes)
    await discovery.stop()
    return holder, counts


async def test_nodes_come_and_go(delays: list[float]) -> None:
    holder, counts = await run(Names(hsm=[hosts(1, 2, 9), hosts(2, 3), hosts(2, 3)]), SOURCE)
    assert holder.told == ["+hsm-10.0.0.1-7", "+hsm-10.0.0.2-7", "+hsm-10.0.0.3-7", "-hsm-10.0.0.1-7"]
    assert counts.outcomes == [("hsm", "ok")] * 3
    assert counts.known == {"hsm": 2}
    assert all(4.5 <= delay <= 5.5 for delay in delays)


async def test_a_source_in_trouble_keeps_its_nodes_and_no_other_source_waits(delays: list[float]) -> None:
    silent = Answer(LookupOutcome.TIMEOUT, detail="silent")
    names = Names(hsm=[hosts(1), silent, silent, hosts(1)], other=[hosts(2)])
    with capture_logs() as logs:
        holder, counts = await run(names, SOURCE, OTHER)
    assert set(holder.nodes) == {"hsm-10.0.0.1-7", "other-10.0.0.2-7"}
    assert counts.outcomes.count(("hsm", "timeout")) == 2
    told = [(entry["log_level"], entry["event"]) for entry in logs if entry["event"] != "nodes_discovered"]
    assert told == [("warning", "discovery_failed"), ("info", "discovery_works_again")]
    assert sorted(delays)[0] < 1.2


async def test_a_defect_in_looking_up_does_not_end_it() -> None:
    holder, counts = await run(Names(hsm=[RuntimeError("secret words"), hosts(1)]), SOURCE)
    assert set(holder.nodes) == {"hsm-10.0.0.1-7"}
    assert counts.crashes == ["discovery hsm"]
    assert counts.outcomes == [("hsm", "server_failed"), ("hsm", "ok")]


async def test_a_node_that_became_another_is_removed_first() -> None:
    service = DiscoverySource(name="srv", kind="srv", record="_k._tcp.test")

    def target(name: str) -> Answer:
        return Answer(LookupOutcome.OK, (Record("10.0.0.1", 7, name, name),), 5.0)

    holder, _ = await run(Names(srv=[target("a"), target("b")]), service)
    assert holder.told == ["+srv-10.0.0.1-7", "-srv-10.0.0.1-7", "+srv-10.0.0.1-7"]
    assert holder.nodes["srv-10.0.0.1-7"].server_name == "b"


async def test_stopped_means_that_nobody_is_asked_any_more() -> None:
    names = Names(hsm=[])
    discovery = DiscoverySources([SOURCE], [], holder=Holder(), observer=ProxyObserver(), look_up=names)
    discovery.start()
    await asyncio.sleep(0)
    await discovery.stop()
    assert len(asyncio.all_tasks()) == 1
