from __future__ import annotations

from proxy.edge.info import address_of, connection_info
from proxy.tls.events import HandshakeDone


class Tcp:
    def __init__(self, **known: tuple[object, ...]) -> None:
        self.known = known

    def get_extra_info(self, name: str) -> object:
        return self.known.get(name)


def test_addresses_of_both_families_and_of_nobody() -> None:
    tcp = Tcp(peername=("2001:db8::1", 4711, 0, 0), sockname=("192.0.2.1", 443))
    assert address_of(tcp, "peername") == ("2001:db8::1", 4711)  # type: ignore[arg-type]
    assert address_of(Tcp(), "peername") == ("", 0)  # type: ignore[arg-type]
    assert address_of(None, "peername") == ("", 0)


def test_what_upper_layers_learn() -> None:
    event = HandshakeDone("site", "www.site", "TLSv1.3", "cipher", "group", "http/1.1", is_resumed=True)
    tcp = Tcp(sockname=("192.0.2.1", 443))
    info = connection_info(tcp, ("192.0.2.9", 1), "https", event)  # type: ignore[arg-type]
    assert (info.client_ip, info.client_port, info.local_port, info.listener) == ("192.0.2.9", 1, 443, "https")
    assert (info.site, info.server_name, info.alpn, info.is_resumed) == ("site", "www.site", "http/1.1", True)
