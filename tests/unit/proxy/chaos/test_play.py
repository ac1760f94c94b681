"""From what was seen of a run to the figures of a fault, and what a cluster for it is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.chaos.faults import FAULTS
from proxy.chaos.figures import Handshake, Window
from proxy.chaos.play import ChaosSpec, Played, figures_of
from proxy.chaos.shares import Sample

WINDOW = Window(begin=0.0, fault=4.0, end=9.0, close=14.0)


def handshakes(error: str = "", from_s: float = 99.0, to_s: float = 99.0) -> list[Handshake]:
    """Ten per second of 0.1 s each; those due in between fail."""
    dues = [step / 10 for step in range(140)]
    return [Handshake("localhost", due, due, due + 0.05, error if from_s <= due < to_s else "") for due in dues]


def samples() -> list[Sample]:
    """node-1 is left alone from 4.5 to 10 s."""
    found, begun = [], {"node-1": 0.0, "node-2": 0.0}
    for step in range(141):
        at = step / 10
        found.append(Sample(at, dict(begun), sum(begun.values()) * 1.1, sum(begun.values()), at))
        begun = {"node-1": begun["node-1"] + (0 if 4.5 <= at < 10 else 5), "node-2": begun["node-2"] + 5}
    return found


def test_a_fault_of_one_node() -> None:
    played = Played(FAULTS["kill"], ("node-1",), WINDOW, 0.5)
    figures = figures_of(played, handshakes(), samples())
    assert (figures.before.offered, figures.during.offered, figures.after.offered) == (40, 50, 50)
    assert figures.time_to_eject_s == pytest.approx(0.5, abs=0.11)
    assert figures.time_to_full_share_s == pytest.approx(1.0, abs=0.31)
    assert figures.share_during == 0.0
    assert figures.extra_signatures == pytest.approx(figures.jobs * 0.1, abs=2)
    assert (figures.peak_waiting, figures.cpu_busy, figures.recovery_s, figures.longest_failure_s) == (
        14,
        0.5,
        None,
        None,
    )


def test_what_fails_while_all_come_back_is_of_the_fault_and_later_is_not() -> None:
    played = Played(FAULTS["all-down"], ("node-1", "node-2"), WINDOW, 0.5)
    early = figures_of(played, handshakes("down", 4.0, 10.5), samples())
    assert (early.during.failed, early.after.failed) == (65, 0)
    assert early.recovery_s == pytest.approx(1.55)
    late = figures_of(played, handshakes("down", 4.0, 11.5), samples())
    assert (late.during.failed, late.after.failed) == (70, 5)
    assert late.errors == {"down": 75}


def test_a_node_that_did_not_come_back_makes_all_not_back() -> None:
    played = Played(FAULTS["all-down"], ("node-1", "node-2", "node-9"), WINDOW, 0.5)
    assert figures_of(played, handshakes(), samples()).time_to_full_share_s is None


def test_the_cluster_is_narrow_relayed_and_resumes_nothing(tmp_path: Path) -> None:
    spec = ChaosSpec(tmp_path, (), nodes=4, rate_per_node=100, load=0.5)
    assert spec.rate_per_s == 200
    cluster = spec.cluster("a", "b")
    assert (cluster.nodes, cluster.backend, cluster.sites, cluster.relayed) == (4, "simulated", ("a", "b"), True)
    assert "tickets = false" in cluster.proxy_config
    assert "rate = 100.000" in cluster.token_config
    assert "concurrency = 25" in cluster.token_config
    assert "concurrency = 8\n" in replace(spec, rate_per_node=1).cluster().token_config
