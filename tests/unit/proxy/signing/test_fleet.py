"""Who may be asked, and who is out: the nodes as the router knows them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.wire.schemes import KeyFamily, KeyType
from proxy.base.errors import SigningReason
from proxy.base.policy import RoutingPolicy
from proxy.signing.capacity import MEASURED_FOR_S
from proxy.signing.commands import Command, NodeEjected, NodeReturned
from proxy.signing.facts import NodeFacts
from proxy.signing.fleet import BUSY_MAX_S, BUSY_MIN_S, KEYS_SPAN_S, SUSPECT_S, Fleet
from proxy.signing.headroom import CapacityBasis
from proxy.signing.results import CONSECUTIVE
from proxy.signing.selection import Seat
from proxy.signing.waiting import NEVER
from tests.support.seats import FOREVER, KEY, OTHER, USABLE, address, attempt, job, policy

R = SigningReason
RSA = b"r" * 20
KINDS = {KEY: KeyType.P256, OTHER: KeyType.P256, RSA: KeyType.RSA_2048}
ROUTING = RoutingPolicy()
NOW = 100.0


class Play:
    """A fleet whose nodes are all up."""

    def __init__(self, names: str = "abc", routing: RoutingPolicy = ROUTING, **changes: Any) -> None:
        self.fleet = Fleet([address(name) for name in names], policy(**changes), routing, KINDS)
        self.now = NOW
        self.said: list[Command] = []
        for name in names:
            self.fleet.learn_facts(name, USABLE, self.now)

    def seat(self, name: str, ski: bytes = KEY) -> Seat:
        return next(each for each in self.fleet.seats_of(ski, self.now) if each.name == name)

    def good(self, name: str, ski: bytes = KEY, took_s: float = 0.01, count: int = 1) -> None:
        for _ in range(count):
            self.fleet.signed(self.seat(name, ski), took_s, self.now)

    def bad(
        self,
        name: str,
        ski: bytes = KEY,
        reason: SigningReason = R.NODE_ERROR,
        *,
        count: int = 1,
        retry_after_s: float | None = None,
        job_deadline: float = FOREVER,
    ) -> list[Command]:
        """Attempts that began a second ago fail."""
        said: list[Command] = []
        for _ in range(count):
            made = attempt(
                self.seat(name, ski), started=self.now - 1, deadline=self.now, of=job(ski, deadline=job_deadline)
            )
            made.seat.in_flight += 1
            made.seat.load.in_flight += 1
            self.fleet.failed(made, reason, self.now, retry_after_s, said)
            made.seat.in_flight -= 1
            made.seat.load.in_flight -= 1
        self.said += said
        return said

    def eject(self, name: str, ski: bytes = KEY) -> NodeEjected:
        for _ in range(100):
            for command in self.bad(name, ski):
                if isinstance(command, NodeEjected):
                    return command
        raise AssertionError("never ejected")

    def pass_time(self, until: float) -> list[Command]:
        self.now, said = until, list[Command]()
        self.fleet.let_in(until, said)
        return said

    def ranks(self, ski: bytes = KEY) -> str:
        return "".join(str(each.rank(self.now)) for each in self.fleet.seats_of(ski, self.now))


def failing(*families: KeyFamily) -> NodeFacts:
    return NodeFacts(is_usable=True, failing=frozenset(families))


# rotation


def test_failures_in_a_row_eject_the_node_until_its_time_is_over() -> None:
    play = Play()
    said = play.bad("a", count=ROUTING.eject_after + 3)
    until = NOW + ROUTING.eject_min_s
    assert said == [NodeEjected("a", b"", CONSECUTIVE, until)]
    assert (play.ranks(), play.ranks(OTHER), play.fleet.next_return()) == ("411", "411", until)
    assert play.pass_time(until - 0.01) == []
    assert play.pass_time(until) == [NodeReturned("a", b"")]
    assert (play.seat("a").rank(play.now) == 4, play.fleet.next_return()) == (False, NEVER)
    assert play.seat("a").load.share_now(until, ROUTING.ramp_up_s) < 0.5, "it comes back slowly"


def test_one_bad_key_leaves_the_node_s_other_keys_alone() -> None:
    play, said = Play(), list[Command]()
    for _ in range(ROUTING.eject_after):
        said += play.bad("a", KEY)
        play.good("a", OTHER, count=2)
    until = NOW + ROUTING.eject_min_s
    assert said == [NodeEjected("a", KEY, CONSECUTIVE, until)]
    assert (play.ranks(KEY), play.ranks(OTHER)) == ("411", "111")
    assert play.pass_time(until) == [NodeReturned("a", KEY)]
    assert play.seat("a").rank(play.now) != 4


def test_what_keys_did_before_their_node_was_out_is_not_held_against_them_twice() -> None:
    play = Play()
    play.bad("a", OTHER, count=ROUTING.eject_after - 1)
    play.good("a", KEY)
    play.pass_time(play.eject("a", KEY).until)
    play.good("a", KEY)
    assert play.bad("a", OTHER) == []


@pytest.mark.parametrize(("names", "most_out"), [("a", 0), ("ab", 1), ("abc", 1), ("abcd", 2), ("abcdef", 3)])
def test_no_more_than_a_share_of_the_nodes_is_out_at_once(names: str, most_out: int) -> None:
    play = Play(names)
    for name in names:
        play.eject(name)
        play.now += 0.01
    assert play.ranks() == "4" * most_out + "2" * (len(names) - most_out), "the first to fail are out, the last stay"


def test_the_share_is_of_the_nodes_with_a_link() -> None:
    play = Play("abcd")
    for name in "cd":
        play.fleet.learn_facts(name, NodeFacts(), play.now)
    play.eject("a")
    play.eject("b")
    assert play.ranks() == "4255"
    play.fleet.learn_facts("c", USABLE, play.now)
    play.fleet.learn_facts("d", USABLE, play.now)
    assert play.ranks() == "4411"


def test_bad_probes_of_a_family_concern_keys_of_that_family_only() -> None:
    play = Play()
    play.fleet.learn_facts("a", failing(KeyFamily.RSA), play.now)
    assert (play.ranks(RSA), play.ranks(KEY)) == ("411", "111")
    play.now += 1
    play.fleet.learn_facts("b", failing(KeyFamily.RSA), play.now)
    assert (play.ranks(RSA), play.ranks(KEY)) == ("421", "111"), (
        "too many are out for RSA; EC has nothing to do with it"
    )
    play.fleet.learn_facts("b", failing(KeyFamily.EC), play.now)
    assert (play.ranks(RSA), play.ranks(KEY)) == ("411", "141")
    assert play.fleet.learn_facts("a", USABLE, play.now)
    assert play.ranks(RSA) == "111"


FACTS = st.sampled_from([NodeFacts(), USABLE, failing(KeyFamily.RSA), failing(KeyFamily.EC), failing(*KeyFamily)])


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), FACTS | st.just("eject"), st.floats(0, 3)), max_size=30),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_whatever_happens_the_share_holds_for_every_family(
    steps: list[tuple[str, NodeFacts | str, float]], share: float
) -> None:
    play = Play("abcde", RoutingPolicy(max_ejected_share=share))
    for name, what, pause in steps:
        play.pass_time(play.now + pause)
        load = play.fleet.loads[name]
        if isinstance(what, NodeFacts):
            play.fleet.learn_facts(name, what, play.now)
        elif load.is_up and not load.results.out_until:
            play.bad(name, count=ROUTING.eject_after)
        linked = [each for each in play.fleet.loads.values() if each.is_up]
        for family in KeyFamily:
            wanted = [each for each in linked if each.results.out_until or family in each.facts.failing]
            out = [each for each in linked if family in each.out_families]
            assert len(out) == min(len(wanted), int(len(linked) * share))
            assert set(out) <= set(wanted)
            assert {each for each in linked if family in each.reluctant_families} == set(wanted) - set(out)


# suspicion


def test_a_failure_makes_a_node_suspect_for_its_key_until_time_an_answer_or_a_probe_clears_it() -> None:
    for clear in ("time", "answer", "probe"):
        play = Play()
        play.bad("a", reason=R.TIMEOUT)
        assert (play.ranks(KEY), play.ranks(OTHER)) == ("311", "111")
        assert play.fleet.next_chance(play.now) >= play.now + SUSPECT_S
        if clear == "time":
            play.now += SUSPECT_S
        elif clear == "answer":
            play.good("a")
        else:
            play.fleet.proven("a", KEY, 0.01, play.now)
        assert play.ranks(KEY) == "111"


def test_an_error_is_held_against_it_less_than_a_timeout() -> None:
    play = Play()
    play.bad("a", reason=R.NODE_ERROR)
    assert (play.ranks(), play.seat("a").suspect_until) == ("111", NOW + SUSPECT_S)


def test_a_second_key_that_fails_makes_the_whole_node_suspect() -> None:
    play = Play()
    play.bad("a", KEY)
    play.bad("a", KEY)
    assert play.seat("a").load.suspect_until == 0
    play.bad("a", OTHER)
    assert play.seat("a").load.suspect_until == NOW + SUSPECT_S
    play.good("a", RSA)
    assert play.seat("a").load.suspect_until == 0
    play.bad("a", KEY)
    assert play.seat("a").load.suspect_until == 0, "a good answer in between"


def test_timeouts_cut_short_by_the_job_are_not_held_against_the_node() -> None:
    play = Play(attempt_timeout_s=2.0)
    said = play.bad("a", reason=R.TIMEOUT, count=20, job_deadline=NOW)
    assert (said, play.ranks(), play.seat("a").load.limit) == ([], "111", ROUTING.window_initial)
    full = Play(attempt_timeout_s=1.0)
    assert full.bad("a", reason=R.TIMEOUT, count=20, job_deadline=NOW)
    assert full.seat("a").load.limit < ROUTING.window_initial


@pytest.mark.parametrize("reason", [R.BUSY, R.KEY_NOT_FOUND, R.DENIED, R.LINK_LOST, R.CANCELLED])
def test_what_is_no_fault_ejects_nobody(reason: SigningReason) -> None:
    play = Play()
    seat = play.seat("a")
    for _ in range(50):
        play.fleet.failed(attempt(seat, started=NOW - 1, deadline=NOW), reason, NOW, None, play.said)
    assert play.said == []
    assert seat.rank(NOW) == 1


def test_a_draining_node_is_not_asked_until_it_is_usable_again() -> None:
    play = Play()
    play.bad("a", reason=R.DRAINING)
    assert play.ranks() == "511"
    assert play.fleet.learn_facts("a", USABLE, play.now)
    assert play.ranks() == "111"


def test_a_key_that_is_missing_is_looked_for_elsewhere() -> None:
    play = Play()
    play.bad("a", KEY, R.KEY_NOT_FOUND)
    assert [each.name for each in play.fleet.seats_of(KEY, play.now)] == ["b", "c"]
    assert len(play.fleet.seats_of(OTHER, play.now)) == 3


# busy nodes and slow ones


def test_a_busy_node_is_left_out_longer_each_time() -> None:
    play, spans = Play(), []
    for _ in range(12):
        play.bad("a", reason=R.BUSY, count=30)
        spans.append(play.seat("a").load.busy_until - play.now)
        assert play.fleet.next_chance(play.now) == play.now + spans[-1]
        play.now = play.seat("a").load.busy_until
    assert spans[:4] == pytest.approx([BUSY_MIN_S, 2 * BUSY_MIN_S, 4 * BUSY_MIN_S, 8 * BUSY_MIN_S])
    assert spans[-1] == pytest.approx(BUSY_MAX_S)
    play.good("a")
    play.bad("a", reason=R.BUSY)
    assert play.seat("a").load.busy_until - play.now == pytest.approx(BUSY_MIN_S)


@pytest.mark.parametrize(("asked_s", "given_s"), [(0.0, BUSY_MIN_S), (0.5, 0.5), (3600.0, BUSY_MAX_S)])
def test_a_busy_node_is_left_out_as_long_as_it_asks_within_bounds(asked_s: float, given_s: float) -> None:
    play = Play()
    play.bad("a", reason=R.BUSY, retry_after_s=asked_s)
    assert play.seat("a").load.busy_until == pytest.approx(NOW + given_s)
    assert play.seat("a").load.limit < ROUTING.window_initial


def test_attempts_wait_for_what_is_usual_and_longer_for_a_slow_node() -> None:
    play = Play("ab", attempt_timeout_s=3.0)
    assert play.fleet.attempt_timeout_s(play.seat("a")) == 3.0
    play.good("a", took_s=0.1, count=50)
    play.good("b", took_s=0.3, count=50)
    play.seat("a").pace.usual.refresh(play.now)
    quick, slow = (play.fleet.attempt_timeout_s(play.seat(name)) for name in "ab")
    assert quick == pytest.approx(0.1 * ROUTING.attempt_timeout_factor, rel=0.06)
    assert slow == pytest.approx(0.3 * ROUTING.attempt_timeout_factor, rel=0.06)
    fast = Play("a")
    fast.good("a", took_s=0.0001, count=50)
    fast.seat("a").pace.usual.refresh(fast.now)
    assert fast.fleet.attempt_timeout_s(fast.seat("a")) == ROUTING.attempt_timeout_min_s


def test_a_timeout_shrinks_the_window_only_where_nothing_was_answered_meanwhile() -> None:
    hung, busy = Play(), Play()
    busy.good("a")
    for play in (hung, busy):
        play.bad("a", reason=R.TIMEOUT)
    assert hung.seat("a").load.limit < busy.seat("a").load.limit == ROUTING.window_initial


def test_one_key_may_take_a_share_of_a_node_while_others_are_in_use() -> None:
    play = Play("a", RoutingPolicy(key_share=0.5, window_initial=16))
    load = play.seat("a").load
    play.fleet.note_job(job(KEY).job, play.now)
    assert load.key_limit == 16
    play.fleet.note_job(job(OTHER).job, play.now)
    assert load.key_limit == 8
    for at in (1.0, 2.0, 3.0):
        play.fleet.note_job(job(KEY).job, play.now + at * KEYS_SPAN_S)
    assert load.key_limit == 16


# nodes that come and go


def test_a_window_grows_again_though_one_key_may_not_have_all_of_it() -> None:
    play = Play("a", RoutingPolicy(window_initial=2))
    for ski in (KEY, OTHER):
        play.fleet.note_job(job(ski).job, NOW)
    seat = play.seat("a")
    assert seat.load.limit == 2 > seat.load.key_limit
    for _ in range(200):
        play.now += 0.01
        seat.in_flight = seat.load.in_flight = seat.load.key_limit
        play.fleet.signed(seat, 0.01, play.now)
    assert seat.load.limit > 8


def test_a_node_that_comes_later_begins_with_a_small_share() -> None:
    play = Play("ab")
    play.fleet.add(address("c"))
    assert play.ranks() == "115"
    play.fleet.learn_facts("c", USABLE, play.now)
    shares = [play.seat(name).load.share_now(play.now, ROUTING.ramp_up_s) for name in "abc"]
    assert shares[:2] == [1.0, 1.0]
    assert shares[2] < 0.5


def test_a_node_that_went_leaves_nothing_behind() -> None:
    play = Play("abc")
    play.good("a", took_s=5.0, count=50)
    play.eject("a")
    usual = play.seat("a").pace.usual
    play.fleet.remove("a", play.now)
    assert [each.name for each in play.fleet.seats_of(KEY, play.now)] == ["b", "c"]
    assert (play.fleet.next_return(), usual.paces) == (NEVER, [play.seat(name).pace for name in "bc"])
    play.fleet.proven("a", KEY, 0.1, play.now)
    play.fleet.add(address("a"))
    play.fleet.learn_facts("a", USABLE, play.now)
    assert play.seat("a").rank(play.now) != 4


def test_weights_count_beside_the_heaviest() -> None:
    fleet = Fleet([address("a", weight=4.0), address("b", weight=1.0)], policy(), ROUTING, KINDS)
    assert [load.weight for load in fleet.loads.values()] == [1.0, 0.25]
    fleet.reweigh(address("a", weight=2.0))
    assert [load.weight for load in fleet.loads.values()] == [1.0, 0.5]
    fleet.remove("a", NOW)
    assert fleet.loads["b"].weight == 1.0


# numbers


def test_capacity_is_what_the_operator_says_or_what_was_seen_or_an_estimate() -> None:
    nodes = [address("told", capacity_per_s=500.0), address("seen"), address("guess"), address("unknown")]
    fleet = Fleet(nodes, policy(), ROUTING, KINDS)
    for node in nodes:
        fleet.learn_facts(node.name, USABLE, NOW)
    fleet.loads["seen"].window.measured_per_s, fleet.loads["seen"].window.measured_at = 300.0, NOW
    guess = next(seat for seat in fleet.seats_of(KEY, NOW) if seat.name == "guess")
    guess.pace.base_s = 0.01
    found = {each.name: each for each in fleet.capacities(NOW + 1)}
    assert [found[node.name].basis for node in nodes] == [
        CapacityBasis.CONFIGURED,
        CapacityBasis.MEASURED,
        CapacityBasis.ESTIMATED,
        CapacityBasis.ESTIMATED,
    ]
    reckoned = ROUTING.window_initial / 0.01 / ROUTING.window_tolerance
    assert [found[node.name].capacity_per_s for node in nodes] == pytest.approx([500.0, 300.0, reckoned, 0.0])
    later = {each.name: each for each in fleet.capacities(NOW + MEASURED_FOR_S)}
    assert later["seen"].basis is CapacityBasis.ESTIMATED


def test_the_latency_that_is_shown_does_not_fade_to_nothing_where_a_node_is_idle() -> None:
    fleet = Fleet([address("a"), address("b")], policy(), ROUTING, KINDS)
    (seat, _) = fleet.seats_of(KEY, NOW)
    assert [each.latency_s for each in fleet.capacities(NOW)] == [0.0, 0.0]
    seat.pace.add(0.02, NOW)
    assert [each.latency_s for each in fleet.capacities(NOW + 3600)] == [0.02, 0.0]
    seat.pace.usual.median_s = 0.005
    assert [each.latency_s for each in fleet.capacities(NOW + 3600)] == [0.005, 0.0]


def test_a_node_that_is_out_is_no_capacity() -> None:
    play = Play("abc")
    play.eject("a")
    play.fleet.learn_facts("b", NodeFacts(), play.now)
    assert [each.is_up for each in play.fleet.capacities(play.now)] == [False, False, True]


def test_the_rate_is_of_nodes_in_rotation() -> None:
    play = Play("ab")
    for name in "ab":
        play.good(name, took_s=0.1, count=200)
    limits = [play.seat(name).load.limit for name in "ab"]
    assert play.fleet.rate_per_s(play.now) == pytest.approx(sum(limits) / 0.1)
    play.eject("a")
    assert play.fleet.rate_per_s(play.now + 1) == pytest.approx(limits[1] / 0.1)
