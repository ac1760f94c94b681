from __future__ import annotations

from proxy.base.observe import ProxyObserver
from proxy.config.schema import TlsConfig
from proxy.edge.shared import EdgeServices, EdgeTimes


def test_the_defaults_are_those_of_the_config() -> None:
    assert EdgeTimes().handshake_s == TlsConfig.__struct_defaults__[-1]


def test_without_a_word_nothing_is_short_and_each_worker_has_a_door_of_its_own() -> None:
    one, other = (EdgeServices(None, None, None, ProxyObserver()) for _ in range(2))  # type: ignore[arg-type]
    assert not one.pressure("").is_short
    assert one.doors is not other.doors
    assert not one.doors.is_open
