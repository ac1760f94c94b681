"""The management API over a real Unix socket and a real vault."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from structlog.testing import capture_logs

from hsm.backends.attributes import KeyState, Usage
from hsm.backends.base import BackendError
from hsm.backends.lifecycle import run_due
from hsm.backends.vault import VaultAdmin, VaultBackend, create_store, open_store
from hsm.node.blocking import BlockingCalls
from hsm.node.key_tokens import MAX_WAITING
from hsm.node.management import OPERATIONS, Management
from hsm.node.observe import LaneName, LaneStatus, NodeObserver, NodeStatus, TokenStatus
from hsm.node.opening.opened import OpenToken
from hsm.node.opening.vault import vault_refusal
from hsm.shared.exposition import serve
from hsm.store.store import Store
from hsm.wire.errors import ErrorCode
from tests.support import pki
from tests.support.node import make_home

VAULT = TokenStatus("vault", "vault", "up", 1, {LaneName.CHEAP: LaneStatus(0, 9, 0, 1, 0, 0.1)}, {})
STATUS = NodeStatus("node-1", "1", True, False, 0, 9, 1, 1, 0.5, (VAULT,))


class Ear(NodeObserver):
    def __init__(self) -> None:
        self.done: list[tuple[str, bool]] = []

    def management_done(self, operation: str, *, is_ok: bool) -> None:
        self.done.append((operation, is_ok))


def vault_token(store: Store, name: str = "vault") -> OpenToken:
    """An open vault as a node's token."""

    async def close() -> None:
        store.close()

    return OpenToken(
        name=name,
        kind="vault",
        backend=VaultBackend(store),
        places=1,
        queue=1,
        admin=VaultAdmin(store),
        refusal_of=vault_refusal,
        close=close,
    )


class Api:
    """A client of the API."""

    def __init__(self, socket: Path, *tokens: OpenToken) -> None:
        self.tokens, self.ear = tokens, Ear()
        self.changes = 0
        self.failure: Exception | None = None
        self.socket = socket
        self.management = Management(tokens, self.ear, lambda: STATUS, self.changed, BlockingCalls())

    async def changed(self, name: str) -> None:
        self.changes += 1
        if self.failure is not None:
            raise self.failure
        (backend,) = (token.backend for token in self.tokens if token.name == name)
        assert backend is not None
        backend.refresh()

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        connector = aiohttp.UnixConnector(path=str(self.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://node{path}", json=body, **more) as response,
        ):
            return response.status, await response.json()

    async def key(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        status, answer = await self.call(method, path, body)
        assert status in (200, 201), answer
        found: dict[str, Any] = answer["key"]
        return found

    async def error(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        status, answer = await self.call(method, path, body)
        assert set(answer) == {"error"}
        return status, answer["error"]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    home = make_home(tmp_path)
    store = open_store(home.store, key_file=home.key_file)
    api = Api(tmp_path / "api.sock", vault_token(store))
    running = await serve(api.management.app(), api.socket)
    yield api
    await running.stop()
    store.close()


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Api]:
    """A node of two vaults: "one", in which are www-p256 and mail, and "two", which is empty."""
    home = make_home(tmp_path)
    stores = (
        open_store(home.store, key_file=home.key_file),
        create_store(tmp_path / "two.db", key_file=home.key_file),
    )
    tokens = [vault_token(store, name) for store, name in zip(stores, ("one", "two"), strict=True)]
    api = Api(tmp_path / "api.sock", *tokens)
    running = await serve(api.management.app(), api.socket)
    yield api
    await running.stop()
    for store in stores:
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


async def test_a_key_is_destroyed_after_its_grace_or_at_once(api: Api) -> None:
    key = await api.key("POST", "/keys/mail/destroy")
    assert key["state"] == "destroying"
    left = datetime.fromisoformat(key["destroy_at"]) - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)
    assert (await api.key("POST", "/keys/mail/activate"))["destroy_at"] is None
    gone = await api.key("POST", "/keys/mail/destroy", {"grace_s": 0})
    assert gone["label"] == "mail"
    assert api.changes == 3
    assert (await api.error("GET", "/keys/mail"))[0] == 404


async def test_every_attribute_can_be_given_shown_and_set(api: Api) -> None:
    attributes = {
        "purpose": "code-signing",
        "active": False,
        "schemes": ["ecdsa_sha384"],
        "not_before": "2030-01-01T00:00:00Z",
        "not_after": "2031-01-01T00:00:00+01:00",
        "max_rate": 2.5,
    }
    made = await api.key("POST", "/keys", {"type": "p256", "label": "sign", **attributes})
    assert {name: made[name] for name in ("purpose", "state", "schemes", "max_rate", "not_before", "token")} == {
        "purpose": "code-signing",
        "state": "inactive",
        "schemes": ["ecdsa_sha384"],
        "max_rate": 2.5,
        "not_before": "2030-01-01T00:00:00Z",
        "token": "vault",
    }
    assert datetime.fromisoformat(made["not_after"]) == datetime(2030, 12, 31, 23, tzinfo=UTC)
    assert await api.key("GET", "/keys/sign") == made
    changes: dict[str, Any] = {
        "purpose": "general",
        "schemes": [],
        "not_before": None,
        "not_after": None,
        "max_rate": None,
    }
    changed = await api.key("PATCH", "/keys/sign", changes)
    assert changed == {**made, **changes}
    assert (await api.key("POST", "/keys/sign/activate"))["state"] == "active"
    assert (await api.key("POST", "/keys/sign/retire"))["state"] == "retired"


async def test_a_new_key_says_nothing_it_was_not_told(api: Api) -> None:
    made = await api.key("POST", "/keys", {"type": "p256", "label": "plain"})
    nothing = ("not_before", "not_after", "max_rate", "last_used", "destroy_at", "successor", "quiet_s")
    assert {made[name] for name in nothing} == {None}
    assert (made["purpose"], made["state"], made["schemes"], made["signatures"]) == ("tls-server", "active", [], 0)


async def test_usage_is_told(api: Api) -> None:
    admin = api.tokens[0].admin
    ski = bytes.fromhex((await api.key("GET", "/keys/mail"))["ski"])
    when = datetime(2030, 1, 1, tzinfo=UTC)
    admin.add_usage("node-1", {ski: Usage(3, when)})
    admin.add_usage("node-2", {ski: Usage(4, when - timedelta(days=1))})
    key = await api.key("GET", "/keys/mail")
    assert (key["signatures"], key["last_used"]) == (7, "2030-01-01T00:00:00Z")
    _status, listed = await api.call("GET", "/keys")
    assert {entry["label"]: entry["signatures"] for entry in listed["keys"]} == {"mail": 7, "www-p256": 0}


async def test_a_key_is_rotated_and_its_successor_is_certified(api: Api) -> None:
    status, done = await api.call("POST", "/keys/www-p256/rotate", {"names": ["www.example.com"], "quiet_s": 15})
    assert status == 201, done
    successor = done["successor"]
    assert (successor["label"], successor["type"], successor["state"]) == ("www-p256-2", "p256", "active")
    assert (done["key"]["successor"], done["key"]["quiet_s"]) == (successor["ski"], 15.0)
    request = x509.load_pem_x509_csr(done["pem"].encode())
    assert x509.SubjectKeyIdentifier.from_public_key(request.public_key()).digest.hex() == successor["ski"]
    status, error = await api.error("POST", "/keys/www-p256/rotate", {"names": ["www.example.com"]})
    assert (status, "is being rotated already" in error) == (409, True)
    admin = api.tokens[0].admin
    admin.add_usage("node-1", {bytes.fromhex(successor["ski"]): Usage(1, datetime.now(UTC))})
    assert len(run_due(admin, datetime.now(UTC) + timedelta(seconds=16))) == 1
    assert (await api.key("GET", "/keys/www-p256"))["state"] == KeyState.RETIRED


async def test_a_rotation_that_can_not_be_certified_makes_no_key(api: Api) -> None:
    for body, words in (
        ({}, "give at least one name"),
        ({"names": ["not a name"]}, "is not a DNS name"),
        ({"names": ["a.example"], "subject": "C=LONG"}, "is not a subject"),
        ({"names": ["a.example"], "quiet_s": 14}, "$.quiet_s"),
    ):
        status, error = await api.error("POST", "/keys/mail/rotate", body)
        assert (status, words in error) == (400, True), error
    _status, listed = await api.call("GET", "/keys")
    assert len(listed["keys"]) == 2
    assert (await api.key("GET", "/keys/mail"))["successor"] is None


async def test_a_label_of_another_token_is_not_taken_for_a_successor(two: Api) -> None:
    await two.key("POST", "/keys", {"type": "p256", "label": "mail-2", "token": "two"})
    _status, done = await two.call("POST", "/keys/mail/rotate", {"names": ["mail.example"]})
    assert (done["successor"]["label"], done["successor"]["token"]) == ("mail-3", "one")


async def test_certificates_suit_the_purpose_of_the_key(api: Api) -> None:
    for purpose in ("ca", "code-signing", "general"):
        await api.key("POST", "/keys", {"type": "p256", "label": purpose, "purpose": purpose})
    status, answer = await api.call("POST", "/keys/ca/self-sign", {"subject": "CN=Root", "days": 3650})
    assert status == 200
    extensions = x509.load_pem_x509_certificate(answer["pem"].encode()).extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    status, answer = await api.call("POST", "/keys/code-signing/csr", {})
    request = x509.load_pem_x509_csr(answer["pem"].encode())
    assert request.subject.rfc4514_string() == "CN=code-signing", "the label, where nothing else is said"
    usage = request.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.CODE_SIGNING]
    status, answer = await api.call("POST", "/keys/general/csr", {})
    assert status == 200
    await api.key("POST", "/keys/general/retire")
    status, error = await api.error("POST", "/keys/general/csr", {})
    assert (status, "'general' is retired" in error) == (409, True)


async def test_keys_are_found_in_whichever_token_they_are(two: Api) -> None:
    assert (await two.key("GET", "/keys/mail"))["token"] == "one"
    made = await two.key("POST", "/keys", {"type": "p256", "label": "new", "token": "two"})
    assert made["token"] == "two"
    for reference in ("new", made["ski"], made["ski"].upper()):
        assert (await two.key("GET", f"/keys/{reference}")) == made
    assert (await two.key("POST", "/keys/new/retire"))["state"] == "retired"
    _status, listed = await two.call("GET", "/keys")
    assert [(key["label"], key["token"]) for key in listed["keys"]] == [
        ("mail", "one"), ("www-p256", "one"), ("new", "two"),
    ]  # fmt: skip
    _status, listed = await two.call("GET", "/keys?token=two")
    assert [key["label"] for key in listed["keys"]] == ["new"]


async def test_a_key_that_the_node_has_not_heard_of_yet_is_found(two: Api) -> None:
    two.tokens[1].admin.generate(two.tokens[0].admin.list()[0].type, "fresh", two.tokens[0].admin.list()[0].attributes)
    assert (await two.key("GET", "/keys/fresh"))["token"] == "two"


async def test_a_label_in_two_tokens_is_a_conflict_that_names_them(two: Api) -> None:
    status, error = await two.error("POST", "/keys", {"type": "p256", "label": "mail", "token": "two"})
    assert (status, error) == (409, "token 'one' has a key labelled 'mail' already; choose another label")
    two.tokens[1].admin.generate(two.tokens[0].admin.list()[0].type, "mail", two.tokens[0].admin.list()[0].attributes)
    await two.changed("two")
    status, error = await two.error("POST", "/keys/mail/destroy", {"grace_s": 0})
    assert (status, error) == (409, "the tokens 'one' and 'two' have a key 'mail'; say which one is meant (--token)")
    assert (await two.key("POST", "/keys/mail/destroy?token=two", {"grace_s": 0}))["token"] == "two"
    assert (await two.key("GET", "/keys/mail"))["token"] == "one"


async def test_several_tokens_have_to_be_told_apart(two: Api) -> None:
    assert await two.error("POST", "/keys", {"type": "p256", "label": "x"}) == (
        400,
        "say in which token (--token): one, two",
    )
    assert await two.error("POST", "/keys", {"type": "p256", "label": "x", "token": "no"}) == (
        404,
        "this node has no token 'no'; it has one, two",
    )
    assert (await two.error("GET", "/keys?token=no"))[0] == 404
    status, error = await two.error("GET", "/keys/none")
    assert (status, error) == (404, "no token of this node has a key 'none'; list the keys to see their names")


async def test_the_keys_of_other_tokens_are_listed_when_one_is_away(two: Api) -> None:
    two.tokens[0].admin._store.close()  # type: ignore[attr-defined]  # as if its disk had gone
    status, listed = await two.call("GET", "/keys")
    assert (status, listed["keys"]) == (200, [])
    (away,) = listed["unavailable"]
    assert away["token"] == "one"
    assert "was closed" in away["error"]
    status, error = await two.error("GET", "/keys?token=one")
    assert "was closed" in error


async def test_before_the_tokens_are_open_it_is_said_why(tmp_path: Path, api: Api) -> None:
    early = Api(tmp_path / "early.sock")
    running = await serve(early.management.app(), early.socket)
    for method, path, body in (
        ("GET", "/keys", None),
        ("GET", "/keys/mail", None),
        ("POST", "/keys", {"type": "p256", "label": "x"}),
    ):
        status, error = await early.error(method, path, body)
        assert (status, "sealed or still opening" in error) == (503, True)
    assert (await early.call("GET", "/status"))[0] == 200
    early.management.tokens_opened(api.tokens)
    assert (await early.key("GET", "/keys/mail"))["label"] == "mail"
    await running.stop()


async def test_what_was_done_to_which_key_is_logged_with_what_was_said(api: Api) -> None:
    pem = pki.make_ca("x").key_pem.decode()
    with capture_logs() as logs:
        await api.key("POST", "/keys", {"type": "p256", "label": "a", "purpose": "ca"})
        await api.key("POST", "/keys/import", {"pem": pem, "label": "b", "max_rate": 2})
        await api.key("PATCH", "/keys/mail", {"max_rate": None, "not_after": "2030-01-01T00:00:00Z"})
        await api.key("POST", "/keys/mail/destroy", {"grace_s": 60})
        await api.key("GET", "/keys/mail")
    lines = [{name: line[name] for name in line if name not in ("log_level", "event", "room")} for line in logs]
    assert lines == [
        {"operation": "generate", "key": "a", "token": "vault", "purpose": "ca"},
        {"operation": "import", "key": "b", "token": "vault", "max_rate": 2.0},
        {
            "operation": "set",
            "key": "mail",
            "token": "vault",
            "max_rate": None,
            "not_after": "2030-01-01T00:00:00Z",
        },
        {"operation": "destroy", "key": "mail", "token": "vault", "grace_s": 60.0},
    ]
    assert "PRIVATE" not in str(logs)


async def test_each_operation_is_counted_by_its_name(api: Api) -> None:
    pem = pki.make_ca("x").key_pem.decode()
    for method, path, body in (
        ("GET", "/keys", None),
        ("GET", "/keys/mail", None),
        ("POST", "/keys", {"type": "p256", "label": "a"}),
        ("POST", "/keys/import", {"pem": pem, "label": "b"}),
        ("POST", "/keys/a/csr", {"names": ["a.example"]}),
        ("POST", "/keys/a/self-sign", {"names": ["a.example"]}),
        ("PATCH", "/keys/a", {"max_rate": 1}),
        ("POST", "/keys/a/activate", None),
        ("POST", "/keys/a/rotate", {"names": ["a.example"]}),
        ("POST", "/keys/a/retire", None),
        ("POST", "/keys/a/destroy", {"grace_s": 0}),
    ):
        status, answer = await api.call(method, path, body)
        assert status in (200, 201), answer
    assert {name for name, is_ok in api.ear.done if is_ok} == set(OPERATIONS)
    assert not [name for name, is_ok in api.ear.done if not is_ok]


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
        ("POST", "/keys", {"type": "p256", "label": "mail"}, 409, "exists already"),
        ("POST", "/keys", {"type": "p256", "label": "x", "purpose": "tls"}, 400, "Invalid enum value 'tls'"),
        ("POST", "/keys", {"type": "p256", "label": "x", "schemes": ["ed25519"]}, 400, "a p256 key can't sign ed25519"),
        ("POST", "/keys", {"type": "p256", "label": "x", "not_after": "2030-01-01T00:00:00"}, 400, "timezone"),
        ("POST", "/keys", {"type": "p256", "label": "x", "max_rate": 0}, 400, "$.max_rate"),
        ("PATCH", "/keys/mail", {}, 400, "nothing is to be changed"),
        ("PATCH", "/keys/mail", {"label": "x"}, 400, "unknown field `label`"),
        ("PATCH", "/keys/mail", {"schemes": ["dsa"]}, 400, "'dsa' is no scheme"),
        ("PATCH", "/keys/mail", {"not_after": "2030-01-01T00:00:00"}, 400, "not_after has no time zone"),
        ("PATCH", "/keys/none", {"max_rate": 1}, 404, "no key 'none'"),
        ("POST", "/keys/none/rotate", {"names": ["a.example"]}, 404, "no key 'none'"),
        ("POST", "/keys/mail/destroy", {"grace_s": -1}, 400, "$.grace_s"),
        ("POST", "/keys/mail/self-sign", {"names": ["a.example"], "days": 398}, 400, "1 to 397 for a tls-server key"),
        ("POST", "/keys/import", {"pem": "nonsense", "label": "x"}, 400, ""),
        ("POST", "/keys/none/csr", {"names": ["a.example"]}, 404, "no key 'none'"),
        ("POST", "/keys/mail/csr", {}, 400, "give at least one name"),
        ("POST", "/keys/mail/csr", {"names": [f"{'a' * 60}.example"]}, 400, "give a subject"),
        ("POST", "/keys/mail/csr", {"names": ["not a name"]}, 400, "not a name"),
        ("POST", "/keys/mail/self-sign", {"names": ["a.example"], "days": 0}, 400, "$.days"),
        ("POST", "/keys/none/destroy", None, 404, "no key 'none'"),
        ("DELETE", "/keys/mail", None, 405, "Method Not Allowed"),
        ("GET", "/nothing", None, 404, "GET /nothing: Not Found"),
        ("PUT", "/keys", None, 405, "Method Not Allowed"),
    ],
)
async def test_errors_are_sentences(api: Api, method: str, path: str, body: Any, status: int, words: str) -> None:
    found, answer = await api.call(method, path, body)
    assert found == status
    assert words in answer["error"]
    assert api.changes == 0


@pytest.mark.parametrize("body", [b"{", b'{"label": "\xff"}'])
async def test_what_is_no_json_is_refused(api: Api, body: bytes) -> None:
    status, answer = await api.call("POST", "/keys", data=body)
    assert status == 400
    assert answer["error"].startswith("the request body is wrong: ")


async def test_big_bodies_are_refused(api: Api) -> None:
    status, _answer = await api.call("POST", "/keys/import", {"pem": "x" * 200_000, "label": "x"})
    assert status == 413


class HangingAdmin:
    """Lists when it is allowed to, and breaks in a way nobody planned."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def list(self) -> list[Any]:
        assert self.gate.wait(10)
        return []

    def get(self, reference: str) -> Any:
        raise RuntimeError("PIN 1234")

    def usage(self) -> dict[bytes, Usage]:
        return {}


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
    token = OpenToken(
        name="slow",
        kind="vault",
        places=1,
        queue=1,
        admin=admin,  # type: ignore[arg-type]  # it can do no more than hang
        refusal_of=lambda _error: None,
        close=lambda: asyncio.sleep(0),
    )
    api = Api(tmp_path / "api.sock", token)
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
