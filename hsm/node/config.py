"""The whole of `node.toml` as frozen values, and the checks that types alone can't make.

It knows no running objects and reads no files besides the config itself; `note_problems` looks whether the files that
the config names exist and are private enough. Paths stay as written; `NodeFiles` resolves them against the folder of
the config file.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from hsm.node.access import AccessRule, rule_problems
from hsm.node.token_checks import note_file, note_token_problems
from hsm.node.token_config import FilePath, Seconds, Strict, TokenConfig
from hsm.shared import strict_toml, toml_lines
from hsm.shared.addresses import parse_address

Count = Annotated[int, Meta(ge=1, le=1_000_000)]

MAX_SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux (unix(7): sun_path)."""


class NodeSection(Strict, frozen=True, kw_only=True):
    """The node itself: `[node]`."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
    """How logs, status and people call this node."""
    drain_timeout_s: Seconds = 10.0
    """After SIGTERM: longest wait for requests in flight before their connections are cut."""
    refresh_interval_s: Annotated[float, Meta(ge=0.01, le=60)] = 0.25
    """How often the backend is asked whether its keys changed."""


class ListenConfig(Strict, frozen=True, kw_only=True):
    """Where proxies connect: `[listen]`."""

    address: str
    """host:port, or [ipv6]:port; port 0 lets the kernel choose (the ready line names it)."""
    backlog: Count = 128
    max_connections: Count = 1024
    """Open connections. When there are more, those still in their handshake give way, then new ones are closed."""
    max_in_flight_per_connection: Count = 1024
    """Unanswered requests on one connection; further ones are answered busy."""
    handshake_timeout_s: Seconds = 10.0
    idle_timeout_s: Seconds = 600.0
    """A connection with nothing in flight that says nothing for so long is closed."""
    send_timeout_s: Seconds = 10.0
    """Longest time a peer may leave its answers unread; then it is cut."""
    max_unsent_bytes: Annotated[int, Meta(ge=65_536, le=2**30)] = 1_048_576
    """Answers that wait in memory for one peer to read them; a peer with more is cut."""


class IdentityConfig(Strict, frozen=True, kw_only=True):
    """Who this node is to its clients, and which CA certifies them: `[tls]`. Files are PEM."""

    ca: FilePath
    certificate: FilePath
    private_key: FilePath


class AccessConfig(Strict, frozen=True, kw_only=True):
    """One thing a client may do: `[[access]]`. What no rule allows is denied."""

    client: Annotated[str, Meta(min_length=1, max_length=1024)]
    """Identity of the client's certificate: its first URI SAN, else "CN=..."; `*` and `?` match as in file names."""
    keys: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Labels (with `*` and `?`), or "ski:" and 40 hex digits."""
    schemes: tuple[str, ...] = ("*",)
    """Names of signature schemes, such as "ecdsa_sha256"; "*" is all."""
    purposes: tuple[str, ...] = ("tls-server",)
    """Keys of which purposes it may use: "tls-server", "ca", "code-signing", "general"."""
    digests: bool = False
    """It may have digests signed with tls-server keys without showing the message, as plain Keyless clients do."""
    max_rate: Annotated[float, Meta(gt=0)] | None = None
    """Signatures per second, at most, for each identity that matches; None is no limit."""


class AdmissionConfig(Strict, frozen=True, kw_only=True):
    """How long requests may wait: `[admission]`. How many may wait, and be signed at once, each token says."""

    default_deadline_s: Seconds = 5.0
    """Deadline of requests that carry none."""
    max_deadline_s: Seconds = 30.0
    """A request that asks for more time gets this much."""
    tick_budget_s: Annotated[float, Meta(gt=0, le=1)] = 0.002
    """Longest time the event loop signs before it looks at its sockets again."""


class OpsConfig(Strict, frozen=True, kw_only=True):
    """Where metrics and health are served in plain HTTP: `[ops]`. It serves no keys; keep it off public addresses."""

    address: str = "127.0.0.1:9407"


class ManagementConfig(Strict, frozen=True, kw_only=True):
    """Where `sealgate key` reaches the node: `[management]`. Whoever may open the socket may manage keys."""

    socket: FilePath = "node.sock"
    """Path of a Unix socket, made with mode 0600."""


class LogConfig(Strict, frozen=True, kw_only=True):
    """`[log]`."""

    format: Literal["console", "json"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class NodeConfig(Strict, frozen=True, kw_only=True):
    """`node.toml`."""

    node: NodeSection
    listen: ListenConfig
    tls: IdentityConfig
    tokens: Annotated[tuple[TokenConfig, ...], Meta(min_length=1)]
    access: tuple[AccessConfig, ...] = ()
    admission: AdmissionConfig = AdmissionConfig()
    ops: OpsConfig = OpsConfig()
    management: ManagementConfig = ManagementConfig()
    log: LogConfig = LogConfig()

    @property
    def rules(self) -> tuple[AccessRule, ...]:
        """The access list as `hsm.node.access` wants it."""
        return tuple(
            AccessRule(entry.client, entry.keys, entry.schemes, entry.purposes, entry.digests, entry.max_rate)
            for entry in self.access
        )


@dataclass(frozen=True)
class NodeFiles:
    """The files a config names, as absolute paths."""

    ca: Path
    certificate: Path
    private_key: Path
    socket: Path

    @classmethod
    def of(cls, config: NodeConfig, base_dir: Path) -> NodeFiles:
        """`base_dir` is the folder of the config file, where relative paths start."""

        def resolve(path: str) -> Path:
            return strict_toml.resolve(base_dir, path)

        return cls(
            ca=resolve(config.tls.ca),
            certificate=resolve(config.tls.certificate),
            private_key=resolve(config.tls.private_key),
            socket=resolve(config.management.socket),
        )


def load_config(path: Path) -> NodeConfig:
    """Reads and checks a config file. Raises `ConfigError` with every problem found."""
    text = strict_toml.read_text(path)
    _refuse_old_sections(text, path)
    config = strict_toml.parse(text, NodeConfig, str(path))
    problems = strict_toml.Problems(text)
    note_problems(config, path.absolute().parent, problems)
    problems.raise_if_any(path)
    return config


_OLD_SECTIONS: tuple[tuple[toml_lines.Path, str], ...] = (
    (
        ("backend",),
        'a node has several tokens now; write [[tokens]] instead of [backend], and below it name = "vault" and'
        ' type = "vault" before what stands there',
    ),
    (("admission", "concurrency"), "each token has its own; write concurrency under [[tokens]]"),
    (("admission", "queue"), "each token has its own; write queue under [[tokens]]"),
    (("admission", "cheap_queue"), "each token has its own; write loop_queue under [[tokens]]"),
)


_SECRET_FIELDS = {
    "pin": "a PIN does not stand in a config; put it into a file of mode 0600, and name that with pin_file",
    "passphrase": "a passphrase does not stand in a config; put it into a file of mode 0600, and name that with"
    " passphrase_file",
}


def _refuse_old_sections(text: str, path: Path) -> None:
    """Configs of nodes that had one backend are told how they are written now, and of nothing else; so are secrets."""
    lines = toml_lines.index_lines(text)
    problems = strict_toml.Problems(text)
    for field, sentence in _OLD_SECTIONS:
        if field in lines:
            problems.add(field, sentence)
    for field in lines:
        if field[0] == "tokens" and field[-1] in _SECRET_FIELDS and len(field) == 3:
            problems.add(field, _SECRET_FIELDS[str(field[-1])])
    problems.raise_if_any(path)


def note_problems(config: NodeConfig, base_dir: Path, problems: strict_toml.Problems) -> None:
    """Notes what is wrong with a config beyond its types; `base_dir` is where relative paths start."""
    _note_addresses(config, problems)
    note_token_problems(config.tokens, base_dir, problems)
    for number, rule in enumerate(config.rules):
        for field, sentence in rule_problems(rule):
            problems.add(("access", number, field), sentence)
    if config.admission.default_deadline_s > config.admission.max_deadline_s:
        problems.add(("admission", "default_deadline_s"), "is longer than max_deadline_s; lower it or raise that")
    files = NodeFiles.of(config, base_dir)
    _note_files(files, problems)
    _note_socket(files.socket, problems)


def _note_addresses(config: NodeConfig, problems: strict_toml.Problems) -> None:
    for section, address in (("listen", config.listen.address), ("ops", config.ops.address)):
        try:
            parse_address(address)
        except ValueError as error:
            problems.add((section, "address"), str(error))
    if config.listen.address == config.ops.address and not config.listen.address.endswith(":0"):
        problems.add(("ops", "address"), "is the same as listen.address; give each its own port")


def _note_files(files: NodeFiles, problems: strict_toml.Problems) -> None:
    note_file(("tls", "ca"), files.ca, problems)
    note_file(("tls", "certificate"), files.certificate, problems)
    note_file(("tls", "private_key"), files.private_key, problems, is_private=True)


def _note_socket(path: Path, problems: strict_toml.Problems) -> None:
    field = ("management", "socket")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        problems.add(field, f"{path} is longer than {MAX_SOCKET_PATH_BYTES} bytes; choose a shorter path")
    elif "\0" in str(path):
        problems.add(field, "holds a NUL byte; correct the path")
    elif not os.path.isdir(path.parent):
        problems.add(field, f"the folder {path.parent} does not exist, or this user may not see it; create it")
    elif path.parent.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        # Whoever comes first could listen there, and be given keys to import.
        problems.add(field, f"others may write to the folder {path.parent}; choose another, or run `chmod go-w` on it")
