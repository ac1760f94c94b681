"""Joined numbers as the Prometheus text format, through the client library's own writer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.run.cells import Family, Histogram, Kind, Labels, Snapshot


class _Snapshots(Collector):
    """Shows one snapshot to the library."""

    def __init__(self, families: Iterable[Family], snapshot: Snapshot) -> None:
        self._families = families
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """One library metric per family, families without a number left out."""
        for family in self._families:
            if family.kind is Kind.HISTOGRAM:
                if histograms := self._snapshot.histograms.get(family.name):
                    yield _histogram(family, histograms)
            elif numbers := self._snapshot.numbers.get(family.name):
                yield _numbers(family, numbers)


def exposition(families: Iterable[Family], snapshot: Snapshot) -> bytes:
    """The text format, version 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshots(families, snapshot))
    return generate_latest(registry)


def _numbers(family: Family, numbers: list[tuple[Labels, float]]) -> Metric:
    kind = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in sorted(numbers):
        metric.add_metric(labels, value)
    return metric


def _histogram(family: Family, histograms: list[tuple[Labels, Histogram]]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    names = [*(repr(bound) for bound in family.bounds), "+Inf"]
    for labels, histogram in sorted(histograms, key=lambda each: each[0]):
        below = 0
        buckets = []
        for name, count in zip(names, histogram.counts, strict=True):
            below += count
            buckets.append((name, float(below)))
        metric.add_metric(labels, buckets, histogram.total)
    return metric
