"""What the checks of a config have in common: where a problem stands, and problems of many sections. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hsm.shared.addresses import parse_address

Where = tuple[str | int, ...]
"""Keys and indexes from the top of the file: ("sites", 0, "upstream")."""
Found = Iterator[tuple[Where, str]]
"""Where it stands, and what is wrong with what to do."""


def target_problems(where: Where, address: str) -> Found:
    """An address that nobody can be reached at."""
    try:
        _, port = parse_address(address)
    except ValueError as error:
        yield where, str(error)
        return
    if port == 0:
        yield where, f"{address}: nobody can be reached at port 0; give the real port"


def repeated(where: Where, field: str, values: Iterable[str]) -> Found:
    """Values that stand in a list twice; `field` is theirs in each entry, "" where entries are the values."""
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        if value in first:
            path: Where = (*where, index, field) if field else (*where, index)
            yield path, f"{value!r} is used by {where[-1]}[{first[value]}] already; each needs its own"
        first.setdefault(value, index)
