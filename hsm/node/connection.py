"""One proxy's connection to the node: joins the TLS channel, the wire session and the service.

An asyncio protocol on a plain TCP transport. Answers are collected and written once per loop iteration. A peer that
does not read its answers is not read from, and cut after a while; what waits for it in memory is bounded. Timeouts
are looked at by the server's sweep (`overdue`), so a connection needs no timers.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, cast

from hsm.node.channel import ChannelError, TlsChannel
from hsm.node.observe import ConnectionEnd
from hsm.shared.mtls import peer_identity
from hsm.wire.errors import ErrorCode, WireError
from hsm.wire.session import Cancelled, KeysRequested, ServerSession, SignRequested

if TYPE_CHECKING:
    from hsm.node.requests import Client
    from hsm.node.server import Server

HIGH_WATER_BYTES = 262_144
MAX_INVENTORIES = 4
"""Answered per piece of data from the network."""
BIG_READ_BYTES = 65_536
SESSION_SLACK = 4096


class NodeConnection(asyncio.Protocol):
    """The protocol of one connection; its `Server` makes it, knows it while it is open, and flushes it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._channel = TlsChannel(server.context)
        # The service answers and counts what is over the configured bound; the session's own is the backstop.
        self._session = ServerSession(server.limits.max_in_flight_per_connection + SESSION_SLACK)
        self._transport: asyncio.Transport | None = None
        self._client: Client | None = None
        self._opened_at = server.now()
        self._heard_at = self._opened_at
        self._stalled_at: float | None = None
        self._end: ConnectionEnd | None = None
        self.is_dirty = False
        """Has answers to be flushed in this loop iteration; the server's to write."""
        self.peer = ""

    # what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A peer connected; a full server closes it at once."""
        self._transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        self.peer = f"{name[0]}:{name[1]}" if name else "unknown"
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        if not self._server.opened(self):
            self.cut(ConnectionEnd.REFUSED_FULL)

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        if self._end is not None:
            return
        if len(data) >= BIG_READ_BYTES:
            self._pause_once()
        self._heard_at = self._server.now()
        try:
            plaintext = self._channel.receive(data)
            if self._client is None:
                self._continue_handshake()
            if plaintext:
                self._session.receive_data(plaintext)
                self._handle_events()
        except ChannelError as error:
            was_connected = self._channel.is_connected
            self._fail(ConnectionEnd.TLS if was_connected else ConnectionEnd.HANDSHAKE_FAILED, str(error))
        except WireError as error:
            # The session may have a last answer, such as the version it speaks.
            with contextlib.suppress(ChannelError):
                self._channel.send(self._session.data_to_send())
            self._fail(ConnectionEnd.PROTOCOL, error.reason)
        else:
            self._server.flush_soon(self)
            if self._channel.is_closed_by_peer:
                self.close(ConnectionEnd.PEER_CLOSED)

    def eof_received(self) -> bool:
        """The peer sends no more: nothing it asked for can be wanted."""
        return False

    def pause_writing(self) -> None:
        """The peer reads slower than it asks: take no more requests until it has read."""
        self._stalled_at = self._server.now()
        self._live_transport().pause_reading()

    def resume_writing(self) -> None:
        """The peer caught up."""
        self._stalled_at = None
        if self._end is None:
            self._live_transport().resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        if self._client is not None:
            self._server.service.detach(self._client)
        self._server.closed(self, self._end or ConnectionEnd.PEER_CLOSED)
        self._end = self._end or ConnectionEnd.PEER_CLOSED

    # what the service answers

    def reply_signature(self, request_id: int, signature: bytes) -> None:
        """Queues a signature for the next flush."""
        self._session.reply_signature(request_id, signature)
        if not self.is_dirty:
            self._server.flush_soon(self)

    def reply_error(
        self,
        request_id: int,
        code: ErrorCode,
        detail: str = "",
        retry_after_s: float | None = None,
        queue_depth: int | None = None,
    ) -> None:
        """Queues an error for the next flush."""
        self._session.reply_error(request_id, code, detail=detail, retry_after_s=retry_after_s, queue_depth=queue_depth)
        if not self.is_dirty:
            self._server.flush_soon(self)

    # what the server wants

    def announce_draining(self) -> None:
        """Tells the peer, if it understands, that the node shuts down."""
        if self._client is not None:
            self._session.announce_draining()
            self._server.flush_soon(self)

    def announce_keys(self, revision: int) -> None:
        """Tells the peer, if it understands, that the node's keys changed."""
        if self._client is not None:
            self._session.announce_keys(revision)
            self._server.flush_soon(self)

    def flush(self) -> None:
        """Encrypts and writes what was queued."""
        self.is_dirty = False
        if self._end is not None:
            return
        transport = self._live_transport()
        if data := self._session.data_to_send():
            self._channel.send(data)
        if ciphertext := self._channel.data_to_send():
            transport.write(ciphertext)
            if transport.get_write_buffer_size() > self._server.limits.max_unsent_bytes:
                self.cut(ConnectionEnd.NOT_READING)

    def overdue(self, now: float) -> ConnectionEnd | None:
        """Which timeout has passed, if one has."""
        limits = self._server.limits
        if self._client is None:
            is_late = now - self._opened_at > limits.handshake_timeout_s
            return ConnectionEnd.HANDSHAKE_TIMEOUT if is_late else None
        if self._stalled_at is not None:
            return ConnectionEnd.NOT_READING if now - self._stalled_at > limits.send_timeout_s else None
        is_idle = not self._client.tickets and now - self._heard_at > limits.idle_timeout_s
        return ConnectionEnd.IDLE if is_idle else None

    def close(self, reason: ConnectionEnd) -> None:
        """Orderly end: what was queued is still sent, then close_notify."""
        if self._end is None:
            with contextlib.suppress(ChannelError):
                self.flush()
            self._channel.close()
            self._finish(reason)

    def cut(self, reason: ConnectionEnd) -> None:
        """Ends at once; unsent bytes are dropped."""
        if self._end is None:
            self._end = reason
            self._live_transport().abort()

    def abort(self) -> None:
        """Gives up an orderly end that the peer does not let happen."""
        self._live_transport().abort()

    @property
    def is_connected(self) -> bool:
        """Whether the peer has shown who it is."""
        return self._client is not None

    @property
    def has_unsent_bytes(self) -> bool:
        """Whether answers wait for the peer to read."""
        return self.is_dirty or (self._end is None and self._live_transport().get_write_buffer_size() > 0)

    def _pause_once(self) -> None:
        """Reads no more in this loop iteration: a peer that floods must not keep the loop from signing."""
        self._live_transport().pause_reading()
        self._server.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._end is None and self._stalled_at is None:
            self._live_transport().resume_reading()

    def _continue_handshake(self) -> None:
        if not self._channel.is_connected:
            return
        try:
            identity = peer_identity(self._channel.peer_certificate())
        except ValueError as error:
            raise ChannelError(str(error)) from None
        self._client = self._server.service.attach(identity, self)
        self._server.connected(self, identity, self._channel.version, self._heard_at - self._opened_at)

    def _handle_events(self) -> None:
        client = self._client
        assert client is not None
        service = self._server.service
        inventories = 0
        for event in self._session.events():
            if isinstance(event, SignRequested):
                service.sign(client, event)
            elif isinstance(event, Cancelled):
                service.cancel(client, event.request_id)
            elif isinstance(event, KeysRequested):
                inventories += 1
                self._list_keys(client, event, inventories)

    def _list_keys(self, client: Client, event: KeysRequested, number: int) -> None:
        if number > MAX_INVENTORIES:
            # A small question with a big answer: whoever asks many at once would fill the memory.
            self._session.reply_error(event.request_id, ErrorCode.BUSY, "too many inventories asked for at once")
        else:
            service = self._server.service
            self._session.reply_keys(event.request_id, service.usable_keys(client), service.revision)

    def _fail(self, reason: ConnectionEnd, detail: str) -> None:
        self._server.failed(self, reason, detail)
        self._finish(reason)

    def _finish(self, reason: ConnectionEnd) -> None:
        """Sends what the channel still holds (an alert or close_notify) and closes."""
        if self._end is None:
            self._end = reason
            transport = self._live_transport()
            if ciphertext := self._channel.data_to_send():
                transport.write(ciphertext)
            transport.close()

    def _live_transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport
