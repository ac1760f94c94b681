from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.checks import warnings
from proxy.config.load import load_config
from tests.support.proxy_toml import GOOD, message_for, toml


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
