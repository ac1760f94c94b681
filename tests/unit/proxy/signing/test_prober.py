"""Probes: which key, how often, and what their ends mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from hsm.wire.errors import ErrorCode, LinkFull
from hsm.wire.messages import Expired, Failed, Lost, Ponged, Signed
from hsm.wire.schemes import KeyFamily, KeyType, Scheme
from proxy.base.errors import SigningReason
from proxy.signing.connection import Answer, OnAnswer
from proxy.signing.prober import ProbeKey, Prober, ProbeResult, by_family, probe_message, probe_scheme
from proxy.signing.verification import KeyVerifier
from tests.support.fake_node import FakeKey
from tests.support.play import policy
from tests.support.signing_cluster import until

KEY = FakeKey.make()
RSA_KEY = FakeKey.make("rsa-2048")
EC, RSA = KeyFamily.EC, KeyFamily.RSA


@dataclass
class FakeLink:
    """Answers at once with whatever `answer` makes of the request; None: never."""

    answer: Callable[[bytes, Scheme, bytes], Answer | None]
    asked: list[tuple[bytes, Scheme, bytes]] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    pings: int = 0
    is_full: bool = False
    cancelled: list[int] = field(default_factory=list)
    unanswered: list[KeyFamily | None] = field(default_factory=list)

    def sign(
        self,
        ski: bytes,
        scheme: Scheme,
        payload: bytes,
        deadline: float,
        on_answer: OnAnswer,
        tag: Any,
        *,
        message: bytes,
    ) -> int:
        if self.is_full:
            raise LinkFull("full")
        assert payload == scheme.payload_of(message)
        self.messages.append(message)
        self.asked.append((ski, scheme, payload))
        if (answer := self.answer(ski, scheme, payload)) is not None:
            asyncio.get_running_loop().call_soon(on_answer, tag, answer)
        return len(self.asked)

    def ping(self, deadline: float, on_answer: OnAnswer, tag: Any) -> int:
        self.pings += 1
        asyncio.get_running_loop().call_soon(on_answer, tag, Ponged(1, b""))
        return 1

    def cancel(self, request_id: int) -> None:
        self.cancelled.append(request_id)

    def probe_unanswered(self, family: KeyFamily | None, asked_at: float) -> None:
        self.unanswered.append(family)

    def count(self, scheme: Scheme) -> int:
        return sum(asked[1] is scheme for asked in self.asked)


@dataclass
class Probing:
    """A prober and what it reported."""

    link: FakeLink | None
    keys: list[ProbeKey]
    results: list[ProbeResult] = field(default_factory=list)
    prober: Prober | None = None
    is_urgent: bool = False

    def start(self, interval_s: float = 0.02) -> None:
        self.prober = Prober(
            policy(probe_interval_s=interval_s, probe_timeout_s=0.02),
            choose_keys=lambda: by_family(self.keys, ()),
            choose_link=lambda: self.link,
            is_urgent=lambda: self.is_urgent,
            report=self.results.append,
            rng=Random(1),
        )
        self.prober.start()


@pytest.fixture
async def probing() -> AsyncIterator[Probing]:
    def sign(_ski: bytes, scheme: Scheme, payload: bytes) -> Answer:
        return Signed(1, KEY.sign(scheme, payload))

    play = Probing(FakeLink(sign), [ProbeKey.of(KEY.ski, KEY.type, KeyVerifier(KEY.public_pem))])
    yield play
    if play.prober:
        play.prober.stop()


async def test_a_good_signature_is_a_good_probe_again_and_again(probing: Probing) -> None:
    probing.start()
    await until(lambda: len(probing.results) >= 3)
    assert {(result.family, result.ski, result.reason) for result in probing.results} == {(EC, KEY.ski, None)}
    assert probing.link is not None
    payloads = [payload for _ski, _scheme, payload in probing.link.asked]
    assert len(set(payloads)) == len(payloads)


async def test_the_first_probe_comes_at_once_and_the_next_after_the_interval(probing: Probing) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    probing.start(interval_s=0.3)
    await until(lambda: len(probing.results) == 1)
    assert loop.time() - started < 0.2
    await until(lambda: len(probing.results) == 2)
    assert loop.time() - started >= 0.26


async def test_keys_take_turns(probing: Probing) -> None:
    others = [FakeKey.make(number=number) for number in (1, 2)]
    probing.keys += [ProbeKey.of(key.ski, key.type) for key in others]
    probing.start()
    await until(lambda: len(probing.results) >= 6)
    assert {result.ski for result in probing.results} == {KEY.ski, others[0].ski, others[1].ski}


async def test_a_family_that_hangs_keeps_no_other_from_being_probed(probing: Probing) -> None:
    def answer(_ski: bytes, scheme: Scheme, payload: bytes) -> Answer | None:
        return None if scheme.family is RSA else Signed(1, KEY.sign(scheme, payload))

    probing.keys.append(ProbeKey.of(RSA_KEY.ski, RSA_KEY.type))
    probing.link = FakeLink(answer)
    probing.start()
    await until(lambda: sum(result.family is EC for result in probing.results) >= 4)
    assert probing.link.count(Scheme.RSA_PSS_SHA256) == 1
    assert {result.family for result in probing.results} == {EC}


async def test_each_family_has_its_own_turns_and_results(probing: Probing) -> None:
    def answer(_ski: bytes, scheme: Scheme, payload: bytes) -> Answer:
        return Expired(1) if scheme.family is RSA else Signed(1, KEY.sign(scheme, payload))

    others = [FakeKey.make(number=1), RSA_KEY]
    probing.keys += [ProbeKey.of(key.ski, key.type) for key in others]
    probing.link = FakeLink(answer)
    probing.start()
    await until(lambda: len(probing.results) >= 8)
    assert {(result.family, result.ski) for result in probing.results} == {
        (EC, KEY.ski),
        (EC, others[0].ski),
        (RSA, RSA_KEY.ski),
    }
    assert {result.reason for result in probing.results if result.family is RSA} == {SigningReason.TIMEOUT}
    assert set(probing.link.unanswered) == {RSA}


async def test_families_come_and_go_with_their_keys(probing: Probing) -> None:
    probing.start()
    await until(lambda: len(probing.results) >= 1)
    probing.keys = []
    await until(lambda: probing.results[-1].family is None)
    probing.keys = [ProbeKey.of(RSA_KEY.ski, RSA_KEY.type)]
    await until(lambda: probing.results[-1].family is RSA)
    probing.results.clear()
    await until(lambda: len(probing.results) >= 3)
    assert {result.family for result in probing.results} == {RSA}


async def test_a_probe_of_a_family_that_went_is_cancelled(probing: Probing) -> None:
    def answer(_ski: bytes, scheme: Scheme, payload: bytes) -> Answer | None:
        return None if scheme.family is RSA else Signed(1, KEY.sign(scheme, payload))

    probing.keys.append(ProbeKey.of(RSA_KEY.ski, RSA_KEY.type))
    link = probing.link = FakeLink(answer)
    probing.start()
    await until(lambda: link.count(Scheme.RSA_PSS_SHA256) == 1)
    assert link.cancelled == []
    probing.keys.pop()
    await until(lambda: len(link.cancelled) == 1)


def test_keys_are_sorted_by_family_and_those_in_doubt_come_alone() -> None:
    keys = [ProbeKey.of(bytes([number]), kind) for number, kind in enumerate(KeyType)]
    found = by_family(keys, ())
    assert set(found) == set(KeyFamily)
    assert {key for each in found.values() for key in each} == set(keys)
    assert all(key.scheme.family is family for family, each in found.items() for key in each)
    doubted = next(key for key in keys if key.scheme is Scheme.ECDSA_SHA384)
    assert by_family(keys, {doubted.ski, b"no such key"}) == found | {EC: (doubted,)}
    assert by_family([], {doubted.ski}) == {}


@pytest.mark.parametrize(("is_urgent", "within"), [(True, True), (False, False)])
async def test_a_busy_node_that_waits_for_proof_is_asked_again_soon(
    probing: Probing, is_urgent: bool, within: bool
) -> None:
    probing.link = FakeLink(lambda *_request: Failed(1, ErrorCode.BUSY, "", None, None))
    probing.is_urgent = is_urgent
    loop = asyncio.get_running_loop()
    probing.start(interval_s=5.0)
    await until(lambda: len(probing.results) >= 1)
    started = loop.time()
    await until(lambda: len(probing.results) >= 2 or loop.time() - started > 0.4)
    assert (len(probing.results) >= 2) is within


async def test_without_a_key_an_echo_will_do(probing: Probing) -> None:
    probing.keys = []
    probing.start()
    await until(lambda: len(probing.results) >= 1)
    assert (probing.results[0].family, probing.results[0].ski, probing.results[0].reason) == (None, b"", None)
    assert probing.link is not None
    assert probing.link.pings >= 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Failed(1, ErrorCode.CRYPTOGRAPHY, "broken", None, None), SigningReason.NODE_ERROR),
        (Failed(1, ErrorCode.BUSY, "", None, None), SigningReason.BUSY),
        (Failed(1, ErrorCode.DENIED, "", None, None), SigningReason.DENIED),
        (Expired(1), SigningReason.TIMEOUT),
        (Lost(1), SigningReason.LINK_LOST),
        (Signed(1, b"garbage"), SigningReason.WRONG_SIGNATURE),
        (Signed(1, KEY.sign(Scheme.ECDSA_SHA256, bytes(32))), SigningReason.WRONG_SIGNATURE),
    ],
)
async def test_other_ends_are_reported_with_their_reason(
    probing: Probing, answer: Answer, reason: SigningReason
) -> None:
    probing.link = FakeLink(lambda *_request: answer)
    probing.start()
    await until(lambda: len(probing.results) >= 1)
    assert probing.results[0].reason is reason


async def test_without_the_public_key_the_form_alone_is_judged(probing: Probing) -> None:
    probing.keys = [ProbeKey.of(KEY.ski, KEY.type)]
    probing.link = FakeLink(lambda *_request: Signed(1, KEY.sign(Scheme.ECDSA_SHA256, bytes(32))))
    probing.start()
    await until(lambda: len(probing.results) >= 1)
    assert probing.results[0].reason is None


async def test_a_missing_key_is_followed_by_another_at_once(probing: Probing) -> None:
    def answer(ski: bytes, scheme: Scheme, payload: bytes) -> Answer:
        if ski != KEY.ski:
            return Failed(1, ErrorCode.KEY_NOT_FOUND, "", None, None)
        return Signed(1, KEY.sign(scheme, payload))

    probing.link = FakeLink(answer)
    probing.keys += [ProbeKey.of(FakeKey.make(number=number).ski, KEY.type) for number in (1, 2)]
    loop = asyncio.get_running_loop()
    started = loop.time()
    probing.start(interval_s=1.0)
    await until(lambda: any(result.reason is None for result in probing.results))
    assert loop.time() - started < 0.5


async def test_keys_that_stay_missing_do_not_make_it_spin(probing: Probing) -> None:
    probing.link = FakeLink(lambda *_request: Failed(1, ErrorCode.KEY_NOT_FOUND, "", None, None))
    probing.start()
    loop = asyncio.get_running_loop()
    started = loop.time()
    await until(lambda: loop.time() - started > 0.1)
    assert 2 <= len(probing.results) <= 9


async def test_no_room_on_the_link_is_a_bad_probe(probing: Probing) -> None:
    assert probing.link is not None
    probing.link.is_full = True
    probing.start()
    await until(lambda: len(probing.results) >= 1)
    probing.link = None
    await until(lambda: probing.results[-1].detail == "no link to the node")
    assert {result.reason for result in probing.results} == {SigningReason.TIMEOUT}


async def test_a_stopped_prober_ignores_a_late_answer(probing: Probing) -> None:
    probing.start()
    assert probing.prober is not None
    assert probing.link is not None
    late: list[tuple[OnAnswer, Any]] = []
    probing.link.sign = lambda *request, message: late.append(request[-2:]) or 1  # type: ignore[method-assign,func-returns-value]
    await until(lambda: bool(late))
    probing.prober.stop()
    assert probing.link.cancelled == [1]
    on_answer, tag = late[0]
    on_answer(tag, Signed(1, b"late"))
    assert probing.results == []


async def test_each_probe_is_an_input_of_a_certificate_verify_that_no_handshake_has(probing: Probing) -> None:
    probing.start()
    await until(lambda: len(probing.results) >= 3)
    assert probing.link is not None
    messages = probing.link.messages
    assert len(set(messages)) == len(messages)
    for message in messages:
        assert message.startswith(b"\x20" * 64 + b"TLS 1.3, server CertificateVerify\x00")
        assert len(message) == 64 + 33 + 1 + 32


def test_a_probe_message_is_new_each_time() -> None:
    assert len({probe_message() for _ in range(100)}) == 100


TLS13_SCHEMES = {
    KeyType.P256: Scheme.ECDSA_SHA256,
    KeyType.P384: Scheme.ECDSA_SHA384,
    KeyType.P521: Scheme.ECDSA_SHA512,
    KeyType.ED25519: Scheme.ED25519,
}


@pytest.mark.parametrize("kind", KeyType)
def test_each_kind_of_key_is_probed_with_a_scheme_that_tls13_has(kind: KeyType) -> None:
    scheme = probe_scheme(kind)
    assert scheme.family is kind.family
    if kind.family is KeyFamily.RSA:
        assert scheme is Scheme.RSA_PSS_SHA256
    else:
        assert scheme is TLS13_SCHEMES[kind]
    assert ProbeKey.of(b"k" * 20, kind).scheme is scheme
