"""A node's admission: places, a queue, deadlines that can't be made, and what a cancellation saves."""

from __future__ import annotations

from random import Random

from bench.routing.plant import Plant, Request
from bench.routing.topology import NodeSpec, SiteSpec
from hsm.backends.simulated.device import DeviceModel, Figures, Verdict
from hsm.wire.schemes import KeyType

SITE = SiteSpec("www", 1.0)


def plant(places: int = 1, queue: int = 2) -> Plant:
    model = DeviceModel({KeyType.P256: Figures(10.0, 0.0, 0.0)}, places, 0)
    return Plant(NodeSpec("n", model, queue=queue), Random(1))


def request(deadline: float = 9.0) -> Request:
    return Request(None, None, SITE, 0.0, deadline, 0)


def live(node: Plant, until: float) -> list[tuple[float, Request]]:
    ended = []
    while (at := node.device.next_event()) is not None and at <= until:
        ended += [(round(done.at, 6), done.item) for done in node.advance(at)]
    return ended


def test_requests_take_places_then_wait_then_are_refused() -> None:
    node = plant(places=1, queue=2)
    asked = [request() for _ in range(4)]
    assert [node.offer(one, 0.0) for one in asked] == [True, True, True, False]
    assert asked[3].verdict is Verdict.BUSY
    assert asked[3].retry_after_s is not None
    assert live(node, 1.0) == [(0.1, asked[0]), (0.2, asked[1]), (0.3, asked[2])]


def test_who_cannot_make_it_is_refused_at_once() -> None:
    node = plant(places=1, queue=100)
    assert node.offer(request(), 0.0)
    live(node, 1.0)  # it has learnt what a signature takes
    assert node.offer(request(), 1.0)
    assert not node.offer(request(deadline=1.001), 1.0)


def test_one_that_waits_can_be_cancelled_and_one_in_the_device_cannot() -> None:
    node = plant(places=1, queue=2)
    asked = [request() for _ in range(3)]
    for one in asked:
        node.offer(one, 0.0)
    node.cancel(asked[0])
    node.cancel(asked[1])
    assert node.offer(request(), 0.0), "there is room again"
    assert [item for _, item in live(node, 0.25)] == [asked[0], asked[2]]
    assert not asked[0].is_wanted


def test_what_is_late_in_the_queue_is_dropped() -> None:
    node = plant(places=1, queue=9)
    first, late, other = request(), request(deadline=0.05), request()
    for one in (first, late, other):
        node.offer(one, 0.0)
    assert [item for _, item in live(node, 1.0)] == [first, other]


def test_a_lost_link_empties_the_queue_and_not_the_device() -> None:
    node = plant(places=1, queue=9)
    asked = [request(), request()]
    for one in asked:
        node.offer(one, 0.0)
    node.detach()
    assert [item for _, item in live(node, 1.0)] == [asked[0]]
