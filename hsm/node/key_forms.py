"""What the management API is told of keys and what it tells of them: its JSON as values. Decides nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from hsm.backends.attributes import KeyAttributes, KeyState, Purpose, Usage, in_utc
from hsm.backends.base import KeyRecord
from hsm.backends.lifecycle import DEFAULT_GRACE, MAX_GRACE, MIN_QUIET_S
from hsm.backends.rotation import Names
from hsm.backends.x509_forms import MAX_DAYS
from hsm.wire.schemes import KeyType

Label = Annotated[str, Meta(min_length=1, max_length=128)]
NameList = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=253)], ...], Meta(max_length=100)]
Time = Annotated[datetime, Meta(tz=True)]
Rate = Annotated[float, Meta(gt=0)]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of request bodies."""


class NewKeyBody(_Body, frozen=True, kw_only=True):
    """What is said of a key that is to be: where, how it is called and what it may do."""

    label: Label
    token: str = ""
    """May be left out where the node has one token."""
    purpose: Purpose = Purpose.TLS_SERVER
    active: bool = True
    schemes: Annotated[tuple[str, ...], Meta(max_length=32)] = ()
    not_before: Time | None = None
    not_after: Time | None = None
    max_rate: Rate | None = None

    def attributes(self) -> KeyAttributes:
        """What is to be kept with the key."""
        return KeyAttributes(
            purpose=self.purpose,
            state=KeyState.ACTIVE if self.active else KeyState.INACTIVE,
            schemes=self.schemes,
            not_before=in_utc(self.not_before),
            not_after=in_utc(self.not_after),
            max_rate=self.max_rate,
        )


class GenerateBody(NewKeyBody, frozen=True, kw_only=True):
    """POST /keys."""

    type: KeyType


class ImportBody(NewKeyBody, frozen=True, kw_only=True):
    """POST /keys/import. Its repr must never be logged."""

    pem: Annotated[str, Meta(min_length=1)]
    password: str | None = None

    def __repr__(self) -> str:
        return "ImportBody([secret])"


class CsrBody(_Body, frozen=True, kw_only=True):
    """POST /keys/{key}/csr."""

    names: NameList = ()
    subject: Annotated[str, Meta(max_length=1024)] = ""

    def wanted(self) -> Names:
        """What the certificate is to be made out to."""
        return Names(self.names, self.subject)


class SelfSignBody(CsrBody, frozen=True, kw_only=True):
    """POST /keys/{key}/self-sign."""

    days: Annotated[int, Meta(ge=1, le=max(MAX_DAYS.values()))] = 90


class RotateBody(CsrBody, frozen=True, kw_only=True):
    """POST /keys/{key}/rotate."""

    quiet_s: Annotated[float, Meta(ge=MIN_QUIET_S, le=31_536_000)] | None = None
    """For how long the old key must not have been used before it retires; None chooses by the number of keys."""


class DestroyBody(_Body, frozen=True, kw_only=True):
    """POST /keys/{key}/destroy."""

    grace_s: Annotated[float, Meta(ge=0, le=MAX_GRACE.total_seconds())] = DEFAULT_GRACE.total_seconds()
    """0 destroys at once."""


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key as people and programs see it. Times are UTC."""

    ski: str
    type: str
    label: str
    token: str
    state: KeyState
    purpose: Purpose
    created: datetime | None
    imported: bool
    schemes: tuple[str, ...]
    """Empty: all that its type can."""
    not_before: datetime | None
    not_after: datetime | None
    max_rate: float | None
    signatures: int
    """By all nodes together, as of some seconds ago."""
    last_used: datetime | None
    destroy_at: datetime | None
    successor: str | None
    """SKI of the key that takes its place."""
    quiet_s: float | None
    """While it is being rotated: it retires when it was not used for so long."""
    public_key: str

    @classmethod
    def of(cls, token: str, record: KeyRecord, usage: Usage) -> KeyView:
        """The JSON form of a record."""
        attributes = record.attributes
        return cls(
            ski=record.ski.hex(),
            type=record.type.value,
            label=record.label,
            token=token,
            state=attributes.state,
            purpose=attributes.purpose,
            created=record.created,
            imported=record.imported,
            schemes=attributes.schemes,
            not_before=attributes.not_before,
            not_after=attributes.not_after,
            max_rate=attributes.max_rate,
            signatures=usage.signatures,
            last_used=usage.last_used,
            destroy_at=attributes.destroy_at,
            successor=attributes.successor.hex() if attributes.successor is not None else None,
            quiet_s=attributes.retire_quiet_s,
            public_key=record.public_key,
        )


class Unavailable(msgspec.Struct, frozen=True, kw_only=True):
    """A token whose keys can't be listed now."""

    token: str
    error: str
