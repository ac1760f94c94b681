"""The checks would notice: a router that breaks its word is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.routing.engine import Simulation
from bench.routing.policies import OURS
from bench.routing.topology import Act, Incident, NodeSpec, Setting, SiteSpec
from hsm.backends.simulated.device import DeviceModel, Figures
from hsm.wire.schemes import KeyType
from proxy.signing.commands import Finish
from proxy.signing.selection import Seats

MODEL = DeviceModel({kind: Figures(200.0, 0.003, 0.009) for kind in KeyType}, 4, 4)
KILLED = Incident(0.5, "a", Act.KILL)


def simulation(*incidents: Incident, lacks: frozenset[str] = frozenset()) -> Simulation:
    nodes = [NodeSpec("a", MODEL, lacks=lacks), NodeSpec("b", MODEL)]
    return Simulation(Setting(nodes, [SiteSpec("www", 200.0)], incidents, seconds=1.5), OURS)


def _always_a(sim: Simulation) -> None:
    class AlwaysA:
        def choose(self, seats: Seats, now: float, avoid: object = ()) -> Any:
            return sim.router._fleet._seat("a", sim.setting.sites[0].ski)

    sim.router._dispatch._selection = AlwaysA()


def _loses_answers(sim: Simulation) -> None:
    on_signed = sim.router.on_signed
    sim.router.on_signed = lambda *args: [c for c in on_signed(*args) if not isinstance(c, Finish)]  # type: ignore[method-assign]


def _ends_twice(sim: Simulation) -> None:
    on_signed = sim.router.on_signed
    sim.router.on_signed = lambda *args: [c for c in on_signed(*args) for _ in range(2)]  # type: ignore[method-assign]


def _never_looks_at_the_clock(sim: Simulation) -> None:
    sim.router.next_time = lambda now: float("inf")  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("breaks", "sentence"),
    [
        (_always_a, "has no link"),
        (_loses_answers, "jobs never ended"),
        (_ends_twice, "ended twice"),
    ],
)
def test_a_broken_word_is_noticed(breaks: Callable[[Simulation], None], sentence: str) -> None:
    sim = simulation(KILLED)
    breaks(sim)
    sim.run()
    assert any(sentence in breach for breach in sim.checks.breaches), sim.checks.breaches


def test_a_job_that_is_kept_too_long_is_noticed() -> None:
    sim = simulation(KILLED, Incident(0.5, "b", Act.KILL))
    _never_looks_at_the_clock(sim)
    sim.run()
    assert any("never ended" in breach for breach in sim.checks.breaches)


def test_a_node_without_the_key_is_noticed() -> None:
    sim = simulation(lacks=frozenset({"www"}))
    _always_a(sim)
    sim.run()
    assert any("does not hold" in breach for breach in sim.checks.breaches)


def test_a_good_router_is_not_blamed() -> None:
    assert simulation(KILLED).run().checks.breaches == []
