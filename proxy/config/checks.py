"""What is wrong, or odd, between the fields of a config whose single fields are right.

Pure: no file is opened. `contradictions` are errors, `warnings` are what works but is likely not meant.
"""

from __future__ import annotations

from hsm.shared.addresses import parse_address
from proxy.config.findings import Found, Where, repeated, target_problems
from proxy.config.names import folded_name, is_dns_name
from proxy.config.node_checks import node_contradictions, node_warnings
from proxy.config.schema import ProxyConfig, SiteConfig, TlsConfig, UpstreamConfig


def contradictions(config: ProxyConfig) -> Found:
    """Everything that can't be right: where it stands, and what is wrong with what to do."""
    yield from _listener_problems(config)
    yield from _tls_problems(config.tls)
    yield from _site_problems(config)
    yield from _upstream_problems(config.upstreams)
    yield from node_contradictions(config)


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
    return found + list(node_warnings(config))


def _listener_problems(config: ProxyConfig) -> Found:
    yield from repeated(("listeners",), "name", (listener.name for listener in config.listeners))
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
        yield from repeated((*where, "certificates"), "", site.certificates)


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
    yield from repeated(("upstreams",), "name", (upstream.name for upstream in upstreams))
    for index, upstream in enumerate(upstreams):
        where: Where = ("upstreams", index, "servers")
        yield from repeated(where, "", upstream.servers)
        for which, address in enumerate(upstream.servers):
            yield from target_problems((*where, which), address)
