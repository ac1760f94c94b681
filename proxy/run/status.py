"""`sealgate status`: asks a running proxy how it is, and shows it to people or programs."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from hsm.shared.strict_toml import ConfigError
from proxy.config.load import load_config

TIMEOUT_S = 3.0
MAX_STATUS_BYTES = 16 * 1024 * 1024


class StatusError(Exception):
    """The proxy could not be asked; `str()` is a sentence for the user."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What `/status` says, as far as it is shown; `raw` is all of it."""

    version: str
    ready: bool
    reasons: list[str] = []
    workers: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = []
    sessions: dict[str, int] = {}
    raw: bytes = b""


def address_in(config: Path) -> str:
    """The control address of a config file, as a URL. Raises StatusError."""
    try:
        return f"http://{load_config(config).control.address}"
    except ConfigError as error:
        raise StatusError(str(error)) from None


def fetch_status(url: str) -> Status:
    """Ask the proxy. Raises StatusError when nobody answers, or who answers is no proxy."""
    if not url.startswith("http://"):
        raise StatusError(f"{url}: write a URL like http://127.0.0.1:9443")
    try:
        with urllib.request.urlopen(url.rstrip("/") + "/status", timeout=TIMEOUT_S) as answer:
            data = answer.read(MAX_STATUS_BYTES)
        return msgspec.structs.replace(msgspec.json.decode(data, type=Status), raw=data)
    except (urllib.error.URLError, OSError, ValueError) as error:
        if isinstance(error, msgspec.MsgspecError):
            raise StatusError(f"{url}: what answers there is not a Sealgate proxy") from None
        reason = getattr(error, "reason", error)
        raise StatusError(f"{url}: no proxy answers: {reason}; is it running?") from None


def print_status(status: Status, *, as_json: bool) -> None:
    """Tables for people; the proxy's own JSON with `as_json`."""
    from rich.console import Console

    console = Console()
    if as_json:
        console.file.write(msgspec.json.format(status.raw, indent=2).decode() + "\n")
        return
    verdict = "[green]ready[/]" if status.ready else "[red]not ready[/]"
    console.print(f"sealgate {status.version}: {verdict}, {status.sessions.get('active', 0)} TLS sessions active")
    for reason in status.reasons:
        console.print(f"  {reason}", markup=False, highlight=False)
    console.print(_workers_table(status.workers))
    console.print(_nodes_table(status.nodes))


def _workers_table(workers: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table("worker", "pid", "generation", "state", "connections")
    for worker in workers:
        state = "draining" if worker["draining"] else "ready" if worker["ready"] else "not ready"
        table.add_row(worker["slot"], str(worker["pid"]), str(worker["generation"]), state, str(worker["connections"]))
    return table


def _nodes_table(nodes: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table("node", "address", "state", "in flight", "signatures", "failures")
    for node in nodes:
        states = ", ".join(sorted(set(node["states"].values())))
        counts = (str(node[field]) for field in ("in_flight", "signatures", "failures"))
        table.add_row(node["name"], node["address"], states, *counts)
    return table
