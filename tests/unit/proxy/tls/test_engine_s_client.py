"""The engine behind a socket, with the `openssl` tool as the client: an implementation and options of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsm.wire.schemes import Scheme
from proxy.base.errors import TlsReason
from proxy.tls.engine import TlsEngine
from proxy.tls.events import HandshakeDone, NeedSignature, PeerClosed, Plaintext, TlsEvent, TlsFailed
from tests.support import pki
from tests.support.tls_peer import Served, build_sites

OPENSSL = shutil.which("openssl") or ""
pytestmark = pytest.mark.skipif(not OPENSSL, reason="the openssl tool is not installed")
LIMIT_S = 20.0
ROOT = pki.make_ca("Root", key=pki.shared_key())
INTER_EC = pki.issue(ROOT, "Intermediate EC", pki.shared_key("p384"), is_ca=True)
INTER_RSA = pki.issue(ROOT, "Intermediate RSA", pki.shared_key("rsa-2048", 1), is_ca=True)


class Server:
    """Serves one connection with an engine, in a thread: greets, echoes, and closes when the client said "bye"."""

    def __init__(self, folder: Path) -> None:
        certificates = (
            pki.issue(INTER_EC, ["a.test"], pki.shared_key()),
            pki.issue(INTER_RSA, ["a.test"], pki.shared_key("rsa-2048")),
        )
        self.contexts, self.keys = build_sites(folder, [Served(("a.test",), certificates)])
        self.events: list[TlsEvent] = []
        self.root = pki.write_chain(folder / "root.pem", [ROOT.certificate])

    @contextmanager
    def running(self) -> Iterator[int]:
        """Listen; gives the port, and waits for the connection's end afterwards."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(LIMIT_S)
            thread = threading.Thread(target=self._serve, args=(listener,))
            thread.start()
            try:
                yield listener.getsockname()[1]
            finally:
                thread.join(LIMIT_S)

    def _serve(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(LIMIT_S)
            engine = TlsEngine(self.contexts)
            while not self._is_over():
                data = connection.recv(65536)
                engine.receive_data(data)
                if not data:
                    engine.receive_eof()
                self._handle(engine)
                connection.sendall(engine.data_to_send())
                if not data:
                    return

    def _handle(self, engine: TlsEngine) -> None:
        for event in engine.events():
            self.events.append(event)
            if isinstance(event, NeedSignature):
                engine.complete_signature(self.keys.sign(event))
                self._handle(engine)
            elif isinstance(event, HandshakeDone):
                engine.send(b"hello\n")
            elif isinstance(event, Plaintext):
                engine.send(event.data)
                if b"bye" in event.data:
                    engine.close()

    def _is_over(self) -> bool:
        return any(isinstance(event, TlsFailed | PeerClosed) for event in self.events)

    @property
    def done(self) -> HandshakeDone:
        """The handshake's end."""
        return next(event for event in self.events if isinstance(event, HandshakeDone))


def s_client(server: Server, *options: str, typed: tuple[str, ...] = ("bye",)) -> str:
    """Run `openssl s_client` and return what it printed.

    One line is typed after the greeting and one after each echo: a command counts only at the start of what is read.
    """
    with server.running() as port:
        command = [OPENSSL, "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "a.test", *options]
        command += ["-CAfile", str(server.root), "-verify_return_error", "-verify_hostname", "a.test"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            timer = threading.Timer(LIMIT_S, process.kill)
            timer.start()
            try:
                return talk(process, typed)
            finally:
                timer.cancel()
                process.kill()


def talk(process: subprocess.Popen[str], typed: tuple[str, ...]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    printed = []
    lines = iter(typed)
    answers = ("hello", "KEYUPDATE", *typed)
    for line in process.stdout:
        printed.append(line)
        if line.strip() in answers and (following := next(lines, None)):
            process.stdin.write(following + "\n")
            process.stdin.flush()
    return "".join(printed)


@pytest.mark.parametrize(
    ("options", "scheme", "intermediate"),
    [
        (["-tls1_3", "-sigalgs", "ecdsa_secp256r1_sha256"], Scheme.ECDSA_SHA256, "Intermediate EC"),
        (["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha384"], Scheme.RSA_PSS_SHA384, "Intermediate RSA"),
        (["-tls1_2", "-sigalgs", "ECDSA+SHA256"], Scheme.ECDSA_SHA256, "Intermediate EC"),
        (["-tls1_2", "-sigalgs", "RSA+SHA256"], Scheme.RSA_PKCS1_SHA256, "Intermediate RSA"),
    ],
)
def test_the_certificate_fits_the_clients_algorithms(
    tmp_path: Path, options: list[str], scheme: Scheme, intermediate: str
) -> None:
    server = Server(tmp_path)
    printed = s_client(server, "-showcerts", *options)
    assert "Verify return code: 0 (ok)" in printed
    assert server.keys.schemes == [scheme]
    assert printed.count("BEGIN CERTIFICATE") == 2
    assert intermediate in printed
    assert isinstance(server.events[-1], PeerClosed)


def test_a_key_update_changes_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path)
    printed = s_client(server, "-tls1_3", typed=("K", "first", "k", "second", "bye"))
    assert printed.count("KEYUPDATE") == 2
    text = b"".join(event.data for event in server.events if isinstance(event, Plaintext))
    assert text == b"first\nsecond\nbye\n"
    assert isinstance(server.events[-1], PeerClosed)


def test_renegotiation_is_refused(tmp_path: Path) -> None:
    server = Server(tmp_path)
    s_client(server, "-tls1_2", typed=("R",))
    failed = server.events[-1]
    assert isinstance(failed, TlsFailed)
    assert (failed.reason, server.done.version) == (TlsReason.RENEGOTIATION, "TLSv1.2")


def test_renegotiation_is_protected_and_compression_is_off(tmp_path: Path) -> None:
    printed = s_client(Server(tmp_path), "-tls1_2")
    assert "Secure Renegotiation IS supported" in printed  # the extension of RFC 5746 that prevents an attack
    assert "Compression: NONE" in printed
