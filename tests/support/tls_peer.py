"""TLS clients for tests, without sockets: the standard library's (another OpenSSL) and pyOpenSSL's (more knobs)."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto
from OpenSSL._util import lib

from hsm.wire.schemes import Scheme
from proxy.config.schema import SiteConfig, TlsConfig
from proxy.tls.contexts import Contexts, build_contexts
from proxy.tls.engine import TlsEngine
from proxy.tls.events import HandshakeDone, NeedSignature, Plaintext, TlsEvent, TlsFailed
from tests.support.pki import Issued, PrivateKey, sign, write_chain

MAX_ROUNDS = 200


@dataclass
class Keys:
    """Stands for the HSM nodes: signs with whatever key is named."""

    by_ski: dict[bytes, PrivateKey] = field(default_factory=dict, repr=False)
    schemes: list[Scheme] = field(default_factory=list)

    def add(self, issued: Issued) -> None:
        """Hold the key of a certificate."""
        identifier = x509.SubjectKeyIdentifier.from_public_key(issued.key.public_key())
        self.by_ski[identifier.digest] = issued.key

    def sign(self, wanted: NeedSignature) -> bytes:
        """Sign as a node would."""
        self.schemes.append(wanted.scheme)
        return sign(self.by_ski[wanted.ski], wanted.scheme, wanted.message)


@dataclass(frozen=True)
class Served:
    """One site to be: its names, its certificates, whether it is the default."""

    names: tuple[str, ...]
    certificates: tuple[Issued, ...]
    default: bool = False


def build_sites(folder: Path, sites: list[Served], tls: TlsConfig | None = None) -> tuple[Contexts, Keys]:
    """Write the certificates into `folder` and build the contexts from them."""
    keys = Keys()
    configs = []
    for number, site in enumerate(sites):
        files = []
        for place, issued in enumerate(site.certificates):
            keys.add(issued)
            files.append(write_chain(folder / f"site{number}-{place}.pem", issued).name)
        configs.append(SiteConfig(names=site.names, certificates=tuple(files), upstream="web", default=site.default))
    return build_contexts(tls or TlsConfig(), configs, folder), keys


def client_context(root: Issued, **changes: object) -> ssl.SSLContext:
    """A stdlib client that trusts `root`; `changes` are attributes to set."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=root.certificate.public_bytes(Encoding.PEM).decode())
    for name, value in changes.items():
        setattr(context, name, value)
    return context


class StdlibClient:
    """One client connection by the standard library's ssl over memory BIOs."""

    def __init__(self, context: ssl.SSLContext, server_name: str | None, session: ssl.SSLSession | None = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name, session=session)
        self.is_done = False
        self.received = bytearray()
        self.is_closed = False

    def step(self) -> None:
        """Go on with the handshake, or read what there is. Raises ssl.SSLError."""
        if not self.is_done:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
                self.is_done = True
        if self.is_done and not self.is_closed:
            with contextlib.suppress(ssl.SSLWantReadError):
                while data := self.tls.read(65536):
                    self.received += data
                self.is_closed = True

    def receive_data(self, data: bytes) -> None:
        """Take ciphertext from the server."""
        self._incoming.write(data)

    def data_to_send(self) -> bytes:
        """Ciphertext for the server."""
        return self._outgoing.read()

    def close(self) -> None:
        """Send close_notify."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()


class Conversation:
    """A client and an engine that talk until neither has more to say. Signatures are made at once by `signer`."""

    def __init__(
        self, engine: TlsEngine, client: Any, signer: Callable[[NeedSignature], bytes | None] | None = None
    ) -> None:
        self.engine, self.client = engine, client
        self._signer = signer
        self.events: list[TlsEvent] = []
        self.client_error: ssl.SSLError | None = None

    def run(self) -> Conversation:
        """Exchange bytes until nothing moves."""
        for _ in range(MAX_ROUNDS):
            if not self._round():
                return self
        raise AssertionError("client and engine never stop talking")

    def _round(self) -> bool:
        if self.client_error is None:
            try:
                self.client.step()
            except ssl.SSLError as error:
                self.client_error = error
        to_server = self.client.data_to_send()
        if to_server:
            self.engine.receive_data(to_server)
        self._handle(self.engine.events())
        to_client = self.engine.data_to_send()
        if to_client:
            self.client.receive_data(to_client)
        return bool(to_server or to_client)

    def _handle(self, events: list[TlsEvent]) -> None:
        self.events += events
        for event in events:
            if isinstance(event, NeedSignature) and self._signer is not None:
                signature = self._signer(event)
                if signature is None:
                    self.engine.fail_signature()
                else:
                    self.engine.complete_signature(signature)
                self._handle(self.engine.events())

    @property
    def done(self) -> HandshakeDone:
        """The handshake's end; fails with what happened instead."""
        for event in self.events:
            if isinstance(event, HandshakeDone):
                return event
        raise AssertionError(f"no handshake: {self.events} {self.client_error}")

    @property
    def failed(self) -> TlsFailed:
        """The engine's failure."""
        for event in self.events:
            if isinstance(event, TlsFailed):
                return event
        raise AssertionError(f"no failure: {self.events} {self.client_error}")

    @property
    def plaintext(self) -> bytes:
        """All that the engine decrypted."""
        return b"".join(event.data for event in self.events if isinstance(event, Plaintext))


class PyOpenSslClient:
    """A client by pyOpenSSL, for what the standard library cannot choose; the same methods as StdlibClient."""

    def __init__(
        self, root: Issued, server_name: str, *, version: int | None = None, sigalgs: str = "", groups: str = ""
    ) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        store = context.get_cert_store()
        assert store is not None
        store.add_cert(crypto.X509.from_cryptography(root.certificate))
        context.set_verify(SSL.VERIFY_PEER)
        if version is not None:
            context.set_min_proto_version(version)
            context.set_max_proto_version(version)
        if sigalgs:
            assert lib.SSL_CTX_set1_sigalgs_list(context._context, sigalgs.encode()) == 1
        if groups:
            assert lib.SSL_CTX_set1_curves_list(context._context, groups.encode()) == 1
        self.tls = SSL.Connection(context, None)
        self.tls.set_tlsext_host_name(server_name.encode())
        self.tls.set_connect_state()
        self.is_done = False
        self.is_closed = False
        self.received = bytearray()

    def step(self) -> None:
        """Go on with the handshake, or read what there is. Raises ssl.SSLError."""
        try:
            if not self.is_done:
                self.tls.do_handshake()
                self.is_done = True
            while True:
                self.received += self.tls.recv(65536)
        except SSL.WantReadError:
            return
        except SSL.ZeroReturnError:
            self.is_closed = True
        except SSL.Error as error:
            raise ssl.SSLError(str(error)) from None

    def receive_data(self, data: bytes) -> None:
        """Take ciphertext from the server."""
        self.tls.bio_write(data)

    def data_to_send(self) -> bytes:
        """Ciphertext for the server."""
        try:
            return self.tls.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""
