"""What a request must pass before it is queued: the access list, the key's attributes, its own message, and rates.

It decides and gives reasons; it answers nobody, counts no denials and writes no log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from hsm.node.access import AccessRule, Decision, Denial
from hsm.node.observe import DenialReason
from hsm.node.rates import Bucket, Rates
from hsm.node.served import ServedKey
from hsm.node.tls_messages import Refusal, check
from hsm.wire.messages import KeyEntry
from hsm.wire.session import SignRequested


@dataclass(frozen=True, slots=True)
class Denied:
    """The request is denied."""

    reason: DenialReason
    key: KeyEntry | None
    """None where the node has no such key, or does not say."""


@dataclass(frozen=True, slots=True)
class Limited:
    """There were too many in this second."""

    sentence: str
    retry_after_s: float


class Gate:
    """Stands before the queues. `wall` gives the time in UTC; other times are on the service's clock."""

    def __init__(self, wall: Callable[[], datetime]) -> None:
        self._wall = wall
        self._rates = Rates()

    def payload(self, decision: Decision, served: ServedKey | None, request: SignRequested) -> bytes | Denied:
        """What is to be signed for the request, or why nothing is."""
        if decision.denial is not None or decision.limits is not None:
            denial = decision.denial_at(self._wall())
            if denial is not None:
                return Denied(denial, decision.key)
        if served is None:
            return Denied(Denial.UNKNOWN_KEY, None)
        if not served.is_tls_only:
            return request.payload
        return _tls_payload(decision, served.entry, request)

    def limit(
        self, decision: Decision, served: ServedKey, request: SignRequested, identity: str, now: float
    ) -> Limited | None:
        """Whether the key or the client has signed too much lately; else the request counts."""
        key_rate = served.attributes.max_rate
        if key_rate is None and not decision.meters and not decision.digest_meters:
            return None
        is_digest = served.is_tls_only and _message_of(request) is None
        meters = decision.digest_meters or () if is_digest else decision.meters
        room = self._room(meters, identity, now) if meters else None
        if isinstance(room, Limited):
            return room
        if key_rate is not None:
            wait_s = self._rates.bucket((served.token.name, served.entry.ski), key_rate, now).take(now)
            if wait_s:
                if room is not None:
                    room.give_back()
                return Limited(f"this key may make {key_rate:g} signatures a second at this node", wait_s)
        return None

    def _room(self, meters: tuple[AccessRule, ...], identity: str, now: float) -> Bucket | Limited:
        """One of the rules has room; if none has, the one that will have it soonest."""
        waits: list[tuple[float, float]] = []
        for rule in meters:
            assert rule.max_rate is not None
            bucket = self._rates.bucket((rule, identity), rule.max_rate, now)
            wait_s = bucket.take(now)
            if not wait_s:
                return bucket
            waits.append((wait_s, rule.max_rate))
        wait_s, rate = min(waits)
        return Limited(f"this client may have {rate:g} signatures a second from this node", wait_s)


def _message_of(request: SignRequested) -> bytes | None:
    """What the client showed; for Ed25519 the payload is the message."""
    return request.payload if request.scheme.digest is None else request.message


def _tls_payload(decision: Decision, key: KeyEntry, request: SignRequested) -> bytes | Denied:
    """For a key that only signs TLS: the node looks at the message and hashes it itself."""
    message = _message_of(request)
    if message is None:
        return request.payload if decision.digest_meters is not None else Denied(Denial.DIGEST_ONLY, key)
    verdict = check(message, request.scheme, key.type)
    if isinstance(verdict, Refusal):
        return Denied(verdict, key)
    payload = request.scheme.payload_of(message)
    return payload if payload == request.payload else Denied(Denial.DIGEST_MISMATCH, key)
