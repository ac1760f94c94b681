from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from proxy.base.policy import NodeAdmin
from proxy.run import node_admin
from proxy.run.board import Board, NodeReport, Wishes, WorkerReport
from proxy.run.fleet_view import FleetView, Known
from proxy.run.node_admin import MAX_WISHES, NodeAdminApi, bounded, refusal
from tests.support.reports import node_report, worker_report

KEY, OTHER = "ab" * 20, "cd" * 20
KNOWN = Known(keys={KEY: "www.example.org", OTHER: "other.example.org"}, configured={"a": "enabled", "b": "enabled"})


def reports(nodes: Sequence[NodeReport], holders: dict[str, tuple[str, ...]]) -> list[WorkerReport]:
    return [worker_report("worker-0", 1, nodes=nodes, holders=holders)]


@pytest.mark.parametrize(
    ("asked", "nodes", "holders", "wishes", "part"),
    [
        ("a", {"a": "up", "b": "up"}, {KEY: ("a", "b")}, {}, ""),
        ("c", {"a": "up", "b": "up"}, {}, {}, "there is no node 'c'; the nodes are a, b"),
        ("c", {}, {}, {}, "there is no node 'c', nor any"),
        ("a", {"a": "up", "b": "up"}, {KEY: ("a",)}, {}, "no other node in rotation holds the key of www.example.org:"),
        (
            "a",
            {"a": "up", "b": "up"},
            {KEY: ("a",), OTHER: ("a",)},
            {},
            "the key of www.example.org and 1 more keys: without a nobody signs",
        ),
        # b holds it, but is not in rotation, or is not meant to be.
        ("a", {"a": "up", "b": "down"}, {KEY: ("a", "b")}, {}, "no other node in rotation"),
        ("a", {"a": "up", "b": "up"}, {KEY: ("a", "b")}, {"b": "draining"}, "no other node in rotation"),
        # Where the node does not sign anyway, another one that is meant to is enough.
        ("a", {"a": "down", "b": "down"}, {KEY: ("a", "b")}, {}, ""),
        ("a", {"a": "down", "b": "down"}, {KEY: ("a", "b")}, {"b": "disabled"}, "no other node in rotation"),
        ("a", {"a": "up"}, {}, {}, "a is the last enabled node"),
        # It was told so before: nothing gets worse.
        ("a", {"a": "draining", "b": "down"}, {KEY: ("a",)}, {"a": "draining"}, ""),
    ],
)
def test_the_last_node_of_a_key_is_not_taken_away_by_mistake(
    asked: str, nodes: dict[str, str], holders: dict[str, tuple[str, ...]], wishes: dict[str, NodeAdmin], part: str
) -> None:
    view = FleetView(reports([node_report(name, state=state) for name, state in nodes.items()], holders), KNOWN, wishes)
    for state in ("draining", "disabled"):
        sentence = refusal(view, KNOWN, asked, state, is_forced=False)  # type: ignore[arg-type]
        assert bool(sentence) == bool(part)
        assert part in sentence
    if asked in nodes:
        assert refusal(view, KNOWN, asked, "disabled", is_forced=True) == ""
        assert refusal(view, KNOWN, asked, "enabled", is_forced=False) == ""


def test_wishes_about_nodes_that_left_do_not_pile_up() -> None:
    states: dict[str, NodeAdmin] = {f"n{n}": "draining" for n in range(MAX_WISHES + 3)}
    kept = bounded(states, {"n0", "n1"})
    assert len(kept) == MAX_WISHES
    assert {"n0", "n1"} <= set(kept)
    assert not {"n2", "n3", "n4"} & set(kept)
    assert bounded({"gone": "draining"}, set()) == {"gone": "draining"}


class Fleet:
    """A board with one worker that does as it is told, as long as it listens."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.nodes = [node_report("a"), node_report("b")]
        self.listens = True

    def publish(self) -> None:
        """What a worker does four times a second."""
        if self.listens:
            wishes = self.board.wishes().states
            self.nodes = [msgspec.structs.replace(node, admin=wishes.get(node.name, "enabled")) for node in self.nodes]
        self.board.publish_worker(reports(self.nodes, {KEY: ("a", "b")})[0])

    async def live(self) -> None:
        """Publish for ever."""
        while True:
            self.publish()
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def fleet() -> AsyncIterator[Fleet]:
    board = Board.create()
    new = Fleet(board)
    new.publish()
    life = asyncio.ensure_future(new.live())
    yield new
    life.cancel()
    board.remove()


@pytest_asyncio.fixture
async def client(fleet: Fleet) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(NodeAdminApi(fleet.board, KNOWN).app())) as new:
        yield new


async def test_the_answer_comes_when_workers_know_and_nothing_is_under_way(fleet: Fleet, client: TestClient) -> None:
    asked = asyncio.ensure_future(client.post("/nodes/a/state", json={"state": "draining", "wait_s": 20}))
    while fleet.nodes[0].admin != "draining":
        await asyncio.sleep(0.005)
    assert not asked.done()  # one signature is under way
    fleet.nodes[0] = msgspec.structs.replace(fleet.nodes[0], in_flight=0)
    answer = await (await asked).json()
    assert answer == {
        "node": "a",
        "state": "draining",
        "before": "enabled",
        "in_flight": 0,
        "told": ["worker-0"],
        "not_told": [],
    }
    nodes = (await (await client.get("/nodes")).json())["nodes"]
    assert [(node["name"], node["admin"], node["asked_at_run_time"]) for node in nodes] == [
        ("a", "draining", True),
        ("b", "enabled", False),
    ]
    back = await (await client.post("/nodes/a/state", json={"state": "enabled"})).json()
    assert (back["before"], back["state"]) == ("draining", "enabled")


async def test_what_is_left_and_who_does_not_listen_is_told(
    fleet: Fleet, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_admin, "TOLD_WITHIN_S", 0.05)
    fleet.listens = False
    answer = await (await client.post("/nodes/a/state", json={"state": "disabled"})).json()
    assert (answer["told"], answer["not_told"], answer["in_flight"]) == ([], ["worker-0"], 1)


@pytest.mark.parametrize("listens", [True, False])
async def test_who_is_overruled_by_another_command_hears_so(fleet: Fleet, client: TestClient, listens: bool) -> None:
    fleet.listens = listens
    first = asyncio.ensure_future(client.post("/nodes/a/state", json={"state": "draining", "wait_s": 20}))
    while fleet.board.wishes().states.get("a") != "draining":
        await asyncio.sleep(0.001)
    fleet.listens = True
    assert (await client.post("/nodes/a/state", json={"state": "enabled"})).status == 200
    answer = await asyncio.wait_for(first, 5)
    assert answer.status == 409
    assert "a is to be enabled now" in (await answer.json())["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "part"),
    [
        ("/nodes/x/state", '{"state": "draining"}', 404, "there is no node 'x'"),
        ("/nodes/a/state", '{"state": "gone"}', 400, "the request body is wrong: Invalid enum value 'gone'"),
        ("/nodes/a/state", "{", 400, "the request body is wrong"),
        ("/nodes/a/state", '{"state": "draining", "wait_s": 1e9}', 400, "wait_s"),
        ("/nodes/a/state", '{"state": "draining", "why": "x"}', 400, "why"),
        ("/nodes/a", "{}", 404, "POST /nodes/a: Not Found"),
    ],
)
async def test_wrong_requests_change_nothing(
    fleet: Fleet, client: TestClient, path: str, body: str, status: int, part: str
) -> None:
    answer = await client.post(path, data=body)
    assert answer.status == status
    assert part in (await answer.json())["error"]
    assert fleet.board.wishes() == Wishes()


async def test_force_goes_before_caution(fleet: Fleet, client: TestClient) -> None:
    assert (await client.post("/nodes/a/state", json={"state": "disabled"})).status == 200
    refused = await client.post("/nodes/b/state", json={"state": "disabled"})
    assert refused.status == 409
    assert "--force" in (await refused.json())["error"]
    assert (await client.post("/nodes/b/state", json={"state": "disabled", "force": True})).status == 200
    assert fleet.board.wishes().states == {"a": "disabled", "b": "disabled"}


async def test_a_board_that_is_gone_is_told(fleet: Fleet, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: Board, _wishes: Wishes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Board, "publish_wishes", full)
    answer = await client.post("/nodes/a/state", json={"state": "draining"})
    assert (answer.status, await answer.json()) == (
        500,
        {"error": "the wish could not be written: No space left on device"},
    )
