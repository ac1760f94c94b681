"""How `sealgate key` shows keys to people. The keys are the JSON of the management API; `now` is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import typer

from hsm.cli.table import GAP, plain, table
from hsm.cli.times import shown_age, shown_duration, shown_time

Key = Mapping[str, Any]

HEADINGS = ("LABEL", "STATE", "TYPE", "PURPOSE", "TOKEN", "SIGNATURES", "LAST USED", "SKI", "NOTES")
_STATE, _SKI, _NOTES = (HEADINGS.index(name) for name in ("STATE", "SKI", "NOTES"))
_COLOURS = {"active": "green", "inactive": "yellow", "retired": "bright_black", "destroying": "red"}


def key_table(keys: Sequence[Key], now: datetime, *, width: int | None = None, is_coloured: bool = False) -> str:
    """All keys, a line each. Where a terminal's `width` does not hold them, their SKIs are left out; where that is not
    enough, what is special about a key stands below it."""
    labels = {key["ski"]: key["label"] for key in keys}
    has_several_tokens = len({key["token"] for key in keys}) > 1
    rows = [_row(key, labels, now, with_token=has_several_tokens) for key in keys]
    below = [""] * len(rows)
    cells = table(HEADINGS, rows)
    if width is not None and _is_wider(cells, width):
        cells = table(HEADINGS, [(*row[:_SKI], "", row[_NOTES]) for row in rows])
    if width is not None and _is_wider(cells, width):
        cells = table(HEADINGS, [(*row[:_SKI], "", "") for row in rows])
        below = [f"\n{GAP * 2}{plain(row[_NOTES])}" if row[_NOTES] else "" for row in rows]
    if is_coloured:
        cells[0] = [typer.style(cell, bold=True) for cell in cells[0]]
        for line in cells[1:]:
            line[_STATE] = typer.style(line[_STATE], fg=_COLOURS.get(line[_STATE].strip()))
    lines = [GAP.join(line).rstrip() for line in cells]
    return "\n".join([lines[0], *(line + note for line, note in zip(lines[1:], below, strict=True))])


def _is_wider(cells: list[list[str]], width: int) -> bool:
    return max(len(GAP.join(line)) for line in cells) > width


def _row(key: Key, labels: Mapping[str, str], now: datetime, *, with_token: bool) -> tuple[str, ...]:
    used = time_of(key["last_used"])
    return (
        key["label"],
        key["state"],
        key["type"],
        key["purpose"],
        key["token"] if with_token else "",
        str(key["signatures"]),
        shown_age(used, now) if used is not None else "never",
        key["ski"],
        ", ".join(notes(key, labels, now)),
    )


def notes(key: Key, labels: Mapping[str, str], now: datetime) -> list[str]:
    """What is special about a key, the most urgent first; `labels` are those of other keys by SKI."""
    found: list[str] = []
    if key["destroy_at"] is not None:
        found.append(f"to be destroyed {_time(key['destroy_at'])}")
    if key["successor"] is not None:
        successor = labels.get(key["successor"], key["successor"])
        found.append(
            f"retires once {successor} has taken over" if key["quiet_s"] is not None else f"replaced by {successor}"
        )
    begin, end = time_of(key["not_before"]), time_of(key["not_after"])
    if begin is not None and begin > now:
        found.append(f"valid from {shown_time(begin)}")
    if end is not None:
        found.append(f"{'ended' if end <= now else 'valid until'} {shown_time(end)}")
    if key["max_rate"] is not None:
        found.append(f"at most {key['max_rate']:g}/s")
    if key["schemes"]:
        found.append(f"only {' '.join(key['schemes'])}")
    return [*found, *(["imported"] if key["imported"] else [])]


def key_details(key: Key, now: datetime) -> str:
    """One key, a fact a line; what does not apply to it is left out."""
    facts = {
        "label": key["label"],
        "ski": key["ski"],
        "token": key["token"],
        "type": key["type"],
        "purpose": key["purpose"],
        "state": key["state"],
        "to be destroyed": _time(key["destroy_at"]),
        "successor": key["successor"],
        "retires": f"when the successor is in use and it was not used for {_span(key['quiet_s'])}"
        if key["quiet_s"] is not None
        else None,
        "schemes": " ".join(key["schemes"]) or f"all of {key['type']}",
        "valid from": _time(key["not_before"]),
        "valid until": _ended(key, now),
        "rate": f"at most {key['max_rate']:g} signatures/s by each node" if key["max_rate"] is not None else None,
        "created": _time(key["created"]) or "unknown; it was found in the token",
        "origin": "imported: copies may exist outside" if key["imported"] else "",
        "signatures": f"{key['signatures']}",
        "last used": _time(key["last_used"]) or "never",
    }
    known = {name: plain(fact) for name, fact in facts.items() if fact}
    width = max(map(len, known)) + 2
    lines = [f"{name + ':':<{width}}{fact}" for name, fact in known.items()]
    return "\n".join([*lines, key["public_key"].rstrip("\n")])


def time_of(text: str | None) -> datetime | None:
    """A time of the API."""
    return None if text is None else datetime.fromisoformat(text)


def _time(text: str | None) -> str | None:
    when = time_of(text)
    return None if when is None else shown_time(when)


def _ended(key: Key, now: datetime) -> str | None:
    end = time_of(key["not_after"])
    if end is None:
        return None
    return f"{shown_time(end)}{' (it signs no more)' if end <= now else ''}"


def _span(seconds: float) -> str:
    return shown_duration(timedelta(seconds=seconds))
