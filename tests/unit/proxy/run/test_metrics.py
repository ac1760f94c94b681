from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.config.load import load_config
from proxy.run import metrics
from proxy.run.cells import Kind, merge
from proxy.run.control import fleet_numbers
from proxy.run.limits import declare_limits
from proxy.run.metrics import FAMILIES
from proxy.run.scrape import exposition
from tests.support.busy_observer import busy_observer
from tests.support.reports import master_report, worker_report

ROOT = Path(__file__).parents[4]


def everything() -> bytes:
    observer = busy_observer()
    declare_limits(observer.ledger, load_config(ROOT / "config" / "proxy.toml"))
    observer.ledger.cells(metrics.DISCOVERED_LIMIT)["hsm",].value = 64
    worker = "worker-0"
    observer.ledger.cells(metrics.WORKER_CPU)[worker,].value = 1
    observer.ledger.cells(metrics.WORKER_MEMORY)[worker,].value = 1
    observer.ledger.cells(metrics.LOOP_DELAY)[worker,].value = 1
    fleet = fleet_numbers(master_report(), [worker_report("worker-0", 11, nodes={"node-1": "up"})])
    return exposition(FAMILIES.values(), merge(FAMILIES.values(), [observer.ledger.snapshot(), fleet]))


def test_every_family_has_a_number_once_everything_happened() -> None:
    found = {family.name for family in text_string_to_metric_families(everything().decode())}
    assert {name.removesuffix("_total") for name in FAMILIES} == found


def test_names_follow_the_rules() -> None:
    for name, family in FAMILIES.items():
        assert re.fullmatch(r"sealgate_[a-z0-9_]+", name)
        assert name.endswith("_total") == (family.kind is Kind.COUNTER), name
        assert family.help.endswith("."), name
        assert list(family.bounds) == sorted(set(family.bounds))
        if family.kind is Kind.HISTOGRAM:
            assert name.endswith("_seconds")
            assert family.bounds[-1] >= 10


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=everything(), capture_output=True, timeout=30, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_the_document_lists_every_metric_with_its_type_and_labels() -> None:
    types = {Kind.COUNTER: "counter", Kind.HISTOGRAM: "histogram"}
    in_code = {
        (family.name, types.get(family.kind, "gauge"), ", ".join(f"`{label}`" for label in family.labels))
        for family in FAMILIES.values()
    }
    rows = re.findall(r"^\| `(sealgate_\w+)` \| (\w+) \| (.*?) \| .+ \|$", (ROOT / "docs/metrics.md").read_text(), re.M)
    assert len(rows) == len(set(rows))
    assert set(rows) == in_code


def test_metrics_the_document_asks_for_exist() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    used = set(re.findall(r"\bsealgate_[a-z0-9_]+", text))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} <= set(FAMILIES)
