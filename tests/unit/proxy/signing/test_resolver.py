from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import dns.resolver
import pytest
import pytest_asyncio
import uvloop

from proxy.base.observe import LookupOutcome
from proxy.base.policy import DiscoverySource
from proxy.signing import resolver
from proxy.signing.discovery import Answer, Record
from proxy.signing.resolver import look_up
from tests.support.name_server import NameServer, name_server


@pytest_asyncio.fixture
async def server() -> AsyncIterator[NameServer]:
    async with name_server() as running:
        yield running


def host(server: NameServer, **changes: Any) -> DiscoverySource:
    options = {"name": "hsm", "record": "hsm.test", "port": 7, "nameservers": (server.address,), "timeout_s": 10.0}
    return DiscoverySource(**{**options, **changes})


def service(server: NameServer, **changes: Any) -> DiscoverySource:
    return host(server, kind="srv", record="_k._tcp.test", **changes)


async def test_addresses_of_both_families_with_the_shortest_life(server: NameServer) -> None:
    server.records = {("hsm.test", "A"): ["10.0.0.1", "10.0.0.2"], ("hsm.test", "AAAA"): ["2001:db8::1"]}
    server.ttl = 17
    answer = await look_up(host(server))
    assert (answer.outcome, answer.ttl_s, answer.unanswered) == (LookupOutcome.OK, 17.0, frozenset())
    assert sorted(answer.records, key=lambda each: each.address) == [  # a server may turn its records round
        Record("10.0.0.1", 7, "A"),
        Record("10.0.0.2", 7, "A"),
        Record("2001:db8::1", 7, "AAAA"),
    ]


def test_it_works_in_the_loop_of_the_workers() -> None:
    async def scenario() -> Answer:
        async with name_server() as server:
            server.records = {("hsm.test", "A"): ["10.0.0.1"]}
            server.truncated.add(("hsm.test", "A"))
            return await look_up(host(server))

    assert uvloop.run(scenario()).records == (Record("10.0.0.1", 7, "A"),)


async def test_one_family_is_enough(server: NameServer) -> None:
    server.records = {("hsm.test", "AAAA"): ["::5"]}
    assert (await look_up(host(server))).records == (Record("::5", 7, "AAAA"),)


async def test_services_have_ports_priorities_and_weights(server: NameServer) -> None:
    server.records = {
        ("_k._tcp.test", "SRV"): ["10 60 1001 N1.test.", "20 5 1002 n2.test.", "10 0 1003 n1.test."],
        ("n1.test", "A"): ["10.0.0.1"],
        ("n1.test", "AAAA"): ["::1"],
        ("n2.test", "AAAA"): ["::2"],
    }
    answer = await look_up(service(server))
    assert (answer.outcome, answer.ttl_s) == (LookupOutcome.OK, 30.0)
    assert set(answer.records) == {
        Record("10.0.0.1", 1001, "n1.test", "n1.test", 10, 60),
        Record("10.0.0.1", 1003, "n1.test", "n1.test", 10, 0),
        Record("::2", 1002, "n2.test", "n2.test", 20, 5),
    }
    assert server.asked.count(("udp", "n1.test", "A")) == 1


async def test_a_service_that_is_decidedly_not_there_has_no_records(server: NameServer) -> None:
    server.records = {("_k._tcp.test", "SRV"): ["0 0 0 ."]}
    assert (await look_up(service(server))).outcome is LookupOutcome.NO_RECORDS


async def test_a_target_without_addresses_is_left_out_and_a_silent_one_is_told(server: NameServer) -> None:
    server.records = {
        ("_k._tcp.test", "SRV"): ["0 0 1 n1.test.", "0 0 1 gone.test.", "0 0 1 silent.test."],
        ("n1.test", "A"): ["10.0.0.1"],
    }
    server.silent = {("silent.test", "A")}
    answer = await look_up(service(server, timeout_s=1.0))
    assert answer.outcome is LookupOutcome.PARTIAL
    assert answer.records == (Record("10.0.0.1", 1, "n1.test", "n1.test"),)
    assert answer.unanswered == {"silent.test"}
    assert "silent.test" in answer.detail


async def test_more_targets_than_are_looked_up_are_counted(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_TARGETS", 2)
    server.records = {("_k._tcp.test", "SRV"): [f"{5 - each} 0 1 n{each}.test." for each in range(5)]}
    server.records |= {(f"n{each}.test", "A"): [f"10.0.0.{each}"] for each in range(5)}
    answer = await look_up(service(server))
    assert answer.left_out == 3
    assert {record.target for record in answer.records} == {"n4.test", "n3.test"}


async def test_an_answer_too_long_for_a_datagram_comes_over_tcp(server: NameServer) -> None:
    server.records = {("hsm.test", "A"): ["10.0.0.1"]}
    server.truncated.add(("hsm.test", "A"))
    assert len((await look_up(host(server))).records) == 1
    assert ("tcp", "hsm.test", "A") in server.asked


async def test_a_family_that_is_not_answered_is_told_as_unknown(server: NameServer) -> None:
    server.records = {("hsm.test", "A"): ["10.0.0.1"]}
    for trouble in (server.silent, server.failing):
        trouble.add(("hsm.test", "AAAA"))
        answer = await look_up(host(server, timeout_s=1.0))
        assert (answer.outcome, answer.unanswered) == (LookupOutcome.PARTIAL, {"AAAA"})
        assert [record.address for record in answer.records] == ["10.0.0.1"]
        trouble.clear()


async def test_what_is_not_there(server: NameServer) -> None:
    server.records = {("other.test", "TXT"): ["x"], ("hsm.test", "TXT"): ["x"]}
    nothing = await look_up(host(server))
    assert (nothing.outcome, nothing.records) == (LookupOutcome.NO_RECORDS, ())
    gone = await look_up(host(server, record="gone.test"))
    assert gone.outcome is LookupOutcome.NO_NAME
    assert gone.detail == "gone.test does not exist in the DNS (/etc/hosts is not read)"
    assert (await look_up(service(server))).outcome is LookupOutcome.NO_NAME


async def test_a_server_that_fails(server: NameServer) -> None:
    server.failing = {("hsm.test", "A"), ("hsm.test", "AAAA")}
    assert (await look_up(host(server))).outcome is LookupOutcome.SERVER_FAILED
    server.failing = {("_k._tcp.test", "SRV")}
    assert (await look_up(service(server))).outcome is LookupOutcome.SERVER_FAILED


async def test_silence_ends_at_the_deadline(server: NameServer) -> None:
    server.silent = {("hsm.test", "A"), ("hsm.test", "AAAA")}
    before = time.monotonic()
    assert (await look_up(host(server, timeout_s=0.3))).outcome is LookupOutcome.TIMEOUT
    assert 0.2 <= time.monotonic() - before < 3.0


async def test_behind_a_silent_server_the_next_is_asked(server: NameServer) -> None:
    async with name_server() as silent:
        silent.silent = {("hsm.test", "A"), ("hsm.test", "AAAA")}
        server.records = {("hsm.test", "A"): ["10.0.0.1"]}
        answer = await look_up(host(server, nameservers=(silent.address, server.address), timeout_s=1.5))
    assert (answer.outcome, len(answer.records)) == (LookupOutcome.OK, 1)


async def test_a_machine_without_name_servers_says_so(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_args: object, **_options: object) -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", nobody)
    answer = await look_up(host(server, nameservers=()))
    assert (answer.outcome, answer.records) == (LookupOutcome.NO_SERVER, ())


async def test_it_can_be_cancelled(server: NameServer) -> None:
    server.silent = {("hsm.test", "A"), ("hsm.test", "AAAA")}
    asking = asyncio.get_running_loop().create_task(look_up(host(server, timeout_s=60)))
    async with asyncio.timeout(5):
        while not server.asked:
            await asyncio.sleep(0.001)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
