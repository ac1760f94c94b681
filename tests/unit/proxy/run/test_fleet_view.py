from __future__ import annotations

from proxy.run import metrics
from proxy.run.board import STALE_S
from proxy.run.cells import Ledger
from proxy.run.fleet_view import FleetView, Known
from proxy.signing.headroom import CapacityBasis
from tests.support.reports import node_report, worker_report

KEY = "ab" * 20
KNOWN = Known(keys={KEY: "www.example.org"}, configured={"a": "enabled", "b": "draining"})


def view(**wishes: str) -> FleetView:
    nodes = [
        node_report("a", rate=50, capacity=200, basis=CapacityBasis.CONFIGURED, zone="eu-1"),
        node_report("b", state="draining", admin="draining", in_flight=0, rate=0),
    ]
    workers = [worker_report(f"worker-{n}", n + 1, nodes=nodes, holders={KEY: ("a", "b")}) for n in range(2)]
    return FleetView(workers, KNOWN, wishes)  # type: ignore[arg-type]


def test_a_node_is_shown_once_with_the_sum_of_its_parts() -> None:
    a, b = view().nodes()
    assert (a["zone"], a["admin"], a["in_rotation"], a["window"], a["in_flight"]) == ("eu-1", "enabled", True, 32, 2)
    assert (a["rate_per_s"], a["capacity_per_s"], a["basis"]) == (100, 200, "configured")
    assert (a["latency_s"], a["asked_at_run_time"]) == (0.002, False)
    assert (b["admin"], b["asked_at_run_time"], b["in_rotation"]) == ("draining", False, False)


def test_what_was_asked_at_run_time_goes_before_the_config_and_is_marked() -> None:
    a, b = view(a="disabled", b="draining").nodes()
    assert (a["admin"], a["asked_at_run_time"]) == ("disabled", True)
    assert (b["admin"], b["asked_at_run_time"]) == ("draining", False)


def test_the_headroom_says_why_no_node_may_be_lost() -> None:
    shown = view().headroom_shown()
    assert shown["n_minus_1_safe"] is False
    assert shown["reasons"] == ["a is the only node in rotation"]
    assert (shown["used_per_s"], shown["capacity_per_s"], shown["basis"]) == (100, 200, "configured")
    assert shown["lonely_keys"] == [{"ski": KEY, "site": "www.example.org", "nodes": ("a", "b")}]
    assert (shown["lonely_key_count"], shown["unjudged_key_count"]) == (1, 0)


def test_who_has_not_reported_for_a_while_is_shown_but_not_counted_upon() -> None:
    stale = worker_report("worker-0", 1, age_s=STALE_S * 2, nodes=[node_report("a")], holders={KEY: ("a",)})
    shown = FleetView([stale], KNOWN, {})
    assert [node["in_rotation"] for node in shown.nodes()] == [False]
    assert shown.headroom_shown()["reasons"] == ["no node is in rotation"]


def test_the_same_as_metrics() -> None:
    ledger = Ledger()
    view().count(ledger)
    numbers = {name: dict(values) for name, values in ledger.snapshot().numbers.items()}
    assert numbers[metrics.NODE_CAPACITY.name] == {("a", "configured"): 200, ("b", "estimated"): 100}
    assert numbers[metrics.NODE_IN_ROTATION.name] == {("a",): 1, ("b",): 0}
    assert numbers[metrics.NODE_ADMIN.name]["b", "draining"] == 1
    assert numbers[metrics.NODE_ADMIN.name]["b", "enabled"] == 0
    assert numbers[metrics.NODE_WINDOW.name]["a",] == 32
    assert numbers[metrics.NODE_RATE.name]["a",] == 100
    assert numbers[metrics.NODE_LATENCY.name]["a",] == 0.002
    assert numbers[metrics.USED.name] == {(): 100}
    assert numbers[metrics.CAPACITY.name] == {(): 200}
    assert numbers[metrics.LEFT_AFTER_LOSS.name] == {(): -100}
    assert numbers[metrics.IS_N_MINUS_1_SAFE.name] == {(): 0}
    assert numbers[metrics.LONELY_KEYS.name] == {(): 1}
