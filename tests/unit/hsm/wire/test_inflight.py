"""Ids, deadlines and bounds of a client's requests."""

from __future__ import annotations

import pytest

from hsm.wire.errors import LinkFull, WireError
from hsm.wire.inflight import CONTROL_SLOTS, RequestKind, RequestsInFlight

SIGN = RequestKind.SIGN


def test_ids_count_from_one_and_skip_what_is_in_flight_when_they_wrap() -> None:
    requests = RequestsInFlight(8, last_id=0xFFFF_FFFD)
    first = [requests.start(SIGN, 1.0) for _ in range(4)]
    assert first == [0xFFFF_FFFE, 0xFFFF_FFFF, 1, 2]
    requests.finish(1)
    again = RequestsInFlight(8, last_id=0xFFFF_FFFF)
    assert again.start(SIGN, 1.0) == 1


def test_an_abandoned_id_is_not_used_until_its_answer_came() -> None:
    requests = RequestsInFlight(8)
    assert requests.start(SIGN, 1.0) == 1
    requests.abandon(1)
    requests._last_id = 0xFFFF_FFFF  # four billion requests later
    assert requests.start(SIGN, 1.0) == 2
    assert requests.finish(1) is None
    requests._last_id = 0xFFFF_FFFF
    assert requests.start(SIGN, 1.0) == 1


def test_an_answer_ends_a_request_once() -> None:
    requests = RequestsInFlight(8)
    request_id = requests.start(RequestKind.PING, 1.0)
    assert requests.finish(request_id) is RequestKind.PING
    with pytest.raises(WireError, match="not in flight"):
        requests.finish(request_id)
    with pytest.raises(WireError, match="not in flight"):
        requests.kind_of(request_id)


def test_deadlines_come_in_order_and_are_inclusive() -> None:
    requests = RequestsInFlight(8)
    late, early, middle = (requests.start(SIGN, deadline) for deadline in (3.0, 1.0, 2.0))
    assert requests.next_deadline() == 1.0
    assert requests.expire(0.999) == []
    assert requests.expire(1.0) == [early]
    requests.finish(middle)
    assert requests.next_deadline() == 3.0
    assert requests.expire(9.0) == [late]
    assert requests.next_deadline() is None


def test_the_deadline_of_an_earlier_request_does_not_end_one_that_has_its_id_now() -> None:
    requests = RequestsInFlight(8)
    requests.finish(requests.start(SIGN, 1.0))
    requests._last_id = 0xFFFF_FFFF
    assert requests.start(SIGN, 5.0) == 1
    assert requests.next_deadline() == 5.0
    assert requests.expire(2.0) == []
    assert requests.expire(5.0) == [1]


def test_full_at_the_bound_and_control_requests_have_their_own_slots() -> None:
    requests = RequestsInFlight(2)
    requests.start(SIGN, 1.0)
    assert not requests.is_full
    requests.start(SIGN, 1.0)
    assert requests.is_full
    with pytest.raises(LinkFull, match="2 requests are in flight"):
        requests.start(SIGN, 1.0)
    for _ in range(CONTROL_SLOTS):
        requests.start(RequestKind.PING, 1.0)
    with pytest.raises(LinkFull):
        requests.start(RequestKind.PING, 1.0)


def test_a_node_that_never_answers_stalls_the_link_and_memory_is_bounded() -> None:
    requests = RequestsInFlight(4)
    started = 0
    for now in range(100):
        while not requests.is_full:
            requests.start(SIGN, now + 0.5)
            started += 1
        requests.expire(now + 0.5)
    assert started == 4
    assert requests.is_stalled
    assert requests.is_full
    with pytest.raises(LinkFull, match="4 answers overdue"):
        requests.start(SIGN, 1000.0)
    assert requests.finish(1) is None
    assert not requests.is_stalled
    assert not requests.is_full


def test_answered_requests_do_not_pile_up_until_their_deadline() -> None:
    requests = RequestsInFlight(4)
    for _ in range(10_000):
        requests.finish(requests.start(SIGN, 60.0))
    assert len(requests._heap) < 100


def test_lose_all_tells_the_live_ones_only() -> None:
    requests = RequestsInFlight(8)
    ids = [requests.start(SIGN, 1.0) for _ in range(3)]
    requests.abandon(ids[1])
    assert list(requests.lose_all()) == [ids[0], ids[2]]
    assert len(requests) == 0
    assert requests.next_deadline() is None
    assert not requests.abandon(ids[0])
