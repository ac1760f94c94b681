"""A node for tests: its PKI, its config, and a client that speaks to it over real sockets.

The client is the wire's own `ClientSession` on the standard library's streams: an independent TLS stack in use.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hsm.backends.attributes import KeyAttributes
from hsm.backends.base import Backend, BackendError, Cost, KeyAdmin, OnSigned
from hsm.backends.vault import VaultAdmin, create_store
from hsm.node.opening.opened import OpenToken
from hsm.shared.mtls import Identity, client_context
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType, Scheme
from hsm.wire.session import ClientSession
from tests.support import pki

PROXY = "spiffe://sealgate.test/proxy"
STRANGER = "spiffe://sealgate.test/stranger"
PATIENCE_S = 10.0
HASHES = {"sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}


async def until(is_true: Callable[[], bool], what: str = "the condition", timeout_s: float = PATIENCE_S) -> None:
    """Waits until something holds; fails the test when it does not within `timeout_s`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not is_true():
        assert loop.time() < deadline, f"{what} did not come true within {timeout_s} s"
        await asyncio.sleep(0.005)


@dataclass(frozen=True)
class NodeHome:
    """A folder with everything nodes and their clients need."""

    path: Path
    store: Path
    key_file: Path
    keys: dict[str, tuple[bytes, str]]
    """SKI and public key PEM by label."""

    def identity(self, name: str) -> Identity:
        """The files of one party: "node", "proxy", "stranger", or "foreign" (certified by another CA)."""
        return Identity(self.path / "ca.pem", self.path / f"{name}.pem", self.path / f"{name}.key")

    def ski(self, label: str) -> bytes:
        """The SKI of a key made by `make_home`."""
        return self.keys[label][0]

    def vault_token(self, name: str = "vault", more: str = 'type = "vault"') -> str:
        """`[[tokens]]` of the vault, as it is or, with other lines, as a simulated one."""
        return f'[[tokens]]\nname = "{name}"\n{more}\nstore = "{self.store.name}"\nkey_file = "{self.key_file.name}"\n'

    def write_config(
        self,
        name: str = "node-1",
        extra: str = "",
        *,
        listen: str = "",
        node: str = "",
        tokens: str = "",
        rule: str = "digests = true",
    ) -> Path:
        """A config file of a node on ports that the kernel chooses; its token is the vault, unless `tokens` says.

        `rule` is part of the proxy's `[[access]]`: unless it says otherwise, digests will do.
        """
        path = self.path / f"{name}.toml"
        path.write_text(
            f'[node]\nname = "{name}"\n{node}\n'
            f'[listen]\naddress = "127.0.0.1:0"\n{listen}\n'
            f'[tls]\nca = "ca.pem"\ncertificate = "node.pem"\nprivate_key = "node.key"\n'
            f"{tokens or self.vault_token()}"
            f'[ops]\naddress = "127.0.0.1:0"\n[management]\nsocket = "{name}.sock"\n'
            f'[[access]]\nclient = "{PROXY}"\nkeys = ["www-*"]\n{rule}\n'
            f"{extra}\n"
        )
        return path


def make_home(path: Path, types: tuple[KeyType, ...] = (KeyType.P256,)) -> NodeHome:
    """Makes the PKI, and a vault with one key per type, labelled "www-<type>"; and "mail", which nobody may use."""
    ca, other_ca = pki.make_ca("Node CA"), pki.make_ca("Other CA")
    pki.write_chain(path / "ca.pem", ca)
    parties = {
        "node": (ca, ()),
        "proxy": (ca, (PROXY,)),
        "stranger": (ca, (STRANGER,)),
        "foreign": (other_ca, (PROXY,)),
    }
    for name, (authority, uris) in parties.items():
        issued = pki.issue(authority, ("localhost", "127.0.0.1"), uris=uris)
        pki.write_chain(path / f"{name}.pem", issued)
        pki.write_key(path / f"{name}.key", issued)
    key_file = path / "master.key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(os.urandom(32))
    store = create_store(path / "vault.db", key_file=key_file)
    admin = VaultAdmin(store)
    records = [admin.generate(type_, f"www-{type_.value}") for type_ in types] + [admin.generate(KeyType.P256, "mail")]
    store.close()
    return NodeHome(path, path / "vault.db", key_file, {r.label: (r.ski, r.public_key) for r in records})


class FakeBackend:
    """A backend in memory whose signatures are "signed:" + payload; it can be told to hang and to fail."""

    def __init__(self, costs: dict[KeyEntry, Cost]) -> None:
        self.costs = costs
        self.revision = 1
        self.gate = threading.Event()
        """Dear signatures wait for it; set unless a test clears it."""
        self.gate.set()
        self.failure: Exception | None = None
        self.begun = 0
        """Dear signatures that a thread has come to."""
        self.signed = 0
        self.attributes: dict[bytes, KeyAttributes] = {}
        self.delay_s = 0.0

    def keys(self) -> tuple[KeyEntry, ...]:
        return tuple(self.costs)

    def attributes_of(self, ski: bytes) -> KeyAttributes:
        return self.attributes.get(ski, KeyAttributes())

    def refresh(self) -> bool:
        return False

    def sign(self, ski: bytes, scheme: Scheme, payload: bytes) -> bytes:
        if self.cost(ski) == "dear":
            self.begun += 1
            assert self.gate.wait(PATIENCE_S)
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.failure is not None:
            raise self.failure
        self.signed += 1
        return b"signed:" + payload

    def cost(self, ski: bytes) -> Cost:
        return next(cost for key, cost in self.costs.items() if key.ski == ski)

    def close(self) -> None:
        self.costs = {}


class FakeAwaited:
    """A token in memory that answers when the test tells it to, in whatever order."""

    def __init__(self, *keys: KeyEntry) -> None:
        self.entries = keys
        self.revision = 1
        self.attributes: dict[bytes, KeyAttributes] = {}
        self.begun: list[tuple[bytes, OnSigned]] = []
        """Payload and listener of each request that is under way."""
        self.breaks_its_contract = False

    def keys(self) -> tuple[KeyEntry, ...]:
        return self.entries

    def attributes_of(self, ski: bytes) -> KeyAttributes:
        return self.attributes.get(ski, KeyAttributes())

    def refresh(self) -> bool:
        return False

    def begin(self, ski: bytes, scheme: Scheme, payload: bytes, on_signed: OnSigned) -> None:
        if self.breaks_its_contract:
            raise RuntimeError("secret")
        self.begun.append((payload, on_signed))

    def end(self, failure: BackendError | None = None) -> None:
        """Answers the oldest request that is under way."""
        payload, on_signed = self.begun.pop(0)
        on_signed(failure or b"signed:" + payload)

    def close(self) -> None:
        self.entries = ()


def open_token(
    name: str,
    backend: Backend | FakeAwaited,
    *,
    places: int = 1,
    queue: int = 1024,
    loop_queue: int = 4096,
    admin: KeyAdmin | None = None,
) -> OpenToken:
    """A backend in memory as a node's token; it has no owner unless `admin` is given."""

    async def close() -> None:
        backend.close()

    return OpenToken(
        name=name,
        kind="pkcs11" if isinstance(backend, FakeAwaited) else "vault",
        backend=None if isinstance(backend, FakeAwaited) else backend,
        awaited=backend if isinstance(backend, FakeAwaited) else None,
        places=places,
        queue=queue,
        loop_queue=loop_queue,
        admin=cast("KeyAdmin", admin),
        refusal_of=lambda _error: None,
        close=close,
    )


def verify(public_pem: str, scheme: Scheme, signature: bytes, message: bytes) -> None:
    """Raises InvalidSignature unless `signature` is right."""
    key = load_pem_public_key(public_pem.encode())
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, message)
        return
    assert scheme.digest is not None
    digest = HASHES[scheme.digest]
    payload = scheme.payload_of(message)
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, payload, ec.ECDSA(Prehashed(digest)))
        return
    assert isinstance(key, rsa.RSAPublicKey)
    pad = padding.PSS(padding.MGF1(digest), digest.digest_size) if scheme.is_pss else padding.PKCS1v15()
    key.verify(signature, payload, pad, Prehashed(digest))


class Link:
    """One client connection; `ask` sends a request and waits for its event."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.session = ClientSession(max_in_flight=100_000)
        self.events: list[object] = []
        """Every event that came, in order."""

    @classmethod
    async def open(cls, address: str, identity: Identity, context: ssl.SSLContext | None = None) -> Link:
        """Connects to a node at "host:port"."""
        host, port = address.rsplit(":", 1)
        context = context or client_context(identity)
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost")
        return cls(reader, writer)

    def now(self) -> float:
        """The clock that the session's deadlines are on."""
        return asyncio.get_running_loop().time()

    def sign(
        self, ski: bytes, scheme: Scheme, message: bytes, *, timeout_s: float = PATIENCE_S, is_whole: bool = False
    ) -> int:
        """Queues a request, with the digest alone or with the whole message; `flush` sends it."""
        now, digest = self.now(), scheme.payload_of(message)
        sent = message if is_whole else b""
        return self.session.sign(ski, scheme, digest, now=now, deadline=now + timeout_s, message=sent)

    def flush(self) -> None:
        """Sends what is queued."""
        self.writer.write(self.session.data_to_send())

    async def receive(self) -> bool:
        """Waits for bytes and takes their events; False at the end of the connection."""
        data = await asyncio.wait_for(self.reader.read(262_144), PATIENCE_S)
        if data:
            self.session.receive_data(data)
            self.events += self.session.events()
        return bool(data)

    async def answer(self, request_id: int) -> object:
        """The event that ends a request."""
        while True:
            for event in self.events:
                if getattr(event, "request_id", None) == request_id:
                    return event
            assert await self.receive(), "the node closed the connection before it answered"

    async def ask(
        self, ski: bytes, scheme: Scheme, message: bytes, *, timeout_s: float = PATIENCE_S, is_whole: bool = False
    ) -> object:
        """Signs, and waits for what comes of it."""
        request_id = self.sign(ski, scheme, message, timeout_s=timeout_s, is_whole=is_whole)
        self.flush()
        return await self.answer(request_id)

    async def greet(self) -> object:
        """Lists the keys: shows the node that this client speaks the extensions."""
        now = self.now()
        request_id = self.session.list_keys(now=now, deadline=now + PATIENCE_S)
        self.flush()
        return await self.answer(request_id)

    async def close(self) -> None:
        """Ends the connection."""
        self.writer.transport.abort()
        await asyncio.sleep(0)
