from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.load import load_config
from proxy.config.node_checks import node_warnings
from tests.support.proxy_toml import GOOD, message_for, toml

FILES = 'ca = "c"\ncertificate = "d"\nprivate_key = "e"\n'
HOST = 'name = "hsm"\nrecord = "hsm.test"\nport = 2407\n'
NODE = 'name = "n"\naddress = "10.0.0.1:1"\n'
OTHER = '[[nodes]]\nname = "m"\naddress = "10.0.0.2:1"\n'


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"nodes": ""}, "nodes: there is no node; list each under [[nodes]], or name a DNS record of them"),
        ({"nodes": NODE + "[[nodes]]\n" + NODE}, "nodes[1].name: 'n' is used by nodes[0] already"),
        ({"nodes": NODE + "[[nodes]]\n" + NODE}, "nodes[1].address: '10.0.0.1:1' is used by nodes[0] already"),
        ({"nodes": 'name = "n"\naddress = "10.0.0.1:0"'}, "nodes[0].address: 10.0.0.1:0: nobody can be reached"),
        ({"discovery": HOST + "[[discovery]]\n" + HOST}, "discovery[1].name: 'hsm' is used by discovery[0] already"),
        ({"discovery": HOST.replace('"hsm"', '"n2"')}, "discovery[0].name: 'n2' is used by nodes[1] already"),
        ({"discovery": HOST.replace("port = 2407", "")}, "discovery[0].port: is missing: A and AAAA records have no"),
        ({"discovery": HOST + 'kind = "srv"'}, "discovery[0].port: 2407 would not be used: SRV records have their"),
        ({"discovery": HOST.replace("hsm.test", "a..b")}, "discovery[0].record: 'a..b' is not a DNS name"),
        ({"discovery": HOST.replace("hsm.test", "10.0.0.1")}, "discovery[0].record: '10.0.0.1' is not a DNS name"),
        ({"discovery": HOST + "interval_s = 0.5"}, "discovery[0].interval_s: 0.5 is too short"),
        (
            {"discovery": HOST + 'nameservers = ["ns.test:53"]'},
            "discovery[0].nameservers[0]: 'ns.test' is a name, and there is nobody to look it up",
        ),
        ({"discovery": HOST + 'nameservers = ["10.0.0.1:0"]'}, "discovery[0].nameservers[0]: 10.0.0.1:0: nobody can"),
        (
            {"discovery": HOST + 'nameservers = ["10.0.0.1:53", "10.0.0.1:53"]'},
            "discovery[0].nameservers[1]: '10.0.0.1:53' is used by nameservers[0] already",
        ),
        (
            {"signing": FILES + "job_timeout_s = 0.5"},
            "signing.attempt_timeout_s: 1 is more than job_timeout_s (0.5), so no second node would be asked",
        ),
        (
            {"signing": FILES + "reconnect_min_s = 9"},
            "signing.reconnect_min_s: 9 is more than reconnect_max_s (1); swap them",
        ),
        (
            {"routing": "attempt_timeout_min_s = 2"},
            "routing.attempt_timeout_min_s: 2 is more than signing.attempt_timeout_s (1)",
        ),
        ({"routing": "eject_min_s = 60"}, "routing.eject_min_s: 60 is more than eject_max_s (30); swap them"),
        ({"routing": "window_min = 17"}, "routing.window_min: 17 is more than window_initial (16); swap them"),
        (
            {"signing": FILES + "max_in_flight_per_node = 1"},
            "routing.window_min: 2 is more than signing.max_in_flight_per_node (1); make it smaller",
        ),
    ],
)
def test_a_contradiction_is_named_with_what_to_do(tmp_path: Path, changes: dict[str, str], expected: str) -> None:
    assert f"{expected}" in message_for(tmp_path, toml(**changes))


def test_lines_are_those_of_the_field(tmp_path: Path) -> None:
    text = toml(discovery=HOST + "interval_s = 0.5")
    line = 1 + text.splitlines().index("interval_s = 0.5")
    assert message_for(tmp_path, text).startswith(f"proxy.toml:{line}: discovery[0].interval_s")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"nodes": NODE}, ["nodes: there is only one, so no new session can start while it is down"]),
        ({"nodes": NODE, "discovery": HOST}, []),
        ({"nodes": "", "discovery": HOST}, []),
        ({"discovery": 'name = "s"\nkind = "srv"\nrecord = "_keyless._tcp.hsm.test"'}, []),
        (
            {"nodes": NODE + 'state = "draining"\n' + OTHER},
            ["nodes: only m is enabled, so no new session can start while it is down"],
        ),
        (
            {"nodes": NODE + 'state = "draining"\n' + OTHER + 'state = "disabled"\n'},
            ["nodes: none is enabled, so no new session can start until one is"],
        ),
        (
            {"nodes": NODE + 'state = "disabled"\n'},
            ["nodes: none is enabled, so no new session can start until one is"],
        ),
        ({"routing": 'zone = "a"'}, ["routing.zone: no node and no discovery is in 'a', so none is preferred"]),
        ({"routing": 'zone = "a"', "discovery": HOST + 'zone = "a"'}, []),
        (
            {"nodes": NODE + 'zone = "a"\n' + OTHER},
            ["routing.zone: is not set, so the zones of nodes make no difference"],
        ),
        (
            {"discovery": HOST + "[[discovery]]\n" + HOST.replace('"hsm"', '"again"').replace("hsm.test", "HSM.test.")},
            ["discovery[1].record: discovery[0] asks for HSM.test. too and has its nodes already"],
        ),
        (
            {"routing": "queue_wait_s = 6\nno_node_wait_s = 7"},
            [
                "routing.queue_wait_s: 6 is more than signing.job_timeout_s (5), which ends the wait earlier",
                "routing.no_node_wait_s: 7 is more than signing.job_timeout_s (5), which ends the wait earlier",
            ],
        ),
    ],
)
def test_what_is_odd_is_said(tmp_path: Path, changes: dict[str, str], expected: list[str]) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(toml(**changes) if changes else GOOD)
    assert list(node_warnings(load_config(path))) == expected
