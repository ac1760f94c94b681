"""`sealgate chaos` with what can't be played: one clear message, and nothing is started."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from proxy.cli import app


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fault", "flood"], "there is no fault 'flood'; choose from kill, hang"),
        (["--scenario", "two-sites", "--fault", "kill"], "has a fault of its own"),
        (["--nodes", "1"], "--nodes"),
        (["--load", "0"], "--load"),
        (["--scenario", "flood"], "two-sites"),
    ],
)
def test_what_can_not_be_played_is_said(arguments: list[str], message: str) -> None:
    result = CliRunner(env={"COLUMNS": "400", "TERM": "dumb"}).invoke(app, ["chaos", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_help_names_every_fault() -> None:
    output = CliRunner(env={"COLUMNS": "400", "TERM": "dumb"}).invoke(app, ["chaos", "--help"]).output
    for name in ("kill", "half-open", "all-down", "--json", "--rate-per-node"):
        assert name in output
