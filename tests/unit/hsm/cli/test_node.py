"""`sealgate node`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs
from typer.testing import CliRunner

from hsm.cli.node import _status_lines, node_app
from hsm.node import app, check
from hsm.node.config import load_config
from hsm.shared.exposition import ListenError
from tests.support.node import NodeHome, make_home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeHome:
    # The test process must stay debuggable; tests/behaviour looks at the real program.
    monkeypatch.setattr(check, "harden_process", lambda: None)
    return make_home(tmp_path)


@pytest.mark.usefixtures("_logs_as_before")
def test_check_says_that_a_config_is_right(home: NodeHome) -> None:
    path = home.write_config()
    result = CliRunner().invoke(node_app, ["check", "--config", str(path)])
    assert result.exit_code == 0
    assert result.stdout == f"{path}: right; node 'node-1', 2 keys, 1 access rule\n"


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_wrong_config_is_one_clear_message(home: NodeHome, command: str) -> None:
    path = home.write_config(extra="[opps]\n")
    result = CliRunner().invoke(node_app, [command, "--config", str(path)])
    assert result.exit_code == 1
    assert "opps: unknown key; did you mean 'ops'?" in result.stderr
    assert "Traceback" not in result.output


def test_a_missing_config_is_one_clear_message(tmp_path: Path) -> None:
    result = CliRunner().invoke(node_app, ["run", "--config", str(tmp_path / "none.toml")])
    assert result.exit_code == 1
    assert "can't be read: No such file" in result.stderr


def test_a_vault_that_does_not_open_is_one_clear_message(home: NodeHome) -> None:
    path = home.write_config()
    home.key_file.write_bytes(b"w" * 32)
    result = CliRunner().invoke(node_app, ["check", "--config", str(path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("can't open the vault of token 'vault': ")


def test_an_address_in_use_is_one_clear_message(home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> None:
        raise ListenError("can't listen on 127.0.0.1:1: in use")

    monkeypatch.setattr(app, "run", refuse)
    result = CliRunner().invoke(node_app, ["run", "--config", str(home.write_config())])
    assert result.exit_code == 1
    assert result.stderr == "can't listen on 127.0.0.1:1: in use\n"


def test_programming_errors_are_not_hidden(home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_path: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app, "run", crash)
    result = CliRunner().invoke(node_app, ["run", "--config", str(home.write_config())])
    assert isinstance(result.exception, ZeroDivisionError)


async def test_status_says_how_a_running_node_is(home: NodeHome) -> None:
    path = home.write_config()
    node = app.Node(load_config(path), home.path)
    with capture_logs():
        await node.start()
        plain = await asyncio.to_thread(CliRunner().invoke, node_app, ["status", "--config", str(path)])
        as_json = await asyncio.to_thread(CliRunner().invoke, node_app, ["status", "--config", str(path), "--json"])
        await node.stop()
    assert plain.exit_code == 0
    assert ": ready, up " in plain.stdout
    assert "\nkeys 2\nconnections 0 of 1024\ntoken vault (vault): up, keys 2\n  cheap: 0 of 1 signing" in plain.stdout
    assert json.loads(as_json.stdout)["tokens"][0]["lanes"]["dear"]["queue_limit"] == 1024


def test_status_says_what_a_token_is_and_what_is_wrong_with_it() -> None:
    lane = {"queued": 0, "queue_limit": 4, "in_flight": 0, "places": 2, "abandoned": 0, "service_s": 0.001}
    hsm = {
        "label": "web",
        "serial": "77",
        "library": "SoftHSM 2.6",
        "worker_pid": None,
        "workers_started": 3,
        "openings": 2,
        "crashes": 1,
        "hangs": 0,
        "problem": "the token is not there",
        "left_out": ["key 'x': its public key is not known"],
    }
    status: dict[str, Any] = {
        "name": "node-1",
        "version": "1",
        "is_ready": True,
        "is_draining": False,
        "uptime_s": 5.0,
        "keys": 0,
        "connections": 0,
        "connections_limit": 9,
        "tokens": [
            {
                "name": "hsm",
                "kind": "pkcs11",
                "state": "backing_off",
                "keys": 0,
                "lanes": {"awaited": lane},
                "details": hsm,
            },
            {
                "name": "sim",
                "kind": "simulated",
                "state": "up",
                "keys": 0,
                "lanes": {},
                "details": {"warning": "this is not an HSM", "profile": "yubihsm2", "faults": ["hang"]},
            },
        ],
    }
    assert _status_lines(status).splitlines()[3:] == [
        "token hsm (pkcs11): backing off, keys 0",
        "  last problem: the token is not there",
        "  token 'web', serial 77, SoftHSM 2.6",
        "  no worker now; workers started 3, openings 2, crashes 1, hangs 0",
        "  left out: key 'x': its public key is not known",
        "  awaited: 0 of 2 signing, 0 of them abandoned; 0 of 4 waiting; 1000 us per signature",
        "token sim (simulated): up, keys 0",
        "  this is not an HSM",
        "  profile yubihsm2; faults on: hang",
    ]
    refused = _status_lines({**status, "tokens": [{**status["tokens"][0], "state": "pin_refused"}]})
    assert "put the right PIN where the config says it is" in refused
    assert "`sealgate node retry hsm`" in refused


@pytest.mark.parametrize("option", ["--config", "--socket"])
def test_what_may_not_be_read_is_told_by_our_own_sentences(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the parser of the command line, which says nothing of what to do."""
    (tmp_path / "place").touch()
    monkeypatch.setattr(os, "access", lambda *_more, **_named: False)
    result = CliRunner().invoke(node_app, ["status", option, str(tmp_path / "place")])
    assert (result.exit_code, "Usage" in result.stderr) == (1, False)
    assert len(result.stderr.splitlines()) == 1 or option == "--config"


@pytest.fixture
def _logs_as_before() -> Iterator[None]:
    """A reload may configure the logs of the whole process."""
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("_logs_as_before")
async def test_reload_says_what_is_in_effect_and_what_is_not(home: NodeHome) -> None:
    path = home.write_config()
    node = app.Node(load_config(path), home.path, path)

    async def reload(*options: str) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, node_app, ["reload", "--config", str(path), *options])

    with capture_logs():
        await node.start()
        same = await reload()
        home.write_config(extra='[log]\nlevel = "error"\n', listen="backlog = 7", rule="max_rate = 5")
        changed = await reload()
        again = await reload("--json")
        path.write_text(path.read_text().replace("max_rate = 5", "max_rate = 0"))
        wrong = await reload()
        await node.stop()
    assert (same.exit_code, same.stdout) == (0, "nothing changed: the config says what the node does already\n")
    assert changed.stdout == "in effect now: access, log.level\nwaits for a restart of the node: listen.backlog\n"
    assert json.loads(again.stdout) == {"applied": [], "needs_restart": ["listen.backlog"]}
    assert wrong.exit_code == 1
    assert f"{path}:" in wrong.stderr
    assert "access[0].max_rate" in wrong.stderr


def test_the_status_of_no_node_is_one_clear_message(home: NodeHome) -> None:
    result = CliRunner().invoke(node_app, ["status", "--socket", str(home.path / "gone.sock")])
    assert result.exit_code == 1
    assert result.stderr == f"there is no socket {home.path}/gone.sock; is the node running?\n"
