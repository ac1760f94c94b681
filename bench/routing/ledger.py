"""Who got what: one line per job, per attempt's node, per signature. Pure.

Columns instead of objects, because there are a million lines.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

GOOD = "good"
LEFT = "left"
"""Its client went away."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Jobs of some sites that began within some span of time."""

    jobs: int
    good: int
    p50_s: float
    p99_s: float
    p999_s: float
    """Latencies of good ones, from submission; 0 without any."""
    worst_s: float
    ends: Counter[str]
    """By how they ended."""
    fail_p99_s: float
    """How long those that failed had to wait for it."""
    fail_worst_s: float

    @property
    def good_share(self) -> float:
        """Good ones among all whose clients stayed."""
        stayed = self.jobs - self.ends[LEFT]
        return self.good / stayed if stayed else 1.0

    @property
    def failed(self) -> int:
        """Those that ended without a signature although somebody waited."""
        return self.jobs - self.good - self.ends[LEFT]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that is not below `share` of `ordered`; 0 without values."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


class Ledger:
    """Everything that is told at the end."""

    def __init__(self, sites: Sequence[str], nodes: Sequence[str]) -> None:
        self._sites = {name: index for index, name in enumerate(sites)}
        self._ends: dict[str, int] = {GOOD: 0, LEFT: 1}
        self._site = array("i")
        self._end = array("i")
        self._began = array("d")
        self._took = array("d")
        self.sends: dict[str, array[float]] = {node: array("d") for node in nodes}
        """When which node was asked."""
        self.signed: dict[str, array[float]] = {node: array("d") for node in nodes}
        """When which node made a signature for a job, wanted or not."""
        self.started = 0
        self.hedges = 0
        self.hedges_won = 0
        self.retries = 0
        """Attempts right after one that had failed by the node's fault."""
        self.delayed_retries = 0
        """Such attempts that had to wait, because the budget was used up."""
        self.cancels = 0
        self.probes = 0
        self.queue_peak = 0
        self.ejections: list[tuple[float, str, bytes, str]] = []
        self.returns: list[tuple[float, str, bytes]] = []

    def ended(self, site: int, began: float, took_s: float, end: str) -> None:
        """One job is over."""
        code = self._ends.get(end)
        if code is None:
            code = self._ends[end] = len(self._ends)
        self._site.append(site)
        self._end.append(code)
        self._began.append(began)
        self._took.append(took_s)

    @property
    def jobs(self) -> int:
        """Jobs that are over."""
        return len(self._began)

    @property
    def good(self) -> int:
        """Jobs that got their signature."""
        return self._end.count(0)

    @property
    def extra_signatures(self) -> int:
        """Signatures that were made for jobs and reached none."""
        return sum(len(times) for times in self.signed.values()) - self.good

    def between(self, begin: float = 0.0, end: float = float("inf"), sites: Iterable[str] | None = None) -> Summary:
        """What became of the jobs of these sites (default: all) that began from `begin` to before `end`."""
        wanted = None if sites is None else {self._sites[name] for name in sites}
        names = {code: name for name, code in self._ends.items()}
        good: list[float] = []
        failed: list[float] = []
        ends: Counter[str] = Counter()
        for site, code, began, took in zip(self._site, self._end, self._began, self._took, strict=True):
            if begin <= began < end and (wanted is None or site in wanted):
                ends[names[code]] += 1
                if code == 0:
                    good.append(took)
                elif code != 1:
                    failed.append(took)
        good.sort()
        failed.sort()
        return Summary(
            jobs=sum(ends.values()),
            good=len(good),
            p50_s=quantile(good, 0.5),
            p99_s=quantile(good, 0.99),
            p999_s=quantile(good, 0.999),
            worst_s=good[-1] if good else 0.0,
            ends=ends,
            fail_p99_s=quantile(failed, 0.99),
            fail_worst_s=failed[-1] if failed else 0.0,
        )

    def good_per_s(self, begin: float, end: float) -> float:
        """Good signatures per second that reached their jobs from `begin` to `end`."""
        rows = zip(self._end, self._began, self._took, strict=True)
        return sum(code == 0 and begin <= began + took < end for code, began, took in rows) / (end - begin)

    def share_of(self, node: str, begin: float, end: float) -> float:
        """The node's share of all attempts from `begin` to `end`."""
        counts = {name: sum(begin <= at < end for at in times) for name, times in self.sends.items()}
        return counts[node] / max(1, sum(counts.values()))

    def extra_share(self, begin: float, end: float) -> float:
        """Signatures made in this span above the good jobs that ended in it, as a share of these."""
        made = sum(begin <= at < end for times in self.signed.values() for at in times)
        good = self.good_per_s(begin, end) * (end - begin)
        return (made - good) / good if good else 0.0
