"""Opens the tokens that a config names: the one place of the node that knows which kinds there are."""

from __future__ import annotations

from collections.abc import Sequence

from hsm.node.opening.opened import OpenToken, Surroundings, TokenProblem
from hsm.node.token_config import Pkcs11TokenConfig, TokenConfig, VaultTokenConfig


async def open_tokens(
    configs: Sequence[TokenConfig], surroundings: Surroundings, unsealing: object
) -> tuple[OpenToken, ...]:
    """Opens every token, in the order of the config. Raises TokenProblem; then none is left open."""
    opened: list[OpenToken] = []
    try:
        for config in configs:
            opened.append(await _open(config, surroundings, unsealing))
    except BaseException:
        for token in reversed(opened):
            await token.close()
        raise
    return tuple(opened)


async def _open(config: TokenConfig, surroundings: Surroundings, unsealing: object) -> OpenToken:
    # Imported here: a node with a vault loads nothing of PKCS#11, and the other way round.
    try:
        if isinstance(config, VaultTokenConfig):
            from hsm.node.opening.vault import open_vault

            return await open_vault(config, surroundings, unsealing)
        if isinstance(config, Pkcs11TokenConfig):
            from hsm.node.opening.pkcs11 import open_pkcs11

            return await open_pkcs11(config, surroundings)
        from hsm.node.opening.simulated import open_simulated

        return await open_simulated(config, surroundings, unsealing)
    except ModuleNotFoundError:
        raise TokenProblem(f"token {config.name!r}: this kind of token is not available") from None
