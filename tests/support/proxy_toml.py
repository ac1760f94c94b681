"""Texts of `proxy.toml` for tests: a good one, and good ones with a section replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.shared.strict_toml import ConfigError
from proxy.config.load import load_config

SECTIONS = {
    "listeners": 'address = "127.0.0.1:8443"',
    "tls": "tickets = true",
    "sites": 'names = ["a.test"]\ncertificates = ["a.pem"]\nupstream = "web"',
    "upstreams": 'name = "web"\nservers = ["10.0.0.1:80"]',
    "nodes": 'name = "n1"\naddress = "10.0.0.1:1"\n[[nodes]]\nname = "n2"\naddress = "10.0.0.2:1"',
    "signing": 'ca = "ca.pem"\ncertificate = "proxy.pem"\nprivate_key = "proxy.key"',
}
_LISTS = {"listeners", "sites", "upstreams", "nodes", "discovery"}


def toml(**changes: str) -> str:
    """The good text with the bodies of some sections replaced; an empty body leaves the section out."""
    parts = []
    for name, body in {**SECTIONS, **changes}.items():
        if not body:
            continue
        parts.append(f"[[{name}]]\n{body}\n" if name in _LISTS else f"[{name}]\n{body}\n")
    return "\n".join(parts)


GOOD = toml()


def message_for(folder: Path, text: str) -> str:
    """What is said of a bad text; the test fails where nothing is."""
    path = folder / "proxy.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value).replace(f"{path}:", "proxy.toml:")
