from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.cli.times import TextProblem, parse_duration, parse_time, shown_age, shown_duration, shown_time

EVER = timedelta(days=9_999_999)


def parse_any(text: str) -> timedelta:
    return parse_duration(text, "--grace", least=timedelta(0), most=EVER)


NOW = datetime(2030, 1, 31, 12, 30, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("0d", 0), ("45s", 45), ("30m", 1800), ("12h", 43_200), ("7d", 604_800)]
)
def test_durations_are_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_any(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "7", "d", "7w", "7 d", "-7d", "1.5h", "7D", "7d ", "7d\n", "1d12h", "٧d", "1" * 9]
)
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(TextProblem, match="is no duration; write a number and a unit"):
        parse_any(text)


@pytest.mark.parametrize(
    ("text", "is_right"), [("14s", False), ("15s", True), ("1h", True), ("61m", False), ("0", False)]
)
def test_durations_have_bounds(text: str, is_right: bool) -> None:
    with contextlib.nullcontext() if is_right else pytest.raises(TextProblem, match=f"--quiet must be .* not {text}"):
        parse_duration(text, "--quiet", least=timedelta(seconds=15), most=timedelta(hours=1))


@given(st.integers(0, 9_999_999), st.sampled_from("smhd"))
def test_shown_durations_are_read_again(number: int, unit: str) -> None:
    span = parse_any(f"{number}{unit}")
    with contextlib.suppress(TextProblem):  # more seconds than anybody types
        assert parse_any(shown_duration(span)) == span


def test_times_are_dates_or_have_a_zone() -> None:
    assert parse_time("2030-01-31") == datetime(2030, 1, 31, tzinfo=UTC)
    assert parse_time("2030-01-31T12:30:59Z") == NOW
    assert parse_time("2030-01-31T14:30:59+02:00").isoformat() == "2030-01-31T12:30:59+00:00"


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2030-02-30", "2030-01-31T12:00", "2030-01-31 12:00:00Z", "20300131", "31.1.2030", "1e9"]
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(TextProblem, match="is no time; write a date"):
        parse_time(text)


@given(st.text(max_size=30))
def test_any_text_is_taken_or_refused(text: str) -> None:
    with contextlib.suppress(TextProblem):
        assert parse_time(text).utcoffset() == timedelta(0)
    with contextlib.suppress(TextProblem):
        assert parse_any(text) >= timedelta(0)


def test_times_are_shown_to_the_minute() -> None:
    assert shown_time(NOW) == "2030-01-31 12:30 UTC"
    assert [shown_duration(timedelta(seconds=seconds)) for seconds in (0, 45, 90, 120, 5400, 86_400)] == [
        "0s",
        "45s",
        "90s",
        "2m",
        "90m",
        "1d",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0s ago"), (0, "0s ago"), (119, "119s ago"), (120, "2m ago"), (7200, "2h ago"), (172_800, "2d ago")],
)
def test_ages_are_rough(seconds: int, shown: str) -> None:
    assert shown_age(NOW - timedelta(seconds=seconds), NOW) == shown
