"""A table in plain text: columns as wide as what is in them, nothing cut, colours only where they are wanted.

Not a library's table: those fit a table to a terminal's width by cutting or folding, also in pipes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GAP = "  "


def plain(text: str) -> str:
    """The text without what a terminal would obey: labels of keys that were found in a token may hold anything."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """The cells, made plain and padded to the width of their columns; the headings are the first row.

    Columns in which every row is empty are left out. The last column is not padded.
    """
    cells = [list(headings), *([plain(cell) for cell in row] for row in rows)]
    columns = [column for column in zip(*cells, strict=True) if any(column[1:])]
    padded = [_padded(column, is_last=number == len(columns) - 1) for number, column in enumerate(columns)]
    return [list(row) for row in zip(*padded, strict=True)]


def _padded(column: Sequence[str], *, is_last: bool) -> list[str]:
    width = max(map(len, column))
    return list(column) if is_last else [cell.ljust(width) for cell in column]
