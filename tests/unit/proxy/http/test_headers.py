"""Fields: what goes on, what ends here, what is ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.framing import Framing
from proxy.http.headers import (
    Field,
    Fields,
    ForwardedFields,
    chunk,
    framing_line,
    keeps_alive,
    sort_request,
    sort_response,
)


def sort(*lines: bytes, response: bool = False) -> Fields:
    start = b"HTTP/1.1 200 OK\r\n" if response else b"GET / HTTP/1.1\r\n"
    head = start + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    return sort_response(head, len(start)) if response else sort_request(head, len(start))


def kept(fields: Fields) -> list[bytes]:
    return b"".join(fields.kept).split(b"\r\n")[:-1]


def test_special_fields_are_found_in_any_case_and_taken_out() -> None:
    fields = sort(
        b"A: 1",
        b"hOST: a.test ",
        b"content-LENGTH:\t5\t",
        b"B: host: x",
        b"Transfer-Encoding: chunked",
        b"Connection: Close, X-Own",
        b"Upgrade: h2c",
        b"Expect: 100-Continue",
        b"X-Own: secret",
        b"Hostage: 1",
        b"X-Host: 2",
    )
    assert kept(fields) == [b"A: 1", b"B: host: x", b"Expect: 100-Continue", b"Hostage: 1", b"X-Host: 2"]
    assert (fields.hosts, fields.lengths, fields.codings) == ((b"a.test",), (b"5",), (b"chunked",))
    assert (fields.options, fields.upgrades, fields.expect) == ((b"close", b"x-own"), (b"h2c",), b"100-continue")


@pytest.mark.parametrize(
    "line",
    [
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"Trailer: X",
        b"HTTP2-Settings: AAMA",
        b"Proxy: http://evil.test",
        b"X-Forwarded-For: 1.2.3.4",
        b"x_forwarded_for: 1.2.3.4",
        b"X-Forwarded_Proto: https",
        b"X-Real-IP: 1.2.3.4",
        b"X_REAL_IP: 1.2.3.4",
        b"Forwarded: for=1.2.3.4",
        b"Content_Length: 3",
        b"Transfer_Encoding: chunked",
    ],
)
def test_field_ends_here(line: bytes) -> None:
    assert kept(sort(b"A: 1", line, b"B: 2")) == [b"A: 1", b"B: 2"]


def test_connection_cannot_take_out_what_is_ours() -> None:
    fields = sort(b"Host: a", b"Content-Length: 5", b"Connection: Host, Content-Length, X-Forwarded-For")
    assert (fields.hosts, fields.lengths) == ((b"a",), (b"5",))
    assert b"X-Forwarded-For: 192.0.2.1" in ForwardedFields("replace", "192.0.2.1", "https", 443).lines(b"a", ())


def test_connection_of_several_fields_counts_as_one_list() -> None:
    fields = sort(b"Connection: a", b"Connection:", b"Connection: b ,c", b"A: 1", b"B: 1", b"C: 1", b"D: 1")
    assert kept(fields) == [b"D: 1"]


def test_fields_of_responses() -> None:
    fields = sort(
        b"Host: stays",
        b"Set-Cookie: a",
        b"Set-Cookie: b",
        b"Content-Length: 2",
        b"Keep-Alive: x",
        b"Connection: x-a",
        b"X-A: 1",
        b"X-Forwarded-For: stays",
        response=True,
    )
    assert kept(fields) == [b"Host: stays", b"Set-Cookie: a", b"Set-Cookie: b", b"X-Forwarded-For: stays"]
    assert fields.lengths == (b"2",)


NAMES = st.sampled_from([b"A", b"Host", b"Connection", b"TE", b"X-Forwarded-For", b"Content-Length", b"B-host"])


@given(st.lists(st.tuples(NAMES, st.sampled_from([b"1", b"", b"close", b"A", b"host: b"])), max_size=12))
def test_sorting_is_what_a_plain_loop_would_do(pairs: list[tuple[bytes, bytes]]) -> None:
    fields = sort(*[b"%b: %b" % pair for pair in pairs])
    named = {value.lower() for name, value in pairs if name == b"Connection"}
    special = {b"Host", b"Connection", b"TE", b"X-Forwarded-For", b"Content-Length"}
    expected = [b"%b: %b" % (n, v) for n, v in pairs if n not in special and n.lower() not in named]
    assert kept(fields) == expected
    assert list(fields.hosts) == [value for name, value in pairs if name == b"Host"]
    assert list(fields.lengths) == [value for name, value in pairs if name == b"Content-Length"]


@pytest.mark.parametrize(
    ("minor", "options", "expected"),
    [
        (1, [], True),
        (1, [b"close"], False),
        (1, [b"keep-alive", b"close"], False),
        (1, [b"upgrade"], True),
        (0, [], False),
        (0, [b"keep-alive"], True),
        (0, [b"keep-alive", b"close"], False),
    ],
)
def test_keeps_alive(minor: int, options: list[bytes], expected: bool) -> None:
    assert keeps_alive(minor, options) is expected


def received(name: bytes, value: bytes) -> Field:
    return b"%b: %b\r\n" % (name, value), name.lower(), value


def test_forwarded_fields_are_replaced() -> None:
    ours = ForwardedFields("replace", "2001:db8::1", "https", 8443)
    assert ours.lines(b"a.test", [received(b"X-Forwarded-For", b"6.6.6.6")]) == (
        b"X-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 8443\r\n"
        b"X-Forwarded-Host: a.test\r\n"
    )


def test_forwarded_fields_are_appended_to() -> None:
    ours = ForwardedFields("append", "192.0.2.1", "https", 443)
    fields = [
        received(b"X-Forwarded-For", b"6.6.6.6"),
        received(b"X-Forwarded-For", b"7.7.7.7"),
        received(b"X-Forwarded-Proto", b"http"),
        received(b"x_forwarded_host", b"evil.test"),
    ]
    assert ours.lines(b"a.test", fields) == (
        b"X-Forwarded-For: 6.6.6.6, 7.7.7.7, 192.0.2.1\r\nX-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Port: 443\r\nX-Forwarded-Host: a.test\r\n"
    )
    assert ours.lines(b"a.test", ()).startswith(b"X-Forwarded-For: 192.0.2.1\r\n")


def test_framing_lines_and_chunks() -> None:
    assert framing_line(Framing.LENGTH, 5) == b"Content-Length: 5\r\n"
    assert framing_line(Framing.CHUNKED, 0) == b"Transfer-Encoding: chunked\r\n"
    assert framing_line(Framing.NONE, 0) == b""
    assert b"".join(chunk([b"ab", b"c" * 14])) == b"10\r\nab" + b"c" * 14 + b"\r\n"
    assert chunk([]) == chunk([b""]) == []
