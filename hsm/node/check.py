"""Looks whether a node could start with a config: the file, what it names, TLS, and that the backend opens.

Starts nothing, listens nowhere. What is not wrong but surely not meant is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hsm.node.config import NodeConfig, NodeFiles, load_config
from hsm.node.factory import open_backend
from hsm.shared.hardening import harden_process
from hsm.shared.mtls import Identity, server_context
from hsm.wire.messages import KeyEntry


def check(path: Path) -> str:
    """A summary for people. Raises ConfigError or BackendProblem."""
    config = load_config(path)
    files = NodeFiles.of(config, path.absolute().parent)
    server_context(Identity(files.ca, files.certificate, files.private_key))
    harden_process()
    opened = open_backend(config.backend, files)
    try:
        keys = opened.backend.keys()
    finally:
        opened.close()
    lines = [f"{path}: right; node {config.node.name!r}, {len(keys)} keys, {len(config.access)} access rules"]
    lines += [f"warning: {warning}" for warning in _warnings(config, keys)]
    return "\n".join(lines)


def _warnings(config: NodeConfig, keys: tuple[KeyEntry, ...]) -> Iterator[str]:
    if not config.access:
        yield "there is no [[access]], so every request will be denied"
    for number, rule in enumerate(config.rules):
        mine = [key for key in keys if rule.covers_key(key)]
        if not mine:
            yield f"access[{number}]: its keys {', '.join(rule.keys)} match no key there is now"
        elif not any(True for key in mine for _ in rule.allowed_schemes(key)):
            yield f"access[{number}]: its schemes fit none of its keys"
