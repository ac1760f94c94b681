"""A node between its links, its probes, the operator and the router, which is a list of what it heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from hsm.shared.tasks import Tasks
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import Lost, Signed
from hsm.wire.schemes import KeyFamily, Scheme
from proxy.base.errors import SigningReason
from proxy.base.observe import NodeState
from proxy.base.policy import NodeAddress
from proxy.signing.commands import Command
from proxy.signing.facts import NodeFacts
from proxy.signing.inventory import Inventory
from proxy.signing.node import SigningNode
from proxy.signing.prober import ProbeKey
from proxy.signing.verification import make_verifiers
from tests.support.fake_node import FakeKey, FakeNode, Fault, LinkPki
from tests.support.play import policy
from tests.support.signing_cluster import QUICK, Recording, until

EC, RSA = KeyFamily.EC, KeyFamily.RSA
USABLE, UNUSABLE = NodeFacts(True), NodeFacts()
QUICKER = QUICK | {"probe_interval_s": 0.04, "probe_timeout_s": 0.1, "attempt_timeout_s": 0.3}
P256 = FakeKey.make()
RSA_KEY = FakeKey.make("rsa-2048")


@dataclass
class Load:
    in_flight: int = 0


@dataclass
class HeardRouter:
    """Writes down what it hears and commands nothing."""

    inventory: Inventory = field(default_factory=lambda: Inventory(["a"]))
    facts: list[NodeFacts] = field(default_factory=list)
    lost: int = 0
    paused: list[bool] = field(default_factory=list)
    proven: list[bytes] = field(default_factory=list)

    def load_of(self, node: str) -> Load:
        return Load()

    def on_facts(self, node: str, facts: NodeFacts, now: float) -> list[Command]:
        self.facts.append(facts)
        return []

    def on_link_lost(self, node: str, now: float) -> list[Command]:
        self.lost += 1
        return []

    def on_paused(self, node: str, now: float, *, is_paused: bool) -> list[Command]:
        self.paused.append(is_paused)
        return []

    def on_keys(self, node: str, skis: Iterable[bytes] | None, now: float) -> list[Command]:
        self.inventory.learn(node, skis)
        return []

    def on_key_missing(self, node: str, ski: bytes, now: float) -> None:
        self.inventory.learn_missing(node, ski, now)

    def on_proven(self, node: str, ski: bytes, duration_s: float, now: float) -> None:
        assert 0 <= duration_s < 5
        self.proven.append(ski)


@dataclass
class Bench:
    """One scripted node and what this worker keeps for it."""

    fake: FakeNode
    node: SigningNode
    router: HeardRouter
    observer: Recording
    answers: list[Any] = field(default_factory=list)

    @property
    def states(self) -> list[NodeState]:
        return [state for _name, state in self.observer.states]

    async def becomes(self, state: NodeState) -> None:
        await until(lambda: self.node.state is state)

    def ask(self) -> None:
        link = self.node.link_for_job()
        assert link is not None
        deadline = asyncio.get_running_loop().time() + 5.0
        link.sign(
            P256.ski, Scheme.ECDSA_SHA256, bytes(32), deadline, lambda _tag, answer: self.answers.append(answer), 0
        )


MakeBench = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def make(link_pki: LinkPki) -> AsyncIterator[MakeBench]:
    benches: list[Bench] = []
    tasks = Tasks()

    async def build(
        *,
        keys: tuple[FakeKey, ...] = (P256,),
        site_keys: tuple[FakeKey, ...] | None = None,
        address: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Bench:
        fake = await FakeNode("a", link_pki, keys).start()
        router, observer = HeardRouter(), Recording()
        known = keys if site_keys is None else site_keys
        verifiers = make_verifiers({key.ski: key.public_pem for key in known})
        node = SigningNode(
            NodeAddress(name="a", address=fake.address.address, **address or {}),
            policy(**QUICKER | changes),
            ssl_context=link_pki.client_context(),
            router=router,
            carry_out=lambda commands: None,
            observer=observer,
            probe_keys=[ProbeKey.of(key.ski, key.type, verifiers[key.ski]) for key in known],
            verifiers=verifiers,
            tasks=tasks,
            rng=Random(3),
        )
        node.start()
        benches.append(Bench(fake, node, router, observer))
        return benches[-1]

    yield build
    for bench in benches:
        bench.node.stop()
        await bench.fake.kill()
    await tasks.stop()
    await asyncio.sleep(0.02)


async def test_the_router_hears_facts_only_when_they_change(make: MakeBench) -> None:
    bench = await make()
    await bench.becomes(NodeState.UP)
    await until(lambda: len(bench.router.proven) >= 4)
    assert bench.router.facts == [USABLE]
    assert set(bench.router.proven) == {P256.ski}
    bench.fake.reset_links()
    await until(lambda: bench.router.facts == [USABLE, UNUSABLE, USABLE])
    assert bench.router.lost == 1
    assert bench.states == [NodeState.CONNECTING, NodeState.UP, NodeState.DOWN, NodeState.UP]


async def test_an_engine_that_hangs_takes_out_its_family_alone(make: MakeBench) -> None:
    bench = await make(keys=(P256, RSA_KEY))
    await until(lambda: {P256.ski, RSA_KEY.ski} <= set(bench.router.proven))
    bench.fake.hung_skis.add(RSA_KEY.ski)
    await until(lambda: bench.router.facts[-1] == NodeFacts(True, frozenset({RSA})))
    assert bench.node.state is NodeState.UP
    assert bench.node.status().failing == (RSA,)
    bench.router.proven.clear()
    await until(lambda: bench.router.proven.count(P256.ski) >= 6)
    assert bench.router.lost == 0, "its link is not silent: curves sign"
    bench.fake.hung_skis.clear()
    await until(lambda: bench.router.facts[-1] == USABLE)
    assert bench.states == [NodeState.CONNECTING, NodeState.UP]


async def test_a_node_whose_every_family_fails_is_down_and_left_to_the_router(make: MakeBench) -> None:
    bench = await make()
    await bench.becomes(NodeState.UP)
    bench.fake.fault = Fault.ERROR
    await bench.becomes(NodeState.DOWN)
    assert bench.router.facts == [USABLE, NodeFacts(True, frozenset({EC}))]
    assert bench.node.last_error == "node_error: scripted"
    bench.fake.fault = Fault.NONE
    await bench.becomes(NodeState.UP)


async def test_a_node_that_hangs_gets_a_new_link_and_comes_back_on_it(make: MakeBench) -> None:
    bench = await make()
    await bench.becomes(NodeState.UP)
    for connection in bench.fake.connections:
        connection.transport.pause_reading()  # a firewall has forgotten the connection; the node is well
    await until(lambda: bench.router.lost == 1)
    await bench.becomes(NodeState.UP)
    assert bench.observer.probes["a", SigningReason.TIMEOUT] >= 2
    assert bench.router.facts[-1] == USABLE
    assert bench.states == [NodeState.CONNECTING, NodeState.UP, NodeState.DOWN, NodeState.UP]


async def test_a_hung_node_is_down_all_the_time_however_often_its_link_is_opened(make: MakeBench) -> None:
    bench = await make()
    await bench.becomes(NodeState.UP)
    bench.fake.fault = Fault.HANG
    await until(lambda: bench.router.lost >= 2)
    assert bench.states == [NodeState.CONNECTING, NodeState.UP, NodeState.DOWN]
    probes = bench.observer.probes["a", SigningReason.TIMEOUT]
    assert bench.router.lost <= probes / 2, "at most one new link for so many unanswered probes"


async def test_each_of_two_links_is_probed_and_a_dead_one_replaced(make: MakeBench) -> None:
    bench = await make(links_per_node=2)
    await until(lambda: bench.node.status().links_up == 2)
    for dead in list(bench.fake.connections):
        dead.transport.pause_reading()
        await until(lambda dead=dead: dead not in bench.fake.connections or dead.transport.is_closing())  # type: ignore[misc]
        await until(lambda: bench.node.status().links_up == 2)
    assert bench.router.lost == 0
    await bench.becomes(NodeState.UP)


async def test_good_probes_with_other_keys_do_not_redeem_a_wrong_signature(make: MakeBench) -> None:
    bench = await make(keys=(P256, RSA_KEY))
    await until(lambda: {P256.ski, RSA_KEY.ski} <= set(bench.router.proven))
    bench.fake.wrong_skis.add(RSA_KEY.ski)
    await bench.becomes(NodeState.DOWN)
    bench.router.proven.clear()
    await until(lambda: bench.router.proven.count(P256.ski) >= 5)
    assert (bench.node.state, bench.router.facts[-1].is_usable) == (NodeState.DOWN, False)
    bench.fake.wrong_skis.clear()
    await bench.becomes(NodeState.UP)
    assert bench.router.proven.count(RSA_KEY.ski) >= 3


async def test_a_wrong_key_that_is_taken_away_is_made_good_by_others(make: MakeBench) -> None:
    bench = await make(keys=(P256, RSA_KEY))
    await bench.becomes(NodeState.UP)
    bench.fake.wrong_skis.add(RSA_KEY.ski)
    await bench.becomes(NodeState.DOWN)
    bench.fake.change_keys([P256])
    await bench.becomes(NodeState.UP)
    assert bench.router.facts[-1] == USABLE


async def test_a_wrong_signature_for_a_job_is_followed_by_a_probe_with_the_key_at_once(make: MakeBench) -> None:
    bench = await make(probe_interval_s=30.0)
    await bench.becomes(NodeState.UP)
    bench.node.signed_wrongly(P256.ski, "does not verify")
    assert bench.router.facts == [USABLE, UNUSABLE]
    asked = bench.fake.asked[P256.ski]
    await until(lambda: bench.fake.asked[P256.ski] == asked + 1)
    assert bench.node.state is NodeState.DOWN


async def test_disabled_lets_attempts_end_and_closes_the_links(make: MakeBench) -> None:
    bench = await make(attempt_timeout_s=5.0)
    await bench.becomes(NodeState.UP)
    bench.fake.fault, bench.fake.delay_s = Fault.SLOW, 0.15
    bench.ask()
    bench.node.set_admin("disabled")
    assert (bench.node.state, bench.router.facts) == (NodeState.DISABLED, [USABLE, UNUSABLE])
    assert bench.node.status().links_up == 1
    await until(lambda: bench.node.status().links_up == 0)
    assert [type(answer) for answer in bench.answers] == [Signed]
    await until(lambda: not bench.fake.connections)
    probes = bench.observer.probes.total()
    await asyncio.sleep(0.15)  # some intervals and reconnect pauses
    assert bench.observer.probes.total() == probes
    assert not bench.fake.connections
    assert bench.node.status().admin == "disabled"
    bench.fake.fault = Fault.NONE
    bench.node.set_admin("enabled")
    await bench.becomes(NodeState.UP)
    assert bench.router.facts == [USABLE, UNUSABLE, USABLE]
    assert bench.states[2:] == [NodeState.DISABLED, NodeState.CONNECTING, NodeState.UP]


async def test_disabled_waits_one_attempt_at_most(make: MakeBench) -> None:
    bench = await make(attempt_timeout_s=0.1)
    await bench.becomes(NodeState.UP)
    bench.fake.fault = Fault.HANG
    bench.ask()
    loop = asyncio.get_running_loop()
    started = loop.time()
    bench.node.set_admin("disabled")
    await until(lambda: bench.node.status().links_up == 0)
    assert 0.1 <= loop.time() - started < 0.5
    assert [type(answer) for answer in bench.answers] == [Lost]
    assert bench.router.lost == 1


async def test_enabled_again_while_it_still_closes_keeps_the_link(make: MakeBench) -> None:
    bench = await make(attempt_timeout_s=5.0)
    await bench.becomes(NodeState.UP)
    bench.fake.fault = Fault.HANG
    bench.ask()
    bench.node.set_admin("disabled")
    bench.fake.fault = Fault.NONE
    bench.node.set_admin("enabled")
    assert (bench.node.state, bench.router.facts[-1]) == (NodeState.UP, USABLE)
    bench.router.proven.clear()
    await until(lambda: len(bench.router.proven) >= 2)
    assert bench.router.lost == 0


async def test_draining_keeps_links_and_probes(make: MakeBench) -> None:
    bench = await make()
    await bench.becomes(NodeState.UP)
    bench.node.set_admin("draining")
    assert (bench.node.state, bench.router.facts[-1]) == (NodeState.DRAINING, UNUSABLE)
    bench.router.proven.clear()
    await until(lambda: len(bench.router.proven) >= 2)
    bench.node.set_admin("enabled")
    assert (bench.node.state, bench.router.facts[-1]) == (NodeState.UP, USABLE)
    assert bench.router.lost == 0


async def test_a_node_may_be_disabled_from_the_start(make: MakeBench) -> None:
    bench = await make(address={"state": "disabled", "zone": "east", "weight": 2.5})
    await asyncio.sleep(0.1)
    assert (bench.states, bench.fake.connections, bench.router.facts) == ([NodeState.DISABLED], set(), [])
    status = bench.node.status()
    assert (status.zone, status.weight, status.admin) == ("east", 2.5, "disabled")
    bench.node.set_admin("enabled")
    await bench.becomes(NodeState.UP)


async def test_a_node_that_leaves_finishes_and_says_nothing_more(make: MakeBench) -> None:
    bench = await make(attempt_timeout_s=5.0)
    await bench.becomes(NodeState.UP)
    bench.fake.fault, bench.fake.delay_s = Fault.SLOW, 0.1
    bench.ask()
    await bench.node.drain_and_stop()
    assert [type(answer) for answer in bench.answers] == [Signed]
    assert (bench.router.facts, bench.router.lost) == ([USABLE, UNUSABLE], 1)
    await until(lambda: not bench.fake.connections)
    heard = (list(bench.router.facts), bench.router.lost, bench.states)
    await asyncio.sleep(0.15)  # longer than the longest pause before another attempt to connect
    assert (bench.router.facts, bench.router.lost, bench.states) == heard


async def test_the_routers_word_is_a_state_and_no_fact(make: MakeBench) -> None:
    bench = await make()
    await bench.becomes(NodeState.UP)
    bench.node.told_ejected(True, "consecutive")
    bench.node.told_ejected(False, "its time is over")
    assert bench.states[-2:] == [NodeState.EJECTED, NodeState.UP]
    assert bench.router.facts == [USABLE]


async def test_a_busy_node_is_proven_as_soon_as_it_has_a_moment(make: MakeBench) -> None:
    bench = await make(probe_interval_s=30.0)
    await bench.becomes(NodeState.UP)
    bench.fake.fault, bench.fake.error_code = Fault.ERROR, ErrorCode.BUSY
    bench.fake.reset_links()
    await until(lambda: bench.observer.probes["a", SigningReason.BUSY] >= 2)
    bench.fake.fault = Fault.NONE
    await bench.becomes(NodeState.UP)


async def test_pauses_are_told_anew_on_a_new_link(make: MakeBench) -> None:
    bench = await make()
    await bench.becomes(NodeState.UP)
    bench.fake.reset_links()
    await until(lambda: bench.router.lost == 1)
    await bench.becomes(NodeState.UP)
    assert bench.router.paused == [False, False]


async def test_a_node_without_keys_to_probe_answers_echoes(make: MakeBench) -> None:
    bench = await make(site_keys=())
    await bench.becomes(NodeState.UP)
    await until(lambda: bench.observer.probes["a", None] >= 3)
    assert bench.fake.asked.total() == 0
    assert set(bench.router.proven) == {b""}


async def test_a_node_that_can_not_be_reached_holds_up_no_other(make: MakeBench) -> None:
    hanging, other = await make(connect_timeout_s=30.0), await make()
    await other.becomes(NodeState.UP)
    hanging.fake.fault = Fault.SILENT
    hanging.fake.reset_links()
    await hanging.becomes(NodeState.DOWN)
    await other.fake.kill()
    await other.becomes(NodeState.DOWN)
    await other.fake.start()
    started = asyncio.get_running_loop().time()
    await other.becomes(NodeState.UP)
    assert asyncio.get_running_loop().time() - started < 1.0
    assert hanging.node.state is NodeState.DOWN
