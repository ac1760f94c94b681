"""Server names find their site."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.tls.sites import SiteNames, SiteTable, clean_server_name, is_covered, normalise_name


def table(*, strict: bool = False, default: bool = True) -> SiteTable[str]:
    return SiteTable(
        [
            SiteNames(("example.com", "*.example.com"), False, "main"),
            SiteNames(("api.example.com",), False, "api"),
            SiteNames(("fallback.test", "bücher.example"), default, "fallback"),
        ],
        is_strict=strict,
    )


@pytest.mark.parametrize(
    ("server_name", "site"),
    [
        ("example.com", "main"),
        ("EXAMPLE.Com", "main"),
        ("example.com.", "main"),
        ("www.example.com", "main"),
        ("api.example.com", "api"),
        ("API.example.com.", "api"),
        ("a.b.example.com", "fallback"),
        ("com", "fallback"),
        (".example.com", "fallback"),
        ("xn--bcher-kva.example", "fallback"),
        ("", "fallback"),
        ("unknown.test", "fallback"),
        ("fallback.test", "fallback"),
    ],
)
def test_exact_wins_over_wildcard_wins_over_default(server_name: str, site: str) -> None:
    assert table().find(clean_server_name(server_name.encode())) == site


@pytest.mark.parametrize(
    ("sent", "clean"),
    [
        (b"A.Test.", "a.test"),
        (b"_x.a-b.test", "_x.a-b.test"),
        *[
            (bad, "")
            for bad in (b"", b".", b"a..b", b"*.a.test", b"a\r\nb", b"a b", b"\xff.test", b"-a.test", b"a" * 64)
        ],
        (b".".join([b"a"] * 127), ".".join(["a"] * 127)),
        (b".".join([b"a"] * 128), ""),
    ],
)
def test_what_clients_send_is_cleaned(sent: bytes, clean: str) -> None:
    assert clean_server_name(sent) == clean


@given(st.binary(max_size=300))
def test_a_clean_name_stays_clean(sent: bytes) -> None:
    clean = clean_server_name(sent)
    assert clean_server_name(clean.encode()) == clean
    assert clean.isprintable()


@pytest.mark.parametrize("server_name", ["", "unknown.test", "a.b.example.com"])
def test_strict_refuses_what_is_not_named(server_name: str) -> None:
    assert table(strict=True).find(server_name) is None
    assert table(default=False).find(server_name) is None


def test_strict_still_finds_the_names_of_the_default_site() -> None:
    assert table(strict=True).find("fallback.test") == "fallback"


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("Example.COM.", "example.com"),
        ("*.Example.com", "*.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
        ("_acme.example.com", "_acme.example.com"),
    ],
)
def test_names_are_normalised(name: str, normal: str) -> None:
    assert normalise_name(name) == normal


@pytest.mark.parametrize(
    "name",
    [
        *["", ".", "*", "*.", "a..b", "a.*.b", "www.*.com", "-a.com", "a-.com", "a b.com", "f*.com", "x\0.com"],
        *["127.0.0.1", "::1", "a" * 64, "a." * 127 + "aa", "ü" * 64 + ".com"],
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not|cannot|longer|IP address"):
        normalise_name(name)


@given(st.text(max_size=300))
def test_any_text_is_normalised_or_refused_and_found_or_not(text: str) -> None:
    table().find(text)
    try:
        normal = normalise_name(text)
    except ValueError:
        return
    assert normalise_name(normal) == normal
    assert normal.isascii()


def test_conflicts_are_errors() -> None:
    with pytest.raises(ValueError, match=r"two sites have the name 'a\.test'"):
        SiteTable([SiteNames(("a.test",), False, "1"), SiteNames(("A.test.",), False, "2")])
    with pytest.raises(ValueError, match="more than one site"):
        SiteTable([SiteNames(("a.test",), True, "1"), SiteNames(("b.test",), True, "2")])


@pytest.mark.parametrize(
    ("name", "patterns", "covered"),
    [
        ("a.test", ["a.test"], True),
        ("www.a.test", ["*.a.test"], True),
        ("a.test", ["*.a.test"], False),
        ("x.www.a.test", ["*.a.test"], False),
        ("*.a.test", ["*.a.test"], True),
        ("*.a.test", ["www.a.test"], False),
        ("localhost", ["localhost"], True),
        ("localhost", ["*."], False),
    ],
)
def test_what_a_certificate_covers(name: str, patterns: list[str], covered: bool) -> None:
    assert is_covered(name, patterns) is covered
