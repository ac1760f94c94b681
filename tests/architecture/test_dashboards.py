"""Dashboards ask only for metrics that exist, and the files that containers read are good."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = ("_bucket", "_sum", "_count")


def metric_names() -> set[str]:
    """Every metric that one of the two programs spells."""
    text = "".join((ROOT / name).read_text() for name in ("proxy/run/metrics.py", "hsm/node/metrics.py"))
    return set(re.findall(r'"(sealgate_[a-z0-9_]+)"', text))


@pytest.mark.parametrize("path", sorted((ROOT / "grafana" / "dashboards").glob("*.json")), ids=lambda p: p.name)
def test_dashboard_asks_for_metrics_that_exist(path: Path) -> None:
    board = json.loads(path.read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 10
    known = metric_names()
    for expression in expressions:
        for name in re.findall(r"sealgate_[a-z0-9_]+", expression):
            plain = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
            assert name in known or plain in known, f"{path.name} asks for {name}, which nobody exports"
    identifiers = [panel["id"] for panel in board["panels"]]
    assert len(identifiers) == len(set(identifiers))


def test_prometheus_config_is_good() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", str(ROOT / "config" / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
