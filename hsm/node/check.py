"""Looks whether a node could start with a config: the file, what it names, TLS, and that its tokens open.

Starts nothing, listens nowhere. What is not wrong but surely not meant is a warning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from hsm.node.blocking import BlockingCalls
from hsm.node.config import NodeConfig, NodeFiles, load_config
from hsm.node.opening.factory import open_tokens
from hsm.node.opening.opened import Surroundings
from hsm.node.token_config import Pkcs11TokenConfig, TokenConfig
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
    tokens = [token for token in config.tokens if not _is_opened_by_people(token)]
    keys = asyncio.run(_keys(tokens, path.absolute().parent))
    lines = [f"{path}: right; node {config.node.name!r}, {len(keys)} keys, {len(config.access)} access rules"]
    lines += [f"warning: {warning}" for warning in _warnings(config, keys)]
    return "\n".join(lines)


def _is_opened_by_people(token: TokenConfig) -> bool:
    return not isinstance(token, Pkcs11TokenConfig) and token.shares


async def _keys(tokens: list[TokenConfig], base_dir: Path) -> tuple[KeyEntry, ...]:
    """What the tokens hold; each key once."""
    tasks = Tasks()
    surroundings = Surroundings(base_dir, BlockingCalls(), tasks, asyncio.get_running_loop())
    opened = await open_tokens(tokens, surroundings, None)
    try:
        lists = [holder.keys() for token in opened if (holder := token.backend or token.awaited)]
        return tuple({key.ski: key for keys in lists for key in keys}.values())
    finally:
        for token in opened:
            await token.close()
        await tasks.stop()


def _warnings(config: NodeConfig, keys: tuple[KeyEntry, ...]) -> Iterator[str]:
    for token in config.tokens:
        if _is_opened_by_people(token):
            yield f"token {token.name!r} is opened by shares, so its keys were not looked at"
    if not config.access:
        yield "there is no [[access]], so every request will be denied"
    for number, rule in enumerate(config.rules):
        mine = [key for key in keys if rule.covers_key(key)]
        if not mine:
            yield f"access[{number}]: its keys {', '.join(rule.keys)} match no key there is now"
        elif not any(True for key in mine for _ in rule.allowed_schemes(key)):
            yield f"access[{number}]: its schemes fit none of its keys"
