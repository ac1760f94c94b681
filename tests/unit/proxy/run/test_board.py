from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from proxy.run.board import STALE_S, WISHES, Board, MasterReport, Wishes, WorkerReport, is_fresh
from proxy.run.cells import Family, Kind, Ledger, Snapshot, merge

SERVED = Family(name="served_total", help="", kind=Kind.COUNTER)


def report(incarnation: int, served: float = 0, slot: str = "worker-0") -> WorkerReport:
    ledger = Ledger()
    ledger.cells(SERVED)[()].value = served
    return WorkerReport(
        slot=slot,
        incarnation=incarnation,
        pid=1000 + incarnation,
        generation=1,
        at=time.monotonic(),
        is_ready=True,
        is_draining=False,
        snapshot=ledger.snapshot(),
    )


@pytest.fixture
def board() -> Iterator[Board]:
    new = Board.create()
    yield new
    new.remove()


def total(board: Board) -> float:
    living, past = board.living_and_past()
    merged = merge([SERVED], [each.snapshot for each in living], [past.snapshot])
    return sum(value for _, value in merged.numbers["served_total"])


def test_the_folder_is_private_and_goes_away(board: Board) -> None:
    assert stat.S_IMODE(board.folder.stat().st_mode) == 0o700
    board.publish_worker(report(1))
    board.remove()
    assert not board.folder.exists()
    board.remove()


def test_what_killed_masters_left_is_removed_and_what_somebody_holds_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.run.board.board_parent", lambda: tmp_path)
    held, killed, young = Board.create(), Board.create(), Board.create()
    held.publish_worker(report(1))
    killed.publish_worker(report(1))
    for board in (killed, young):
        os.close(board._held_fd)  # as the kernel does when the last of its processes ends
    for board in (held, killed):
        os.utime(board.folder, (0, 0))
    new = Board.create()
    assert set(tmp_path.iterdir()) == {held.folder, young.folder, new.folder}
    assert [each.incarnation for each in held.workers()] == [1]
    held.remove()
    new.remove()


def test_reports_are_replaced_and_read_in_order_of_forking(board: Board) -> None:
    for incarnation in (10, 9, 2):
        board.publish_worker(report(incarnation))
    board.publish_worker(report(9, served=5))
    assert [each.incarnation for each in board.workers()] == [2, 9, 10]
    assert total(board) == 5


def test_counts_of_the_dead_stay_and_their_files_go(board: Board) -> None:
    board.publish_worker(report(1, served=3))
    board.publish_worker(report(2, served=4))
    board.bury(1, [SERVED])
    assert [each.incarnation for each in board.workers()] == [2]
    assert total(board) == 7
    board.bury(2, [SERVED])
    board.bury(3, [SERVED])  # died before it ever reported
    assert total(board) == 7
    assert [path.name for path in board.folder.iterdir()] == ["past"]


def test_counts_of_nodes_that_nobody_knows_any_more_go(board: Board) -> None:
    asked = Family(name="asked_total", help="", kind=Kind.COUNTER, labels=("node", "outcome"))
    took = Family(name="took_seconds", help="", kind=Kind.HISTOGRAM, labels=("scheme", "node"), bounds=(1.0,))

    def publish(incarnation: int, *nodes: str) -> None:
        ledger = Ledger()
        for node in nodes:
            ledger.cells(asked)[node, "ok"].value = 1
            ledger.spreads(took)["ed25519", node].observe(0.5)
        board.publish_worker(msgspec.structs.replace(report(incarnation), snapshot=ledger.snapshot()))

    def counts() -> dict[str, float]:
        past = board.past().snapshot
        named = {labels[0]: number for labels, number in past.numbers["asked_total"]}
        assert {labels[1] for labels, _ in past.histograms["took_seconds"]} == set(named)
        return named

    publish(1, "listed", "found-1")
    publish(2, "listed", "found-1", "found-2")
    board.bury(1, [asked, took, SERVED])
    assert counts() == {"listed": 1, "found-1": 1}
    publish(2, "listed", "found-2")  # found-1 was forgotten
    board.bury(2, [asked, took, SERVED])
    assert counts() == {"listed": 2, "found-2": 1}
    for incarnation in range(3, 50):
        publish(incarnation, "listed", f"found-{incarnation}")
        board.bury(incarnation, [asked, took, SERVED])
    assert counts() == {"listed": 49, "found-49": 1}


def test_a_worker_is_not_counted_twice_while_it_is_being_buried(board: Board) -> None:
    board.publish_worker(report(1, served=3))
    copy = (board.folder / "worker-1").read_bytes()
    board.bury(1, [SERVED])
    (board.folder / "worker-1").write_bytes(copy)  # as a reader sees it between the two steps
    assert total(board) == 3


def test_a_dead_worker_is_not_taken_for_a_living_one_where_its_counts_can_not_be_kept(board: Board) -> None:
    board.publish_worker(report(1, served=3))
    (board.folder / "past.new").mkdir()
    with pytest.raises(OSError, match=r"past\.new"):
        board.bury(1, [SERVED])
    assert board.workers() == []


def test_what_can_not_be_read_is_absent(board: Board) -> None:
    (board.folder / "worker-1").write_bytes(b"\xc1 not msgpack")
    (board.folder / "worker-2.new").write_bytes(msgspec.msgpack.encode(report(2)))
    assert board.workers() == []
    assert board.master() is None
    assert board.past().snapshot == Snapshot()


def test_the_master_reports_too(board: Board) -> None:
    wanted = MasterReport(
        pid=1, version="1", generation=1, started="now", is_draining=False, slots=(), listeners=("127.0.0.1:1",)
    )
    board.publish_master(wanted)
    assert board.master() == wanted


def test_a_report_gets_stale() -> None:
    assert is_fresh(report(1))
    assert not is_fresh(msgspec.structs.replace(report(1), at=time.monotonic() - STALE_S))


def test_wishes_are_replaced_whole_and_each_change_is_seen_without_reading(board: Board) -> None:
    assert board.wishes() == Wishes()
    versions = [board.wishes_version()]
    assert versions == [None]
    for state in ("draining", "disabled", "enabled"):
        board.publish_wishes(Wishes(states={"node-1": state}))  # type: ignore[dict-item]
        versions.append(board.wishes_version())
    assert len(set(versions)) == 4
    assert board.wishes_version() == versions[-1]
    assert board.wishes().states == {"node-1": "enabled"}
    (board.folder / WISHES).write_bytes(b"nonsense")
    assert board.wishes() == Wishes()
    assert board.workers() == []
