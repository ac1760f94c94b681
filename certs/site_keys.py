"""Where the site keys of a development PKI are: a token within its folder, opened for a moment by its owner.

A token is opened by an `OpenSiteKeys`: `vault_keys` makes or opens a vault, `certs.softhsm_keys` a SoftHSM2 token. Both
keep one that is there. What they yield is the same `KeyAdmin` that a node offers to its operators.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from certs import folder
from certs.authority import PkiError
from hsm.backends.base import KeyAdmin
from hsm.backends.vault import VaultAdmin, VaultError, create_store, open_store
from hsm.store import master_key
from hsm.store.errors import StoreError

TOKEN_NAME = "site-keys"
"""How nodes call the token."""


@dataclass(frozen=True, slots=True)
class VaultPlace:
    """Where a vault is and what opens it."""

    store: Path
    key_file: Path

    def toml(self, kind: str = "vault", more: str = "") -> str:
        """The section of a node's config that opens it, as a vault or as `simulated`; `more` lines follow."""
        return _section(kind, {"store": str(self.store), "key_file": str(self.key_file)}) + more


@dataclass(frozen=True, slots=True)
class Pkcs11Place:
    """Where a PKCS#11 token is and what opens it."""

    module: Path
    """The maker's library."""
    label: str
    pin_file: Path
    book: Path
    """Attributes of the keys."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that the library needs."""

    def toml(self, more: str = "") -> str:
        """The section of a node's config that opens it; `more` lines follow."""
        fields = {
            "uri": f"pkcs11:token={self.label}",
            "module": str(self.module),
            "pin_file": str(self.pin_file),
            "book": str(self.book),
        }
        variables = ", ".join(f"{name} = {quoted(value)}" for name, value in self.environment)
        return _section("pkcs11", fields) + f"environment = {{ {variables} }}\n" + more


TokenPlace: TypeAlias = VaultPlace | Pkcs11Place


@dataclass(frozen=True, slots=True)
class SiteKeys:
    """A token that is open."""

    admin: KeyAdmin
    place: TokenPlace
    name: str
    """What it is called among the files of the PKI."""
    was_made: bool
    """False when it was there before."""


OpenSiteKeys: TypeAlias = Callable[[Path], AbstractContextManager[SiteKeys]]
"""Makes or opens the token of the PKI in a folder. Raises PkiError, also for what `SiteKeys.admin` refuses within."""


@contextlib.contextmanager
def vault_keys(base: Path) -> Iterator[SiteKeys]:
    """The vault in `base`/vault; its key file lies beside it. Raises PkiError."""
    home = base.absolute() / "vault"  # a node's config may be anywhere
    folder.make_private(home)
    place = VaultPlace(home / "store.db", home / "master.key")
    try:
        was_made = not place.store.exists()
        if was_made and not place.key_file.exists():
            master_key.create_key_file(place.key_file)
        store = (create_store if was_made else open_store)(place.store, key_file=place.key_file)
        try:
            yield SiteKeys(VaultAdmin(store), place, "vault/store.db", was_made)
        finally:
            store.close()
    except (VaultError, StoreError) as error:
        raise PkiError(str(error)) from None


def quoted(value: str) -> str:
    """A TOML basic string, whose escapes are JSON's."""
    return json.dumps(value, ensure_ascii=False)


def _section(kind: str, fields: dict[str, str]) -> str:
    lines = "".join(f"{name} = {quoted(value)}\n" for name, value in fields.items())
    return f'[[tokens]]\nname = "{TOKEN_NAME}"\ntype = "{kind}"\n{lines}'
