"""A whole node with a vault and a PKCS#11 token that comes, goes and comes back: its clients, status and owners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from hsm.backends.attributes import KeyAttributes, Purpose
from hsm.backends.book import Book
from hsm.backends.pkcs11.admin import Pkcs11Admin
from hsm.backends.pkcs11.messages import TokenMatch
from hsm.backends.pkcs11.pin import PinFile
from hsm.backends.pkcs11.settings import TokenSettings
from hsm.node.app import Node
from hsm.node.config import load_config
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import Failed, Signed
from hsm.wire.schemes import KeyType, Scheme
from tests.support.node import PROXY, Link, make_home, until, verify
from tests.support.pkcs11_shim import Shim, build_shim
from tests.support.softhsm import SoftToken

ANYTHING = f'[[access]]\nclient = "{PROXY}"\nkeys = ["any-*"]\npurposes = ["general"]\n'


class Rig:
    """A node; its HSM is behind the shim."""

    def __init__(self, folder: Path) -> None:
        self.home = make_home(folder)
        soft = folder / "soft"
        soft.mkdir()
        self.token = SoftToken(soft).init()
        self.shim = Shim(folder, self.token.module, self.token.environment, build_shim(folder))
        settings = TokenSettings(
            module=Path(self.token.module),
            token=TokenMatch(token=self.token.label),
            pin=PinFile(self.token.pin_file()),
            environment=self.token.environment,
        )
        general = KeyAttributes(purpose=Purpose.GENERAL)
        self.key = Pkcs11Admin(settings, Book(folder / "hsm.book")).generate(KeyType.P256, "any-key", general)
        self.node = Node(load_config(self._config()), folder)

    def _config(self) -> Path:
        variables = ", ".join(f'{name} = "{value}"' for name, value in self.shim.environment.items())
        hsm = (
            f'[[tokens]]\nname = "hsm"\ntype = "pkcs11"\nuri = "pkcs11:token={self.token.label}"\n'
            f'module = "{self.shim.module}"\npin_file = "soft/pin"\nconcurrency = 2\ncall_timeout_s = 1.0\n'
            f"retry_min_s = 0.05\nretry_max_s = 0.2\nenvironment = {{ {variables} }}\n"
        )
        return self.home.write_config(tokens=self.home.vault_token() + hsm, extra=ANYTHING)

    async def ask(self, method: str, path: str) -> Any:
        connector = aiohttp.UnixConnector(path=str(self.node.management_socket))
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.request(method, f"http://x{path}") as got,
        ):
            return await got.json()

    async def hsm(self) -> Any:
        """What the status says of the HSM."""
        status = await self.ask("GET", "/status")
        return next(token for token in status["tokens"] if token["name"] == "hsm")

    async def sign(self, link: Link) -> Signed | Failed:
        answer = await link.ask(self.key.ski, Scheme.ECDSA_SHA256, b"message")
        assert isinstance(answer, Signed | Failed)
        return answer


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    with capture_logs():
        yield rig
        await rig.node.stop()
    rig.shim.close()


async def test_a_token_that_is_away_keeps_no_node_from_starting(rig: Rig) -> None:
    rig.shim["token_gone"] = 1
    await rig.node.start()
    assert rig.node.status().is_ready, "the vault signs"
    hsm = await rig.hsm()
    assert hsm["state"] != "up"
    assert "not up" in hsm["details"]["warning"]
    link = await Link.open(rig.node.address, rig.home.identity("proxy"))
    assert isinstance(await rig.sign(link), Failed)
    rig.shim.clear()

    async def answer() -> Signed | Failed:
        return await rig.sign(link)

    signed = await eventually(answer, lambda got: isinstance(got, Signed))
    assert isinstance(signed, Signed)
    verify(rig.key.public_key, Scheme.ECDSA_SHA256, signed.signature, b"message")
    await link.close()


async def test_a_token_that_goes_is_busy_and_comes_back(rig: Rig) -> None:
    await rig.node.start()
    link = await Link.open(rig.node.address, rig.home.identity("proxy"))
    assert isinstance(await rig.sign(link), Signed)
    rig.shim["token_gone"] = 1
    failed = await eventually(
        lambda: rig.sign(link), lambda got: isinstance(got, Failed) and got.code is ErrorCode.BUSY
    )
    assert isinstance(failed, Failed)
    assert failed.retry_after_s is not None
    status = rig.node.status()
    assert status.is_ready
    assert status.keys == 3, "its keys stay listed"
    listed = await rig.ask("GET", "/keys?token=hsm")
    assert "not up" in str(listed), "its owner is told"
    rig.shim.clear()
    await eventually(lambda: rig.sign(link), lambda got: isinstance(got, Signed))
    await until(lambda: rig.node.status().tokens[1].state == "up")
    assert await rig.ask("POST", "/tokens/hsm/retry") == {"token": "hsm", "state": "up"}
    await link.close()


async def eventually(ask: Callable[[], Any], is_right: Callable[[Any], bool]) -> Any:
    """Asks until the answer is right."""
    answers: list[Any] = []
    for _ in range(500):
        answers.append(await ask())
        if is_right(answers[-1]):
            return answers[-1]
        await asyncio.sleep(0.02)
    pytest.fail(f"never right: {answers[-1]}")
