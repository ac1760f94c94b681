"""Texts of `proxy.toml` for tests: a good one, and good ones with a section replaced."""

from __future__ import annotations

SECTIONS = {
    "listeners": 'address = "127.0.0.1:8443"',
    "tls": "tickets = true",
    "sites": 'names = ["a.test"]\ncertificates = ["a.pem"]\nupstream = "web"',
    "upstreams": 'name = "web"\nservers = ["10.0.0.1:80"]',
    "nodes": 'name = "n1"\naddress = "10.0.0.1:1"\n[[nodes]]\nname = "n2"\naddress = "10.0.0.2:1"',
    "signing": 'ca = "ca.pem"\ncertificate = "proxy.pem"\nprivate_key = "proxy.key"',
}
_LISTS = {"listeners", "sites", "upstreams", "nodes"}


def toml(**changes: str) -> str:
    """The good text with the bodies of some sections replaced."""
    parts = []
    for name, body in {**SECTIONS, **changes}.items():
        parts.append(f"[[{name}]]\n{body}\n" if name in _LISTS else f"[{name}]\n{body}\n")
    return "\n".join(parts)


GOOD = toml()
