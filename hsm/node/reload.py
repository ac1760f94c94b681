"""Reads a node's config again while it runs, and says what took effect and what needs a restart.

`[[access]]`, `[admission]` and `[log] level` take effect at once, also for clients that are connected. A file with
problems changes nothing. It knows no running objects: what is to be done with a new config is injected.

====== ======== ===================================================================
POST   /reload  {"applied": [section, ...], "needs_restart": [setting, ...]}
====== ======== ===================================================================

Errors are {"error": "a sentence per line"} with a status of 400.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from hsm.node.blocking import BlockingCalls
from hsm.node.config import NodeConfig, load_config
from hsm.shared.exposition import json_response
from hsm.shared.logs import get_logger
from hsm.shared.strict_toml import ConfigError

LIVE = ("access", "admission", "log.level")
"""What takes effect without a restart."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a new config changed."""

    applied: tuple[str, ...]
    """Sections and settings that took effect."""
    needs_restart: tuple[str, ...]
    """Settings that are another in the file than in the running node."""


class Reload:
    """The reloads of one node. `apply` puts a config into effect, in the event loop; only its live part is new."""

    def __init__(
        self,
        path: Path | None,
        config: NodeConfig,
        calls: BlockingCalls,
        apply: Callable[[NodeConfig], None],
    ) -> None:
        self._path = path
        self._running = config
        self._calls = calls
        self._apply = apply
        self._turn = asyncio.Lock()
        self._log = get_logger("node")

    async def reload(self) -> Reloaded:
        """Reads the file again. Raises ConfigError; then nothing has changed."""
        if self._path is None:
            raise ConfigError("this node", ["was not started from a file; restart it with another config"])
        path = self._path
        async with self._turn:
            try:
                config = await self._calls.run(lambda: load_config(path))
            except ConfigError as error:
                self._log.error("reload_failed", problems=str(error).splitlines(), hint="nothing was changed")
                raise
            changed = tuple(_differences(self._running, config))
            applied = tuple(name for name in LIVE if any(_is_within(field, name) for field in changed))
            needs_restart = tuple(field for field in changed if not any(_is_within(field, name) for name in LIVE))
            self._running = _with_live_part(self._running, config)
            if applied:
                self._apply(self._running)
        self._log.info("reloaded", applied=applied, needs_restart=needs_restart)
        return Reloaded(applied, needs_restart)

    async def reload_quietly(self) -> None:
        """For a signal: problems are in the log."""
        try:
            await self.reload()
        except ConfigError:
            return

    def routes(self) -> list[web.RouteDef]:
        """To be served on the management socket."""
        return [web.post("/reload", self._post)]

    async def _post(self, _request: web.Request) -> web.Response:
        try:
            return json_response(await self.reload())
        except ConfigError as error:
            return json_response({"error": str(error)}, 400)


def _with_live_part(running: NodeConfig, config: NodeConfig) -> NodeConfig:
    log = msgspec.structs.replace(running.log, level=config.log.level)
    return msgspec.structs.replace(running, access=config.access, admission=config.admission, log=log)


def _is_within(field: str, name: str) -> bool:
    return field == name or field.startswith((f"{name}.", f"{name}["))


def _differences(old: NodeConfig, new: NodeConfig) -> Iterator[str]:
    """The settings that differ, by their paths."""
    yield from _differing("", msgspec.to_builtins(old), msgspec.to_builtins(new))


def _differing(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differing(f"{path}.{name}".removeprefix("."), old.get(name), new.get(name))
    elif _is_tables(old) and _is_tables(new) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _differing(f"{path}[{number}]", *pair)
    elif old != new:
        yield path


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(entry, dict) for entry in value)
