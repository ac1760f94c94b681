"""The play: a cluster, a relay and a load are started, faults follow one another, and handshakes are looked at last.

The load goes on all the while; each fault has a window of its own. A fault is over when the nodes that had it have
their full share of the jobs again, so that the next one begins with a cluster that is well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hsm.shared.tasks import Tasks
from hsm.wire.schemes import KeyType
from proxy.chaos import shares
from proxy.chaos.acts import ACTS, Stage
from proxy.chaos.faults import FaultPlan
from proxy.chaos.figures import (
    FaultFigures,
    Handshake,
    Window,
    errors_of,
    longest_failure,
    phases_of,
    recovery,
    spread_of,
)
from proxy.chaos.judge import DEADLINE_SLACK_S, RECOVERY_LIMIT_S, Timeouts
from proxy.chaos.load import read_handshakes
from proxy.chaos.watch import Watch, cpu_busy, read_cpu
from proxy.config.load import load_config
from proxy.demo.cluster import Cluster, ClusterSpec
from proxy.demo.processes import Program, ProgramError, listens

SITE, SECOND_SITE = "localhost", "second.localhost"
LATENCY_MS, LATENCY_P99_MS = 50, 120
"""Of the simulated HSMs: network HSMs that are not near. With 60 % load and one of three nodes gone the others work at
90 %, where queues alone lift the p99 by a fifth; with HSMs much quicker than their rate it would be twice that."""
PLACES_PER_RATE_S = 0.25
"""Signatures under way at once in an HSM, per signature/s that it makes: room for its latency a few times."""
WARM_UP_S = 3.0
RETURN_TIMEOUT_S = 20.0
"""Longest wait for a node to get its full share again."""
LOOK_S = 0.1
START_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class ChaosSpec:
    """What is played."""

    directory: Path
    faults: tuple[FaultPlan, ...]
    nodes: int = 3
    rate_per_node: float = 120.0
    """P-256 signatures per second that each node can make."""
    load: float = 0.6
    """Handshakes, as a share of what all nodes together can sign."""
    before_s: float = 4.0
    during_s: float = 5.0
    after_s: float = 3.0
    """At least; it lasts until the nodes have their share again."""
    workers: int = 1

    @property
    def rate_per_s(self) -> float:
        """Handshakes per second."""
        return round(self.nodes * self.rate_per_node * self.load, 1)

    def cluster(self, *sites: str) -> ClusterSpec:
        """Narrow simulated HSMs behind a proxy whose settings are the defaults, but that no handshake is resumed."""
        places = max(8, math.ceil(self.rate_per_node * PLACES_PER_RATE_S))
        return ClusterSpec(
            self.directory,
            nodes=self.nodes,
            web_servers=1,
            workers=self.workers,
            backend="simulated",
            sites=sites or (SITE,),
            key_types=(KeyType.P256,),
            proxy_config="[tls]\ntickets = false\n",
            signing_config='verify_signatures = "always"\n',
            token_config=f"rate = {self.rate_per_node:.3f}\nconcurrency = {places}\n"
            f"latency_ms = {LATENCY_MS}\nlatency_p99_ms = {LATENCY_P99_MS}\n",
            relayed=True,
        )


@dataclass(slots=True)
class Arena:
    """Everything that runs."""

    cluster: Cluster
    relay: Program
    socket: Path
    load: Program
    handshakes: Path
    timeouts: Timeouts


@contextlib.contextmanager
def arena(spec: ChaosSpec, rates: dict[str, float]) -> Iterator[Arena]:
    """Starts cluster and relay, not the load yet, whose handshakes per second are given by site; stops all at the end.

    Raises ProgramError.
    """
    cluster = Cluster(spec.cluster(*rates))
    cluster.prepare()
    signing = load_config(cluster.proxy_config).signing
    timeouts = Timeouts(signing.attempt_timeout_s, signing.job_timeout_s)
    private = Path(tempfile.mkdtemp(prefix="sealgate-chaos-"))
    relay, socket = _relay(cluster, private)
    handshakes = spec.directory / "handshakes.jsonl"
    load = _load(cluster, rates, handshakes, timeouts)
    try:
        relay.start()
        for node in cluster.nodes.values():
            relay.wait_until(listens("127.0.0.1", node.link_port), START_TIMEOUT_S)
        relay.wait_until(socket.exists, START_TIMEOUT_S)
        cluster.start()
        yield Arena(cluster, relay, socket, load, handshakes, timeouts)
    finally:
        load.kill()
        cluster.stop()
        relay.stop()
        shutil.rmtree(private, ignore_errors=True)


def _relay(cluster: Cluster, folder: Path) -> tuple[Program, Path]:
    socket = folder / "relay.sock"
    routes = [f"{name}:{spot.link_port}:{spot.port}" for name, spot in cluster.nodes.items()]
    command = [sys.executable, "-m", "proxy.chaos.relay", str(socket), *routes]
    return Program("relay", command, cluster.spec.directory / "relay.log"), socket


def _load(cluster: Cluster, rates: dict[str, float], out: Path, timeouts: Timeouts) -> Program:
    wanted = {
        "port": cluster.port,
        "ca": str(cluster.ca),
        "out": str(out),
        "deadline_s": timeouts.job_s + 2 * DEADLINE_SLACK_S,
        "sites": rates,
    }
    command = [sys.executable, "-m", "proxy.chaos.load", json.dumps(wanted)]
    return Program("load", command, cluster.spec.directory / "load.log")


@dataclass(frozen=True, slots=True)
class Played:
    """One fault that is over."""

    plan: FaultPlan
    nodes: tuple[str, ...]
    window: Window
    cpu_busy: float


@dataclass(slots=True)
class Play:
    """Plays faults in an arena."""

    arena: Arena
    spec: ChaosSpec
    say: Callable[[str], None]
    watch: Watch = field(init=False)
    stage: Stage = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(self.arena.cluster.control_url)
        self.stage = Stage(self.arena.cluster, self.arena.socket)

    async def run(self, faults: Sequence[tuple[FaultPlan, tuple[str, ...]]]) -> list[Played]:
        """Each fault at its nodes, one after another, under load. Raises ProgramError, ManagementProblem, OSError."""
        tasks = Tasks()
        tasks.start(self.watch.run(), name="watch")
        try:
            self.arena.load.start()
            await asyncio.sleep(min(WARM_UP_S, 2 * self.spec.before_s))
            played = []
            for number, (plan, nodes) in enumerate(faults, start=1):
                self.say(f"[{number}/{len(faults)}] {plan.name}, {', '.join(nodes)}: {plan.what}")
                played.append(await self._play(plan, nodes))
            await self._end_load()
            return played
        finally:
            await tasks.stop()

    async def _play(self, plan: FaultPlan, nodes: tuple[str, ...]) -> Played:
        begin, cpu = time.monotonic(), read_cpu()
        await asyncio.sleep(self.spec.before_s)
        fault = time.monotonic()
        async with ACTS[plan.name](self.stage, nodes):
            await asyncio.sleep(max(0.0, fault + self.spec.during_s - time.monotonic()))
        end = time.monotonic()
        await self._until_well(plan, nodes, Window(begin, fault, end, math.inf))
        self._check_programs()
        return Played(plan, nodes, Window(begin, fault, end, time.monotonic()), cpu_busy(cpu, read_cpu()))

    async def _until_well(self, plan: FaultPlan, nodes: Sequence[str], window: Window) -> None:
        await asyncio.sleep(self.spec.after_s + (RECOVERY_LIMIT_S if plan.hits_all else 0.0))
        deadline = window.end + RETURN_TIMEOUT_S
        while time.monotonic() < deadline:
            if all(shares.time_to_full_share(self.watch.samples, node, window) is not None for node in nodes):
                return
            await asyncio.sleep(LOOK_S)

    def _check_programs(self) -> None:
        """Raises ProgramError when something ended that nobody killed."""
        arena = self.arena
        for program in (*arena.cluster.programs, arena.relay, arena.load):
            if not program.is_running:
                raise ProgramError(f"{program.name} ended by itself:\n{program.log_tail()}")

    async def _end_load(self) -> None:
        timeout_s = self.arena.timeouts.job_s + 5
        status = await asyncio.to_thread(self.arena.load.stop, timeout_s)
        if status != 0:
            raise ProgramError(f"the load ended with status {status}:\n{self.arena.load.log_tail()}")

    def figures(self, played: Played, site: str | None = None) -> FaultFigures:
        """What a fault came to, for one site or for all; after `run`. Raises OSError."""
        handshakes = [each for each in read_handshakes(self.arena.handshakes) if site in (None, each.site)]
        return figures_of(played, handshakes, self.watch.samples, site)


def figures_of(
    played: Played, handshakes: Sequence[Handshake], samples: Sequence[shares.Sample], site: str | None = None
) -> FaultFigures:
    """All figures of one fault. With a site, `handshakes` are its own, and so are the proxy's reasons."""
    window, nodes = played.window, played.nodes
    # With all nodes down, what fails while they come back belongs to the fault.
    grace_s = RECOVERY_LIMIT_S if played.plan.hits_all else 0.0
    phases = phases_of(handshakes, Window(window.begin, window.fault, window.end + grace_s, window.close))
    found = (*phases.before, *phases.during, *phases.after)
    ejected = [shares.time_to_eject(samples, node, window) for node in nodes]
    returned = [shares.time_to_full_share(samples, node, window) for node in nodes]
    jobs, extra = shares.jobs_and_extra(samples, window)
    part = [share for node in nodes if (share := shares.share_during(samples, node, window)) is not None]
    return FaultFigures(
        name=played.plan.name,
        nodes=nodes,
        before=spread_of(phases.before),
        during=spread_of(phases.during),
        after=spread_of(phases.after),
        time_to_eject_s=_slowest(ejected),
        time_to_full_share_s=_slowest(returned),
        share_during=round(sum(part), 3) if part else None,
        jobs=jobs,
        extra_signatures=extra,
        peak_waiting=shares.peak_waiting(samples, window),
        generator_late=sum(each.is_late for each in found),
        cpu_busy=played.cpu_busy,
        longest_failure_s=longest_failure(found),
        recovery_s=recovery(found, window.end) if played.plan.hits_all else None,
        errors=errors_of(found),
        reasons=shares.reasons_between(samples, window, site),
    )


def _slowest(times: Sequence[float | None]) -> float | None:
    """The longest of all; None when one is missing."""
    known = [time_s for time_s in times if time_s is not None]
    return max(known) if known and len(known) == len(times) else None
