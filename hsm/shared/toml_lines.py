"""Finds the line on which a key of a TOML text stands, because tomllib keeps no positions.

Reads only what it needs for that: table headers, keys, and where values end. It is used on texts that tomllib has
accepted and never decides whether a text is valid. Keys within inline tables have no line of their own; `line_of`
falls back to the line of the key that holds them.
"""

from __future__ import annotations

import re
import tomllib

Path = tuple[str | int, ...]
"""Keys and array indexes from the top: ("sites", 0, "names")."""

_HEADER = re.compile(r"^\s*(\[\[?)(.*?)(\]\]?)\s*(?:#.*)?$")
_KEY_PART = r"(?:[A-Za-z0-9_-]+|\"(?:[^\"\\]|\\.)*\"|'[^']*')"
_KEY = re.compile(rf"^\s*({_KEY_PART}(?:\s*\.\s*{_KEY_PART})*)\s*=")
_PART = re.compile(_KEY_PART)


def line_of(text: str, path: Path) -> int | None:
    """The line (from 1) of the key at `path`, else of its nearest parent that has one; None when there is none."""
    lines = index_lines(text)
    for length in range(len(path), 0, -1):
        line = lines.get(path[:length])
        if line is not None:
            return line
    return None


def index_lines(text: str) -> dict[Path, int]:
    """The line of every table header and every key outside inline tables."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    rows = text.splitlines()
    at = 0
    while at < len(rows):
        row = rows[at]
        if header := _HEADER.match(row):
            table = _enter(_split(header[2]), header[1] == "[[", counts)
            found.setdefault(table, at + 1)
            found.setdefault(tuple(part for part in table if isinstance(part, str)), at + 1)
        elif key := _KEY.match(row):
            keys = _split(key[1])
            for length in range(1, len(keys) + 1):
                found.setdefault(table + keys[:length], at + 1)
            at = _end_of_value(rows, at, key.end())
        at += 1
    return found


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(_unquote(part) for part in _PART.findall(dotted))


def _unquote(part: str) -> str:
    if part[0] == "'":
        return part[1:-1]
    return str(tomllib.loads(f"k = {part}")["k"]) if part[0] == '"' else part


def _enter(keys: tuple[str, ...], is_array: bool, counts: dict[Path, int]) -> Path:
    """The path of a table header; parents that are arrays of tables get the index of their last element."""
    path: Path = ()
    for position, key in enumerate(keys):
        path += (key,)
        if is_array and position == len(keys) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path += (counts[path],)
    return path


def _end_of_value(rows: list[str], at: int, column: int) -> int:
    """The row on which the value that begins at `column` of row `at` ends: arrays and long strings span rows."""
    depth = 0
    quote = ""
    while True:
        row = rows[at]
        while column < len(row):
            if quote:
                column, quote = _in_string(row, column, quote)
                continue
            char = row[column]
            if char == "#":
                break
            if char in "\"'":
                quote = char * 3 if row.startswith(char * 3, column) else char
                column += len(quote)
                continue
            depth += (char in "[{") - (char in "]}")
            column += 1
        if len(quote) == 1:
            quote = ""
        if (depth <= 0 and not quote) or at + 1 >= len(rows):
            return at
        at, column = at + 1, 0


def _in_string(row: str, column: int, quote: str) -> tuple[int, str]:
    """Go on within a string: the next column to look at, and the quote that is still open."""
    if quote[0] == '"' and row[column] == "\\":
        return column + 2, quote
    if not row.startswith(quote, column):
        return column + 1, quote
    end = column + len(quote)
    while len(quote) == 3 and end < len(row) and row[end] == quote[0] and end < column + 5:
        end += 1  # up to two quotes may stand before the closing three
    return end, ""
