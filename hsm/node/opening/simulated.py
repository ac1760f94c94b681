"""Opens a simulated token: a vault behind a device that imitates an HSM. It says loudly that it is none."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from hsm.backends.simulated.backend import Asked, SimulatedBackend
from hsm.backends.simulated.device import DeviceModel, SimulatedDevice
from hsm.backends.simulated.profiles import PROFILES, tuned
from hsm.node.opening.opened import OpenToken, Surroundings, TokenProblem
from hsm.node.opening.vault import open_vault
from hsm.node.token_checks import NOT_AN_HSM
from hsm.node.token_config import SimulatedTokenConfig, VaultOpening, VaultTokenConfig
from hsm.node.unsealing import Unsealing
from hsm.shared.logs import get_logger

WARNING = "this is not an HSM: its keys lie in a software vault, and it is slow and faulty on purpose"


async def open_simulated(
    config: SimulatedTokenConfig, surroundings: Surroundings, unsealing: Unsealing | None
) -> OpenToken:
    """Opens the vault and puts the device before it. Raises TokenProblem."""
    if not config.i_know_this_is_not_an_hsm:
        raise TokenProblem(f"token {config.name!r}: {NOT_AN_HSM}")
    model = model_of(config)
    get_logger("simulated").warning("not_an_hsm", token=config.name, profile=config.profile, hint=WARNING)
    vault = await open_vault(_vault_of(config), surroundings, unsealing)
    assert vault.backend is not None
    device: SimulatedDevice[Asked] = SimulatedDevice(model, random.Random(config.seed), time.monotonic())
    backend = SimulatedBackend(vault.backend, device, surroundings.loop, time_limit_s=config.call_timeout_s)

    async def close() -> None:
        backend.close()
        await vault.close()

    def state() -> str:
        opened = vault.state()
        return backend.state() if opened == "up" else opened

    def details() -> Mapping[str, object]:
        return {**vault.details(), "warning": WARNING, "profile": config.profile, **backend.details()}

    return OpenToken(
        name=config.name,
        kind="simulated",
        awaited=backend,
        places=config.places or model.concurrency,
        queue=config.queue,
        admin=vault.admin,
        refusal_of=vault.refusal_of,
        close=close,
        state=state,
        details=details,
        faults=backend,
    )


def model_of(config: SimulatedTokenConfig) -> DeviceModel:
    """The profile with what the config says otherwise. Raises TokenProblem."""
    profile = PROFILES.get(config.profile)
    if profile is None:
        known = ", ".join(PROFILES)
        raise TokenProblem(f"token {config.name!r}: there is no profile {config.profile!r}; choose from {known}")
    try:
        return tuned(
            profile.model(),
            rate=config.rate,
            latency_s=None if config.latency_ms is None else config.latency_ms / 1e3,
            latency_p99_s=None if config.latency_p99_ms is None else config.latency_p99_ms / 1e3,
            concurrency=config.concurrency,
            queue=config.device_queue,
        )
    except ValueError as error:
        raise TokenProblem(f"token {config.name!r}: {error}; change latency_ms or latency_p99_ms") from None


def _vault_of(config: SimulatedTokenConfig) -> VaultTokenConfig:
    """The vault inside, as if it were a token of its own."""
    fields = {field: getattr(config, field) for field in VaultOpening.__struct_fields__}
    return VaultTokenConfig(**fields)
