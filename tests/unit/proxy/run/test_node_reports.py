from __future__ import annotations

from pathlib import Path

from proxy.base.observe import NodeState
from proxy.config.load import load_config
from proxy.run import metrics
from proxy.run.board import MAX_KEYS_REPORTED
from proxy.run.cells import Ledger
from proxy.run.limits import declare_limits, hide_node
from proxy.run.node_reports import FORGET_AFTER_S, NodeNumbers, node_reports, reported_holders
from proxy.signing.headroom import CapacityBasis, NodeCapacity
from proxy.signing.node import NodeStatus

CONFIG = load_config(Path(__file__).parents[4] / "config" / "proxy.toml")


def status(name: str, state: NodeState) -> NodeStatus:
    return NodeStatus(
        name, "10.0.0.1:1", state, 1, 4, 7, 100, 2, 0.001, "busy", zone="eu-1", weight=2.0, admin="draining"
    )


def test_a_report_joins_what_the_links_and_the_router_know() -> None:
    capacity = NodeCapacity("a", True, 120.0, 450.0, CapacityBasis.MEASURED, 12.5, 0.003)
    a, b = node_reports([status("a", NodeState.UP), status("b", NodeState.DOWN)], [capacity])
    assert (a.state, a.zone, a.weight, a.admin, a.is_up) == ("up", "eu-1", 2.0, "draining", True)
    assert (a.in_flight, a.keys, a.signatures, a.failures, a.last_error) == (4, 7, 100, 2, "busy")
    assert (a.window, a.latency_s, a.rate_per_s, a.capacity_per_s, a.basis) == (12.5, 0.003, 120.0, 450.0, "measured")
    # The router may not know a node yet, or any more.
    assert (b.is_up, b.capacity_per_s, b.basis) == (False, 0.0, "estimated")


def test_very_many_keys_are_not_all_reported() -> None:
    holders = {n.to_bytes(20, "big"): ("a", "b") for n in range(MAX_KEYS_REPORTED + 5)}
    shown, left_out = reported_holders(holders)
    assert (len(shown), left_out) == (MAX_KEYS_REPORTED, 5)
    assert shown["0" * 39 + "1"] == ("a", "b")
    assert reported_holders({}) == ({}, 0)


def test_discovered_nodes_get_their_bound_and_are_forgotten_after_a_while() -> None:
    ledger = Ledger()
    declare_limits(ledger, CONFIG)
    numbers = NodeNumbers(ledger, CONFIG)
    listed = [node.name for node in CONFIG.nodes]
    numbers.keep([*listed, "hsm-1"], 0.0)
    assert ledger.cells(metrics.ATTEMPTS_LIMIT)["hsm-1",].value == CONFIG.signing.max_in_flight_per_node
    ledger.cells(metrics.ATTEMPTS)["hsm-1", "ok"].value = 5
    numbers.keep(listed, 1.0)
    numbers.keep(listed, FORGET_AFTER_S)
    assert ledger.cells(metrics.ATTEMPTS)["hsm-1", "ok"].value == 5
    numbers.keep(listed, FORGET_AFTER_S + 1.0)
    assert ("hsm-1", "ok") not in ledger.cells(metrics.ATTEMPTS)
    assert (listed[0], "ok") in ledger.cells(metrics.ATTEMPTS)


def test_a_node_that_is_back_in_time_keeps_its_counts() -> None:
    ledger = Ledger()
    numbers = NodeNumbers(ledger, CONFIG)
    listed = [node.name for node in CONFIG.nodes]
    numbers.keep([*listed, "hsm-1"], 0.0)
    ledger.cells(metrics.ATTEMPTS)["hsm-1", "ok"].value = 5
    numbers.keep(listed, 1.0)
    numbers.keep([*listed, "hsm-1"], 2.0)
    numbers.keep([*listed, "hsm-1"], FORGET_AFTER_S * 2)
    assert ledger.cells(metrics.ATTEMPTS)["hsm-1", "ok"].value == 5


def test_a_node_that_left_and_came_back_between_two_looks_has_its_bound_again() -> None:
    ledger = Ledger()
    declare_limits(ledger, CONFIG)
    numbers = NodeNumbers(ledger, CONFIG)
    names = [*(node.name for node in CONFIG.nodes), "hsm-1"]
    numbers.keep(names, 0.0)
    hide_node(ledger, "hsm-1")
    numbers.keep(names, 0.25)
    assert ledger.cells(metrics.ATTEMPTS_LIMIT)["hsm-1",].value == CONFIG.signing.max_in_flight_per_node
