"""`sealgate node retry` against a socket that answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hsm.cli import retry
from hsm.cli.management_client import ManagementProblem
from hsm.cli.node import node_app


def test_it_asks_the_node_and_says_what_the_token_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def call(socket: Path, method: str, path: str) -> dict[str, str]:
        asked.append((socket, method, path))
        return {"token": "hsm", "state": "backing_off"}

    monkeypatch.setattr(retry, "call", call)
    ran = CliRunner().invoke(node_app, ["retry", "hsm", "--socket", "/run/node.sock"])
    assert (ran.exit_code, ran.output) == (0, "hsm: backing off\n")
    assert asked == [(Path("/run/node.sock"), "POST", "/tokens/hsm/retry")]
    ran = CliRunner().invoke(node_app, ["retry", "hsm", "--socket", "/run/node.sock", "--json"])
    assert '"state": "backing_off"' in ran.output


def test_what_the_node_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(socket: Path, method: str, path: str) -> dict[str, str]:
        raise ManagementProblem("this node has no token 'x'")

    monkeypatch.setattr(retry, "call", call)
    ran = CliRunner().invoke(node_app, ["retry", "x", "--socket", "/run/node.sock"])
    assert ran.exit_code == 1
    assert ran.output == "this node has no token 'x'\n"
