from __future__ import annotations

from proxy.config.schema import TlsConfig
from proxy.edge.shared import EdgeTimes


def test_the_defaults_are_those_of_the_config() -> None:
    assert EdgeTimes().handshake_s == TlsConfig.__struct_defaults__[-1]
