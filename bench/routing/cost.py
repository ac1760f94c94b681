"""What the router itself costs: microseconds of CPU per job, with nothing around it.

A job is `submit` and `on_signed`, and `next_time` after each, as the shell asks for it (and `on_time` when it is due).
With an empty queue, a fixed number of jobs is under way; under overload, twice as many come as are signed, and the rest
is refused. What the measurement itself does (one object per job, and a draw) is in the figures: about a microsecond.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random

from rich.console import Console
from rich.table import Table

from bench.routing.adapter import make_router
from bench.routing.engine import TIMER_GRAIN_S
from bench.routing.policies import OURS
from bench.routing.scenarios import HSM2M, nodes_of
from bench.routing.topology import Setting, SiteSpec
from hsm.wire.schemes import KeyType
from proxy.base.jobs import SignJob
from proxy.signing.commands import Attempt, Command, RoutedJob, SendTo
from proxy.signing.facts import NodeFacts
from proxy.signing.router import Router
from proxy.signing.selection import BestOfTwo

GOAL_US = 10.0
STEP_S = 1e-4
LATENCY_STEPS = 30
WARM_UP = 3000


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of CPU; the best and the median of several runs."""

    what: str
    nodes: int
    best_us: float
    median_us: float

    def as_object(self) -> dict[str, object]:
        """For machines."""
        return asdict(self)


class Bare:
    """A router with its nodes up, and a clock."""

    def __init__(self, nodes: int) -> None:
        sites = [SiteSpec(f"www-{n}", 1.0, KeyType.P256) for n in range(2)]
        self.setting = Setting(nodes_of(HSM2M, nodes), sites)
        self.router: Router = make_router(self.setting, OURS.signing, OURS.routing, OURS.selection, Random(1))
        self.now = 1.0
        self._timer_at = 0.0
        skis = [site.ski for site in sites]
        self.jobs = [SignJob(ski=site.ski, scheme=site.scheme, message=b"m", site=site.name, deadline=1e9)
                     for site in sites]  # fmt: skip
        self.under_way: list[Attempt] = []
        self._random = Random(2).random
        for node in (spec.name for spec in self.setting.nodes):
            self.router.on_keys(node, skis, self.now)
            self.router.on_facts(node, NodeFacts(is_usable=True), self.now)

    def submit(self, number: int) -> None:
        """A job comes."""
        routed = RoutedJob(self.jobs[number & 1], self.now, self.now + 5.0)
        self._take(self.router.submit(routed, self.now))

    def sign(self) -> None:
        """Some attempt is signed: latencies are as those of many engines, and a few are slow enough for a hedge."""
        under_way = self.under_way
        while under_way:
            index = int(self._random() * len(under_way))
            under_way[index], under_way[-1] = under_way[-1], under_way[index]
            attempt = under_way.pop()
            if not attempt.is_over:
                self._take(self.router.on_signed(attempt, b"s", self.now))
                return

    def _take(self, commands: list[Command]) -> None:
        for command in commands:
            if type(command) is SendTo:
                self.under_way.append(command.attempt)
        now = self.now
        if self.router.next_time(now) <= now and now >= self._timer_at:
            self._timer_at = now + TIMER_GRAIN_S
            self._take(self.router.on_time(now))


def _pairs(nodes: int, jobs: int, *, arrivals: int) -> float:
    bare = Bare(nodes)
    for number in range(min(LATENCY_STEPS, 4 * nodes)):
        bare.submit(number)

    def run(count: int) -> None:
        for number in range(count):
            bare.now += STEP_S
            for _ in range(arrivals):
                bare.submit(number)
            bare.sign()

    run(WARM_UP)
    began = time.process_time()
    run(jobs)
    return (time.process_time() - began) / (jobs * arrivals) * 1e6


def _choices(nodes: int, jobs: int) -> float:
    bare = Bare(nodes)
    for number in range(2000):
        bare.now += STEP_S
        bare.submit(number)
        bare.sign()
    selection = BestOfTwo(OURS.routing, Random(1))
    seats = bare.router._fleet.seats_of(bare.jobs[0].ski, bare.now)
    choose, now = selection.choose, bare.now
    began = time.process_time()
    for _ in range(jobs):
        choose(seats, now)
    return (time.process_time() - began) / jobs * 1e6


def measure_cost(*, jobs: int = 40_000, runs: int = 5) -> list[Cost]:
    """All of it, at 3 and at 64 nodes, each as often as `runs` with so many jobs."""
    kinds: list[tuple[str, Callable[[int], float]]] = [
        ("choice alone", lambda nodes: _choices(nodes, jobs)),
        ("job, empty queue", lambda nodes: _pairs(nodes, jobs, arrivals=1)),
        ("job, twice the capacity", lambda nodes: _pairs(nodes, jobs, arrivals=2)),
    ]
    costs = []
    for what, measure in kinds:
        for nodes in (3, 64):
            found = sorted(measure(nodes) for _ in range(runs))
            costs.append(Cost(what, nodes, found[0], statistics.median(found)))
    return costs


def print_cost(costs: list[Cost], console: Console) -> None:
    """For people."""
    table = Table(title=f"The router's own cost, us of CPU (goal: below {GOAL_US:g} at 64 nodes)", title_justify="left")
    for head in ("what", "nodes", "best", "median"):
        table.add_column(head, justify="left" if head == "what" else "right")
    for cost in costs:
        table.add_row(cost.what, str(cost.nodes), f"{cost.best_us:.2f}", f"{cost.median_us:.2f}")
    console.print(table)
