"""The choice of a server."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.http.balance import choose


@dataclass(eq=False)
class FakeServer:
    name: str
    busy: int = 0
    down_until: float = 0.0
    has_room: bool = True


def names(servers: list[FakeServer], turns: int, now: float = 10.0) -> list[str]:
    chosen = [choose(servers, turn, now, ()) for turn in range(turns)]
    return [server.name if server else "-" for server in chosen]


def test_equals_take_turns() -> None:
    assert names([FakeServer("a"), FakeServer("b"), FakeServer("c")], 6) == ["a", "b", "c", "a", "b", "c"]


def test_the_least_busy_is_chosen() -> None:
    assert names([FakeServer("a", busy=2), FakeServer("b", busy=1), FakeServer("c", busy=2)], 3) == ["b"] * 3


def test_down_servers_are_passed_over_until_their_time() -> None:
    servers = [FakeServer("a", down_until=11), FakeServer("b", busy=9)]
    assert names(servers, 2) == ["b", "b"]
    assert names(servers, 1, now=11) == ["a"]


def test_when_all_are_down_the_one_nearest_to_its_time_is_tried() -> None:
    assert names([FakeServer("a", down_until=13), FakeServer("b", down_until=12)], 2) == ["b", "b"]


def test_full_servers_are_waited_for_rather_than_down_ones_tried() -> None:
    assert names([FakeServer("a", has_room=False), FakeServer("b", down_until=12)], 1) == ["-"]
    assert names([FakeServer("a", has_room=False), FakeServer("b")], 2) == ["b", "b"]


def test_excluded_servers_are_not_chosen() -> None:
    a, b = FakeServer("a"), FakeServer("b", down_until=99)
    assert choose([a, b], 0, 10.0, [a]) is b
    assert choose([a], 0, 10.0, [a]) is None
