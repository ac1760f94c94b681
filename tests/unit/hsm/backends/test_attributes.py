from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from hsm.backends.attributes import (
    KeyAttributes,
    KeyState,
    Purpose,
    Usage,
    attributes_problem,
    in_utc,
    scheme_problem,
    usable_schemes,
)
from hsm.wire.schemes import KeyType, Scheme

NOW = datetime(2030, 1, 2, tzinfo=UTC)
NAIVE = datetime(2030, 1, 2)
BEFORE_TIME = datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))
AFTER_TIME = datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))


def test_a_key_about_which_nothing_was_said_serves_tls_and_signs() -> None:
    said = KeyAttributes()
    assert (said.purpose, said.state) == (Purpose.TLS_SERVER, KeyState.ACTIVE)
    assert msgspec.json.encode(said) == b"{}", "and takes no room"


def test_schemes_are_those_of_the_type_unless_some_are_named() -> None:
    assert usable_schemes(KeyType.ED25519, KeyAttributes()) == (Scheme.ED25519,)
    assert len(usable_schemes(KeyType.RSA_2048, KeyAttributes())) == 6
    only = KeyAttributes(schemes=("ecdsa_sha384", "ed25519"))
    assert usable_schemes(KeyType.P256, only) == (Scheme.ECDSA_SHA384,)


@pytest.mark.parametrize(
    ("schemes", "type_", "words"),
    [
        (("rsa_pss_sha256",), KeyType.RSA_OTHER, None),
        ((), KeyType.P256, None),
        (("dsa",), KeyType.P256, "'dsa' is no scheme; choose from rsa_pkcs1_sha256"),
        (("ecdsa_sha256", "ed25519"), KeyType.P256, "a p256 key can't sign ed25519"),
    ],
)
def test_schemes_must_suit_the_key(schemes: tuple[str, ...], type_: KeyType, words: str | None) -> None:
    problem = scheme_problem(schemes, type_)
    assert problem is None if words is None else words in (problem or "")


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        (KeyAttributes(), None),
        (KeyAttributes(not_before=NOW, not_after=NOW + timedelta(seconds=1)), None),
        (KeyAttributes(not_before=NOW, not_after=NOW), "must come after not_before"),
        (KeyAttributes(not_before=NAIVE), "not_before has no time zone"),
        (KeyAttributes(not_after=NAIVE), "not_after has no time zone"),
        (KeyAttributes(not_before=BEFORE_TIME), "not_before is before the year 1 or after the year 9999 in UTC"),
        (KeyAttributes(not_after=AFTER_TIME), "not_after is before the year 1 or after the year 9999 in UTC"),
        (KeyAttributes(not_after=datetime.max.replace(tzinfo=UTC)), None),
        (KeyAttributes(state=KeyState.DESTROYING, destroy_at=NAIVE), "destroy_at has no time zone"),
        (KeyAttributes(state=KeyState.DESTROYING, destroy_at=NOW), None),
        (KeyAttributes(state=KeyState.DESTROYING), "destroy_at belongs to keys that are being destroyed"),
        (KeyAttributes(destroy_at=NOW), "destroy_at belongs to keys that are being destroyed"),
        (KeyAttributes(max_rate=0.0), "above 0, not 0.0"),
        (KeyAttributes(max_rate=float("nan")), "above 0, not nan"),
        (KeyAttributes(schemes=("dsa",)), "is no scheme"),
    ],
)
def test_attributes_must_make_sense(attributes: KeyAttributes, words: str | None) -> None:
    problem = attributes_problem(attributes, KeyType.P256)
    assert problem is None if words is None else words in (problem or "")


def test_times_are_kept_in_utc() -> None:
    east = timezone(timedelta(hours=9))
    assert in_utc(NOW.astimezone(east)) == NOW
    assert str(in_utc(NOW.astimezone(east))).endswith("+00:00")
    assert in_utc(None) is None
    assert in_utc(NAIVE) is NAIVE, "for attributes_problem to refuse"


def test_times_that_utc_does_not_have_are_left_to_be_refused() -> None:
    for when in (BEFORE_TIME, AFTER_TIME):
        assert in_utc(when) is when


def test_usage_adds_up_to_the_latest_time() -> None:
    assert Usage(2, NOW).plus(Usage(3, NOW - timedelta(days=1))) == Usage(5, NOW)
    assert Usage().plus(Usage(1, NOW)) == Usage(1, NOW)
    assert Usage().plus(Usage()) == Usage()
