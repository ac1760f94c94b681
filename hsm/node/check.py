"""Looks whether a node could start with a config: the file, what it names, TLS, and that its tokens open.

Starts nothing, listens nowhere. What is not wrong but surely not meant is a warning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hsm.backends.attributes import KeyAttributes
from hsm.node.blocking import BlockingCalls
from hsm.node.config import NodeConfig, NodeFiles, load_config
from hsm.node.opening.factory import needs_people, open_tokens
from hsm.node.opening.opened import OpenToken, Surroundings
from hsm.node.opening.vault import shares_of
from hsm.node.token_config import TokenConfig, VaultOpening
from hsm.shared import strict_toml
from hsm.shared.hardening import harden_process
from hsm.shared.mtls import Identity, server_context
from hsm.shared.tasks import Tasks
from hsm.wire.messages import KeyEntry


def check(path: Path) -> str:
    """A summary for people. Raises ConfigError or TokenProblem."""
    config = load_config(path)
    files = NodeFiles.of(config, path.absolute().parent)
    server_context(Identity(files.ca, files.certificate, files.private_key))
    harden_process()
    base_dir = path.absolute().parent
    tokens = [token for token in config.tokens if not needs_people(token)]
    sealed = {token.name: _shares(token, base_dir) for token in config.tokens if needs_people(token)}
    found = asyncio.run(_look(tokens, sealed, base_dir))
    keys, rules = _count(len(found.keys), "key"), _count(len(config.access), "access rule")
    lines = [f"{path}: right; node {config.node.name!r}, {keys}, {rules}"]
    lines += [f"warning: {warning}" for warning in _warnings(config, found)]
    return "\n".join(lines)


@dataclass(frozen=True)
class _Found:
    """What the tokens hold, each key once; and which tokens were not asked."""

    keys: tuple[tuple[KeyEntry, KeyAttributes], ...]
    away: Mapping[str, str]
    """Tokens that could not be asked now, and why not."""
    left_out: tuple[str, ...]
    """Keys of tokens that a node can't use, and why not."""
    sealed: Mapping[str, str]
    """Tokens whose vault people open, and what with."""


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _shares(token: TokenConfig, base_dir: Path) -> str:
    assert isinstance(token, VaultOpening)
    share_set = shares_of(token, strict_toml.resolve(base_dir, token.store))
    return f"{share_set.threshold} of {share_set.count} shares of set {share_set.name}"


async def _look(configs: list[TokenConfig], sealed: Mapping[str, str], base_dir: Path) -> _Found:
    tasks = Tasks()
    surroundings = Surroundings(base_dir, BlockingCalls(), tasks, asyncio.get_running_loop())
    opened = await open_tokens(configs, surroundings, None)
    try:
        keys: dict[bytes, tuple[KeyEntry, KeyAttributes]] = {}
        for token in opened:
            if (holder := token.backend or token.awaited) is not None:
                entries = holder.keys()
                for entry in entries:
                    keys.setdefault(entry.ski, (entry, holder.attributes_of(entry.ski)))
        away = {token.name: str(token.details().get("problem", "")) for token in opened if token.state() != "up"}
        return _Found(tuple(keys.values()), away, tuple(_left_out(opened)), sealed)
    finally:
        for token in opened:
            await token.close()
        await tasks.stop()


def _left_out(tokens: Iterable[OpenToken]) -> Iterator[str]:
    for token in tokens:
        odd = token.details().get("left_out")
        for sentence in odd if isinstance(odd, list) else ():
            yield f"token {token.name!r}: {sentence}"


def _warnings(config: NodeConfig, found: _Found) -> Iterator[str]:
    for token in config.tokens:
        if token.name in found.sealed:
            yield f"token {token.name!r} is opened by {found.sealed[token.name]}, so its keys were not looked at"
        elif token.name in found.away:
            why = f"token {token.name!r} is away ({found.away[token.name] or 'it does not say why'})"
            yield f"{why}: its keys were not looked at; a node starts without them and waits"
    yield from found.left_out
    if not config.access:
        yield "there is no [[access]], so every request will be denied"
    for number, rule in enumerate(config.rules):
        mine = [(key, attributes) for key, attributes in found.keys if rule.covers_key(key)]
        fitting = [key for key, attributes in mine if rule.covers_purpose(attributes)]
        if not mine:
            yield f"access[{number}]: its keys {', '.join(rule.keys)} match no key there is now"
        elif not fitting:
            yield f"access[{number}]: its purposes {', '.join(rule.purposes)} fit none of its keys"
        elif not any(True for key in fitting for _ in rule.allowed_schemes(key)):
            yield f"access[{number}]: its schemes fit none of its keys"
