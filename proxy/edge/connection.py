"""One client's connection: ciphertext to the TLS engine, signatures from the signer, plain bytes to a protocol.

Theory of operation. The engine is pure; after each thing it is told, `_pump` handles its events until there are none
and then sends what it has to say, in one write. A handshake that needs a signature stands still inside the engine
until `_job_done`; what arrives meanwhile it keeps, up to a bound. While signatures are scarce, the door (`greeting.py`)
sees the ClientHello before there is an engine. One phase variable says where the connection is:

    HANDSHAKING --HandshakeDone--> OPEN --close--> LINGERING --client's FIN, or time--> CLOSED
         |                           |                ^
         +--TlsFailed, no signature--+----------------+      connection_lost leads to CLOSED from anywhere

LINGERING: everything is sent, our FIN too; what still arrives is discarded, so that the kernel has no reason to
answer with a reset that would destroy our last bytes on their way (RFC 9112 9.6).

No task and no timer belongs to one connection: deadlines are those of `deadlines.py`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from hsm.shared.logs import get_logger
from proxy.base.errors import SigningError, SigningReason, TlsReason
from proxy.base.jobs import SignJob
from proxy.edge.greeting import OVERLOADED_ALERT, Greeting, Visitor
from proxy.edge.info import connection_info
from proxy.edge.phase import Phase
from proxy.edge.shared import JobHandle
from proxy.edge.transport import TlsTransport
from proxy.tls.engine import TlsEngine
from proxy.tls.events import HandshakeDone, NeedSignature, PeerClosed, Plaintext, TlsEvent, TlsFailed

if TYPE_CHECKING:
    from proxy.edge.listener import EdgeListener

OVERLOADS = (SigningReason.QUEUE_FULL, SigningReason.SHED)
UNREAD_LIMIT_BYTES = 1_048_576
"""Output that the client does not take; above it no more input is read, because input can cause output."""


class EdgeConnection(asyncio.Protocol):
    """Joins one TCP transport, one TLS engine, the signer and one protocol above."""

    __slots__ = (
        "__weakref__",
        "_deadline",
        "_end_reason",
        "_engine",
        "_input_is_stopped",
        "_is_pumping",
        "_is_signing",
        "_job",
        "_listener",
        "_peer_has_closed",
        "_phase",
        "_protocol",
        "_session",
        "_site",
        "_tcp",
        "_transport",
        "_unsent_bytes",
        "_visitor",
    )

    def __init__(self, listener: EdgeListener) -> None:
        self._listener = listener
        self._visitor = Visitor(listener.doorway)
        self._phase = Phase.CLOSED
        self._tcp: asyncio.Transport | None = None
        self._engine: TlsEngine | None = None
        self._transport: TlsTransport | None = None
        self._protocol: asyncio.Protocol | None = None
        self._session: HandshakeDone | None = None
        self._job: JobHandle | None = None
        self._end_reason: TlsReason | None = None
        self._site = ""
        self._deadline = 0.0
        self._unsent_bytes = 0
        self._is_signing = False
        self._is_pumping = False
        self._input_is_stopped = False
        self._peer_has_closed = False

    @property
    def phase(self) -> Phase:
        """Where the connection is."""
        return self._phase

    @property
    def is_silent(self) -> bool:
        """Whether the client has not sent a byte yet."""
        return self._visitor.is_silent

    # asyncio.Protocol: what TCP tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or close at once where none is free."""
        tcp = cast("asyncio.Transport", transport)
        if not self._listener.admit(self):
            self._phase = Phase.REFUSED
            tcp.abort()
            return
        self._tcp = tcp
        self._phase = Phase.HANDSHAKING
        self._deadline = self._listener.handshakes.start(self)

    def data_received(self, data: bytes) -> None:
        """Feed the engine, and do what it says."""
        if self._phase is Phase.OPEN or self._phase is Phase.HANDSHAKING:
            if self._engine is None:
                data = self._greet(data)
            if self._engine is not None:
                self._engine.receive_data(data)
                self._pump()

    def eof_received(self) -> bool:
        """The client will send no more. True (keep the TCP connection) only after its close_notify."""
        if self._phase is not Phase.OPEN:
            return False
        if self._peer_has_closed:
            return True
        self._end_reason = TlsReason.TRUNCATED
        self._lose_protocol(ConnectionResetError("the client closed without close_notify"))
        # TCP flushes and closes by itself now; the deadline watches it.
        self._phase = Phase.LINGERING
        self._listener.lingering.start(self)
        return False

    def pause_writing(self) -> None:
        """TCP's write buffer is full."""
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """TCP's write buffer has room again."""
        if self._input_is_stopped:
            self._input_is_stopped = False
            self.resume_input()
        if self._protocol is not None:
            self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Everything of this connection ends, a job that is out, too."""
        before, self._phase = self._phase, Phase.CLOSED
        if before is Phase.REFUSED or before is Phase.CLOSED:
            return
        self._cancel_job()
        if before is Phase.HANDSHAKING and not self.is_silent:
            self._visitor.fail(self._site, TlsReason.CLIENT_CLOSED)
        if before is Phase.OPEN and not self._peer_has_closed:
            self._end_reason = self._end_reason or TlsReason.TRUNCATED
        self._lose_protocol(exc)
        if self._session is not None:
            observer = self._listener.services.observer
            observer.session_ended(self._session.site, self._session.version, self._end_reason)
        if self._engine is not None:
            self._engine.abort()
        self._listener.release(self)
        # Nothing may keep anything else alive: the collector of reference cycles runs rarely.
        self._tcp = self._engine = self._transport = self._session = None

    # what the listener tells

    def handshake_expired(self) -> None:
        """The handshake's time is over."""
        if self._phase is Phase.HANDSHAKING:
            if self.is_silent:
                self._visitor.begin(self._tcp)  # so that starts and ends are in balance
            self._visitor.fail(self._site, TlsReason.TIMEOUT)
            self._phase = Phase.LINGERING
            self.abort()

    def linger_expired(self) -> None:
        """Time to go; a client that still takes our output gets another span."""
        if self._phase is not Phase.LINGERING or self._tcp is None:
            return
        unsent = self._tcp.get_write_buffer_size()
        if 0 < unsent < self._unsent_bytes:
            self._unsent_bytes = unsent
            self._listener.lingering.start(self)
        else:
            self._tcp.abort()

    def cut(self) -> None:
        """The worker stops: say goodbye if that is possible at once, and close."""
        if self._phase is Phase.OPEN and self._engine is not None:
            self._end_reason = TlsReason.OTHER
            self._engine.close()
            self._send()
        self.abort()

    # what the TLS transport asks (Ends)

    def close(self) -> None:
        """Orderly: what was written, close_notify, FIN; then wait for the client's."""
        if self._phase is Phase.OPEN and self._engine is not None:
            self._engine.close()
            self._linger()
            self._listener.loop.call_soon(self._lose_protocol, None)

    def abort(self) -> None:
        """Close at once. `connection_lost` follows from the event loop."""
        if self._transport is not None:
            self._transport.end()
        if self._tcp is not None:
            self._tcp.abort()

    def resume_input(self) -> None:
        """Read from TCP again, where the protocol wants data and the client takes our output."""
        wants_data = self._transport is None or self._transport.is_reading()
        if self._tcp is not None and wants_data and not self._input_is_stopped:
            self._tcp.resume_reading()

    # before the engine

    def _greet(self, data: bytes) -> bytes:
        """Make the engine unless the door is against it, and give what it is to be fed with."""
        if self._visitor.is_silent:
            self._visitor.begin(self._tcp)
        greeting, heard = self._visitor.greet(data)
        if greeting is Greeting.LET_IN:
            self._engine = self._listener.services.new_engine()
        elif greeting is Greeting.SHED:
            self._visitor.fail(self._visitor.site, TlsReason.OVERLOADED)
            if self._tcp is not None:
                self._tcp.write(OVERLOADED_ALERT)
            self._linger()
        return heard

    # the engine and its events

    def _pump(self) -> None:
        """Handle the engine's events until there are none, then send its output in one write."""
        engine, transport = self._engine, self._transport
        if self._is_pumping or engine is None:
            return
        self._is_pumping = True
        if transport is not None:
            transport.is_batching = True
        try:
            while events := engine.events():
                for event in events:
                    self._handle(event)
        except Exception as error:
            self._crashed(error)
        finally:
            self._is_pumping = False
            if self._transport is not None:  # which this very round may have made
                self._transport.is_batching = False
        self._send()

    def _handle(self, event: TlsEvent) -> None:
        if isinstance(event, Plaintext):
            if self._transport is not None:
                self._transport.deliver(event.data)
        elif isinstance(event, NeedSignature):
            self._ask_for_signature(event)
        elif isinstance(event, HandshakeDone):
            self._open(event)
        elif isinstance(event, TlsFailed):
            self._failed(event)
        elif isinstance(event, PeerClosed):
            self._hear_goodbye()
        else:
            raise TypeError(f"the edge does not know the event {type(event).__name__}")

    def _send(self) -> None:
        """Hand to TCP what the engine has to say; nothing after our FIN."""
        tcp, engine = self._tcp, self._engine
        if tcp is None or engine is None or self._phase >= Phase.LINGERING or tcp.is_closing():
            return
        if chunks := engine.chunks_to_send():
            tcp.writelines(chunks)
            if tcp.get_write_buffer_size() > UNREAD_LIMIT_BYTES and not self._input_is_stopped:
                self._input_is_stopped = True
                tcp.pause_reading()

    def _open(self, event: HandshakeDone) -> None:
        """The session is there: the protocol above gets its transport."""
        listener = self._listener
        assert self._tcp is not None
        assert self._engine is not None
        self._phase = Phase.OPEN
        self._session = event
        listener.handshakes.stop(self)
        took_s, resumed = time.monotonic() - self._visitor.started, event.is_resumed
        listener.services.observer.session_started(
            event.site, event.version, event.cipher, event.group, resumed=resumed, duration_s=took_s
        )
        self._protocol = protocol = listener.services.new_protocol()
        info = connection_info(self._tcp, self._visitor.address, listener.name, event)
        self._transport = transport = TlsTransport(self, self._tcp, self._engine, protocol, info, listener.loop)
        transport.is_batching = True
        protocol.connection_made(transport)

    def _hear_goodbye(self) -> None:
        self._peer_has_closed = True
        if self._transport is not None:
            self._transport.deliver_eof()

    def _failed(self, event: TlsFailed) -> None:
        """Send the alert, if there is one, and close."""
        self._site = event.site or self._site
        if self._phase is Phase.HANDSHAKING:
            self._cancel_job()
            self._visitor.fail(self._site, event.reason)
            self._linger()
        elif self._phase is Phase.OPEN:
            self._end_reason = event.reason
            self._linger()
            self._lose_protocol(ConnectionAbortedError(f"TLS failed: {event.reason.value}"))

    def _linger(self) -> None:
        """Send everything and our FIN, and give the client time for its own."""
        self._send()
        self._phase = Phase.LINGERING
        if self._transport is not None:
            self._transport.end()
        tcp = self._tcp
        if tcp is None or tcp.is_closing():
            return
        self._unsent_bytes = tcp.get_write_buffer_size()
        self._listener.handshakes.stop(self)
        self._listener.lingering.start(self)
        if self._peer_has_closed:
            tcp.close()  # once all is sent; there is nothing to wait for
        else:
            tcp.resume_reading()
            tcp.write_eof()

    # signatures

    def _ask_for_signature(self, event: NeedSignature) -> None:
        listener, engine = self._listener, self._engine
        assert engine is not None
        self._site = event.site
        if not self._visitor.may_sign(event.site):
            engine.fail_signature(TlsReason.OVERLOADED, "signatures are scarce and its session was not resumed")
            return
        job = SignJob(
            ski=event.ski,
            scheme=event.scheme,
            message=event.message,
            site=event.site,
            deadline=min(self._deadline, listener.loop.time() + listener.times.job_s),
            client_ip=self._visitor.address[0],
            server_name=event.server_name,
        )
        self._is_signing = True
        handle = listener.services.submit(job, self._job_done)
        if self._is_signing:  # the answer may have come before `submit` returned
            self._job = handle

    def _job_done(self, result: bytes | SigningError) -> None:
        """The signer's answer. Never raises: the signer has other jobs to look after."""
        self._is_signing = False
        self._job = None
        engine = self._engine
        if engine is None or self._phase is not Phase.HANDSHAKING:
            return
        try:
            if isinstance(result, SigningError):
                reason = TlsReason.OVERLOADED if result.reason in OVERLOADS else TlsReason.SIGNING_FAILED
                engine.fail_signature(reason, str(result))
            else:
                engine.complete_signature(result)
        except Exception as error:
            self._crashed(error)
        self._pump()

    def _cancel_job(self) -> None:
        self._is_signing = False
        if self._job is not None:
            self._job.cancel()
            self._job = None

    # ends

    def _lose_protocol(self, exc: Exception | None) -> None:
        """Tell the protocol above, once, that its connection is gone."""
        protocol, self._protocol = self._protocol, None
        if self._transport is not None:
            self._transport.end()
        if protocol is None:
            return
        try:
            protocol.connection_lost(exc)
        except Exception as error:  # whatever is wrong above, this connection's place must become free
            self._crashed(error)

    def _crashed(self, error: Exception) -> None:
        """A defect of ours must cost one connection, not the worker, and must be seen."""
        get_logger("edge").error("edge_connection_crashed", listener=self._listener.name, exc_info=error)
        self._listener.services.observer.task_crashed("edge_connection")
        self.abort()
