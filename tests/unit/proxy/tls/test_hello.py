from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from OpenSSL import SSL
from OpenSSL._util import lib

from proxy.tls.engine import TlsEngine
from proxy.tls.hello import MAX_HELLO_BYTES, MAX_RECORDS, NEED_MORE, NOT_A_HELLO, Hello, peek_hello
from tests.support import pki
from tests.support.tls_peer import Conversation, Served, StdlibClient, build_sites, client_context

NAME = "www.example.org"


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def named(name: bytes, kind: int = 0) -> bytes:
    entry = bytes((kind,)) + len(name).to_bytes(2, "big") + name
    return extension(0, len(entry).to_bytes(2, "big") + entry)


def pre_shared_key(*identities: bytes) -> bytes:
    listed = b"".join(len(each).to_bytes(2, "big") + each + bytes(4) for each in identities)
    binders = b"".join(b"\x20" + bytes(32) for _ in identities)
    return extension(41, len(listed).to_bytes(2, "big") + listed + len(binders).to_bytes(2, "big") + binders)


def message(*extensions: bytes, session_id: bytes = b"") -> bytes:
    """A ClientHello; without extensions, without the length of their list."""
    joined = b"".join(extensions)
    body = b"\x03\x03" + bytes(32) + bytes((len(session_id),)) + session_id + b"\0\x02\x13\x01\x01\0"
    body += len(joined).to_bytes(2, "big") + joined if extensions else b""
    return b"\x01" + len(body).to_bytes(3, "big") + body


def records(payload: bytes, size: int = 16_384) -> bytes:
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


FULL = records(message(named(b"www.example.org"), extension(10, b"\0\x02\0\x1d")))


# what real clients say


def standard(version: ssl.TLSVersion) -> Callable[[], bytes]:
    def make() -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = version
        outgoing = ssl.MemoryBIO()
        client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=NAME)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        return outgoing.read()

    return make


def hybrid() -> bytes:
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    client.set_tlsext_host_name(NAME.encode())
    assert lib.SSL_set1_curves_list(client._ssl, b"X25519MLKEM768") == 1
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(65_536)


def s_client() -> bytes:
    with socket.create_server(("127.0.0.1", 0)) as server:
        to = f"127.0.0.1:{server.getsockname()[1]}"
        with subprocess.Popen(
            ("openssl", "s_client", "-connect", to, "-servername", NAME),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            server.settimeout(10)
            wire, _ = server.accept()
            with wire:
                wire.settimeout(10)
                data = wire.recv(65_536)
            process.wait(10)
    return data


@pytest.mark.parametrize(
    "make",
    [standard(ssl.TLSVersion.TLSv1_2), standard(ssl.TLSVersion.TLSv1_3), hybrid, s_client],
    ids=["tls12", "tls13", "hybrid", "s_client"],
)
def test_first_visits_of_real_clients(make: Callable[[], bytes]) -> None:
    hello = make()
    assert peek_hello(hello) == Hello(offers_session=False, server_name=NAME)
    for end in range(len(hello)):
        assert peek_hello(hello[:end]) is NEED_MORE
    assert peek_hello(records(hello[5:], size=200)) == peek_hello(hello)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_second_visits_of_a_real_client_offer_their_session(version: ssl.TLSVersion, tmp_path: Path) -> None:
    root = pki.make_ca()
    contexts, keys = build_sites(tmp_path, [Served((NAME,), (pki.issue(root, NAME, pki.shared_key("p256")),))])
    context = client_context(root, minimum_version=version, maximum_version=version)
    session, heard = None, []
    for _ in range(2):
        client = NotingClient(context, NAME, session)
        talk = Conversation(TlsEngine(contexts), client, keys.sign).run()
        heard.append((peek_hello(client.first), talk.done.is_resumed))
        session = client.tls.session
    assert heard == [(Hello(False, NAME), False), (Hello(True, NAME), True)]


class NotingClient(StdlibClient):
    """Remembers the first thing it said."""

    first = b""

    def data_to_send(self) -> bytes:
        said = super().data_to_send()
        self.first = self.first or said
        return said


# what is a session and what is not


@pytest.mark.parametrize(
    ("extensions", "offers"),
    [
        ((extension(35, b""),), False),
        ((extension(35, b"t"),), True),
        ((pre_shared_key(b"ticket"),), True),
        ((pre_shared_key(b"one", b"two"),), True),
        ((pre_shared_key(),), False),
        ((pre_shared_key(b""),), False),
        ((extension(41, b""),), False),
        ((extension(41, b"\0\x07\0\x01"),), False),
        ((extension(41, b"\xff\xff\0\x01" + bytes(9)),), False),
        ((extension(45, b"\x01\x01"),), False),
        ((extension(35, b"t"), extension(35, b"")), True),
    ],
)
def test_only_a_ticket_or_an_identity_is_a_session(extensions: tuple[bytes, ...], offers: bool) -> None:
    hello = peek_hello(records(message(*extensions)))
    assert isinstance(hello, Hello)
    assert hello.offers_session is offers


def test_a_bare_session_id_says_nothing() -> None:
    assert peek_hello(records(message(session_id=bytes(32)))) == Hello(offers_session=False)


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (named(b"WWW.Example.org."), "www.example.org"),
        (named(b"a\0b"), None),
        (named(b""), None),
        (named(b"www.example.org", kind=1), None),
        (extension(0, b""), None),
        (extension(0, b"\0\x06\0\0\x09abc"), None),
    ],
)
def test_names(sent: bytes, name: str | None) -> None:
    assert peek_hello(records(message(sent))) == Hello(offers_session=False, server_name=name)


# how it comes


def test_a_hello_comes_in_any_number_of_reads_and_records() -> None:
    whole = message(named(NAME.encode()), extension(35, b"t" * 40))
    for size in (4, 5, 9, 40, 60, len(whole)):
        sent = records(whole, size)
        assert peek_hello(sent) == Hello(offers_session=True, server_name=NAME), size
        assert peek_hello(sent + b"\x14\x03\x03\0\x01\x01") == Hello(offers_session=True, server_name=NAME), size
        assert all(peek_hello(sent[:end]) is NEED_MORE for end in range(len(sent))), size


def test_a_hello_in_more_records_than_anybody_needs_offers_nothing() -> None:
    whole = message(pre_shared_key(b"t" * 40))
    assert len(whole) > MAX_RECORDS
    assert peek_hello(records(whole, 1)) == Hello(offers_session=False)
    assert peek_hello(records(whole[: MAX_RECORDS - 1], 1)) is NEED_MORE


def test_what_is_too_large_offers_nothing_however_little_of_it_is_here() -> None:
    ticket = extension(35, b"t" * 10_000)
    assert peek_hello(records(message(ticket))) == Hello(offers_session=True)
    large = records(message(ticket, ticket))
    assert peek_hello(large) == peek_hello(large[:9]) == Hello(offers_session=False)
    assert peek_hello(large[:8]) is NEED_MORE
    # small enough by its own word, not with the headers of its records
    in_pieces = records(message(extension(35, bytes(16_800))), 560)
    assert len(in_pieces) > MAX_HELLO_BYTES
    assert peek_hello(in_pieces[: MAX_HELLO_BYTES - 1]) is NEED_MORE
    assert peek_hello(in_pieces[:MAX_HELLO_BYTES]) == Hello(offers_session=False)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x02",
        b"\x16\x03\x01\0\x04\x02\0\0\0",  # a ServerHello
        b"\x16\x03\x01\0\0",  # an empty record
        b"\x16\x03\x01\0\x04\x01\0\0\0",  # an empty hello
        b"\x16\x03\x01\x40\x01\x01\0\0\x80",  # a record too large
        records(message(), 20)[:25] + b"\x15\x03\x03\0\x02\x02\x50",  # an alert in the middle
        records(message()[:3] + b"\x28" + message()[4:-1] + b"\x01"),  # wrong lengths inside
        records(b"\x01\0\0\x26" + b"\x03\x03" + bytes(32) + b"\xff" + bytes(3)),
        records(b"\x01\0\0\x32" + message(extension(35, b"t"))[4:] + b"tt"),
        b"\x80\x2e\x01\x03\x03" + bytes(40),  # as SSL 2 framed it
    ],
)
def test_what_is_no_hello(data: bytes) -> None:
    assert peek_hello(data) is NOT_A_HELLO


def test_inconsistent_extensions_are_no_hello() -> None:
    broken = bytearray(message(extension(35, b"t"), extension(10, b"ab")))
    broken[-3] = 9  # longer than what is left
    assert peek_hello(records(bytes(broken))) is NOT_A_HELLO
    assert peek_hello(records(message(b"\0\x0a\0"))) is NOT_A_HELLO


@given(st.binary(max_size=600))
@example(b"")
@example(b"\x16")
def test_no_bytes_raise(data: bytes) -> None:
    assert peek_hello(data) is not None


@given(st.lists(st.tuples(st.integers(0, len(FULL) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(FULL)))
def test_no_change_of_a_hello_raises(changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(FULL)
    for at, value in changes:
        data[at] = value
    assert peek_hello(bytes(data[:end])) is not None


@given(st.binary(max_size=300))
def test_no_extensions_raise(extensions: bytes) -> None:
    for ordered in (extensions, extension(41, extensions), extension(0, extensions), extension(35, extensions)):
        peeked = peek_hello(records(message(ordered)))
        assert peeked is NOT_A_HELLO or isinstance(peeked, Hello)


@given(st.lists(st.integers(1, 400), max_size=40), st.booleans())
def test_reads_only_add(sizes: list[int], offers: bool) -> None:
    """However it is cut into records: more is wanted until the last byte, and then the answer is the same."""
    whole = message(named(NAME.encode()), extension(35, b"t" if offers else b""), extension(21, bytes(300)))
    sent, at = b"", 0
    for size in [*sizes[: MAX_RECORDS - 1], len(whole)]:
        sent += records(whole[at : at + size])
        at += size
        if at >= len(whole):
            break
        assert peek_hello(sent) is NEED_MORE
    assert peek_hello(sent) == Hello(offers_session=offers, server_name=NAME)
