"""The window finds the knee of a simulated node, and what it does when the node changes."""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.signing.latency import Pace, Usual
from proxy.signing.window import AFTER_BUSY, AFTER_TIMEOUT, BASE_MEMORY_S, LOOK_EVERY_S, ROUND_SAMPLES, Window

TOLERANCE = 2.0
CEILING = 256


def new_window(initial: int = 16, floor: int = 2, ceiling: int = CEILING) -> Window:
    return Window(initial=initial, floor=floor, ceiling=ceiling, tolerance=TOLERANCE)


class Device:
    """A node that signs `servers` jobs at once, each in `service_s`, at the end of a path; jobs never run out."""

    def __init__(self, servers: int, service_s: float, path_s: float, *, is_random: bool = False) -> None:
        self.servers, self.service_s, self.path_s, self.is_random = servers, service_s, path_s, is_random
        self.window, self.pace, self.rng = new_window(), Pace(Usual(0.95), 2.0), Random(1)
        self.demand = CEILING
        self.now, self.in_flight = 0.0, 0
        self._free = [0.0] * servers
        self._answers: list[tuple[float, float]] = []

    @property
    def knee(self) -> float:
        """Requests under way that just keep it busy."""
        return self.servers * (self.service_s + self.path_s) / self.service_s

    @property
    def capacity_per_s(self) -> float:
        return self.servers / self.service_s

    def _send(self) -> None:
        service_s = self.rng.expovariate(1 / self.service_s) if self.is_random else self.service_s
        end = max(self.now + self.path_s / 2, self._free[0]) + service_s
        heapreplace(self._free, end)
        self.in_flight += 1
        heappush(self._answers, (end + self.path_s / 2, self.now))

    def run(self, span_s: float) -> tuple[float, float]:
        """Mean window and answers per second of the second half."""
        begin, end, limits = self.now, self.now + span_s, []
        while self.now < end:
            while self.in_flight < min(self.window.limit, self.demand):
                self._send()
            self.now, sent = heappop(self._answers)
            self.window.answered(self.pace, self.now - sent, self.in_flight, self.now)
            self.in_flight -= 1
            assert 2 <= self.window.limit <= CEILING
            if self.now > begin + span_s / 2:
                limits.append(self.window.limit)
        return sum(limits) / len(limits), len(limits) / (span_s / 2)


def assert_at_the_knee(device: Device, mean_limit: float, rate: float) -> None:
    assert device.knee * 0.9 <= mean_limit <= device.knee * TOLERANCE * 1.1
    assert rate >= device.capacity_per_s * 0.95


@pytest.mark.parametrize("is_random", [False, True])
@pytest.mark.parametrize(("servers", "service_s", "path_s"), [(1, 0.002, 0.002), (8, 0.008, 0.002), (32, 0.02, 0.002)])
def test_it_settles_between_the_knee_and_tolerance_times_the_knee(
    servers: int, service_s: float, path_s: float, is_random: bool
) -> None:
    device = Device(servers, service_s, path_s, is_random=is_random)
    limit, rate = device.run(12.0)
    # A few more where chance would leave a small node idle.
    assert_at_the_knee(device, limit - 4 * is_random * (limit > device.knee + 4), rate)
    assert device.window.measured_per_s == pytest.approx(device.capacity_per_s, rel=0.3)


def test_a_long_path_needs_a_wide_window_and_gets_it() -> None:
    device = Device(2, 0.004, 0.1)
    assert_at_the_knee(device, *device.run(20.0))


def test_a_path_that_becomes_longer_does_not_leave_it_starved() -> None:
    device = Device(4, 0.008, 0.002)
    device.run(8.0)
    device.path_s = 0.05
    device.run(15.0)
    assert_at_the_knee(device, *device.run(4.0))


def test_a_path_that_becomes_shorter_does_not_leave_it_wide() -> None:
    device = Device(4, 0.008, 0.05)
    device.run(8.0)
    device.path_s = 0.002
    device.run(LOOK_EVERY_S + 5.0)
    assert_at_the_knee(device, *device.run(4.0))


def test_a_node_that_becomes_slow_is_given_less_at_once() -> None:
    device = Device(8, 0.004, 0.1)
    wide, _ = device.run(8.0)
    device.service_s = 0.04
    narrow, rate = device.run(8.0)
    assert narrow < wide / 2
    assert rate >= device.capacity_per_s * 0.9


def test_what_is_not_used_does_not_grow() -> None:
    device = Device(64, 0.01, 0.0)
    device.demand = 10
    device.run(5.0)
    assert device.window.limit == 16


def test_a_slow_base_is_learned_while_little_is_under_way() -> None:
    device = Device(64, 0.01, 0.0)
    device.demand = 4
    device.run(2.0)
    assert device.pace.base_s == pytest.approx(0.01)
    device.service_s = 0.03
    device.run(3 * BASE_MEMORY_S)
    assert device.pace.base_s == pytest.approx(0.03, rel=0.1)
    assert device.window.limit == 16


def test_it_shrinks_when_the_node_is_busy_and_when_it_does_not_answer() -> None:
    busy, hung = new_window(initial=100), new_window(initial=100)
    assert busy.refused(99, 1.0)
    assert busy.limit == int(100 * AFTER_BUSY)
    assert hung.missed(1.0)
    assert hung.limit == int(100 * AFTER_TIMEOUT)


def test_what_the_node_had_when_it_was_busy_is_the_measure() -> None:
    window = new_window(initial=100)
    window.refused(9, 1.0)
    assert window.limit == int(10 * AFTER_BUSY)


def test_answers_to_one_burst_shrink_it_once() -> None:
    window = new_window(initial=100)
    assert [window.missed(1.0 + number * 0.001) for number in range(50)] == [True] + [False] * 49
    assert window.missed(2.0)


def test_it_recovers_from_shrinking() -> None:
    device = Device(16, 0.008, 0.0)
    device.run(4.0)
    for _ in range(20):
        device.now += 1.0
        device.window.missed(device.now)
    assert device.window.limit == 2
    device.run(3.0)
    assert_at_the_knee(device, *device.run(3.0))


def test_a_node_that_is_back_begins_small_but_not_wider_than_it_was() -> None:
    wide, narrow = new_window(initial=16), new_window(initial=16)
    device = Device(64, 0.01, 0.0)
    device.window = wide
    device.run(3.0)
    assert wide.limit > 16
    wide.restart(device.now)
    assert wide.limit == 16
    narrow.missed(1.0)
    narrow.restart(2.0)
    assert narrow.limit == 16 * AFTER_TIMEOUT


def test_bounds_that_contradict_each_other_are_settled_by_the_ceiling() -> None:
    assert Window(initial=16, floor=8, ceiling=4, tolerance=2.0).limit == 4
    assert Window(initial=1, floor=8, ceiling=40, tolerance=2.0).limit == 8


EVENT = st.tuples(
    st.sampled_from(["fast", "slow", "busy", "missed", "back", "round"]), st.integers(0, 300), st.floats(0, 20)
)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 300), st.lists(EVENT, max_size=80))
def test_whatever_happens_it_stays_within_its_bounds(
    initial: int, floor: int, ceiling: int, events: list[tuple[str, int, float]]
) -> None:
    window, pace, now = new_window(initial, floor, ceiling), Pace(Usual(0.95), 2.0), 0.0
    for what, under_way, pause_s in events:
        now += pause_s
        before = window.limit
        if what == "busy":
            changed = window.refused(under_way, now)
        elif what == "missed":
            changed = window.missed(now)
        elif what == "back":
            window.restart(now)
            changed = window.limit != before
        else:
            changed = False
            for number in range(ROUND_SAMPLES * 8 if what == "round" else 1):
                took_s = 0.1 if what == "slow" else 0.001 * (1 + number % 7)
                changed |= window.answered(pace, took_s, under_way, now + number * 0.001)
        assert changed or window.limit == before
        assert min(floor, ceiling) <= window.limit <= ceiling
        assert window.mean_s >= 0
        assert pace.base_s >= 0
