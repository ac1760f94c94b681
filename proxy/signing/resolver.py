"""Looks a discovery source up in the DNS. One question is one `look_up`; nothing is remembered between two.

Asks name servers only: names that stand in /etc/hosts alone do not exist here. UDP first, then TCP where an answer is
too long for it. It has no idea what a node is (`discovery.py`), nor when to ask again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV
import dns.resolver

from hsm.shared.addresses import parse_address
from proxy.base.observe import LookupOutcome
from proxy.base.policy import DiscoverySource
from proxy.signing.discovery import Answer, Record

UDP_PAYLOAD = 1232
"""Longest answer that is asked for over UDP: none is fragmented (RFC 9715)."""
MAX_TARGETS = 256
"""Hosts of one SRV answer that are looked up."""
MAX_QUESTIONS = 8
"""Questions of one source under way at once."""
SHARE_FOR_ANSWERS = 0.9
"""Of the time for a look-up: what is left lets a part that was answered count where another was not."""
SHARE_FOR_SERVICE = 0.5
"""Of that: the most the SRV records themselves may take, so that time is left for their targets."""

_FAILURES = (dns.exception.DNSException, OSError, ValueError)
_UNTOLD = frozenset({LookupOutcome.SERVER_FAILED, LookupOutcome.TIMEOUT, LookupOutcome.NO_SERVER})
"""Outcomes after which it is unknown what the records are."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """What one question got."""

    outcome: LookupOutcome
    addresses: tuple[str, ...] = ()
    services: tuple[tuple[int, int, int, str], ...] = ()
    """Priority, weight, port and target of SRV records."""
    ttl_s: float = 0.0
    detail: str = ""


async def look_up(source: DiscoverySource) -> Answer:
    """Ask for a source's records, for `timeout_s` at most. Failures are answers too."""
    try:
        async with asyncio.timeout(source.timeout_s):
            asker = _Asker(source)
            return await (_hosts(asker, source) if source.kind == "host" else _services(asker, source))
    except TimeoutError:
        return Answer(LookupOutcome.TIMEOUT, detail=f"no answer for {source.record} within {source.timeout_s:g} s")
    except dns.resolver.NoResolverConfiguration:
        detail = "no name servers are configured; set nameservers, or mend /etc/resolv.conf"
        return Answer(LookupOutcome.NO_SERVER, detail=detail)


class _Asker:
    """Asks the servers of one source, each question with a deadline. Reads /etc/resolv.conf anew: it may change."""

    def __init__(self, source: DiscoverySource) -> None:
        self._resolver = dns.asyncresolver.Resolver(configure=not source.nameservers)
        if source.nameservers:
            servers = [parse_address(address) for address in source.nameservers]
            self._resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in servers]
        self._resolver.use_edns(0, 0, UDP_PAYLOAD)
        self._slots = asyncio.Semaphore(MAX_QUESTIONS)
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + source.timeout_s * SHARE_FOR_ANSWERS

    async def ask(self, name: str, kind: dns.rdatatype.RdataType, share: float = 1.0) -> _Reply:
        """One question. A server that is silent leaves time to ask the next."""
        begun = self._loop.time()
        lifetime_s = max(0.0, (self._deadline - begun) * share)
        self._resolver.timeout = lifetime_s / (len(self._resolver.nameservers) + 1)
        try:
            async with asyncio.timeout_at(begun + lifetime_s), self._slots:
                answer = await self._resolver.resolve(
                    dns.name.from_text(name, origin=dns.name.root),
                    kind,
                    search=False,
                    raise_on_no_answer=False,
                    lifetime=lifetime_s,
                )
        except _FAILURES as error:
            return _reply_of(error, name, kind)
        return _reply_with(answer, name, kind)


async def _hosts(asker: _Asker, source: DiscoverySource) -> Answer:
    kinds = (dns.rdatatype.A, dns.rdatatype.AAAA)
    replies = await asyncio.gather(*(asker.ask(source.record, kind) for kind in kinds))
    by_question = list(zip((kind.name for kind in kinds), replies, strict=True))
    records = [Record(address, source.port, question) for question, reply in by_question for address in reply.addresses]
    unanswered = frozenset(question for question, reply in by_question if reply.outcome in _UNTOLD)
    return _answer(records, replies, unanswered)


async def _services(asker: _Asker, source: DiscoverySource) -> Answer:
    reply = await asker.ask(source.record, dns.rdatatype.SRV, SHARE_FOR_SERVICE)
    if reply.outcome is not LookupOutcome.OK:
        return Answer(reply.outcome, detail=reply.detail)
    targets = list(dict.fromkeys(target for _priority, _weight, _port, target in sorted(reply.services)))
    asked = targets[:MAX_TARGETS]
    found = dict(zip(asked, await asyncio.gather(*(_addresses(asker, target) for target in asked)), strict=True))
    records = [
        Record(address, port, target, target, priority, weight)
        for priority, weight, port, target in reply.services
        if target in found
        for address in found[target].addresses
    ]
    unanswered = frozenset(target for target, each in found.items() if each.outcome in _UNTOLD)
    return _answer(records, found.values(), unanswered, reply.ttl_s, len(targets) - len(asked))


async def _addresses(asker: _Asker, target: str) -> _Reply:
    """A target's addresses: IPv6 only where it has no IPv4, because a host with both is one node and not two."""
    reply = await asker.ask(target, dns.rdatatype.A)
    return await asker.ask(target, dns.rdatatype.AAAA) if reply.outcome is LookupOutcome.NO_RECORDS else reply


def _answer(
    records: list[Record],
    replies: Iterable[_Reply],
    unanswered: frozenset[str],
    longest_ttl_s: float = float("inf"),
    left_out: int = 0,
) -> Answer:
    """One answer of several replies; where there is no record at all, the worst reply tells why."""
    bad = [reply for reply in replies if reply.outcome is not LookupOutcome.OK]
    untold = [reply for reply in bad if reply.outcome in _UNTOLD]
    if not records:
        why = (untold or bad)[0] if bad else _Reply(LookupOutcome.NO_RECORDS)
        return Answer(why.outcome, detail=why.detail)
    ttl_s = min([longest_ttl_s, *(reply.ttl_s for reply in replies if reply.outcome is LookupOutcome.OK)])
    if unanswered:
        return Answer(LookupOutcome.PARTIAL, tuple(records), ttl_s, unanswered, left_out, untold[0].detail)
    return Answer(LookupOutcome.OK, tuple(records), ttl_s, left_out=left_out)


def _reply_with(answer: dns.resolver.Answer, name: str, kind: dns.rdatatype.RdataType) -> _Reply:
    addresses = tuple(_addresses_in(answer))
    services = tuple(_services_in(answer))
    if not addresses and not services:
        return _Reply(LookupOutcome.NO_RECORDS, detail=f"{name} has no {kind.name} records")
    return _Reply(LookupOutcome.OK, addresses, services, float(answer.chaining_result.minimum_ttl))


def _addresses_in(answer: dns.resolver.Answer) -> Iterator[str]:
    for record in answer.rrset or ():
        if isinstance(record, dns.rdtypes.IN.A.A | dns.rdtypes.IN.AAAA.AAAA):
            yield record.address


def _services_in(answer: dns.resolver.Answer) -> Iterator[tuple[int, int, int, str]]:
    """A target of "." says that the service is not there (RFC 2782)."""
    for record in answer.rrset or ():
        if isinstance(record, dns.rdtypes.IN.SRV.SRV) and record.target != dns.name.root:
            target = record.target.to_text(omit_final_dot=True).lower()
            yield record.priority, record.weight, record.port, target


def _reply_of(error: Exception, name: str, kind: dns.rdatatype.RdataType) -> _Reply:
    if isinstance(error, dns.resolver.NXDOMAIN):
        return _Reply(LookupOutcome.NO_NAME, detail=f"{name} does not exist in the DNS (/etc/hosts is not read)")
    if isinstance(error, dns.exception.Timeout | TimeoutError):
        return _Reply(LookupOutcome.TIMEOUT, detail=f"no answer for {kind.name} of {name} in time")
    return _Reply(LookupOutcome.SERVER_FAILED, detail=f"{kind.name} of {name}: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
