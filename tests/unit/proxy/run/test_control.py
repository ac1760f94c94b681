from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from aiohttp.test_utils import TestClient, TestServer

from proxy.run import metrics
from proxy.run.board import Board, MasterReport, WorkerReport
from proxy.run.cells import Ledger
from proxy.run.control import Control, control_app, fleet_numbers, names_of_keys, status, unready_reasons
from proxy.run.fleet_view import Known
from tests.support.reports import master_report, node_report, worker_report


@pytest.fixture
def board() -> Iterator[Board]:
    new = Board.create()
    yield new
    new.remove()


@pytest.mark.parametrize(
    ("master", "workers", "reasons"),
    [
        (None, list, ["the master has not reported"]),
        (master_report(is_draining=True), list, ["draining"]),
        (master_report(), list, ["worker-0: is starting"]),
        (master_report(worker_pids=(0,)), lambda: [worker_report("worker-0", 11)], ["worker-0: is starting"]),
        (master_report(worker_pids=(12,)), lambda: [worker_report("worker-0", 11)], ["worker-0: is starting"]),
        (
            master_report(),
            lambda: [worker_report("worker-0", 11, because="no node is up for key ab")],
            ["worker-0: no node is up for key ab"],
        ),
        (
            master_report(),
            lambda: [worker_report("worker-0", 11, age_s=60)],
            ["worker-0: has not reported for a while"],
        ),
        (master_report(), lambda: [worker_report("worker-0", 11)], []),
        (
            master_report(worker_pids=(11, 12)),
            lambda: [worker_report("worker-0", 11), worker_report("worker-1", 12, because="is starting")],
            ["worker-1: is starting"],
        ),
    ],
)
def test_it_is_ready_when_every_worker_is(
    master: MasterReport | None, workers: Callable[[], list[WorkerReport]], reasons: list[str]
) -> None:
    assert unready_reasons(master, workers()) == reasons  # made now: reports get stale


def test_a_node_is_up_where_every_worker_sees_it_up() -> None:
    workers = [
        worker_report("worker-0", 11, nodes={"a": "up", "b": "up"}),
        worker_report("worker-1", 12, nodes={"a": "up", "b": "down"}),
    ]
    shown = status(master_report(worker_pids=(11, 12)), workers)
    a, b = shown["nodes"]
    assert (a["name"], a["up"], a["states"], a["in_flight"]) == ("a", True, {"worker-0": "up", "worker-1": "up"}, 2)
    assert (b["up"], b["signatures"], b["failures"]) == (False, 6, 2)
    assert shown["ready"]
    assert [worker["pid"] for worker in shown["workers"]] == [11, 12]


async def test_it_serves_the_sum_over_living_and_dead_workers(board: Board) -> None:
    for pid in (11, 12):
        ledger = Ledger()
        ledger.cells(metrics.SESSIONS)["site", "TLSv1.3", "false"].value = pid
        ledger.cells(metrics.SESSIONS_ACTIVE)["site", "TLSv1.3"].value = 1
        board.publish_worker(worker_report("worker-0", pid, snapshot=ledger.snapshot()))
    board.bury(11, metrics.FAMILIES.values())
    board.publish_master(master_report(worker_pids=(12,)))
    async with TestClient(TestServer(control_app(Control(board)))) as client:
        text = await (await client.get("/metrics")).text()
        assert 'sealgate_tls_sessions_total{resumed="false",site="site",version="TLSv1.3"} 23.0' in text
        assert 'sealgate_tls_sessions_active{site="site",version="TLSv1.3"} 1.0' in text
        assert 'sealgate_workers{state="ready"} 1.0' in text
        assert (await client.get("/readyz")).status == 200
        assert (await client.get("/healthz")).status == 200
        shown = await (await client.get("/status")).json()
        assert shown["master"]["listeners"] == ["127.0.0.1:8443"]
        assert shown["sessions"] == {"active": 1, "total": 12}
        assert shown["headroom"]["reasons"] == ["no node is in rotation"]
        assert shown["control_socket"] == ""


async def test_an_empty_board_is_alive_in_no_sense(board: Board) -> None:
    async with TestClient(TestServer(control_app(Control(board)))) as client:
        assert (await client.get("/readyz")).status == 503
        assert (await client.get("/healthz")).status == 503
        assert (await client.get("/metrics")).status == 200
        assert (await (await client.get("/status")).json())["ready"] is False


def test_restarts_are_counted_per_role() -> None:
    numbers = fleet_numbers(master_report(worker_pids=(11, 12, 0)), [worker_report("worker-0", 11)]).numbers
    assert dict(numbers["sealgate_process_restarts_total"]) == {("control",): 0, ("worker",): 3}
    assert dict(numbers["sealgate_workers"]) == {("running",): 2, ("ready",): 1, ("draining",): 0}


def test_status_and_metrics_judge_the_fleet_by_what_the_config_says() -> None:
    nodes = [node_report(name, rate=50, capacity=200) for name in ("a", "b")]
    workers = [worker_report("worker-0", 11, nodes=nodes, holders={"ab": ("a",)})]
    known = Known(keys={"ab": "www.example.org"}, configured={"a": "enabled", "b": "disabled"})
    shown = status(master_report(), workers, known, {"b": "enabled"})
    assert shown["headroom"]["reasons"] == ["a alone holds the key of www.example.org"]
    assert [node["asked_at_run_time"] for node in shown["nodes"]] == [False, True]
    numbers = {
        name: dict(values) for name, values in fleet_numbers(master_report(), workers, known, {}).numbers.items()
    }
    assert numbers["sealgate_headroom_lonely_keys"] == {(): 1}
    assert numbers["sealgate_node_admin"]["b", "disabled"] == 1


def test_a_key_is_told_by_its_sites() -> None:
    class Certificate:
        def __init__(self, ski: bytes, site: str) -> None:
            self.ski, self.site = ski, site

    found = [Certificate(b"\1", "a.test"), Certificate(b"\2", "b.test"), Certificate(b"\1", "c.test")]
    found.append(Certificate(b"\2", "b.test"))
    assert names_of_keys(found) == {"01": "a.test (and 1 more site)", "02": "b.test"}  # type: ignore[arg-type]
