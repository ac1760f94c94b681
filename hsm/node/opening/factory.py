"""Opens the tokens that a config names: the one place of the node that knows which kinds there are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hsm.node.opening.opened import OpenToken, Surroundings, TokenProblem
from hsm.node.token_config import Pkcs11TokenConfig, TokenConfig, VaultTokenConfig

if TYPE_CHECKING:
    from hsm.node.unsealing import Unsealing


async def open_tokens(
    configs: Sequence[TokenConfig], surroundings: Surroundings, unsealing: Unsealing | None
) -> tuple[OpenToken, ...]:
    """Opens every token, and returns them in the order of the config. Raises TokenProblem; then none is left open.

    Those that need people come last and all at once: several sealed vaults can be given their shares in any order.
    """
    opened: dict[int, OpenToken] = {}

    async def open_one(number: int, config: TokenConfig) -> None:
        opened[number] = await _open(config, surroundings, unsealing)

    sealed = [(number, config) for number, config in enumerate(configs) if needs_people(config)]
    try:
        for number, config in enumerate(configs):
            if (number, config) not in sealed:
                await open_one(number, config)
        async with asyncio.TaskGroup() as group:
            for number, config in sealed:
                group.create_task(open_one(number, config), name=f"open-{config.name}")
    except BaseException as error:
        for number in sorted(opened, reverse=True):
            await opened[number].close()
        if isinstance(error, BaseExceptionGroup):
            raise _first(error) from None
        raise
    return tuple(opened[number] for number in range(len(configs)))


def needs_people(config: TokenConfig) -> bool:
    """Whether it is opened by shares, which people send while the node waits."""
    return not isinstance(config, Pkcs11TokenConfig) and config.shares


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """A problem of a token where there is one: it has a sentence for the user."""
    problems = [error for error in group.exceptions if isinstance(error, TokenProblem)]
    return problems[0] if problems else group.exceptions[0]


async def _open(config: TokenConfig, surroundings: Surroundings, unsealing: Unsealing | None) -> OpenToken:
    # Imported here: a node with a vault loads nothing of PKCS#11, and the other way round.
    if isinstance(config, VaultTokenConfig):
        from hsm.node.opening.vault import open_vault

        return await open_vault(config, surroundings, unsealing)
    if isinstance(config, Pkcs11TokenConfig):
        from hsm.node.opening.pkcs11 import open_pkcs11

        return await open_pkcs11(config, surroundings)
    from hsm.node.opening.simulated import open_simulated

    return await open_simulated(config, surroundings, unsealing)
