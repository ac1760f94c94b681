"""The fault routes on a running node's management socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from hsm.node.app import Node
from hsm.node.config import load_config
from tests.support.node import NodeHome, make_home

SIMULATED = 'type = "simulated"\ni_know_this_is_not_an_hsm = true'
PATH = "/tokens/sim/faults"


class Api:
    """A client of one node's socket."""

    def __init__(self, node: Node) -> None:
        self.socket = str(node.management_socket)

    async def ask(self, method: str, path: str, body: object | None = None) -> tuple[int, Any]:
        connector = aiohttp.UnixConnector(path=self.socket)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://node{path}", json=body) as response,
        ):
            return response.status, await response.json()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("node"))


@pytest.fixture
async def api(home: NodeHome) -> AsyncIterator[Api]:
    """A node with a vault and a simulated token."""
    other = home.vault_token("sim", SIMULATED)
    node = Node(load_config(home.write_config(tokens=home.vault_token() + other)), home.path)
    with capture_logs():
        await node.start()
        yield Api(node)
        await node.stop()


async def test_a_fault_is_set_listed_and_cleared(api: Api) -> None:
    assert await api.ask("GET", PATH) == (200, {"token": "sim", "faults": []})
    status, answer = await api.ask("POST", PATH, {"kind": "slow", "factor": 4, "duration_s": 60})
    assert status == 201
    fault = answer["fault"]
    assert (fault["name"], fault["kind"], fault["factor"]) == ("slow", "slow", 4.0)
    assert 50 < fault["left_s"] <= 60
    await api.ask("POST", PATH, {"kind": "lost-key", "key": "www-*"})
    status, answer = await api.ask("GET", "/faults")
    assert (status, list(answer["tokens"])) == (200, ["sim"])
    assert [fault["name"] for fault in answer["tokens"]["sim"]] == ["slow", "lost-key:www-*"]
    assert "left_s" not in answer["tokens"]["sim"][1]
    status, answer = await api.ask("DELETE", f"{PATH}?name=lost-key:www-*")
    assert [fault["name"] for fault in answer["cleared"]] == ["lost-key:www-*"]
    status, answer = await api.ask("DELETE", PATH)
    assert [fault["name"] for fault in answer["cleared"]] == ["slow"]
    assert await api.ask("DELETE", PATH) == (200, {"cleared": []})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"kind": "melt"}, "the request body is no fault: Invalid enum value 'melt'"),
        ({"kind": "hang", "rate": 0.5}, "a hang fault has no rate; it takes duration_s"),
        ({"kind": "error", "rate": 7}, "the request body is no fault: Expected `float` <= 1"),
        ({"kind": "hang", "until": 3}, "unknown field `until`"),
        (None, "the request body is no fault: "),
    ],
)
async def test_what_is_no_fault_is_one_clear_sentence(api: Api, body: object, words: str) -> None:
    status, answer = await api.ask("POST", PATH, body)
    assert status == 400
    assert words in answer["error"]
    assert (await api.ask("GET", PATH))[1]["faults"] == []


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_other_tokens_have_no_faults(api: Api, method: str) -> None:
    body = {"kind": "hang"} if method == "POST" else None
    assert await api.ask(method, "/tokens/vault/faults", body) == (
        400,
        {"error": "token 'vault' is a vault token; only simulated ones have faults to switch"},
    )
    assert await api.ask(method, "/tokens/nix/faults", body) == (404, {"error": "this node has no token 'nix'"})


async def test_a_fault_that_is_not_on_can_not_be_cleared(api: Api) -> None:
    await api.ask("POST", PATH, {"kind": "hang"})
    status, answer = await api.ask("DELETE", f"{PATH}?name=slow&name=hang")
    assert (status, answer["error"]) == (404, "no fault 'slow' is on; on are: hang")
    assert len((await api.ask("GET", PATH))[1]["faults"]) == 1, "nothing was cleared"


async def test_status_tells_of_faults(api: Api) -> None:
    await api.ask("POST", PATH, {"kind": "crash"})
    tokens = {token["name"]: token for token in (await api.ask("GET", "/status"))[1]["tokens"]}
    assert tokens["sim"]["state"] == "restarting"
    assert tokens["sim"]["details"]["faults"] == ["crash"]
    assert "not an HSM" in tokens["sim"]["details"]["warning"]
    assert "faults" not in tokens["vault"]["details"]


async def test_a_node_without_simulated_tokens_says_so(home: NodeHome) -> None:
    node = Node(load_config(home.write_config("plain")), home.path)
    with capture_logs():
        await node.start()
        api = Api(node)
        assert await api.ask("GET", "/faults") == (
            404,
            {"error": "this node has no simulated token, so there are no faults to switch"},
        )
        assert (await api.ask("POST", "/tokens/vault/faults", {"kind": "hang"}))[0] == 400
        await node.stop()
