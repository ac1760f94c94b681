"""Times and durations as people type and read them on the command line. Pure: `now` is given."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_DURATION = re.compile(r"^(?P<number>[0-9]{1,7})(?P<unit>[smhd])\Z", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DATE = re.compile(r"^\d{4}-\d{2}-\d{2}\Z", re.ASCII)


class TextProblem(Exception):
    """What was typed makes no sense; `str()` is a sentence for the user."""


def parse_duration(text: str, option: str, *, least: timedelta, most: timedelta) -> timedelta:
    """A number and a unit: "30s", "30m", "12h", "7d"; or "0". Raises TextProblem, which names the option."""
    match = _DURATION.match(text)
    if match is None and text != "0":
        hint = "write a number and a unit, such as 30m, 12h or 7d"
        raise TextProblem(f"{option}: {text!r} is no duration; {hint}{'' if least else ', or just 0'}")
    span = timedelta(seconds=int(match["number"]) * _UNITS[match["unit"]]) if match else timedelta(0)
    if not least <= span <= most:
        raise TextProblem(f"{option} must be from {shown_duration(least)} to {shown_duration(most)}, not {text}")
    return span


def parse_time(text: str) -> datetime:
    """A date, which begins at midnight UTC, or a time with its zone (RFC 3339). Raises TextProblem."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is not None and _DATE.match(text):
        return when.replace(tzinfo=UTC)
    if when is None or when.utcoffset() is None or "T" not in text:
        raise TextProblem(
            f"{text!r} is no time; write a date such as 2030-01-31, or a time with its zone such as "
            "2030-01-31T12:00:00Z"
        )
    return when.astimezone(UTC)


def shown_time(when: datetime) -> str:
    """To the minute, in UTC."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def shown_duration(span: timedelta) -> str:
    """In the largest unit of which it is a whole number: "7d", "90m", "45s"."""
    seconds = round(span.total_seconds())
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}" if seconds else "0s"


def shown_age(when: datetime, now: datetime) -> str:
    """How long ago, roughly: "12s ago", "3h ago"."""
    seconds = max(0, round((now - when).total_seconds()))
    unit = next((unit for unit in ("d", "h", "m") if seconds >= 2 * _UNITS[unit]), "s")
    return f"{seconds // _UNITS[unit]}{unit} ago"
