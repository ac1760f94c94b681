"""The management API over a real Unix socket and a real vault."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from hsm.backends.base import BackendError
from hsm.backends.vault import VaultAdmin, VaultError, VaultReason, open_store
from hsm.node.blocking import BlockingCalls
from hsm.node.management import MAX_WAITING, ImportBody, Management
from hsm.node.observe import LaneName, LaneStatus, NodeObserver, NodeStatus, TokenStatus
from hsm.node.refusals import Refusal, RefusalReason
from hsm.shared.exposition import serve
from hsm.wire.errors import ErrorCode
from tests.support import pki
from tests.support.node import NodeHome, make_home

VAULT = TokenStatus("vault", "vault", "up", 1, {LaneName.CHEAP: LaneStatus(0, 9, 0, 1, 0, 0.1)}, {})
STATUS = NodeStatus("node-1", "1", True, False, 0, 9, 1, 1, 0.5, (VAULT,))


class Ear(NodeObserver):
    def __init__(self) -> None:
        self.done: list[tuple[str, bool]] = []

    def management_done(self, operation: str, *, is_ok: bool) -> None:
        self.done.append((operation, is_ok))


class Api:
    """A client of the API."""

    def __init__(self, home: NodeHome, admin: Any) -> None:
        self.home, self.ear = home, Ear()
        self.changes = 0
        self.failure: Exception | None = None
        self.socket = home.path / "api.sock"
        self.management = Management(admin, self.refusal_of, self.ear, lambda: STATUS, self.changed, BlockingCalls())

    @staticmethod
    def refusal_of(error: Exception) -> Refusal | None:
        if not isinstance(error, VaultError):
            return None
        missing = error.reason is VaultReason.NOT_FOUND
        return Refusal(RefusalReason.NOT_FOUND if missing else RefusalReason.INVALID, str(error))

    async def changed(self) -> None:
        self.changes += 1
        if self.failure is not None:
            raise self.failure

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        connector = aiohttp.UnixConnector(path=str(self.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://node{path}", json=body, **more) as response,
        ):
            return response.status, await response.json()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    home = make_home(tmp_path)
    store = open_store(home.store, key_file=home.key_file)
    api = Api(home, VaultAdmin(store))
    running = await serve(api.management.app(), api.socket)
    yield api
    await running.stop()
    store.close()


async def test_the_socket_is_its_owners_alone(api: Api) -> None:
    assert stat.S_IMODE(api.socket.stat().st_mode) == 0o600


async def test_keys_are_made_shown_and_listed(api: Api) -> None:
    status, made = await api.call("POST", "/keys", {"type": "ed25519", "label": "www-new"})
    assert status == 201
    key = made["key"]
    assert (key["label"], key["type"], key["imported"]) == ("www-new", "ed25519", False)
    assert api.changes == 1
    assert await api.call("GET", "/keys/www-new") == (200, made)
    assert await api.call("GET", f"/keys/{key['ski']}") == (200, made)
    status, listed = await api.call("GET", "/keys")
    assert status == 200
    assert {entry["label"] for entry in listed["keys"]} == {"www-p256", "mail", "www-new"}
    assert ("generate", True) in api.ear.done
    assert "PRIVATE" not in str(listed)


async def test_certificates_are_made(api: Api) -> None:
    status, answer = await api.call("POST", "/keys/www-p256/csr", {"names": ["www.example.com", "192.0.2.1"]})
    assert status == 200
    request = x509.load_pem_x509_csr(answer["pem"].encode())
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=www.example.com"
    long = f"{'a' * 60}.example.com"
    status, answer = await api.call("POST", "/keys/www-p256/csr", {"names": [long, "www.example.com"]})
    request = x509.load_pem_x509_csr(answer["pem"].encode())
    assert request.subject.rfc4514_string() == "CN=www.example.com"
    body = {"subject": "CN=me,O=Org", "names": ["www.example.com"], "days": 3}
    status, answer = await api.call("POST", "/keys/www-p256/self-sign", body)
    assert status == 200
    certificate = x509.load_pem_x509_certificate(answer["pem"].encode())
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days <= 4
    assert api.changes == 0


async def test_a_key_is_imported_and_stays_marked(api: Api) -> None:
    pem = pki.make_ca("x").key_pem.decode()
    status, answer = await api.call("POST", "/keys/import", {"pem": pem, "label": "old"})
    assert status == 201
    assert answer["key"]["imported"] is True
    assert api.changes == 1


async def test_a_destroyed_key_is_gone(api: Api) -> None:
    status, answer = await api.call("DELETE", "/keys/mail")
    assert (status, answer["key"]["label"]) == (200, "mail")
    assert api.changes == 1
    status, answer = await api.call("GET", "/keys/mail")
    assert status == 404
    assert "'mail'" in answer["error"]


async def test_status_says_how_the_node_is(api: Api) -> None:
    status, answer = await api.call("GET", "/status")
    assert status == 200
    assert answer["name"] == "node-1"
    assert answer["tokens"][0]["lanes"]["cheap"]["service_s"] == 0.1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/keys", {"type": "dsa", "label": "x"}, 400, "Invalid enum value 'dsa' - at `$.type`"),
        ("POST", "/keys", {"type": "p256"}, 400, "missing required field `label`"),
        ("POST", "/keys", {"type": "p256", "label": "x", "more": 1}, 400, "unknown field `more`"),
        ("POST", "/keys", {"type": "p256", "label": ""}, 400, "length >= 1"),
        ("POST", "/keys", {"type": "p256", "label": "a b"}, 400, "label"),
        ("POST", "/keys", {"type": "p256", "label": "mail"}, 400, "exists already"),
        ("POST", "/keys/import", {"pem": "nonsense", "label": "x"}, 400, ""),
        ("POST", "/keys/none/csr", {"names": ["a.example"]}, 404, "no key 'none'"),
        ("POST", "/keys/mail/csr", {}, 400, "give at least one name"),
        ("POST", "/keys/mail/csr", {"names": [f"{'a' * 60}.example"]}, 400, "give a subject"),
        ("POST", "/keys/mail/csr", {"names": ["not a name"]}, 400, "not a name"),
        ("POST", "/keys/mail/self-sign", {"names": ["a.example"], "days": 0}, 400, "$.days"),
        ("DELETE", "/keys/none", None, 404, "no key 'none'"),
        ("GET", "/nothing", None, 404, "GET /nothing: Not Found"),
        ("PUT", "/keys", None, 405, "Method Not Allowed"),
    ],
)
async def test_errors_are_sentences(api: Api, method: str, path: str, body: Any, status: int, words: str) -> None:
    found, answer = await api.call(method, path, body)
    assert found == status
    assert words in answer["error"]
    assert api.changes == 0


async def test_what_is_no_json_is_refused(api: Api) -> None:
    status, answer = await api.call("POST", "/keys", data=b"{")
    assert status == 400
    assert answer["error"].startswith("the request body is wrong: ")


async def test_big_bodies_are_refused(api: Api) -> None:
    status, _answer = await api.call("POST", "/keys/import", {"pem": "x" * 200_000, "label": "x"})
    assert status == 413


async def test_a_password_is_in_no_repr() -> None:
    assert "hunter2" not in repr(ImportBody(pem="secret", label="x", password="hunter2"))


class HangingAdmin:
    """Lists when it is allowed to, and breaks in a way nobody planned."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def list(self) -> list[Any]:
        assert self.gate.wait(10)
        return []

    def get(self, reference: str) -> Any:
        raise RuntimeError("PIN 1234")


async def test_a_change_that_the_node_can_not_take_up_is_told_as_made(api: Api) -> None:
    api.failure = BackendError(ErrorCode.READ, "the store is locked")
    status, answer = await api.call("POST", "/keys", {"type": "p256", "label": "www-new"})
    assert status == 503
    assert "the change of 'www-new' is stored" in answer["error"]
    status, _ = await api.call("GET", "/keys/www-new")
    assert status == 200


async def test_a_defect_of_the_api_is_answered_in_json_and_says_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> NodeStatus:
        raise RuntimeError("PIN 1234")

    monkeypatch.setattr(api.management, "_status", broken)
    status, answer = await api.call("GET", "/status")
    assert status == 500
    assert "1234" not in str(answer)


async def test_few_operations_may_wait_and_crashes_say_nothing(tmp_path: Path) -> None:
    admin = HangingAdmin()
    api = Api(make_home(tmp_path), admin)
    running = await serve(api.management.app(), api.socket)
    calls = [asyncio.create_task(api.call("GET", "/keys")) for _ in range(MAX_WAITING + 3)]
    done, _pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    status, answer = next(iter(done)).result()
    assert status == 503
    assert "try again later" in answer["error"]
    admin.gate.set()
    statuses = sorted(status for status, _ in await asyncio.gather(*calls))
    assert statuses == [200] * MAX_WAITING + [503] * 3
    status, answer = await api.call("GET", "/keys/x")
    assert status == 500
    assert "1234" not in answer["error"]
    assert ("show", False) in api.ear.done
    await running.stop()
