"""What every token behind a node can do, and how it fails. Knows nothing of requests, clients or queues."""

from __future__ import annotations

from typing import Literal, Protocol

from hsm.wire.errors import ErrorCode
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import Scheme

Cost = Literal["cheap", "dear"]


class BackendError(Exception):
    """A signature could not be made.

    `code` is what the client is told; `detail` is a short sentence that is safe to send to it and to log.
    """

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code.name.lower()}: {self.detail}"


class Backend(Protocol):
    """Holds keys and signs with them. Every method may be called from any thread."""

    @property
    def revision(self) -> int:
        """Changes whenever the set of keys that `keys` returns changes."""
        ...

    def keys(self) -> tuple[KeyEntry, ...]:
        """The keys that can sign now."""
        ...

    def refresh(self) -> bool:
        """Look for keys that came or went elsewhere; True when the set changed.

        Cheap when nothing happened: a node calls it every 0.25 s. A failure leaves the keys as they
        are; the backend logs it once and raises BackendError each time, so that /healthz can tell when it lasts.
        """
        ...

    def sign(self, ski: bytes, scheme: Scheme, payload: bytes) -> bytes:
        """Sign `payload`: a digest, or the message for Ed25519. Blocks. ECDSA gives DER. Raises BackendError."""
        ...

    def cost(self, ski: bytes) -> Cost:
        """ "cheap" when a signature takes under about 100 us and may be made in the event loop; else "dear"."""
        ...

    def close(self) -> None:
        """Forget the keys. May be called again."""
        ...
