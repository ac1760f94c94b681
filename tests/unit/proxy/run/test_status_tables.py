from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

import msgspec

from hsm.shared.exposition import json_response
from proxy.run.control import status
from proxy.run.fleet_view import Known
from proxy.run.status import Status
from proxy.run.status_tables import (
    duration,
    headroom_lines,
    note_lines,
    print_nodes,
    print_tables,
    reason_lines,
    rounded,
)
from tests.support.reports import master_report, node_report, worker_report

KEY = "ab" * 20


def answer(**wishes: Any) -> Status:
    """What a proxy with three nodes answers, read as the command reads it."""
    nodes = [
        node_report("node-1", rate=60, capacity=150, zone="eu-central-1a"),
        node_report("node-2", rate=60, capacity=150, zone="eu-central-1b", latency_s=0),
        node_report("node-3", rate=60, capacity=150, state="ejected", zone="eu-central-1c", latency_s=1.234),
    ]
    nodes = [msgspec.structs.replace(node, address="192.168.100.101:9400", signatures=1234567) for node in nodes]
    workers = [worker_report("worker-0", 11, nodes=nodes, holders={KEY: ("node-2",)})]
    shown = status(master_report(), workers, Known(keys={KEY: "www.example.org"}), wishes)
    body = json_response(shown).body
    assert isinstance(body, bytes)
    return msgspec.structs.replace(msgspec.json.decode(body, type=Status), raw=body)


def printed(shown: Status) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        print_tables(shown)
    return out.getvalue()


def test_it_says_whether_a_node_may_be_lost_and_why_not() -> None:
    text = printed(answer())
    assert "signing: 180/s used of about 300/s (estimated); safe if one node is lost: no" in text
    assert "  without node-1 the others make 150/s, 180/s are needed" in text
    assert "  node-2 alone holds the key of www.example.org" in text


def test_a_hundred_columns_are_enough() -> None:
    lines = printed(answer(**{"node-1": "draining"})).splitlines()
    assert max(len(line) for line in lines) <= 100
    row = next(line for line in lines if "node-3" in line)
    for part in ("192.168.100.101:9400", "eu-central-1c", "ejected", "1/16", "1.2 s", "60/~150", "1234567"):
        assert part in row, f"{part} is not whole in {row}"
    assert "node-1: draining (asked at run time)" in lines


def test_an_address_of_ipv6_is_shown_whole() -> None:
    nodes = msgspec.json.decode(msgspec.json.encode(answer().nodes))
    nodes[0]["address"] = "[fd00::5]:7443"
    out = io.StringIO()
    with redirect_stdout(out):
        print_nodes(nodes)
    assert "[fd00::5]:7443" in out.getvalue()


def test_zones_take_no_place_where_there_are_none() -> None:
    nodes = msgspec.json.decode(msgspec.json.encode(answer().nodes))
    out = io.StringIO()
    with redirect_stdout(out):
        print_nodes([{**node, "zone": ""} for node in nodes])
        print_nodes([])
    assert "zone" not in out.getvalue()
    assert "there are no nodes" in out.getvalue()


def test_capacities_that_are_certain_are_not_about() -> None:
    shown = {**answer().headroom, "basis": "configured", "n_minus_1_safe": True, "reasons": []}
    assert headroom_lines(shown) == ["signing: 180/s used of 300/s (configured); safe if one node is lost: yes"]
    assert headroom_lines({}) == []


def test_durations_are_short() -> None:
    assert [duration(each) for each in (0.0, 0.00123, 0.25, 2.0)] == ["-", "1.2 ms", "250.0 ms", "2.0 s"]


def test_why_a_node_does_not_sign_stands_below_the_table() -> None:
    workers = [
        worker_report("worker-0", 11, nodes={"node-1": "down", "node-2": "ejected", "node-3": "draining"}),
        worker_report("worker-1", 12, nodes={"node-1": "down", "node-2": "up", "node-3": "draining"}),
    ]
    nodes = status(master_report(worker_pids=(11, 12)), workers, Known(), {"node-3": "draining"})["nodes"]
    nodes[0]["last_error"] = "connection refused"
    assert note_lines(nodes) == [
        "node-1: down: connection refused",
        "node-2: ejected at worker-0: left out for a while, because too many of its answers were failures",
        "node-3: draining (asked at run time)",
    ]
    assert note_lines([{**nodes[0], "last_error": ""}]) == ["node-1: down"]


def test_a_reason_that_all_workers_have_is_said_once() -> None:
    reasons = ["worker-0: no node", "worker-1: is starting", "worker-2: no node"]
    assert reason_lines(reasons) == ["worker-0, worker-2: no node", "worker-1: is starting"]
    assert reason_lines(["draining"]) == ["draining"]


def test_an_estimate_has_no_more_digits_than_it_is_worth() -> None:
    assert [rounded(each, "estimated") for each in (13935.2, 38.6, 7.44)] == ["14000", "39", "7"]
    assert rounded(13935.2, "measured") == "13935"
    unknown = {**answer().headroom, "used_per_s": 0.0, "capacity_per_s": 0.0, "reasons": []}
    assert headroom_lines(unknown) == [
        "signing: 0/s used of a capacity that is not known yet; safe if one node is lost: no"
    ]
    nothing = {**unknown, "worst_loss": "", "reasons": ["no node is in rotation"]}
    assert headroom_lines({**nothing, "used_per_s": 180.0}) == [
        "signing: 180/s used of 0/s; safe if one node is lost: no",
        "  no node is in rotation",
    ]
