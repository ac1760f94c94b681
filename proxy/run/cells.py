"""Numbers of one process, cheap to change, and how the numbers of several processes become one.

Why not the client library's own multi-process mode: it costs about a microsecond per change and five changes per
request, more than the whole budget for metrics. Here a change is one addition; each worker publishes a `Snapshot` of
its `Ledger` a few times per second (`board.py`), and the control process adds them up (`scrape.py`).

Metric names are in `metrics.py`. Pure: no files, no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence, Set
from enum import StrEnum

import msgspec

Labels = tuple[str, ...]


class Kind(StrEnum):
    """What a number means, and so how several processes' numbers are joined."""

    COUNTER = "counter"
    """Only grows; the sum, also of processes that are gone."""
    HISTOGRAM = "histogram"
    """As a counter, per bucket."""
    GAUGE_SUM = "gauge_sum"
    """Now; the sum of the living processes."""
    GAUGE_MIN = "gauge_min"
    """Now; the worst of the living processes."""
    GAUGE_MAX = "gauge_max"


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One metric: its name and what it counts."""

    name: str
    """With its unit; counters end in `_total`."""
    help: str
    kind: Kind
    labels: Labels = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, ascending, without infinity."""


class Cell:
    """One number of a counter or gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Spread:
    """One histogram: how many values fell into each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Cells(dict[Labels, Cell]):
    """The numbers of one family by label values; a new one begins at 0."""

    def __missing__(self, labels: Labels) -> Cell:
        self[labels] = cell = Cell()
        return cell


class Spreads(dict[Labels, Spread]):
    """The histograms of one family by label values."""

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__()
        self._bounds = bounds

    def __missing__(self, labels: Labels) -> Spread:
        self[labels] = spread = Spread(self._bounds)
        return spread


class Histogram(msgspec.Struct, frozen=True, array_like=True):
    """A `Spread` as it was at one moment."""

    counts: list[int]
    total: float


class Snapshot(msgspec.Struct, kw_only=True):
    """All numbers of one process at one moment, or of several joined: family name -> (label values, number)."""

    numbers: dict[str, list[tuple[Labels, float]]] = {}
    histograms: dict[str, list[tuple[Labels, Histogram]]] = {}


class Ledger:
    """The numbers of this process."""

    def __init__(self) -> None:
        self._cells: dict[str, Cells] = {}
        self._spreads: dict[str, Spreads] = {}

    def cells(self, family: Family) -> Cells:
        """The numbers of a counter or gauge."""
        if family.kind is Kind.HISTOGRAM:
            raise ValueError(f"{family.name} is a histogram")
        return self._cells.setdefault(family.name, Cells())

    def spreads(self, family: Family) -> Spreads:
        """The histograms of a family."""
        if family.kind is not Kind.HISTOGRAM:
            raise ValueError(f"{family.name} is no histogram")
        return self._spreads.setdefault(family.name, Spreads(family.bounds))

    def snapshot(self) -> Snapshot:
        """Everything as it is now."""
        return Snapshot(
            numbers={
                name: [(labels, cell.value) for labels, cell in cells.items()] for name, cells in self._cells.items()
            },
            histograms={
                name: [(labels, Histogram(list(spread.counts), spread.total)) for labels, spread in spreads.items()]
                for name, spreads in self._spreads.items()
            },
        )


def merge(families: Iterable[Family], living: Sequence[Snapshot], dead: Sequence[Snapshot] = ()) -> Snapshot:
    """Join processes' numbers; of `dead` ones only what accumulates counts."""
    merged = Snapshot(numbers={}, histograms={})
    for family in families:
        if family.kind is Kind.HISTOGRAM:
            merged.histograms[family.name] = _merge_histograms(family, [*living, *dead])
        else:
            sources = [*living, *dead] if family.kind is Kind.COUNTER else living
            merged.numbers[family.name] = _merge_numbers(family, sources)
    return merged


def accumulated(families: Iterable[Family], snapshots: Sequence[Snapshot]) -> Snapshot:
    """What remains of processes that are gone: counters and histograms."""
    lasting = [family for family in families if family.kind in (Kind.COUNTER, Kind.HISTOGRAM)]
    return merge(lasting, (), snapshots)


def values_of(families: Iterable[Family], label: str, snapshots: Iterable[Snapshot]) -> set[str]:
    """Everything that a label says in `snapshots`."""
    found: set[str] = set()
    places = {family.name: family.labels.index(label) for family in families if label in family.labels}
    for snapshot in snapshots:
        for name, at in places.items():
            found.update(labels[at] for labels, _ in snapshot.numbers.get(name, ()))
            found.update(labels[at] for labels, _ in snapshot.histograms.get(name, ()))
    return found


def keep_only(families: Iterable[Family], label: str, values: Set[str], snapshot: Snapshot) -> None:
    """Leave out of `snapshot` whatever a label calls otherwise than one of `values`."""
    for family in families:
        if label in family.labels:
            at = family.labels.index(label)
            if numbers := snapshot.numbers.get(family.name):
                snapshot.numbers[family.name] = [each for each in numbers if each[0][at] in values]
            if histograms := snapshot.histograms.get(family.name):
                snapshot.histograms[family.name] = [each for each in histograms if each[0][at] in values]


def _merge_numbers(family: Family, sources: Sequence[Snapshot]) -> list[tuple[Labels, float]]:
    joined: dict[Labels, float] = {}
    for source in sources:
        for labels, value in source.numbers.get(family.name, ()):
            if labels not in joined:
                joined[labels] = value
            elif family.kind is Kind.GAUGE_MIN:
                joined[labels] = min(joined[labels], value)
            elif family.kind is Kind.GAUGE_MAX:
                joined[labels] = max(joined[labels], value)
            else:
                joined[labels] += value
    return list(joined.items())


def _merge_histograms(family: Family, sources: Sequence[Snapshot]) -> list[tuple[Labels, Histogram]]:
    joined: dict[Labels, Histogram] = {}
    size = len(family.bounds) + 1
    for source in sources:
        for labels, histogram in source.histograms.get(family.name, ()):
            if len(histogram.counts) != size:
                continue  # of a version with other buckets
            before = joined.get(labels)
            if before is not None:
                counts = [left + right for left, right in zip(before.counts, histogram.counts, strict=True)]
                histogram = Histogram(counts, before.total + histogram.total)
            joined[labels] = histogram
    return list(joined.items())
