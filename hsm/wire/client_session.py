"""The proxy's side of one link to a node, without I/O.

After `receive_data`, `expire` or a request, send what `data_to_send` returns and handle what `events` returns. Call
`expire(now)` at `next_deadline()`. When a method raises WireError, or the transport is gone, call `connection_lost`
and use another session for the next connection.

Works with any Keyless SSL v1 node. What only Sealgate nodes understand is either an item that others skip (deadline,
trace, message) or sent after the node has shown that it speaks the extensions (cancel); `list_keys` asks a plain node
nothing worse than an opcode it refuses, and shows a Sealgate node that this client speaks them.
"""

from __future__ import annotations

import math

from hsm.wire import codec, fields
from hsm.wire.answers import read_answer
from hsm.wire.errors import ErrorCode, LinkClosed, MalformedMessage, WireError
from hsm.wire.inflight import RequestKind, RequestsInFlight
from hsm.wire.inventory import InventoryParts, has_more
from hsm.wire.layout import (
    FIRST_EXTENSION,
    LAST_EXTENSION,
    MAX_MESSAGE_BYTES,
    NOTICE_ID,
    OP_CANCEL,
    OP_DRAINING,
    OP_KEYS_CHANGED,
    OP_LIST_KEYS,
    OP_PING,
    OP_RESPONSE,
    PAYLOAD_BYTES,
    SKI_BYTES,
    TAG_CLIENT_IP,
    TAG_DEADLINE,
    TAG_MESSAGE,
    TAG_OPCODE,
    TAG_REVISION,
    TAG_SERVER_NAME,
    TAG_TRACE,
)
from hsm.wire.messages import (
    ClientEvent,
    DrainingAnnounced,
    Expired,
    Failed,
    KeysChanged,
    KeysListed,
    Lost,
)
from hsm.wire.schemes import Scheme


class ClientSession:
    """One link to one node.

    Every request ends with exactly one event (Signed, Ponged, KeysListed, Failed, Expired or Lost), or with none if it
    was cancelled. Requests raise LinkFull when too many are unanswered, LinkClosed after the end of the link, and
    ValueError for arguments that can't be sent.
    """

    def __init__(self, max_in_flight: int = 1024) -> None:
        self._requests = RequestsInFlight(max_in_flight)
        self._reader = codec.FrameReader()
        self._events: list[ClientEvent] = []
        self._out: list[bytes] = []
        self._inventories: dict[int, InventoryParts] = {}
        self._fault: WireError | None = None
        self._is_lost = False
        self._peer_speaks_extensions = False

    # Questions.

    @property
    def in_flight(self) -> int:
        """Requests somebody waits for, of all kinds."""
        return len(self._requests)

    @property
    def is_full(self) -> bool:
        """Whether `sign` would raise LinkFull or LinkClosed."""
        return self._is_closed or self._requests.is_full

    @property
    def is_stalled(self) -> bool:
        """Whether the node owes as many answers to expired or cancelled requests as may be in flight.

        Memory is bounded all the same; closing the link and opening another is the way to use the node again.
        """
        return self._requests.is_stalled

    @property
    def peer_speaks_extensions(self) -> bool:
        """Whether the node has sent anything that plain Keyless SSL v1 does not have."""
        return self._peer_speaks_extensions

    @property
    def _is_closed(self) -> bool:
        return self._is_lost or self._fault is not None

    # Requests.

    def sign(
        self,
        ski: bytes,
        scheme: Scheme,
        payload: bytes,
        *,
        now: float,
        deadline: float,
        server_name: str = "",
        client_ip: str = "",
        trace: str = "",
        message: bytes = b"",
    ) -> int:
        """Ask for a signature over `payload` (see `Scheme.payload_of`) and return the request's id.

        `message` is what `payload` is the digest of: a node that signs nothing unseen hashes it itself. For Ed25519 the
        payload is the message and nothing is sent beside it. ValueError if it is longer than MAX_MESSAGE_BYTES.
        """
        opcode = scheme.opcode
        wanted = PAYLOAD_BYTES[opcode]
        if wanted is not None and len(payload) != wanted:
            raise ValueError(f"{scheme.value} signs {wanted} bytes, not {len(payload)}")
        if len(ski) != SKI_BYTES:
            raise ValueError(f"a SKI is {SKI_BYTES} bytes, not {len(ski)}")
        extra = _context_items(server_name, client_ip, trace) if server_name or client_ip or trace else b""
        if message and wanted is not None:
            if len(message) > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message is at most {MAX_MESSAGE_BYTES} bytes, not {len(message)}")
            extra = codec.encode_item(TAG_MESSAGE, message) + extra
        codec.check_body(codec.SIGN_HEAD_BODY_BYTES + len(payload) + len(extra))
        request_id = self._start(RequestKind.SIGN, deadline)
        remaining_ms = codec.milliseconds(deadline - now)
        self._out.append(codec.encode_sign(request_id, opcode, ski, remaining_ms, payload, extra))
        return request_id

    def ping(self, payload: bytes, *, now: float, deadline: float) -> int:
        """Ask the node to send `payload` back and return the request's id."""
        extra = codec.encode_item(TAG_DEADLINE, codec.encode_u32(codec.milliseconds(deadline - now)))
        codec.check_body(codec.PAYLOAD_HEAD_BODY_BYTES + len(payload) + len(extra))
        request_id = self._start(RequestKind.PING, deadline)
        self._out.append(codec.encode_with_payload(request_id, OP_PING, payload, extra))
        return request_id

    def list_keys(self, *, now: float, deadline: float) -> int:
        """Ask which keys this client may use and return the request's id; plain nodes fail it with BAD_OPCODE."""
        remaining = codec.encode_u32(codec.milliseconds(deadline - now))
        request_id = self._start(RequestKind.LIST_KEYS, deadline)
        self._inventories[request_id] = InventoryParts()
        items = ((TAG_OPCODE, bytes((OP_LIST_KEYS,))), (TAG_DEADLINE, remaining))
        self._out.append(codec.encode_frame(request_id, items))
        return request_id

    def cancel(self, request_id: int) -> None:
        """Take a request back: no event follows for it. Does nothing if its event has been handed out.

        The node is told if it understands; its answer, whatever it is, is dropped and frees the id.
        """
        if self._requests.abandon(request_id):
            self._inventories.pop(request_id, None)
            if self._peer_speaks_extensions and not self._is_closed:
                self._out.append(codec.encode_frame(request_id, ((TAG_OPCODE, bytes((OP_CANCEL,))),)))
        elif self._events:
            self._events = [event for event in self._events if getattr(event, "request_id", 0) != request_id]

    def _start(self, kind: RequestKind, deadline: float) -> int:
        if self._is_closed:
            raise LinkClosed("the link to the node is closed")
        if not deadline < math.inf:
            raise ValueError("a request needs a deadline")
        return self._requests.start(kind, deadline)

    # Time and the transport.

    def expire(self, now: float) -> None:
        """End the requests whose deadline is not after `now` with Expired."""
        for request_id in self._requests.expire(now):
            self._inventories.pop(request_id, None)
            self._events.append(Expired(request_id))

    def next_deadline(self) -> float | None:
        """When `expire` has something to do, or None."""
        return self._requests.next_deadline()

    def connection_lost(self) -> None:
        """The transport is gone: every request in flight ends with Lost. Nothing is sent or received any more."""
        self._is_lost = True
        self._events += [Lost(request_id) for request_id in self._requests.lose_all()]
        self._inventories.clear()
        self._out.clear()

    def data_to_send(self) -> bytes:
        """The bytes to send now; each is returned once."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def events(self) -> list[ClientEvent]:
        """What has happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the node, cut anywhere.

        Raises WireError when the node breaks the protocol, and again at each later call: close the link. The events
        before the fault are kept.
        """
        if self._fault is not None:
            raise self._fault
        if self._is_lost:
            return
        try:
            for request_id, body in self._reader.frames(data):
                self._receive(request_id, body)
        except WireError as fault:
            self._fault = fault
            raise

    # Answers.

    def _receive(self, request_id: int, body: bytes) -> None:
        try:
            items = codec.read_items(body)
        except MalformedMessage as fault:
            self._receive_malformed(request_id, fault)
            return
        if not self._peer_speaks_extensions and codec.shows_extensions(items):
            self._peer_speaks_extensions = True
        opcode = items[TAG_OPCODE][0]
        if request_id == NOTICE_ID:
            self._receive_notice(opcode, items)
            return
        kind, is_awaited = self._requests.kind_of(request_id)
        if kind is RequestKind.LIST_KEYS and opcode == OP_RESPONSE:
            self._receive_keys(request_id, items, is_awaited)
            return
        self._requests.finish(request_id)
        if is_awaited:
            if kind is RequestKind.LIST_KEYS:
                del self._inventories[request_id]
            self._events.append(read_answer(request_id, kind, opcode, items))

    def _receive_keys(self, request_id: int, items: dict[int, bytes], is_awaited: bool) -> None:
        """One of several answers; the id is in use until the last, whoever still waits."""
        is_last = not has_more(items)
        if is_awaited:
            parts = self._inventories[request_id]
            try:
                parts.add(items)
            except MalformedMessage as fault:
                self._fail_malformed(request_id, fault)
            else:
                if is_last:
                    del self._inventories[request_id]
                    self._events.append(KeysListed(request_id, tuple(parts.keys), parts.revision or 0))
        if is_last:
            self._requests.finish(request_id)

    def _receive_notice(self, opcode: int, items: dict[int, bytes]) -> None:
        if opcode == OP_DRAINING:
            self._events.append(DrainingAnnounced())
        elif opcode == OP_KEYS_CHANGED:
            if TAG_REVISION not in items:
                raise WireError("a notice of changed keys without a revision")
            self._events.append(KeysChanged(int.from_bytes(items[TAG_REVISION], "big")))
        elif not FIRST_EXTENSION <= opcode <= LAST_EXTENSION:
            raise WireError(f"an unasked frame with opcode 0x{opcode:02x}")

    def _receive_malformed(self, request_id: int, fault: MalformedMessage) -> None:
        if request_id == NOTICE_ID:
            raise WireError(f"an unasked frame that is malformed: {fault.reason}")
        _kind, is_awaited = self._requests.kind_of(request_id)
        if is_awaited:
            self._fail_malformed(request_id, fault)
        self._requests.finish(request_id)

    def _fail_malformed(self, request_id: int, fault: MalformedMessage) -> None:
        # Not MALFORMED: the request was sound (see `read_answer`).
        self._requests.abandon(request_id)
        self._inventories.pop(request_id, None)
        self._events.append(Failed(request_id, ErrorCode.INTERNAL, f"the node's answer is malformed: {fault.reason}"))


def _context_items(server_name: str, client_ip: str, trace: str) -> bytes:
    items: list[bytes] = []
    if server_name:
        items.append(codec.encode_item(TAG_SERVER_NAME, fields.encode_name(server_name)))
    if client_ip:
        items.append(codec.encode_item(TAG_CLIENT_IP, fields.encode_ip(client_ip)))
    if trace:
        items.append(codec.encode_item(TAG_TRACE, fields.encode_trace(trace)))
    return b"".join(items)
