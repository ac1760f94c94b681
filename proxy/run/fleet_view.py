"""The nodes and the headroom as the whole fleet sees them: what `/status` shows and `/metrics` counts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.base.observe import NodeState
from proxy.base.policy import NodeAdmin
from proxy.run import metrics
from proxy.run.board import NodeReport, WorkerReport, is_fresh
from proxy.run.cells import Ledger
from proxy.run.fleet_headroom import (
    basis_of,
    fleet_capacities,
    holders_of,
    judged_keys,
    unsafe_because,
)
from proxy.run.wishes import ENABLED
from proxy.signing.headroom import Headroom, NodeCapacity, headroom

SHOWN_KEYS = 20
ADMIN_STATES: tuple[NodeAdmin, ...] = ("enabled", "draining", "disabled")


@dataclass(frozen=True, slots=True)
class Known:
    """What the config says, so that reports can be judged by it."""

    keys: Mapping[str, str] = field(default_factory=dict)
    """Each site key (SKI in hex) and whose it is."""
    configured: Mapping[str, NodeAdmin] = field(default_factory=dict)
    """`state` of each listed node; one that was discovered is enabled."""

    def admin_of(self, name: str, wishes: Mapping[str, NodeAdmin]) -> NodeAdmin:
        """What is wanted of a node now."""
        return wishes.get(name, self.configured.get(name, ENABLED))


class FleetView:
    """Fresh reports of all workers, joined."""

    def __init__(self, workers: Sequence[WorkerReport], known: Known, wishes: Mapping[str, NodeAdmin]) -> None:
        """`workers` may hold stale ones; these are shown, but say nothing about the headroom."""
        self._known, self._wishes = known, wishes
        self.workers = list(workers)
        fresh = [report for report in workers if is_fresh(report)]
        self.capacities = fleet_capacities(fresh)
        self.holders = holders_of(fresh, judged_keys(fresh, known.keys))
        self.headroom: Headroom = headroom(
            self.capacities, {bytes.fromhex(ski): held for ski, held in self.holders.items()}
        )

    def nodes(self) -> list[dict[str, Any]]:
        """Each node once: up where every worker sees it up."""
        capacities = {each.name: each for each in self.capacities}
        joined: dict[str, dict[str, Any]] = {}
        for report in self.workers:
            for node in report.nodes:
                entry = joined.get(node.name)
                if entry is None:
                    entry = joined[node.name] = self._new_entry(node, capacities.get(node.name))
                _join(entry, report.slot, node)
        return list(joined.values())

    def headroom_shown(self) -> dict[str, Any]:
        """The headroom for `/status`."""
        verdict = self.headroom
        lonely = [ski.hex() for ski in verdict.lonely_keys]
        return {
            "used_per_s": verdict.used_per_s,
            "capacity_per_s": verdict.capacity_per_s,
            "basis": basis_of(self.capacities),
            "worst_loss": verdict.worst_loss,
            "left_after_loss_per_s": verdict.left_after_loss_per_s,
            "n_minus_1_safe": verdict.is_n_minus_1_safe,
            "certain": verdict.is_certain,
            "reasons": unsafe_because(verdict, self.capacities, self.holders, self._known.keys),
            "lonely_key_count": len(lonely),
            "lonely_keys": [
                {"ski": ski, "site": self._known.keys.get(ski, ""), "nodes": self.holders.get(ski, ())}
                for ski in lonely[:SHOWN_KEYS]
            ],
            "unjudged_key_count": len(self._known.keys) - len(self.holders),
        }

    def count(self, ledger: Ledger) -> None:
        """The same as metrics. They come from reports, so a node that is gone leaves no number behind."""
        for node in self.nodes():
            name = node["name"]
            ledger.cells(metrics.NODE_IN_ROTATION)[name,].value = int(node["in_rotation"])
            ledger.cells(metrics.NODE_WINDOW)[name,].value = node["window"]
            ledger.cells(metrics.NODE_LATENCY)[name,].value = node["latency_s"]
            ledger.cells(metrics.NODE_RATE)[name,].value = node["rate_per_s"]
            ledger.cells(metrics.NODE_CAPACITY)[name, str(node["basis"])].value = node["capacity_per_s"]
            for state in ADMIN_STATES:
                ledger.cells(metrics.NODE_ADMIN)[name, state].value = int(node["admin"] == state)
        verdict = self.headroom
        ledger.cells(metrics.USED)[()].value = verdict.used_per_s
        ledger.cells(metrics.CAPACITY)[()].value = verdict.capacity_per_s
        ledger.cells(metrics.LEFT_AFTER_LOSS)[()].value = verdict.left_after_loss_per_s
        ledger.cells(metrics.IS_N_MINUS_1_SAFE)[()].value = int(verdict.is_n_minus_1_safe)
        ledger.cells(metrics.LONELY_KEYS)[()].value = len(verdict.lonely_keys)

    def _new_entry(self, node: NodeReport, capacity: NodeCapacity | None) -> dict[str, Any]:
        admin = self._known.admin_of(node.name, self._wishes)
        return {
            "name": node.name,
            "address": node.address,
            "zone": node.zone,
            "weight": node.weight,
            "admin": admin,
            "asked_at_run_time": admin != self._known.admin_of(node.name, {}),
            "states": {},
            "up": True,
            "in_rotation": capacity is not None and capacity.is_up,
            "window": capacity.window if capacity else 0.0,
            "latency_s": capacity.latency_s if capacity else 0.0,
            "rate_per_s": capacity.rate_per_s if capacity else 0.0,
            "capacity_per_s": capacity.capacity_per_s if capacity else 0.0,
            "basis": capacity.basis.value if capacity else node.basis,
            "in_flight": 0,
            "signatures": 0,
            "failures": 0,
            "last_error": "",
        }


def _join(entry: dict[str, Any], slot: str, node: NodeReport) -> None:
    entry["states"][slot] = node.state
    entry["up"] = entry["up"] and node.state == NodeState.UP
    entry["in_flight"] += node.in_flight
    entry["signatures"] += node.signatures
    entry["failures"] += node.failures
    entry["last_error"] = node.last_error or entry["last_error"]
