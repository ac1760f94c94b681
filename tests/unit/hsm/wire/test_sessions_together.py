"""Both ends of a link, with a network between them that cuts and delays: every request ends exactly once."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from hsm.wire.client_session import ClientSession
from hsm.wire.errors import ErrorCode, LinkClosed, LinkFull
from hsm.wire.messages import (
    Cancelled,
    DrainingAnnounced,
    Expired,
    Failed,
    KeyEntry,
    KeysChanged,
    KeysListed,
    KeysRequested,
    Lost,
    Ponged,
    Signed,
    SignRequested,
)
from hsm.wire.schemes import KeyType, Scheme
from hsm.wire.server_session import ServerSession

SCHEMES = st.sampled_from(list(Scheme))
SPANS = st.sampled_from([0.0, 0.001, 0.25, 5.0])
MAX_IN_FLIGHT = 4


class Link(RuleBasedStateMachine):
    """A client, a node and the bytes between them."""

    asked = Bundle("asked")
    """Requests that the node was asked and has not answered."""
    sent = Bundle("sent")
    """Requests the client made, ended or not."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientSession(max_in_flight=MAX_IN_FLIGHT)
        self.server = ServerSession(max_in_flight=6)
        self.now = 100.0
        self.to_server = b""
        self.to_client = b""
        self.open: dict[int, bytes] = {}
        """What each request in flight at the client must get as its signature or pong."""
        self.deadlines: dict[int, float] = {}
        self.is_lost = False

    @initialize(extended=st.booleans())
    def greet(self, extended: bool) -> None:
        if extended:
            request_id = self.client.list_keys(now=self.now, deadline=self.now + 5.0)
            self.open[request_id], self.deadlines[request_id] = b"", self.now + 5.0

    # The client.

    @rule(
        target=sent,
        scheme=SCHEMES,
        span=SPANS,
        number=st.integers(0, 255),
        server_name=st.sampled_from(["", "a.b"]),
        size=st.sampled_from([0, 130, 16_384]),
    )
    def sign(self, scheme: Scheme, span: float, number: int, server_name: str, size: int) -> object:
        payload = bytes((number,)) * (scheme.payload_bytes or 3)
        deadline = self.now + span
        could = not self.client.is_full
        try:
            request_id = self.client.sign(
                bytes(20),
                scheme,
                payload,
                now=self.now,
                deadline=deadline,
                server_name=server_name,
                message=payload[:1] * size,
            )
        except (LinkFull, LinkClosed):
            assert not could
            return multiple()
        assert could
        return self.opened(request_id, deadline, b"signed " + payload)

    @rule(target=sent, span=SPANS, payload=st.binary(max_size=4))
    def ping(self, span: float, payload: bytes) -> object:
        try:
            request_id = self.client.ping(payload, now=self.now, deadline=self.now + span)
        except (LinkFull, LinkClosed):
            return multiple()
        return self.opened(request_id, self.now + span, payload)

    @rule(target=sent, span=SPANS)
    def list_keys(self, span: float) -> object:
        try:
            request_id = self.client.list_keys(now=self.now, deadline=self.now + span)
        except (LinkFull, LinkClosed):
            return multiple()
        return self.opened(request_id, self.now + span, b"")

    def opened(self, request_id: int, deadline: float, wanted: bytes) -> int:
        assert request_id not in self.open, "an id was used for a second request in flight"
        assert 1 <= request_id <= 0xFFFF_FFFF
        self.open[request_id], self.deadlines[request_id] = wanted, deadline
        return request_id

    @rule(request_id=consumes(sent))
    def cancel(self, request_id: int) -> None:
        self.client.cancel(request_id)
        self.open.pop(request_id, None)
        self.deadlines.pop(request_id, None)

    @rule(span=SPANS)
    def time_passes(self, span: float) -> None:
        self.now += span
        self.client.expire(self.now)

    @rule()
    def client_handles_events(self) -> None:
        for event in self.client.events():
            if isinstance(event, KeysChanged | DrainingAnnounced):
                assert self.server.peer_speaks_extensions
                continue
            wanted = self.open.pop(event.request_id)  # KeyError: it ended twice
            deadline = self.deadlines.pop(event.request_id)
            if isinstance(event, Signed):
                assert event.signature == wanted
            elif isinstance(event, Ponged):
                assert event.payload == wanted
            elif isinstance(event, Expired):
                assert deadline <= self.now
            elif isinstance(event, KeysListed):
                assert len(event.keys) == event.revision
            elif isinstance(event, Failed):
                assert event.code in (ErrorCode.BUSY, ErrorCode.DEADLINE, ErrorCode.CRYPTOGRAPHY)
            else:
                assert isinstance(event, Lost)
                assert self.is_lost

    # The network.

    @rule(share=st.floats(0.0, 1.0))
    def bytes_reach_the_node(self, share: float) -> None:
        self.to_server += self.client.data_to_send()
        cut = round(len(self.to_server) * share)
        self.server.receive_data(self.to_server[:cut])
        self.to_server = self.to_server[cut:]

    @rule(share=st.floats(0.0, 1.0))
    def bytes_reach_the_client(self, share: float) -> None:
        self.to_client += self.server.data_to_send()
        cut = round(len(self.to_client) * share)
        self.client.receive_data(self.to_client[:cut])
        self.to_client = self.to_client[cut:]

    @rule()
    def connection_is_lost(self) -> None:
        self.is_lost = True
        self.client.connection_lost()
        self.server.connection_lost()
        self.to_server = self.to_client = b""

    # The node.

    @rule(target=asked)
    def node_takes_requests(self) -> object:
        events = self.server.events()
        assert all(isinstance(event, SignRequested | KeysRequested | Cancelled) for event in events)
        return multiple(*(event for event in events if not isinstance(event, Cancelled)))

    @rule(event=consumes(asked))
    def node_answers(self, event: SignRequested | KeysRequested) -> None:
        if isinstance(event, SignRequested):
            if event.scheme is Scheme.ED25519:
                assert event.message == event.payload
            else:
                assert event.message is None or set(event.message) == set(event.payload)
            self.server.reply_signature(event.request_id, b"signed " + event.payload)
        else:
            keys = tuple(KeyEntry(bytes(20), KeyType.P256, "x" * 255) for _ in range(300))
            self.server.reply_keys(event, keys, len(keys))

    @rule(event=consumes(asked))
    def node_refuses(self, event: SignRequested | KeysRequested) -> None:
        self.server.reply_error(event.request_id, ErrorCode.CRYPTOGRAPHY, "no", 0.1, 3)

    @rule(event=asked)
    def node_answers_and_forgets_that_it_did(self, event: SignRequested | KeysRequested) -> None:
        self.server.reply_error(event.request_id, ErrorCode.CRYPTOGRAPHY)

    @rule()
    def node_announces(self) -> None:
        self.server.announce_keys(5)
        self.server.announce_draining()

    @invariant()
    def bounds_hold(self) -> None:
        assert self.client.in_flight <= MAX_IN_FLIGHT + 16
        assert self.server.in_flight <= 6

    def teardown(self) -> None:
        """Whatever happened, after the deadlines every request has ended and no event is left over."""
        self.client_handles_events()
        self.now += 1_000.0
        self.client.expire(self.now)
        self.client_handles_events()
        assert self.open == {}
        assert self.client.in_flight == 0
        assert self.client.next_deadline() is None


TestLink = Link.TestCase
TestLink.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_ids_that_wrap_meet_no_request_in_flight() -> None:
    client, server = ClientSession(), ServerSession()
    client._requests._last_id = 0xFFFF_FFFE
    ids = [client.sign(bytes(20), Scheme.ED25519, bytes((n,)), now=0.0, deadline=1.0) for n in range(3)]
    assert ids == [0xFFFF_FFFF, 1, 2]
    server.receive_data(client.data_to_send())
    for event in reversed(server.events()):
        assert isinstance(event, SignRequested)
        server.reply_signature(event.request_id, event.payload)
    client.receive_data(server.data_to_send())
    assert client.events() == [Signed(2, b"\2"), Signed(1, b"\1"), Signed(0xFFFF_FFFF, b"\0")]
