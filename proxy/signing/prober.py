"""Health checks by a real signature: one node is asked every `probe_interval_s` to sign something worthless.

The key is one of the sites' keys that the node holds, in turn; without one, a key of the node that is labelled as a
probe key; without that, an echo. The message begins with words no TLS handshake begins with, and is random, so a
probe's signature is of no use to anyone and can't be answered from a cache. Where the public key is known the
signature is verified, else its form is checked.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from hsm.wire.errors import LinkClosed, LinkFull
from hsm.wire.messages import Expired, Failed, Lost, Ponged, Signed
from hsm.wire.schemes import KeyFamily, KeyType, Scheme
from proxy.base.errors import SigningReason
from proxy.base.policy import SigningPolicy
from proxy.signing.answers import check_signature, is_plausible, reason_of
from proxy.signing.connection import Answer, OnAnswer

MESSAGE_PREFIX = b"sealgate health probe\0"
PROBE_LABEL = "probe"
"""A key whose label begins so is there to be probed with."""
_SCHEMES = {
    KeyFamily.RSA: Scheme.RSA_PSS_SHA256,
    KeyFamily.EC: Scheme.ECDSA_SHA256,
    KeyFamily.ED25519: Scheme.ED25519,
}


@dataclass(frozen=True, slots=True)
class ProbeKey:
    """A key to probe with."""

    ski: bytes
    scheme: Scheme
    public_key_pem: bytes | None = None

    @classmethod
    def of(cls, ski: bytes, kind: KeyType | KeyFamily, public_key_pem: bytes | None = None) -> ProbeKey:
        """A probe key with the scheme its kind of key always has."""
        family = kind.family if isinstance(kind, KeyType) else kind
        return cls(ski, _SCHEMES[family], public_key_pem)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How one probe ended; `reason` is None for a good one, `ski` is b"" for an echo."""

    ski: bytes
    reason: SigningReason | None
    detail: str
    duration_s: float


class ProbeLink(Protocol):
    """What a probe needs of a link."""

    def sign(
        self, ski: bytes, scheme: Scheme, payload: bytes, deadline: float, on_answer: OnAnswer, tag: object
    ) -> int:
        """Ask for a signature."""

    def ping(self, deadline: float, on_answer: OnAnswer, tag: object) -> int:
        """Ask for an echo."""


@dataclass(frozen=True, slots=True)
class _Probe:
    key: ProbeKey | None
    message: bytes
    started: float


class Prober:
    """Probes one node between `start` and `stop`, one probe at a time; `report` hears each result.

    `choose_keys` returns the keys to choose from now, `choose_link` a usable link or None.
    """

    def __init__(
        self,
        policy: SigningPolicy,
        *,
        choose_keys: Callable[[], Sequence[ProbeKey]],
        choose_link: Callable[[], ProbeLink | None],
        report: Callable[[ProbeResult], None],
        rng: Random,
    ) -> None:
        self._policy, self._rng = policy, rng
        self._choose_keys, self._choose_link, self._report = choose_keys, choose_link, report
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._under_way: _Probe | None = None
        self._missed: set[bytes] = set()
        self._turn = rng.randrange(1 << 16)

    def start(self) -> None:
        """Probe now, and then at the interval."""
        self.stop()
        self._timer = self._loop.call_soon(self._probe)

    def stop(self) -> None:
        """Probe no more; an answer that comes later is ignored."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._under_way = None

    def _probe(self) -> None:
        self._timer = None
        now = time.monotonic()
        keys = self._choose_keys()
        self._turn += 1
        key = keys[self._turn % len(keys)] if keys else None
        self._under_way = probe = _Probe(key, MESSAGE_PREFIX + secrets.token_bytes(32), now)
        link = self._choose_link()
        try:
            if link is None:
                raise LinkClosed("no link to the node")
            self._ask(link, probe, now + self._policy.probe_timeout_s)
        except (LinkClosed, LinkFull) as error:
            self._end(probe, SigningReason.TIMEOUT, str(error))

    def _ask(self, link: ProbeLink, probe: _Probe, deadline: float) -> None:
        if probe.key is None:
            link.ping(deadline, self._on_answer, probe)
        else:
            scheme = probe.key.scheme
            link.sign(probe.key.ski, scheme, scheme.payload_of(probe.message), deadline, self._on_answer, probe)

    def _on_answer(self, probe: _Probe, answer: Answer) -> None:
        if probe is self._under_way:
            self._end(probe, *_judge(probe, answer))

    def _end(self, probe: _Probe, reason: SigningReason | None, detail: str) -> None:
        self._under_way = None
        now = time.monotonic()
        interval_s = self._policy.probe_interval_s * self._rng.uniform(0.9, 1.1)
        delay_s = max(0.0, probe.started + interval_s - now)
        if reason is not SigningReason.KEY_NOT_FOUND or probe.key is None:
            self._missed.clear()
        elif probe.key.ski not in self._missed:
            # A missing key says nothing about health: go on with another at once, but with each only once.
            self._missed.add(probe.key.ski)
            delay_s = 0.0
        self._timer = self._loop.call_later(delay_s, self._probe)
        self._report(ProbeResult(probe.key.ski if probe.key else b"", reason, detail, now - probe.started))


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
        return SigningReason.WRONG_SIGNATURE, f"{len(answer.signature)} bytes that are no such signature"
    if key.public_key_pem is not None:
        try:
            check_signature(key.public_key_pem, key.scheme, probe.message, answer.signature)
        except ValueError as error:
            return SigningReason.WRONG_SIGNATURE, str(error)
    return None, ""
