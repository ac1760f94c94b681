"""A name server in the test's own loop, which answers what the test says, or fails as it says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer:
    """Records by (name, kind), like {("hsm.test", "A"): ["10.0.0.1"]}, and names whose questions go wrong."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.ttl = 30
        self.silent: set[tuple[str, str]] = set()
        self.failing: set[tuple[str, str]] = set()
        self.truncated: set[tuple[str, str]] = set()
        """Answered whole only over TCP."""
        self.asked: list[tuple[str, str, str]] = []
        """(transport, name, kind)"""
        self.address = ""

    def answer(self, transport: str, data: bytes) -> bytes | None:
        """The answer to a question, None for silence."""
        query = dns.message.from_wire(data)
        question = query.question[0]
        key = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((transport, *key))
        if key in self.silent:
            return None
        response = dns.message.make_response(query)
        if key in self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif transport == "udp" and key in self.truncated:
            response.flags |= dns.flags.TC
        elif found := self.records.get(key):
            response.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", key[1], *found))
        elif not any(name == key[0] for name, _kind in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's is no DatagramTransport by its class

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if answer := self._server.answer("udp", data):
            self._transport.sendto(answer, addr)


@contextlib.asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    """A server that runs, on UDP and TCP of one port."""
    server = NameServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            size = int.from_bytes(await reader.readexactly(2), "big")
            if answer := server.answer("tcp", await reader.readexactly(size)):
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        writer.close()

    streams = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = streams.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    datagrams, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(server), ("127.0.0.1", port))
    server.address = f"127.0.0.1:{port}"
    try:
        yield server
    finally:
        datagrams.close()
        streams.close()
        await streams.wait_closed()
