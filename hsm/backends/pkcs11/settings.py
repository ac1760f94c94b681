"""How one token is reached and how long it may take: a frozen value, made from a config by whoever has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hsm.backends.pkcs11.commands import Timing
from hsm.backends.pkcs11.messages import ObjectMatch, TokenMatch
from hsm.backends.pkcs11.pin import PinSource


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """A token behind a PKCS#11 library. Durations are seconds."""

    name: str = "token"
    """How log lines call it."""
    module: Path
    """The library."""
    token: TokenMatch = field(default_factory=TokenMatch)
    objects: ObjectMatch = field(default_factory=ObjectMatch)
    pin: PinSource | None
    """None where the token needs no login."""
    user: str = ""
    """Put before the PIN with a colon; "" for tokens that know one user only."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables for the library's process."""
    concurrency: int = 30
    """Signatures under way at once."""
    call_timeout_s: float = 5.0
    open_timeout_s: float = 30.0
    rescan_interval_s: float = 5.0
    retry_min_s: float = 0.2
    retry_max_s: float = 10.0

    @property
    def timing(self) -> Timing:
        """What the supervision needs of them."""
        return Timing(
            self.call_timeout_s, self.open_timeout_s, self.retry_min_s, max(self.retry_min_s, self.retry_max_s)
        )
