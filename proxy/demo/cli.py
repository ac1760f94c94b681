"""`sealgate demo`: start everything, say what to open, show what happens, stop everything."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from proxy.demo.cluster import DEMO_SITES, SLOW_PROFILE, Cluster, ClusterSpec, check_what_is_installed
from proxy.demo.processes import ProgramError
from proxy.demo.words import welcome

LOOK_INTERVAL_S = 1.0
REVIVE_AFTER_S = 6.0
"""How long a node that somebody killed stays dead: long enough to watch, and then to see it come back."""


class Backend(StrEnum):
    """What holds the keys of the demo."""

    VAULT = "vault"
    PKCS11 = "pkcs11"
    SIMULATED = "simulated"


def demo(
    check: Annotated[
        bool, typer.Option("--check", help="No terminal: load, kill a node, start it again; JSON on the last line.")
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help=r"Folder for keys, configs and logs. \[default: ./demo; --check: a temporary one]"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help=r"HTTPS port. \[default: 8443; --check: any free one]")
    ] = None,
    seconds: Annotated[float, typer.Option(min=2, max=3600, help="Length of the load with --check.")] = 10.0,
    nodes: Annotated[int, typer.Option(min=2, max=16, help="HSM nodes.")] = 3,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes of the proxy.")] = 2,
    backend: Annotated[
        Backend,
        typer.Option(help="What holds the keys: the software vault, a SoftHSM2 token, or a vault as slow as an HSM."),
    ] = Backend.VAULT,
    profile: Annotated[
        str | None,
        typer.Option(
            help="With --backend simulated: the HSM to imitate; `sealgate node profiles` lists them."
            rf" \[default: {SLOW_PROFILE}]",
        ),
    ] = None,
) -> None:
    """Start HSM nodes, two web servers and the proxy on this machine."""
    _check_profile(backend, profile)
    with tempfile.TemporaryDirectory(prefix="sealgate-demo-") as temporary:
        place = directory or Path(temporary if check else "demo")
        wanted_port = port if port is not None else (0 if check else 8443)
        spec = ClusterSpec(
            place.absolute(),
            nodes=nodes,
            port=wanted_port,
            workers=workers,
            backend=backend.value,
            profile=profile or SLOW_PROFILE,
            sites=DEMO_SITES,
        )
        cluster = Cluster(spec)
        try:
            check_what_is_installed(spec)
            with claimed(spec.directory):
                last_line = _run(cluster, seconds if check else None)
        except (ProgramError, OSError) as error:
            _say(f"The demo failed. {error}")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(0 if not check else 130) from None
    if last_line is not None:
        typer.echo(last_line[0])
        raise typer.Exit(0 if last_line[1] else 1)


def _check_profile(backend: Backend, profile: str | None) -> None:
    """Before anything is made. Raises typer.BadParameter."""
    from hsm.backends.simulated.profiles import PROFILES

    if profile is None:
        return
    if backend is not Backend.SIMULATED:
        raise typer.BadParameter(f"--profile is for --backend simulated; with {backend.value} leave it out")
    if profile not in PROFILES:
        raise typer.BadParameter(f"--profile: there is no {profile!r}; choose from {', '.join(PROFILES)}")


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The folder is ours: a second demo would write over the configs of one that runs. Raises ProgramError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise ProgramError(f"The folder {folder} can't be used: {error.strerror}; give another --dir.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ProgramError(f"Another demo runs in {folder}; stop it, or give another --dir and --port.") from None
        yield


def _run(cluster: Cluster, check_s: float | None) -> tuple[str, bool] | None:
    """Starts, checks or shows, and stops everything; returns the verdict and whether it is good."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _interrupt(stop))
    _say("Preparing keys, certificates and configs")
    cluster.prepare()
    try:
        _say(f"Starting {len(cluster.nodes)} HSM nodes, {len(cluster.web_ports)} web servers and the proxy")
        cluster.start()
        if check_s is not None:
            return _check(cluster, check_s)
        _show(cluster, stop)
        return None
    finally:
        _say("Stopping everything")
        cluster.stop()


def _interrupt(stop: threading.Event) -> None:
    """The first Ctrl-C ends the demo; further ones do not disturb its tidying up."""
    if not stop.is_set():
        stop.set()
        raise KeyboardInterrupt


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _check(cluster: Cluster, seconds: float) -> tuple[str, bool]:
    from proxy.demo.check import Check

    verdict = asyncio.run(Check(cluster, seconds, _say).run())
    return verdict.to_json(), verdict.is_good


def _show(cluster: Cluster, stop: threading.Event) -> None:
    from rich.console import Console
    from rich.live import Live

    from proxy.demo.scrape import scrape_proxy
    from proxy.demo.table import Look, render

    console = Console()
    console.print(welcome(cluster, REVIVE_AFTER_S), highlight=False, soft_wrap=True)
    if not sys.stdout.isatty():
        for _ in _looks(cluster, stop):
            pass
        return
    before = Look(time.monotonic(), scrape_proxy(cluster.control_url))
    with Live(console=console, auto_refresh=False) as live:
        for _ in _looks(cluster, stop):
            try:
                now = Look(time.monotonic(), scrape_proxy(cluster.control_url))
            except OSError:
                continue  # the control process is being started again; the next look will show it
            live.update(render(before, now), refresh=True)
            before = now


def _looks(cluster: Cluster, stop: threading.Event) -> Iterator[None]:
    """Every second until the demo ends: nodes that died are started again. Raises ProgramError without a proxy."""
    dead_since: dict[str, float] = {}
    while not stop.wait(LOOK_INTERVAL_S):
        if not cluster.proxy.is_running:
            raise ProgramError(f"The proxy ended by itself:\n{cluster.proxy.log_tail()}")
        _revive(cluster, dead_since)
        yield


def _revive(cluster: Cluster, dead_since: dict[str, float]) -> None:
    """Starts nodes again that have been dead for a while; `dead_since` remembers which are."""
    for name, program in cluster.node_programs.items():
        if program.is_running:
            dead_since.pop(name, None)
        elif time.monotonic() - dead_since.setdefault(name, time.monotonic()) >= REVIVE_AFTER_S:
            program.start()
