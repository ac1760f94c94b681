"""Health checks by a real signature: one node is asked every `probe_interval_s` to sign something worthless.

The key is one of the sites' keys that the node holds, in turn; without one, a key of the node that is labelled as a
probe key; without that, an echo. What is signed has the form of a TLS 1.3 server CertificateVerify (RFC 8446 4.4.3),
because nodes sign nothing else with a key that is for TLS servers only, and schemes are those TLS 1.3 allows. Its
transcript hash is that of words no handshake begins with and of random bytes: so a probe's signature fits no handshake
anyone could make, and can't be answered from a cache. Where the public key is known the signature is verified, else
its form is checked.
"""

from __future__ import annotations

import asyncio
import hashlib
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
        """Ask for a signature over `payload`, the digest of `message`."""

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
        self._under_way = probe = _Probe(key, probe_message(), now)
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
            ski, scheme, message = probe.key.ski, probe.key.scheme, probe.message
            payload = scheme.payload_of(message)
            link.sign(ski, scheme, payload, deadline, self._on_answer, probe, message=message)

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
        return SigningReason.WRONG_SIGNATURE, IMPLAUSIBLE
    if key.verifier is not None and not key.verifier.is_good(key.scheme, probe.message, answer.signature):
        return SigningReason.WRONG_SIGNATURE, DOES_NOT_VERIFY
    return None, ""
