"""Opening a SoftHSM2 token as a token of a node: what is permanent stops the start, what may pass does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hsm.backends.attributes import KeyAttributes, KeyState
from hsm.backends.base import BackendError
from hsm.backends.pkcs11.backend import Pkcs11Backend
from hsm.backends.pkcs11.pin import PinCredential, PinFile, PinPrompt, PinVariable
from hsm.node.blocking import BlockingCalls
from hsm.node.opening.opened import OpenToken, Surroundings, TokenProblem
from hsm.node.opening.pkcs11 import open_pkcs11, pkcs11_refusal, token_settings
from hsm.node.refusals import RefusalReason
from hsm.node.token_config import Pkcs11TokenConfig
from hsm.shared.tasks import Tasks
from hsm.wire.schemes import KeyType, Scheme
from tests.support.node import until, verify
from tests.support.softhsm import SoftToken


class Place:
    """A token, and the config that opens it."""

    def __init__(self, folder: Path) -> None:
        self.token = SoftToken(folder).init()
        self.pin_file = self.token.pin_file()
        self.surroundings = Surroundings(folder, BlockingCalls(), Tasks(), asyncio.get_running_loop())
        self.opened: list[OpenToken] = []

    def config(self, **more: Any) -> Pkcs11TokenConfig:
        fields: dict[str, Any] = {
            "name": "web",
            "uri": self.token.uri,
            "pin_file": "pin",
            "environment": self.token.environment,
            "concurrency": 2,
            "retry_min_s": 0.05,
            "retry_max_s": 0.2,
            "call_timeout_s": 2.0,
            **more,
        }
        return msgspec.convert({"type": "pkcs11", **fields}, Pkcs11TokenConfig)

    async def open(self, **more: Any) -> OpenToken:
        opened = await open_pkcs11(self.config(**more), self.surroundings)
        self.opened.append(opened)
        return opened

    async def refused(self, **more: Any) -> str:
        with pytest.raises(TokenProblem) as raised:
            await self.open(**more)
        sentence = str(raised.value)
        assert "'web'" in sentence
        assert "\n" not in sentence
        assert self.token.pin not in sentence
        return sentence


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    yield place
    for opened in place.opened:
        await opened.close()


async def test_a_key_that_is_made_signs_after_a_refresh(place: Place) -> None:
    token = await place.open()
    assert (token.name, token.kind, token.places, token.state()) == ("web", "pkcs11", 2, "up")
    backend = token.awaited
    assert isinstance(backend, Pkcs11Backend)
    assert token.backend is None
    calls = place.surroundings.calls
    attributes = KeyAttributes(state=KeyState.INACTIVE)
    record = await calls.run(lambda: token.admin.generate(KeyType.P256, "www", attributes))
    assert await calls.run(backend.refresh)
    (entry,) = backend.keys()
    assert (entry.ski, entry.label) == (record.ski, "www")
    assert backend.attributes_of(record.ski) == attributes
    done: asyncio.Future[bytes | BackendError] = asyncio.get_running_loop().create_future()
    backend.begin(record.ski, Scheme.ECDSA_SHA256, Scheme.ECDSA_SHA256.payload_of(b"message"), done.set_result)
    signature = await asyncio.wait_for(done, 10)
    assert isinstance(signature, bytes)
    verify(record.public_key, Scheme.ECDSA_SHA256, signature, b"message")
    request = await calls.run(lambda: token.admin.csr("www", "CN=a.example", ["a.example"]))
    assert request.startswith(b"-----BEGIN CERTIFICATE REQUEST")
    await calls.run(lambda: token.admin.destroy("www"))
    assert await calls.run(backend.refresh)
    assert backend.keys() == ()
    assert token.details()["label"] == place.token.label
    assert (place.surroundings.base_dir / "web.book").stat().st_mode & 0o777 == 0o600


async def test_what_the_admin_refuses_is_data(place: Place) -> None:
    token = await place.open()
    with pytest.raises(Exception, match="nothing") as raised:
        await place.surroundings.calls.run(lambda: token.admin.get("nothing"))
    refusal = token.refusal_of(raised.value)
    assert refusal is not None
    assert refusal.reason is RefusalReason.NOT_FOUND
    assert pkcs11_refusal(KeyError("x")) is None


async def test_admin_operations_of_a_token_that_is_away_say_so(place: Place) -> None:
    token = await place.open(uri="pkcs11:token=another?module-path=" + place.token.module)
    with pytest.raises(Exception, match="not up") as raised:
        await place.surroundings.calls.run(token.admin.list)
    refusal = token.refusal_of(raised.value)
    assert refusal is not None
    assert refusal.reason is RefusalReason.UNAVAILABLE


async def test_a_wrong_pin_stops_the_start_and_does_not_lock_the_token(place: Place) -> None:
    place.pin_file.write_text("wrong-pin\n")
    for _ in range(2):
        assert "PIN" in await place.refused()
    place.pin_file.write_text(place.token.pin + "\n")
    assert (await place.open()).state() == "up"


async def test_a_refused_pin_is_named_by_its_place_and_not_by_itself(place: Place) -> None:
    (place.surroundings.base_dir / "pin").write_text("geheim-4711\n")
    sentence = await place.refused()
    assert f"; the PIN came from {place.surroundings.base_dir / 'pin'}" in sentence
    assert "geheim" not in sentence


async def test_a_token_that_is_not_there_yet_comes_later(place: Place) -> None:
    token = await place.open(uri=f"pkcs11:token=later?module-path={place.token.module}", name="later")
    assert token.awaited is not None
    assert token.awaited.keys() == ()
    assert token.state() != "up"
    assert place.token.label in str(token.details()["problem"]), "it says which tokens there are"
    place.token.util("--init-token", "--free", "--label", "later", "--pin", place.token.pin, "--so-pin", "so-pin-1")
    await until(lambda: token.state() == "up", "the token is found")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"uri": "pkcs11:token=sealgate-test"}, "no library is named"),
        ({"uri": "pkcs11:token=x?module-path=/no/such/lib.so"}, "/no/such/lib.so can't be read"),
        ({"uri": "pkcs11:token=x", "module": "pin"}, "is no library"),
        ({"uri": "pkcs11:token=x?module-name=nosuch"}, "'nosuch'"),
        ({"uri": "pkcs11:token=x?pin-value=1234"}, "pin-value"),
        ({"uri": "pkcs11:nonsense"}, "PKCS#11 URI"),
        ({"pin_file": "missing"}, "missing"),
        ({"pin_env": "SEALGATE_NO_SUCH_PIN", "pin_file": None}, "SEALGATE_NO_SUCH_PIN"),
        ({"pin_env": "A_PIN"}, "more than once"),
        ({"pin_file": None}, "none is configured; name a file"),
        ({"environment": {"A=B": "c"}}, "no variable can be called 'A=B'"),
        ({"environment": {"": "c"}}, "no variable can be called ''"),
        ({"environment": {"A": "\0"}}, "'A' holds a zero byte"),
    ],
)
async def test_what_is_wrong_with_a_config_is_said(place: Place, change: dict[str, Any], word: str) -> None:
    assert word in await place.refused(**change)


async def test_a_library_that_is_no_pkcs11_library_is_said(place: Place, tmp_path: Path) -> None:
    import _ctypes

    sentence = await place.refused(uri="pkcs11:token=x", module=_ctypes.__file__)
    assert "is no PKCS#11 library" in sentence


async def test_a_book_that_is_none_is_said(place: Place) -> None:
    book = place.surroundings.base_dir / "web.book"
    book.touch(mode=0o600)
    book.write_text("nonsense")
    assert "book" in await place.refused()


async def test_nothing_runs_after_close(place: Place) -> None:
    token = await place.open()
    backend = token.awaited
    assert isinstance(backend, Pkcs11Backend)
    assert backend.supervisor.worker_pid is not None
    await token.close()
    assert backend.supervisor.worker_pid is None
    assert token.state() == "stopped"


async def test_settings_are_those_of_the_config(place: Place, tmp_path: Path) -> None:
    def settings(**more: Any) -> Any:
        return token_settings(place.config(**more), place.surroundings.resolve)

    module = Path(place.token.module)
    plain = settings(user="cu", rescan_interval_s=7.0)
    assert (plain.module, plain.token.token, plain.user, plain.rescan_interval_s) == (module, "sealgate-test", "cu", 7)
    assert plain.pin == PinFile(tmp_path / "pin")
    assert settings(uri="pkcs11:token=a;object=www", module=str(module)).objects.label == "www"
    assert settings(pin_file=None, pin_env="A_PIN").pin == PinVariable("A_PIN")
    assert settings(pin_file=None, pin_credential="pin").pin == PinCredential("pin")
    assert settings(pin_file=None, pin_prompt=True).pin == PinPrompt("web")
    with_source = f"{place.token.uri}&pin-source=file:/etc/pin"
    assert settings(pin_file=None, uri=with_source).pin == PinFile(Path("/etc/pin"))
    assert settings(pin_file=None).pin is None
    link = tmp_path / "libmine.so"
    link.symlink_to(module)
    assert settings(uri="pkcs11:token=a", module="libmine.so").module == link
