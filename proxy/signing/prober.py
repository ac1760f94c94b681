"""Health checks by a real signature: one node is asked every `probe_interval_s` to sign something worthless.

Each family of keys (RSA, curves, Ed25519) is probed by itself, with its own deadline and its own timer, because engines
of an HSM fail one by one: probes that hang in one family hold up no other's. Within a family the sites' keys that the
node holds take turns; without one, keys of the node that are labelled as probe keys; without those, an echo.

What is signed has the form of a TLS 1.3 server CertificateVerify (RFC 8446 4.4.3), because nodes sign nothing else with
a key that is for TLS servers only, and schemes are those TLS 1.3 allows. Its transcript hash is that of words no
handshake begins with and of random bytes: so a probe's signature fits no handshake anyone could make, and can't be
answered from a cache. Where the public key is known the signature is verified, else its form is checked.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from hsm.wire.errors import LinkClosed, LinkFull
from hsm.wire.messages import Expired, Failed, Lost, Ponged, Signed
from hsm.wire.schemes import KeyFamily, KeyType, Scheme
from proxy.base.errors import SigningReason
from proxy.base.policy import SigningPolicy
from proxy.signing.answers import is_plausible, reason_of
from proxy.signing.connection import Answer, OnAnswer
from proxy.signing.verification import KeyVerifier

TRANSCRIPT_PREFIX = b"sealgate health probe\0"
"""A transcript begins with the type of a ClientHello, 1; this one does not."""
IMPLAUSIBLE = "the answer is no signature of this scheme"
DOES_NOT_VERIFY = "the signature does not verify with the key of the certificate"
VERIFY_HEAD = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"
"""What a TLS 1.3 server signs before its transcript hash (RFC 8446 4.4.3)."""
PROBE_LABEL = "probe"
"""A key whose label begins so is there to be probed with."""
BUSY_AGAIN_S = 0.1
"""A busy answer proves nothing; a node that waits for proof is asked again after this long."""
_OF_CURVE = {KeyType.P256: Scheme.ECDSA_SHA256, KeyType.P384: Scheme.ECDSA_SHA384, KeyType.P521: Scheme.ECDSA_SHA512}


def probe_scheme(kind: KeyType) -> Scheme:
    """The scheme to probe such a key with: one that TLS 1.3 has, so each curve with its own digest (RFC 8446 4.2.3)."""
    if kind.family is KeyFamily.RSA:
        return Scheme.RSA_PSS_SHA256
    return _OF_CURVE.get(kind, Scheme.ED25519)


def probe_message() -> bytes:
    """A message like no other, that is signed for nothing."""
    return VERIFY_HEAD + hashlib.sha256(TRANSCRIPT_PREFIX + secrets.token_bytes(32)).digest()


@dataclass(frozen=True, slots=True)
class ProbeKey:
    """A key to probe with."""

    ski: bytes
    scheme: Scheme
    verifier: KeyVerifier | None = None

    @classmethod
    def of(cls, ski: bytes, kind: KeyType, verifier: KeyVerifier | None = None) -> ProbeKey:
        """A probe key with the scheme of its kind."""
        return cls(ski, probe_scheme(kind), verifier)


def by_family(keys: Iterable[ProbeKey], first: Container[bytes]) -> dict[KeyFamily, tuple[ProbeKey, ...]]:
    """Keys to probe with, family by family; where some of a family are in `first` (SKIs), only those."""
    found: dict[KeyFamily, list[ProbeKey]] = {}
    for key in keys:
        found.setdefault(key.scheme.family, []).append(key)
    return {family: tuple([key for key in each if key.ski in first] or each) for family, each in found.items()}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How one probe ended; `reason` is None for a good one, `family` is None and `ski` b"" for an echo."""

    family: KeyFamily | None
    ski: bytes
    reason: SigningReason | None
    detail: str
    duration_s: float


class ProbeLink(Protocol):
    """What a probe needs of a link."""

    def sign(
        self,
        ski: bytes,
        scheme: Scheme,
        payload: bytes,
        deadline: float,
        on_answer: OnAnswer,
        tag: object,
        *,
        message: bytes,
    ) -> int:
        """Ask for a signature over `payload`, the digest of `message`; return the request's id."""

    def ping(self, deadline: float, on_answer: OnAnswer, tag: object) -> int:
        """Ask for an echo; return the request's id."""

    def cancel(self, request_id: int) -> None:
        """Nobody waits for the answer any more."""

    def probe_unanswered(self, family: KeyFamily | None, asked_at: float) -> None:
        """A probe that was sent at `asked_at` got no answer in time; the link judges whether it is dead."""


@dataclass(slots=True)
class _Probe:
    family: KeyFamily | None
    key: ProbeKey | None
    message: bytes
    started: float
    link: ProbeLink | None
    request_id: int = 0


@dataclass(slots=True)
class _Series:
    """The probes of one family, one after another: either one is under way or the timer runs."""

    turn: int
    timer: asyncio.Handle | None = None
    under_way: _Probe | None = None
    missed: set[bytes] = field(default_factory=set)

    def end(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        probe, self.timer, self.under_way = self.under_way, None, None
        if probe is not None and probe.link is not None:
            probe.link.cancel(probe.request_id)


class Prober:
    """Probes one node between `start` and `stop`, one probe of each family at a time; `report` hears each result.

    `choose_keys` returns the keys to choose from now, family by family (none: an echo); `choose_link` a usable link or
    None; `is_urgent` whether the node waits for a good probe to be used.
    """

    def __init__(
        self,
        policy: SigningPolicy,
        *,
        choose_keys: Callable[[], Mapping[KeyFamily, Sequence[ProbeKey]]],
        choose_link: Callable[[], ProbeLink | None],
        is_urgent: Callable[[], bool],
        report: Callable[[ProbeResult], None],
        rng: Random,
    ) -> None:
        self._policy, self._rng = policy, rng
        self._choose_keys, self._choose_link, self._is_urgent, self._report = (
            choose_keys,
            choose_link,
            is_urgent,
            report,
        )
        self._loop = asyncio.get_running_loop()
        self._first: asyncio.Handle | None = None
        self._series: dict[KeyFamily | None, _Series] = {}
        self._is_running = False

    def start(self) -> None:
        """Probe every family now, and then at the interval; what is under way counts no more."""
        self.stop()
        self._is_running = True
        self._first = self._loop.call_soon(self._plan)

    def stop(self) -> None:
        """Probe no more; what is under way is cancelled."""
        self._is_running = False
        if self._first is not None:
            self._first.cancel()
        self._first = None
        for series in self._take_all():
            series.end()

    def _take_all(self) -> list[_Series]:
        taken, self._series = list(self._series.values()), {}
        return taken

    def _plan(self) -> Mapping[KeyFamily, Sequence[ProbeKey]]:
        """Leave families that have no keys any more, begin with those that are new."""
        keys = self._choose_keys()
        wanted: set[KeyFamily | None] = set(keys) or {None}
        for family in [each for each in self._series if each not in wanted]:
            self._series.pop(family).end()
        for family in wanted if self._is_running else ():
            if family not in self._series:
                handle = self._loop.call_soon(self._due, family)
                self._series[family] = _Series(self._rng.randrange(1 << 16), handle)
        return keys

    def _due(self, family: KeyFamily | None) -> None:
        self._series[family].timer = None
        keys = self._plan()
        if family in self._series and self._series[family].timer is None:
            self._probe(self._series[family], family, keys.get(family, ()) if family else ())

    def _probe(self, series: _Series, family: KeyFamily | None, keys: Sequence[ProbeKey]) -> None:
        now = time.monotonic()
        series.turn += 1
        key = keys[series.turn % len(keys)] if keys else None
        series.under_way = probe = _Probe(family, key, probe_message(), now, self._choose_link())
        try:
            self._ask(probe, now + self._policy.probe_timeout_s)
        except (LinkClosed, LinkFull) as error:
            self._end(series, probe, SigningReason.TIMEOUT, str(error))

    def _ask(self, probe: _Probe, deadline: float) -> None:
        link, key, message = probe.link, probe.key, probe.message
        if link is None:
            raise LinkClosed("no link to the node")
        if key is None:
            probe.request_id = link.ping(deadline, self._on_answer, probe)
        else:
            payload = key.scheme.payload_of(message)
            probe.request_id = link.sign(
                key.ski, key.scheme, payload, deadline, self._on_answer, probe, message=message
            )

    def _on_answer(self, probe: _Probe, answer: Answer) -> None:
        series = self._series.get(probe.family)
        if series is None or series.under_way is not probe:
            return
        self._end(series, probe, *_judge(probe, answer))
        if isinstance(answer, Expired) and probe.link is not None:
            probe.link.probe_unanswered(probe.family, probe.started)

    def _end(self, series: _Series, probe: _Probe, reason: SigningReason | None, detail: str) -> None:
        series.under_way = None
        now = time.monotonic()
        series.timer = self._loop.call_later(self._delay_s(series, probe, reason, now), self._due, probe.family)
        ski = probe.key.ski if probe.key else b""
        self._report(ProbeResult(probe.family, ski, reason, detail, now - probe.started))

    def _delay_s(self, series: _Series, probe: _Probe, reason: SigningReason | None, now: float) -> float:
        if reason is not SigningReason.KEY_NOT_FOUND or probe.key is None:
            series.missed.clear()
        elif probe.key.ski not in series.missed:
            # A missing key says nothing about health: go on with another at once, but with each only once.
            series.missed.add(probe.key.ski)
            return 0.0
        jitter = self._rng.uniform(0.9, 1.1)
        delay_s = max(0.0, probe.started + self._policy.probe_interval_s * jitter - now)
        return min(delay_s, BUSY_AGAIN_S * jitter) if reason is SigningReason.BUSY and self._is_urgent() else delay_s


def _judge(probe: _Probe, answer: Answer) -> tuple[SigningReason | None, str]:
    if isinstance(answer, Ponged):
        return None, ""
    if isinstance(answer, Failed):
        return reason_of(answer.code), answer.detail
    if isinstance(answer, Expired):
        return SigningReason.TIMEOUT, "no answer to a probe in time"
    if isinstance(answer, Lost):
        return SigningReason.LINK_LOST, "the link was lost"
    return _judge_signature(probe, answer)


def _judge_signature(probe: _Probe, answer: Signed) -> tuple[SigningReason | None, str]:
    key = probe.key
    if key is None or not is_plausible(key.scheme, answer.signature):
        return SigningReason.WRONG_SIGNATURE, IMPLAUSIBLE
    if key.verifier is not None and not key.verifier.is_good(key.scheme, probe.message, answer.signature):
        return SigningReason.WRONG_SIGNATURE, DOES_NOT_VERIFY
    return None, ""
