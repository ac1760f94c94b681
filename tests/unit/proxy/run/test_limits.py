from __future__ import annotations

from pathlib import Path

from proxy.config.load import load_config
from proxy.run import metrics
from proxy.run.cells import Ledger
from proxy.run.limits import declare_limits, declare_node, forget_node, hide_node
from tests.support.busy_observer import busy_observer

CONFIG = load_config(Path(__file__).parents[4] / "config" / "proxy.toml")


def test_bounds_stand_beside_what_they_bound_before_anything_happens() -> None:
    ledger = Ledger()
    declare_limits(ledger, CONFIG)
    numbers = {name: dict(values) for name, values in ledger.snapshot().numbers.items()}
    names = [node.name for node in CONFIG.nodes]
    assert numbers[metrics.ATTEMPTS_LIMIT.name] == {(name,): CONFIG.signing.max_in_flight_per_node for name in names}
    assert numbers[metrics.HEDGES.name] == {(name,): 0 for name in names}
    assert numbers[metrics.HEDGE_SHARE_LIMIT.name] == {(): CONFIG.routing.hedge_share}
    assert numbers[metrics.RETRY_SHARE_LIMIT.name] == {(): CONFIG.routing.retry_share}
    assert numbers[metrics.QUEUE_WAIT_LIMIT.name] == {(): CONFIG.routing.queue_wait_s}
    assert numbers[metrics.EJECTED_SHARE_LIMIT.name] == {(): CONFIG.routing.max_ejected_share}
    assert {labels[1] for labels in numbers[metrics.DOOR.name]} == {"resumable", "admitted", "shed"}


def test_a_node_that_left_is_not_down_and_is_forgotten_later() -> None:
    observer = busy_observer()
    ledger = observer.ledger
    declare_node(ledger, "node-1", CONFIG)
    declare_node(ledger, "node-2", CONFIG)
    hide_node(ledger, "node-1")
    numbers = ledger.snapshot().numbers
    assert [labels for labels, _ in numbers[metrics.NODE_UP.name]] == [("node-2",)]
    assert numbers[metrics.NODE_STATE.name] == []
    assert dict(numbers[metrics.ATTEMPTS.name])["node-1", "busy"] == 1
    forget_node(ledger, "node-1")
    left = ledger.snapshot()
    kept = {labels for values in (left.numbers, left.histograms) for name in values for labels, _ in values[name]}
    assert not [labels for labels in kept if "node-1" in labels]
    assert ("node-2", "ok") in kept


def test_a_node_that_comes_back_is_counted_again() -> None:
    observer = busy_observer()
    forget_node(observer.ledger, "node-1")
    observer.attempt_started("node-1")
    assert observer.ledger.snapshot().numbers[metrics.ATTEMPTS_RUNNING.name] == [(("node-1",), 1)]
