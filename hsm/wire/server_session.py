"""The node's side of one link from a client, without I/O.

After `receive_data` or a reply, send what `data_to_send` returns and handle what `events` returns. The session itself
answers pings, unknown opcodes, malformed requests and requests over its bound; everything else becomes an event that
the node answers once, in any order. A shell that stops reading while its transport can't write bounds what waits here.

Clients that never sent an extension get plain Keyless SSL v1: its error codes only, and no frame that they did not
ask for.
"""

from __future__ import annotations

from hsm.wire import codec, fields
from hsm.wire.answers import encode_error, encode_plain_error
from hsm.wire.errors import ErrorCode, MalformedMessage, VersionMismatch, WireError
from hsm.wire.inventory import encode_pages
from hsm.wire.layout import (
    ANSWER_OPCODES,
    MAX_MESSAGE_BYTES,
    NOTICE_ID,
    NOTICE_OPCODES,
    OP_CANCEL,
    OP_DRAINING,
    OP_KEYS_CHANGED,
    OP_LIST_KEYS,
    OP_PING,
    OP_PONG,
    OP_RESPONSE,
    PAYLOAD_BYTES,
    TAG_CERTIFICATE_DIGEST,
    TAG_CERTIFICATE_ID,
    TAG_CLIENT_IP,
    TAG_DEADLINE,
    TAG_KEYS,
    TAG_MESSAGE,
    TAG_MORE,
    TAG_OPCODE,
    TAG_PAYLOAD,
    TAG_REVISION,
    TAG_SERVER_NAME,
    TAG_SKI,
    TAG_TRACE,
)
from hsm.wire.messages import Cancelled, KeyEntry, KeysRequested, ServerEvent, SignRequested
from hsm.wire.schemes import SCHEME_BY_OPCODE, Scheme

_WIRE_ID_BITS = 32
_WIRE_ID_MASK = (1 << _WIRE_ID_BITS) - 1


class ServerSession:
    """One link from one client.

    Ids in events are numbers of the session: the id on the wire in the low 32 bits, a count of requests above. So a
    reply to a cancelled request is dropped even if the client uses its id again.
    """

    def __init__(self, max_in_flight: int = 4096) -> None:
        self._max_in_flight = max_in_flight
        self._reader = codec.FrameReader()
        self._in_flight: dict[int, int] = {}  # id on the wire -> id of the session
        self._count = 0
        self._events: list[ServerEvent] = []
        self._out: list[bytes] = []
        self._fault: WireError | None = None
        self._is_draining = False
        self._peer_speaks_extensions = False

    # Questions.

    @property
    def in_flight(self) -> int:
        """Requests that wait for a reply of the node."""
        return len(self._in_flight)

    @property
    def peer_speaks_extensions(self) -> bool:
        """Whether the client has sent anything that plain Keyless SSL v1 does not have."""
        return self._peer_speaks_extensions

    # Replies. One to a request that was cancelled, or has been answered, is dropped.

    def reply_signature(self, request_id: int, signature: bytes) -> None:
        """Answer a SignRequested."""
        wire_id = request_id & _WIRE_ID_MASK
        if self._in_flight.get(wire_id) == request_id:
            self._out.append(codec.encode_with_payload(wire_id, OP_RESPONSE, signature))
            del self._in_flight[wire_id]

    def reply_error(
        self,
        request_id: int,
        code: ErrorCode,
        detail: str = "",
        retry_after_s: float | None = None,
        queue_depth: int | None = None,
    ) -> None:
        """Refuse a request. `detail` is for people and must hold no secrets; it is cut at 512 bytes."""
        wire_id = request_id & _WIRE_ID_MASK
        if self._in_flight.get(wire_id) == request_id:
            del self._in_flight[wire_id]
            self._send_error(wire_id, code, detail, retry_after_s, queue_depth)

    def reply_keys(self, request: int | KeysRequested, keys: tuple[KeyEntry, ...], revision: int) -> None:
        """Answer a KeysRequested with the keys this client may use, in as many frames as they need."""
        request_id = request if isinstance(request, int) else request.request_id
        wire_id = request_id & _WIRE_ID_MASK
        if self._in_flight.get(wire_id) != request_id:
            return
        *pages, last_page = encode_pages(keys)
        head = ((TAG_OPCODE, bytes((OP_RESPONSE,))), (TAG_REVISION, codec.encode_u64(revision)))
        self._out += [codec.encode_frame(wire_id, (*head, (TAG_MORE, b"\1"), (TAG_KEYS, page))) for page in pages]
        self._out.append(codec.encode_frame(wire_id, (*head, (TAG_KEYS, last_page))))
        del self._in_flight[wire_id]

    def announce_keys(self, revision: int) -> None:
        """Tell the client that the keys have changed, if it would understand."""
        if self._peer_speaks_extensions:
            items = ((TAG_OPCODE, bytes((OP_KEYS_CHANGED,))), (TAG_REVISION, codec.encode_u64(revision)))
            self._out.append(codec.encode_frame(NOTICE_ID, items))

    def announce_draining(self) -> None:
        """Tell the client, once, that the node is shutting down: now, or as soon as it shows that it understands."""
        if self._is_draining:
            return
        self._is_draining = True
        if self._peer_speaks_extensions:
            self._send_draining()

    # The transport.

    def data_to_send(self) -> bytes:
        """The bytes to send now; each is returned once. After a WireError: a last answer to send before closing."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def events(self) -> list[ServerEvent]:
        """What the client has asked since the last call, in order."""
        events, self._events = self._events, []
        return events

    def connection_lost(self) -> None:
        """The client is gone: every request that waits for a reply is cancelled."""
        self._events += [Cancelled(request_id) for request_id in self._in_flight.values()]
        self._in_flight.clear()
        self._out.clear()

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the client, cut anywhere.

        Raises WireError when the client breaks the framing, and again at each later call: send what there is to send
        and close the link. The events before the fault are kept.
        """
        if self._fault is not None:
            raise self._fault
        try:
            for wire_id, body in self._reader.frames(data):
                self._receive(wire_id, body)
        except VersionMismatch as fault:
            self._send_error(fault.request_id, ErrorCode.VERSION_MISMATCH, fault.reason)
            self._fault = fault
            raise
        except WireError as fault:
            self._fault = fault
            raise

    # Requests.

    def _receive(self, wire_id: int, body: bytes) -> None:
        if wire_id in self._in_flight:
            self._receive_again(wire_id, body)
            return
        try:
            items = codec.read_items(body)
        except MalformedMessage as fault:
            self._send_error(wire_id, ErrorCode.MALFORMED, fault.reason)
            return
        if not self._peer_speaks_extensions and codec.shows_extensions(items):
            self._greet()
        opcode = items[TAG_OPCODE][0]
        scheme = SCHEME_BY_OPCODE.get(opcode)
        if scheme is not None:
            self._receive_sign(wire_id, scheme, items)
        elif opcode == OP_PING:
            self._out.append(codec.encode_with_payload(wire_id, OP_PONG, items.get(TAG_PAYLOAD, b"")))
        elif opcode == OP_LIST_KEYS:
            if (request_id := self._admit(wire_id, items)) is not None:
                self._events.append(KeysRequested(request_id, _deadline_s(items)))
        elif opcode in ANSWER_OPCODES or opcode in NOTICE_OPCODES:
            self._send_error(wire_id, ErrorCode.UNEXPECTED_OPCODE, f"opcode 0x{opcode:02x} is not a request")
        elif opcode != OP_CANCEL:
            # Also RSA decryption, sealing, RPC and signatures over MD5, SHA-1 and SHA-224.
            self._send_error(wire_id, ErrorCode.BAD_OPCODE, f"opcode 0x{opcode:02x} is not served")

    def _receive_again(self, wire_id: int, body: bytes) -> None:
        """A frame with the id of a request in flight: the request is cancelled, or the client can't count."""
        try:
            is_cancel = codec.read_items(body)[TAG_OPCODE][0] == OP_CANCEL
        except MalformedMessage:
            is_cancel = False
        if not is_cancel:
            raise WireError(f"request id {wire_id} is used for a second request before the first was answered")
        if not self._peer_speaks_extensions:
            self._greet()
        self._events.append(Cancelled(self._in_flight.pop(wire_id)))
        self._send_error(wire_id, ErrorCode.CANCELLED)

    def _receive_sign(self, wire_id: int, scheme: Scheme, items: dict[int, bytes]) -> None:
        ski = items.get(TAG_SKI)
        if ski is None:
            self._refuse_without_ski(wire_id, items)
            return
        payload = items.get(TAG_PAYLOAD)
        wanted = PAYLOAD_BYTES[scheme.opcode]
        if payload is None or (wanted is not None and len(payload) != wanted):
            detail = f"{scheme.value} signs {wanted} bytes" if wanted is not None else "the payload is missing"
            self._send_error(wire_id, ErrorCode.MALFORMED, detail)
            return
        message = payload if wanted is None else items.get(TAG_MESSAGE)
        if wanted is not None and message is not None and len(message) > MAX_MESSAGE_BYTES:
            self._send_error(wire_id, ErrorCode.MALFORMED, f"a message is at most {MAX_MESSAGE_BYTES} bytes")
            return
        request_id = self._admit(wire_id, items)
        if request_id is None:
            return
        name = items.get(TAG_SERVER_NAME)
        address = items.get(TAG_CLIENT_IP)
        trace = items.get(TAG_TRACE)
        self._events.append(
            SignRequested(
                request_id,
                ski,
                scheme,
                payload,
                _deadline_s(items),
                fields.decode_name(name) if name else "",
                fields.decode_ip(address) if address else "",
                fields.decode_trace(trace) if trace else "",
                message,
            )
        )

    def _refuse_without_ski(self, wire_id: int, items: dict[int, bytes]) -> None:
        if TAG_CERTIFICATE_ID in items:
            self._send_error(wire_id, ErrorCode.CERTIFICATE_NOT_FOUND, "keys are named by SKI only")
        elif TAG_CERTIFICATE_DIGEST in items:
            self._send_error(wire_id, ErrorCode.KEY_NOT_FOUND, "keys are named by SKI only")
        else:
            self._send_error(wire_id, ErrorCode.MALFORMED, "the SKI is missing")

    def _admit(self, wire_id: int, items: dict[int, bytes]) -> int | None:
        """A number of the session for a request that becomes an event; None if it was refused."""
        if items.get(TAG_DEADLINE) == b"\0\0\0\0":
            self._send_error(wire_id, ErrorCode.DEADLINE, "the request came with no time left")
            return None
        if len(self._in_flight) >= self._max_in_flight:
            detail = f"{self._max_in_flight} requests of this link wait already"
            self._send_error(wire_id, ErrorCode.BUSY, detail, queue_depth=len(self._in_flight))
            return None
        request_id = (self._count << _WIRE_ID_BITS) | wire_id
        self._count += 1
        self._in_flight[wire_id] = request_id
        return request_id

    def _greet(self) -> None:
        """The client has shown that it speaks the extensions; tell it what it would have been told before."""
        self._peer_speaks_extensions = True
        if self._is_draining:
            self._send_draining()

    def _send_draining(self) -> None:
        self._out.append(codec.encode_frame(NOTICE_ID, ((TAG_OPCODE, bytes((OP_DRAINING,))),)))

    def _send_error(
        self,
        wire_id: int,
        code: ErrorCode,
        detail: str = "",
        retry_after_s: float | None = None,
        queue_depth: int | None = None,
    ) -> None:
        if self._peer_speaks_extensions:
            self._out.append(encode_error(wire_id, code, detail, retry_after_s, queue_depth))
        else:
            self._out.append(encode_plain_error(wire_id, code))


def _deadline_s(items: dict[int, bytes]) -> float | None:
    remaining = items.get(TAG_DEADLINE)
    return None if remaining is None else codec.decode_u32(remaining) / 1000.0
