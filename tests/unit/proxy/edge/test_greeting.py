from __future__ import annotations

import pytest

from proxy.base.errors import TlsReason
from proxy.base.observe import DoorDecision
from proxy.base.policy import RoutingPolicy
from proxy.edge.door import Doors
from proxy.edge.greeting import Doorway, Greeting, Visitor, no_pressure
from proxy.edge.shared import EdgeServices
from proxy.signing.pressure import NO_PRESSURE, Pressure
from tests.support.edge import HandDoors, Recorder
from tests.unit.proxy.tls.test_hello import extension, message, named, pre_shared_key, records

FULL = records(message(extension(10, b"\0\x02\0\x1d")))
RESUMING = records(message(pre_shared_key(b"ticket")))


class Tcp:
    def get_extra_info(self, name: str) -> tuple[str, int]:
        assert name == "peername"
        return "192.0.2.7", 4711


class Place:
    """A doorway with everything around it."""

    def __init__(self, doors: Doors | None = None) -> None:
        self.doors = doors or HandDoors()
        self.observer = Recorder()
        self.pressure = Pressure(is_short=True, rate_per_s=100.0)
        self.at_site: dict[str, Pressure] = {}
        self.asked = 0
        services = EdgeServices(
            new_engine=None,  # type: ignore[arg-type]
            submit=None,  # type: ignore[arg-type]
            new_protocol=None,  # type: ignore[arg-type]
            observer=self.observer,
            pressure=self.feel,
            doors=self.doors,
            site_of=lambda name: "" if name == "nobody.example" else name or "www.example",
        )
        self.doorway = Doorway("https", services)

    def feel(self, site: str) -> Pressure:
        self.asked += 1
        return self.at_site.get(site, self.pressure)

    def visitor(self) -> Visitor:
        visitor = Visitor(self.doorway)
        visitor.begin(Tcp())  # type: ignore[arg-type]
        return visitor


def test_a_visitor_is_silent_until_it_begins() -> None:
    place = Place()
    visitor = Visitor(place.doorway)
    assert visitor.is_silent
    visitor.begin(Tcp())  # type: ignore[arg-type]
    assert not visitor.is_silent
    assert visitor.address == ("192.0.2.7", 4711)
    visitor.fail("site", TlsReason.TIMEOUT)
    assert (place.observer.handshakes, place.observer.failed) == (1, [("site", TlsReason.TIMEOUT)])


@pytest.mark.parametrize("data", [FULL, FULL[:10], b"GET /"])
def test_without_a_shortage_everything_is_let_in_as_it_comes(data: bytes) -> None:
    place = Place()
    place.pressure = NO_PRESSURE
    visitor = place.visitor()
    greeting, heard = visitor.greet(data)
    assert greeting is Greeting.LET_IN
    assert heard is data
    assert visitor.may_sign("www.example")
    assert place.observer.door == []


def test_a_door_that_is_open_by_policy_does_not_even_feel_the_pressure() -> None:
    place = Place(Doors(RoutingPolicy(shed_at_door=False)))
    visitor = place.visitor()
    assert visitor.greet(FULL) == (Greeting.LET_IN, FULL)
    assert visitor.may_sign("www.example")
    assert (place.asked, place.observer.door) == (0, [])


def test_an_admitted_one_is_asked_about_once() -> None:
    place = Place()
    place.doors.room = 1  # type: ignore[attr-defined]
    visitor = place.visitor()
    assert visitor.greet(FULL) == (Greeting.LET_IN, FULL)
    assert visitor.may_sign("www.example")
    assert place.observer.door == [DoorDecision.ADMITTED]


def test_to_be_admitted_to_one_site_is_no_way_into_another() -> None:
    place = Place()
    place.doors.room = 1  # type: ignore[attr-defined]
    visitor = place.visitor()
    assert visitor.greet(FULL) == (Greeting.LET_IN, FULL)
    assert not visitor.may_sign("other.example")  # a second ClientHello named it
    place.at_site["well.example"] = NO_PRESSURE
    assert visitor.may_sign("well.example")


def test_a_session_is_let_in_and_judged_again_when_it_wants_a_signature() -> None:
    place = Place()
    for room, may in ((0, False), (1, True)):
        visitor = place.visitor()
        assert visitor.greet(RESUMING) == (Greeting.LET_IN, RESUMING)
        place.doors.room = room  # type: ignore[attr-defined]
        assert visitor.may_sign("www.example") is may
    assert place.observer.door == [
        *(DoorDecision.RESUMABLE, DoorDecision.SHED),
        *(DoorDecision.RESUMABLE, DoorDecision.ADMITTED),
    ]
    assert place.doors.asked[:2] == [("192.0.2.7", True), ("192.0.2.7", False)]  # type: ignore[attr-defined]


def test_what_is_kept_is_given_back_whole() -> None:
    place = Place()
    visitor = place.visitor()
    for at in range(len(RESUMING) - 1):
        assert visitor.greet(RESUMING[at : at + 1]) == (Greeting.WAIT, b"")
    assert visitor.greet(RESUMING[-1:]) == (Greeting.LET_IN, RESUMING)


def test_what_is_kept_is_bounded() -> None:
    place = Place()
    visitor = place.visitor()
    endless = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(16_000)
    assert visitor.greet(endless)[0] is Greeting.WAIT
    assert visitor.greet(bytes(10_000))[0] is not Greeting.WAIT


def test_what_is_no_hello_goes_to_the_engine() -> None:
    place = Place()
    assert place.visitor().greet(b"GET / HTTP/1.1\r\n") == (Greeting.LET_IN, b"GET / HTTP/1.1\r\n")
    assert place.observer.door == []


def test_the_shortage_of_one_site_is_not_that_of_another() -> None:
    place = Place()
    place.at_site["well.example"] = NO_PRESSURE
    well = records(message(named(b"well.example")))
    assert place.visitor().greet(well) == (Greeting.LET_IN, well)
    assert place.visitor().may_sign("well.example")
    assert place.doors.asked == []  # type: ignore[attr-defined]
    assert place.visitor().greet(FULL) == (Greeting.SHED, b"")


def test_a_name_that_is_no_sites_is_for_the_engine_to_refuse() -> None:
    place = Place()
    stranger = records(message(named(b"nobody.example")))
    assert place.visitor().greet(stranger) == (Greeting.LET_IN, stranger)


def test_nothing_is_short_by_default() -> None:
    assert no_pressure("") is NO_PRESSURE
