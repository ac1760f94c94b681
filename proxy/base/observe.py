"""The observer: one typed method per thing that happens. `proxy/run/observer.py` turns them into metrics.

Label values come from the config and from enums, never from what a client sent.
"""

from __future__ import annotations

from enum import StrEnum

from proxy.base.errors import HttpReason, SigningReason, TlsReason


class NodeState(StrEnum):
    """How a node stands for the router."""

    UP = "up"
    DOWN = "down"
    DRAINING = "draining"
    CONNECTING = "connecting"
    EJECTED = "ejected"
    """Its link and probes are good, its results are not."""
    DISABLED = "disabled"
    """The operator wants it so."""


class DoorDecision(StrEnum):
    """What became of a new handshake while signing capacity was short."""

    RESUMABLE = "resumable"
    """Let in first: it offers a session to resume."""
    ADMITTED = "admitted"
    SHED = "shed"
    """Refused: its range of addresses has had its share."""


class LookupOutcome(StrEnum):
    """What came of looking up the name of a discovery source."""

    OK = "ok"
    PARTIAL = "partial"
    """Some of its look-ups failed; what the others said counts."""
    NO_NAME = "no_name"
    """The name does not exist (NXDOMAIN)."""
    NO_RECORDS = "no_records"
    """The name has no records of the kind, or none that a node can have."""
    SERVER_FAILED = "server_failed"
    """Every server that was asked failed or refused."""
    TIMEOUT = "timeout"
    NO_SERVER = "no_server"
    """There is nobody to ask: no `nameservers`, and none in /etc/resolv.conf."""


class ProxyObserver:
    """Hears what happens and does nothing; subclasses override what they count. Durations are seconds."""

    # client connections and TLS sessions
    def connection_opened(self, listener: str) -> None:
        """A client's TCP connection was accepted."""

    def connection_closed(self, listener: str) -> None:
        """A client's TCP connection is gone, whatever came of it."""

    def connection_refused(self, listener: str) -> None:
        """A client's connection was closed at once, because the listener is full."""

    def handshake_started(self, listener: str) -> None:
        """The first byte of a handshake arrived."""

    def session_started(
        self, site: str, version: str, cipher: str, group: str, *, resumed: bool, duration_s: float
    ) -> None:
        """A handshake succeeded and a TLS session is active."""

    def session_ended(self, site: str, version: str, reason: TlsReason | None) -> None:
        """An active session ended; `reason` is None for an orderly end."""

    def handshake_failed(self, site: str, reason: TlsReason, duration_s: float) -> None:
        """A handshake ended without a session; `site` is "" where none was chosen yet."""

    # signatures
    def job_started(self, site: str, scheme: str) -> None:
        """A handshake waits for a signature."""

    def job_finished(self, site: str, scheme: str, node: str, duration_s: float) -> None:
        """A signature was delivered; `node` made it."""

    def job_failed(self, site: str, scheme: str, reason: SigningReason, duration_s: float) -> None:
        """A handshake did not get its signature."""

    def attempt_started(self, node: str) -> None:
        """A node was asked."""

    def attempt_finished(self, node: str, reason: SigningReason | None, duration_s: float) -> None:
        """A node answered, or will not any more; `reason` is None for a good signature."""

    def probe_finished(self, node: str, reason: SigningReason | None, duration_s: float) -> None:
        """A health probe (a real signature) ended; `reason` is None for a good one."""

    def node_changed(self, node: str, state: NodeState) -> None:
        """The router's view of a node changed."""

    def node_gone(self, node: str) -> None:
        """A node that was discovered is there no more."""

    def queue_changed(self, waiting: int) -> None:
        """How many jobs wait in this worker because no node can take them yet."""

    def hedge_started(self, node: str) -> None:
        """A second node was asked beside a slow one, at the cost of perhaps one more signature."""

    def hedge_won(self, node: str) -> None:
        """The second node that was asked answered first."""

    def retry_delayed(self) -> None:
        """A job must wait for its next attempt, because retries have used up their share."""

    def node_ejected(self, node: str, why: str) -> None:
        """Bad results took a node, or one of its keys, out of rotation; `why` is "consecutive" or "share"."""

    def discovery_answered(self, source: str, outcome: LookupOutcome) -> None:
        """The name of a discovery source was looked up."""

    def discovery_known(self, source: str, nodes: int) -> None:
        """How many nodes a source names now, by what its answers said so far."""

    def door_decided(self, listener: str, decision: DoorDecision) -> None:
        """Signing capacity is short, and a new handshake was let in or shed."""

    # HTTP
    def request_finished(
        self, site: str, upstream: str, method: str, status: int, duration_s: float, bytes_in: int, bytes_out: int
    ) -> None:
        """A response was sent whole; `method` is one of the registered methods or "OTHER"."""

    def request_failed(self, site: str, upstream: str, reason: HttpReason, status: int) -> None:
        """A request was refused, or broke off; `status` is what the client was told, 0 for nothing."""

    def upstream_attempted(self, upstream: str, server: str, reason: HttpReason | None, duration_s: float) -> None:
        """A server was tried; `reason` is None where it answered, the duration is the time to its headers."""

    def upstream_connections_changed(self, upstream: str, server: str, open_connections: int) -> None:
        """Connections now open to one server."""

    def upstream_waiting_changed(self, upstream: str, waiting: int) -> None:
        """How many requests wait in this worker for a connection to an upstream."""

    # the process
    def task_crashed(self, name: str) -> None:
        """A supervised task ended with an exception nobody expected."""
