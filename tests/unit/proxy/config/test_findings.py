from __future__ import annotations

import pytest

from proxy.config.findings import repeated, target_problems


def test_the_second_of_two_is_named_and_points_to_the_first() -> None:
    assert list(repeated(("nodes",), "name", ["a", "b", "a", "a"])) == [
        (("nodes", 2, "name"), "'a' is used by nodes[0] already; each needs its own"),
        (("nodes", 3, "name"), "'a' is used by nodes[0] already; each needs its own"),
    ]
    assert next(iter(repeated(("x", 1, "servers"), "", ["a", "a"])))[0] == ("x", 1, "servers", 1)
    assert not list(repeated(("nodes",), "name", ["a", "b"]))


@pytest.mark.parametrize(("address", "says"), [("a.test:0", "at port 0"), ("a.test:70000", "70000"), ("[x]:1", "IPv6")])
def test_an_address_that_leads_nowhere(address: str, says: str) -> None:
    ((where, sentence),) = target_problems(("nodes", 0, "address"), address)
    assert where == ("nodes", 0, "address")
    assert says in sentence


def test_an_address_that_leads_somewhere() -> None:
    assert not list(target_problems((), "[::1]:1"))
