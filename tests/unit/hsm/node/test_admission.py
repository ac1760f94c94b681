"""How much work is taken."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hsm.node.admission import MAX_RETRY_AFTER_S, MIN_RETRY_AFTER_S, Lane, Ticket, TicketState

FAR = 1000.0


def fill(lane: Lane, count: int, *, now: float = 0.0, deadline: float = FAR) -> list[Ticket]:
    tickets = [Ticket(now, deadline) for _ in range(count)]
    for ticket in tickets:
        assert lane.offer(ticket, now) is None
    return tickets


def take_all(lane: Lane, now: float = 0.0) -> list[Ticket]:
    taken = []
    while (ticket := lane.take(now)) is not None:
        taken.append(ticket)
    return taken


def test_places_are_taken_in_order_of_arrival_and_no_more_than_there_are() -> None:
    lane = Lane(2, 10)
    tickets = fill(lane, 4)
    assert take_all(lane) == tickets[:2]
    assert (lane.occupied, lane.queued) == (2, 2)
    assert lane.finish(tickets[1], 0.1)
    assert lane.take(0.1) is tickets[2]


def test_tickets_taken_ahead_wait_and_count_against_the_queue() -> None:
    lane = Lane(1, 3, ahead=2, service_s=0.001)
    tickets = [Ticket(0.0, 10.0) for _ in range(5)]
    assert all(lane.offer(ticket, 0.0) is None for ticket in tickets[:4])
    taken = [lane.take(0.0) for _ in range(4)]
    assert taken == [*tickets[:3], None], "one at work, two ahead"
    assert (lane.occupied, lane.queued) == (1, 3)
    refusal = lane.offer(tickets[4], 0.0)
    assert refusal is not None
    assert (refusal.is_full, refusal.queue_depth) == (True, 3)
    assert lane.finish(tickets[0], 0.5, took_s=0.001)
    assert lane.service_s == 0.001, "the work took a millisecond, whenever it was begun"
    assert lane.take(0.5) is tickets[3]


def test_a_full_queue_says_busy_with_a_hint() -> None:
    lane = Lane(1, 2, service_s=0.010)
    fill(lane, 1)
    take_all(lane)
    fill(lane, 2)
    ticket = Ticket(0.0, FAR)
    refusal = lane.offer(ticket, 0.0)
    assert refusal is not None
    assert refusal.is_full
    assert refusal.queue_depth == 2
    assert refusal.retry_after_s == pytest.approx(0.030)
    assert ticket.state is TicketState.ENDED


def test_a_deadline_that_cant_be_made_is_refused_before_it_is_late() -> None:
    lane = Lane(1, 100, service_s=0.010)
    fill(lane, 5)
    take_all(lane)
    refusal = lane.offer(Ticket(0.0, 0.072), 0.0)
    assert refusal is not None
    assert not refusal.is_full
    assert lane.offer(Ticket(0.0, 0.073), 0.0) is None


def test_a_free_place_never_refuses_however_slow_the_past_was() -> None:
    lane = Lane(1, 0, service_s=60.0)
    ticket = Ticket(0.0, 1.0)
    assert lane.offer(ticket, 0.0) is None
    assert lane.take(0.0) is ticket


def test_a_queue_of_zero_takes_what_has_a_place_only() -> None:
    lane = Lane(2, 0)
    fill(lane, 2)
    refusal = lane.offer(Ticket(0.0, FAR), 0.0)
    assert refusal is not None
    assert refusal.is_full


def test_the_average_follows_what_is_measured() -> None:
    lane = Lane(1, 10, service_s=0.001)
    for number in range(100):
        [ticket] = fill(lane, 1, now=float(number))
        take_all(lane, float(number))
        lane.finish(ticket, number + 0.020)
    assert lane.service_s == pytest.approx(0.020, rel=0.05)


def test_one_stalled_signature_does_not_shut_the_door() -> None:
    lane = Lane(1, 10, service_s=0.001)
    [ticket] = fill(lane, 1)
    take_all(lane)
    lane.finish(ticket, 600.0)
    assert lane.service_s < 0.01


def test_a_serial_lane_counts_what_else_the_loop_did() -> None:
    """Runs of 10 signatures of 1 ms each, between them 10 ms of reading: 2 ms per signature in the long run."""
    lane = Lane(1, 1000, is_serial=True, service_s=0.001)
    now = 0.0
    fill(lane, 500)
    for _ in range(50):
        now += 0.010
        for _ in range(10):
            ticket = lane.take(now)
            assert ticket is not None
            now += 0.001
            lane.finish(ticket, now)
        lane.settle(now)
    assert lane.service_s == pytest.approx(0.002, rel=0.05)


def test_a_serial_lane_does_not_count_idle_time() -> None:
    lane = Lane(1, 10, is_serial=True, service_s=0.001)
    for now in range(100, 200):
        [ticket] = fill(lane, 1, now=now)
        assert lane.take(now) is ticket
        lane.finish(ticket, now + 0.002)
        lane.settle(now + 0.002)
    lane.settle(300.0)
    assert lane.service_s == pytest.approx(0.002, rel=0.05)


def test_cancelled_work_leaves_the_queue_at_once() -> None:
    lane = Lane(1, 1)
    first, second = fill(lane, 2)
    take_all(lane)
    assert lane.cancel(second)
    assert not lane.cancel(second)
    assert lane.queued == 0
    assert lane.offer(Ticket(0.0, FAR), 0.0) is None
    assert first.is_open
    assert not second.is_open


def test_abandoned_work_keeps_its_place_until_it_ends() -> None:
    lane = Lane(1, 0)
    [ticket] = fill(lane, 1)
    take_all(lane)
    assert lane.cancel(ticket)
    assert (lane.occupied, lane.abandoned) == (1, 1)
    assert lane.offer(Ticket(0.0, FAR), 0.0) is not None
    assert not lane.finish(ticket, 1.0)
    assert (lane.occupied, lane.abandoned) == (0, 0)


def test_deadlines_end_waiting_and_running_tickets_once() -> None:
    lane = Lane(1, 10)
    [running] = fill(lane, 1, deadline=1.0)
    take_all(lane)
    [waiting] = fill(lane, 1, deadline=2.0)
    assert lane.next_deadline() == 1.0
    assert lane.expire(0.999) == []
    assert lane.expire(1.0) == [running]
    assert lane.next_deadline() == 2.0
    assert lane.expire(5.0) == [waiting]
    assert lane.expire(6.0) == []
    assert lane.next_deadline() is None
    assert lane.abandoned == 1
    assert not lane.finish(running, 6.0)


def test_a_taken_ticket_can_be_given_back_without_teaching_anything() -> None:
    lane = Lane(1, 10, service_s=0.5)
    [ticket] = fill(lane, 1)
    take_all(lane)
    lane.release(ticket)
    assert lane.occupied == 0
    assert lane.service_s == 0.5
    assert not ticket.is_open


def test_timers_of_ended_tickets_do_not_pile_up() -> None:
    lane = Lane(1, 10)
    fill(lane, 1)
    take_all(lane)
    for _ in range(10_000):
        [ticket] = fill(lane, 1)
        lane.cancel(ticket)
    assert len(lane._timers) < 200


def test_the_hint_is_bounded() -> None:
    for service_s, expected in ((1e-9, MIN_RETRY_AFTER_S), (1e9, MAX_RETRY_AFTER_S)):
        lane = Lane(1, 0, service_s=service_s)
        fill(lane, 1)
        refusal = lane.offer(Ticket(0.0, FAR), 0.0)
        assert refusal is not None
        assert refusal.retry_after_s == expected


@pytest.mark.parametrize(("places", "limit"), [(0, 1), (1, -1)])
def test_nonsense_sizes_are_refused(places: int, limit: int) -> None:
    with pytest.raises(ValueError, match="a lane needs a place"):
        Lane(places, limit)


class LaneMachine(RuleBasedStateMachine):
    """Any mix of happenings keeps the bounds, and every ticket ends exactly once for its client."""

    PLACES, QUEUE = 2, 3

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane(self.PLACES, self.QUEUE, service_s=0.01)
        self.now = 0.0
        self.offered: list[Ticket] = []
        self.ends: dict[Ticket, int] = {}
        self.running: list[Ticket] = []

    def end(self, ticket: Ticket) -> None:
        self.ends[ticket] = self.ends.get(ticket, 0) + 1

    @rule(patience_s=st.floats(0.0, 0.2))
    def offer(self, patience_s: float) -> None:
        ticket = Ticket(self.now, self.now + patience_s)
        had_place = self.lane.occupied + self.lane.queued < self.PLACES
        self.offered.append(ticket)
        if self.lane.offer(ticket, self.now) is not None:
            assert not had_place
            self.end(ticket)

    @rule()
    def take(self) -> None:
        ticket = self.lane.take(self.now)
        if ticket is None:
            return
        if ticket.deadline <= self.now:
            self.lane.release(ticket)
            self.end(ticket)
        else:
            self.running.append(ticket)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        ticket = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if self.lane.finish(ticket, self.now):
            self.end(ticket)

    @precondition(lambda self: self.offered)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.offered))
        if self.lane.cancel(ticket):
            self.end(ticket)

    @rule(step_s=st.floats(0.0, 0.1))
    def wait(self, step_s: float) -> None:
        self.now += step_s
        due = self.lane.next_deadline()
        expired = self.lane.expire(self.now)
        assert not expired or due is not None
        for ticket in expired:
            assert ticket.deadline <= self.now
            self.end(ticket)

    @invariant()
    def bounds_hold(self) -> None:
        assert self.lane.occupied <= self.PLACES
        assert self.lane.queued <= self.PLACES + self.QUEUE
        assert self.lane.occupied == len(self.running)

    @invariant()
    def nothing_ends_twice(self) -> None:
        assert all(count == 1 for count in self.ends.values())
        for ticket in self.offered:
            assert ticket.is_open == (ticket not in self.ends)

    def teardown(self) -> None:
        self.now += 1e6
        for ticket in self.running:
            if self.lane.finish(ticket, self.now):
                self.end(ticket)
        self.running.clear()
        for ticket in self.lane.expire(self.now):
            self.end(ticket)
        assert set(self.ends) == set(self.offered)
        assert self.lane.queued == self.lane.occupied == 0


LaneMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLane = LaneMachine.TestCase
