"""What a node has signed since it last told its tokens. Pure: counts, and the wall clock is given by the caller.

Signing only counts. Now and then somebody takes the counts away, to be written where they last; if that fails, they
are given back, and nothing is lost as long as the node runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from hsm.backends.attributes import Usage


class KeyCount:
    """Signatures with one key that nobody was told of yet."""

    __slots__ = ("last_at", "signatures")

    def __init__(self) -> None:
        self.signatures = 0
        self.last_at = 0.0
        """When the last one was made, on the node's clock."""


class UsageCounts:
    """The counts of all keys, by token and SKI. A key keeps its count while tokens and rules come and go."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[bytes, KeyCount]] = {}
        self._taken_before: dict[str, dict[bytes, Usage]] = {}

    def of(self, token: str, ski: bytes) -> KeyCount:
        """Where signatures with this key are counted."""
        return self._counts.setdefault(token, {}).setdefault(ski, KeyCount())

    def keep_only(self, token: str, skis: frozenset[bytes]) -> None:
        """Forgets the counts of keys that are gone and have nothing to tell."""
        counts = self._counts.get(token, {})
        for ski in [ski for ski, count in counts.items() if ski not in skis and not count.signatures]:
            del counts[ski]

    def take(self, token: str, wall: datetime, now: float) -> Mapping[bytes, Usage]:
        """What was signed since the last call, and what was given back; the counts start anew."""
        taken = self._taken_before.pop(token, {})
        for ski, count in self._counts.get(token, {}).items():
            if count.signatures:
                last_used = wall - timedelta(seconds=max(0.0, now - count.last_at))
                taken[ski] = taken.get(ski, Usage()).plus(Usage(count.signatures, last_used))
                count.signatures = 0
        return taken

    def give_back(self, token: str, taken: Mapping[bytes, Usage]) -> None:
        """It could not be written; it is part of what is taken next."""
        waiting = self._taken_before.setdefault(token, {})
        for ski, usage in taken.items():
            waiting[ski] = waiting.get(ski, Usage()).plus(usage)
