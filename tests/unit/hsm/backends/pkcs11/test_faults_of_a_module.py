"""The binding, its worker and their supervision under a module that fails as HSMs fail: each fault heals by itself.

SoftHSM2 behind tests/native/pkcs11_shim.c; the faults are switched while several requests are always under way.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hsm.backends.base import BackendError
from hsm.backends.book import Book
from hsm.backends.pkcs11.admin import Pkcs11Admin
from hsm.backends.pkcs11.backend import Pkcs11Backend
from hsm.backends.pkcs11.blocking_worker import BlockingWorker
from hsm.backends.pkcs11.login import LoginSource
from hsm.backends.pkcs11.messages import KeysFound, ListKeys, TokenMatch
from hsm.backends.pkcs11.pin import PinFile
from hsm.backends.pkcs11.settings import TokenSettings
from hsm.wire.errors import ErrorCode
from hsm.wire.schemes import KeyType, Scheme
from tests.support.node import until
from tests.support.pkcs11_shim import EVER, Shim, build_shim
from tests.support.softhsm import SoftToken

CONCURRENCY = 4
DIGEST = bytes(range(32))


def in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


class Made:
    """A token with one key, made once for all tests."""

    def __init__(self, folder: Path) -> None:
        self.token = SoftToken(folder).init()
        self.library = build_shim(folder)
        self.pin = PinFile(self.token.pin_file())
        settings = TokenSettings(
            module=Path(self.token.module),
            token=TokenMatch(token=self.token.label),
            pin=self.pin,
            environment=self.token.environment,
        )
        self.key = Pkcs11Admin(settings, Book(folder / "book")).generate(KeyType.P256, "www")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("token"))


class Traffic:
    """A backend over the shim, and as many requests under way as it has sessions."""

    def __init__(self, folder: Path, made: Made) -> None:
        self.made = made
        self.shim = Shim(folder, made.token.module, made.token.environment, made.library)
        settings = TokenSettings(
            module=made.library,
            token=TokenMatch(token=made.token.label),
            pin=made.pin,
            environment=self.shim.environment,
            concurrency=CONCURRENCY,
            call_timeout_s=1.0,
            rescan_interval_s=0.3,
            retry_min_s=0.05,
            retry_max_s=0.3,
        )
        loop = asyncio.get_running_loop()
        self.backend = Pkcs11Backend(settings, Book(folder / "book"), LoginSource(made.pin), loop, in_thread)
        self.signatures = 0
        self.of_client = [0] * CONCURRENCY
        self.wrong = 0
        self.errors: Counter[ErrorCode] = Counter()
        self.ended = 0
        self.begun = 0
        self._stopping = False
        self._clients: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.backend.start()
        assert self.backend.state == "up", self.backend.details()
        loop = asyncio.get_running_loop()
        self._clients = [loop.create_task(self._client(number)) for number in range(CONCURRENCY)]
        await self.signs()

    async def stop(self) -> None:
        """Nothing may be left without an end."""
        self._stopping = True
        await asyncio.wait_for(asyncio.gather(*self._clients), 10.0)
        await self.backend.stop()
        assert self.ended == self.begun
        self.shim.close()

    async def _client(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            done: asyncio.Future[bytes | BackendError] = loop.create_future()
            self.begun += 1
            self.backend.begin(self.made.key.ski, Scheme.ECDSA_SHA256, DIGEST, done.set_result)
            answer = await done
            self.ended += 1
            if isinstance(answer, BackendError):
                self.errors[answer.code] += 1
                await asyncio.sleep(0.01)
            elif self._is_right(answer):
                self.signatures += 1
                self.of_client[number] += 1
            else:
                self.wrong += 1

    def _is_right(self, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        key = load_pem_public_key(self.made.key.public_key.encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        try:
            key.verify(signature, DIGEST, ec.ECDSA(Prehashed(SHA256())))
        except InvalidSignature:
            return False
        return True

    async def signs(self) -> None:
        """Waits for some more right signatures from every session."""
        wanted = self.signatures + 5 * CONCURRENCY
        of_each = [count + 1 for count in self.of_client]
        await until(
            lambda: (
                self.signatures >= wanted
                and all(count >= least for count, least in zip(self.of_client, of_each, strict=True))
            ),
            "it signs",
        )

    async def fails(self, code: ErrorCode, count: int = 1) -> None:
        """Waits for some more errors of this kind."""
        wanted = self.errors[code] + count
        await until(lambda: self.errors[code] >= wanted, f"it answers {code.name}")

    @property
    def workers(self) -> int:
        return self.backend.supervisor.counts.workers


@pytest.fixture
async def traffic(tmp_path: Path, made: Made) -> AsyncIterator[Traffic]:
    traffic = Traffic(tmp_path, made)
    await traffic.start()
    yield traffic
    await traffic.stop()


async def test_two_calls_a_signature_and_one_login(traffic: Traffic) -> None:
    shim = traffic.shim
    inits, signs, signatures = shim["sign_inits"], shim["signs"], traffic.signatures
    await traffic.signs()
    made = traffic.signatures - signatures
    assert made - CONCURRENCY <= shim["signs"] - signs <= made + CONCURRENCY
    assert made - CONCURRENCY <= shim["sign_inits"] - inits <= made + CONCURRENCY
    assert shim["logins"] == 1
    assert CONCURRENCY + 1 <= shim["sessions_opened"] <= CONCURRENCY + 2
    assert not traffic.errors


async def test_a_few_device_errors_heal_in_the_worker(traffic: Traffic) -> None:
    for count in (1, CONCURRENCY, 3):
        traffic.shim["device_error"] = count
        await until(lambda: traffic.shim["device_error"] == 0)
        await traffic.signs()
    assert traffic.backend.state == "up"


async def test_device_errors_that_last_heal_when_they_end(traffic: Traffic) -> None:
    traffic.shim["device_error"] = EVER
    await until(lambda: traffic.backend.state != "up", "the worker is given up")
    await traffic.fails(ErrorCode.BUSY, 5)
    assert traffic.backend.keys()
    traffic.shim.clear()
    await traffic.signs()
    assert traffic.workers > 1


async def test_sessions_that_are_lost_for_ever_are_opened_anew(traffic: Traffic) -> None:
    opened = traffic.shim["sessions_opened"]
    for _ in range(3):
        traffic.shim.lose_sessions()
        await traffic.signs()
    assert traffic.shim["sessions_opened"] >= opened + 3 * CONCURRENCY
    assert traffic.workers == 1, "the worker heals that itself"
    assert not traffic.errors, "and nobody noticed"


async def test_a_logout_is_followed_by_one_login(traffic: Traffic) -> None:
    for number in range(1, 4):
        traffic.shim.log_out()
        await traffic.signs()
        assert traffic.shim["logins"] == 1 + number
    assert traffic.workers == 1
    # A signature during which the token was logged in again is made once more; where that happens to it twice, it is
    # answered busy, and whoever asked asks another node.
    assert set(traffic.errors) <= {ErrorCode.BUSY}
    assert traffic.errors.total() <= 3


def test_neither_a_logout_nor_a_moment_hides_a_key(made: Made, tmp_path: Path) -> None:
    shim = Shim(tmp_path, made.token.module, made.token.environment, made.library)
    settings = TokenSettings(
        module=made.library,
        token=TokenMatch(token=made.token.label),
        pin=made.pin,
        environment=shim.environment,
    )
    with BlockingWorker.open(settings) as worker:
        for number in range(1, 4):
            shim.log_out()
            answer = worker.ask(ListKeys(id=0))
            assert isinstance(answer, KeysFound)
            assert [key.ski for key in answer.keys] == [made.key.ski]
            assert shim["logins"] == 1 + number
        shim["empty_finds"] = 1
        answer = worker.ask(ListKeys(id=0))
        assert isinstance(answer, KeysFound)
        assert len(answer.keys) == 1, "a key that is left out once is looked for again"
        shim["empty_finds"] = EVER
        assert worker.ask(ListKeys(id=0)) == KeysFound(id=5, keys=()), "twice, it is gone"
    shim.close()


async def test_a_slow_token_is_waited_for(traffic: Traffic) -> None:
    traffic.shim["latency_ms"] = 50
    await traffic.signs()
    traffic.shim.clear()
    await traffic.signs()
    assert traffic.workers == 1
    assert not traffic.errors


async def test_a_hang_costs_the_worker_its_life_and_nothing_else(traffic: Traffic) -> None:
    traffic.shim["hang"] = 1
    await traffic.fails(ErrorCode.INTERNAL, CONCURRENCY)
    traffic.shim.clear()
    await traffic.signs()
    assert traffic.workers >= 2
    assert traffic.backend.supervisor.counts.hangs >= 1


async def test_a_crash_costs_the_worker_its_life_and_nothing_else(traffic: Traffic) -> None:
    for number in range(1, 4):
        traffic.shim["segfaults"] = 1
        await until(lambda: traffic.backend.supervisor.counts.crashes == number, "it crashed")  # noqa: B023
        await traffic.signs()
    assert traffic.workers == 4
    assert traffic.errors[ErrorCode.INTERNAL] >= 3


async def test_a_token_that_has_too_much_to_do_says_busy(traffic: Traffic) -> None:
    traffic.shim["busy"] = 50
    await traffic.fails(ErrorCode.BUSY, 50)
    await traffic.signs()
    assert set(traffic.errors) == {ErrorCode.BUSY}
    assert traffic.workers == 1


async def test_a_token_that_was_taken_out_is_found_again(traffic: Traffic) -> None:
    traffic.shim["token_gone"] = 1
    await until(lambda: traffic.backend.state == "backing_off", "the token is away")
    (key,) = traffic.backend.keys()
    assert key.label == "www"
    traffic.shim.clear()
    await traffic.signs()


async def test_wrong_signatures_are_for_the_proxy_to_find(traffic: Traffic) -> None:
    traffic.shim["wrong_signature"] = 7
    await until(lambda: traffic.wrong == 7, "the wrong ones came through")
    await traffic.signs()
    assert traffic.wrong == 7


async def test_one_fault_after_the_other(traffic: Traffic) -> None:
    # No crash while somebody logs in: SoftHSM2 writes its token's file then, and loses it with the process.
    for _ in range(3):
        traffic.shim["latency_ms"] = 5
        traffic.shim["busy"] = 3
        traffic.shim["device_error"] = 2
        traffic.shim.lose_sessions()
        await traffic.signs()
        traffic.shim.log_out()
        await traffic.signs()
        traffic.shim["segfaults"] = 1
        await until(lambda: traffic.shim["segfaults"] == 0)
        traffic.shim.clear()
        await traffic.signs()
    assert traffic.wrong == 0
