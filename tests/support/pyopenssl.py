"""pyOpenSSL servers whose key is a reference, and clients, joined by memory buffers: no engine, no sockets."""

from __future__ import annotations

import contextlib

from OpenSSL import SSL, crypto

from proxy.tls import provider
from tests.support.pki import Issued


def reference_key(issued: Issued) -> crypto.PKey:
    return crypto.load_privatekey(crypto.FILETYPE_PEM, provider.key_reference(issued.key.public_key()))


def server_context(issued: Issued, version: int) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.use_certificate(issued.certificate)
    context.use_privatekey(reference_key(issued))
    context.check_privatekey()
    return context


def client_context(algorithms: str | None = None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if algorithms is not None:
        set_list = SSL._lib.SSL_CTX_set1_sigalgs_list  # pyOpenSSL has no public way
        assert set_list(context._context, algorithms.encode()) == 1
    return context


def handshake(server: SSL.Connection, client: SSL.Connection) -> None:
    server.set_accept_state()
    client.set_connect_state()
    go_on(server, client)


def go_on(server: SSL.Connection, client: SSL.Connection) -> None:
    waiting = {server, client}
    for _ in range(20):
        for one, other in ((client, server), (server, client)):
            try:
                one.do_handshake()
                waiting.discard(one)
            except SSL.WantReadError:
                pass
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(1 << 16))
        if not waiting:
            return
    raise AssertionError("the handshake goes on for ever")
