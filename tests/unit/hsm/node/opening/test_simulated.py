"""Opening a simulated token: only on purpose, loudly, and as its config says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from hsm.backends.attributes import KeyAttributes
from hsm.backends.base import BackendError
from hsm.backends.simulated.backend import SimulatedBackend
from hsm.backends.simulated.faults import Fault, FaultKind
from hsm.node.blocking import BlockingCalls
from hsm.node.opening.opened import OpenToken, Surroundings, TokenProblem
from hsm.node.opening.simulated import WARNING, model_of, open_simulated
from hsm.node.token_config import SimulatedTokenConfig
from hsm.shared.tasks import Tasks
from hsm.wire.schemes import KeyType, Scheme
from tests.support.node import NodeHome, make_home, verify


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("opening"))


@pytest.fixture
async def surroundings(home: NodeHome) -> AsyncIterator[Surroundings]:
    tasks = Tasks()
    yield Surroundings(home.path, BlockingCalls(), tasks, asyncio.get_running_loop())
    await tasks.stop()


def config_of(**more: Any) -> SimulatedTokenConfig:
    fields = {"name": "sim", "store": "vault.db", "key_file": "master.key", "i_know_this_is_not_an_hsm": True}
    return SimulatedTokenConfig(**{**fields, **more})


async def opened(surroundings: Surroundings, **more: Any) -> OpenToken:
    with capture_logs() as lines:
        token = await open_simulated(config_of(**more), surroundings, None)
    (warning,) = [line for line in lines if line["event"] == "not_an_hsm"]
    assert (warning["log_level"], warning["hint"], warning["token"]) == ("warning", WARNING, "sim")
    return token


async def test_it_is_refused_unless_its_owner_knows(surroundings: Surroundings) -> None:
    with pytest.raises(TokenProblem, match=r"^token 'sim': a simulated token is no HSM.*i_know_this_is_not_an_hsm"):
        await open_simulated(config_of(i_know_this_is_not_an_hsm=False), surroundings, None)


async def test_it_signs_with_the_vaults_keys_and_has_its_admin(home: NodeHome, surroundings: Surroundings) -> None:
    token = await opened(surroundings, queue=9)
    backend = token.awaited
    assert backend is not None
    assert (token.name, token.kind, token.backend) == ("sim", "simulated", None)
    assert (token.places, token.queue) == (30, 9)
    answer: asyncio.Future[bytes | BackendError] = asyncio.get_running_loop().create_future()
    scheme = Scheme.ECDSA_SHA256
    backend.begin(home.ski("www-p256"), scheme, scheme.payload_of(b"hello"), answer.set_result)
    signature = await asyncio.wait_for(answer, 10)
    assert isinstance(signature, bytes)
    verify(home.keys["www-p256"][1], scheme, signature, b"hello")
    token.admin.generate(KeyType.ED25519, "made", KeyAttributes())
    assert backend.refresh()
    held = backend.keys()
    assert "made" in {key.label for key in held}
    await token.close()
    assert backend.keys() == ()


async def test_status_says_that_it_is_no_hsm_and_how_it_is(surroundings: Surroundings) -> None:
    token = await opened(surroundings, profile="luna-a790", concurrency=3, places=8)
    assert token.places == 8
    details = token.details()
    assert (details["warning"], details["profile"], details["faults"]) == (WARNING, "luna-a790", [])
    assert token.state() == "up"
    assert isinstance(token.faults, SimulatedBackend)
    token.faults.set_fault(Fault(kind=FaultKind.CRASH))
    assert token.state() == "restarting"
    assert token.details()["faults"] == ["crash"]
    await token.close()


def test_the_config_changes_the_profile() -> None:
    model = model_of(config_of(profile="yubihsm2", rate=5.0, latency_ms=100.0, device_queue=2, concurrency=4))
    assert (model.concurrency, model.queue) == (4, 2)
    figures = model.figures[KeyType.RSA_4096]
    assert (figures.rate, figures.median_s, figures.p99_s) == (5.0, 0.1, pytest.approx(0.12, rel=0.001))


def test_what_can_not_be_is_one_clear_sentence() -> None:
    with pytest.raises(TokenProblem, match=r"^token 'sim': there is no profile 'nshield'; choose from cloudhsm-hsm1, "):
        model_of(config_of(profile="nshield"))
    with pytest.raises(TokenProblem, match=r"^token 'sim': a 99th percentile of 1 ms is below the median of .* change"):
        model_of(config_of(latency_p99_ms=1.0))


async def test_a_vault_that_does_not_open_is_one_clear_sentence(surroundings: Surroundings) -> None:
    with capture_logs(), pytest.raises(TokenProblem, match="can't open the vault of token 'sim'"):
        await open_simulated(config_of(store="gone.db"), surroundings, None)
