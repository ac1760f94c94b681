"""Keeps log lines that peers can cause at will to a bounded number a second. Pure; writes nothing itself."""

from __future__ import annotations

from collections import OrderedDict


class LineBudget:
    """At most `per_second` lines a second of each kind that shares this budget, and how many were left out."""

    def __init__(self, per_second: int = 10) -> None:
        self._per_second = per_second
        self._window = float("-inf")
        self._used = 0
        self._left_out = 0

    def take(self, now: float) -> int | None:
        """None where the line is to be left out; else how many lines were left out since the last one."""
        if now - self._window >= 1.0:
            self._window, self._used = now, 0
        if self._used >= self._per_second:
            self._left_out += 1
            return None
        self._used += 1
        left_out, self._left_out = self._left_out, 0
        return left_out


class LineBudgets:
    """A budget for each of the sources that were heard last, so that a loud one drowns no other's lines."""

    def __init__(self, per_second: int = 10, max_sources: int = 64) -> None:
        self._per_second = per_second
        self._max_sources = max_sources
        self._budgets: OrderedDict[str, LineBudget] = OrderedDict()

    def take(self, source: str, now: float) -> int | None:
        """As `LineBudget.take`, for a line about `source`."""
        budget = self._budgets.get(source)
        if budget is None:
            budget = self._budgets[source] = LineBudget(self._per_second)
            if len(self._budgets) > self._max_sources:
                self._budgets.popitem(last=False)
        self._budgets.move_to_end(source)
        return budget.take(now)
