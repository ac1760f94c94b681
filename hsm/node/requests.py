"""What the service keeps of its clients and their requests. Holds no rules of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hsm.backends.base import BackendError
from hsm.node.access import ClientGrants
from hsm.node.admission import Ticket
from hsm.wire.errors import ErrorCode
from hsm.wire.schemes import Scheme
from hsm.wire.session import SignRequested

if TYPE_CHECKING:
    from hsm.node.served import ServedKey


class Replies(Protocol):
    """Where the answers for one connection go."""

    def reply_signature(self, request_id: int, signature: bytes) -> None:
        """The request succeeded."""

    def reply_error(
        self,
        request_id: int,
        code: ErrorCode,
        detail: str = "",
        retry_after_s: float | None = None,
        queue_depth: int | None = None,
    ) -> None:
        """The request failed."""


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Bounds of a service; `AdmissionConfig` and `ListenConfig` document them."""

    max_in_flight_per_client: int
    default_deadline_s: float
    max_deadline_s: float
    tick_budget_s: float


class Client:
    """One connection as the service sees it."""

    __slots__ = ("epoch", "grants", "identity", "replies", "tickets")

    def __init__(self, identity: str, replies: Replies, grants: ClientGrants, epoch: int) -> None:
        self.identity = identity
        self.replies = replies
        self.grants = grants
        self.epoch = epoch
        self.tickets: dict[int, SignTicket] = {}


class SignTicket(Ticket):
    """A wanted signature on its way through a lane."""

    __slots__ = (
        "client",
        "count",
        "error",
        "has_begun",
        "key",
        "lane",
        "payload",
        "request_id",
        "scheme",
        "sign_s",
        "signature",
        "token",
    )

    def __init__(
        self, client: Client, request: SignRequested, payload: bytes, key: ServedKey, arrived: float, deadline: float
    ) -> None:
        super().__init__(arrived, deadline)
        self.client = client
        self.request_id = request.request_id
        self.scheme: Scheme = request.scheme
        self.payload = payload
        self.key = key.entry
        self.lane = key.runner.lane
        self.count = key.count
        self.token = key.token.name
        self.has_begun = False
        """The token has it; it can't be stopped any more."""
        self.sign_s = 0.0
        self.signature: bytes | None = None
        self.error: BackendError | None = None
