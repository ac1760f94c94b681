"""Whether a link that looks open is dead. Pure.

A firewall that forgot a connection, or a machine that vanished, closes nothing: what is sent is swallowed, and TCP
takes its time to notice. A link is dead when probes in a row went unanswered and not one byte has come since the first
of them was sent. A node that only signs slowly, or has one engine that hangs, still sends something: its links stay.
"""

from __future__ import annotations

from hsm.wire.schemes import KeyFamily


class LinkSilence:
    """Unanswered probes of one connection; `limit` in a row of any family end it."""

    __slots__ = ("_limit", "_runs")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._runs: dict[KeyFamily | None, tuple[int, float]] = {}
        """For each family (None: echo) how many, and when the first of them was sent."""

    def unanswered(self, family: KeyFamily | None, asked_at: float, heard_at: float) -> bool:
        """A probe that was sent at `asked_at` has timed out; the last byte came at `heard_at`. True: it is dead."""
        if heard_at >= asked_at:
            self._runs.pop(family, None)
            return False
        count, since = self._runs.get(family, (0, asked_at))
        if heard_at >= since:
            count, since = 0, asked_at
        self._runs[family] = (count + 1, since)
        return count + 1 >= self._limit
