"""`sealgate node fault` and `sealgate node profiles`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from hsm.backends.simulated.faults import FaultKind
from hsm.backends.simulated.profiles import PROFILES
from hsm.cli.fault import Kind
from hsm.cli.node import node_app
from hsm.node.app import Node
from hsm.node.config import load_config
from tests.support.node import NodeHome, make_home

SIMULATED = 'type = "simulated"\ni_know_this_is_not_an_hsm = true'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("node"))


class Shell:
    """Runs commands beside the event loop in which the node serves."""

    def __init__(self, config: Path) -> None:
        self.config = config

    async def run(self, *arguments: str) -> Result:
        command = [*arguments, "--config", str(self.config)]
        return await asyncio.to_thread(CliRunner().invoke, node_app, command)


@asynccontextmanager
async def node_with(home: NodeHome, *names: str) -> AsyncIterator[Shell]:
    tokens = "".join(home.vault_token(name, SIMULATED) for name in names) or home.vault_token()
    config = home.write_config(tokens=tokens)
    node = Node(load_config(config), home.path)
    with capture_logs():
        await node.start()
        yield Shell(config)
        await node.stop()


async def test_faults_of_the_only_simulated_token(home: NodeHome) -> None:
    async with node_with(home, "sim") as shell:
        assert (await shell.run("fault", "list")).stdout == "sim: no faults\n"
        made = await shell.run("fault", "set", "slow", "--factor", "3", "--duration", "100")
        assert made.stdout == "sim: slow x3, on for 0.0 s, ends in 100.0 s\n"
        made = await shell.run("fault", "set", "error", "--rate", "0.25", "--key", "www-*", "--json")
        assert json.loads(made.stdout)["name"] == "error:www-*"
        listed = (await shell.run("fault", "list")).stdout.splitlines()
        assert listed[0].startswith("sim: slow x3, on for ")
        assert listed[1].startswith("sim: error rate 0.25 of www-*, on for ")
        assert listed[1].endswith(" (name error:www-*)")
        as_json = json.loads((await shell.run("fault", "list", "--json")).stdout)
        assert [fault["kind"] for fault in as_json["sim"]] == ["slow", "error"]
        status = (await shell.run("status")).stdout
        assert "token sim (simulated): up" in status
        assert "this is not an HSM" in status
        assert (await shell.run("fault", "clear", "error:www-*")).stdout == "sim: cleared error:www-*\n"
        assert json.loads((await shell.run("fault", "clear", "--json")).stdout)[0]["name"] == "slow"
        assert (await shell.run("fault", "clear")).stdout == "sim: cleared nothing, no fault was on\n"


async def test_one_of_several_tokens_must_be_named(home: NodeHome) -> None:
    async with node_with(home, "one", "two") as shell:
        result = await shell.run("fault", "set", "hang")
        assert (result.exit_code, result.stderr) == (1, "which token? Give --token; this node has one, two\n")
        assert (await shell.run("fault", "set", "hang", "--token", "two")).exit_code == 0
        assert [line[:9] for line in (await shell.run("fault", "list")).stdout.splitlines()] == [
            "one: no f",
            "two: hang",
        ]
        assert (await shell.run("fault", "clear", "--token", "two")).stdout == "two: cleared hang\n"


async def test_a_node_without_simulated_tokens_is_one_clear_sentence(home: NodeHome) -> None:
    async with node_with(home) as shell:
        for arguments in (("list",), ("set", "hang"), ("clear",)):
            result = await shell.run("fault", *arguments)
            assert result.exit_code == 1
            assert result.stderr == "this node has no simulated token, so there are no faults to switch\n"
        result = await shell.run("fault", "set", "hang", "--token", "vault")
        assert result.stderr == "token 'vault' is a vault token; only simulated ones have faults to switch\n"


def test_no_node_is_one_clear_sentence(tmp_path: Path) -> None:
    socket = tmp_path / "gone.sock"
    result = CliRunner().invoke(node_app, ["fault", "list", "--socket", str(socket)])
    assert (result.exit_code, result.stderr) == (1, f"there is no socket {socket}; is the node running?\n")


@pytest.mark.parametrize(("option", "value"), [("--rate", "5"), ("--factor", "0"), ("--duration", "-3")])
def test_numbers_out_of_range_are_told_before_a_node_is_asked(option: str, value: str) -> None:
    command = ["fault", "set", "slow", option, value, "--socket", "/nonexistent.sock"]
    result = CliRunner().invoke(node_app, command)
    assert result.exit_code == 2
    assert option in result.stderr


def test_every_kind_of_fault_can_be_set() -> None:
    assert [kind.value for kind in Kind] == [kind.value for kind in FaultKind]


def _profiles(*arguments: str) -> str:
    result = CliRunner().invoke(node_app, ["profiles", *arguments])
    assert result.exit_code == 0
    return result.stdout


def test_profiles_are_shown_with_every_source() -> None:
    text = _profiles()
    for profile in PROFILES.values():
        assert f"{profile.name}: {profile.title}\n" in text
        for source in (profile.concurrency_source, *(key.rate_source for key in profile.keys)):
            assert f"] {source.basis.value}: {source.says}" in text
            assert source.url in text
    assert "p256               250 [6]         6 ms      18 ms [4]\n" in text
    assert "estimated: nobody publishes it." in text


def test_profiles_are_shown_to_programs() -> None:
    found = json.loads(_profiles("--json"))
    by_name: Callable[[str], object] = {profile["name"]: profile for profile in found}.__getitem__
    assert len(found) == len(PROFILES)
    luna = by_name("luna-a790")
    assert isinstance(luna, dict)
    figures = {key["type"]: key for key in luna["keys"]}
    assert figures["rsa-2048"]["rate"] == 10_000
    assert figures["rsa-2048"]["rate_source"]["basis"] == "reported"
    assert figures["p256"]["latency_source"]["basis"] == "estimated"
