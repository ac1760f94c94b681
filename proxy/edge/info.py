"""Who a client is, from its TCP transport and its handshake."""

from __future__ import annotations

import asyncio

from proxy.base.jobs import ConnectionInfo
from proxy.tls.events import HandshakeDone


def address_of(tcp: asyncio.BaseTransport | None, which: str) -> tuple[str, int]:
    """IP address and port; `which` is "peername" or "sockname". ("", 0) where the connection is gone already."""
    address = tcp.get_extra_info(which) if tcp is not None else None
    return (str(address[0]), int(address[1])) if address else ("", 0)


def connection_info(
    tcp: asyncio.BaseTransport, client: tuple[str, int], listener: str, event: HandshakeDone
) -> ConnectionInfo:
    """What upper layers may know of a client; `client` is its `address_of`."""
    client_ip, client_port = client
    local_ip, local_port = address_of(tcp, "sockname")
    return ConnectionInfo(
        client_ip=client_ip,
        client_port=client_port,
        local_ip=local_ip,
        local_port=local_port,
        listener=listener,
        site=event.site,
        server_name=event.server_name,
        tls_version=event.version,
        cipher=event.cipher,
        alpn=event.alpn,
        is_resumed=event.is_resumed,
    )
