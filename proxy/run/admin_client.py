"""Asks a running proxy to treat a node otherwise, through its Unix socket. Failures become one sentence."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from hsm.shared.strict_toml import ConfigError
from proxy.config.load import load_config
from proxy.run.status import Status, StatusError, address_in, fetch_status

TIMEOUT_S = 5.0
"""Beside what the proxy is asked to wait."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024


class AdminProblem(Exception):
    """The proxy could not be asked, or refused; `str()` is a sentence for the user."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("proxy", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of an address."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def socket_of(given: Path | None, config: Path | None, url: str) -> Path:
    """The socket to ask: given, named by the config, or told by the proxy whose control address is known.

    Raises AdminProblem.
    """
    if given is not None:
        return given
    try:
        if config is not None and (named := load_config(config).control.socket):
            return Path(named)
        told = fetch_status(address_in(config) if config is not None else url)
    except (ConfigError, StatusError) as error:
        raise AdminProblem(str(error)) from None
    return _told(told)


def set_state(path: Path, name: str, state: str, *, force: bool, wait_s: float) -> dict[str, Any]:
    """Ask for a node's state. Raises AdminProblem."""
    body = {"state": state, "force": force, "wait_s": wait_s}
    return _call(path, "POST", f"/nodes/{quote(name, safe='')}/state", body, TIMEOUT_S + wait_s)


def list_nodes(path: Path) -> list[dict[str, Any]]:
    """The nodes as `/status` shows them. Raises AdminProblem."""
    nodes: list[dict[str, Any]] = _call(path, "GET", "/nodes", None, TIMEOUT_S)["nodes"]
    return nodes


def _told(status: Status) -> Path:
    if not status.control_socket:
        raise AdminProblem("this proxy has no control socket; its log says why (no_control_socket)")
    return Path(status.control_socket)


def _call(path: Path, method: str, target: str, body: object, timeout_s: float) -> dict[str, Any]:
    connection = _UnixConnection(path, timeout_s)
    try:
        data = None if body is None else msgspec.json.encode(body)
        connection.request(method, target, body=data, headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = msgspec.json.decode(response.read(MAX_ANSWER_BYTES), type=dict[str, Any])
    except TimeoutError:
        raise AdminProblem(f"the proxy at {path} did not answer within {timeout_s:.0f} s") from None
    except OSError as error:
        raise AdminProblem(_unreachable(path, error)) from None
    except (http.client.HTTPException, msgspec.DecodeError, UnicodeDecodeError):
        raise AdminProblem(f"what answers at {path} is not a Sealgate proxy") from None
    finally:
        connection.close()
    if response.status >= 400:
        raise AdminProblem(str(answer.get("error", f"the proxy answered with status {response.status}")))
    return answer


def _unreachable(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no socket {path}; is the proxy running?"
    if isinstance(error, PermissionError):
        return f"this user may not open {path}; use the proxy's own user"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens on {path}; is the proxy running?"
    return f"can't connect to {path}: {error.strerror or error}"
