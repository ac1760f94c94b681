"""The simulated backend: answers come later, once each, in the loop, with real signatures or the faults' errors."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from cryptography.exceptions import InvalidSignature
from structlog.testing import capture_logs

from hsm.backends.base import Backend, BackendError
from hsm.backends.simulated.backend import Asked, SimulatedBackend, spoilt
from hsm.backends.simulated.device import DeviceModel, Figures, SimulatedDevice
from hsm.backends.simulated.faults import Fault, FaultKind
from hsm.backends.vault import VaultBackend, open_store
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType, Scheme
from tests.support.node import FakeBackend, NodeHome, make_home, until, verify

P256 = KeyEntry(b"p" * 20, KeyType.P256, "www-p256")
RSA = KeyEntry(b"r" * 20, KeyType.RSA_2048, "www-rsa")
PAYLOAD = b"d" * 32


@dataclass
class Bench:
    """A backend over a vault in memory, and what was asked of it."""

    backend: SimulatedBackend
    vault: FakeBackend

    async def ask(self, key: KeyEntry = P256, payload: bytes = PAYLOAD) -> bytes | BackendError:
        """One request, to its end."""
        answer: asyncio.Future[bytes | BackendError] = asyncio.get_running_loop().create_future()
        scheme = Scheme.ECDSA_SHA256 if key.type is KeyType.P256 else Scheme.RSA_PSS_SHA256
        self.backend.begin(key.ski, scheme, payload, answer.set_result)  # raises when called twice
        assert not answer.done(), "an answer comes in a later turn of the loop"
        return await asyncio.wait_for(answer, 10)

    async def fails(self, code: ErrorCode, sentence: str, key: KeyEntry = P256) -> BackendError:
        """A request that must fail so."""
        answer = await self.ask(key)
        assert isinstance(answer, BackendError)
        assert (answer.code, answer.detail) == (code, sentence)
        return answer


def backend_over(
    vault: Backend, *, rate: float = 2000.0, concurrency: int = 4, queue: int = 4, limit_s: float = 5.0
) -> SimulatedBackend:
    figures = {type_: Figures(rate, 0.001, 0.002) for type_ in KeyType}
    device: SimulatedDevice[Asked] = SimulatedDevice(
        DeviceModel(figures, concurrency, queue), random.Random(3), time.monotonic()
    )
    return SimulatedBackend(vault, device, asyncio.get_running_loop(), time_limit_s=limit_s)


@pytest.fixture
def vault() -> FakeBackend:
    return FakeBackend({P256: "cheap", RSA: "dear"})


@pytest.fixture
async def bench(vault: FakeBackend) -> AsyncIterator[Bench]:
    bench = Bench(backend_over(vault), vault)
    yield bench
    bench.backend.close()


@pytest.mark.parametrize("key", [P256, RSA])
async def test_a_signature_comes_later_and_from_the_vault(bench: Bench, key: KeyEntry) -> None:
    begin = time.monotonic()
    assert await bench.ask(key) == b"signed:" + PAYLOAD
    assert time.monotonic() - begin >= 0.0005, "no device is faster than 1/rate"


async def test_dear_keys_sign_outside_the_loop(bench: Bench) -> None:
    bench.vault.gate.clear()
    dear = asyncio.ensure_future(bench.ask(RSA))
    assert await bench.ask(P256) == b"signed:" + PAYLOAD
    assert not dear.done()
    bench.vault.gate.set()
    assert await dear == b"signed:" + PAYLOAD


async def test_many_at_once_all_end(bench: Bench) -> None:
    answers = await asyncio.gather(*(bench.ask(P256 if number % 2 else RSA) for number in range(8)))
    assert answers == [b"signed:" + PAYLOAD] * 8


async def test_more_than_the_device_takes_are_busy(vault: FakeBackend) -> None:
    bench = Bench(backend_over(vault, concurrency=1, queue=1), vault)
    answers = await asyncio.gather(*(bench.ask() for _ in range(4)))
    busy = [answer for answer in answers if isinstance(answer, BackendError)]
    assert [(error.code, error.detail) for error in busy] == [(ErrorCode.BUSY, "the token is busy")] * 2
    assert all(error.retry_after_s is not None and error.retry_after_s > 0 for error in busy)
    bench.backend.close()


async def test_a_key_that_is_not_there(bench: Bench) -> None:
    stranger = KeyEntry(b"x" * 20, KeyType.P256, "other")
    await bench.fails(ErrorCode.KEY_NOT_FOUND, f"this token has no key {stranger.ski.hex()}", stranger)


@pytest.mark.parametrize("key", [P256, RSA])
async def test_the_vaults_refusal_is_passed_on(bench: Bench, key: KeyEntry) -> None:
    bench.vault.failure = BackendError(ErrorCode.CRYPTOGRAPHY, "a p256 key can't sign that")
    await bench.fails(ErrorCode.CRYPTOGRAPHY, "a p256 key can't sign that", key)


@pytest.mark.parametrize("key", [P256, RSA])
async def test_a_vault_that_breaks_its_contract_costs_one_request_and_no_secret(bench: Bench, key: KeyEntry) -> None:
    bench.vault.failure = RuntimeError("secret number 42")
    with capture_logs() as lines:
        await bench.fails(ErrorCode.INTERNAL, "the signature could not be made", key)
    assert "RuntimeError" in str(lines)
    assert "42" not in str(lines)


# faults


async def test_errors(bench: Bench) -> None:
    bench.backend.set_fault(Fault(kind=FaultKind.ERROR))
    await bench.fails(ErrorCode.INTERNAL, "the token answered with an error")
    bench.backend.clear_faults()
    assert await bench.ask() == b"signed:" + PAYLOAD


@pytest.mark.parametrize("key", [P256, RSA])
async def test_wrong_signatures(bench: Bench, key: KeyEntry) -> None:
    bench.backend.set_fault(Fault(kind=FaultKind.WRONG_SIGNATURE))
    answer = await bench.ask(key)
    assert answer == b"signed:" + spoilt(PAYLOAD)
    assert answer != b"signed:" + PAYLOAD


async def test_a_hang_is_ended_by_the_backend_and_the_device_stays_full(vault: FakeBackend) -> None:
    bench = Bench(backend_over(vault, concurrency=1, queue=0, limit_s=0.05), vault)
    bench.backend.set_fault(Fault(kind=FaultKind.HANG))
    await bench.fails(ErrorCode.INTERNAL, "the token gave no answer in 0.05 s")
    assert bench.backend.details()["in_device"] == 1
    await bench.fails(ErrorCode.BUSY, "the token is busy")
    bench.backend.clear_faults(["hang"])
    await until(lambda: bench.backend.details()["in_device"] == 0, "the hung request came to its end")
    assert await bench.ask() == b"signed:" + PAYLOAD
    assert bench.vault.signed == 1, "nobody waited for the first"
    bench.backend.close()


async def test_a_hang_that_ends_in_time_costs_nothing(bench: Bench) -> None:
    bench.backend.set_fault(Fault(kind=FaultKind.HANG, duration_s=0.05))
    assert await bench.ask() == b"signed:" + PAYLOAD
    assert bench.backend.faults == ()


async def test_a_crash(bench: Bench) -> None:
    bench.backend.set_fault(Fault(kind=FaultKind.HANG))
    under_way = asyncio.ensure_future(bench.ask())
    await asyncio.sleep(0)
    bench.backend.set_fault(Fault(kind=FaultKind.CRASH, duration_s=60.0))
    answer = await under_way
    assert isinstance(answer, BackendError)
    assert (answer.code, answer.detail) == (ErrorCode.INTERNAL, "the token crashed")
    assert bench.backend.state() == "restarting"
    error = await bench.fails(ErrorCode.BUSY, "the token restarts")
    assert error.retry_after_s == 5.0
    bench.backend.clear_faults()
    assert bench.backend.state() == "up"
    assert await bench.ask() == b"signed:" + PAYLOAD


async def test_a_lost_key_is_not_found_at_once_and_leaves_the_list_with_the_next_refresh(bench: Bench) -> None:
    before = bench.backend.revision
    assert not bench.backend.refresh()
    bench.backend.set_fault(Fault(kind=FaultKind.LOST_KEY, key="www-p*"))
    await bench.fails(ErrorCode.KEY_NOT_FOUND, "the token does not find the key")
    assert await bench.ask(RSA) == b"signed:" + PAYLOAD
    assert bench.backend.refresh()
    assert bench.backend.keys() == (RSA,)
    assert bench.backend.revision > before
    lost = bench.backend.revision
    bench.backend.clear_faults()
    assert bench.backend.refresh()
    assert bench.backend.keys() == (P256, RSA)
    assert bench.backend.revision > lost


async def test_switching_faults_is_logged(bench: Bench) -> None:
    with capture_logs() as lines:
        bench.backend.set_fault(Fault(kind=FaultKind.SLOW, factor=3.0))
        assert [active.fault.name for active in bench.backend.clear_faults()] == ["slow"]
    assert [(line["event"], line["fault"], line["log_level"]) for line in lines] == [
        ("simulated_fault_set", "slow", "warning"),
        ("simulated_fault_cleared", "slow", "warning"),
    ]


# ends


async def test_closing_ends_what_is_open(vault: FakeBackend) -> None:
    bench = Bench(backend_over(vault), vault)
    bench.backend.set_fault(Fault(kind=FaultKind.HANG))
    open_ = asyncio.ensure_future(bench.ask())
    await asyncio.sleep(0)
    bench.backend.close()
    bench.backend.close()
    answer = await open_
    assert isinstance(answer, BackendError)
    assert answer.detail == "the token was closed"
    late = await bench.ask()
    assert isinstance(late, BackendError)


async def test_it_may_be_closed_and_refreshed_in_other_threads(bench: Bench) -> None:
    refreshed: list[bool] = []
    thread = threading.Thread(target=lambda: (refreshed.append(bench.backend.refresh()), bench.backend.close()))
    thread.start()
    thread.join(10)
    assert refreshed == [False]
    assert bench.backend.keys() == ()


# with a real vault


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("vault"), (KeyType.P256, KeyType.RSA_2048, KeyType.ED25519))


@pytest.mark.parametrize(
    ("label", "scheme"),
    [
        ("www-p256", Scheme.ECDSA_SHA256),
        ("www-rsa-2048", Scheme.RSA_PSS_SHA256),
        ("www-rsa-2048", Scheme.RSA_PKCS1_SHA384),
        ("www-ed25519", Scheme.ED25519),
    ],
)
async def test_signatures_are_good_unless_they_are_to_be_wrong(home: NodeHome, label: str, scheme: Scheme) -> None:
    store = open_store(home.store, key_file=home.key_file)
    backend = backend_over(VaultBackend(store))
    try:
        message = hashlib.sha256(label.encode()).digest()
        good, wrong = await _signed(backend, home, label, scheme, message)
        verify(home.keys[label][1], scheme, good, message)
        assert len(wrong) in range(len(good) - 4, len(good) + 5), "well-formed"
        with pytest.raises(InvalidSignature):
            verify(home.keys[label][1], scheme, wrong, message)
    finally:
        backend.close()
        store.close()


async def _signed(
    backend: SimulatedBackend, home: NodeHome, label: str, scheme: Scheme, message: bytes
) -> tuple[bytes, bytes]:
    """A good signature, and a wrong one."""
    signatures = []
    for fault in (None, Fault(kind=FaultKind.WRONG_SIGNATURE)):
        if fault is not None:
            backend.set_fault(fault)
        answer: asyncio.Future[bytes | BackendError] = asyncio.get_running_loop().create_future()
        backend.begin(home.ski(label), scheme, scheme.payload_of(message), answer.set_result)
        signature = await asyncio.wait_for(answer, 10)
        assert isinstance(signature, bytes), signature
        signatures.append(signature)
    return signatures[0], signatures[1]
