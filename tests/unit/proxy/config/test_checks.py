from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.shared.strict_toml import ConfigError
from proxy.config.checks import folded_name, is_dns_name, warnings
from proxy.config.load import load_config
from tests.support.proxy_toml import GOOD, toml


def message_for(tmp_path: Path, text: str) -> str:
    path = tmp_path / "proxy.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value).replace(f"{path}:", "proxy.toml:")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"sites": 'names = ["a.test"]\ncertificates = ["a.pem"]\nupstream = "nowhere"'},
            "sites[0].upstream: there is no upstream 'nowhere'; define it, or use one of: web",
        ),
        (
            {"sites": 'names = ["a_b-.test"]\ncertificates = ["a.pem"]\nupstream = "web"'},
            "sites[0].names[0]: 'a_b-.test' is not a DNS name",
        ),
        (
            {"sites": 'names = ["a.*.test"]\ncertificates = ["a.pem"]\nupstream = "web"'},
            "'a.*.test' is not a DNS name; write one like www.example.org, or *.example.org for a wildcard",
        ),
        (
            {"sites": 'names = ["a.test", "A.test."]\ncertificates = ["a.pem"]\nupstream = "web"'},
            "sites[0].names[1]: 'A.test.' belongs to sites[0] already; a name has one site",
        ),
        (
            {
                "sites": 'names = ["a.test"]\ncertificates = ["a.pem"]\nupstream = "web"\ndefault = true\n'
                '[[sites]]\nnames = ["b.test"]\ncertificates = ["b.pem"]\nupstream = "web"\ndefault = true'
            },
            "sites[1].default: sites[0] is the default site already; only one can be",
        ),
        (
            {"sites": 'names = ["a.test"]\ncertificates = ["a.pem", "a.pem"]\nupstream = "web"'},
            "'a.pem' is used by certificates[0] already; each needs its own",
        ),
        (
            {
                "listeners": 'name = "x"\naddress = "127.0.0.1:8443"\n[[listeners]]\nname = "x"\n'
                'address = "127.0.0.1:8443"'
            },
            "listeners[1].address: 127.0.0.1:8443 is taken by listeners[0] already; choose another port",
        ),
        (
            {"listeners": 'name = "x"\naddress = "127.0.0.1:1"\n[[listeners]]\nname = "x"\naddress = "127.0.0.1:2"'},
            "listeners[1].name: 'x' is used by listeners[0] already; each needs its own",
        ),
        ({"listeners": 'address = "127.0.0.1:9443"'}, "control.address: 127.0.0.1:9443 is taken by listeners[0]"),
        ({"listeners": 'address = "127.0.0.1:70000"'}, "listeners[0].address: port 70000"),
        ({"tls": 'min_version = "1.3"\nmax_version = "1.2"'}, "tls.min_version: 1.3 is above max_version (1.2)"),
        ({"tls": "groups = []"}, "tls.groups: is empty, so no client could connect"),
        ({"tls": "ciphers = []"}, "tls.ciphers: is empty although TLS 1.2 is allowed"),
        ({"tls": "ciphersuites = []"}, "tls.ciphersuites: is empty although TLS 1.3 is allowed"),
        (
            {"tls": 'ciphers = ["AES128-SHA"]'},
            "tls.ciphers[0]: 'AES128-SHA' is refused: it must be ECDHE with AES-GCM or CHACHA20-POLY1305",
        ),
        ({"upstreams": 'name = "web"\nservers = ["10.0.0.1:0"]'}, "nobody can be reached at port 0"),
        (
            {"upstreams": 'name = "web"\nservers = ["10.0.0.1:1", "10.0.0.1:1"]'},
            "'10.0.0.1:1' is used by servers[0] already",
        ),
        (
            {"nodes": 'name = "n"\naddress = "10.0.0.1:1"\n[[nodes]]\nname = "n"\naddress = "10.0.0.1:1"'},
            "nodes[1].address: '10.0.0.1:1' is used by nodes[0] already",
        ),
        (
            {"signing": 'ca = "c"\ncertificate = "d"\nprivate_key = "e"\njob_timeout_s = 0.5'},
            "signing.attempt_timeout_s: 1 is more than job_timeout_s (0.5), so no second node would be asked",
        ),
        (
            {"signing": 'ca = "c"\ncertificate = "d"\nprivate_key = "e"\nreconnect_min_s = 9'},
            "signing.reconnect_min_s: 9 is more than reconnect_max_s (2); swap them",
        ),
    ],
)
def test_a_contradiction_is_named_with_file_line_and_what_to_do(
    tmp_path: Path, changes: dict[str, str], expected: str
) -> None:
    message = message_for(tmp_path, toml(**changes))
    assert expected in message
    assert all(line.startswith("proxy.toml:") for line in message.splitlines())


def test_everything_is_reported_at_once(tmp_path: Path) -> None:
    text = toml(
        sites='names = ["-"]\ncertificates = ["a.pem"]\nupstream = "nowhere"',
        tls='min_version = "1.3"\nmax_version = "1.2"',
        nodes='name = "n"\naddress = "10.0.0.1:0"',
    )
    lines = message_for(tmp_path, text).splitlines()
    assert len(lines) == 4
    line = 1 + text.splitlines().index('upstream = "nowhere"')
    assert any(found.startswith(f"proxy.toml:{line}: sites[0].upstream: ") for found in lines)


def test_a_good_config_has_no_contradictions_and_what_is_odd_is_said(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(GOOD)
    assert warnings(load_config(path)) == []
    path.write_text(
        toml(
            upstreams='name = "web"\nservers = ["10.0.0.1:1"]\n[[upstreams]]\nname = "spare"\nservers = ["10.0.0.2:1"]',
            nodes='name = "n"\naddress = "10.0.0.1:1"',
            tls="handshake_timeout_s = 2",
        )
    )
    assert warnings(load_config(path)) == [
        "upstreams[1]: no site uses 'spare'",
        "signing.job_timeout_s: 5 is more than tls.handshake_timeout_s (2), which ends the wait earlier",
        "nodes: there is only one, so no new session can start while it is down",
    ]


@pytest.mark.parametrize("name", ["a", "a.b", "*.a", "xn--bcher-kva.example", "bücher.example", "_x.a", "A.B.", "1.a"])
def test_names(name: str) -> None:
    assert is_dns_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "*",
        "*.",
        "a..b",
        "-a.b",
        "a-.b",
        "a b",
        "a.*",
        "192.0.2.1",
        "x" * 64,
        "a." * 127 + "a",
        "a/b",
        "*.*.a",
        "a.b\n",
    ],
)
def test_what_is_no_name(name: str) -> None:
    assert not is_dns_name(name)


@given(st.text(max_size=300))
def test_any_text_gets_an_answer(name: str) -> None:
    assert is_dns_name(name) in (True, False)
    folded_name(name)
