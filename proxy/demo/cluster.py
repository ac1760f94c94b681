"""A whole Sealgate on one machine: PKI, token, nodes, web servers and the proxy, in one folder.

`prepare` lays the folder out, `start` and `stop` are about the programs. A second run in the same folder keeps the PKI
and the keys. Every node has a `[[tokens]]` of the same place: a vault, a SoftHSM2 token, or a vault as slow as an HSM.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from certs.sites import DevSite
from hsm.wire.schemes import KeyType
from proxy.demo.configs import (
    CLIENT_IDENTITY,
    KEY_PLACES,
    NodeSpot,
    ProxyPlan,
    TokenKind,
    node_toml,
    proxy_toml,
    token_toml,
)
from proxy.demo.processes import Program, ProgramError, answers, free_port, listens, sealgate
from proxy.demo.web import nginx_program, web_server

if TYPE_CHECKING:
    from certs.pki import DevPki
    from certs.site_keys import TokenPlace

__all__ = ["CLIENT_IDENTITY", "DEMO_SITES", "SLOW_PROFILE", "Cluster", "ClusterSpec", "NodeSpot", "TokenKind"]

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
SLOW_PROFILE = "yubihsm2"
"""A simulated HSM whose slowness can be seen: 73 ms for a P-256 signature."""
LONGEST_SOCKET_PATH = 100
"""Unix socket paths are short by nature (108 bytes)."""

DEMO_SITES = (
    DevSite("localhost"),
    DevSite("rsa.localhost", key_types=(KeyType.RSA_2048,)),
    DevSite("p384.localhost", key_types=(KeyType.P384,)),
)
"""Every kind of key that browsers know; "localhost" has two certificates, and the client chooses."""


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """What to start. A port of 0 is chosen by the kernel."""

    directory: Path
    nodes: int = 3
    web_servers: int = 2
    port: int = 0
    workers: int = 2
    backend: TokenKind = "vault"
    """What holds the keys."""
    profile: str = SLOW_PROFILE
    """Which HSM "simulated" imitates."""
    sites: tuple[DevSite | str, ...] = ("localhost",)
    key_types: tuple[KeyType, ...] = (KeyType.P256, KeyType.RSA_2048)
    """One certificate of each for every site that does not say otherwise."""
    proxy_config: str = ""
    """TOML that is put before the generated sections, for example "[tls]\\ntickets = false"."""
    upstream_config: str = ""
    """Lines added to `[[upstreams]]`."""
    signing_config: str = ""
    """Lines added to `[signing]`."""
    token_config: str = ""
    """Lines added to every node's `[[tokens]]`."""
    relayed: bool = False
    """The proxy is told another port for each node, `NodeSpot.relay_port`; the caller has something listen there."""

    @property
    def key_place(self) -> str:
        """Where the keys are, for people."""
        return KEY_PLACES[self.backend].format(profile=self.profile)


@dataclass(slots=True)
class Cluster:
    """The programs of a demo. `start` starts all or, where one fails, none; `stop` stops what runs."""

    spec: ClusterSpec
    ca: Path = field(init=False)
    token: TokenPlace = field(init=False)
    chains: dict[str, dict[str, Path]] = field(init=False)
    nodes: dict[str, NodeSpot] = field(init=False, default_factory=dict)
    port: int = field(init=False)
    control_port: int = field(init=False)
    proxy: Program = field(init=False)
    node_programs: dict[str, Program] = field(init=False, default_factory=dict)
    web_programs: list[Program] = field(init=False, default_factory=list)
    web_ports: list[int] = field(init=False, default_factory=list)
    _socket_folder: Path | None = field(init=False, default=None)

    @property
    def url(self) -> str:
        """What to open in a browser."""
        return self.url_of("localhost")

    def url_of(self, site: str) -> str:
        """The page of a site."""
        return f"https://{site}:{self.port}/"

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
        """Makes the PKI, the keys and all configs; starts nothing. Raises ProgramError."""
        check_what_is_installed(self.spec)
        spec, directory = self.spec, self.spec.directory
        pki = self._make_pki()
        self.ca, self.chains, self.token = pki.ca, pki.sites, pki.token
        self.port, self.control_port = self.spec.port or free_port(), free_port()
        for name, identity in pki.nodes.items():
            relay_port = free_port() if spec.relayed else None
            paths = directory / f"{name}.toml", self._socket_path(name)
            spot = NodeSpot(name, free_port(), free_port(), *paths, relay_port)
            token = token_toml(pki.token, self.spec.backend, self.spec.profile) + self.spec.token_config
            spot.config.write_text(node_toml(spot, identity, token))
            self.nodes[name] = spot
            command = sealgate("node", "run", "--config", str(spot.config))
            self.node_programs[name] = Program(name, command, directory / f"{name}.log")
        for number in range(1, self.spec.web_servers + 1):
            port = free_port()
            self.web_ports.append(port)
            self.web_programs.append(
                web_server(f"web-{number}", port, directory / f"web-{number}", self.spec.key_place)
            )
        self._prepare_proxy(pki)

    def _make_pki(self) -> DevPki:
        from certs.pki import DevPkiSpec, PkiError, create_dev_pki
        from certs.site_keys import vault_keys
        from certs.softhsm_keys import softhsm_keys

        spec = self.spec
        try:
            spec.directory.mkdir(parents=True, exist_ok=True)
            wanted = DevPkiSpec(spec.directory / "pki", spec.sites, spec.nodes, spec.key_types)
            return create_dev_pki(wanted, softhsm_keys if spec.backend == "pkcs11" else vault_keys)
        except PkiError as error:
            raise ProgramError(f"keys and certificates: {error}") from None

    def _prepare_proxy(self, pki: DevPki) -> None:
        plan = ProxyPlan(
            port=self.port,
            control_port=self.control_port,
            workers=self.spec.workers,
            chains=self.chains,
            nodes=list(self.nodes.values()),
            web_ports=self.web_ports,
            identity=pki.proxy,
            more=self.spec.proxy_config,
            more_upstream=self.spec.upstream_config,
            more_signing=self.spec.signing_config,
        )
        self.proxy_config.write_text(proxy_toml(plan))
        command = sealgate("proxy", "run", "--config", str(self.proxy_config))
        self.proxy = Program("proxy", command, self.spec.directory / "proxy.log")

    def _socket_path(self, name: str) -> Path:
        """In a folder that nobody else writes to; a deep one needs another place, made by `start`, gone with `stop`."""
        path = self.spec.directory / "pki" / f"{name}.sock"
        if len(os.fsencode(path)) < LONGEST_SOCKET_PATH:
            return path
        if self._socket_folder is None:
            self._socket_folder = Path(tempfile.gettempdir()) / f"sealgate-{os.urandom(8).hex()}"
        return self._socket_folder / f"{name}.sock"

    def start(self) -> None:
        """Starts everything and waits until it serves; after an error nothing is left running."""
        try:
            if self._socket_folder is not None:
                self._socket_folder.mkdir(mode=0o700)
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
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)


def check_what_is_installed(spec: ClusterSpec) -> None:
    """Says what is missing before anything is made. Raises ProgramError."""
    from certs.authority import PkiError
    from certs.softhsm_keys import find_module

    nginx_program()
    if spec.backend == "pkcs11":
        try:
            find_module()
        except PkiError as error:
            raise ProgramError(f"{error}, or `make demo BACKEND=pkcs11`, which does") from None
