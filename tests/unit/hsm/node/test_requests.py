"""What the service keeps of a request."""

from __future__ import annotations

from hsm.node.access import ClientGrants
from hsm.node.admission import Lane
from hsm.node.requests import Client, SignTicket
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType, Scheme
from hsm.wire.session import SignRequested
from tests.unit.hsm.node.test_service import Answers

KEY = KeyEntry(b"\x01" * 20, KeyType.ED25519, "www")


def test_a_ticket_carries_its_request_through_a_lane() -> None:
    client = Client("CN=x", Answers(), ClientGrants("CN=x", (), ()), 1)
    request = SignRequested(7, KEY.ski, Scheme.ED25519, b"message", 0.5, "", "", "")
    lane = Lane(1, 1)
    ticket = SignTicket(client, request, KEY, lane, 10.0, 10.5)
    assert (ticket.request_id, ticket.scheme, ticket.payload, ticket.key) == (7, Scheme.ED25519, b"message", KEY)
    assert lane.offer(ticket, 10.0) is None
    assert lane.take(10.1) is ticket
    assert ticket.started == 10.1
    assert ticket.signature is None
    assert ticket.error is None
    assert client.tickets == {}
