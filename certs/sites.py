"""What a development PKI is asked to certify. Values only, and nothing heavy: command lines import it at once."""

from __future__ import annotations

from dataclasses import dataclass

from hsm.wire.schemes import KeyType


@dataclass(frozen=True, slots=True)
class DevSite:
    """A site to certify: the name it is called by, and all DNS names and addresses of its certificates."""

    name: str
    names: tuple[str, ...] = ()
    """Empty means just `name`; for "localhost" it includes the loopback addresses."""
    key_types: tuple[KeyType, ...] = ()
    """One certificate of each type; empty means those of the whole PKI."""

    @property
    def all_names(self) -> tuple[str, ...]:
        """What the certificates say."""
        if self.names:
            return self.names
        return ("localhost", "127.0.0.1", "::1") if self.name == "localhost" else (self.name,)

    @property
    def file_name(self) -> str:
        """The name as part of file names and key labels."""
        return self.name.replace("*", "wildcard").replace(":", "-").lower()
