"""Texts and addresses: nothing raw gets out of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.wire import fields

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@given(st.ip_addresses())
def test_addresses_survive(address: object) -> None:
    assert fields.decode_ip(fields.encode_ip(str(address))) == str(address)


def test_a_zone_is_dropped() -> None:
    assert fields.decode_ip(fields.encode_ip("fe80::1%eth0")) == "fe80::1"


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        fields.encode_ip("example.org")


@given(st.binary(max_size=600))
def test_a_name_is_always_printable_ascii(data: bytes) -> None:
    name = fields.decode_name(data)
    assert name.isascii()
    assert name.isprintable()


def test_names() -> None:
    assert fields.decode_name(fields.encode_name("www.example.org")) == "www.example.org"
    assert fields.decode_name(b"a\r\nb\x00") == "a\\r\\nb\\x00"
    assert fields.encode_name("ü.example") == b"\\xfc.example"
    assert len(fields.encode_name("a" * 300)) == 255


@given(st.text(max_size=700))
def test_a_text_is_cut_between_characters_and_comes_back_printable(text: str) -> None:
    data = fields.encode_text(text)
    assert len(data) <= 512
    data.decode("utf-8")
    assert fields.decode_text(data).isprintable()


@given(st.binary(max_size=700))
def test_any_detail_is_printable(data: bytes) -> None:
    text = fields.decode_text(data)
    assert text.isprintable()
    assert len(text) <= 512


def test_a_readable_detail_is_left_alone() -> None:
    assert (
        fields.decode_text(fields.encode_text("queue is full: 512 wait – later")) == "queue is full: 512 wait – later"
    )
    assert fields.encode_text("ä" * 10, max_bytes=5) == "ää".encode()
    assert fields.decode_text(b"\x1b[31mred\xff") == "\ufffd[31mred\ufffd"


def test_a_traceparent_survives() -> None:
    assert fields.decode_trace(fields.encode_trace(TRACE)) == TRACE


@pytest.mark.parametrize(
    "trace",
    [
        "",
        "00",
        TRACE.upper(),
        TRACE + "\n",
        TRACE[:-1],
        "ff" + TRACE[2:],
        "00-" + "0" * 32 + TRACE[35:],
        TRACE[:36] + "0" * 16 + TRACE[52:],
    ],
)
def test_a_wrong_traceparent_is_refused_by_the_sender_and_ignored_by_the_receiver(trace: str) -> None:
    with pytest.raises(ValueError, match="traceparent"):
        fields.encode_trace(trace)
    assert fields.decode_trace(trace.encode()) == ""
