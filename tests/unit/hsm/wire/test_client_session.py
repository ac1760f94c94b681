"""The proxy's side of a link, against frames made by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.wire.client_session import ClientSession
from hsm.wire.codec import FrameReader, encode_frame, read_items
from hsm.wire.errors import ErrorCode, LinkClosed, LinkFull, WireError
from hsm.wire.layout import MAX_MESSAGE_BYTES, TAG_MESSAGE
from hsm.wire.messages import (
    DrainingAnnounced,
    Expired,
    Failed,
    KeyEntry,
    KeysChanged,
    KeysListed,
    Lost,
    Ponged,
    Signed,
)
from hsm.wire.schemes import KeyType, Scheme
from tests.support.vectors import load_vectors

PLAIN = load_vectors("keyless_v1.hex")
EXTENDED = load_vectors("extensions.hex")
SKI = bytes(range(20))
DIGEST = bytes(range(0xA0, 0xC0))
SIGNATURE = bytes.fromhex("3006020101020101")
MESSAGE = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(range(0xC0, 0xE0))
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def sign(session: ClientSession, deadline: float = 10.25) -> int:
    return session.sign(SKI, Scheme.ECDSA_SHA256, DIGEST, now=10.0, deadline=deadline)


def extended_session() -> ClientSession:
    """A session whose node has shown that it speaks the extensions; request ids start at 1."""
    session = ClientSession()
    session.receive_data(EXTENDED["keys-changed"])
    session.events()
    return session


def on_id(frame: bytes, request_id: int) -> bytes:
    return frame[:4] + request_id.to_bytes(4, "big") + frame[8:]


# Requests on the wire.


def test_a_signing_request_is_the_hand_made_one() -> None:
    session = ClientSession()
    assert sign(session) == 1
    assert session.data_to_send() == EXTENDED["sign-with-deadline"]
    assert session.data_to_send() == b""
    assert session.in_flight == 1


def test_names_and_trace_travel_behind_the_payload() -> None:
    session = ClientSession()
    session.sign(
        SKI,
        Scheme.ECDSA_SHA256,
        DIGEST,
        now=10.0,
        deadline=10.25,
        server_name="example.org",
        client_ip="192.0.2.7",
        trace=TRACE,
    )
    assert session.data_to_send() == EXTENDED["sign-with-everything"]


def test_the_message_travels_beside_its_digest() -> None:
    session = ClientSession()
    scheme = Scheme.ECDSA_SHA256
    session.sign(SKI, scheme, scheme.payload_of(MESSAGE), now=10.0, deadline=10.25, message=MESSAGE)
    assert session.data_to_send() == EXTENDED["sign-with-message"]


def test_the_message_travels_with_names_too() -> None:
    session = ClientSession()
    scheme = Scheme.ECDSA_SHA256
    payload = scheme.payload_of(MESSAGE)
    session.sign(SKI, scheme, payload, now=10.0, deadline=10.25, message=MESSAGE, server_name="a.b", client_ip="::1")
    [(_request_id, body)] = FrameReader().frames(session.data_to_send())
    items = read_items(body)
    assert (items[0x02], items[0x03], items[0x12]) == (b"a.b", bytes(15) + b"\1", payload)
    assert items[TAG_MESSAGE] == MESSAGE


def test_ed25519_signs_messages_and_sends_them_once() -> None:
    session, other = ClientSession(), ClientSession()
    session.sign(SKI, Scheme.ED25519, MESSAGE, now=10.0, deadline=10.25, message=MESSAGE)
    other.sign(SKI, Scheme.ED25519, MESSAGE, now=10.0, deadline=10.25)
    assert session.data_to_send() == other.data_to_send()


def test_list_keys_is_the_hand_made_one() -> None:
    session = ClientSession()
    assert session.list_keys(now=5.0, deadline=6.0) == 1
    assert session.data_to_send() == EXTENDED["list-keys"]


def test_requests_that_cannot_be_sent_are_refused_and_take_no_slot() -> None:
    session = ClientSession()
    with pytest.raises(ValueError, match="signs 32 bytes, not 31"):
        session.sign(SKI, Scheme.ECDSA_SHA256, DIGEST[1:], now=0.0, deadline=1.0)
    with pytest.raises(ValueError, match="a SKI is 20 bytes, not 19"):
        session.sign(SKI[1:], Scheme.ECDSA_SHA256, DIGEST, now=0.0, deadline=1.0)
    with pytest.raises(ValueError, match="at most 65535 bytes"):
        session.sign(SKI, Scheme.ED25519, bytes(65_530), now=0.0, deadline=1.0)
    too_long = bytes(MAX_MESSAGE_BYTES + 1)
    with pytest.raises(ValueError, match="a message is at most 16384 bytes, not 16385"):
        session.sign(SKI, Scheme.ECDSA_SHA256, DIGEST, now=0.0, deadline=1.0, message=too_long)
    with pytest.raises(ValueError, match="traceparent"):
        session.sign(SKI, Scheme.ECDSA_SHA256, DIGEST, now=0.0, deadline=1.0, trace="mine")
    with pytest.raises(ValueError, match="at most 65535 bytes"):
        session.ping(bytes(65_530), now=0.0, deadline=1.0)
    with pytest.raises(ValueError, match="needs a deadline"):
        session.ping(b"", now=0.0, deadline=float("inf"))
    assert session.in_flight == 0
    assert session.data_to_send() == b""


# Answers.


@pytest.mark.parametrize("name", ["response", "response-padded"])
def test_a_signature_comes_back(name: str) -> None:
    session = ClientSession()
    request_id = sign(session)
    session.receive_data(PLAIN[name])
    assert session.events() == [Signed(request_id, SIGNATURE)]
    assert session.events() == []
    assert session.in_flight == 0
    assert not session.peer_speaks_extensions


def test_a_pong_comes_back() -> None:
    session = ClientSession()
    request_id = session.ping(b"hello", now=0.0, deadline=1.0)
    session.receive_data(PLAIN["pong"])
    assert session.events() == [Ponged(request_id, b"hello")]


def test_answers_come_in_any_order() -> None:
    session = ClientSession()
    first, second = sign(session), session.ping(b"hello", now=0.0, deadline=20.0)
    session.receive_data(on_id(PLAIN["pong"], second) + on_id(PLAIN["response"], first))
    assert session.events() == [Ponged(second, b"hello"), Signed(first, SIGNATURE)]


def test_a_plain_error_has_a_code_and_nothing_else() -> None:
    session = ClientSession()
    request_id = sign(session)
    session.receive_data(PLAIN["error-key-not-found"])
    assert session.events() == [Failed(request_id, ErrorCode.KEY_NOT_FOUND, "", None, None)]


def test_busy_tells_when_to_come_again_and_how_many_wait() -> None:
    session = ClientSession()
    request_id = sign(session)
    session.receive_data(EXTENDED["error-busy"])
    assert session.events() == [Failed(request_id, ErrorCode.BUSY, "queue full", 0.02, 512)]
    assert session.peer_speaks_extensions


def test_a_plain_node_refuses_list_keys_and_life_goes_on() -> None:
    session = ClientSession()
    listing = session.list_keys(now=0.0, deadline=1.0)
    signing = sign(session)
    session.receive_data(PLAIN["error-bad-opcode"] + on_id(PLAIN["response"], signing))
    assert session.events() == [Failed(listing, ErrorCode.BAD_OPCODE), Signed(signing, SIGNATURE)]
    assert not session.peer_speaks_extensions


def test_keys_come_in_parts_and_unknown_types_are_left_out() -> None:
    session = ClientSession()
    request_id = session.list_keys(now=0.0, deadline=1.0)
    session.receive_data(EXTENDED["keys-first-of-two"])
    assert session.events() == []
    session.receive_data(EXTENDED["keys-second-of-two"])
    keys = (KeyEntry(SKI, KeyType.P256, "web"), KeyEntry(bytes(range(0x20, 0x34)), KeyType.ED25519, ""))
    assert session.events() == [KeysListed(request_id, keys, 7)]
    assert session.in_flight == 0
    with pytest.raises(WireError, match="not in flight"):
        session.receive_data(EXTENDED["keys-second-of-two"])


def test_parts_that_come_after_a_cancel_are_dropped_until_the_last() -> None:
    session = extended_session()
    request_id = session.list_keys(now=0.0, deadline=1.0)
    session.receive_data(EXTENDED["keys-first-of-two"])
    session.cancel(request_id)
    session.receive_data(EXTENDED["keys-first-of-two"] + EXTENDED["keys-second-of-two"])
    assert session.events() == []
    with pytest.raises(WireError, match="not in flight"):
        session.receive_data(EXTENDED["keys-second-of-two"])


def test_a_list_that_changes_its_revision_fails_once() -> None:
    session = ClientSession()
    request_id = session.list_keys(now=0.0, deadline=1.0)
    other = EXTENDED["keys-first-of-two"].replace(bytes(7) + b"\x07", bytes(7) + b"\x08")
    session.receive_data(EXTENDED["keys-first-of-two"] + other + EXTENDED["keys-second-of-two"])
    [failed] = session.events()
    assert isinstance(failed, Failed)
    assert (failed.request_id, failed.code) == (request_id, ErrorCode.INTERNAL)
    assert "changes its revision" in failed.detail
    assert session.in_flight == 0


def test_lists_that_do_not_end_well_leave_no_parts_behind() -> None:
    session = extended_session()
    ids = [session.list_keys(now=0.0, deadline=1.0) for _ in range(5)]
    for request_id in ids:
        session.receive_data(on_id(EXTENDED["keys-first-of-two"], request_id))
    session.cancel(ids[0])
    session.receive_data(on_id(PLAIN["error-internal"], ids[1]))
    session.receive_data(on_id(PLAIN["empty-body"], ids[2]))
    session.expire(1.0)
    assert session._inventories == {}
    ended = [getattr(event, "request_id", 0) for event in session.events()]
    assert sorted(ended) == ids[1:]


def test_notices() -> None:
    session = ClientSession()
    session.receive_data(EXTENDED["keys-changed"] + EXTENDED["unknown-notice"] + EXTENDED["draining"])
    assert session.events() == [KeysChanged(8), DrainingAnnounced()]


@pytest.mark.parametrize(
    ("items", "detail"),
    [
        ([(0x11, b"\xf0")], "opcode 0xf0"),  # no signature
        ([(0x11, b"\xf0"), (0x12, b"")], "opcode 0xf0"),  # an empty one
        ([(0x11, b"\xf2"), (0x12, b"hello")], "opcode 0xf2"),  # a pong
        ([(0x11, b"\xff"), (0x12, b"\x01\x02")], "opcode 0xff"),  # an error of two bytes
        ([(0x11, b"\xff")], "opcode 0xff"),  # an error of none
        ([(0x11, b"\x15")], "opcode 0x15"),  # a request
        ([(0x11, b"\xff"), (0x12, b"\x0c")], "error code 12"),
        ([(0x12, SIGNATURE)], "the opcode is missing"),
        ([(0x11, b"\xf0"), (0x12, b"1"), (0x12, b"2")], "item 0x12 occurs twice"),
        ([(0x11, b"\xff"), (0x12, b"\x80"), (0x81, b"\x01")], "item 0x81 is 1 bytes long"),
    ],
)
def test_an_answer_that_makes_no_sense_fails_its_request_only(items: list[tuple[int, bytes]], detail: str) -> None:
    session = ClientSession()
    request_id, other = sign(session), sign(session)
    session.receive_data(encode_frame(request_id, items) + on_id(PLAIN["response"], other))
    failed, signed = session.events()
    assert isinstance(failed, Failed)
    assert (failed.request_id, failed.code) == (request_id, ErrorCode.INTERNAL)
    assert failed.code.other_node_may_sign
    assert detail in failed.detail
    assert signed == Signed(other, SIGNATURE)


# Ends.


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (PLAIN["response"], "request 1, which is not in flight"),
        (PLAIN["empty-body"], "request 1, which is not in flight"),
        (PLAIN["major-2"], "major version 2"),
        (on_id(PLAIN["response"], 0), "unasked frame with opcode 0xf0"),
        (on_id(PLAIN["empty-body"], 0), "unasked frame that is malformed"),
        (encode_frame(0, [(0x11, b"\x81")]), "without a revision"),
    ],
)
def test_a_node_that_breaks_the_protocol_loses_the_link(frame: bytes, reason: str) -> None:
    session = ClientSession()
    with pytest.raises(WireError, match=reason) as first:
        session.receive_data(EXTENDED["draining"] + frame)
    assert session.events() == [DrainingAnnounced()]
    with pytest.raises(WireError) as second:
        session.receive_data(EXTENDED["draining"])
    assert second.value is first.value
    assert session.is_full
    with pytest.raises(LinkClosed):
        sign(session)


def test_the_connection_is_lost_under_requests() -> None:
    session = ClientSession()
    ids = [sign(session), session.ping(b"", now=0.0, deadline=1.0), session.list_keys(now=0.0, deadline=1.0)]
    session.cancel(ids[1])
    session.connection_lost()
    assert session.events() == [Lost(ids[0]), Lost(ids[2])]
    assert session.data_to_send() == b""
    assert session.next_deadline() is None
    session.connection_lost()
    session.receive_data(PLAIN["response"])
    session.cancel(ids[0])
    assert session.events() == []
    with pytest.raises(LinkClosed):
        session.ping(b"", now=0.0, deadline=1.0)


def test_an_expired_request_ends_and_its_late_answer_is_dropped() -> None:
    session = ClientSession()
    request_id = sign(session, deadline=10.25)
    assert session.next_deadline() == 10.25
    session.expire(10.2)
    assert session.events() == []
    session.expire(10.25)
    assert session.events() == [Expired(request_id)]
    assert session.next_deadline() is None
    session.receive_data(PLAIN["response"])
    assert session.events() == []
    with pytest.raises(WireError):
        session.receive_data(PLAIN["response"])


def test_a_cancelled_request_leaves_no_event() -> None:
    session = ClientSession()
    request_id = sign(session)
    session.data_to_send()
    session.cancel(request_id)
    session.cancel(request_id)
    assert session.in_flight == 0
    assert session.data_to_send() == b""  # a plain node would answer the strange opcode
    session.expire(99.0)
    session.receive_data(PLAIN["response"])
    assert session.events() == []


def test_a_node_with_extensions_is_told_of_a_cancel() -> None:
    session = extended_session()
    request_id = sign(session)
    session.data_to_send()
    session.cancel(request_id)
    assert session.data_to_send() == EXTENDED["cancel"]
    session.receive_data(EXTENDED["error-cancelled"])
    assert session.events() == []


def test_a_cancel_takes_back_an_event_that_was_not_fetched() -> None:
    session = ClientSession()
    first, second = sign(session), sign(session)
    session.receive_data(PLAIN["response"] + on_id(PLAIN["response"], second) + EXTENDED["draining"])
    session.cancel(first)
    assert session.events() == [Signed(second, SIGNATURE), DrainingAnnounced()]


def test_full_links_refuse_and_say_so() -> None:
    session = ClientSession(max_in_flight=2)
    sign(session)
    assert not session.is_full
    sign(session)
    assert session.is_full
    assert not session.is_stalled
    with pytest.raises(LinkFull):
        sign(session)
    pinged = session.ping(b"", now=0.0, deadline=1.0)  # health stays visible
    session.receive_data(PLAIN["response"] + on_id(PLAIN["pong"], pinged))
    assert not session.is_full
    sign(session)
    session.expire(99.0)
    assert session.is_stalled
    assert session.is_full


@given(st.lists(st.binary(max_size=80), max_size=10), st.integers(0, 4))
def test_any_bytes_give_events_or_a_wire_error(pieces: list[bytes], requests: int) -> None:
    session = ClientSession()
    ids = {sign(session) for _ in range(requests)}
    try:
        for piece in pieces:
            session.receive_data(piece)
    except WireError:
        pass
    session.connection_lost()
    ended = [event.request_id for event in session.events() if isinstance(event, Failed | Signed | Lost)]
    assert sorted(ended) == sorted(ids)


VALID = st.sampled_from([frame for frames in (PLAIN, EXTENDED) for frame in frames.values()])


@given(st.lists(VALID, max_size=8), st.data())
def test_events_are_the_same_however_the_stream_is_cut(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    if stream and data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(stream) - 1))
        stream = stream[:position] + data.draw(st.binary(min_size=1, max_size=1)) + stream[position + 1 :]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    assert play(stream, []) == play(stream, cuts)


def play(stream: bytes, cuts: list[int]) -> tuple[list[object], str]:
    session = ClientSession()
    session.list_keys(now=0.0, deadline=1.0)
    for _ in range(3):
        sign(session)
    fault = ""
    try:
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            session.receive_data(stream[start:stop])
    except WireError as error:
        fault = error.reason
    return list(session.events()), fault
