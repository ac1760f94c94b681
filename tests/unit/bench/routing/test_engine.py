"""The router's word, kept in random worlds: topologies, loads, faults and settings that nobody thought of."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.routing import adapter
from bench.routing.engine import Simulation
from bench.routing.policies import Policy, as_peers, signing_policy
from bench.routing.topology import Act, Incident, NodeSpec, Setting, SiteSpec
from hsm.backends.simulated.device import DeviceModel, Figures
from hsm.backends.simulated.faults import Fault, FaultKind
from hsm.wire.schemes import KeyType
from proxy.base.policy import RoutingPolicy

SECONDS = 3.0
KINDS = (KeyType.P256, KeyType.RSA_2048)
TIMES = st.floats(0.0, SECONDS)


@st.composite
def models(draw: st.DrawFn) -> DeviceModel:
    rate = draw(st.sampled_from([20.0, 100.0, 400.0]))
    median_s = draw(st.sampled_from([0.0, 0.003, 0.02]))
    figures = {kind: Figures(rate, median_s, median_s * draw(st.sampled_from([1.0, 3.0, 10.0]))) for kind in KINDS}
    return DeviceModel(figures, concurrency=draw(st.integers(1, 8)), queue=draw(st.integers(0, 4)))


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    kind = draw(st.sampled_from(list(FaultKind)))
    rate = draw(st.sampled_from([0.1, 0.5, 1.0]))
    duration_s = draw(st.sampled_from([None, 0.2, 1.0]))
    if kind is FaultKind.SLOW:
        return Fault(kind=kind, factor=10.0, duration_s=duration_s)
    if kind in (FaultKind.ERROR, FaultKind.WRONG_SIGNATURE):
        return Fault(kind=kind, rate=rate, duration_s=duration_s)
    return Fault(kind=kind, duration_s=duration_s)


@st.composite
def worlds(draw: st.DrawFn) -> Setting:
    sites = [
        SiteSpec(
            f"site-{number}",
            rate=draw(st.sampled_from([5.0, 30.0, 120.0])),
            kind=draw(st.sampled_from(KINDS)),
            deadline_s=draw(st.sampled_from([0.1, 0.5, 2.0])),
            weight=draw(st.sampled_from([1.0, 5.0])),
            steps=draw(st.sampled_from([(), ((1.0, 3.0), (2.0, 0.2))])),
            is_paced=draw(st.booleans()),
            leave_share=draw(st.sampled_from([0.0, 0.3])),
        )
        for number in range(draw(st.integers(1, 3)))
    ]
    nodes = [
        NodeSpec(
            f"node-{number}",
            draw(models()),
            rtt_s=draw(st.sampled_from([0.0, 0.0005, 0.03])),
            zone=draw(st.sampled_from(["", "a"])),
            weight=draw(st.sampled_from([1.0, 4.0])),
            lacks=frozenset(draw(st.sets(st.sampled_from([site.name for site in sites]), max_size=1))),
            lists_keys=draw(st.booleans()),
            queue=draw(st.sampled_from([0, 3, 1024])),
        )
        for number in range(draw(st.integers(2, 6)))
    ]
    incidents = [
        Incident(
            draw(TIMES),
            draw(st.sampled_from([node.name for node in nodes])),
            act,
            until=draw(st.sampled_from([SECONDS + 0.1, SECONDS + 1.0])),
            fault=draw(faults()) if act is Act.FAULT else None,
            key=draw(st.sampled_from([site.name for site in sites])),
        )
        for act in draw(st.lists(st.sampled_from([*[Act.FAULT] * 4, *Act]), max_size=5))
        if act is not Act.REMOVE
    ]
    if draw(st.booleans()):
        # One leaves for a while, and what happens to it then happens to nobody.
        gone = draw(st.sampled_from([node.name for node in nodes]))
        incidents = [incident for incident in incidents if incident.node != gone]
        incidents.append(Incident(draw(st.floats(0.2, 1.5)), gone, Act.REMOVE, until=draw(st.floats(1.6, 3.0))))
    zone = draw(st.sampled_from(["", "a"]))
    return Setting(nodes, sites, incidents, seconds=SECONDS, seed=draw(st.integers(0, 1000)), zone=zone)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    signing = signing_policy(
        max_waiting_jobs=draw(st.sampled_from([1, 20, 4096])),
        max_in_flight_per_node=draw(st.sampled_from([1, 8, 512])),
        max_attempts=draw(st.sampled_from([1, 6])),
        attempt_timeout_s=draw(st.sampled_from([0.1, 1.0])),
        probe_interval_s=draw(st.sampled_from([0.2, 1.0])),
    )
    if draw(st.integers(0, 3)) == 0:
        selection: Any = draw(st.sampled_from([adapter.RoundRobin, adapter.LeastOutstanding]))
        return Policy("peers", signing, as_peers(signing), selection)
    routing = RoutingPolicy(
        zone=draw(st.sampled_from(["", "a"])),
        window_min=draw(st.sampled_from([1, 2, 8])),
        key_share=draw(st.sampled_from([0.1, 0.75, 1.0])),
        queue_wait_s=draw(st.sampled_from([0.05, 1.0])),
        no_node_wait_s=draw(st.sampled_from([0.05, 1.0])),
        retry_share=draw(st.sampled_from([0.01, 0.2])),
        hedge_share=draw(st.sampled_from([0.0, 0.05, 1.0])),
        hedge_quantile=draw(st.sampled_from([0.5, 0.95])),
        eject_after=draw(st.sampled_from([1, 5])),
        eject_min_s=draw(st.sampled_from([0.1, 1.0])),
        max_ejected_share=draw(st.sampled_from([0.0, 0.5, 1.0])),
        ramp_up_s=draw(st.sampled_from([0.0, 1.0])),
    )
    return Policy("ours", signing, routing)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(setting=worlds(), policy=policies())
def test_the_router_keeps_its_word(setting: Setting, policy: Policy) -> None:
    sim = Simulation(setting, policy).run()
    assert sim.checks.breaches == []
    assert sim.ledger.jobs == sim.ledger.started


def test_a_run_can_be_repeated() -> None:
    figures = {kind: Figures(100.0, 0.003, 0.01) for kind in KINDS}
    nodes = [NodeSpec(name, DeviceModel(figures, 4, 4)) for name in ("a", "b")]
    setting = Setting(nodes, [SiteSpec("www", 150.0, leave_share=0.1)], seconds=2.0)
    policy = Policy("ours", signing_policy(), RoutingPolicy())
    first, second = (Simulation(setting, policy).run().ledger for _ in range(2))
    assert first.jobs > 200
    assert first.between() == second.between()
    assert first.sends == second.sends
