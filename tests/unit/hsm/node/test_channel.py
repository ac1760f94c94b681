"""TLS over memory BIOs, against the standard library's client."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest

from hsm.node.channel import ChannelError, TlsChannel
from hsm.shared.mtls import Identity, client_context, peer_identity, server_context
from tests.support.node import PROXY, NodeHome, make_home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("channel"))


class Peer:
    """A client in memory."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def step(self, channel: TlsChannel) -> bytes:
        """One exchange in both directions while shaking hands."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        plaintext = channel.receive(self.outgoing.read())
        self.incoming.write(channel.data_to_send())
        return plaintext


def connect(home: NodeHome, context: ssl.SSLContext | None = None) -> tuple[TlsChannel, Peer]:
    channel = TlsChannel(server_context(home.identity("node")))
    peer = Peer(context or client_context(home.identity("proxy")))
    shake(channel, peer)
    return channel, peer


def shake(channel: TlsChannel, peer: Peer) -> None:
    for _ in range(6):
        peer.step(channel)


def test_a_client_with_a_certificate_connects_and_data_flows_both_ways(home: NodeHome) -> None:
    channel, peer = connect(home)
    assert channel.is_connected
    assert channel.version == "TLSv1.3"
    assert peer_identity(channel.peer_certificate()) == PROXY
    peer.tls.write(b"ask" * 20_000)
    assert channel.receive(peer.outgoing.read()) == b"ask" * 20_000
    channel.send(b"answer" * 20_000)
    peer.incoming.write(channel.data_to_send())
    answer = b""
    while len(answer) < 120_000:
        answer += peer.tls.read(65_536)
    assert answer == b"answer" * 20_000
    assert channel.data_to_send() == b""


def test_bytes_may_be_cut_anywhere(home: NodeHome) -> None:
    channel, peer = connect(home)
    peer.tls.write(b"hello")
    ciphertext = peer.outgoing.read()
    pieces = [channel.receive(ciphertext[i : i + 1]) for i in range(len(ciphertext))]
    assert b"".join(pieces) == b"hello"


def test_tls12_with_the_suite_of_plain_keyless_clients(home: NodeHome) -> None:
    context = client_context(home.identity("proxy"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    channel, _peer = connect(home, context)
    assert channel.version == "TLSv1.2"


def test_no_certificate_is_refused_with_a_reason_and_an_alert(home: NodeHome) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(home.path / "ca.pem")
    channel, peer = TlsChannel(server_context(home.identity("node"))), Peer(context)
    with pytest.raises(ChannelError, match="peer did not return a certificate"):
        shake(channel, peer)
    assert channel.data_to_send()
    assert not channel.is_connected
    assert channel.version == ""


def test_a_certificate_of_another_ca_is_refused(home: NodeHome) -> None:
    foreign = home.identity("foreign")
    context = client_context(Identity(foreign.ca, foreign.certificate, foreign.private_key))
    channel, peer = TlsChannel(server_context(home.identity("node"))), Peer(context)
    with pytest.raises(ChannelError, match="certificate was refused: unable to get local issuer"):
        shake(channel, peer)


def test_what_is_no_tls_is_refused(home: NodeHome) -> None:
    channel = TlsChannel(server_context(home.identity("node")))
    with pytest.raises(ChannelError, match="http request"):
        channel.receive(b"GET / HTTP/1.1\r\n\r\n")


def test_a_forged_record_ends_the_connection(home: NodeHome) -> None:
    channel, peer = connect(home)
    peer.tls.write(b"hello")
    ciphertext = bytearray(peer.outgoing.read())
    ciphertext[-1] ^= 1
    with pytest.raises(ChannelError, match="bad record mac"):
        channel.receive(bytes(ciphertext))


def test_close_notify_is_seen_and_sent(home: NodeHome) -> None:
    channel, peer = connect(home)
    channel.close()
    peer.incoming.write(channel.data_to_send())
    assert peer.tls.read(10) == b""
    channel, peer = connect(home)
    peer.tls.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    assert channel.receive(peer.outgoing.read()) == b"last"
    assert channel.is_closed_by_peer


def test_closing_before_the_handshake_is_harmless(home: NodeHome, tmp_path: Path) -> None:
    channel = TlsChannel(server_context(home.identity("node")))
    channel.close()
    assert channel.data_to_send() == b""
