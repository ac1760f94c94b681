from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.shared.addresses import format_address, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8443", ("127.0.0.1", 8443)),
        ("node-1.example:0", ("node-1.example", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_addresses_are_split_and_joined(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected
    assert format_address(*expected) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not an address"),
        ("localhost", "is not an address"),
        (":80", "is not an address"),
        ("::1:80", "is not an address"),
        ("a b:80", "is not an address"),
        ("host:80\n", "is not an address"),
        ("host:٣", "is not an address"),
        ("http://host:80", "is not an address"),
        ("host:65536", "port 65536 in 'host:65536' is too large"),
        ("0.0.0..0:80", "'0.0.0..0' in '0.0.0..0:80' is no host name or address"),
        ("a" * 70 + ":80", "a part of it is empty or too long"),
        ("[zz]:1", "'zz' in '\\[zz\\]:1' is not an IPv6 address"),
        ("[127.0.0.1]:1", "is not an IPv6 address"),
    ],
)
def test_other_texts_are_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_address(text)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert host
    host.encode("idna")
    assert 0 <= port <= 65535
