"""The simulated device: every request ends once, in the order of time, within capacity and places; and its faults."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm.backends.simulated.device import DeviceModel, Done, Figures, SimulatedDevice, Verdict
from hsm.backends.simulated.faults import Fault, FaultKind
from hsm.wire.schemes import KeyType

P256, RSA = KeyType.P256, KeyType.RSA_2048
EPSILON = 1e-6


def model(
    rate: float = 100.0, median_s: float = 0.02, p99_s: float = 0.05, concurrency: int = 4, queue: int = 3
) -> DeviceModel:
    figures = {P256: Figures(rate, median_s, p99_s), RSA: Figures(rate / 2, median_s, p99_s)}
    return DeviceModel(figures, concurrency, queue)


def exact(rate: float = 100.0, latency_s: float = 0.02, concurrency: int = 4, queue: int = 3) -> DeviceModel:
    """A device without chance."""
    return model(rate, latency_s, latency_s, concurrency, queue)


def device_of(model_: DeviceModel, seed: int = 7) -> SimulatedDevice[int]:
    return SimulatedDevice(model_, random.Random(seed))


def drained(device: SimulatedDevice[int], until: float = 1e9) -> list[Done[int]]:
    """What ends while nobody submits, event by event."""
    done: list[Done[int]] = []
    while (at := device.next_event()) is not None and at <= until:
        done += device.advance(at)
    return done


def test_a_request_alone_takes_its_latency() -> None:
    device = device_of(exact(latency_s=0.02))
    device.submit(1.0, 1, P256, "www")
    assert device.next_event() == pytest.approx(1.01), "it reaches the engine"
    assert device.advance(1.019) == []
    (done,) = device.advance(1.03)
    assert (done.item, done.verdict) == (1, Verdict.GOOD)
    assert done.at == pytest.approx(1.02)
    assert done.began == 1.0
    assert device.next_event() is None


def test_no_request_is_faster_than_the_engine() -> None:
    device = device_of(exact(rate=10.0, latency_s=0.001))
    device.submit(0.0, 1, P256, "www")
    assert drained(device)[0].at == pytest.approx(0.1)


def test_latency_may_be_nothing() -> None:
    device = device_of(exact(rate=1000.0, latency_s=0.0))
    device.submit(0.0, 1, P256, "www")
    assert drained(device)[0].at == pytest.approx(0.001)


def test_the_engine_signs_one_after_another() -> None:
    device = device_of(exact(rate=100.0, latency_s=0.02))
    for number in range(4):
        device.submit(0.0, number, P256, "www")
    assert [done.at for done in drained(device)] == pytest.approx([0.02, 0.03, 0.04, 0.05])


def test_kinds_of_keys_share_the_engine() -> None:
    device = device_of(exact(rate=100.0, latency_s=0.02))
    device.submit(0.0, 1, P256, "www")
    device.submit(0.0, 2, RSA, "www-rsa")
    device.submit(0.0, 3, P256, "www")
    # RSA takes 20 ms in the engine and so reaches it at once; the others follow.
    assert [(done.item, pytest.approx(done.at)) for done in drained(device)] == [(2, 0.02), (1, 0.03), (3, 0.04)]


def test_more_than_its_places_wait_and_more_than_its_queue_is_busy() -> None:
    device = device_of(exact(concurrency=2, queue=1))
    for number in range(4):
        device.submit(0.0, number, P256, "www")
    assert (device.occupied, device.waiting) == (2, 1)
    (busy,) = device.advance(0.0)
    assert (busy.item, busy.verdict, busy.at) == (3, Verdict.BUSY, 0.0)
    assert busy.retry_after_s is not None
    assert 0.005 <= busy.retry_after_s <= 5
    done = drained(device)
    assert [each.item for each in done] == [0, 1, 2]
    assert done[2].began == pytest.approx(done[0].at)
    assert device.counts == {Verdict.GOOD: 3, Verdict.BUSY: 1}


def test_slow_stretches_what_is_under_way_and_ends_by_itself() -> None:
    device = device_of(exact(latency_s=0.02))
    device.submit(0.0, 1, P256, "www")
    device.set_fault(0.01, Fault(kind=FaultKind.SLOW, factor=10.0, duration_s=0.05))
    device.submit(0.01, 2, P256, "www")
    # 50 ms are 5 ms of the device's time; the rest is as fast as ever.
    first, second = drained(device)
    assert first.at == pytest.approx(0.01 + 0.05 + 0.005)
    assert second.at == pytest.approx(0.01 + 0.05 + 0.015)
    assert device.faults == ()


def test_slow_lowers_the_capacity() -> None:
    device = device_of(exact(rate=100.0, latency_s=0.0, concurrency=2, queue=200))
    device.set_fault(0.0, Fault(kind=FaultKind.SLOW, factor=4.0))
    for number in range(100):
        device.submit(0.0, number, P256, "www")
    assert len(drained(device, until=2.01)) == 50


def test_a_hang_keeps_everything_and_goes_on_where_it_stood() -> None:
    device = device_of(exact(latency_s=0.02))
    device.submit(0.0, 1, P256, "www")
    device.set_fault(0.005, Fault(kind=FaultKind.HANG))
    device.submit(1.0, 2, P256, "www")
    assert device.next_event() is None
    assert device.advance(500.0) == []
    assert [active.fault.name for active in device.clear_faults(500.0, ["hang"])] == ["hang"]
    assert [(done.item, pytest.approx(done.at)) for done in drained(device)] == [(1, 500.015), (2, 500.025)]


def test_a_hung_device_fills_up_and_is_busy() -> None:
    device = device_of(exact(concurrency=2, queue=2))
    device.set_fault(0.0, Fault(kind=FaultKind.HANG))
    for number in range(6):
        device.submit(1.0, number, P256, "www")
    refused = device.advance(1.0)
    assert [(done.item, done.verdict, done.retry_after_s) for done in refused] == [
        (4, Verdict.BUSY, 5.0),
        (5, Verdict.BUSY, 5.0),
    ]


@pytest.mark.parametrize(
    ("kind", "verdict"), [(FaultKind.ERROR, Verdict.FAILED), (FaultKind.WRONG_SIGNATURE, Verdict.WRONG)]
)
def test_a_share_is_spoilt_for_the_keys_named(kind: FaultKind, verdict: Verdict) -> None:
    device = device_of(exact(rate=1e6, latency_s=0.0, concurrency=2, queue=10_000))
    device.set_fault(0.0, Fault(kind=kind, rate=0.25, key="www-*"))
    for number in range(4000):
        device.submit(0.0, number, P256, "www-a" if number % 2 else "mail")
    done = drained(device)
    spoilt = [each.item for each in done if each.verdict is verdict]
    assert len(done) == 4000
    assert all(item % 2 for item in spoilt)
    assert 400 < len(spoilt) < 600


def test_an_error_comes_before_a_wrong_signature() -> None:
    device = device_of(exact())
    device.set_fault(0.0, Fault(kind=FaultKind.WRONG_SIGNATURE))
    device.set_fault(0.0, Fault(kind=FaultKind.ERROR))
    device.submit(0.0, 1, P256, "www")
    assert [done.verdict for done in drained(device)] == [Verdict.FAILED]


def test_a_lost_key_is_not_found_and_takes_no_place() -> None:
    device = device_of(exact())
    device.set_fault(0.0, Fault(kind=FaultKind.LOST_KEY, key="www-*", duration_s=10.0))
    assert device.has_lost("www-a")
    assert not device.has_lost("mail")
    device.submit(1.0, 1, P256, "www-a")
    device.submit(1.0, 2, P256, "mail")
    assert [(done.item, done.verdict) for done in device.advance(1.0)] == [(1, Verdict.NO_KEY)]
    assert [(done.item, done.verdict) for done in drained(device)] == [(2, Verdict.GOOD)]
    device.advance(10.0)
    assert not device.has_lost("www-a")


def test_a_key_lost_while_a_request_waits_is_not_found_when_its_turn_comes() -> None:
    device = device_of(exact(concurrency=1, queue=3))
    device.submit(0.0, 1, P256, "mail")
    device.submit(0.0, 2, P256, "www")
    device.submit(0.0, 3, P256, "mail")
    device.set_fault(0.001, Fault(kind=FaultKind.LOST_KEY, key="www"))
    assert [(done.item, done.verdict) for done in drained(device)] == [
        (1, Verdict.GOOD),
        (2, Verdict.NO_KEY),
        (3, Verdict.GOOD),
    ]


def test_a_crash_loses_everything_and_ends() -> None:
    device = device_of(exact(concurrency=2, queue=1))
    for number in range(3):
        device.submit(0.0, number, P256, "www")
    device.set_fault(0.001, Fault(kind=FaultKind.CRASH, duration_s=2.0))
    assert device.is_down
    assert [(done.verdict, done.at) for done in device.advance(0.001)] == [(Verdict.CRASHED, 0.001)] * 3
    device.submit(1.001, 4, P256, "www")
    (down,) = device.advance(1.001)
    assert (down.verdict, down.retry_after_s) == (Verdict.DOWN, pytest.approx(1.0))
    device.submit(2.001, 5, P256, "www")
    assert not device.is_down
    (good,) = drained(device)
    assert (good.verdict, good.at) == (Verdict.GOOD, pytest.approx(2.021))


def test_a_crash_may_be_cleared_and_lasts_ten_seconds_otherwise() -> None:
    device = device_of(exact())
    assert device.set_fault(5.0, Fault(kind=FaultKind.CRASH)).until == 15.0
    device.clear_faults(6.0)
    assert not device.is_down
    assert device.faults == ()


def test_a_fault_takes_the_place_of_one_of_its_name() -> None:
    device = device_of(exact())
    device.set_fault(0.0, Fault(kind=FaultKind.SLOW, factor=100.0))
    device.set_fault(1.0, Fault(kind=FaultKind.SLOW, factor=2.0))
    device.set_fault(1.0, Fault(kind=FaultKind.LOST_KEY, key="a"))
    device.set_fault(1.0, Fault(kind=FaultKind.LOST_KEY, key="b"))
    assert [active.fault.name for active in device.faults] == ["slow", "lost-key:a", "lost-key:b"]
    device.submit(1.0, 1, P256, "www")
    assert drained(device)[0].at == pytest.approx(1.04)
    assert [active.fault.name for active in device.clear_faults(2.0, ["lost-key:a", "no-such"])] == ["lost-key:a"]


def test_a_fault_that_fits_nothing_is_refused() -> None:
    device = device_of(exact())
    with pytest.raises(ValueError, match="a hang fault has no rate"):
        device.set_fault(0.0, Fault(kind=FaultKind.HANG, rate=0.5))
    assert device.faults == ()


def test_the_same_seed_gives_the_same_life() -> None:
    def life(seed: int) -> list[Done[int]]:
        device = device_of(model(), seed)
        device.set_fault(0.0, Fault(kind=FaultKind.ERROR, rate=0.3))
        for number in range(50):
            device.submit(number * 0.01, number, P256, "www")
        return drained(device)

    assert life(1) == life(1)
    assert life(1) != life(2)


@pytest.mark.parametrize("figures", [(0.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (1.0, 2.0, 1.0), (1.0, -1.0, 1.0)])
def test_figures_that_can_not_be_are_refused(figures: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="a rate is above 0"):
        Figures(*figures)


def test_a_device_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a place"):
        DeviceModel({}, 0, 5)


# properties

FAULTS = st.one_of(
    st.builds(
        Fault, kind=st.just(FaultKind.SLOW), factor=st.floats(1, 1000), duration_s=st.none() | st.floats(0.01, 2)
    ),
    st.builds(Fault, kind=st.just(FaultKind.HANG), duration_s=st.none() | st.floats(0.01, 2)),
    st.builds(Fault, kind=st.just(FaultKind.CRASH), duration_s=st.floats(0.01, 2)),
    st.builds(
        Fault,
        kind=st.sampled_from((FaultKind.ERROR, FaultKind.WRONG_SIGNATURE)),
        rate=st.floats(0, 1),
        key=st.sampled_from((None, "www", "w*")),
        duration_s=st.none() | st.floats(0.01, 2),
    ),
    st.builds(Fault, kind=st.just(FaultKind.LOST_KEY), key=st.sampled_from((None, "www", "mail"))),
)
STEPS = st.lists(
    st.tuples(
        st.floats(0, 0.3),
        st.one_of(
            st.tuples(st.just("submit"), st.integers(1, 12)),
            st.tuples(st.just("fault"), FAULTS),
            st.tuples(st.just("clear"), st.none() | st.sampled_from(("slow", "hang", "crash", "lost-key:www"))),
            st.tuples(st.just("advance"), st.none()),
        ),
    ),
    max_size=40,
)


@dataclass
class Life:
    """A device that is driven through steps, and what came of it."""

    device: SimulatedDevice[int]
    now: float = 0.0
    submitted: int = 0
    done: list[Done[int]] = field(default_factory=list)
    most_at_once: int = 0
    most_waiting: int = 0

    def step(self, action: str, value: object) -> None:
        if action == "submit":
            assert isinstance(value, int)
            for number in range(value):
                label = "www" if number % 3 else "mail"
                self.device.submit(self.now, self.submitted, P256, label)
                self.submitted += 1
                self.look()
        elif action == "fault":
            assert isinstance(value, Fault)
            self.device.set_fault(self.now, value)
        elif action == "clear":
            self.device.clear_faults(self.now, None if value is None else [str(value)])
        else:
            self.done += self.device.advance(self.now)
        self.look()

    def look(self) -> None:
        self.most_at_once = max(self.most_at_once, self.device.occupied)
        self.most_waiting = max(self.most_waiting, self.device.waiting)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(1, 5), st.integers(0, 6), st.sampled_from((0.0, 0.001, 0.03)), st.integers(0, 5))
def test_every_request_ends_once_in_the_order_of_time(
    steps: list[tuple[float, tuple[str, object]]], concurrency: int, queue: int, median_s: float, seed: int
) -> None:
    wanted = model(rate=50.0, median_s=median_s, p99_s=3 * median_s, concurrency=concurrency, queue=queue)
    life = Life(device_of(wanted, seed))
    for pause_s, (action, value) in steps:
        life.now += pause_s
        life.step(action, value)
    life.device.clear_faults(life.now)
    life.done += drained(life.device)

    assert sorted(done.item for done in life.done) == list(range(life.submitted))
    assert (life.device.occupied, life.device.waiting, life.device.next_event()) == (0, 0, None)
    times = [done.at for done in life.done]
    assert times == sorted(times)
    assert all(done.began <= done.at for done in life.done)
    assert life.most_at_once <= concurrency
    assert life.most_waiting <= queue
    assert sum(life.device.counts.values()) == life.submitted

    signed = [done for done in life.done if done.verdict in (Verdict.GOOD, Verdict.WRONG, Verdict.FAILED)]
    for first, begin in enumerate(signed):
        for last in range(first + 1, len(signed)):
            assert last - first <= 50.0 * (signed[last].at - begin.at) + EPSILON, "more than its capacity"
    edges = sorted([(done.began, 1) for done in signed] + [(done.at, -1) for done in signed])
    at_once = 0
    for _, change in edges:
        at_once += change
        assert at_once <= concurrency
