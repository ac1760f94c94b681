"""What is wrong, or odd, between the fields of a config whose single fields are right.

Pure: no file is opened. `contradictions` are errors, `warnings` are what works but is likely not meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from hsm.shared.addresses import parse_address
from proxy.base.policy import SigningPolicy
from proxy.config.schema import ProxyConfig, SiteConfig, TlsConfig, UpstreamConfig

Where = tuple[str | int, ...]
"""Keys and indexes from the top of the file: ("sites", 0, "upstream")."""
Found = Iterator[tuple[Where, str]]

MAX_NAME_CHARACTERS = 253
"""A DNS name in text, without the root's dot (RFC 1035 2.3.4)."""
_LABEL = re.compile(r"^(?!-)[a-z0-9_-]{1,63}(?<!-)\Z", re.ASCII)


def contradictions(config: ProxyConfig) -> Found:
    """Everything that can't be right: where it stands, and what is wrong with what to do."""
    yield from _listener_problems(config)
    yield from _tls_problems(config.tls)
    yield from _site_problems(config)
    yield from _upstream_problems(config.upstreams)
    yield from _node_problems(config)
    yield from _signing_problems(config.signing)


def warnings(config: ProxyConfig) -> list[str]:
    """What works but is likely not meant, as "path: sentence"."""
    used = {site.upstream for site in config.sites}
    found = [
        f"upstreams[{index}]: no site uses {upstream.name!r}"
        for index, upstream in enumerate(config.upstreams)
        if upstream.name not in used
    ]
    if config.signing.job_timeout_s > config.tls.handshake_timeout_s:
        found.append(
            f"signing.job_timeout_s: {config.signing.job_timeout_s:g} is more than tls.handshake_timeout_s "
            f"({config.tls.handshake_timeout_s:g}), which ends the wait earlier"
        )
    if len(config.nodes) == 1:
        found.append("nodes: there is only one, so no new session can start while it is down")
    return found


def is_dns_name(name: str) -> bool:
    """Whether `name` can stand in a certificate as a DNS name, with one leading "*." allowed.

    RFC 1035 2.3.1 and RFC 6125 6.4.3; underscores are let through because they are in use.
    """
    folded = folded_name(name)
    labels = folded.removeprefix("*.").split(".")
    is_address = labels[-1].isdigit()
    return len(folded) <= MAX_NAME_CHARACTERS and not is_address and all(_LABEL.match(label) for label in labels)


def folded_name(name: str) -> str:
    """The form in which two names are compared: lower case, no final dot, international names as A-labels."""
    bare = name.removesuffix(".").lower()
    if bare.isascii():
        return bare
    star, rest = ("*.", bare[2:]) if bare.startswith("*.") else ("", bare)
    try:
        return star + rest.encode("idna").decode("ascii")
    except UnicodeError:
        return bare


def _listener_problems(config: ProxyConfig) -> Found:
    yield from _repeated(("listeners",), "name", (listener.name for listener in config.listeners))
    addresses: list[tuple[Where, str]] = [
        (("listeners", index, "address"), listener.address) for index, listener in enumerate(config.listeners)
    ]
    addresses.append((("control", "address"), config.control.address))
    taken: dict[tuple[str, int], str] = {}
    for where, address in addresses:
        try:
            parsed = parse_address(address)
        except ValueError as error:
            yield where, str(error)
            continue
        if parsed[1] and parsed in taken:
            yield where, f"{address} is taken by {taken[parsed]} already; choose another port"
        taken.setdefault(parsed, "[control]" if where[0] == "control" else f"listeners[{where[1]}]")


def _tls_problems(tls: TlsConfig) -> Found:
    if tls.min_version > tls.max_version:
        yield ("tls", "min_version"), f"{tls.min_version} is above max_version ({tls.max_version}); swap them"
    for field in ("groups", "signature_algorithms"):
        if not getattr(tls, field):
            yield ("tls", field), "is empty, so no client could connect; leave it out to get the defaults"
    if tls.min_version == "1.2" and not tls.ciphers:
        yield ("tls", "ciphers"), 'is empty although TLS 1.2 is allowed; name ciphers or set min_version = "1.3"'
    if tls.max_version == "1.3" and not tls.ciphersuites:
        yield ("tls", "ciphersuites"), 'is empty although TLS 1.3 is allowed; name suites or set max_version = "1.2"'
    for index, cipher in enumerate(tls.ciphers):
        if not (cipher.startswith("ECDHE-") and ("-GCM-" in cipher or "CHACHA20-POLY1305" in cipher)):
            yield (
                ("tls", "ciphers", index),
                f"{cipher!r} is refused: it must be ECDHE with AES-GCM or CHACHA20-POLY1305; remove it",
            )


def _site_problems(config: ProxyConfig) -> Found:
    upstreams = {upstream.name for upstream in config.upstreams}
    owners: dict[str, str] = {}
    default = ""
    for index, site in enumerate(config.sites):
        where: Where = ("sites", index)
        yield from _name_problems(where, site, owners)
        if site.upstream not in upstreams:
            known = ", ".join(sorted(upstreams))
            yield (*where, "upstream"), f"there is no upstream {site.upstream!r}; define it, or use one of: {known}"
        if site.default and default:
            yield (*where, "default"), f"{default} is the default site already; only one can be"
        if site.default:
            default = default or f"sites[{index}]"
        yield from _repeated((*where, "certificates"), "", site.certificates)


def _name_problems(where: Where, site: SiteConfig, owners: dict[str, str]) -> Found:
    for index, name in enumerate(site.names):
        path = (*where, "names", index)
        if not is_dns_name(name):
            yield path, f"{name!r} is not a DNS name; write one like www.example.org, or *.example.org for a wildcard"
        folded = folded_name(name)
        if folded in owners:
            yield path, f"{name!r} belongs to {owners[folded]} already; a name has one site"
        owners.setdefault(folded, f"sites[{where[1]}]")


def _upstream_problems(upstreams: tuple[UpstreamConfig, ...]) -> Found:
    yield from _repeated(("upstreams",), "name", (upstream.name for upstream in upstreams))
    for index, upstream in enumerate(upstreams):
        where: Where = ("upstreams", index, "servers")
        yield from _repeated(where, "", upstream.servers)
        for which, address in enumerate(upstream.servers):
            yield from _target_problems((*where, which), address)


def _node_problems(config: ProxyConfig) -> Found:
    yield from _repeated(("nodes",), "name", (node.name for node in config.nodes))
    yield from _repeated(("nodes",), "address", (node.address for node in config.nodes))
    for index, node in enumerate(config.nodes):
        yield from _target_problems(("nodes", index, "address"), node.address)


def _signing_problems(signing: SigningPolicy) -> Found:
    if signing.attempt_timeout_s > signing.job_timeout_s:
        yield (
            ("signing", "attempt_timeout_s"),
            f"{signing.attempt_timeout_s:g} is more than job_timeout_s ({signing.job_timeout_s:g}), so no second node "
            "would be asked; make it smaller",
        )
    if signing.reconnect_min_s > signing.reconnect_max_s:
        yield (
            ("signing", "reconnect_min_s"),
            f"{signing.reconnect_min_s:g} is more than reconnect_max_s ({signing.reconnect_max_s:g}); swap them",
        )


def _target_problems(where: Where, address: str) -> Found:
    try:
        _, port = parse_address(address)
    except ValueError as error:
        yield where, str(error)
        return
    if port == 0:
        yield where, f"{address}: nobody can be reached at port 0; give the real port"


def _repeated(where: Where, field: str, values: Iterable[str]) -> Found:
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        if value in first:
            path: Where = (*where, index, field) if field else (*where, index)
            yield path, f"{value!r} is used by {where[-1]}[{first[value]}] already; each needs its own"
        first.setdefault(value, index)
