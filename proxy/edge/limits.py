"""How much one listener takes: a budget of connections. Pure: counts in, decisions out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ConnectionBudget:
    """Open connections of one listener in one worker, and how many may be open."""

    limit: int
    taken: int = 0

    def try_take(self) -> bool:
        """Take a place; False where none is free, and then nothing is to be released."""
        if self.taken >= self.limit:
            return False
        self.taken += 1
        return True

    def release(self) -> None:
        """Give a place back that `try_take` gave."""
        if self.taken == 0:
            raise RuntimeError("a connection released its place twice")
        self.taken -= 1
