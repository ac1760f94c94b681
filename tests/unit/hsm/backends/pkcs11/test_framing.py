from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.backends.pkcs11.framing import MAX_FRAME_BYTES, FramingError, answer_reader, frame, request_reader
from hsm.backends.pkcs11.messages import (
    Answer,
    Done,
    Failed,
    FoundKey,
    Generate,
    Import,
    KeysFound,
    ObjectMatch,
    Open,
    Ping,
    Request,
    Sign,
    Signed,
    TokenMatch,
)
from hsm.wire.schemes import KeyType

ids = st.integers(0, 2**63 - 1)
requests = st.one_of(
    st.builds(Sign, id=ids, key=st.binary(max_size=20), scheme=st.text(max_size=20), payload=st.binary(max_size=300)),
    st.builds(Ping, id=ids),
    st.builds(Generate, id=ids, type=st.sampled_from(KeyType), label=st.text(max_size=20)),
    st.builds(Import, id=ids, label=st.text(max_size=20), private_key=st.binary(max_size=300)),
    st.builds(
        Open,
        id=ids,
        module=st.text(max_size=20),
        token=st.builds(TokenMatch, token=st.none() | st.text(max_size=5), slot_id=st.none() | st.integers(0, 2**63)),
        objects=st.builds(ObjectMatch, label=st.none() | st.text(max_size=5), id=st.none() | st.binary(max_size=5)),
        pin=st.none() | st.binary(max_size=20),
        sessions=st.integers(0, 1024),
    ),
)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


@given(st.lists(requests, max_size=8), st.lists(st.integers(0, 50), max_size=30))
def test_messages_come_out_as_they_went_in_however_they_are_cut(sent: list[Request], sizes: list[int]) -> None:
    reader = request_reader()
    received: list[Request] = []
    for piece in cut(b"".join(frame(message) for message in sent), sizes):
        received += reader.feed(piece)
    assert received == sent
    assert reader.is_between_frames


def test_answers_are_read_as_answers() -> None:
    key = FoundKey(b"s" * 20, KeyType.P256, "web", b"\1", b"spki", True, False)
    sent: list[Answer] = [
        Signed(id=1, signature=b"sig"),
        Done(id=2),
        KeysFound(id=3, keys=(key,)),
        Failed(id=4, kind="busy", rv=6, call="C_Sign", detail="the token is busy"),
    ]
    assert answer_reader().feed(b"".join(frame(message) for message in sent)) == sent


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    reader = request_reader()
    with pytest.raises(FramingError, match=r"4194305 bytes was announced"):
        reader.feed(struct.pack(">I", MAX_FRAME_BYTES + 1))
    with pytest.raises(FramingError, match="too long"):
        frame(Sign(id=1, key=b"", scheme="", payload=bytes(MAX_FRAME_BYTES)))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_framing_error(body: bytes) -> None:
    try:
        messages = request_reader().feed(struct.pack(">I", len(body)) + body)
    except FramingError:
        return
    assert len(messages) == 1


def test_an_answer_is_no_request() -> None:
    with pytest.raises(FramingError, match="no known message"):
        request_reader().feed(frame(Signed(id=1, signature=b"x")))


def test_errors_show_no_values() -> None:
    body = msgspec.msgpack.encode({"op": "Open", "id": 1, "module": 5, "pin": b"1234-secret"})
    with pytest.raises(FramingError) as caught:
        request_reader().feed(struct.pack(">I", len(body)) + body)
    assert "1234-secret" not in str(caught.value)


def test_secrets_have_no_repr() -> None:
    open_ = Open(id=1, module="m", token=TokenMatch(), objects=ObjectMatch(), pin=b"1234-secret", sessions=1)
    assert "secret" not in repr(open_)
    assert "private" not in repr(Import(id=1, label="web", private_key=b"private"))
