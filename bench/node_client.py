"""The load generator for a node: signatures asked for over one mTLS link, a fixed number of them under way.

    python -m bench.node_client ADDRESS CA CERTIFICATE PRIVATE_KEY SITE_CERTIFICATE SCHEME SECONDS IN_FLIGHT

Each request is for another TLS 1.3 CertificateVerify, with the message beside the digest, as a proxy sends it. The key
is that of the site's certificate, and one answer in 256 is verified with it. Prints JSON: signatures (all, and
those that count), seconds, failures. It knows the wire and nothing else of Sealgate.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm.shared.mtls import Identity, client_context
from hsm.wire.messages import DrainingAnnounced, KeysChanged, Signed
from hsm.wire.schemes import SCHEME_BY_NAME, Scheme
from hsm.wire.session import ClientSession
from proxy.signing.verification import KeyVerifier

HEAD = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"
WARM_UP_S, ANSWER_S = 0.2, 15.0
VERIFY_EVERY = 256


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    ski: bytes
    scheme: Scheme
    verifier: KeyVerifier
    in_flight: int


class Load(asyncio.Protocol):
    """Keeps `in_flight` requests under way from the moment it is connected."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._session = ClientSession(plan.in_flight)
        self._messages: dict[int, bytes] = {}
        self._asked = 0
        self.good = self.bad = 0
        self.error = ""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        for _ in range(self._plan.in_flight):
            self._ask()
        self._transport.write(self._session.data_to_send())

    def data_received(self, data: bytes) -> None:
        self._session.receive_data(data)
        for event in self._session.events():
            if isinstance(event, KeysChanged | DrainingAnnounced):
                continue
            message = self._messages.pop(event.request_id)
            if isinstance(event, Signed) and self._is_good(message, event.signature):
                self.good += 1
            else:
                self.bad += 1
                self.error = self.error or str(event)
            self._ask()
        self._transport.write(self._session.data_to_send())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionError("the node closed the link"))

    def _is_good(self, message: bytes, signature: bytes) -> bool:
        plan = self._plan
        return self.good % VERIFY_EVERY != 0 or plan.verifier.is_good(plan.scheme, message, signature)

    def _ask(self) -> None:
        self._asked += 1
        plan, now = self._plan, time.monotonic()
        message = HEAD + self._asked.to_bytes(32, "big")
        payload = plan.scheme.payload_of(message)
        deadline = now + ANSWER_S
        request_id = self._session.sign(plan.ski, plan.scheme, payload, now=now, deadline=deadline, message=message)
        self._messages[request_id] = message


async def run(address: str, identity: Identity, plan: Plan, seconds: float) -> dict[str, object]:
    """One run; the first moments are not counted."""
    host, port = address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    context = client_context(identity)
    transport, load = await loop.create_connection(
        lambda: Load(plan), host, int(port), ssl=context, server_hostname="localhost"
    )
    await asyncio.wait([load.ended], timeout=WARM_UP_S)
    before, started = load.good, time.monotonic()
    await asyncio.wait([load.ended], timeout=seconds)
    good, took_s = load.good - before, time.monotonic() - started
    if load.ended.done():
        load.error = load.error or str(load.ended.exception())
        load.bad += 1
    else:
        load.ended.set_result(None)
    transport.close()
    return {"good": good, "asked": load.good, "bad": load.bad, "seconds": took_s, "error": load.error}


def main(arguments: list[str]) -> None:
    """Run and print; see the module."""
    address, ca, certificate, private_key, site, scheme, seconds, in_flight = arguments
    public_key = x509.load_pem_x509_certificate(Path(site).read_bytes()).public_key()
    plan = Plan(
        x509.SubjectKeyIdentifier.from_public_key(public_key).digest,
        SCHEME_BY_NAME[scheme],
        KeyVerifier(public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)),
        int(in_flight),
    )
    identity = Identity(Path(ca), Path(certificate), Path(private_key))
    print(json.dumps(uvloop.run(run(address, identity, plan, float(seconds)))))


if __name__ == "__main__":
    main(sys.argv[1:])
