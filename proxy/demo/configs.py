"""The config files of the demo, written for its nodes and its proxy. Knows the formats; starts nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hsm.shared.mtls import Identity

if TYPE_CHECKING:
    from certs.site_keys import TokenPlace

CLIENT_IDENTITY = "sealgate://proxy/dev"
TokenKind = Literal["vault", "pkcs11", "simulated"]
KEY_PLACES: dict[TokenKind, str] = {
    "vault": "in the software vault",
    "pkcs11": "in a SoftHSM2 token, reached by PKCS#11 as an HSM would be",
    "simulated": "in a vault that is as slow as an HSM (profile {profile})",
}


@dataclass(frozen=True, slots=True)
class NodeSpot:
    """Where one node of the demo is."""

    name: str
    port: int
    ops_port: int
    config: Path
    socket: Path
    """Its management socket."""
    relay_port: int | None = None
    """Where the proxy connects to instead, when something stands between them."""

    @property
    def link_port(self) -> int:
        """The port that the proxy is told."""
        return self.port if self.relay_port is None else self.relay_port

    @property
    def ops_url(self) -> str:
        """Base address of its metrics and health."""
        return f"http://127.0.0.1:{self.ops_port}"


def node_toml(spot: NodeSpot, identity: Identity, token: str) -> str:
    """A node's config; `token` is its `[[tokens]]` section."""
    return (
        f'[node]\nname = "{spot.name}"\n'
        f'[listen]\naddress = "127.0.0.1:{spot.port}"\n'
        f"[tls]\n{_identity_toml(identity)}{token}"
        f'[[access]]\nclient = "{CLIENT_IDENTITY}"\nkeys = ["*"]\n'
        f'[ops]\naddress = "127.0.0.1:{spot.ops_port}"\n'
        f"[management]\nsocket = {_quoted([spot.socket])}\n"
    )


def token_toml(place: TokenPlace, kind: TokenKind, profile: str) -> str:
    """The `[[tokens]]` section of every node: all of them use one token, as the members of an HSM cluster do."""
    from certs.site_keys import VaultPlace

    if isinstance(place, VaultPlace) and kind == "simulated":
        return place.toml("simulated", f"i_know_this_is_not_an_hsm = true\nprofile = {_quoted([profile])}\n")
    return place.toml()


@dataclass(frozen=True, slots=True)
class ProxyPlan:
    """What the proxy's config is made of."""

    port: int
    control_port: int
    workers: int
    chains: Mapping[str, Mapping[str, Path]]
    """Certificates by site and kind; the first site is the default one."""
    nodes: Sequence[NodeSpot]
    web_ports: Sequence[int]
    identity: Identity
    more: str
    """TOML before the first section."""
    more_upstream: str
    """Lines of `[[upstreams]]`."""
    more_signing: str
    """Lines of `[signing]`."""


def proxy_toml(plan: ProxyPlan) -> str:
    """The proxy's config."""
    sites = "".join(
        f'[[sites]]\nnames = ["{site}"]\ncertificates = [{_quoted(chains.values())}]\nupstream = "web"\n'
        f"default = {'true' if number == 0 else 'false'}\n"
        for number, (site, chains) in enumerate(plan.chains.items())
    )
    nodes = "".join(
        f'[[nodes]]\nname = "{spot.name}"\naddress = "127.0.0.1:{spot.link_port}"\nserver_name = "localhost"\n'
        for spot in plan.nodes
    )
    servers = _quoted(f"127.0.0.1:{port}" for port in plan.web_ports)
    return (
        f"{plan.more}\n"
        f"[process]\nworkers = {plan.workers}\n"
        f'[control]\naddress = "127.0.0.1:{plan.control_port}"\n'
        f'[[listeners]]\naddress = "127.0.0.1:{plan.port}"\n'
        f"{sites}{nodes}"
        f'[[upstreams]]\nname = "web"\nservers = [{servers}]\n{plan.more_upstream}\n'
        f"[signing]\n{_identity_toml(plan.identity)}{plan.more_signing}\n"
    )


def _quoted(values: Iterable[object]) -> str:
    """Values as TOML basic strings, whose escapes are JSON's."""
    return ", ".join(json.dumps(str(value), ensure_ascii=False) for value in values)


def _identity_toml(identity: Identity) -> str:
    return "".join(f"{name} = {_quoted([getattr(identity, name)])}\n" for name in ("ca", "certificate", "private_key"))
