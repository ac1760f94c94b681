from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from proxy.run.cells import Family, Kind, Ledger
from proxy.run.scrape import exposition

SEEN = Family(name="seen_total", help="Seen.", kind=Kind.COUNTER, labels=("site",))
OPEN = Family(name="open", help="Open.", kind=Kind.GAUGE_SUM)
TOOK = Family(name="took_seconds", help="Took.", kind=Kind.HISTOGRAM, labels=("node",), bounds=(0.5, 1.0))


def test_the_text_is_what_prometheus_reads() -> None:
    ledger = Ledger()
    ledger.cells(SEEN)['we"ird\nsite',].value = 2
    ledger.cells(OPEN)[()].value = 7
    for value in (0.1, 0.7, 0.8, 3.0):
        ledger.spreads(TOOK)["n",].observe(value)
    text = exposition([SEEN, OPEN, TOOK], ledger.snapshot()).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["seen"].samples[0].labels == {"site": 'we"ird\nsite'}
    assert families["seen"].type == "counter"
    assert families["open"].samples[0].value == 7
    samples = [(s.name, s.labels.get("le"), s.value) for s in families["took_seconds"].samples]
    assert samples == [
        ("took_seconds_bucket", "0.5", 1),
        ("took_seconds_bucket", "1.0", 3),
        ("took_seconds_bucket", "+Inf", 4),
        ("took_seconds_count", None, 4),
        ("took_seconds_sum", None, 4.6),
    ]


def test_families_without_numbers_are_left_out() -> None:
    assert exposition([SEEN, OPEN, TOOK], Ledger().snapshot()) == b""
