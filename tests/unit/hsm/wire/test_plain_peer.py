"""Plain Keyless v1 peers that share no code with `hsm.wire`: a key server and a client, written from the protocol's
description alone. They pad every message to 1,024 bytes, know no extension and refuse opcodes they do not know."""

from __future__ import annotations

import hashlib
import struct
from itertools import count

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from hsm.wire.client_session import ClientSession
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import Failed, Ponged, Signed, SignRequested
from hsm.wire.schemes import Scheme
from hsm.wire.server_session import ServerSession

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
MESSAGE = b"what a handshake signs"
PADDED_BYTES = 1024


def plain_message(request_id: int, *items: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack("!BH", tag, len(data)) + data for tag, data in items)
    missing = PADDED_BYTES - 8 - len(body)
    if missing >= 3:
        body += struct.pack("!BH", 0x20, missing - 3) + bytes(missing - 3)
    return struct.pack("!BBHI", 1, 0, len(body), request_id) + body


def plain_messages(stream: bytes) -> list[tuple[int, dict[int, bytes]]]:
    found = []
    while stream:
        major, _minor, length, request_id = struct.unpack("!BBHI", stream[:8])
        assert major == 1
        body, stream = stream[8 : 8 + length], stream[8 + length :]
        assert len(body) == length
        items: dict[int, bytes] = {}
        while body:
            tag, size = struct.unpack("!BH", body[:3])
            assert tag not in items
            items[tag], body = body[3 : 3 + size], body[3 + size :]
            assert len(items[tag]) == size
        found.append((request_id, items))
    return found


class PlainServer:
    """A key server that knows v1 and nothing else."""

    HASHES = {5: hashes.SHA256(), 6: hashes.SHA384(), 7: hashes.SHA512()}

    def __init__(self, keys: dict[bytes, PrivateKey]) -> None:
        self.keys = keys
        self.refused: list[int] = []

    def receive(self, stream: bytes) -> bytes:
        answers = [self.answer(request_id, items) for request_id, items in plain_messages(stream)]
        return b"".join(reversed(answers))  # any order is allowed

    def answer(self, request_id: int, items: dict[int, bytes]) -> bytes:
        opcode, payload = items[0x11][0], items.get(0x12, b"")
        if opcode == 0xF1:
            return plain_message(request_id, (0x11, b"\xf2"), (0x12, payload))
        if opcode not in (5, 6, 7, 0x15, 0x16, 0x17, 0x18, 0x35, 0x36, 0x37):
            self.refused.append(opcode)
            return plain_message(request_id, (0x11, b"\xff"), (0x12, b"\x05"))
        key = self.keys.get(items[0x04])
        if key is None:
            return plain_message(request_id, (0x11, b"\xff"), (0x12, b"\x02"))
        return plain_message(request_id, (0x11, b"\xf0"), (0x12, self.sign(key, opcode, payload)))

    def sign(self, key: PrivateKey, opcode: int, payload: bytes) -> bytes:
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key.sign(payload)
        prehashed = Prehashed(self.HASHES[opcode & 0x0F])
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key.sign(payload, ec.ECDSA(prehashed))
        if opcode & 0x30:
            pss = padding.PSS(padding.MGF1(self.HASHES[opcode & 0x0F]), len(payload))
            return key.sign(payload, pss, prehashed)
        return key.sign(payload, padding.PKCS1v15(), prehashed)


class PlainClient:
    """A client that knows v1 and nothing else."""

    def __init__(self) -> None:
        self.ids = count(0)  # some clients begin with 0

    def request(self, opcode: int, ski: bytes, payload: bytes) -> tuple[int, bytes]:
        request_id = next(self.ids)
        names = ((0x02, b"example.org"), (0x03, bytes((192, 0, 2, 7))), (0x05, bytes((192, 0, 2, 1))))
        return request_id, plain_message(request_id, (0x11, bytes((opcode,))), (0x04, ski), *names, (0x12, payload))


@pytest.fixture(scope="module")
def keys() -> dict[str, PrivateKey]:
    return {
        "rsa": rsa.generate_private_key(65537, 2048),
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
    }


def ski_of(key: PrivateKey) -> bytes:
    bits = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    # The bit string is the last element of a subjectPublicKeyInfo; its content follows the count of unused bits.
    size = {"RSA": 270, "EC": 65, "Ed": 32}[next(name for name in ("RSA", "EC", "Ed") if name in type(key).__name__)]
    assert bits[-size - 1] == 0
    return hashlib.sha1(bits[-size:]).digest()


def check_signature(key: PrivateKey, scheme: Scheme, signature: bytes) -> None:
    public = key.public_key()
    if isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(signature, MESSAGE)
        return
    digest = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[str(scheme.digest)]
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, MESSAGE, ec.ECDSA(digest))
    elif scheme.is_pss:
        public.verify(signature, MESSAGE, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    else:
        public.verify(signature, MESSAGE, padding.PKCS1v15(), digest)


# Our client and a plain server.


def test_our_client_gets_signatures_of_every_scheme_from_a_plain_server(keys: dict[str, PrivateKey]) -> None:
    server = PlainServer({ski_of(key): key for key in keys.values()})
    session = ClientSession()
    wanted = {}
    for scheme in Scheme:
        key = keys[scheme.family.value]
        payload = scheme.payload_of(MESSAGE)
        request_id = session.sign(
            ski_of(key),
            scheme,
            payload,
            now=0.0,
            deadline=1.0,
            server_name="example.org",
            client_ip="2001:db8::7",
            message=MESSAGE,
        )
        wanted[request_id] = (key, scheme)
    answers = server.receive(session.data_to_send())
    assert len(answers) == len(wanted) * PADDED_BYTES
    session.receive_data(answers)
    events = session.events()
    assert {event.request_id for event in events if isinstance(event, Signed)} == set(wanted)
    for event in events:
        assert isinstance(event, Signed)
        check_signature(*wanted[event.request_id], event.signature)


def test_a_plain_server_knows_no_extension_and_the_link_goes_on(keys: dict[str, PrivateKey]) -> None:
    server = PlainServer({ski_of(keys["ec"]): keys["ec"]})
    session = ClientSession()
    listing = session.list_keys(now=0.0, deadline=1.0)
    session.receive_data(server.receive(session.data_to_send()))
    assert session.events() == [Failed(listing, ErrorCode.BAD_OPCODE)]
    assert server.refused == [0x80]

    pinged = session.ping(b"hello", now=0.0, deadline=1.0)
    missing = session.sign(bytes(20), Scheme.ED25519, MESSAGE, now=0.0, deadline=1.0)
    session.receive_data(server.receive(session.data_to_send()))
    assert session.events() == [Failed(missing, ErrorCode.KEY_NOT_FOUND), Ponged(pinged, b"hello")]

    cancelled = session.sign(bytes(20), Scheme.ED25519, MESSAGE, now=0.0, deadline=1.0)
    request = session.data_to_send()
    session.cancel(cancelled)
    assert session.data_to_send() == b""
    session.receive_data(server.receive(request))
    assert session.events() == []
    assert server.refused == [0x80]


# A plain client and our node.


def test_a_plain_client_gets_signatures_of_every_scheme_from_our_node(keys: dict[str, PrivateKey]) -> None:
    token = PlainServer({})
    client, session = PlainClient(), ServerSession()
    wanted = {}
    for scheme in Scheme:
        key = keys[scheme.family.value]
        request_id, request = client.request(scheme.opcode, ski_of(key), scheme.payload_of(MESSAGE))
        assert len(request) == PADDED_BYTES
        wanted[request_id] = (key, scheme)
        session.receive_data(request)
    by_ski = {ski_of(key): key for key in keys.values()}
    for event in reversed(session.events()):
        assert isinstance(event, SignRequested)
        assert (event.server_name, event.client_ip) == ("example.org", "192.0.2.7")
        assert event.deadline_s is None
        signature = token.sign(by_ski[event.ski], event.scheme.opcode, event.payload)
        session.reply_signature(event.request_id, signature)
    answers = plain_messages(session.data_to_send())
    assert {request_id for request_id, _items in answers} == set(wanted)
    for request_id, items in answers:
        assert set(items) == {0x11, 0x12}
        assert items[0x11] == b"\xf0"
        check_signature(*wanted[request_id], items[0x12])


def test_a_plain_client_sees_plain_errors_only() -> None:
    client, session = PlainClient(), ServerSession()
    session.announce_draining()
    for code in ErrorCode:
        request_id, request = client.request(0x18, bytes(20), MESSAGE)
        session.receive_data(request)
        [event] = session.events()
        session.reply_error(event.request_id, code, "told to clients with extensions only", 1.0, 5)
        [(answered_id, items)] = plain_messages(session.data_to_send())
        assert answered_id == request_id
        assert set(items) == {0x11, 0x12}
        assert items[0x11] == b"\xff"
        assert 1 <= items[0x12][0] <= 11
        assert len(items[0x12]) == 1


def test_a_plain_client_that_asks_for_decryption_or_sealing_is_refused() -> None:
    client, session = PlainClient(), ServerSession()
    for opcode in (0x01, 0x02, 0x03, 0x12, 0x13, 0x21, 0x22, 0x23, 0x24):
        request_id, request = client.request(opcode, bytes(20), bytes(32))
        session.receive_data(request)
        assert plain_messages(session.data_to_send()) == [(request_id, {0x11: b"\xff", 0x12: b"\x05"})]
    assert session.events() == []


def test_a_plain_client_pings() -> None:
    client, session = PlainClient(), ServerSession()
    request_id, request = client.request(0xF1, bytes(20), b"are you there")
    session.receive_data(request)
    assert plain_messages(session.data_to_send()) == [(request_id, {0x11: b"\xf2", 0x12: b"are you there"})]
