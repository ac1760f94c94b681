"""A whole Sealgate on one machine: PKI, vault, nodes, web servers and the proxy, in one folder.

The folder is laid out once (`Layout`), the programs are started and stopped by `Cluster`. A second run in the same
folder keeps the PKI and the keys.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hsm.shared.mtls import Identity
from proxy.demo.processes import Program, ProgramError, answers, free_port, listens, sealgate
from proxy.demo.web import web_server

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
CLIENT_IDENTITY = "sealgate://proxy/dev"


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """What to start. A port of 0 is chosen by the kernel."""

    directory: Path
    nodes: int = 3
    web_servers: int = 2
    port: int = 0
    workers: int = 2
    sites: tuple[str, ...] = ("localhost",)
    proxy_config: str = ""
    """TOML that is put before the generated sections, for example "[tls]\\ntickets = false"."""
    upstream_config: str = ""
    """Lines added to `[[upstreams]]`."""
    signing_config: str = ""
    """Lines added to `[signing]`."""


@dataclass(frozen=True, slots=True)
class NodeSpot:
    """Where one node of the demo is."""

    name: str
    port: int
    ops_port: int
    config: Path

    @property
    def ops_url(self) -> str:
        """Base address of its metrics and health."""
        return f"http://127.0.0.1:{self.ops_port}"


@dataclass(slots=True)
class Cluster:
    """The programs of a demo. `start` starts all or, where one fails, none; `stop` stops what runs."""

    spec: ClusterSpec
    ca: Path = field(init=False)
    store: Path = field(init=False)
    key_file: Path = field(init=False)
    chains: dict[str, dict[str, Path]] = field(init=False)
    nodes: dict[str, NodeSpot] = field(init=False, default_factory=dict)
    port: int = field(init=False)
    control_port: int = field(init=False)
    proxy: Program = field(init=False)
    node_programs: dict[str, Program] = field(init=False, default_factory=dict)
    web_programs: list[Program] = field(init=False, default_factory=list)
    web_ports: list[int] = field(init=False, default_factory=list)

    @property
    def url(self) -> str:
        """What to open in a browser."""
        return f"https://localhost:{self.port}/"

    @property
    def control_url(self) -> str:
        """Base address of the proxy's metrics, health and status."""
        return f"http://127.0.0.1:{self.control_port}"

    @property
    def proxy_config(self) -> Path:
        """The proxy's config file."""
        return self.spec.directory / "proxy.toml"

    @property
    def programs(self) -> Sequence[Program]:
        """Everything, in the order of starting."""
        return [*self.web_programs, *self.node_programs.values(), self.proxy]

    def prepare(self) -> None:
        """Makes the PKI, the keys and all configs; starts nothing."""
        from certs.pki import DevPkiSpec, PkiError, create_dev_pki

        directory = self.spec.directory
        directory.mkdir(parents=True, exist_ok=True)
        try:
            pki = create_dev_pki(DevPkiSpec(directory / "pki", self.spec.sites, self.spec.nodes))
        except PkiError as error:
            raise ProgramError(f"keys and certificates: {error}") from None
        self.ca, self.chains, self.store, self.key_file = pki.ca, pki.sites, pki.store, pki.key_file
        self.port, self.control_port = self.spec.port or free_port(), free_port()
        for name, identity in pki.nodes.items():
            spot = NodeSpot(name, free_port(), free_port(), directory / f"{name}.toml")
            spot.config.write_text(_node_toml(spot, identity, pki.store, pki.key_file, _socket_path(pki.folder, name)))
            self.nodes[name] = spot
            command = sealgate("node", "run", "--config", str(spot.config))
            self.node_programs[name] = Program(name, command, directory / f"{name}.log")
        for number in range(1, self.spec.web_servers + 1):
            port = free_port()
            self.web_ports.append(port)
            self.web_programs.append(web_server(f"web-{number}", port, directory / f"web-{number}"))
        self.proxy_config.write_text(self._proxy_toml(pki.proxy))
        command = sealgate("proxy", "run", "--config", str(self.proxy_config))
        self.proxy = Program("proxy", command, directory / "proxy.log")

    def start(self) -> None:
        """Starts everything and waits until it serves; after an error nothing is left running."""
        try:
            for program in (*self.web_programs, *self.node_programs.values()):
                program.start()
            for program, port in zip(self.web_programs, self.web_ports, strict=True):
                program.wait_until(listens("127.0.0.1", port), START_TIMEOUT_S)
            for name, program in self.node_programs.items():
                program.wait_until(answers(self.nodes[name].ops_url + "/readyz"), START_TIMEOUT_S)
            self.proxy.start()
            self.proxy.wait_until(answers(self.control_url + "/readyz"), START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise

    def start_node(self, name: str) -> None:
        """Starts one node again and waits until it is ready to sign."""
        program = self.node_programs[name]
        program.start()
        program.wait_until(answers(self.nodes[name].ops_url + "/readyz"), START_TIMEOUT_S)

    def stop(self) -> None:
        """Stops the proxy first, so that no client sees its parts go; then the rest."""
        for program in reversed(self.programs):
            with contextlib.suppress(ProgramError):
                program.stop(STOP_TIMEOUT_S)

    def _proxy_toml(self, identity: Identity) -> str:
        sites = "".join(
            f'[[sites]]\nnames = ["{site}"]\ncertificates = [{_quoted(chains.values())}]\nupstream = "web"\n'
            f"default = {'true' if number == 0 else 'false'}\n"
            for number, (site, chains) in enumerate(self.chains.items())
        )
        nodes = "".join(
            f'[[nodes]]\nname = "{spot.name}"\naddress = "127.0.0.1:{spot.port}"\nserver_name = "localhost"\n'
            for spot in self.nodes.values()
        )
        servers = _quoted(f"127.0.0.1:{port}" for port in self.web_ports)
        return (
            f"{self.spec.proxy_config}\n"
            f"[process]\nworkers = {self.spec.workers}\n"
            f'[control]\naddress = "127.0.0.1:{self.control_port}"\n'
            f'[[listeners]]\naddress = "127.0.0.1:{self.port}"\n'
            f"{sites}{nodes}"
            f'[[upstreams]]\nname = "web"\nservers = [{servers}]\n{self.spec.upstream_config}\n'
            f"[signing]\n{_identity_toml(identity)}{self.spec.signing_config}\n"
        )


def _quoted(values: Iterable[object]) -> str:
    """Values as TOML basic strings, whose escapes are JSON's."""
    return ", ".join(json.dumps(str(value), ensure_ascii=False) for value in values)


def _identity_toml(identity: Identity) -> str:
    return "".join(f"{name} = {_quoted([getattr(identity, name)])}\n" for name in ("ca", "certificate", "private_key"))


def _socket_path(private: Path, name: str) -> Path:
    """In a folder nobody else writes to. Unix socket paths are short by nature: a deep one needs another place."""
    path = private / f"{name}.sock"
    return path if len(str(path)) < 100 else Path(tempfile.mkdtemp(prefix="sealgate-")) / f"{name}.sock"


def _node_toml(spot: NodeSpot, identity: Identity, store: Path, key_file: Path, socket: Path) -> str:
    return (
        f'[node]\nname = "{spot.name}"\n'
        f'[listen]\naddress = "127.0.0.1:{spot.port}"\n'
        f"[tls]\n{_identity_toml(identity)}"
        f'[backend]\ntype = "vault"\nstore = {_quoted([store])}\nkey_file = {_quoted([key_file])}\n'
        f'[[access]]\nclient = "{CLIENT_IDENTITY}"\nkeys = ["*"]\n'
        f'[ops]\naddress = "127.0.0.1:{spot.ops_port}"\n'
        f"[management]\nsocket = {_quoted([socket])}\n"
    )
