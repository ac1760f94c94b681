"""What routing promises, in simulated time: saturation, one bad node, a lonely key, and what round robin does there."""

from __future__ import annotations

from functools import cache

import pytest

from bench.routing.policies import OURS, ROUND_ROBIN
from bench.routing.scenarios import (
    HSM1,
    HSM2M,
    NO_HEDGE,
    P256,
    Scenario,
    all_down,
    everything,
    faults,
    flood,
    lonely_key,
    many_nodes,
    saturation,
    slow,
    weights,
    zones,
)
from bench.routing.table import Row, play
from hsm.backends.simulated.profiles import PROFILES

SINGLE = {scenario.name: scenario for scenario in faults(HSM1, end=10.0)}
ATTEMPT_MS = 1000.0


def ours(scenario: Scenario) -> Row:
    row = play(scenario, next(policy for policy in scenario.policies if policy.name == OURS.name))
    assert row.breaches == ()
    return row


def service_ms(profile: str) -> float:
    return PROFILES[profile].model().figures[P256].median_s * 1e3


def test_nearly_full_nodes_serve_everybody_in_time() -> None:
    row = ours(saturation(HSM2M, P256, 0.9, seconds=6.0))
    assert row.good_share >= 0.99
    assert row.p99_ms <= 5 * service_ms(HSM2M)


def test_twice_the_capacity_is_no_collapse_and_the_rest_is_refused_at_once() -> None:
    row = ours(saturation(HSM1, P256, 2.0, seconds=8.0))
    goodput = float(row.says.split("goodput ")[1].split("%")[0])
    assert goodput >= 97.0
    assert row.failed > 1000
    assert row.fail_worst_ms < 50.0


@cache
def slow_rows() -> dict[str, Row]:
    scenario = slow(HSM1, end=14.0)
    return {policy.name: play(scenario, policy) for policy in (ROUND_ROBIN, OURS, NO_HEDGE)}


def test_a_slow_node_gets_little_and_costs_little() -> None:
    row = slow_rows()[OURS.name]
    share = float(row.says.split("share ")[1].split("%")[0])
    assert row.breaches == ()
    assert share < 5.0
    assert row.good_share == 1.0
    assert row.extra_share <= 0.05


def test_one_slow_node_is_hardly_felt() -> None:
    row = ours(slow(HSM2M, end=11.0))
    assert row.before_p99_ms is not None
    assert row.p99_ms <= 1.5 * row.before_p99_ms
    assert row.extra_share <= 0.05


def test_round_robin_suffers_from_a_slow_node() -> None:
    rows = slow_rows()
    assert rows[ROUND_ROBIN.name].p99_ms > 5 * rows[OURS.name].p99_ms


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_no_handshake_fails_because_of_one_node(name: str) -> None:
    row = ours(SINGLE[name])
    assert row.failed == 0
    assert row.before_p99_ms is not None
    if name in ("hang", "half-open", "key-hang"):
        assert row.p99_ms <= ATTEMPT_MS + row.before_p99_ms


def test_a_key_on_a_hung_node_does_not_move_the_other_site() -> None:
    row = ours(lonely_key(HSM2M, end=9.0))
    assert row.good_share == 1.0
    assert row.before_p99_ms is not None
    assert row.p99_ms < 1.2 * row.before_p99_ms


def test_when_all_are_down_failures_are_clear_and_recovery_is_quick() -> None:
    row = ours(all_down(HSM1, end=14.0))
    assert row.good_share == 1.0
    fails_ms = float(row.says.split("within ")[1].split(" ms")[0])
    recovery_s = float(row.says.split("again ")[1].split(" s")[0])
    assert fails_ms <= 1010.0
    assert recovery_s <= 2.0


def test_a_flood_for_one_site_does_not_touch_the_other() -> None:
    row = ours(flood(HSM1, end=9.0))
    assert row.good_share == 1.0
    assert row.before_p99_ms is not None
    assert row.p99_ms < 4 * row.before_p99_ms


def test_weights_and_zones_steer_the_load() -> None:
    spread = [float(part) for part in ours(weights(end=5.0)).says.split("spread ")[1].split(" (")[0].split(" : ")]
    assert spread == pytest.approx([1.0, 2.0, 4.0], rel=0.25)
    row = ours(zones(end=14.0))
    near, full = (float(part.split("%")[0].split()[-1]) for part in row.says.split("share")[1].split(","))
    assert near < 2.0
    assert 30.0 < full < 60.0
    assert row.failed == 0


def test_bad_nodes_of_many_are_avoided() -> None:
    row = ours(many_nodes(count=16, end=9.0))
    assert row.failed == 0
    assert float(row.says.split("share ")[1].split("%")[0]) < 4.0


def test_names_are_unique() -> None:
    for quick in (True, False):
        names = [scenario.name for scenario in everything(quick=quick)]
        assert len(set(names)) == len(names)
