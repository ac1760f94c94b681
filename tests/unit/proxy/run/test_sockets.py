from __future__ import annotations

import socket

import pytest

from hsm.shared.exposition import ListenError
from proxy.run.sockets import bind_listener, bind_single, close_all


def test_every_slot_has_its_own_socket_on_the_same_port() -> None:
    bound = bind_listener("https", "127.0.0.1:0", 16, 3)
    names = {each.getsockname() for each in bound.sockets}
    assert len(bound.sockets) == 3
    assert len(names) == 1
    assert bound.address == f"127.0.0.1:{names.pop()[1]}"
    close_all([bound])


@pytest.mark.parametrize("shares", [True, False])
def test_a_port_that_somebody_listens_on_is_refused(shares: bool) -> None:
    with socket.socket() as other:
        if shares:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        for bind in (lambda: bind_listener("https", address, 16, 2), lambda: bind_single(address)):
            with pytest.raises(ListenError, match=rf"{address}: another program \(or an older proxy\) listens there"):
                bind()


def test_a_port_is_free_again_at_once_after_clients_were_served() -> None:
    bound = bind_listener("https", "127.0.0.1:0", 16, 1)
    with socket.create_connection(("127.0.0.1", bound.sockets[0].getsockname()[1])):
        bound.sockets[0].setblocking(True)
        accepted, _ = bound.sockets[0].accept()
        accepted.close()  # this side closes first, so the address stays in TIME_WAIT
    close_all([bound])
    close_all([bind_listener("https", bound.address, 16, 2)])


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("192.0.2.7:8443", "this host does not have that address"),
        ("no-such-host.invalid:8443", "no-such-host.invalid is no address here"),
    ],
)
def test_an_address_that_is_not_here_is_named(address: str, reason: str) -> None:
    with pytest.raises(ListenError, match=reason):
        bind_listener("https", address, 16, 1)


def test_ipv6_addresses_keep_their_brackets() -> None:
    try:
        bound = bind_single("[::1]:0")
    except ListenError as error:
        pytest.skip(str(error))
    assert bound.address.startswith("[::1]:")
    bound.close()
