"""What can be played: all faults one after another, or two sites of which one has a single node, and that hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle

from proxy.chaos.faults import FAULTS, FaultPlan
from proxy.chaos.play import SECOND_SITE, SITE, Arena, ChaosSpec, Play, arena
from proxy.chaos.report import Report, Row, healthy_site_row, row_of, stricken_site_row

Say = Callable[[str], None]
SITES_SECONDS = 3.0
"""Two sites: so many times as long before and during, since a move of 20 % has to be told from chance."""


def play_faults(spec: ChaosSpec, say: Say) -> Report:
    """Every fault of the spec, each at another node than the one before. Raises ProgramError and such."""
    begin = time.monotonic()
    say(f"Starting {spec.nodes} nodes and the proxy; then {spec.rate_per_s:g} handshakes/s")
    with arena(spec, {SITE: spec.rate_per_s}) as place:
        names = list(place.cluster.nodes)
        play = Play(place, spec, say)
        played = asyncio.run(play.run(assigned(spec.faults, names)))
        say("Looking at what came of it, and stopping everything")
        rows = [row_of(each.plan, play.figures(each), place.timeouts) for each in played]
    return _report("faults", spec, place, rows, begin)


def assigned(plans: Sequence[FaultPlan], nodes: Sequence[str]) -> list[tuple[FaultPlan, tuple[str, ...]]]:
    """Who has which fault: the nodes in turn, so that no one's past weighs on the next."""
    turn = cycle(nodes)
    return [(plan, tuple(nodes) if plan.hits_all else (next(turn),)) for plan in plans]


def play_two_sites(spec: ChaosSpec, say: Say) -> Report:
    """The key of the second site is on the last node only, that of the first on all others; the last node hangs.

    All nodes share one vault, so each "loses" the keys that it should not have: its HSM does not know them, its list
    does not name them. Raises ProgramError and such.
    """
    begin = time.monotonic()
    first, second = (round(spec.rate_per_node * spec.load * count, 1) for count in (spec.nodes - 1, 1))
    say(
        f"Starting {spec.nodes} nodes and the proxy; then {first:g} handshakes/s with {SITE}, {second:g} with the other"
    )
    with arena(spec, {SITE: first, SECOND_SITE: second}) as place:
        *healthy, last = place.cluster.nodes
        play = Play(place, _longer(spec), say)

        async def run() -> list[Row]:
            for node in healthy:
                await play.stage.break_device(node, {"kind": "lost-key", "key": f"{SECOND_SITE}-*"})
            await play.stage.break_device(last, {"kind": "lost-key", "key": f"{SITE}-*"})
            (played,) = await play.run([(FAULTS["hang"], (last,))])
            words = f"its key is on {', '.join(healthy)}; {last} hangs", f"its key is on {last} only, which hangs"
            return [
                healthy_site_row(SITE, words[0], play.figures(played, SITE)),
                stricken_site_row(SECOND_SITE, words[1], play.figures(played, SECOND_SITE)),
            ]

        rows = asyncio.run(run())
        say("Stopping everything")
    return _report("two-sites", spec, place, rows, begin)


def _longer(spec: ChaosSpec) -> ChaosSpec:
    return replace(spec, before_s=spec.before_s * SITES_SECONDS, during_s=spec.during_s * SITES_SECONDS)


def _report(scenario: str, spec: ChaosSpec, place: Arena, rows: Sequence[Row], begin: float) -> Report:
    return Report(
        scenario=scenario,
        rows=tuple(rows),
        nodes=spec.nodes,
        rate_per_s=spec.rate_per_s,
        capacity_per_s=spec.nodes * spec.rate_per_node,
        load=spec.load,
        workers=spec.workers,
        timeouts=place.timeouts,
        took_s=time.monotonic() - begin,
    )
