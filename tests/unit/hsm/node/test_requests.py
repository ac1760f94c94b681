"""What the service keeps of a request."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from hsm.backends.attributes import KeyAttributes
from hsm.node.access import ClientGrants
from hsm.node.admission import Lane
from hsm.node.requests import Client, SignTicket
from hsm.node.runners import Runner
from hsm.node.served import ServedKey, ServedToken
from hsm.node.usage import KeyCount
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType, Scheme
from hsm.wire.session import SignRequested
from tests.unit.hsm.node.test_service import Answers

KEY = KeyEntry(b"\x01" * 20, KeyType.ED25519, "www")


def test_a_ticket_carries_its_request_through_a_lane() -> None:
    client = Client("CN=x", Answers(), ClientGrants("CN=x", (), ()), 1)
    request = SignRequested(7, KEY.ski, Scheme.ED25519, b"asked", 0.5, "", "", "")
    lane = Lane(1, 1)
    runner = cast("Runner", SimpleNamespace(lane=lane))
    served = ServedKey(
        KEY, KeyAttributes(), cast("ServedToken", SimpleNamespace(name="vault")), runner, KeyCount(), is_tls_only=True
    )
    ticket = SignTicket(client, request, b"message", served, 10.0, 10.5)
    assert ticket.lane is lane
    assert (ticket.request_id, ticket.scheme, ticket.payload, ticket.key) == (7, Scheme.ED25519, b"message", KEY)
    assert lane.offer(ticket, 10.0) is None
    assert lane.take(10.1) is ticket
    assert ticket.started == 10.1
    assert ticket.signature is None
    assert ticket.error is None
    assert client.tickets == {}
