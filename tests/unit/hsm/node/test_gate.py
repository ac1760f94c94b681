"""What requests must pass before they are queued, through the service."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from hsm.backends.attributes import KeyAttributes, KeyState, Purpose
from hsm.node.access import AccessRule, Denial
from hsm.node.observe import Outcome
from hsm.node.requests import ServiceLimits
from hsm.node.service import Service
from hsm.node.tls_messages import Refusal
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType, Scheme
from hsm.wire.session import SignRequested
from tests.support.node import PROXY, FakeBackend, open_token, until
from tests.support.tls_messages import certificate_verify, key_exchange
from tests.unit.hsm.node.test_service import Answers, Ear

EC = KeyEntry(b"\x01" * 20, KeyType.P256, "www-ec")
ED = KeyEntry(b"\x02" * 20, KeyType.ED25519, "www-ed")
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
LIMITS = ServiceLimits(1000, 5.0, 30.0, 0.002)


class Door:
    """A service whose clocks stand still until the test moves them."""

    def __init__(self, attributes: KeyAttributes | None = None, *rules: AccessRule) -> None:
        self.backend = FakeBackend({EC: "cheap", ED: "cheap"})
        if attributes is not None:
            self.backend.attributes = {EC.ski: attributes, ED.ski: attributes}
        self.ear, self.answers = Ear(), Answers()
        self.now, self.wall = 0.0, NOW
        self.service = Service(
            [open_token("vault", self.backend)],
            rules or [AccessRule(PROXY, ("*",))],
            LIMITS,
            self.ear,
            asyncio.get_running_loop(),
            clock=lambda: self.now,
            wall=lambda: self.wall,
        )
        self.client = self.service.attach(PROXY, self.answers)
        self._ids = 0

    async def ask(
        self, message: bytes | None, *, payload: bytes | None = None, scheme: Scheme = Scheme.ECDSA_SHA256
    ) -> int:
        """Asks and waits for the answer."""
        self._ids += 1
        key = ED if scheme is Scheme.ED25519 else EC
        payload = scheme.payload_of(message or b"") if payload is None else payload
        request = SignRequested(self._ids, key.ski, scheme, payload, None, "shop.test", "", "", message)
        self.service.sign(self.client, request)
        await until(lambda: self.answers.count >= self._ids)
        return self._ids

    async def reason(self, message: bytes | None, **more: bytes | Scheme) -> str:
        """Asks for what must be denied: the sentence."""
        number = await self.ask(message, **more)  # type: ignore[arg-type]
        code, sentence = self.answers.errors[number]
        assert code is ErrorCode.DENIED
        return sentence


@pytest.mark.parametrize("message", [certificate_verify(), key_exchange(23), key_exchange(30)])
async def test_handshakes_are_signed(message: bytes) -> None:
    door = Door()
    signed = await door.ask(message)
    assert door.answers.signatures[signed] == b"signed:" + Scheme.ECDSA_SHA256.payload_of(message)
    signed = await door.ask(message, scheme=Scheme.ED25519)
    assert door.answers.signatures[signed] == b"signed:" + message


@pytest.mark.parametrize("scheme", [Scheme.ECDSA_SHA256, Scheme.ED25519])
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"0\x82\x02\x1e certificate", Refusal.NOT_TLS),
        (certificate_verify(context="client"), Refusal.CLIENT_CONTEXT),
        (key_exchange() + b"\0", Refusal.TRAILING_BYTES),
    ],
)
async def test_anything_else_is_refused_told_counted_and_logged(
    message: bytes, reason: Refusal, scheme: Scheme
) -> None:
    door = Door(None, AccessRule(PROXY, ("*",), digests=True))
    with capture_logs() as lines:
        assert await door.reason(message, scheme=scheme) == reason.sentence
    assert door.backend.signed == 0
    assert door.ear.denied == [(PROXY, reason)]
    [line] = lines
    assert (line["client"], line["reason"], line["why"]) == (PROXY, reason.value, reason.sentence)
    assert line["key"] in ("www-ec", "www-ed")
    assert line["server_name"] == "shop.test"


async def test_a_digest_without_its_message_is_refused_unless_the_rule_allows_it() -> None:
    door = Door()
    assert await door.reason(None, payload=b"d" * 32) == Denial.DIGEST_ONLY.sentence
    keyless = Door(None, AccessRule(PROXY, ("*",), digests=True))
    assert await keyless.ask(None, payload=b"d" * 32) in keyless.answers.signatures


async def test_what_is_signed_is_what_the_node_hashed() -> None:
    door = Door()
    forged = Scheme.ECDSA_SHA256.payload_of(b"forged")
    assert await door.reason(certificate_verify(), payload=forged) == Denial.DIGEST_MISMATCH.sentence
    assert door.backend.signed == 0


@pytest.mark.parametrize("purpose", [Purpose.CA, Purpose.CODE_SIGNING, Purpose.GENERAL])
async def test_keys_for_other_purposes_sign_what_they_are_given(purpose: Purpose) -> None:
    attributes = KeyAttributes(purpose=purpose)
    door = Door(attributes, AccessRule(PROXY, ("*",), purposes=(purpose.value,)))
    assert await door.ask(None, payload=b"d" * 32) in door.answers.signatures
    assert await Door(attributes).reason(None, payload=b"d" * 32) == Denial.PURPOSE_NOT_ALLOWED.sentence


@pytest.mark.parametrize(
    ("attributes", "denial"),
    [
        (KeyAttributes(state=KeyState.RETIRED), Denial.KEY_NOT_ACTIVE),
        (KeyAttributes(not_before=NOW + HOUR), Denial.KEY_NOT_YET_VALID),
        (KeyAttributes(not_after=NOW - HOUR), Denial.KEY_EXPIRED),
        (KeyAttributes(schemes=("ecdsa_sha384",)), Denial.KEY_SCHEME_NOT_ALLOWED),
    ],
)
async def test_what_the_owner_of_a_key_says_counts(attributes: KeyAttributes, denial: Denial) -> None:
    door = Door(attributes)
    assert await door.reason(certificate_verify()) == denial.sentence
    assert door.ear.denied == [(PROXY, denial)]


async def test_a_key_signs_once_its_time_has_come_and_clients_are_told() -> None:
    door = Door(KeyAttributes(not_before=NOW + HOUR, not_after=NOW + 2 * HOUR))
    revision = door.service.revision
    assert door.service.usable_keys(door.client) == ()
    assert not door.service.has_time_changed_keys()
    door.wall = NOW + HOUR + timedelta(seconds=1)
    assert door.service.has_time_changed_keys()
    assert not door.service.has_time_changed_keys()
    assert door.service.revision == revision + 1
    assert door.service.usable_keys(door.client) == (EC, ED)
    assert await door.ask(certificate_verify()) in door.answers.signatures
    door.wall = NOW + 3 * HOUR
    assert door.service.has_time_changed_keys()
    assert door.service.usable_keys(door.client) == ()


async def test_a_key_makes_so_many_signatures_a_second_and_no_more() -> None:
    door = Door(KeyAttributes(max_rate=1.0))
    assert await door.ask(certificate_verify()) in door.answers.signatures
    late = await door.ask(certificate_verify())
    assert door.answers.errors[late] == (ErrorCode.BUSY, "this key may make 1 signatures a second at this node")
    assert door.answers.hints[late][0] == pytest.approx(1.0)
    assert door.ear.ended == [("www-ec", Outcome.RATE_LIMITED)]
    assert await door.ask(certificate_verify(), scheme=Scheme.ED25519) in door.answers.signatures
    door.now = 1.0
    assert await door.ask(certificate_verify()) in door.answers.signatures


async def test_each_client_of_a_rule_has_its_own_rate() -> None:
    door = Door(None, AccessRule("*", ("*",), max_rate=1.0))
    assert await door.ask(certificate_verify()) in door.answers.signatures
    late = await door.ask(certificate_verify())
    assert door.answers.errors[late] == (ErrorCode.BUSY, "this client may have 1 signatures a second from this node")
    door.client = door.service.attach("CN=another", door.answers)
    assert await door.ask(certificate_verify()) in door.answers.signatures
    door.client = door.service.attach(PROXY, door.answers)
    assert await door.ask(certificate_verify()) in door.answers.errors, "another connection is no other client"


async def test_a_key_without_room_costs_the_client_nothing() -> None:
    door = Door(KeyAttributes(max_rate=0.1), AccessRule(PROXY, ("*",), max_rate=2.0))
    assert await door.ask(certificate_verify()) in door.answers.signatures
    door.now = 1.0
    for _ in range(3):
        number = await door.ask(certificate_verify())
        assert door.answers.errors[number][1].startswith("this key may make 0.1")
    assert await door.ask(certificate_verify(), scheme=Scheme.ED25519) in door.answers.signatures


async def test_the_rule_that_lets_a_digest_through_says_how_often() -> None:
    door = Door(None, AccessRule(PROXY, ("*",)), AccessRule(PROXY, ("*",), digests=True, max_rate=1.0))
    for _ in range(5):
        assert await door.ask(certificate_verify()) in door.answers.signatures
    assert await door.ask(None, payload=b"d" * 32) in door.answers.signatures
    assert await door.ask(None, payload=b"d" * 32) in door.answers.errors


async def test_other_rules_and_limits_count_at_once_for_who_is_connected() -> None:
    door = Door()
    assert await door.ask(certificate_verify()) in door.answers.signatures
    revision = door.service.revision
    door.service.apply([AccessRule(PROXY, ("mail",))], LIMITS)
    assert door.service.revision != revision
    assert await door.reason(certificate_verify()) == Denial.KEY_NOT_ALLOWED.sentence
    door.service.apply([AccessRule(PROXY, ("www-*",))], ServiceLimits(0, 5.0, 30.0, 0.002))
    full = await door.ask(certificate_verify())
    assert door.answers.errors[full][0] is ErrorCode.BUSY


async def test_signatures_are_counted_and_refusals_are_not() -> None:
    door = Door()
    for _ in range(3):
        await door.ask(certificate_verify())
    await door.ask(b"nothing")
    taken = door.service.counts.take("vault", NOW, 0.0)
    assert {ski: usage.signatures for ski, usage in taken.items()} == {EC.ski: 3}
