"""Reading the config again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from hsm.node.blocking import BlockingCalls
from hsm.node.config import NodeConfig, load_config
from hsm.node.reload import Reload, Reloaded
from hsm.shared.strict_toml import ConfigError
from tests.support.node import NodeHome, make_home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("reload"))


class Running:
    """A node's reload and the configs that it applied."""

    def __init__(self, home: NodeHome, path: Path | None = None) -> None:
        self.home = home
        self.path = home.write_config()
        self.applied: list[NodeConfig] = []
        self.config = load_config(self.path)
        self.reload = Reload(path or self.path, self.config, BlockingCalls(), self.applied.append)

    async def with_text(self, old: str, new: str) -> Reloaded:
        """Reloads after the file was edited."""
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new, 1))
        return await self.reload.reload()


async def test_nothing_new_changes_nothing(home: NodeHome) -> None:
    assert await Running(home).reload.reload() == Reloaded((), ())


@pytest.mark.parametrize(
    ("old", "new", "applied", "needs_restart"),
    [
        ('keys = ["www-*"]', 'keys = ["*"]', ("access",), ()),
        ("[[access]]", '[[access]]\nclient = "CN=new"\nkeys = ["*"]\n[[access]]', ("access",), ()),
        ("[ops]", "[admission]\nmax_deadline_s = 9\n[ops]", ("admission",), ()),
        ("[ops]", '[log]\nlevel = "debug"\nformat = "console"\n[ops]', ("log.level",), ("log.format",)),
        ('name = "node-1"', 'name = "node-2"', (), ("node.name",)),
        ('type = "vault"', 'type = "vault"\nqueue = 5', (), ("tokens[0].queue",)),
        ('socket = "node-1.sock"', 'socket = "other.sock"', (), ("management.socket",)),
    ],
)
async def test_what_took_effect_and_what_needs_a_restart_is_said(
    home: NodeHome, old: str, new: str, applied: tuple[str, ...], needs_restart: tuple[str, ...]
) -> None:
    running = Running(home)
    assert await running.with_text(old, new) == Reloaded(applied, needs_restart)
    assert len(running.applied) == bool(applied)
    text = running.path.read_text()
    for config in running.applied:
        assert config != running.config
        assert config.log.format == running.config.log.format, "what needs a restart is not part of what is applied"
        assert ("[log]" in text) == (config.log.level == "debug")
    assert (await running.reload.reload()).applied == ()
    assert (await running.reload.reload()).needs_restart == needs_restart, "said until the node is restarted"


async def test_another_token_needs_a_restart(home: NodeHome) -> None:
    running = Running(home)
    token = running.path.read_text()
    token = token[token.index("[[tokens]]") : token.index("[ops]")].replace('"vault"', '"second"', 1)
    assert await running.with_text("[ops]", f"{token}[ops]") == Reloaded((), ("tokens",))


async def test_a_bad_file_changes_nothing_and_is_said(home: NodeHome) -> None:
    running = Running(home)
    with capture_logs() as lines, pytest.raises(ConfigError, match=r"access\[0\]\.schemes: 'rsa' is no scheme"):
        await running.with_text('keys = ["www-*"]', 'keys = ["*"]\nschemes = ["rsa"]')
    assert not running.applied
    [line] = lines
    assert line["event"] == "reload_failed"
    assert "'rsa' is no scheme" in str(line["problems"])
    await running.reload.reload_quietly()
    assert await running.with_text('schemes = ["rsa"]', 'schemes = ["ed25519"]') == Reloaded(("access",), ())


async def test_two_reloads_at_once_come_one_after_the_other(home: NodeHome) -> None:
    running = Running(home)
    running.path.write_text(running.path.read_text().replace('keys = ["www-*"]', 'keys = ["*"]'))
    results = await asyncio.gather(running.reload.reload(), running.reload.reload())
    assert [result.applied for result in results] == [("access",), ()]


async def test_a_node_without_a_file_has_nothing_to_read() -> None:
    reload = Reload(None, None, BlockingCalls(), lambda _config: None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="was not started from a file"):
        await reload.reload()
