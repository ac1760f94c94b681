"""A link to one node: a connection that is opened again whenever it is lost.

A link connects by mutual TLS, asks which keys the node has, is then usable, and connects again with growing pauses when
it is lost, between `start` and `stop`. An attempt that hangs (an address that swallows packets, a node that went away
in the middle of a handshake) does not hold up the next: after the longest pause another is begun beside it, and the
first to be usable wins. A connection on which probes go unanswered and nothing at all comes is replaced by a new one.
Else a link decides nothing: what happens is reported to its owner, and answers go to whoever asked.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any, Protocol

from hsm.shared.addresses import parse_address
from hsm.shared.logs import get_logger
from hsm.shared.tasks import Tasks
from hsm.wire.errors import LinkClosed
from hsm.wire.layout import MAX_MESSAGE_BYTES
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyFamily, Scheme
from hsm.wire.session import ClientSession
from proxy.base.policy import NodeAddress, SigningPolicy
from proxy.signing.backoff import ReconnectBackoff
from proxy.signing.connection import NodeConnection, OnAnswer
from proxy.signing.silence import LinkSilence

PROBE_SLOTS = 8
"""Requests under way beside the jobs' that a link has room for: probes of each family, and a list of keys."""
MAX_ATTEMPTS = 2
"""Attempts to connect under way at once."""


class LinkOwner(Protocol):
    """Hears what becomes of a link."""

    def link_opened(self, link: NodeLink, keys: tuple[KeyEntry, ...] | None) -> None:
        """The link is usable; `keys` is None when the node can't list them."""

    def link_keys(self, link: NodeLink, keys: tuple[KeyEntry, ...]) -> None:
        """The node's keys changed."""

    def link_lost(self, link: NodeLink, why: str) -> None:
        """A usable link is gone. Its requests end with Lost right after this."""

    def link_failed(self, link: NodeLink, why: str) -> None:
        """The link could not be opened; it will be tried again."""

    def link_draining(self, link: NodeLink) -> None:
        """The node wants no new requests."""

    def link_writable(self, link: NodeLink) -> None:
        """The link's send buffer is full, or has room again: `is_writable` changed."""


class NodeLink:
    """A connection to a node that is opened again whenever it is lost, between `start` and `stop`.

    It may be started again after it was stopped.
    """

    def __init__(
        self,
        node: NodeAddress,
        policy: SigningPolicy,
        ssl_context: ssl.SSLContext,
        owner: LinkOwner,
        *,
        tasks: Tasks,
        backoff: ReconnectBackoff,
    ) -> None:
        self._node, self._policy, self._ssl, self._owner, self._tasks = node, policy, ssl_context, owner, tasks
        self._backoff = backoff
        self._loop = asyncio.get_running_loop()
        self._log = get_logger("signing")
        self._connection: NodeConnection | None = None
        self._silence = LinkSilence(policy.probe_fall)
        self._is_running = False
        self._attempts: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        """When the next attempt begins, while there is no connection."""

    @property
    def is_usable(self) -> bool:
        """Whether requests may be made (a full link is usable)."""
        return self._connection is not None

    @property
    def can_take(self) -> bool:
        """Whether a request would be sent now."""
        connection = self._connection
        return connection is not None and connection.is_writable and not connection.session.is_full

    @property
    def is_writable(self) -> bool:
        """Whether the send buffer has room."""
        return self._connection is not None and self._connection.is_writable

    @property
    def in_flight(self) -> int:
        """Requests under way, of all kinds."""
        return self._connection.session.in_flight if self._connection else 0

    def start(self) -> None:
        """Begin to connect, unless it has begun."""
        if not self._is_running:
            self._is_running = True
            self._begin()

    def stop(self, why: str = "the proxy is stopping") -> None:
        """Close the connection and connect no more; requests under way end with Lost before this returns."""
        self._is_running = False
        self._disarm()
        attempts, self._attempts = self._attempts, set()
        for attempt in attempts:
            attempt.cancel()
        if self._connection is not None:
            self._connection.close(why)

    def probe_unanswered(self, family: KeyFamily | None, asked_at: float) -> None:
        """A probe that was sent at `asked_at` timed out. A dead connection is given up and another opened."""
        connection = self._connection
        if connection is not None and self._silence.unanswered(family, asked_at, connection.heard_at):
            self._log.warning("link_silent", node=self._node.name)
            connection.abort("probes went unanswered and nothing else came; the link is opened again")

    def sign(
        self,
        ski: bytes,
        scheme: Scheme,
        payload: bytes,
        deadline: float,
        on_answer: OnAnswer,
        tag: Any,
        *,
        server_name: str = "",
        client_ip: str = "",
        message: bytes = b"",
    ) -> int:
        """Ask for a signature; `on_answer(tag, answer)` follows once, unless it is cancelled. Return its id.

        `message` is what `payload` is the digest of, for nodes that sign nothing unseen. Raises LinkClosed or LinkFull.
        """
        connection = self._require()
        now = time.monotonic()
        session = connection.session
        try:
            request_id = session.sign(
                ski,
                scheme,
                payload,
                now=now,
                deadline=deadline,
                server_name=server_name,
                client_ip=client_ip,
                message=message,
            )
        except ValueError:
            # A name or address the wire can't carry (a scoped IPv6 address), which the node does not need; or a message
            # that is longer than any of TLS, without which a node may still sign.
            message = message if len(message) <= MAX_MESSAGE_BYTES else b""
            request_id = session.sign(ski, scheme, payload, now=now, deadline=deadline, message=message)
        connection.await_answer(request_id, on_answer, tag, deadline)
        return request_id

    def ping(self, deadline: float, on_answer: OnAnswer, tag: Any) -> int:
        """Ask for an echo, like `sign`."""
        connection = self._require()
        request_id = connection.session.ping(b"sealgate", now=time.monotonic(), deadline=deadline)
        connection.await_answer(request_id, on_answer, tag, deadline)
        return request_id

    def cancel(self, request_id: int) -> None:
        """Nobody waits for the request any more: the node is told and no answer is reported."""
        if self._connection is not None:
            self._connection.cancel(request_id)

    def _require(self) -> NodeConnection:
        if self._connection is None:
            raise LinkClosed(f"no link to node {self._node.name}")
        return self._connection

    # attempts

    def _begin(self) -> None:
        """Begin an attempt, and the next one beside it if this one hangs."""
        self._timer = None
        if len(self._attempts) < MAX_ATTEMPTS:
            attempt = self._tasks.start(self._attempt(), name=f"link to node {self._node.name}")
            self._attempts.add(attempt)
            attempt.add_done_callback(self._attempts.discard)
        self._arm(self._backoff.max_s)

    async def _attempt(self) -> None:
        opened: list[NodeConnection] = []
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._policy.connect_timeout_s):
                connection = await self._open(opened)
                keys = await connection.first_keys
            if self._use(connection, keys):
                opened.remove(connection)
        except (OSError, TimeoutError, ValueError) as error:  # ssl.SSLError is an OSError; ValueError: a bad name
            self._failed(error, time.monotonic() - began)
        finally:
            for each in opened:
                each.close("the link is given up")

    def _failed(self, error: Exception, spent_s: float) -> None:
        if self._connection is None and self._is_running:
            why = self._describe(error)
            self._owner.link_failed(self, why)
            self._try_later(why, spent_s=spent_s, is_refused=isinstance(error, ConnectionRefusedError))

    def _try_later(self, why: str, *, spent_s: float = 0.0, is_refused: bool = False) -> None:
        if self._is_running:  # the owner, when it heard of it, may have stopped the link
            delay_s = self._backoff.delay_s(time.monotonic(), spent_s=spent_s, is_refused=is_refused)
            self._log.debug("link_down", node=self._node.name, why=why, retry_in_s=round(delay_s, 3))
            self._arm(delay_s)

    def _arm(self, delay_s: float) -> None:
        self._disarm()
        self._timer = self._loop.call_later(delay_s, self._begin)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    async def _open(self, opened: list[NodeConnection]) -> NodeConnection:
        host, port = parse_address(self._node.address)
        limit = self._policy.max_in_flight_per_node + PROBE_SLOTS

        def connection() -> NodeConnection:
            opened.append(NodeConnection(self, ClientSession(limit), self._policy.connect_timeout_s))
            return opened[-1]

        await self._loop.create_connection(
            connection,
            host,
            port,
            ssl=self._ssl,
            server_hostname=self._node.server_name or host,
            ssl_handshake_timeout=self._policy.connect_timeout_s,
            ssl_shutdown_timeout=1.0,
        )
        return opened[-1]

    def _use(self, connection: NodeConnection, keys: tuple[KeyEntry, ...] | None) -> bool:
        """Make it the link's connection; False if another attempt was quicker. ConnectionError if it is lost again."""
        if connection.why_ended:  # between the list and this line
            raise ConnectionError(connection.why_ended)
        if self._connection is not None or not self._is_running:
            return False
        self._disarm()
        for attempt in self._attempts - {asyncio.current_task()}:
            attempt.cancel()
        self._connection, self._silence = connection, LinkSilence(self._policy.probe_fall)
        self._backoff.opened(time.monotonic())
        self._owner.link_opened(self, keys)
        if connection.is_draining and self._connection is connection:
            self._owner.link_draining(self)
        return True

    def _describe(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError) and not str(error):
            return f"{self._node.address} did not answer within {self._policy.connect_timeout_s:g} s"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{self._node.address}: its certificate is not accepted: {error.verify_message}"
        return f"{self._node.address}: {error}"

    # From the connection.

    def connection_ended(self, connection: NodeConnection, why: str) -> None:
        """See ConnectionOwner."""
        if self._connection is connection:
            self._connection = None
            self._owner.link_lost(self, why)
            self._try_later(why)

    def connection_writable(self, connection: NodeConnection) -> None:
        """See ConnectionOwner."""
        if self._connection is connection:
            self._owner.link_writable(self)

    def connection_draining(self, connection: NodeConnection) -> None:
        """See ConnectionOwner."""
        if self._connection is connection:
            self._owner.link_draining(self)

    def connection_keys(self, connection: NodeConnection, keys: tuple[KeyEntry, ...]) -> None:
        """See ConnectionOwner."""
        if self._connection is connection:
            self._owner.link_keys(self, keys)
