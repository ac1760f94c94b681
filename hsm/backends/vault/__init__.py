"""The software vault: keys in an encrypted store, signed with by `cryptography`, never given out."""

from __future__ import annotations

from hsm.backends.vault.admin import VaultAdmin
from hsm.backends.vault.backend import VaultBackend
from hsm.backends.vault.errors import VaultError, VaultReason
from hsm.backends.vault.keys import KeyRecord
from hsm.backends.vault.opening import create_store, open_store

__all__ = ["KeyRecord", "VaultAdmin", "VaultBackend", "VaultError", "VaultReason", "create_store", "open_store"]
