"""The choice among the nodes of a key."""

from __future__ import annotations

from collections import Counter
from heapq import heappop, heappush
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.wire.schemes import KeyFamily
from proxy.base.policy import RoutingPolicy
from proxy.signing.facts import NodeFacts
from proxy.signing.selection import LEAST_RAMP, SICK, SUSPECT_PENALTY, BestOfTwo, Seat
from tests.support.seats import seat, seats

ROUTING = RoutingPolicy()
ALL = frozenset(KeyFamily)


def chosen(*nodes: Seat, avoid: tuple[str, ...] = (), now: float = 0.0, routing: RoutingPolicy = ROUTING) -> set[str]:
    """Names that are chosen in many tries; "" for none."""
    best, among = BestOfTwo(routing, Random(1)), seats(nodes)
    found = [best.choose(among, now, avoid) for _ in range(100)]
    return {each.name if each else "" for each in found}


def rank_1() -> Seat:
    return seat("r1", latency_s=0.5)


def rank_2() -> Seat:
    made = seat("r2", latency_s=0.1)
    made.load.reluctant_families = ALL
    return made


def rank_3() -> Seat:
    made = seat("r3", latency_s=0.1)
    made.suspect_until, made.suspect_is_hung = 5.0, True
    return made


def rank_4() -> Seat:
    made = seat("r4", latency_s=0.1)
    made.load.out_families = ALL
    return made


def rank_5() -> Seat:
    made = seat("r5", latency_s=0.1)
    made.load.facts = NodeFacts()
    return made


RANKS = (rank_1, rank_2, rank_3, rank_4, rank_5)


def full(made: Seat) -> Seat:
    made.load.in_flight = made.load.limit
    return made


def test_ranks_are_what_is_known_of_a_node() -> None:
    assert [make().rank(1.0) for make in RANKS] == [1, 2, 3, 4, 5]
    assert rank_3().rank(5.0) == 1, "suspicion ends"
    key_out = rank_1()
    key_out.results.out_until = 9.0
    assert (key_out.rank(1.0), rank_4().rank(1.0), rank_3().rank(1.0)) == (4, 4, 3)
    backup = seat("b", backup=True)
    assert backup.rank(1.0) == 2


@pytest.mark.parametrize("first", range(4))
def test_the_best_rank_is_asked_however_slow_it_is(first: int) -> None:
    assert chosen(*(make() for make in RANKS[first:])) == {f"r{first + 1}"}


def test_a_node_without_a_usable_link_is_never_asked() -> None:
    assert chosen(rank_5(), rank_5()) == {""}
    assert chosen() == {""}


@pytest.mark.parametrize("what", ["full", "paused", "busy", "key full"])
def test_a_node_that_can_take_nothing_is_not_asked(what: str) -> None:
    made = seat("a", limit=8)
    made.load.in_flight = 8 if what == "full" else 0
    made.load.is_paused = what == "paused"
    made.load.busy_until = 5.0 if what == "busy" else 0.0
    made.in_flight = made.load.key_limit = 6 if what == "key full" else 8
    assert chosen(made, now=4.9) == {""}
    assert chosen(made, seat("b", latency_s=5.0), now=4.9) == {"b"}
    if what == "busy":
        made.in_flight = 0
        assert chosen(made, now=5.0) == {"a"}


@pytest.mark.parametrize("make", [rank_1, rank_2])
def test_what_hangs_is_asked_only_when_the_calm_nodes_are_not_there(make: type) -> None:
    assert chosen(rank_3(), full(make())) == {""}
    assert chosen(rank_3(), make(), avoid=(make().name,)) == {"r3"}
    assert chosen(rank_4(), full(make())) == {""}
    assert chosen(rank_4(), full(rank_3())) == {""}
    assert chosen(rank_2(), full(rank_1())) == {"r2"}


def test_nodes_to_avoid_are_avoided() -> None:
    assert chosen(seat("a"), seat("b"), seat("c"), avoid=("a", "c")) == {"b"}
    assert chosen(seat("a"), seat("b"), avoid=("a", "b")) == {""}


def test_of_two_the_one_that_answers_sooner_is_taken() -> None:
    idle, busy = seat("idle", latency_s=0.01), seat("busy", latency_s=0.01)
    busy.load.in_flight = 3
    assert chosen(idle, busy) == {"idle"}
    slow = seat("slow", latency_s=0.05)
    assert chosen(slow, busy) == {"busy"}
    busy.load.in_flight = 5
    assert chosen(slow, busy) == {"slow"}


def test_a_suspect_or_sick_node_must_be_better_by_far() -> None:
    good, bad = seat("good", latency_s=0.01 * SUSPECT_PENALTY * 0.9), seat("bad", latency_s=0.01)
    assert chosen(good, bad) == {"bad"}
    bad.suspect_until = 5.0
    assert chosen(good, bad) == {"good"}
    bad.suspect_until, bad.load.suspect_until = 0.0, 5.0
    assert chosen(good, bad) == {"good"}
    busy, sick = seat("busy", latency_s=0.11), seat("sick", latency_s=0.1)
    assert chosen(busy, sick) == {"sick"}
    sick.pace.base_s = 0.1 / SICK / 2
    assert chosen(busy, sick) == {"busy"}


def zoned(**changes: object) -> tuple[RoutingPolicy, Seat, Seat]:
    routing = RoutingPolicy(zone="here", zone_factor=2.0)
    return (
        routing,
        seat("near", routing, latency_s=0.01, zone="here"),
        seat("far", routing, latency_s=0.01, zone="there"),
    )


def test_the_own_zone_is_preferred_until_it_is_worse_by_the_factor() -> None:
    routing, near, far = zoned()
    assert chosen(near, far, routing=routing) == {"near"}
    near.load.in_flight = 1
    assert chosen(near, far, routing=routing) == {"near"}
    near.load.in_flight = 2
    assert chosen(near, far, routing=routing) == {"far"}


def test_another_zone_takes_what_the_own_one_cannot() -> None:
    routing, near, far = zoned()
    assert chosen(full(near), far, routing=routing) == {"far"}
    assert chosen(near, far, routing=routing, avoid=("near",)) == {"far"}
    routing, near, far = zoned()
    near.suspect_until, near.suspect_is_hung = 5.0, True
    assert chosen(near, far, routing=routing) == {"far"}
    assert chosen(far, routing=routing) == {"far"}


def test_a_zone_is_not_asked_only_because_it_was_not_asked_for_long() -> None:
    routing, near, far = zoned()
    for node in (near, far):
        node.pace.usual.median_s = 0.01
    near.pace.average.add(0.01, 100.0)
    assert chosen(near, far, routing=routing, now=100.0) == {"near"}


def test_half_of_what_is_usual_is_the_least_time_worth_a_signature() -> None:
    node = seat("a")
    assert (seats([node]).least_s, seats([]).least_s) == (0.0, 0.0)
    node.pace.usual.median_s = 0.02
    assert seats([node]).least_s == 0.01


def spread(nodes: list[Seat], per_s: float, *, span_s: float = 4.0, rng_seed: int = 1) -> dict[str, float]:
    """Shares of the jobs when they come at this rate and every node takes 10 ms for each."""
    rng, among = Random(rng_seed), seats(nodes)
    best = BestOfTwo(ROUTING, rng)
    for node in nodes:
        node.pace.usual.median_s = 0.01
    now, under_way, counts = 0.0, list[tuple[float, int, Seat]](), Counter[str]()
    while now < span_s:
        now += rng.expovariate(per_s)
        while under_way and under_way[0][0] <= now:
            end, _, where = heappop(under_way)
            where.in_flight -= 1
            where.load.in_flight -= 1
            where.pace.add(0.01, end)
        where_next = best.choose(among, now)
        if where_next is not None:
            where_next.in_flight += 1
            where_next.load.in_flight += 1
            counts[where_next.name] += 1
            heappush(under_way, (now + 0.01, counts.total(), where_next))
    return {each.name: counts[each.name] / counts.total() for each in nodes}


@pytest.mark.parametrize("per_s", [5.0, 1500.0, 4000.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.5, 0.25), (1.0, 0.25), (1.0, 1.0, 0.1)])
def test_shares_are_in_proportion_to_weights(weights: tuple[float, ...], per_s: float) -> None:
    nodes = [seat(name, weight=weight, latency_s=0.01, limit=200) for name, weight in zip("abc", weights, strict=False)]
    shares = spread(nodes, per_s, span_s=4000 / per_s + 1)
    for node, weight in zip(nodes, weights, strict=True):
        assert shares[node.name] == pytest.approx(weight / sum(weights), rel=0.15)


def test_a_node_that_is_back_gets_its_share_slowly() -> None:
    back, others = seat("back", latency_s=0.01), [seat(name, latency_s=0.01) for name in "ab"]
    back.load.returned_at = 10.0
    at = [back.load.share_now(10.0 + ROUTING.ramp_up_s * part, ROUTING.ramp_up_s) for part in (0.0, 0.3, 0.7, 1.0)]
    assert at == pytest.approx([LEAST_RAMP, 0.3, 0.7, 1.0])
    assert back.load.share_now(10.0, 0.0) == 1.0
    best, among, rng = BestOfTwo(ROUTING, Random(1)), seats([back, *others]), Random(2)
    counts = [0, 0]
    for late in (0, 1):
        for _ in range(1000):
            found = best.choose(among, 10.0 + late * ROUTING.ramp_up_s + 0.01 * rng.random())
            counts[late] += found is back
    assert counts[0] < 1000 * LEAST_RAMP
    assert counts[1] == pytest.approx(1000 / 3, rel=0.15)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans(), st.booleans(), st.floats(0.01, 1)), max_size=8),
    st.integers(0, 1000),
)
def test_whatever_the_nodes_a_choice_is_allowed_and_the_best_rank_that_has_room(
    nodes: list[tuple[int, bool, bool, bool, float]], number: int
) -> None:
    made, avoid = [], set()
    for index, (kind, is_full, is_far, is_avoided, weight) in enumerate(nodes):
        node = RANKS[kind]()
        node.name = node.load.name = str(index)
        node.load.is_local, node.load.weight = not is_far, weight
        if is_full:
            full(node)
        if is_avoided:
            avoid.add(node.name)
        made.append(node)
    found = BestOfTwo(ROUTING, Random(number)).choose(seats(made), 1.0, avoid)
    open_ranks = [each.rank(1.0) for each in made if each.name not in avoid and each.can_take(1.0)]
    if found is not None:
        assert found.name not in avoid
        assert found.can_take(1.0)
        assert found.rank(1.0) == min(open_ranks)
    else:
        assert min(open_ranks, default=5) >= 3, "a calm node with room is always found"
