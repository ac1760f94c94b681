from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from hsm.backends import lifecycle
from hsm.backends.attributes import KeyAttributes, KeyState, Purpose, Usage, attributes_problem
from hsm.backends.lifecycle import AttributeChanges, LifecycleProblem, LifecycleReason, Operation
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
INACTIVE, ACTIVE, RETIRED, DESTROYING = KeyState
PLAIN = KeyAttributes()


@dataclass(frozen=True)
class Key:
    """A key of no token."""

    label: str = "www"
    attributes: KeyAttributes = PLAIN
    created: datetime | None = NOW - 10 * DAY
    type: KeyType = KeyType.P256
    imported: bool = False
    public_key: str = ""

    @property
    def ski(self) -> bytes:
        return self.label.encode().ljust(20, b".")


class NoSuchKey(Exception):
    sentence = "no such key"


@dataclass
class Token:
    """Keys in memory, with what `run_due` asks of an admin."""

    keys: dict[str, Key] = field(default_factory=dict)
    used: dict[bytes, Usage] = field(default_factory=dict)
    before_change: Callable[[], object] = lambda: None
    broken: Exception | None = None

    def put(self, *keys: Key) -> None:
        self.keys.update({key.ski.hex(): key for key in keys})

    def usage(self) -> Mapping[bytes, Usage]:
        return self.used

    def change(self, reference: str, change: Callable[[Key], KeyAttributes]) -> Key:
        self.before_change()
        if self.broken is not None:
            raise self.broken
        if reference not in self.keys:
            raise NoSuchKey
        self.keys[reference] = with_fields(self.keys[reference], attributes=change(self.keys[reference]))
        return self.keys[reference]

    def destroy(self, reference: str) -> Key:
        return self.keys.pop(reference)

    def run_due(self, now: datetime, watched_since: datetime | None = None) -> list[str]:
        return lifecycle.run_due(self, now, watched_since)  # type: ignore[arg-type]  # it asks for no more than this

    # The last method, because in the class body its name hides the built-in type from annotations below it.
    def list(self) -> Sequence[Key]:
        return list(self.keys.values())


def in_state(state: KeyState, **more: object) -> Key:
    values = {"destroy_at": NOW + DAY, **more} if state is DESTROYING else more
    return Key(attributes=replace(KeyAttributes(state=state), **values))


OPERATIONS: dict[Operation, Callable[[Key], KeyAttributes | None]] = {
    Operation.ACTIVATE: lambda key: lifecycle.activated(key, NOW),
    Operation.RETIRE: lambda key: lifecycle.retired(key, NOW),
    Operation.SCHEDULE: lambda key: lifecycle.scheduled(key, NOW, 2 * DAY),
    Operation.DESTROY: lambda key: lifecycle.check(Operation.DESTROY, key, NOW),
    Operation.SET: lambda key: lifecycle.changed(key, NOW, AttributeChanges(max_rate=5.0)),
    Operation.ROTATE: lambda key: lifecycle.rotating(key, NOW, b"s" * 20, 60.0),
    Operation.CERTIFY: lambda key: lifecycle.check(Operation.CERTIFY, key, NOW),
}
NO = None
TABLE: dict[Operation, tuple[KeyState | None, KeyState | None, KeyState | None, KeyState | None]] = {
    #                    inactive    active      retired     destroying
    Operation.ACTIVATE: (ACTIVE,     ACTIVE,     ACTIVE,     ACTIVE),
    Operation.RETIRE:   (RETIRED,    RETIRED,    RETIRED,    RETIRED),
    Operation.SCHEDULE: (DESTROYING, DESTROYING, DESTROYING, DESTROYING),
    Operation.DESTROY:  (INACTIVE,   ACTIVE,     RETIRED,    DESTROYING),
    Operation.SET:      (INACTIVE,   ACTIVE,     RETIRED,    NO),
    Operation.ROTATE:   (NO,         ACTIVE,     NO,         NO),
    Operation.CERTIFY:  (INACTIVE,   ACTIVE,     NO,         NO),
}  # fmt: skip
CELLS = [
    (operation, state, TABLE[operation][column]) for operation in Operation for column, state in enumerate(KeyState)
]


@pytest.mark.parametrize(("operation", "state", "after"), CELLS)
def test_each_state_allows_what_the_table_says(operation: Operation, state: KeyState, after: KeyState | None) -> None:
    key = in_state(state)
    if after is None:
        with pytest.raises(LifecycleProblem, match="'www'") as caught:
            OPERATIONS[operation](key)
        assert caught.value.reason is LifecycleReason.STATE
        return
    attributes = OPERATIONS[operation](key)
    if attributes is not None:
        assert attributes.state is after
        assert attributes_problem(attributes, key.type) is None
        assert attributes.purpose is key.attributes.purpose


@pytest.mark.parametrize("operation", [operation for operation in Operation if operation is not Operation.DESTROY])
def test_nothing_can_be_done_with_a_key_whose_grace_is_over(operation: Operation) -> None:
    key = in_state(DESTROYING, destroy_at=NOW)
    with pytest.raises(LifecycleProblem):
        OPERATIONS[operation](key)
    OPERATIONS[Operation.DESTROY](key)


def test_activation_takes_back_whatever_was_planned() -> None:
    plain = KeyAttributes(schemes=("ecdsa_sha256",))
    for planned in (
        replace(plain, state=DESTROYING, destroy_at=NOW + DAY),
        replace(plain, successor=b"s" * 20, retire_quiet_s=1.0),
        replace(plain, state=RETIRED, successor=b"s" * 20),
    ):
        assert lifecycle.activated(Key(attributes=planned), NOW) == plain


def test_a_destruction_has_a_time_and_the_later_word_counts() -> None:
    once = lifecycle.scheduled(Key(), NOW + timedelta(microseconds=7), 7 * DAY)
    assert once.destroy_at == NOW + 7 * DAY
    again = lifecycle.scheduled(Key(attributes=once), NOW, 30 * SECOND)
    assert again.destroy_at == NOW + 30 * SECOND
    for grace in (timedelta(0), -DAY, 3651 * DAY):
        with pytest.raises(LifecycleProblem, match="at most 3650 days") as caught:
            lifecycle.scheduled(Key(), NOW, grace)
        assert caught.value.reason is LifecycleReason.INVALID


def test_a_retired_key_still_tells_its_successor() -> None:
    key = Key(attributes=lifecycle.rotating(Key(), NOW, b"s" * 20, 60.0))
    assert key.attributes == KeyAttributes(successor=b"s" * 20, retire_quiet_s=60.0)
    assert lifecycle.retired(key, NOW) == KeyAttributes(state=RETIRED, successor=b"s" * 20)


def test_attributes_are_changed_one_by_one_and_limits_taken_away() -> None:
    key = Key(attributes=KeyAttributes(max_rate=1.0, not_after=NOW + DAY))
    assert lifecycle.changed(key, NOW, AttributeChanges(purpose=Purpose.CA)) == replace(
        key.attributes, purpose=Purpose.CA
    )
    assert lifecycle.changed(key, NOW, AttributeChanges(max_rate=None, not_after=None)) == KeyAttributes()
    assert lifecycle.changed(key, NOW, AttributeChanges(schemes=("ecdsa_sha256",))).schemes == ("ecdsa_sha256",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (AttributeChanges(), "nothing is to be changed"),
        (AttributeChanges(schemes=("dsa",)), "'dsa' is no scheme"),
        (AttributeChanges(schemes=("ed25519",)), "a p256 key can't sign ed25519"),
        (AttributeChanges(not_before=NOW, not_after=NOW), "must come after not_before"),
        (AttributeChanges(not_after=datetime(2031, 1, 1)), "not_after has no time zone"),
        (AttributeChanges(max_rate=float("inf")), "max_rate must be a number"),
    ],
)
def test_attributes_that_make_no_sense_are_refused(changes: AttributeChanges, words: str) -> None:
    with pytest.raises(LifecycleProblem, match=words) as caught:
        lifecycle.changed(Key(), NOW, changes)
    assert caught.value.reason is LifecycleReason.INVALID


def test_a_successor_is_like_the_key_and_valid_for_as_long() -> None:
    attributes = KeyAttributes(purpose=Purpose.CA, schemes=("ecdsa_sha256",), max_rate=3.0)
    assert lifecycle.succeeding(Key(attributes=attributes), NOW) == attributes
    both = replace(attributes, not_before=NOW - 300 * DAY, not_after=NOW + 65 * DAY)
    fresh = lifecycle.succeeding(Key(attributes=both), NOW)
    assert (fresh.not_before, fresh.not_after) == (NOW, NOW + 365 * DAY)
    end_only = replace(attributes, not_after=NOW + 80 * DAY)
    fresh = lifecycle.succeeding(Key(attributes=end_only, created=NOW - 10 * DAY), NOW)
    assert (fresh.not_before, fresh.not_after) == (None, NOW + 90 * DAY)
    begin_only = replace(attributes, not_before=NOW - DAY)
    assert lifecycle.succeeding(Key(attributes=begin_only), NOW).not_before == NOW
    for created in (None, NOW + 81 * DAY):
        with pytest.raises(LifecycleProblem, match="has an end but no beginning"):
            lifecycle.succeeding(Key(attributes=end_only, created=created), NOW)


def test_a_key_is_rotated_once_at_a_time() -> None:
    key = Key(attributes=lifecycle.rotating(Key(), NOW, b"s" * 20, 60.0))
    with pytest.raises(LifecycleProblem, match="is being rotated already"):
        lifecycle.succeeding(key, NOW)
    back = Key(attributes=lifecycle.activated(key, NOW))
    assert lifecycle.succeeding(back, NOW) == KeyAttributes()


@pytest.mark.parametrize(
    ("label", "taken", "wanted"),
    [
        ("www", (), "www-2"),
        ("www-2", (), "www-3"),
        ("www-9", (), "www-10"),
        ("www", ("www-2", "www-3"), "www-4"),
        ("localhost-ecdsa", (), "localhost-ecdsa-2"),
        ("www-2030", (), "www-2030-2"),
        ("www-1", (), "www-1-2"),
        ("www-02", (), "www-02-2"),
        ("2", (), "2-2"),
        ("-2", (), "-2-2"),
        ("a" * 64, (), "a" * 62 + "-2"),
        ("a" * 62 + "-9", (), "a" * 61 + "-10"),
    ],
)
def test_labels_count_up(label: str, taken: tuple[str, ...], wanted: str) -> None:
    assert lifecycle.next_label(label, taken) == wanted


def test_a_token_with_many_keys_needs_more_patience() -> None:
    assert [lifecycle.quiet_for(keys) for keys in (1, 150, 1000)] == [600, 600, 4000]


def rotated(last_used: datetime | None, successor_signatures: int, created: datetime | None) -> tuple[Token, Key, Key]:
    successor = Key("www-2", created=created)
    old = Key(attributes=lifecycle.rotating(Key(), NOW - DAY, successor.ski, 600.0))
    token = Token()
    token.put(old, successor)
    token.used = {old.ski: Usage(9, last_used), successor.ski: Usage(successor_signatures, NOW)}
    return token, old, successor


QUIET = timedelta(seconds=600)


@pytest.mark.parametrize(
    ("last_used", "successor_signatures", "created", "is_retired"),
    [
        (NOW - QUIET, 1, NOW - DAY, True),
        (NOW - QUIET + SECOND, 1, NOW - DAY, False),
        (NOW - QUIET, 0, NOW - DAY, False),
        (None, 1, NOW - QUIET, True),
        (None, 1, NOW - QUIET + SECOND, False),
        (NOW - DAY, 1, NOW - SECOND, False),
        (NOW - QUIET, 1, None, True),
        (None, 1, None, True),
    ],
)
def test_a_rotated_key_retires_when_its_successor_took_over(
    last_used: datetime | None, successor_signatures: int, created: datetime | None, is_retired: bool
) -> None:
    token, old, successor = rotated(last_used, successor_signatures, created)
    said = token.run_due(NOW)
    assert (token.keys[old.ski.hex()].attributes.state is RETIRED) is is_retired
    assert token.keys[successor.ski.hex()] is successor
    if is_retired:
        assert said == [
            f"retired key 'www' ({old.ski.hex()}): its successor 'www-2' ({successor.ski.hex()}) is in use, and it was"
            " not used for 600 s"
        ]
        assert token.run_due(NOW) == [], "once"
    else:
        assert said == []


@pytest.mark.parametrize("state", [INACTIVE, RETIRED, DESTROYING])
def test_a_successor_that_was_taken_out_of_use_retires_nothing(state: KeyState) -> None:
    """It was tried, did not do, and the proxies are off for a while: the old key is the only one that signs."""
    token, old, successor = rotated(NOW - DAY, 5, NOW - DAY)
    token.put(with_fields(successor, attributes=in_state(state).attributes))
    assert token.run_due(NOW) == []
    assert token.keys[old.ski.hex()].attributes.state is ACTIVE


def test_a_key_that_never_ends_is_followed_by_one_that_never_ends() -> None:
    """RFC 5280 4.1.2.5: the last second of the year 9999."""
    for_ever = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    key = Key(attributes=KeyAttributes(not_after=for_ever), created=NOW - DAY)
    assert lifecycle.succeeding(key, NOW).not_after == for_ever


def test_a_time_in_which_nobody_watched_is_not_quiet() -> None:
    """The nodes were off for a day: that nobody used the key says nothing."""
    token, old, _successor = rotated(NOW - DAY, 5, NOW - DAY)
    assert token.run_due(NOW, NOW - 599 * SECOND) == []
    assert token.keys[old.ski.hex()].attributes.state is ACTIVE
    assert len(token.run_due(NOW, NOW - 600 * SECOND)) == 1


def test_a_successor_that_is_gone_retires_nothing() -> None:
    token, old, successor = rotated(NOW - DAY, 5, NOW - DAY)
    token.destroy(successor.ski.hex())
    assert token.run_due(NOW) == []
    assert token.keys[old.ski.hex()].attributes.state is ACTIVE


def test_a_key_is_destroyed_when_its_grace_is_over_and_not_before() -> None:
    token = Token()
    key = in_state(DESTROYING, destroy_at=NOW)
    token.put(key, Key("other"))
    assert token.run_due(NOW - SECOND) == []
    assert token.run_due(NOW) == [f"destroyed key 'www' ({key.ski.hex()}): its grace period is over"]
    assert [left.label for left in token.list()] == ["other"]


def test_what_another_node_did_first_is_nothing_to_say() -> None:
    token = Token()
    key = in_state(DESTROYING, destroy_at=NOW)
    token.put(key)
    token.before_change = lambda: token.keys.clear()
    assert token.run_due(NOW) == []


def test_a_key_that_is_taken_back_in_the_last_moment_lives() -> None:
    token = Token()
    key = in_state(DESTROYING, destroy_at=NOW)
    token.put(key)
    token.before_change = lambda: token.put(Key())
    assert token.run_due(NOW) == []
    assert token.list() == [Key()]
    token, old, _ = rotated(NOW - DAY, 5, NOW - DAY)
    token.before_change = lambda: token.put(with_fields(old, attributes=KeyAttributes()))
    assert token.run_due(NOW) == []
    assert token.keys[old.ski.hex()].attributes.state is ACTIVE


@pytest.mark.parametrize(
    ("error", "words"), [(NoSuchKey(), "can't be: no such key"), (RuntimeError("PIN 1234"), "can't be: RuntimeError")]
)
def test_a_token_that_fails_is_told_without_what_it_said(error: Exception, words: str) -> None:
    token = Token(broken=error)
    token.put(in_state(DESTROYING, destroy_at=NOW))
    (sentence,) = token.run_due(NOW)
    assert sentence.startswith("key 'www' (")
    assert words in sentence
    assert "1234" not in sentence


@dataclass
class Holder:
    key: Key
    revision: int = 1

    def keys(self) -> tuple[KeyEntry, ...]:
        return (KeyEntry(self.key.ski, self.key.type, self.key.label),)

    def attributes_of(self, ski: bytes) -> KeyAttributes:
        assert ski == self.key.ski
        return self.key.attributes

    def refresh(self) -> bool:
        return False

    def close(self) -> None:
        pass


def test_idle_tokens_are_left_alone() -> None:
    for state in (INACTIVE, ACTIVE, RETIRED, DESTROYING):
        assert not lifecycle.may_be_due(Holder(in_state(state)), NOW)
    assert lifecycle.may_be_due(Holder(in_state(DESTROYING, destroy_at=NOW)), NOW)
    assert lifecycle.may_be_due(Holder(in_state(ACTIVE, successor=b"s" * 20, retire_quiet_s=1.0)), NOW)


def test_times_of_any_zone_are_compared() -> None:
    east = timezone(timedelta(hours=5))
    assert lifecycle.is_due_to_be_destroyed(KeyAttributes(state=DESTROYING, destroy_at=NOW.astimezone(east)), NOW)


class Lives(RuleBasedStateMachine):
    """Owners, clocks and nodes do whatever they like with the keys of one token."""

    def __init__(self) -> None:
        super().__init__()
        self.token = Token()
        self.now = NOW
        self.gone: set[str] = set()
        self.token.put(Key("www"), Key("mail"))

    labels = st.sampled_from(["www", "mail", "www-2", "www-3", "mail-2"])

    def key(self, label: str) -> Key | None:
        return self.token.keys.get(Key(label).ski.hex())

    @rule(seconds=st.sampled_from([1, 59, 600, 90_000]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(label=labels)
    def a_client_signs(self, label: str) -> None:
        key = self.key(label)
        if key is not None and key.attributes.state is ACTIVE:
            self.token.used[key.ski] = self.token.used.get(key.ski, Usage()).plus(Usage(1, self.now))

    @rule(label=labels, operation=st.sampled_from([Operation.ACTIVATE, Operation.RETIRE, Operation.SCHEDULE]))
    def an_owner_changes_the_state(self, label: str, operation: Operation) -> None:
        key = self.key(label)
        if key is None:
            return
        make: dict[Operation, Callable[[Key], KeyAttributes]] = {
            Operation.ACTIVATE: lambda key: lifecycle.activated(key, self.now),
            Operation.RETIRE: lambda key: lifecycle.retired(key, self.now),
            Operation.SCHEDULE: lambda key: lifecycle.scheduled(key, self.now, timedelta(minutes=5)),
        }
        try:
            after = self.token.change(key.ski.hex(), make[operation])
        except LifecycleProblem:
            assert lifecycle.is_due_to_be_destroyed(key.attributes, self.now)
        else:
            assert after.attributes.retire_quiet_s is None

    @rule(label=labels)
    def an_owner_rotates(self, label: str) -> None:
        key = self.key(label)
        if key is None:
            return
        try:
            attributes = lifecycle.succeeding(key, self.now)
        except LifecycleProblem:
            return
        taken = {other.label for other in self.token.list()} | self.gone
        successor = Key(lifecycle.next_label(label, taken), attributes, created=self.now)
        self.token.put(successor)
        self.token.change(key.ski.hex(), lambda old: lifecycle.rotating(old, self.now, successor.ski, 600.0))

    @precondition(lambda self: self.token.keys)
    @rule()
    def a_node_looks_at_what_is_due(self) -> None:
        before = dict(self.token.keys)
        self.token.run_due(self.now)
        for reference, key in before.items():
            after = self.token.keys.get(reference)
            if after is None:
                assert key.attributes.state is DESTROYING
                assert key.attributes.destroy_at is not None
                assert key.attributes.destroy_at <= self.now
                self.gone.add(key.label)
            elif after != key:
                assert (key.attributes.state, after.attributes.state) == (ACTIVE, RETIRED)
                used = self.token.used.get(key.ski, Usage()).last_used
                assert used is None or self.now - used >= QUIET
                assert self.token.used[key.attributes.successor or b""].signatures
        assert not any(lifecycle.is_due_to_be_destroyed(key.attributes, self.now) for key in self.token.list())

    @invariant()
    def attributes_make_sense(self) -> None:
        for key in self.token.list():
            assert attributes_problem(key.attributes, key.type) is None
            assert key.label not in self.gone
            if key.attributes.retire_quiet_s is not None:
                assert key.attributes.state is ACTIVE
                assert key.attributes.successor is not None


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
