from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.base.observe import DoorDecision
from proxy.base.policy import RoutingPolicy
from proxy.edge.door import MIN_POT, REST_S, SLOTS, TRICKLE_PER_S, Door, range_of, water_level

SALT = b"salt 0"
"""The same in every run, and one with which the first 70 ranges have a place each."""


def new_door() -> Door:
    return Door(RoutingPolicy(), salt=SALT)


def address(number: int, host: int = 1) -> str:
    """An address in range `number`."""
    return f"10.{number >> 8}.{number & 255}.{host}"


@dataclass
class Clients:
    """Ranges of clients that ask at given rates, each at random times; what they asked for and got, by second."""

    rates: list[float]
    rate_per_s: float
    seconds: int = 4
    seed: int = 1
    begins: dict[int, float] = field(default_factory=dict)
    asked: list[dict[int, int]] = field(default_factory=list)
    got: list[dict[int, int]] = field(default_factory=list)

    def run(self, door: Door) -> Clients:
        """Ask."""
        dice = random.Random(self.seed)
        times = []
        for number, rate in enumerate(self.rates):
            at = self.begins.get(number, 0.0)
            while rate and (at := at + dice.expovariate(rate)) < self.seconds:
                times.append((at, number))
        self.asked = [dict.fromkeys(range(len(self.rates)), 0) for _ in range(self.seconds)]
        self.got = [dict.fromkeys(range(len(self.rates)), 0) for _ in range(self.seconds)]
        for at, number in sorted(times):
            self.asked[int(at)][number] += 1
            decision = door.decide(address(number), self.rate_per_s, at, offers_session=False)
            self.got[int(at)][number] += decision is DoorDecision.ADMITTED
        return self

    def total(self, second: int) -> int:
        """Let in within one second."""
        return sum(self.got[second].values())

    def got_of(self, numbers: range, since: int = 0) -> int:
        """What these ranges got."""
        return sum(each[number] for each in self.got[since:] for number in numbers)

    def share(self, numbers: range, since: int = 0) -> float:
        """Of what these ranges asked for, what they got."""
        return self.got_of(numbers, since) / sum(each[number] for each in self.asked[since:] for number in numbers)

    def fair_for(self, numbers: range, since: int = 0) -> float:
        """What these ranges should have got, each second judged by what came in it: chance makes crowds, too."""
        fair = 0.0
        for asked in self.asked[since:]:
            demands = [float(each) for each in asked.values()]
            level = oracle(demands, self.rate_per_s) if sum(demands) > self.rate_per_s else max(demands)
            fair += sum(min(demands[number], level) for number in numbers)
        return fair


def oracle(demands: list[float], total: float) -> float:
    """The water level by bisection, which knows nothing of sorting."""
    low, high = 0.0, max(demands)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(min(each, middle) for each in demands) > total else (middle, high)
    return low


# the level


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_the_level_is_that_of_the_oracle(demands: list[float], part: float) -> None:
    total = sum(demands) * part
    level = water_level(demands, total)
    assert level == pytest.approx(oracle(demands, total), rel=1e-6, abs=1e-6)
    assert sum(min(each, level) for each in demands) == pytest.approx(total, rel=1e-6, abs=1e-6)


@given(st.lists(st.floats(0.0, 1e6), max_size=60), st.floats(0.0, 1e6))
def test_where_there_is_enough_the_largest_may_grow_into_the_rest(demands: list[float], spare: float) -> None:
    total = sum(demands) + spare
    largest = max(demands, default=0.0)
    assert water_level(demands, total) >= largest * (1 - 1e-9)
    assert water_level(demands, total) == pytest.approx(largest + spare, rel=1e-6, abs=1e-3)


# who gets how much


@settings(max_examples=12, deadline=None)
@given(
    rate=st.sampled_from([60.0, 200.0, 600.0]),
    small=st.integers(5, 60),
    used=st.floats(0.1, 0.6),
    seed=st.integers(0, 1000),
)
def test_an_attacker_does_not_lower_the_share_of_small_ranges(rate: float, small: int, used: float, seed: int) -> None:
    each = rate * used / small
    attacker = 100.0 * each
    clients = Clients([*[each] * small, max(attacker, rate * 3)], rate, seed=seed).run(new_door())
    assert clients.got_of(range(small), since=1) >= 0.97 * clients.fair_for(range(small), since=1) - 3
    assert clients.got_of(range(small)) >= 0.9 * clients.fair_for(range(small))  # the first instants too
    for second in range(1, clients.seconds):
        assert clients.total(second) == pytest.approx(rate, rel=0.1, abs=2 * MIN_POT)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.floats(1.0, 300.0), min_size=1, max_size=25),
    st.floats(0.2, 0.8),
    st.integers(0, 1000),
)
def test_what_is_let_in_is_what_the_oracle_gives_each_range(rates: list[float], part: float, seed: int) -> None:
    rate = max(20.0, sum(rates) * part)
    clients = Clients(rates, rate, seconds=5, seed=seed).run(new_door())
    spans = range(2, clients.seconds)
    measured = [sum(clients.asked[second][number] for second in spans) / len(spans) for number in range(len(rates))]
    level = oracle(measured, rate) if sum(measured) > rate else max(measured)
    for number, demand in enumerate(measured):
        got = sum(clients.got[second][number] for second in spans) / len(spans)
        assert got == pytest.approx(min(demand, level), rel=0.2, abs=0.1 * rate / len(rates) + 3.0)


@pytest.mark.parametrize("rate", [20.0, 100.0, 500.0, 2000.0])
@pytest.mark.parametrize("ranges", [1, 7, 300])
def test_what_is_let_in_is_what_can_be_signed(rate: float, ranges: int) -> None:
    clients = Clients([rate * 3 / ranges] * ranges, rate).run(new_door())
    for second in range(clients.seconds):
        assert clients.total(second) == pytest.approx(rate, rel=0.12 if second == 0 else 0.06, abs=2 * MIN_POT)


def test_a_lone_range_gets_everything() -> None:
    clients = Clients([2000.0], 400.0).run(new_door())
    assert sum(clients.total(second) for second in range(4)) == pytest.approx(1600, rel=0.05)


def test_what_modest_ranges_leave_goes_to_the_others() -> None:
    clients = Clients([*[5.0] * 20, 5000.0, 5000.0], 500.0).run(new_door())
    assert clients.share(range(20), since=1) >= 0.99
    for greedy in (20, 21):
        assert sum(each[greedy] for each in clients.got[1:]) == pytest.approx(3 * 200, rel=0.12)


def test_an_attack_that_begins_later_is_no_different() -> None:
    clients = Clients([*[5.0] * 40, 5000.0, 5000.0], 400.0, begins={40: 1.0, 41: 1.7}).run(new_door())
    assert clients.share(range(40)) >= 0.99
    assert [clients.total(second) for second in (1, 2, 3)] == pytest.approx([400] * 3, rel=0.1)


def test_more_ranges_than_signatures_share_by_turns() -> None:
    clients = Clients([1.0] * 2000, 300.0, seconds=5).run(new_door())
    for second in range(1, 5):
        assert clients.total(second) == pytest.approx(300, rel=0.1)
    often = [number for number in range(2000) if sum(each[number] for each in clients.got) > 3]
    assert len(often) < 20  # nobody gets much more than the 0.75 that are everybody's


def test_a_modest_range_may_come_with_several_handshakes_at_once() -> None:
    door = new_door()
    Clients([400.0, 400.0], 200.0, seconds=3).run(door)
    assert door.level_per_s > 20
    now = 3.0
    burst = [door.decide(address(9, host), 200.0, now, offers_session=False) for host in range(10)]
    assert burst == [DoorDecision.ADMITTED] * 10


def test_a_signature_now_and_then_is_possible_at_any_rate() -> None:
    door = new_door()
    let_in = sum(
        door.decide(address(1), 0.0, tick / 100, offers_session=False) is DoorDecision.ADMITTED for tick in range(2000)
    )
    assert TRICKLE_PER_S * 15 <= let_in <= TRICKLE_PER_S * 20 + 2 * MIN_POT


# sessions


def test_sessions_are_let_in_and_cost_nobody_anything() -> None:
    door, other = new_door(), new_door()
    for tick in range(2000):
        now = tick / 1000
        assert door.decide(address(1), 50.0, now, offers_session=True) is DoorDecision.RESUMABLE
        answers = [each.decide(address(2), 50.0, now, offers_session=False) for each in (door, other)]
        assert answers[0] is answers[1]


# the table


@given(st.text(max_size=40), st.floats(0, 1e9), st.floats(0, 1e9), st.booleans())
def test_nothing_raises(client_ip: str, rate: float, now: float, offers: bool) -> None:
    door = new_door()
    door.decide(address(1), rate, now / 2, offers_session=offers)
    assert door.decide(client_ip, rate, now, offers_session=offers) is not None
    assert door.decide("", rate, now - 1, offers_session=offers) is not None  # a clock that goes back


def test_memory_is_bounded_and_given_back() -> None:
    door = new_door()
    for number in range(20_000):
        door.decide(f"2001:db8:{number >> 8:x}:{(number & 255) << 8:x}::1", 100.0, number / 1e5, offers_session=False)
    assert SLOTS * 0.9 < door.ranges <= SLOTS
    for tick in range(200):
        door.decide(address(1), 1000.0, 0.2 + tick / 10, offers_session=False)
    assert door.ranges < 10


def test_after_a_rest_all_is_forgotten() -> None:
    door = new_door()
    Clients([1000.0, 1000.0], 100.0, seconds=2).run(door)
    assert door.decide(address(0), 100.0, 2.0 + REST_S, offers_session=False) is DoorDecision.ADMITTED
    assert door.ranges == 1


def test_who_shares_a_place_depends_on_the_salt_alone() -> None:
    door = new_door()
    for number in range(70):
        door.decide(address(number), 100.0, 0.0, offers_session=False)
    assert door.ranges == 70


def test_ranges_have_other_places_in_every_process() -> None:
    def together(door: Door) -> list[int]:
        """How the table grows with each range: it does not where two share a place."""
        sizes = []
        for number in range(1500):
            door.decide(address(number), 100.0, 0.0, offers_session=False)
            sizes.append(door.ranges)
        return sizes

    assert together(new_door()) == together(new_door())
    assert together(Door(RoutingPolicy())) != together(Door(RoutingPolicy()))


def test_the_policy_may_leave_it_open() -> None:
    assert Door(RoutingPolicy(shed_at_door=False)).is_open
    assert not new_door().is_open


# ranges


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.255", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("192.0.2.1", "::ffff:192.0.2.77", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.3.1", False),
        ("2001:db8:0:11::1", "2001:db8:0:12:ffff::2", True),
        ("2001:db8:0:11::1", "2001:db8:0:111::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::1", "0.0.0.1", False),
        ("", "nonsense", False),
    ],
)
def test_what_is_one_range(one: str, other: str, is_same: bool) -> None:
    assert (range_of(one, 24, 56) == range_of(other, 24, 56)) is is_same


def test_ranges_are_as_wide_as_the_policy_says() -> None:
    assert range_of("192.0.2.1", 32, 56) != range_of("192.0.2.2", 32, 56)
    assert range_of("10.1.2.3", 8, 56) == range_of("10.200.2.3", 8, 56)
    assert range_of("2001:db8::1", 24, 128) != range_of("2001:db8::2", 24, 128)


@given(st.ip_addresses(v=4), st.integers(8, 32))
def test_the_leading_bits_of_any_address(ip: object, prefix: int) -> None:
    number = int(ip)  # type: ignore[call-overload]
    assert range_of(str(ip), prefix, 56) == b"4" + (number >> 32 - prefix).to_bytes(4, "big")
