"""From what each worker knows of the nodes to what the fleet knows of them. Pure.

Workers share the nodes, and each sees only its own part. How parts become a whole depends on how they are known:

- Rates and windows add up; of latencies the worst counts.
- A *configured* capacity is a property of the node: every worker says the same number, and it counts once.
- A *measured* capacity is what one worker got out of a node at its limit, while the others got theirs: these parts add
  up, and a worker that did not see the limit adds what it gets now. Clients are spread evenly over workers, so they
  meet a limit together; parts that were measured at different times make the sum too large by as much as the shares
  have shifted between.
- An *estimated* capacity is window / latency. Every worker makes its guess about the whole node, often with a window
  that nothing has tested yet; to add guesses up would multiply them by the number of workers. The largest counts.

No capacity that was not configured is less than what is made now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from proxy.run.board import NodeReport, WorkerReport
from proxy.signing.headroom import CapacityBasis, Headroom, NodeCapacity, headroom

SHOWN_REASONS = 5


def fleet_capacities(workers: Sequence[WorkerReport]) -> list[NodeCapacity]:
    """Each node once. Who drains makes signatures still; who takes no clients yet has no say about rotation."""
    parts: dict[str, list[NodeReport]] = {}
    for report in workers:
        for node in report.nodes:
            parts.setdefault(node.name, []).append(node)
    up = _up_everywhere([report for report in workers if report.is_accepting and not report.is_draining])
    return [_whole(name, nodes, is_up=name in up) for name, nodes in parts.items()]


def holders_of(workers: Sequence[WorkerReport], site_keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Site key (hex) -> nodes that hold it. A node that some worker uses and misses the key at does not count."""
    used = [(report, {node.name for node in report.nodes if node.is_up}) for report in workers]
    found: dict[str, tuple[str, ...]] = {}
    for ski in site_keys:
        held: dict[str, None] = {}
        missing: set[str] = set()
        for report, up in used:
            here = report.holders.get(ski, ())
            held |= dict.fromkeys(here)
            if ski in report.holders or not report.keys_left_out:
                missing |= up.difference(here)
        found[ski] = tuple(name for name in held if name not in missing)
    return found


def judged_keys(workers: Sequence[WorkerReport], site_keys: Iterable[str]) -> list[str]:
    """Those of `site_keys` of which it is known who holds them; workers leave some out where there are very many."""
    left_out = any(report.keys_left_out for report in workers)
    return [ski for ski in site_keys if not left_out or any(ski in report.holders for report in workers)]


def fleet_headroom(workers: Sequence[WorkerReport], site_keys: Iterable[str]) -> Headroom:
    """The fleet's headroom; `workers` are those whose reports are fresh, `site_keys` SKIs in hex."""
    holders = holders_of(workers, judged_keys(workers, site_keys))
    return headroom(fleet_capacities(workers), {bytes.fromhex(ski): held for ski, held in holders.items()})


def basis_of(capacities: Iterable[NodeCapacity]) -> CapacityBasis:
    """The weakest way in which the capacity of a node in rotation is known."""
    known = {capacity.basis for capacity in capacities if capacity.is_up}
    for basis in (CapacityBasis.ESTIMATED, CapacityBasis.MEASURED):
        if basis in known:
            return basis
    return CapacityBasis.CONFIGURED if known else CapacityBasis.ESTIMATED


def unsafe_because(
    verdict: Headroom,
    capacities: Sequence[NodeCapacity],
    holders: Mapping[str, Sequence[str]],
    names: Mapping[str, str],
) -> list[str]:
    """Why no node may be lost, in sentences for people; empty where one may. `names` says whose each key (hex) is."""
    if verdict.is_n_minus_1_safe:
        return []
    up = [capacity.name for capacity in capacities if capacity.is_up]
    if not up:
        return ["no node is in rotation"]
    if len(up) == 1:
        return [f"{up[0]} is the only node in rotation"]
    reasons = []
    if verdict.left_after_loss_per_s < 0:
        others = verdict.left_after_loss_per_s + verdict.used_per_s
        needed = verdict.used_per_s
        reasons.append(f"without {verdict.worst_loss} the others make {others:.0f}/s, {needed:.0f}/s are needed")
    lonely = [ski.hex() for ski in verdict.lonely_keys]
    reasons += [_lonely_sentence(names.get(ski, ski), holders.get(ski, ()), up) for ski in lonely]
    if len(reasons) > SHOWN_REASONS:
        reasons[SHOWN_REASONS:] = [f"and {len(reasons) - SHOWN_REASONS} more keys"]
    return reasons


def _lonely_sentence(whose: str, held_by: Sequence[str], up: Sequence[str]) -> str:
    here = [name for name in held_by if name in up]
    if not here:
        return f"no node in rotation holds the key of {whose}"
    if len(held_by) == 1:
        return f"{here[0]} alone holds the key of {whose}"
    return f"{here[0]} alone, of the nodes in rotation, holds the key of {whose}"


def _up_everywhere(workers: Sequence[WorkerReport]) -> set[str]:
    seen = [{node.name for node in report.nodes if node.is_up} for report in workers]
    return set.intersection(*seen) if seen else set()


def _whole(name: str, parts: Sequence[NodeReport], *, is_up: bool) -> NodeCapacity:
    rate = sum(part.rate_per_s for part in parts)
    capacity, basis = _capacity(parts, rate)
    return NodeCapacity(
        name=name,
        is_up=is_up,
        rate_per_s=rate,
        capacity_per_s=capacity,
        basis=basis,
        window=sum(part.window for part in parts),
        latency_s=max(part.latency_s for part in parts),
    )


def _capacity(parts: Sequence[NodeReport], rate: float) -> tuple[float, CapacityBasis]:
    configured = [part.capacity_per_s for part in parts if part.basis == CapacityBasis.CONFIGURED]
    if configured:
        return max(configured), CapacityBasis.CONFIGURED
    if any(part.basis == CapacityBasis.MEASURED for part in parts):
        together = sum(
            max(part.capacity_per_s, part.rate_per_s) if part.basis == CapacityBasis.MEASURED else part.rate_per_s
            for part in parts
        )
        return together, CapacityBasis.MEASURED
    return max(rate, *(part.capacity_per_s for part in parts)), CapacityBasis.ESTIMATED
