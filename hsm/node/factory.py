"""Opens the backend that a config names: the one place of the node that knows which kinds there are."""

from __future__ import annotations

from dataclasses import dataclass

from hsm.backends.base import Backend
from hsm.backends.vault import VaultAdmin, VaultBackend, VaultError, open_vault
from hsm.node.config import BackendConfig, NodeFiles
from hsm.node.management import KeyAdmin


class BackendProblem(Exception):
    """The backend can't be opened; `str()` is a sentence for the user."""


@dataclass(frozen=True)
class Opened:
    """A backend that is ready to sign, and its owner's tools."""

    backend: Backend
    admin: KeyAdmin
    admin_errors: tuple[type[Exception], ...]
    """What `admin` raises when it refuses."""
