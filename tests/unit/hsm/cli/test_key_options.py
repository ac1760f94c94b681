from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hsm.backends.attributes import Purpose
from hsm.cli.key_options import NewKeyType, attributes_from
from hsm.cli.times import TextProblem
from hsm.wire.schemes import KeyType


def test_the_command_offers_every_type_that_can_be_made() -> None:
    assert {type_.value for type_ in NewKeyType} == {type_.value for type_ in KeyType} - {KeyType.RSA_OTHER.value}


def test_what_is_not_said_is_not_sent() -> None:
    assert attributes_from(None, None, None, None, None, None) == {}
    assert attributes_from(Purpose.CA, ["ed25519"], None, None, None, "3") == {
        "purpose": "ca",
        "schemes": ["ed25519"],
        "max_rate": 3.0,
    }


def test_limits_are_taken_away_by_name() -> None:
    assert attributes_from(None, ["all"], "none", "none", None, "none") == {
        "schemes": [],
        "not_before": None,
        "not_after": None,
        "max_rate": None,
    }


def test_days_count_from_the_beginning_or_from_now() -> None:
    said = attributes_from(None, None, "2030-01-01", None, 31, None)
    assert said["not_after"] == "2030-02-01T00:00:00+00:00"
    for not_before in (None, "none"):
        said = attributes_from(None, None, not_before, None, 1, None)
        left = datetime.fromisoformat(said["not_after"]) - datetime.now(UTC)
        assert timedelta(hours=23, minutes=59) < left <= timedelta(days=1)


@pytest.mark.parametrize("rate", ["", "x", "0", "-1", "inf", "nan"])
def test_rates_are_positive_numbers(rate: str) -> None:
    with pytest.raises(TextProblem, match="is no rate"):
        attributes_from(None, None, None, None, None, rate)
