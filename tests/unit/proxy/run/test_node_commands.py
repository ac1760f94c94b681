from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proxy.run import admin_client
from proxy.run.fleet_view import FleetView, Known
from proxy.run.node_commands import left_sentence, proxy_node_app, told_sentence
from tests.support.reports import node_report, worker_report

ANSWER = {"node": "a", "state": "draining", "before": "enabled", "in_flight": 0, "told": ["w0", "w1"], "not_told": []}


def test_sentences_say_what_is_done_and_what_is_not() -> None:
    assert told_sentence(ANSWER) == "a: draining (was enabled) at 2 workers"
    assert told_sentence({**ANSWER, "before": "draining", "told": ["w0"]}) == "a: draining (already) at 1 worker"
    assert left_sentence(ANSWER, 5) == ""
    assert left_sentence({**ANSWER, "in_flight": 3}, 5) == "3 signatures are under way there still, after 5 s"
    assert left_sentence({**ANSWER, "in_flight": 3, "state": "enabled"}, 5) == ""
    assert left_sentence({**ANSWER, "not_told": ["w1"]}, 5).startswith("not heard by w1 yet")


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (["drain", "a"], ("a", "draining", False, 5.0)),
        (["disable", "a", "--force", "--wait", "0"], ("a", "disabled", True, 0.0)),
        (["enable", "a"], ("a", "enabled", False, 0.0)),
    ],
)
def test_commands_ask_for_states(
    command: list[str], asked: tuple[str, str, bool, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, str, bool, float]] = []

    def hear(path: Path, name: str, state: str, *, force: bool, wait_s: float) -> dict[str, Any]:
        heard.append((name, state, force, wait_s))
        return {**ANSWER, "state": state}

    monkeypatch.setattr(admin_client, "set_state", hear)
    done = CliRunner().invoke(proxy_node_app, [*command, "--socket", "/somewhere"])
    assert (done.exit_code, heard) == (0, [asked]), done.output
    assert done.output.startswith(f"a: {asked[1]} (")


def test_what_is_left_under_way_is_an_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "set_state", lambda *_, **__: {**ANSWER, "in_flight": 2})
    done = CliRunner().invoke(proxy_node_app, ["drain", "a", "--socket", "/somewhere"])
    assert done.exit_code == 1
    assert "2 signatures are under way there still" in done.output


def test_the_list_shows_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    view = FleetView([worker_report("w0", 1, nodes=[node_report("node-1")])], Known(), {"node-1": "draining"})
    monkeypatch.setattr(admin_client, "list_nodes", lambda _path: view.nodes())
    done = CliRunner().invoke(proxy_node_app, ["list", "--socket", "/somewhere"])
    assert "node-1: draining (asked at run time)" in done.output
    done = CliRunner().invoke(proxy_node_app, ["list", "--socket", "/somewhere", "--json"])
    assert '"asked_at_run_time": true' in done.output


def test_who_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(proxy_node_app, ["drain", "a", "--socket", str(tmp_path / "s")])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "is the proxy running?" in done.output
