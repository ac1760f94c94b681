"""A scripted node on a real mTLS loopback socket: signs with keys it was given, and misbehaves when it is told to."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from hsm.shared.mtls import Identity, client_context, server_context
from hsm.wire.errors import ErrorCode, WireError
from hsm.wire.messages import Cancelled, KeyEntry, KeysRequested, SignRequested
from hsm.wire.schemes import KeyType, Scheme
from hsm.wire.session import ServerSession
from proxy.base.policy import NodeAddress
from tests.support import pki

_DIGESTS = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
_TYPES = {
    "p256": KeyType.P256,
    "p384": KeyType.P384,
    "p521": KeyType.P521,
    "ed25519": KeyType.ED25519,
    "rsa-2048": KeyType.RSA_2048,
}


@dataclass(frozen=True)
class LinkPki:
    """The identities of one test cluster: a CA, a node and a proxy."""

    ca: Path
    node: Identity
    proxy: Identity

    @classmethod
    def make(cls, folder: Path) -> LinkPki:
        """Write the files."""
        root = pki.make_ca("Link CA")
        ca = pki.write_chain(folder / "ca.pem", [root.certificate])

        def identity(name: str) -> Identity:
            issued = pki.issue(root, ["localhost", "127.0.0.1"], uris=[f"sealgate:{name}"])
            chain = pki.write_chain(folder / f"{name}.pem", issued)
            return Identity(ca, chain, pki.write_key(folder / f"{name}.key", issued))

        return cls(ca, identity("node"), identity("proxy"))

    def client_context(self) -> ssl.SSLContext:
        """What a proxy connects with."""
        return client_context(self.proxy)


@dataclass(frozen=True)
class FakeKey:
    """A key a fake node holds."""

    key: pki.PrivateKey
    type: KeyType
    ski: bytes
    label: str = "site"

    @classmethod
    def make(cls, kind: str = "p256", number: int = 0, label: str = "site") -> FakeKey:
        """A key of a kind; the same each time for the same number."""
        key = pki.shared_key(kind, number)
        return cls(key, _TYPES[kind], x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest, label)

    @property
    def public_pem(self) -> bytes:
        """The public key."""
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, scheme: Scheme, payload: bytes) -> bytes:
        """Sign what travels on the wire."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(payload)
        assert scheme.digest
        prehashed = utils.Prehashed(_DIGESTS[scheme.digest])
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return self.key.sign(payload, ec.ECDSA(prehashed))
        assert isinstance(self.key, rsa.RSAPrivateKey)
        digest = _DIGESTS[scheme.digest]
        pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
        return self.key.sign(payload, pss if scheme.is_pss else padding.PKCS1v15(), prehashed)


class Fault(Enum):
    """What is wrong with a fake node."""

    NONE = "none"
    SLOW = "slow"
    """Answers after `delay_s`."""
    HANG = "hang"
    """Never answers."""
    ERROR = "error"
    """Answers with `error_code`."""
    WRONG_SIGNATURE = "wrong signature"
    """Signs something else: right form, wrong content."""
    GARBAGE = "garbage"
    """Answers with bytes that are no signature."""
    DROP = "drop"
    """Resets the link when asked."""
    SILENT = "silent"
    """Does not even list its keys."""


class FakeNode:
    """A node that counts what it is asked; set `fault` at any time."""

    def __init__(self, name: str, link_pki: LinkPki, keys: Sequence[FakeKey], *, is_plain: bool = False) -> None:
        self.name = name
        self.keys = {key.ski: key for key in keys}
        self.is_plain = is_plain
        """Refuses to list its keys, as a node of another make does."""
        self.fault = Fault.NONE
        self.wrong_skis: set[bytes] = set()
        """Keys that sign wrongly, whatever `fault` says."""
        self.hung_skis: set[bytes] = set()
        """Keys whose signatures never come, whatever `fault` says."""
        self.delay_s = 0.1
        self.error_code = ErrorCode.INTERNAL
        self.retry_after_s: float | None = None
        self.asked: Counter[bytes] = Counter()
        self.signed = 0
        self.unseen = 0
        """Requests without a message, or with one that the payload is not the digest of."""
        self.messages: list[bytes] = []
        """The last few messages it signed."""
        self.cancelled = 0
        self.most_in_flight = 0
        self.connections: set[_Connection] = set()
        self.revision = 1
        self.port = 0
        self._context = server_context(link_pki.node)
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> NodeAddress:
        """What the proxy's config says."""
        return NodeAddress(name=self.name, address=f"127.0.0.1:{self.port}")

    async def start(self) -> FakeNode:
        """Listen, on the same port as before if there was one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, ssl=self._context, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def kill(self) -> None:
        """Vanish as a killed process does: every link is reset, nobody listens."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset_links()
        await asyncio.sleep(0)

    def reset_links(self) -> None:
        """Reset every link; new ones are accepted."""
        for connection in list(self.connections):
            connection.transport.abort()

    def announce_draining(self) -> None:
        """Say that no new requests are wanted, and refuse them."""
        self.fault, self.error_code = Fault.ERROR, ErrorCode.DRAINING
        for connection in self.connections:
            connection.session.announce_draining()
            connection.flush()

    def change_keys(self, keys: Sequence[FakeKey]) -> None:
        """Hold other keys, and say so."""
        self.keys = {key.ski: key for key in keys}
        self.revision += 1
        for connection in self.connections:
            connection.session.announce_keys(self.revision)
            connection.flush()


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.session = ServerSession(100_000)
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._is_open = True
        self.node.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_open = False
        self.node.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            self.session.receive_data(data)
        except WireError:
            self.transport.abort()
            return
        for event in self.session.events():
            if isinstance(event, SignRequested):
                self._asked(event)
            elif isinstance(event, KeysRequested):
                self._list_keys(event)
            elif isinstance(event, Cancelled):
                self.node.cancelled += 1
        self.node.most_in_flight = max(self.node.most_in_flight, self.session.in_flight)
        self.flush()

    def flush(self) -> None:
        data = self.session.data_to_send()
        if data and self._is_open:
            self.transport.write(data)

    def _list_keys(self, event: KeysRequested) -> None:
        node = self.node
        if node.fault is Fault.SILENT:
            return
        if node.is_plain:
            self.session.reply_error(event.request_id, ErrorCode.BAD_OPCODE)
        else:
            entries = tuple(KeyEntry(key.ski, key.type, key.label) for key in node.keys.values())
            self.session.reply_keys(event, entries, node.revision)

    def _asked(self, event: SignRequested) -> None:
        node = self.node
        node.asked[event.ski] += 1
        if event.message is None or event.scheme.payload_of(event.message) != event.payload:
            node.unseen += 1
        else:
            node.messages[-99:] = [*node.messages[-99:], event.message]
        fault = node.fault
        if fault in (Fault.HANG, Fault.SILENT) or event.ski in node.hung_skis:
            return
        if fault is Fault.DROP:
            self.transport.abort()
        elif fault is Fault.ERROR:
            self.session.reply_error(event.request_id, node.error_code, "scripted", retry_after_s=node.retry_after_s)
        elif fault is Fault.SLOW:
            asyncio.get_running_loop().call_later(node.delay_s, self._sign, event)
        else:
            self._sign(event)

    def _sign(self, event: SignRequested) -> None:
        key = self.node.keys.get(event.ski)
        if key is None:
            self.session.reply_error(event.request_id, ErrorCode.KEY_NOT_FOUND)
        elif self.node.fault is Fault.GARBAGE:
            self.session.reply_signature(event.request_id, b"no signature")
        else:
            is_wrong = self.node.fault is Fault.WRONG_SIGNATURE or event.ski in self.node.wrong_skis
            payload = bytes(len(event.payload)) if is_wrong else event.payload
            self.session.reply_signature(event.request_id, key.sign(event.scheme, payload))
            self.node.signed += 1
        self.flush()
