"""Targets and hosts."""

from __future__ import annotations

import pytest

from proxy.http.authority import SiteNames, host_name, read_authority
from proxy.http.problem import HttpProblem


@pytest.mark.parametrize(
    ("method", "target", "hosts", "expected"),
    [
        (b"GET", b"/a?b", [b"site.test"], (b"/a?b", b"site.test")),
        (b"GET", b"//a", [b"site.test:8443"], (b"//a", b"site.test:8443")),
        (b"GET", b"/", [b"[2001:db8::1]:443"], (b"/", b"[2001:db8::1]:443")),
        (b"OPTIONS", b"*", [b"site.test"], (b"*", b"site.test")),
        (b"GET", b"http://b.test:81/x?y", [b"site.test"], (b"/x?y", b"b.test:81")),
        (b"GET", b"HTTPS://b.test", [b"site.test"], (b"/", b"b.test")),
        (b"GET", b"http://b.test?q", [b"site.test"], (b"/?q", b"b.test")),
        (b"OPTIONS", b"http://b.test", [b"site.test"], (b"*", b"b.test")),
    ],
)
def test_authority_is_read(method: bytes, target: bytes, hosts: list[bytes], expected: tuple[bytes, bytes]) -> None:
    assert read_authority(method, target, 1, hosts) == expected


def test_http_1_0_may_leave_out_its_host() -> None:
    assert read_authority(b"GET", b"/", 0, []) == (b"/", b"")


@pytest.mark.parametrize("host", [b"", b"a b", b"a,b", b"a/b", b"a@b", b"a:b", b"a:123456", b"[::1", b"%zz", b"a\xe9"])
def test_malformed_host_is_refused(host: bytes) -> None:
    with pytest.raises(HttpProblem) as caught:
        read_authority(b"GET", b"/", 1, [host])
    assert caught.value.status == 400


def test_host_name_has_no_port_case_or_final_dot() -> None:
    assert host_name(b"Site.Test.:8443") == "site.test"
    assert host_name(b"[2001:DB8::1]:443") == "[2001:db8::1]"


def test_sites_are_found_exactly_then_by_wildcard_then_by_default() -> None:
    names = SiteNames([("one", ["a.test", "*.b.test"]), ("two", ["x.b.test", "C.Test"])], default="one")
    hosts = (b"a.test:1", b"y.b.test", b"x.b.test", b"c.test", b"z.y.b.test", b"b.test")
    assert [names.find(host) for host in hosts] == ["one", "one", "two", "two", "one", "one"]
    strict = SiteNames([("one", ["a.test", "*.b.test"])])
    assert [strict.find(host) for host in (b"z.y.b.test", b"b.test", b"other")] == ["", "", ""]
