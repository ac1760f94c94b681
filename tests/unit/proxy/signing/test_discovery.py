from __future__ import annotations

import ipaddress
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.shared.addresses import parse_address
from proxy.base.observe import LookupOutcome
from proxy.base.policy import DiscoverySource, NodeAddress
from proxy.signing.discovery import Answer, LookupPace, Record, key_of, node_name, nodes_in

HOST = DiscoverySource(name="hsm", record="hsm.test.", port=2407, zone="a", weight=2.0, capacity_per_s=300.0)
SRV = DiscoverySource(name="hsm", kind="srv", record="_keyless._tcp.test")
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
PORTS = st.integers(0, 65535)
SOURCE_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


def a(address: str, port: int = 2407) -> Record:
    return Record(address, port, "A")


def srv(address: str, target: str, priority: int = 0, weight: int = 0, port: int = 1) -> Record:
    return Record(address, port, target, target, priority, weight)


def test_every_address_of_a_name_is_a_node_with_what_the_source_says() -> None:
    found = nodes_in(HOST, [a("10.0.0.2"), Record("2001:db8::1", 2407, "AAAA"), a("10.0.0.1"), a("10.0.0.2")])
    assert [each.node.name for each in found] == [
        "hsm-10.0.0.1-2407",
        "hsm-10.0.0.2-2407",
        "hsm-2001-db8--1-2407",
    ]
    assert found[0].node == NodeAddress(
        name="hsm-10.0.0.1-2407",
        address="10.0.0.1:2407",
        server_name="hsm.test",
        zone="a",
        weight=2.0,
        capacity_per_s=300.0,
    )
    assert found[2].node.address == "[2001:db8::1]:2407"
    assert [each.question for each in found] == ["A", "A", "AAAA"]


def test_a_server_name_of_the_source_is_that_of_all_its_nodes() -> None:
    source = msgspec.structs.replace(SRV, server_name="hsm.internal")
    assert nodes_in(SRV, [srv("10.0.0.1", "n1.test")])[0].node.server_name == "n1.test"
    assert nodes_in(source, [srv("10.0.0.1", "n1.test")])[0].node.server_name == "hsm.internal"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "nonsense", ""])
def test_what_no_node_can_have_is_passed_over(address: str) -> None:
    assert nodes_in(HOST, [a(address)]) == []
    assert nodes_in(HOST, [a("10.0.0.1", 0)]) == []


def test_weights_are_shares_of_the_heaviest() -> None:
    records = [srv("10.0.0.1", "a", weight=60), srv("10.0.0.2", "b", weight=30), srv("10.0.0.3", "c", weight=0)]
    source = msgspec.structs.replace(SRV, weight=4.0)
    assert [each.node.weight for each in nodes_in(source, records)] == [4.0, 2.0, 0.01]
    unweighted = [srv("10.0.0.1", "a"), srv("10.0.0.2", "b")]
    assert [each.node.weight for each in nodes_in(source, unweighted)] == [4.0, 4.0]


def test_a_priority_behind_the_best_is_for_need_only() -> None:
    records = [srv("10.0.0.1", "spare", priority=20, weight=100), srv("10.0.0.2", "first", priority=10, weight=1)]
    assert [(each.host, each.node.backup) for each in nodes_in(SRV, records)] == [("first", False), ("spare", True)]
    (alone,) = nodes_in(SRV, records[:1])
    assert not alone.node.backup


def test_of_two_records_of_one_address_the_better_counts() -> None:
    records = [srv("10.0.0.1", "x", 20), srv("10.0.0.1", "y", 10, 5), srv("10.0.0.1", "z", 10, 7)]
    (one,) = nodes_in(SRV, records)
    assert one.host == "z"


def test_an_ipv4_address_in_ipv6_clothes_is_the_same_node() -> None:
    assert key_of("::ffff:10.0.0.1", 1) == key_of("10.0.0.1", 1)


@given(st.lists(st.tuples(ADDRESSES, PORTS, st.integers(0, 3), st.integers(0, 65535)), max_size=8), SOURCE_NAMES)
def test_every_node_is_a_valid_one_and_there_once(records: list[tuple[str, int, int, int]], name: str) -> None:
    source = msgspec.structs.replace(SRV, name=name)
    found = nodes_in(source, [srv(address, "t.test", prio, weight, port) for address, port, prio, weight in records])
    assert len({each.key for each in found}) == len({each.node.name for each in found}) == len(found)
    again = nodes_in(source, [srv(adr, "t.test", prio, weight, port) for adr, port, prio, weight in reversed(records)])
    assert [each.node for each in again] == [each.node for each in found]
    for each in found:
        assert msgspec.convert(msgspec.to_builtins(each.node), NodeAddress) == each.node
        host, port = parse_address(each.node.address)
        assert key_of(host, port) == each.key


@given(SOURCE_NAMES, SOURCE_NAMES, ADDRESSES, ADDRESSES)
def test_names_tell_nodes_of_a_source_apart_and_cut_sources_too(one: str, two: str, here: str, there: str) -> None:
    key, other = (4, int(ipaddress.IPv4Address("10.0.0.1")), 65535), (6, 2**128 - 1, 65535)
    assert (node_name(one, key) == node_name(two, key)) is (one == two)
    assert (node_name(one, other) == node_name(two, other)) is (one == two)
    if (first := key_of(here, 1)) and (second := key_of(there, 1)):
        assert (node_name(one, first) == node_name(one, second)) is (first == second)


def test_a_look_up_follows_when_the_records_end() -> None:
    pace = LookupPace(10.0, Random(1))
    delays = [pace.delay_s(Answer(LookupOutcome.OK, ttl_s=5.0)) for _ in range(200)]
    assert 4.5 <= min(delays) < 4.7 < 5.3 < max(delays) <= 5.5


def test_a_failure_is_tried_again_soon_then_less_often() -> None:
    pace = LookupPace(10.0, Random(1))
    failed, good = Answer(LookupOutcome.TIMEOUT), Answer(LookupOutcome.OK, ttl_s=60.0)
    delays = [pace.delay_s(failed) for _ in range(6)]
    for delay, about in zip(delays, [1.0, 2.0, 4.0, 8.0, 10.0, 10.0], strict=True):
        assert about * 0.9 <= delay <= about * 1.1
    assert pace.delay_s(good) >= 9.0
    assert pace.delay_s(failed) <= 1.1


@given(
    st.floats(1, 86400),
    st.lists(st.tuples(st.sampled_from(LookupOutcome), st.floats(0, 2**32)), max_size=50),
    st.integers(),
)
def test_no_delay_is_out_of_bounds(interval_s: float, answers: list[tuple[LookupOutcome, float]], seed: int) -> None:
    pace = LookupPace(interval_s, Random(seed))
    for outcome, ttl_s in answers:
        assert 1.0 <= pace.delay_s(Answer(outcome, ttl_s=ttl_s)) <= interval_s
