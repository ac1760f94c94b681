"""The node's side of a link, against frames made by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.wire.codec import encode_frame
from hsm.wire.errors import ErrorCode, WireError
from hsm.wire.layout import MAX_MESSAGE_BYTES
from hsm.wire.messages import Cancelled, KeyEntry, KeysRequested, SignRequested
from hsm.wire.schemes import KeyType, Scheme
from hsm.wire.server_session import ServerSession
from tests.support.vectors import load_vectors

PLAIN = load_vectors("keyless_v1.hex")
EXTENDED = load_vectors("extensions.hex")
SKI = bytes(range(20))
DIGEST = bytes(range(0xA0, 0xC0))
SIGNATURE = bytes.fromhex("3006020101020101")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def extended_session() -> ServerSession:
    """A session whose client has shown that it speaks the extensions."""
    session = ServerSession()
    session.receive_data(on_id(EXTENDED["cancel"], 99))
    assert session.peer_speaks_extensions
    assert session.data_to_send() == b""
    return session


def on_id(frame: bytes, request_id: int) -> bytes:
    return frame[:4] + request_id.to_bytes(4, "big") + frame[8:]


def asked(session: ServerSession, frame: bytes) -> int:
    """Receive one request that becomes an event and return its number."""
    session.receive_data(frame)
    [event] = session.events()
    assert isinstance(event, SignRequested | KeysRequested)
    return event.request_id


# What is asked.


def test_a_plain_request() -> None:
    session = ServerSession()
    session.receive_data(PLAIN["sign-ecdsa-sha256"])
    [event] = session.events()
    assert isinstance(event, SignRequested)
    assert event == SignRequested(event.request_id, SKI, Scheme.ECDSA_SHA256, DIGEST, None, "", "", "")
    assert session.in_flight == 1
    assert not session.peer_speaks_extensions
    session.reply_signature(event.request_id, SIGNATURE)
    assert session.data_to_send() == PLAIN["response"]
    assert session.in_flight == 0


def test_names_and_addresses() -> None:
    session = ServerSession()
    session.receive_data(PLAIN["sign-ed25519-with-names"] + PLAIN["sign-rsa-pss-sha512-ipv6"])
    first, second = session.events()
    assert isinstance(first, SignRequested)
    assert isinstance(second, SignRequested)
    assert (first.scheme, first.payload) == (Scheme.ED25519, b"TLS 1.3")
    assert (first.server_name, first.client_ip) == ("example.org", "192.0.2.7")
    assert (second.scheme, second.client_ip) == (Scheme.RSA_PSS_SHA512, "2001:db8::7")
    assert second.payload == bytes(16) + b"\x11" * 16 + b"\x22" * 16 + b"\x33" * 16
    session.reply_signature(second.request_id, SIGNATURE)
    session.reply_signature(first.request_id, SIGNATURE)
    expected = on_id(PLAIN["response"], 0xFFFF_FFFF) + on_id(PLAIN["response"], 0x01020304)
    assert session.data_to_send() == expected


def test_deadline_and_trace() -> None:
    session = ServerSession()
    session.receive_data(EXTENDED["sign-with-everything"])
    [event] = session.events()
    assert isinstance(event, SignRequested)
    assert (event.deadline_s, event.trace, event.server_name) == (0.25, TRACE, "example.org")
    assert session.peer_speaks_extensions


def test_the_message_behind_a_digest_is_told() -> None:
    session = ServerSession()
    session.receive_data(EXTENDED["sign-with-message"] + on_id(EXTENDED["sign-with-deadline"], 2))
    with_message, without = session.events()
    assert isinstance(with_message, SignRequested)
    assert with_message.message == b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(range(0xC0, 0xE0))
    assert with_message.payload == with_message.scheme.payload_of(with_message.message)
    assert isinstance(without, SignRequested)
    assert without.message is None
    assert session.peer_speaks_extensions


@pytest.mark.parametrize("scheme", [Scheme.RSA_PSS_SHA256, Scheme.ED25519])
def test_the_message_of_ed25519_is_the_payload_whatever_is_sent_beside_it(scheme: Scheme) -> None:
    session = ServerSession()
    items = [(0x11, bytes((scheme.opcode,))), (0x04, SKI), (0x12, DIGEST), (0x88, b"something else")]
    session.receive_data(encode_frame(1, items))
    [event] = session.events()
    assert isinstance(event, SignRequested)
    assert event.message == (DIGEST if scheme is Scheme.ED25519 else b"something else")


def test_a_message_over_the_bound_is_malformed() -> None:
    session = ServerSession()
    head = [(0x11, b"\x15"), (0x04, SKI), (0x12, DIGEST)]
    session.receive_data(encode_frame(1, [*head, (0x88, bytes(MAX_MESSAGE_BYTES + 1))]))
    assert session.events() == []
    answer = session.data_to_send()
    assert answer[11:16] == bytes.fromhex("ff 12 00 01 07")
    assert b"a message is at most 16384 bytes" in answer
    session.receive_data(encode_frame(1, [*head, (0x88, bytes(MAX_MESSAGE_BYTES))]))
    [event] = session.events()
    assert isinstance(event, SignRequested)
    assert event.message == bytes(MAX_MESSAGE_BYTES)


def test_an_empty_message_is_not_a_missing_one() -> None:
    session = ServerSession()
    session.receive_data(encode_frame(1, [(0x11, b"\x15"), (0x04, SKI), (0x12, DIGEST), (0x88, b"")]))
    [event] = session.events()
    assert isinstance(event, SignRequested)
    assert event.message == b""


def test_a_request_without_time_left_is_refused_by_the_session() -> None:
    session = ServerSession()
    session.receive_data(EXTENDED["sign-with-no-time-left"])
    assert session.events() == []
    assert session.data_to_send() == EXTENDED["error-no-time-left"]


def test_ping_is_answered_by_the_session() -> None:
    session = ServerSession()
    session.receive_data(PLAIN["ping"])
    assert session.data_to_send() == PLAIN["pong"]
    session.receive_data(PLAIN["ping-minor-7-with-unknown-items"])
    assert session.data_to_send() == PLAIN["pong"]
    assert session.events() == []


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        ("rsa-decrypt", "error-bad-opcode"),
        ("sign-ecdsa-sha1", "error-bad-opcode"),
        ("response", "error-unexpected-opcode"),
        ("pong", "error-unexpected-opcode"),
        ("error-internal", "error-unexpected-opcode"),
        ("empty-body", "error-malformed"),
        ("opcode-missing", "error-malformed"),
        ("opcode-two-bytes", "error-malformed"),
        ("opcode-twice", "error-malformed"),
        ("padding-twice", "error-malformed"),
        ("ski-19-bytes", "error-malformed"),
        ("ski-missing", "error-malformed"),
        ("digest-31-bytes", "error-malformed"),
        ("payload-missing", "error-malformed"),
        ("client-ip-5-bytes", "error-malformed"),
        ("item-longer-than-body", "error-malformed"),
        ("bytes-after-last-item", "error-malformed"),
        ("certificate-digest-only", "error-key-not-found"),
        ("certificate-id-only", "error-certificate-not-found"),
    ],
)
def test_what_is_wrong_in_a_sound_frame_is_answered_and_the_link_goes_on(frame: str, answer: str) -> None:
    session = ServerSession()
    session.receive_data(PLAIN[frame] + PLAIN["ping"])
    assert session.data_to_send() == PLAIN[answer] + PLAIN["pong"]
    assert session.events() == []


def test_an_extension_item_of_a_wrong_length_is_malformed() -> None:
    session = ServerSession()
    session.receive_data(EXTENDED["deadline-3-bytes"])
    assert session.data_to_send() == PLAIN["error-malformed"]


@pytest.mark.parametrize("opcode", [0x02, 0x03, 0x04, 0x12, 0x13, 0x14, 0x21, 0x22, 0x23, 0x24, 0x00, 0x90])
def test_opcodes_that_are_not_served(opcode: int) -> None:
    session = ServerSession()
    frame = bytearray(PLAIN["rsa-decrypt"])
    frame[11] = opcode
    session.receive_data(frame)
    assert session.data_to_send() == PLAIN["error-bad-opcode"]


@pytest.mark.parametrize("scheme", list(Scheme))
def test_every_scheme_has_its_opcode(scheme: Scheme) -> None:
    session = ServerSession()
    payload = bytes(scheme.payload_bytes or 5)
    body = bytes((0x11, 0, 1, scheme.opcode, 0x04, 0, 20)) + SKI + bytes((0x12, 0, len(payload))) + payload
    session.receive_data(bytes((1, 0, 0, len(body), 0, 0, 0, 1)) + body)
    [event] = session.events()
    assert isinstance(event, SignRequested)
    assert event.scheme is scheme


# Bounds and faults.


def test_over_the_bound_of_a_link_the_session_says_busy() -> None:
    session = ServerSession(max_in_flight=1)
    session.receive_data(PLAIN["sign-ecdsa-sha256"] + on_id(PLAIN["sign-ecdsa-sha256"], 2) + PLAIN["ping"][:0])
    assert len(session.events()) == 1
    assert session.data_to_send() == on_id(PLAIN["error-internal"], 2)
    session.receive_data(on_id(EXTENDED["sign-with-deadline"], 3))
    assert session.events() == []
    answer = session.data_to_send()
    assert answer[11:16] == bytes.fromhex("ff 12 00 01 80")
    assert answer.endswith(bytes.fromhex("82 00 04 00 00 00 01"))


def test_an_id_used_twice_closes_the_link() -> None:
    for second in (PLAIN["sign-ecdsa-sha256"], PLAIN["ping"], PLAIN["empty-body"]):
        session = ServerSession()
        session.receive_data(PLAIN["sign-ecdsa-sha256"])
        with pytest.raises(WireError, match="request id 1 is used for a second request"):
            session.receive_data(second)
        with pytest.raises(WireError):
            session.receive_data(b"")


def test_another_major_version_gets_a_last_answer() -> None:
    session = ServerSession()
    with pytest.raises(WireError, match="major version 2"):
        session.receive_data(PLAIN["ping"] + PLAIN["major-2"])
    assert session.data_to_send() == PLAIN["pong"] + PLAIN["error-version-mismatch"]


# Replies.


@pytest.mark.parametrize(
    ("code", "plain"),
    [
        (ErrorCode.BUSY, 8),
        (ErrorCode.DEADLINE, 8),
        (ErrorCode.DRAINING, 8),
        (ErrorCode.CANCELLED, 8),
        (ErrorCode.DENIED, 2),
        (ErrorCode.KEY_NOT_FOUND, 2),
        (ErrorCode.CRYPTOGRAPHY, 1),
    ],
)
def test_plain_clients_are_told_plain_codes_and_nothing_else(code: ErrorCode, plain: int) -> None:
    session = ServerSession()
    request_id = asked(session, PLAIN["sign-ecdsa-sha256"])
    session.reply_error(request_id, code, "queue full", 0.02, 512)
    assert session.data_to_send() == PLAIN["error-internal"][:-1] + bytes((plain,))


def test_plain_clients_never_get_a_frame_they_did_not_ask_for() -> None:
    session = ServerSession()
    session.announce_keys(8)
    session.announce_draining()
    session.receive_data(PLAIN["sign-ecdsa-sha256"])
    assert session.data_to_send() == b""


def test_clients_with_extensions_are_told_everything() -> None:
    session = extended_session()
    request_id = asked(session, EXTENDED["sign-with-deadline"])
    session.reply_error(request_id, ErrorCode.BUSY, "queue full", 0.02, 512)
    session.announce_keys(8)
    session.announce_draining()
    session.announce_draining()
    assert session.data_to_send() == EXTENDED["error-busy"] + EXTENDED["keys-changed"] + EXTENDED["draining"]


def test_draining_is_told_when_the_client_shows_that_it_understands() -> None:
    session = ServerSession()
    session.announce_draining()
    session.receive_data(EXTENDED["list-keys"])
    assert session.data_to_send() == EXTENDED["draining"]
    session.announce_draining()
    assert session.data_to_send() == b""


def test_keys_are_told() -> None:
    session = ServerSession()
    session.receive_data(EXTENDED["list-keys"])
    [event] = session.events()
    assert isinstance(event, KeysRequested)
    assert event.deadline_s == 1.0
    session.reply_keys(event, (KeyEntry(SKI, KeyType.P256, "web"),), 7)
    # The hand-made frame is the first of two: without "more" it is 4 bytes shorter.
    first = EXTENDED["keys-first-of-two"]
    assert session.data_to_send() == first[:3] + b"\x2b" + first[4:23] + first[27:]
    session.reply_keys(event.request_id, (), 7)
    assert session.data_to_send() == b""


def test_more_keys_than_a_frame_holds_are_told_in_parts() -> None:
    session = ServerSession()
    request_id = asked(session, EXTENDED["list-keys"])
    label = "x" * 200
    keys = tuple(KeyEntry(number.to_bytes(20, "big"), KeyType.P256, label) for number in range(3_000))
    session.reply_keys(request_id, keys, 7)
    stream = session.data_to_send()
    flags = []
    while stream:
        end = 8 + int.from_bytes(stream[2:4], "big")
        flags.append(stream[23:27] == bytes.fromhex("86 00 01 01"))
        stream = stream[end:]
    assert len(flags) > 10
    assert flags == [True] * (len(flags) - 1) + [False]


def test_a_cancel_is_answered_once_and_a_later_reply_is_dropped() -> None:
    session = ServerSession()
    request_id = asked(session, EXTENDED["sign-with-deadline"])
    session.receive_data(EXTENDED["cancel"])
    assert session.events() == [Cancelled(request_id)]
    assert session.data_to_send() == EXTENDED["error-cancelled"]
    session.receive_data(EXTENDED["cancel"])  # it crossed the answer
    assert session.events() == []
    again = asked(session, EXTENDED["sign-with-deadline"])  # the same id on the wire
    assert again != request_id
    session.reply_signature(request_id, b"for the cancelled one")
    session.reply_error(request_id, ErrorCode.CANCELLED)
    assert session.data_to_send() == b""
    session.reply_signature(again, SIGNATURE)
    session.reply_signature(again, SIGNATURE)
    assert session.data_to_send() == PLAIN["response"]


def test_a_signature_too_long_for_a_frame_can_still_be_refused() -> None:
    session = ServerSession()
    request_id = asked(session, PLAIN["sign-ecdsa-sha256"])
    with pytest.raises(ValueError, match="at most 65535"):
        session.reply_signature(request_id, bytes(70_000))
    session.reply_error(request_id, ErrorCode.INTERNAL)
    assert session.data_to_send() == PLAIN["error-internal"]


def test_a_lost_client_cancels_its_requests() -> None:
    session = ServerSession()
    first = asked(session, PLAIN["sign-ecdsa-sha256"])
    second = asked(session, on_id(PLAIN["sign-ecdsa-sha256"], 2))
    session.connection_lost()
    assert session.events() == [Cancelled(first), Cancelled(second)]
    session.reply_signature(first, SIGNATURE)
    assert session.data_to_send() == b""


@given(st.lists(st.binary(max_size=80), max_size=10))
def test_any_bytes_give_events_or_a_wire_error(pieces: list[bytes]) -> None:
    session = ServerSession()
    try:
        for piece in pieces:
            session.receive_data(piece)
    except WireError:
        pass
    for event in session.events():
        session.reply_error(event.request_id, ErrorCode.INTERNAL)
    assert session.in_flight == 0


VALID = st.sampled_from([frame for frames in (PLAIN, EXTENDED) for frame in frames.values()])


@given(st.lists(VALID, max_size=8), st.data())
def test_events_and_answers_are_the_same_however_the_stream_is_cut(frames: list[bytes], data: st.DataObject) -> None:
    numbered = [on_id(frame, data.draw(st.integers(0, 3))) for frame in frames]
    stream = b"".join(numbered)
    if stream and data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(stream) - 1))
        stream = stream[:position] + data.draw(st.binary(min_size=1, max_size=1)) + stream[position + 1 :]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    assert play(stream, []) == play(stream, cuts)


def play(stream: bytes, cuts: list[int]) -> tuple[list[object], bytes, str]:
    session = ServerSession()
    fault = ""
    try:
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            session.receive_data(stream[start:stop])
    except WireError as error:
        fault = error.reason
    return list(session.events()), session.data_to_send(), fault
