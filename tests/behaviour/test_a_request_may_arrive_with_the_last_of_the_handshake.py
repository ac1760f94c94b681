"""A client may send its request in the same segment as its Finished, right behind it, or later: all are answered."""

from __future__ import annotations

import socket
import ssl

import pytest

from proxy.demo.cluster import Cluster

REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n"


def handshake_up_to_the_last_flight(
    cluster: Cluster,
) -> tuple[socket.socket, ssl.SSLObject, ssl.MemoryBIO, list[bytes]]:
    """Everything of a handshake but the client's last flight, which is returned with the request, both encrypted."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=str(cluster.ca))
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    wire = socket.create_connection(("127.0.0.1", cluster.port), timeout=5)
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            wire.sendall(outgoing.read())
            incoming.write(wire.recv(65536))
        else:
            break
    last_flight = outgoing.read()
    tls.write(REQUEST)
    return wire, tls, incoming, [last_flight, outgoing.read()]


@pytest.mark.parametrize("is_joined", [True, False])
def test_request_is_answered(cluster: Cluster, is_joined: bool) -> None:
    for _ in range(10):
        wire, tls, incoming, flights = handshake_up_to_the_last_flight(cluster)
        with wire:
            for piece in [b"".join(flights)] if is_joined else flights:
                wire.sendall(piece)
            answer = b""
            while not answer.endswith(b"\r\n\r\nok"):
                try:
                    answer += tls.read()
                except ssl.SSLWantReadError:
                    incoming.write(wire.recv(65536))
            assert answer.startswith(b"HTTP/1.1 200 OK")
