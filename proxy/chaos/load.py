"""The load: full TLS 1.3 handshakes at the times of a schedule, whether or not those before them have ended.

    python -m proxy.chaos.load '{"port": ..., "ca": ..., "out": ..., "deadline_s": ..., "sites": {"localhost": RATE}}'

It is a process of its own, so that what it costs disturbs neither the proxy nor whoever plays the faults. Every
handshake becomes one line of the file `out`: site, due, started, ended (monotonic seconds), error. SIGTERM ends it: no
more handshakes begin, those under way end or meet their deadline, and the file is whole.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import ssl
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import uvloop

from hsm.shared.tasks import Tasks
from proxy.chaos.figures import Handshake
from proxy.chaos.schedule import arrivals

FLUSH_S = 0.25
MAX_OPEN = 4096
"""Handshakes under way at once; those that are due beyond it fail at once, by an error that says so."""
SEED = 20_260_101
NO_END = "no end within {:g} s"


def client_context(ca: Path) -> ssl.SSLContext:
    """TLS 1.3 with the certificate and its name verified; it never resumes."""
    context = ssl.create_default_context(cafile=str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class Load:
    """Handshakes with one proxy, written down as they end."""

    def __init__(self, port: int, context: ssl.SSLContext, deadline_s: float, out: TextIO) -> None:
        self._port, self._context, self._deadline_s, self._out = port, context, deadline_s, out
        self._handshakes, self._others = Tasks(), Tasks()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, sites: Mapping[str, float], stop: asyncio.Event) -> None:
        """Makes handshakes with each site at its rate until `stop`, then waits for those under way."""
        begin = time.monotonic()
        for number, (site, rate) in enumerate(sites.items()):
            self._others.start(self._site(site, begin, arrivals(rate, SEED + number)), name=f"site-{site}")
        self._others.start(self._flush(), name="flush")
        await stop.wait()
        await self._others.stop()
        if self._running:
            await asyncio.wait(self._running, timeout=self._deadline_s + 1)
        await self._handshakes.stop()
        self._out.flush()

    async def _site(self, site: str, begin: float, times: Iterable[float]) -> None:
        for offset in times:
            due = begin + offset
            if (wait_s := due - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            if len(self._running) >= MAX_OPEN:
                now = time.monotonic()
                self._note(Handshake(site, due, now, now, "not begun: too many are under way"))
            else:
                task = self._handshakes.start(self._handshake(site, due), name="handshake")
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._out.flush()

    async def _handshake(self, site: str, due: float) -> None:
        started, error = time.monotonic(), ""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(due + self._deadline_s - started):
                transport, _ = await loop.create_connection(
                    asyncio.Protocol, "127.0.0.1", self._port, ssl=self._context, server_hostname=site
                )
                transport.close()
        except TimeoutError:
            error = NO_END.format(self._deadline_s)
        except OSError as problem:
            error = error_text(problem)
        self._note(Handshake(site, due, started, time.monotonic(), error))

    def _note(self, one: Handshake) -> None:
        self._out.write(json.dumps([one.site, one.due, one.started, one.ended, one.error]) + "\n")


def error_text(problem: OSError) -> str:
    """Why a handshake failed, in a few words that are the same for the same cause."""
    if isinstance(problem, ssl.SSLError):
        return f"TLS: {(problem.reason or 'ended early').lower().replace('_', ' ')}"
    return f"{type(problem).__name__}: {problem.strerror}" if problem.strerror else type(problem).__name__


def read_handshakes(path: Path) -> list[Handshake]:
    """What a load has written so far. Raises OSError."""
    lines = path.read_text().splitlines(keepends=True)
    return [Handshake(*json.loads(line)) for line in lines if line.endswith("\n")]


async def main(wanted: Mapping[str, Any], out: TextIO) -> None:
    """One load, until SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gc.collect()
    gc.freeze()
    load = Load(wanted["port"], client_context(Path(wanted["ca"])), wanted["deadline_s"], out)
    await load.run(wanted["sites"], stop)


if __name__ == "__main__":
    orders = json.loads(sys.argv[1])
    with Path(orders["out"]).open("w", buffering=1 << 16) as handshakes:
        uvloop.run(main(orders, handshakes))
