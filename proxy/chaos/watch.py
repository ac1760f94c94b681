"""Watches the proxy from outside while faults are played: its metrics ten times a second, and the machine's CPU."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

from proxy.chaos.shares import Sample
from proxy.run.metrics import ATTEMPTS, ATTEMPTS_RUNNING, HANDSHAKE_FAILURES, JOBS, JOBS_WAITING, OK

INTERVAL_S = 0.1
TIMEOUT_S = 2.0
_LABEL = re.compile(r'(\w+)="([^"\\]*)"')
_WANTED = tuple(family.name for family in (ATTEMPTS, ATTEMPTS_RUNNING, HANDSHAKE_FAILURES, JOBS, JOBS_WAITING))


def sample_of(text: str, at: float) -> Sample:
    """The few figures that are needed, out of `/metrics`; a whole parser would cost the machine more than the load."""
    begun: dict[str, float] = defaultdict(float)
    sums: dict[str, float] = defaultdict(float)
    failures: dict[tuple[str, str], float] = defaultdict(float)
    for line in text.splitlines():
        if not line.startswith(_WANTED):
            continue
        name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
        value = float(line.rsplit(" ", 1)[1])
        sums[name] += value
        labels = dict(_LABEL.findall(rest))
        if name in (ATTEMPTS.name, ATTEMPTS_RUNNING.name):
            begun[labels["node"]] += value
        elif name == HANDSHAKE_FAILURES.name:
            failures[labels["site"], f"handshake {labels['reason']}"] += value
        elif name == JOBS.name and labels["outcome"] != OK:
            failures[labels["site"], f"signature {labels['outcome']}"] += value
    return Sample(at, dict(begun), sums[ATTEMPTS.name], sums[JOBS.name], sums[JOBS_WAITING.name], dict(failures))


class Watch:
    """Collects samples until its task is cancelled. A proxy that does not answer makes a gap."""

    def __init__(self, control_url: str) -> None:
        self._url = control_url + "/metrics"
        self.samples: list[Sample] = []

    async def run(self) -> None:
        """For ever."""
        while True:
            begin = time.monotonic()
            try:
                text = await asyncio.to_thread(self._fetch)
                self.samples.append(sample_of(text, time.monotonic()))
            except OSError:
                pass
            await asyncio.sleep(max(0.0, begin + INTERVAL_S - time.monotonic()))

    def _fetch(self) -> str:
        with urllib.request.urlopen(self._url, timeout=TIMEOUT_S) as answer:
            return str(answer.read().decode())


def cpu_seconds(stat: str) -> tuple[float, float]:
    """Of /proc/stat: CPU time in use, and all CPU time, of all cores since the machine started; in its own ticks."""
    user, nice, system, idle, iowait, irq, softirq, steal, *_ = map(float, stat.split("\n", 1)[0].split()[1:])
    used = user + nice + system + irq + softirq + steal
    return used, used + idle + iowait


def read_cpu() -> tuple[float, float]:
    """`cpu_seconds` of now."""
    return cpu_seconds(Path("/proc/stat").read_text())


def cpu_busy(before: tuple[float, float], now: tuple[float, float]) -> float:
    """Share of the CPU time between two readings that was in use."""
    total = now[1] - before[1]
    return round((now[0] - before[0]) / total, 3) if total > 0 else 0.0
