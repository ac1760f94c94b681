"""What every token behind a node can do, and how it fails. Knows nothing of requests, clients or queues.

There are two kinds. A `Backend` signs while its caller waits: the software vault. An `AwaitedBackend` takes a request
and answers later: an HSM behind a process of its own. Both hold keys with attributes; `KeyAdmin` is what their owner
may do with these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from hsm.backends.attributes import KeyAttributes, Usage
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType, Scheme

Cost = Literal["cheap", "dear"]


class BackendError(Exception):
    """A signature could not be made.

    `code` is what the client is told; `detail` is a short sentence that is safe to send to it and to log;
    `retry_after_s` says, with BUSY, when the token expects to be able to sign again.
    """

    def __init__(self, code: ErrorCode, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.code.name.lower()}: {self.detail}"


OnSigned: TypeAlias = Callable[[bytes | BackendError], None]
"""Hears how a request ended: the signature, or why there is none."""


class KeyHolder(Protocol):
    """What both kinds of backend have in common."""

    @property
    def revision(self) -> int:
        """Changes whenever `keys` or the attributes of a key change."""
        ...

    def keys(self) -> tuple[KeyEntry, ...]:
        """All keys, also those that may not sign now."""
        ...

    def attributes_of(self, ski: bytes) -> KeyAttributes:
        """What is kept with one of `keys`; the defaults for others."""
        ...

    def refresh(self) -> bool:
        """Look for keys and attributes that changed elsewhere; True when something did. Blocks.

        Cheap when nothing happened: a node calls it every 0.25 s. A failure leaves the keys as they
        are; the backend logs it once and raises BackendError each time, so that /healthz can tell when it lasts.
        """
        ...

    def close(self) -> None:
        """Forget the keys. May be called again."""
        ...


class Backend(KeyHolder, Protocol):
    """Holds keys and signs with them. Every method may be called from any thread."""

    def sign(self, ski: bytes, scheme: Scheme, payload: bytes) -> bytes:
        """Sign `payload`: a digest, or the message for Ed25519. Blocks. ECDSA gives DER. Raises BackendError."""
        ...

    def cost(self, ski: bytes) -> Cost:
        """ "cheap" when a signature takes under about 100 us and may be made in the event loop; else "dear"."""
        ...


class AwaitedBackend(KeyHolder, Protocol):
    """Holds keys and has them used elsewhere. `begin` belongs to the event loop; the others may be called anywhere."""

    def begin(self, ski: bytes, scheme: Scheme, payload: bytes, on_signed: OnSigned) -> None:
        """Have `payload` signed (as in `Backend.sign`); `on_signed` is called once, in a later turn of the loop.

        It never raises and never blocks. A token that hangs is the backend's to notice: it ends every request within
        its own time limit, also those that the node has given up.
        """
        ...


class KeyRecord(Protocol):
    """What an owner is told of a key."""

    @property
    def ski(self) -> bytes: ...
    @property
    def type(self) -> KeyType: ...
    @property
    def label(self) -> str: ...
    @property
    def created(self) -> datetime | None:
        """None where the token does not say."""
        ...

    @property
    def imported(self) -> bool: ...
    @property
    def public_key(self) -> str:
        """PEM."""
        ...

    @property
    def attributes(self) -> KeyAttributes: ...


class KeyAdmin(Protocol):
    """What a token lets its owner do. Blocks; may be called from any thread. No operation returns private bytes.

    A key is named by its label, or by its SKI in 40 hex digits. Every change is durable when its method returns.
    Errors are the backend's own; the node's factory says how to read them.
    """

    def generate(self, type: KeyType, label: str, attributes: KeyAttributes) -> KeyRecord: ...
    def import_pem(self, pem: bytes, password: bytes | None, label: str, attributes: KeyAttributes) -> KeyRecord: ...
    def get(self, reference: str) -> KeyRecord: ...
    def csr(self, reference: str, subject: str, names: Sequence[str]) -> bytes: ...
    def self_sign(self, reference: str, subject: str, names: Sequence[str], days: int = 90) -> bytes: ...
    def change(self, reference: str, change: Callable[[KeyRecord], KeyAttributes]) -> KeyRecord:
        """Replace a key's attributes by what `change` makes of the record; it may be called again where somebody else
        was faster, and what it raises is passed on."""
        ...

    def destroy(self, reference: str) -> KeyRecord:
        """Delete a key for ever, now."""
        ...

    def add_usage(self, node: str, used: Mapping[bytes, Usage]) -> None:
        """Add what one node has signed since it last said so. Keys that are gone are left out."""
        ...

    def usage(self) -> Mapping[bytes, Usage]:
        """By SKI, all nodes together."""
        ...

    def list(self) -> Sequence[KeyRecord]: ...
