"""`sealgate status`: asks a running proxy how it is, and shows it to people or programs."""

from __future__ import annotations

import http.client
import sys
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from hsm.shared.strict_toml import ConfigError
from proxy.config.load import load_config

TIMEOUT_S = 3.0
MAX_STATUS_BYTES = 16 * 1024 * 1024
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Control addresses are near: the web proxy that the environment may name (http_proxy) knows nothing of them."""


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
    headroom: dict[str, Any] = {}
    control_socket: str = ""
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
        with _DIRECTLY.open(url.rstrip("/") + "/status", timeout=TIMEOUT_S) as answer:
            data = answer.read(MAX_STATUS_BYTES)
        return msgspec.structs.replace(msgspec.json.decode(data, type=Status), raw=data)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, http.client.InvalidURL):
            raise StatusError(f"{url!r} is no URL: write one like http://127.0.0.1:9443") from None
        if isinstance(error, msgspec.MsgspecError | http.client.HTTPException):
            raise StatusError(f"{url}: what answers there is not a Sealgate proxy") from None
        reason = getattr(error, "reason", error)
        raise StatusError(f"{url}: no proxy answers: {reason}; is it running?") from None


def print_status(status: Status, *, as_json: bool) -> None:
    """Tables for people; the proxy's own JSON with `as_json`."""
    if as_json:
        sys.stdout.write(msgspec.json.format(status.raw, indent=2).decode() + "\n")
        return
    from proxy.run.status_tables import print_tables

    print_tables(status)
