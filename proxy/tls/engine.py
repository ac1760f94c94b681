"""One TLS connection, server side, without I/O: ciphertext in, events and ciphertext out.

Theory of operation
-------------------
OpenSSL wants the signature of a handshake as the result of a function call, but ours comes from another machine some
milliseconds later. So a handshake's steps happen in greenlets: pieces of execution that have C stacks of their own.

1. `receive_data` takes a greenlet from a pool, which calls `SSL_do_handshake`. Mostly OpenSSL wants more data; the
   greenlet goes back to the pool and the call returns.
2. When OpenSSL needs the signature it calls the provider, the provider calls `callbacks.ask_for_signature`, and that
   switches back to the greenlet which called `receive_data`. OpenSSL's frames stay on the suspended stack. The engine
   reports `NeedSignature` and returns.
3. `complete_signature` switches into the suspended greenlet with the signature. The upcall returns, OpenSSL goes on as
   if it had only waited. `fail_signature` and `abort` switch in with None instead; the upcall raises, OpenSSL unwinds
   and frees what it holds. *A suspended greenlet must be resumed by one of the three*: otherwise its frames live on.

While a greenlet is suspended, nothing else may touch its SSL object: ciphertext that arrives meanwhile is only put
into the input buffer, up to a bound. After the handshake no signature can be asked for (renegotiation is off), so
reading and writing need no greenlet.

Handshakes interleave on one thread but OpenSSL's error queue is per thread: it is emptied before each call into OpenSSL
that may fail, and read as soon as a call has failed, before anything else can run.

The engine keeps no time. The handshake's deadline is the edge's: when it passes, call `abort`.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final

from OpenSSL._util import ffi

from proxy.base.errors import TlsReason
from proxy.tls import libssl, provider
from proxy.tls.callbacks import Runner, SignatureWanted, resume_step, start_step
from proxy.tls.contexts import Contexts, SiteContext
from proxy.tls.events import HandshakeDone, NeedSignature, PeerClosed, Plaintext, TlsEvent, TlsFailed
from proxy.tls.openssl_errors import describe, forget_errors, reason_of, take_errors
from proxy.tls.sites import clean_server_name

MAX_EARLY_BYTES: Final = 65_536
"""Ciphertext that may arrive while a signature is awaited. A well-behaved client sends none, or refused early data."""

_HANDSHAKE_RECORD: Final = 22
"""First byte of a record with a ClientHello (RFC 8446 5.1)."""


class _State(Enum):
    HANDSHAKE = auto()
    OPEN = auto()
    ENDED = auto()


class TlsEngine:
    """One client's TLS connection.

    After each call, send what `data_to_send` returns and handle what `events` returns. Nothing here blocks, or raises
    for what a client did; after `TlsFailed` or `abort` every call is harmless and does nothing.
    """

    __slots__ = (
        "__weakref__",
        "_alpn",
        "_cause",
        "_contexts",
        "_early_bytes",
        "_endpoint",
        "_events",
        "_first_byte",
        "_is_closing",
        "_is_peer_closed",
        "_is_signed",
        "_output",
        "_server_name",
        "_site",
        "_state",
        "_version",
        "_waiting",
    )

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts
        self._endpoint: libssl.Endpoint | None = libssl.Endpoint(contexts.front)
        self._state = _State.HANDSHAKE
        self._events: list[TlsEvent] = []
        self._output: list[bytes] = []
        self._waiting: Runner | None = None
        self._early_bytes = 0
        self._first_byte = -1
        self._site: SiteContext | None = None
        self._server_name = ""
        self._alpn = ""
        self._cause: tuple[TlsReason, str] | None = None
        self._version = ""
        self._is_signed = False
        self._is_closing = False
        self._is_peer_closed = False

    @property
    def handshake_is_done(self) -> bool:
        """Tell whether a session was established (it may have ended since)."""
        return self._version != ""

    @property
    def is_waiting(self) -> bool:
        """Tell whether a signature is awaited."""
        return self._waiting is not None

    def events(self) -> list[TlsEvent]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        """Ciphertext for the client, or b""."""
        output, self._output = self._output, []
        return output[0] if len(output) == 1 else b"".join(output)

    def chunks_to_send(self) -> list[bytes]:
        """The same as `data_to_send` in pieces, for a transport's `writelines`: spares a copy of large sends."""
        output, self._output = self._output, []
        return output

    def receive_data(self, ciphertext: bytes) -> None:
        """Process what the client sent."""
        if self._endpoint is None or not ciphertext:
            return
        if self._first_byte < 0:
            self._first_byte = ciphertext[0]
        self._endpoint.feed(ciphertext)
        if self._waiting is not None:
            self._early_bytes += len(ciphertext)
            if self._early_bytes > MAX_EARLY_BYTES:
                self._refuse(TlsReason.BAD_RECORD, "the client sent too much before the server's first flight")
        elif self._state is _State.HANDSHAKE:
            self._advance()
        else:
            self._read()

    def receive_eof(self) -> None:
        """The client's TCP connection ended; without close_notify that is a failure."""
        if self._state is _State.HANDSHAKE:
            self._end(TlsReason.CLIENT_CLOSED, "the client closed the connection during the handshake")
        elif self._state is _State.OPEN and not (self._is_peer_closed or self._is_closing):
            self._end(TlsReason.TRUNCATED, "the client closed the connection without close_notify")

    def send(self, plaintext: bytes | bytearray | memoryview) -> None:
        """Encrypt any amount; does nothing once the connection is closing. Raises RuntimeError during the handshake."""
        if self._state is _State.HANDSHAKE:
            raise RuntimeError("nothing can be sent before HandshakeDone")
        endpoint, size = self._endpoint, len(plaintext)
        if endpoint is None or self._is_closing or not size:
            return
        forget_errors()
        with ffi.from_buffer(plaintext) as source:
            for offset in range(0, size, libssl.WRITE_BYTES):
                if not endpoint.write(source, offset, min(libssl.WRITE_BYTES, size - offset)):
                    self._fail()
                    return
                self._output.append(endpoint.take_output())

    def close(self) -> None:
        """Say close_notify; what the client still sends is still reported. During the handshake: `abort`."""
        if self._state is _State.HANDSHAKE:
            self.abort()
        elif self._endpoint is not None and not self._is_closing:
            self._is_closing = True
            self._endpoint.shutdown()
            self._take_output()
            forget_errors()

    def complete_signature(self, signature: bytes) -> None:
        """Go on with the handshake; ignored where nothing waits any more."""
        if self._waiting is not None:
            self._resume(self._waiting, signature)

    def fail_signature(self, reason: TlsReason = TlsReason.SIGNING_FAILED, detail: str = "no signature") -> None:
        """End the handshake with an alert and `TlsFailed(reason)`; ignored where nothing waits any more."""
        if self._waiting is not None:
            self._refuse(reason, detail)

    def abort(self) -> None:
        """The client is gone, or must go: free everything now. Nothing is sent and no event follows."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._unwind(waiting)
        self._free()
        self._output.clear()
        self._events.clear()

    # What the callbacks call, inside the handshake's greenlet.

    def step(self) -> int:
        """Go on with the handshake; gives a status of `libssl`."""
        assert self._endpoint is not None
        forget_errors()
        return self._endpoint.handshake()

    def choose_site(self, server_name: bytes) -> bool:
        """Switch to the site that the client named; False where there is none for it."""
        assert self._endpoint is not None
        self._server_name = clean_server_name(server_name)
        site = self._contexts.find(self._server_name)
        if site is None:
            self._cause = (TlsReason.UNKNOWN_SITE, "the client named no site of ours")
            return False
        if not self._session_is_for(site):
            self._cause = (TlsReason.UNKNOWN_SITE, "the client resumes a session of another site")
            return False
        self._site = site
        self._endpoint.switch_context(site.context)
        return True

    def _session_is_for(self, site: SiteContext) -> bool:
        """A session of one site must not open another (RFC 6066 3), or what that one demands would be skipped.

        OpenSSL accepts the ticket before it asks for the site, so refusing is all that is left.
        """
        assert self._endpoint is not None
        name = self._endpoint.session_name()
        return name is None or self._contexts.find(clean_server_name(name)) is site

    def choose_protocol(self, offered: bytes) -> Any:
        """Our best protocol among the offered ones."""
        chosen = self._contexts.choose_protocol(offered)
        if chosen is None:
            self._cause = (TlsReason.NO_SHARED_ALPN, "the client offers no protocol of ours")
            return None
        self._alpn = ffi.string(chosen).decode()
        return chosen

    # The machinery.

    def _advance(self) -> None:
        """Go on with the handshake after new data. Once it was signed, no greenlet is needed any more."""
        if self._is_signed:
            self._finish_step(self.step())
        else:
            self._handle(*start_step(self))

    def _resume(self, waiting: Runner, signature: bytes | None) -> None:
        self._is_signed = True
        self._waiting = None
        forget_errors()
        outcome = resume_step(waiting, signature)
        if outcome == libssl.FAILED:
            self._fail(blame_signature=True)
        else:
            self._handle(waiting, outcome)

    def _handle(self, runner: Runner, outcome: int | SignatureWanted) -> None:
        """Why did the greenlet come back?"""
        if not isinstance(outcome, SignatureWanted):
            self._finish_step(outcome)
            return
        self._waiting, self._early_bytes = runner, 0
        site = self._site.name if self._site else ""
        wanted = NeedSignature(outcome.ski, outcome.scheme, outcome.message, site, self._server_name)
        self._events.append(wanted)

    def _finish_step(self, outcome: int) -> None:
        self._take_output()
        if outcome == libssl.DONE:
            self._open()
        elif outcome != libssl.WANT_READ:
            self._fail()

    def _refuse(self, reason: TlsReason, detail: str) -> None:
        """Resume the suspended handshake with a failure; OpenSSL makes the alert."""
        self._cause = (reason, detail)
        assert self._waiting is not None
        self._resume(self._waiting, None)

    def _open(self) -> None:
        endpoint, site = self._endpoint, self._site
        assert endpoint is not None
        assert site is not None
        self._state = _State.OPEN
        version, cipher, group, is_resumed = endpoint.outcome()
        self._version = version
        done = HandshakeDone(site.name, self._server_name, version, cipher, group, self._alpn, is_resumed)
        self._events.append(done)
        self._read()

    def _read(self) -> None:
        """Read all there is. Post-handshake messages (key updates) are handled by OpenSSL inside."""
        endpoint = self._endpoint
        assert endpoint is not None
        forget_errors()
        status = libssl.MORE
        while status == libssl.MORE:
            data, status = endpoint.read()
            if data:
                self._events.append(Plaintext(data))
        answered = self._take_output()
        if status == libssl.FAILED:
            self._fail()
        elif status == libssl.CLOSED:
            self._note_peer_closed()
        elif answered and self._version == "TLSv1.2":
            # Reading TLS 1.2 makes OpenSSL answer in one case only: it refused a renegotiation by a warning.
            self._end(TlsReason.RENEGOTIATION, "the client asked for a renegotiation")

    def _note_peer_closed(self) -> None:
        if not self._is_peer_closed:
            self._is_peer_closed = True
            self._events.append(PeerClosed())

    def _take_output(self) -> bool:
        assert self._endpoint is not None
        output = self._endpoint.take_output()
        if output:
            self._output.append(output)
        return bool(output)

    def _fail(self, *, blame_signature: bool = False) -> None:
        """OpenSSL gave up; say why. What the provider said first, right after a signature, is about the signature."""
        errors = take_errors()
        raised = provider.take_error()
        self._take_output()
        if self._cause is None and raised is not None:
            self._cause = (TlsReason.SIGNING_FAILED, f"the signature was refused: {raised!r}")
        if self._cause is not None:
            self._end(*self._cause)
        elif blame_signature and errors and not errors[0].is_of_libssl:
            self._end(TlsReason.SIGNING_FAILED, describe(errors))
        elif self._state is _State.HANDSHAKE and self._first_byte != _HANDSHAKE_RECORD:
            self._end(TlsReason.NOT_TLS, f"the first bytes are no ClientHello: {describe(errors)}")
        else:
            self._end(reason_of(errors), describe(errors))

    def _end(self, reason: TlsReason, detail: str) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._unwind(waiting)
        self._events.append(TlsFailed(reason, detail, self._site.name if self._site else ""))
        self._free()

    @staticmethod
    def _unwind(waiting: Runner) -> None:
        """Resume a suspended handshake only for OpenSSL to fail and free; nobody wants to know why."""
        forget_errors()
        resume_step(waiting, None)
        forget_errors()
        provider.take_error()

    def _free(self) -> None:
        self._state = _State.ENDED
        self._endpoint = None
