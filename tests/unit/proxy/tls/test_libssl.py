"""The thin layer over libssl: statuses, bounds and the name inside a session."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from proxy.tls import libssl
from proxy.tls.openssl_errors import take_errors
from tests.support import pki

CA = pki.make_ca(key=pki.shared_key())


@pytest.fixture
def context(tmp_path: Path) -> SSL.Context:
    """A context with a local key: nothing here needs the provider."""
    issued = pki.issue(CA, ["a.test"], pki.shared_key())
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.clear_mode(lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
    context.use_certificate_chain_file(str(pki.write_chain(tmp_path / "a.pem", issued)))
    context.use_privatekey_file(str(pki.write_key(tmp_path / "a.key", issued)))
    return context


def connect(context: SSL.Context) -> tuple[libssl.Endpoint, SSL.Connection]:
    endpoint, client = libssl.Endpoint(context), SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    client.set_connect_state()
    status = libssl.WANT_READ
    while status == libssl.WANT_READ:
        with contextlib.suppress(SSL.WantReadError):
            client.do_handshake()
        endpoint.feed(client.bio_read(65536))
        status = endpoint.handshake()
        client.bio_write(endpoint.take_output())
    assert status == libssl.DONE
    return endpoint, client


def test_a_handshake_and_its_outcome(context: SSL.Context) -> None:
    endpoint, client = connect(context)
    version, cipher, group, is_resumed = endpoint.outcome()
    assert (version, cipher, is_resumed) == ("TLSv1.3", client.get_cipher_name(), False)
    assert group == client.get_group_name()
    assert endpoint.session_name() is None


def test_reading_is_bounded_and_says_more(context: SSL.Context) -> None:
    endpoint, client = connect(context)
    client.sendall(bytes(1_000_000))
    endpoint.feed(client.bio_read(2_000_000))
    sizes = []
    status = libssl.MORE
    while status == libssl.MORE:
        data, status = endpoint.read()
        sizes.append(len(data))
    assert (sum(sizes), status) == (1_000_000, libssl.WANT_READ)
    assert max(sizes) <= 16 * libssl.RECORD_BYTES


def test_close_notify_and_garbage_are_told_apart(context: SSL.Context) -> None:
    endpoint, client = connect(context)
    client.sendall(b"last words")
    client.shutdown()
    endpoint.feed(client.bio_read(65536))
    assert endpoint.read() == (b"last words", libssl.CLOSED)
    endpoint, _ = connect(context)
    endpoint.feed(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert endpoint.read() == (b"", libssl.FAILED)
    assert take_errors()


def test_writing_in_pieces(context: SSL.Context) -> None:
    endpoint, client = connect(context)
    data = bytes(range(256)) * 1024
    with ffi.from_buffer(data) as source:
        assert endpoint.write(source, 0, 100_000)
        assert endpoint.write(source, 100_000, len(data) - 100_000)
    client.bio_write(endpoint.take_output())
    received = b""
    while len(received) < len(data):
        received += client.recv(65536)
    assert received == data
    assert endpoint.take_output() == b""


def der(tag: int, value: bytes) -> bytes:
    length = len(value)
    if length < 128:
        return bytes((tag, length)) + value
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + value


@given(st.text("abc.-0", max_size=255), st.binary(max_size=400))
def test_the_name_in_a_session(name: str, ticket: bytes) -> None:
    parts = [der(0x02, b"\x01"), der(0x04, b"key" * 16), der(0xAA, der(0x04, ticket))]
    assert libssl.name_in_session(der(0x30, b"".join(parts))) == b""
    parts.insert(2, der(0xA6, der(0x04, name.encode())))
    assert libssl.name_in_session(der(0x30, b"".join(parts))) == name.encode()


def test_a_switch_that_openssl_has_no_memory_for_is_no_success(
    context: SSL.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OutOfMemory:
        def __getattr__(self, name: str) -> Any:
            return (lambda *_: ffi.NULL) if name == "SSL_set_SSL_CTX" else getattr(lib, name)

    endpoint = libssl.Endpoint(context)
    monkeypatch.setattr(libssl, "lib", OutOfMemory())
    with pytest.raises(MemoryError):
        endpoint.switch_context(SSL.Context(SSL.TLS_SERVER_METHOD))
