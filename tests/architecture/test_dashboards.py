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


FROM_PROMETHEUS = {"instance", "job", "le"}
"""Labels that nobody exports by name: the target that was scraped, and the bounds of buckets."""
BOARDS = pytest.mark.parametrize("path", sorted((ROOT / "grafana" / "dashboards").glob("*.json")), ids=lambda p: p.name)


def labels_of() -> dict[str, set[str]]:
    """The labels of each metric, out of the tables that tests compare with the programs."""
    text = "".join((ROOT / "docs" / name).read_text() for name in ("metrics.md", "node.md"))
    rows = re.findall(r"^\| `(sealgate_[a-z0-9_]+)` \|(.*)$", text, re.MULTILINE)
    return {name: set(re.findall(r"`([a-z_]+)`", rest.split("|")[1])) for name, rest in rows}


@BOARDS
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


@BOARDS
def test_dashboard_asks_for_labels_that_exist(path: Path) -> None:
    known = labels_of()
    targets = [target for panel in json.loads(path.read_text())["panels"] for target in panel.get("targets", [])]
    for target in targets:
        expression = target["expr"]
        asked = set(re.findall(r"(\w+)(?==|!=|=~|!~)", " ".join(re.findall(r"\{(.*?)\}", expression))))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            asked |= {label.strip() for label in group.split(",")}
        asked |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        for name in re.findall(r"sealgate_[a-z0-9_]+", expression):
            plain = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
            labels = known[name] if name in known else known[plain]
            assert asked <= labels | FROM_PROMETHEUS, f"{path.name}: {expression} asks for {asked - labels}"


@BOARDS
def test_every_expression_is_good_promql(path: Path, tmp_path: Path) -> None:
    """As rules, because promtool checks these."""
    targets = [target for panel in json.loads(path.read_text())["panels"] for target in panel.get("targets", [])]
    expressions = [target["expr"].replace("$__rate_interval", "1m") for target in targets]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    file = tmp_path / "rules.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(expressions)} rules found" in done.stdout


@BOARDS
def test_panels_do_not_overlap(path: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads(path.read_text())["panels"]:
        spot = panel["gridPos"]
        for x in range(spot["x"], spot["x"] + spot["w"]):
            for y in range(spot["y"], spot["y"] + spot["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_prometheus_config_is_good() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", str(ROOT / "config" / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_ask_for_what_exists_and_are_explained() -> None:
    rules = ROOT / "config" / "alerts.yml"
    done = subprocess.run(["promtool", "check", "rules", str(rules)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"sealgate_[a-z0-9_]+", rules.read_text())) <= metric_names()
    explained = (ROOT / "docs" / "operations.md").read_text()
    for alert in re.findall(r"alert: (\w+)", rules.read_text()):
        assert f"`{alert}`" in explained, f"docs/operations.md does not say what to do about {alert}"


SERIES = {
    # A node that is down without anybody asking for it, one that was drained, and one that is fine.
    'sealgate_node_up{instance="p", job="j", node="a"}': "0x20",
    'sealgate_node_admin{instance="p", job="j", node="a", state="enabled"}': "1x20",
    'sealgate_node_up{instance="p", job="j", node="b"}': "0x20",
    'sealgate_node_admin{instance="p", job="j", node="b", state="enabled"}': "0x20",
    'sealgate_node_up{instance="p", job="j", node="c"}': "1x20",
    'sealgate_node_admin{instance="p", job="j", node="c", state="enabled"}': "1x20",
    'sealgate_headroom_n_minus_1_safe{instance="p", job="j"}': "0x20",
    'sealgate_headroom_n_minus_1_safe{instance="q", job="j"}': "1x20",
    'sealgate_headroom_used_per_second{instance="p", job="j"}': "81x20",
    'sealgate_headroom_used_per_second{instance="q", job="j"}': "79x20",
    'sealgate_headroom_capacity_per_second{instance="p", job="j"}': "100x20",
    'sealgate_headroom_capacity_per_second{instance="q", job="j"}': "100x20",
    'sealgate_signing_jobs_total{instance="p", job="j", outcome="shed"}': "0+60x20",
    'sealgate_signing_jobs_total{instance="q", job="j", outcome="ok"}': "0+6000x20",
    'sealgate_door_decisions_total{instance="q", job="j", decision="shed"}': "0+1x20",
    'sealgate_node_hedges_total{instance="q", job="j", node="a"}': "0+290x20",
    'sealgate_signing_hedge_share_limit{instance="q", job="j"}': "0.05x20",
    'sealgate_node_ejections_total{instance="p", job="j", node="a", why="share"}': "0+1x20",
}
FIRED = {
    "SealgateNodeDown": [{"severity": "warning", "instance": "p", "job": "j", "node": "a"}],
    "SealgateNotSafeToLoseANode": [{"severity": "warning", "instance": "p", "job": "j"}],
    "SealgateCapacityShort": [{"severity": "warning", "instance": "p", "job": "j"}],
    "SealgateJobsShed": [{"severity": "critical", "instance": name} for name in "pq"],
    "SealgateNodeEjectedAgain": [{"severity": "warning", "instance": "p", "node": "a"}],
    "SealgateHedgesUsedUp": [{"severity": "info", "instance": "q"}],
    "SealgateHandshakesWithoutSignature": [],
    "SealgateRetriesUsedUp": [],
}


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    summaries = dict(
        re.findall(r'alert: (\w+)\n.*?summary: "(.*?)"\n', (ROOT / "config/alerts.yml").read_text(), re.DOTALL)
    )

    def expected(alert: str, labels: dict[str, str]) -> dict[str, object]:
        told = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], summaries[alert])
        return {"exp_labels": labels, "exp_annotations": {"summary": told}}

    case = {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in SERIES.items()],
        "alert_rule_test": [
            {"eval_time": "20m", "alertname": alert, "exp_alerts": [expected(alert, labels) for labels in fired]}
            for alert, fired in FIRED.items()
        ],
    }
    file = tmp_path / "test.json"
    file.write_text(json.dumps({"rule_files": [str(ROOT / "config/alerts.yml")], "tests": [case]}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
