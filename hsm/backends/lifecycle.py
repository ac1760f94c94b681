"""The life of a key: what may be done with it in which state, what follows, and what is due by itself.

Pure, except for `run_due`, which carries out what is due. A state and an operation give new attributes or a
`LifecycleProblem`; `REFUSED` is the whole table of what is not allowed. Times are UTC and given by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from hsm.backends.attributes import KeyAttributes, KeyState, Purpose, Usage, attributes_problem, in_utc
from hsm.backends.base import KeyAdmin, KeyHolder, KeyRecord

DEFAULT_GRACE = timedelta(days=7)
MAX_GRACE = timedelta(days=3650)
MIN_QUIET_S = 15.0
"""Nodes tell every 10 s what they signed: what was used a moment ago may look older by so much."""
LEAST_QUIET_S, QUIET_PER_KEY_S = 600.0, 4.0
MAX_LABEL = 64
_NUMBERED = re.compile(r"^(?P<base>.+)-(?P<number>[2-9]|[1-9][0-9]{1,2})\Z", re.DOTALL)


class Operation(StrEnum):
    """What an owner may do with a key besides looking at it."""

    ACTIVATE = "activate"
    RETIRE = "retire"
    SCHEDULE = "schedule destruction"
    DESTROY = "destroy"
    SET = "set"
    ROTATE = "rotate"
    CERTIFY = "certify"


class LifecycleReason(StrEnum):
    """What kind of refusal it is."""

    STATE = "state"
    """The key's state does not allow it; another one would."""
    INVALID = "invalid"
    """The values make no sense for the key."""


class LifecycleProblem(Exception):
    """It is not allowed; nothing was changed. `str()` is a sentence for the user."""

    def __init__(self, reason: LifecycleReason, sentence: str) -> None:
        super().__init__(reason, sentence)
        self.reason = reason
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


REFUSED: Mapping[tuple[Operation, KeyState], str] = {
    (Operation.SET, KeyState.DESTROYING): "waits to be destroyed; activate or retire it first, to keep it",
    (Operation.ROTATE, KeyState.INACTIVE): "was never in use; activate it instead",
    (Operation.ROTATE, KeyState.RETIRED): "is retired, so nothing is to be taken over from it; activate it first",
    (Operation.ROTATE, KeyState.DESTROYING): "waits to be destroyed; activate it first, to keep it",
    (Operation.CERTIFY, KeyState.RETIRED): "is retired; activate it before it is certified again",
    (Operation.CERTIFY, KeyState.DESTROYING): "waits to be destroyed; activate it before it is certified",
}
"""Why an operation is refused in a state; what is not here is allowed."""


class AttributeChanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be different; what is left out stays. None takes a limit away."""

    purpose: Purpose | UnsetType = UNSET
    schemes: Annotated[tuple[str, ...], Meta(max_length=32)] | UnsetType = UNSET
    not_before: datetime | UnsetType | None = UNSET
    not_after: datetime | UnsetType | None = UNSET
    max_rate: Annotated[float, Meta(gt=0)] | UnsetType | None = UNSET

    def given(self) -> dict[str, object]:
        """The values that are not left out."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        times = {"not_before", "not_after"}
        return {name: in_utc(value) if name in times else value for name, value in values.items() if value is not UNSET}


def check(operation: Operation, record: KeyRecord, now: datetime) -> None:
    """Raise LifecycleProblem unless the operation is allowed for the key as it is."""
    attributes = record.attributes
    refusal = REFUSED.get((operation, attributes.state))
    if refusal is not None:
        raise _state(record, refusal)
    if operation is not Operation.DESTROY and is_due_to_be_destroyed(attributes, now):
        # From here on nothing but its end may happen, or a node could destroy what was just taken back.
        raise _state(record, "is being destroyed now: its grace period is over")


def activated(record: KeyRecord, now: datetime) -> KeyAttributes:
    """In use again, with nothing planned: takes back a retirement, a destruction and a rotation."""
    check(Operation.ACTIVATE, record, now)
    return replace(record.attributes, state=KeyState.ACTIVE, destroy_at=None, successor=None, retire_quiet_s=None)


def retired(record: KeyRecord, now: datetime) -> KeyAttributes:
    """Not in use any more; takes back a destruction."""
    check(Operation.RETIRE, record, now)
    return replace(record.attributes, state=KeyState.RETIRED, destroy_at=None, retire_quiet_s=None)


def scheduled(record: KeyRecord, now: datetime, grace: timedelta) -> KeyAttributes:
    """Not in use any more, and to be destroyed after `grace`; said again, the later word counts."""
    check(Operation.SCHEDULE, record, now)
    if not timedelta(0) < grace <= MAX_GRACE:
        raise LifecycleProblem(LifecycleReason.INVALID, f"the grace period must be at most {MAX_GRACE.days} days")
    state = KeyState.DESTROYING
    return replace(record.attributes, state=state, destroy_at=_seconds(now + grace), retire_quiet_s=None)


def changed(record: KeyRecord, now: datetime, changes: AttributeChanges) -> KeyAttributes:
    """With some attributes replaced."""
    check(Operation.SET, record, now)
    given = changes.given()
    if not given:
        raise LifecycleProblem(LifecycleReason.INVALID, "nothing is to be changed; say what")
    attributes = replace(record.attributes, **given)
    problem = attributes_problem(attributes, record.type)
    if problem is not None:
        raise LifecycleProblem(LifecycleReason.INVALID, problem)
    return attributes


def succeeding(record: KeyRecord, now: datetime) -> KeyAttributes:
    """What the successor of a key is to carry: the same, valid for as long as the key was meant to be, from now."""
    check(Operation.ROTATE, record, now)
    attributes = record.attributes
    if attributes.retire_quiet_s is not None:
        raise _state(record, "is being rotated already; activate it to take that back, or wait")
    begin, end = attributes.not_before, attributes.not_after
    if end is not None:
        since = begin or record.created
        if since is None or since >= end:
            what = "has an end but no beginning, so that a successor's end can't be told; set not_before first"
            raise LifecycleProblem(LifecycleReason.INVALID, f"key {record.label!r} {what}")
        end = _later(now, end - since)
    begin = _seconds(now) if begin is not None else None
    return replace(attributes, not_before=begin, not_after=end, successor=None)


def rotating(record: KeyRecord, now: datetime, successor: bytes, quiet_s: float) -> KeyAttributes:
    """To be retired once `successor` (a SKI) is in use and the key itself was not used for `quiet_s`."""
    succeeding(record, now)
    return replace(record.attributes, successor=successor, retire_quiet_s=quiet_s)


def quiet_for(keys: int) -> float:
    """After how many seconds without use a key of a token with so many `keys` is in no proxy's certificates any more.

    Every worker of a proxy asks every node every second for a signature, with the keys of its certificates in turn.
    So one that has loaded all keys uses each of them once in as many seconds, however few visitors its site has.
    """
    return max(LEAST_QUIET_S, QUIET_PER_KEY_S * keys)


def next_label(label: str, taken: Container[str]) -> str:
    """The label of a successor: "www", "www-2", "www-3" and so on; the first that is free and no longer than 64."""
    match = _NUMBERED.match(label)
    base, number = (match["base"], int(match["number"])) if match else (label, 1)
    while True:
        number += 1
        end = f"-{number}"
        candidate = base[: MAX_LABEL - len(end)] + end
        if candidate not in taken:
            return candidate


def is_due_to_be_destroyed(attributes: KeyAttributes, now: datetime) -> bool:
    """Whether its grace period is over."""
    return (
        attributes.state is KeyState.DESTROYING and attributes.destroy_at is not None and now >= attributes.destroy_at
    )


def is_replaced(
    record: KeyRecord,
    successor: KeyRecord | None,
    usage: Mapping[bytes, Usage],
    now: datetime,
    watched_since: datetime | None = None,
) -> bool:
    """Whether a key that is being rotated may retire: its successor is in use, and it was not used for long enough.

    That nobody used it says nothing of the time before `watched_since`, when nobody could have.
    """
    attributes = record.attributes
    if attributes.state is not KeyState.ACTIVE or attributes.retire_quiet_s is None or successor is None:
        return False
    if successor.attributes.state is not KeyState.ACTIVE:
        return False  # it was tried and taken out of use again: then nothing would sign
    if not usage.get(successor.ski, Usage()).signatures:
        return False
    times = (usage.get(record.ski, Usage()).last_used, successor.created, watched_since)
    known = [when for when in times if when is not None]
    return not known or now - max(known) >= timedelta(seconds=attributes.retire_quiet_s)


def may_be_due(holder: KeyHolder, now: datetime) -> bool:
    """Whether `run_due` may find something to do: asks memory only, so that an idle token is left alone."""
    entries = holder.keys()
    kept = [holder.attributes_of(entry.ski) for entry in entries]
    return any(attributes.retire_quiet_s is not None or is_due_to_be_destroyed(attributes, now) for attributes in kept)


def run_due(admin: KeyAdmin, now: datetime, watched_since: datetime | None = None) -> list[str]:
    """Retire and destroy the keys of a token whose time has come; returns sentences to log. Blocks.

    `watched_since` is since when the token could sign and whoever asks would have seen it: a node that was off knows of
    no use in that time, and must not take it for quiet.

    Any node of the token may do it, also several at once. A key that can't be retired or destroyed keeps none of the
    others from it; a sentence says so, and it is tried again at the next call.
    """
    records = {record.ski: record for record in admin.list()}
    said = [
        _destroy(admin, record, now) for record in records.values() if is_due_to_be_destroyed(record.attributes, now)
    ]
    rotated = [record for record in records.values() if record.attributes.retire_quiet_s is not None]
    usage = admin.usage() if rotated else {}
    for record in rotated:
        successor = records.get(record.attributes.successor or b"")
        if successor is not None and is_replaced(record, successor, usage, now, watched_since):
            said.append(_retire(admin, record, successor, now))
    return [sentence for sentence in said if sentence]


class _Overtaken(Exception):
    """Somebody changed the key meanwhile: it is not due any more."""


def _destroy(admin: KeyAdmin, record: KeyRecord, now: datetime) -> str:
    def still_due(current: KeyRecord) -> KeyAttributes:
        if not is_due_to_be_destroyed(current.attributes, now):
            raise _Overtaken
        return current.attributes

    def destroy() -> None:
        # A change that began before the grace period's end and is slower than this one is made again, and refused.
        admin.change(record.ski.hex(), still_due)
        admin.destroy(record.ski.hex())

    return _done(admin, record, destroy, f"destroyed key {_named(record)}: its grace period is over", "destroyed")


def _retire(admin: KeyAdmin, record: KeyRecord, successor: KeyRecord, now: datetime) -> str:
    wanted = record.attributes

    def replaced(current: KeyRecord) -> KeyAttributes:
        if current.attributes != wanted:
            raise _Overtaken
        return retired(current, now)

    sentence = (
        f"retired key {_named(record)}: its successor {_named(successor)} is in use, and it was not used for"
        f" {wanted.retire_quiet_s:g} s"
    )
    return _done(admin, record, lambda: admin.change(record.ski.hex(), replaced), sentence, "retired")


def _done(admin: KeyAdmin, record: KeyRecord, work: Callable[[], object], sentence: str, what: str) -> str:
    """Does it, and says so; "" where somebody else was faster."""
    try:
        work()
    except _Overtaken:
        return ""
    except Exception as error:  # each kind of token has its own; what is no sentence of ours is not repeated
        if all(left.ski != record.ski for left in admin.list()):
            return ""
        reason = getattr(error, "sentence", type(error).__name__)
        return f"key {_named(record)} is due to be {what}, but can't be: {reason}"
    return sentence


def _named(record: KeyRecord) -> str:
    return f"{record.label!r} ({record.ski.hex()})"


def _state(record: KeyRecord, what: str) -> LifecycleProblem:
    return LifecycleProblem(LifecycleReason.STATE, f"key {record.label!r} {what}")


def _later(now: datetime, span: timedelta) -> datetime:
    """The time after a span; the last that there is for what was meant to last for ever (RFC 5280 4.1.2.5)."""
    try:
        return _seconds(now + span)
    except OverflowError:
        return _seconds(datetime.max.replace(tzinfo=UTC))


def _seconds(when: datetime) -> datetime:
    """Without fractions, as people write times."""
    return when.replace(microsecond=0)
