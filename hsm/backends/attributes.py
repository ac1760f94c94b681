"""What an owner says of a key besides its name: what it is for, whether it may sign now, how much, until when.

Pure values. A backend keeps them with its keys; the node asks them before each signature; `hsm.backends.lifecycle` says
which changes are allowed. Times are UTC.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from hsm.wire.schemes import SCHEME_BY_NAME, KeyType, Scheme


class Purpose(StrEnum):
    """What a key is for. It decides what a client may have signed with it."""

    TLS_SERVER = "tls-server"
    """Signs what a TLS server signs in a handshake, and nothing else: the node looks at the whole message."""
    CA = "ca"
    """Signs certificates."""
    CODE_SIGNING = "code-signing"
    """Signs programs."""
    GENERAL = "general"
    """Signs anything."""


class KeyState(StrEnum):
    """Where a key is in its life. Only an active key signs for clients."""

    INACTIVE = "inactive"
    """Made, and not in use yet."""
    ACTIVE = "active"
    RETIRED = "retired"
    """Not in use any more; it can be activated again."""
    DESTROYING = "destroying"
    """Waits for `destroy_at`; until then it can be activated again."""


class KeyAttributes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is kept with a key. The defaults are those of a key about which nobody said anything."""

    purpose: Purpose = Purpose.TLS_SERVER
    state: KeyState = KeyState.ACTIVE
    schemes: tuple[str, ...] = ()
    """Names of the signature schemes it may sign with; empty: all that its type can."""
    not_before: datetime | None = None
    not_after: datetime | None = None
    """It signs for clients from `not_before` to `not_after`; None is no limit."""
    max_rate: Annotated[float, Meta(gt=0)] | None = None
    """Signatures per second that one node makes with it, at most; None is no limit."""
    destroy_at: datetime | None = None
    """Set while it is `destroying`: from then on any node of the token destroys it."""
    successor: bytes | None = None
    """SKI of the key that rotation made in its place: once that one is in use and this one is not, this one retires."""
    retire_quiet_s: Annotated[float, Meta(gt=0, le=315_360_000)] | None = None
    """How long it must not have been used before rotation retires it."""

    def allows(self, scheme: Scheme) -> bool:
        """Whether its owner lets it sign with this scheme (its type may still be unable to)."""
        return not self.schemes or scheme.value in self.schemes


def usable_schemes(type_: KeyType, attributes: KeyAttributes) -> tuple[Scheme, ...]:
    """The schemes that a key of this type signs with under these attributes."""
    return tuple(scheme for scheme in Scheme if scheme.family is type_.family and attributes.allows(scheme))


def scheme_problem(names: tuple[str, ...], type_: KeyType) -> str | None:
    """What is wrong with the schemes of a key of this type, as a sentence; None where nothing is."""
    for name in names:
        scheme = SCHEME_BY_NAME.get(name)
        if scheme is None:
            return f"{name!r} is no scheme; choose from {', '.join(SCHEME_BY_NAME)}"
        if scheme.family is not type_.family:
            return f"a {type_.value} key can't sign {name}; leave it out"
    return None


def in_utc(when: datetime | None) -> datetime | None:
    """The same time as it is kept; what can't be kept is left for `attributes_problem` to refuse."""
    return when if when is None or _time_problem(when) else when.astimezone(UTC)


def _time_problem(when: datetime) -> str | None:
    """Why a time can't be kept; None where it can."""
    if when.utcoffset() is None:
        return "has no time zone; write, for example, 2030-01-31T00:00:00Z"
    try:
        when.astimezone(UTC)
    except OverflowError:
        return "is before the year 1 or after the year 9999 in UTC; choose another time"
    return None


def time_problem(attributes: KeyAttributes) -> str | None:
    """Which of the times can't be kept, and why, as a sentence; None where all can."""
    for name in ("not_before", "not_after", "destroy_at"):
        when = getattr(attributes, name)
        if when is not None and (problem := _time_problem(when)):
            return f"{name} {problem}"
    return None


def attributes_problem(attributes: KeyAttributes, type_: KeyType) -> str | None:
    """What is wrong with the attributes of a key of this type, as a sentence; None where nothing is."""
    if problem := time_problem(attributes):
        return problem
    begin, end = attributes.not_before, attributes.not_after
    if begin is not None and end is not None and begin >= end:
        return f"not_after ({end.isoformat()}) must come after not_before ({begin.isoformat()})"
    if attributes.max_rate is not None and not 0 < attributes.max_rate < math.inf:
        return f"max_rate must be a number of signatures per second above 0, not {attributes.max_rate}"
    if (attributes.destroy_at is not None) is not (attributes.state is KeyState.DESTROYING):
        return "destroy_at belongs to keys that are being destroyed, and to no others"
    return scheme_problem(attributes.schemes, type_)


class Usage(msgspec.Struct, frozen=True):
    """How much a key was used, by all nodes together."""

    signatures: int = 0
    last_used: Annotated[datetime, Meta(tz=True)] | None = None

    def plus(self, other: Usage) -> Usage:
        """Both together."""
        times = [when for when in (self.last_used, other.last_used) if when is not None]
        return Usage(self.signatures + other.signatures, max(times, default=None))
