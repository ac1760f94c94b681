"""Speaks to a node's management socket. Every failure becomes a `ManagementProblem` with one sentence."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

TIMEOUT_S = 120.0
"""An RSA-4096 key takes seconds; others may wait before it."""


class ManagementProblem(Exception):
    """The node could not be asked, or refused; `str()` is a sentence for the user."""


def socket_of(socket: Path | None, config: Path | None) -> Path:
    """The socket to ask: given, or named by a node's config (default: node.toml here)."""
    if socket is not None:
        return socket
    from hsm.node.config import NodeConfig, NodeFiles
    from hsm.shared import strict_toml

    path = config or Path("node.toml")
    if config is None and not path.exists():
        raise ManagementProblem("which node? Give --socket PATH or --config node.toml")
    # The files a config names may be unreadable for whoever may open the socket; only the socket counts here.
    return NodeFiles.of(strict_toml.load(path, NodeConfig), path.absolute().parent).socket


def key_path(name: str, *more: str) -> str:
    """The API's path of a key, whatever its label holds."""
    return "/".join(("/keys", quote(name, safe=""), *more))


def call(socket: Path, method: str, path: str, body: object | None = None) -> dict[str, Any]:
    """Asks, and returns the JSON answer. Raises ManagementProblem."""
    return asyncio.run(_call(socket, method, path, body))


async def _call(socket: Path, method: str, path: str, body: object | None) -> dict[str, Any]:
    import aiohttp
    from yarl import URL

    connector = aiohttp.UnixConnector(path=str(socket))
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    url = URL(f"http://node{path}", encoded=True)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, url, json=body) as response,
        ):
            answer = await response.json()
    except aiohttp.ClientConnectorError as error:
        raise ManagementProblem(_unreachable(socket, error.os_error)) from None
    except TimeoutError:
        raise ManagementProblem(f"the node at {socket} did not answer within {TIMEOUT_S:.0f} s") from None
    except (aiohttp.ClientError, ValueError):
        raise ManagementProblem(f"what answers at {socket} is not a node") from None
    if not isinstance(answer, dict) or response.status >= 400:
        sentence = answer.get("error") if isinstance(answer, dict) else None
        raise ManagementProblem(str(sentence or f"the node answered with status {response.status}"))
    return answer


def _unreachable(socket: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no socket {socket}; is the node running?"
    if isinstance(error, PermissionError):
        return f"this user may not open {socket}; use the node's own user"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens on {socket}; is the node running?"
    return f"can't connect to {socket}: {error.strerror or error}"
