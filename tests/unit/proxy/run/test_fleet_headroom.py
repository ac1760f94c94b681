from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.run.board import WorkerReport
from proxy.run.fleet_headroom import basis_of, fleet_capacities, fleet_headroom, holders_of, unsafe_because
from proxy.signing.headroom import CapacityBasis, NodeCapacity, headroom
from tests.support.reports import node_report, worker_report

CONFIGURED, MEASURED, ESTIMATED = CapacityBasis.CONFIGURED, CapacityBasis.MEASURED, CapacityBasis.ESTIMATED
KEY = "ab" * 20


def workers_that_see(*parts: tuple[float, float, CapacityBasis]) -> list[WorkerReport]:
    """One worker for each (rate, capacity, basis), all of one node."""
    return [
        worker_report(f"worker-{n}", n + 1, nodes=[node_report("a", rate=rate, capacity=capacity, basis=basis)])
        for n, (rate, capacity, basis) in enumerate(parts)
    ]


@pytest.mark.parametrize(
    ("parts", "capacity", "basis"),
    [
        # Every worker says the node's number.
        ([(10, 300, CONFIGURED), (10, 300, CONFIGURED)], 300, CONFIGURED),
        # Two workers met the limit together, each got its half.
        ([(148, 150, MEASURED), (150, 150, MEASURED)], 300, MEASURED),
        # ... and remember it when there is less to do.
        ([(20, 150, MEASURED), (30, 150, MEASURED)], 300, MEASURED),
        # One met it while the other got 50.
        ([(250, 250, MEASURED), (50, 900, ESTIMATED)], 300, MEASURED),
        # Guesses about the whole node are not added up.
        ([(10, 800, ESTIMATED), (10, 700, ESTIMATED)], 800, ESTIMATED),
        # What is made now can be made.
        ([(500, 800, ESTIMATED), (500, 700, ESTIMATED)], 1000, ESTIMATED),
        ([(160, 150, MEASURED)], 160, MEASURED),
        # The operator's word stands, even against what is seen.
        ([(400, 300, CONFIGURED)], 300, CONFIGURED),
    ],
)
def test_parts_become_one_capacity(
    parts: list[tuple[float, float, CapacityBasis]], capacity: float, basis: CapacityBasis
) -> None:
    (node,) = fleet_capacities(workers_that_see(*parts))
    assert (node.capacity_per_s, node.basis) == (capacity, basis)
    assert node.rate_per_s == sum(rate for rate, _, _ in parts)


@given(
    st.lists(
        st.tuples(st.floats(0, 1e5), st.floats(0, 1e5), st.sampled_from([MEASURED, ESTIMATED])), min_size=1, max_size=8
    )
)
def test_a_capacity_lies_between_what_is_made_and_all_guesses_together(
    parts: list[tuple[float, float, CapacityBasis]],
) -> None:
    (node,) = fleet_capacities(workers_that_see(*parts))
    made = sum(rate for rate, _, _ in parts)
    assert made * (1 - 1e-9) <= node.capacity_per_s <= (made + sum(capacity for _, capacity, _ in parts)) * (1 + 1e-9)


def test_windows_add_up_and_the_worst_latency_counts() -> None:
    reports = [
        worker_report("worker-0", 1, nodes=[node_report("a", window=8, latency_s=0.002)]),
        worker_report("worker-1", 2, nodes=[node_report("a", window=4, latency_s=0.009)]),
    ]
    (node,) = fleet_capacities(reports)
    assert (node.window, node.latency_s) == (12, 0.009)


def test_a_node_is_in_rotation_where_all_that_take_clients_use_it() -> None:
    up, down = {"a": "up", "b": "up"}, {"a": "up", "b": "down"}
    starting = worker_report("worker-2", 3, nodes={"a": "connecting", "b": "connecting"}, is_accepting=False)
    draining = worker_report("worker-3", 4, nodes={"a": "down", "b": "down"}, is_draining=True)
    serving = [worker_report("worker-0", 1, nodes=up), worker_report("worker-1", 2, nodes=down)]
    found = {node.name: node.is_up for node in fleet_capacities([*serving, starting, draining])}
    assert found == {"a": True, "b": False}
    assert [node.rate_per_s for node in fleet_capacities([*serving, starting, draining])] == [40, 40]
    assert not any(node.is_up for node in fleet_capacities([starting]))


def test_who_uses_a_node_and_misses_the_key_there_is_believed() -> None:
    has, misses = {KEY: ("a", "b")}, {KEY: ("a",)}
    both = {"a": "up", "b": "up"}
    reports = [worker_report("w0", 1, nodes=both, holders=has), worker_report("w1", 2, nodes=both, holders=misses)]
    assert holders_of(reports, [KEY]) == {KEY: ("a",)}
    # A worker that has no link to b yet knows nothing of its keys.
    reports[1] = worker_report("w1", 2, nodes={"a": "up", "b": "connecting"}, holders=misses)
    assert holders_of(reports, [KEY]) == {KEY: ("a", "b")}
    assert holders_of([], [KEY]) == {KEY: ()}


def test_a_fleet_that_may_lose_a_node() -> None:
    nodes = [node_report(name, rate=50, capacity=200, basis=CONFIGURED) for name in "abc"]
    verdict = fleet_headroom([worker_report("w0", 1, nodes=nodes, holders={KEY: ("a", "b")})], [KEY])
    assert verdict.is_n_minus_1_safe
    assert (verdict.used_per_s, verdict.capacity_per_s, verdict.left_after_loss_per_s) == (150, 600, 250)


def test_a_key_that_no_worker_knows_of_is_lonely_but_not_one_that_was_left_out() -> None:
    nodes = [node_report(name) for name in "ab"]
    report = worker_report("w0", 1, nodes=nodes, holders={})
    assert fleet_headroom([report], [KEY]).lonely_keys == (bytes.fromhex(KEY),)
    many = {f"{n:040x}": ("a", "b") for n in range(2)}
    left_out = msgspec.structs.replace(worker_report("w0", 1, nodes=nodes, holders=many), keys_left_out=1)
    assert fleet_headroom([left_out], [*many, KEY]).lonely_keys == ()


def capacity(name: str, *, rate: float = 10, can: float = 100, is_up: bool = True) -> NodeCapacity:
    return NodeCapacity(name, is_up, rate, can, MEASURED, 8, 0.001)


@pytest.mark.parametrize(
    ("nodes", "held", "reasons"),
    [
        ([capacity("a"), capacity("b")], ("a", "b"), []),
        ([], (), ["no node is in rotation"]),
        ([capacity("a"), capacity("b", is_up=False)], ("a", "b"), ["a is the only node in rotation"]),
        (
            [capacity("a", rate=90, can=120), capacity("b", rate=80)],
            ("a", "b"),
            ["without a the others make 100/s, 170/s are needed"],
        ),
        ([capacity("a"), capacity("b")], ("b",), ["b alone holds the key of www.example.org"]),
        (
            [capacity("a"), capacity("b"), capacity("c", is_up=False)],
            ("b", "c"),
            ["b alone, of the nodes in rotation, holds the key of www.example.org"],
        ),
        ([capacity("a"), capacity("b")], (), ["no node in rotation holds the key of www.example.org"]),
    ],
)
def test_reasons_are_sentences(nodes: list[NodeCapacity], held: tuple[str, ...], reasons: list[str]) -> None:
    verdict = headroom(nodes, {bytes.fromhex(KEY): held})
    assert unsafe_because(verdict, nodes, {KEY: held}, {KEY: "www.example.org"}) == reasons


def test_many_lonely_keys_are_counted_and_not_all_told() -> None:
    nodes = [capacity("a"), capacity("b")]
    holders = {f"{n:040x}": ("a",) for n in range(100)}
    verdict = headroom(nodes, {bytes.fromhex(ski): held for ski, held in holders.items()})
    reasons = unsafe_because(verdict, nodes, holders, {})
    assert len(reasons) == 6
    assert reasons[-1] == "and 95 more keys"


def test_the_weakest_basis_is_told() -> None:
    one = NodeCapacity("a", True, 1, 1, MEASURED, 1, 0)
    other = NodeCapacity("b", True, 1, 1, ESTIMATED, 1, 0)
    down = NodeCapacity("c", False, 1, 1, ESTIMATED, 1, 0)
    assert basis_of([one, other]) is ESTIMATED
    assert basis_of([one, down]) is MEASURED
    assert basis_of([NodeCapacity("a", True, 1, 1, CONFIGURED, 1, 0)]) is CONFIGURED
    assert basis_of([]) is ESTIMATED
