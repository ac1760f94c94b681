"""The observer that counts: each thing that happens in a worker is one addition to a number or two of its ledger."""

from __future__ import annotations

from proxy.base.errors import HttpReason, SigningReason, TlsReason
from proxy.base.observe import DoorDecision, LookupOutcome, NodeState, ProxyObserver
from proxy.run import metrics
from proxy.run.cells import Ledger
from proxy.run.limits import hide_node

_RESUMED = {True: "true", False: "false"}
_STATUS = {hundred: f"{hundred}xx" for hundred in range(10)}


def _outcome(reason: SigningReason | HttpReason | TlsReason | None) -> str:
    return metrics.OK if reason is None else reason.value


class PrometheusObserver(ProxyObserver):
    """Counts what a worker reports into a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._connections = ledger.cells(metrics.CONNECTIONS)
        self._connections_open = ledger.cells(metrics.CONNECTIONS_OPEN)
        self._connections_refused = ledger.cells(metrics.CONNECTIONS_REFUSED)
        self._handshakes = ledger.cells(metrics.HANDSHAKES_STARTED)
        self._handshakes_running = ledger.cells(metrics.HANDSHAKES_RUNNING)[()]
        self._handshake_failures = ledger.cells(metrics.HANDSHAKE_FAILURES)
        self._handshake_duration = ledger.spreads(metrics.HANDSHAKE_DURATION)
        self._sessions = ledger.cells(metrics.SESSIONS)
        self._sessions_active = ledger.cells(metrics.SESSIONS_ACTIVE)
        self._sessions_ended = ledger.cells(metrics.SESSIONS_ENDED)
        self._key_exchanges = ledger.cells(metrics.KEY_EXCHANGES)
        self._jobs = ledger.cells(metrics.JOBS)
        self._jobs_running = ledger.cells(metrics.JOBS_RUNNING)[()]
        self._jobs_waiting = ledger.cells(metrics.JOBS_WAITING)[()]
        self._signing_duration = ledger.spreads(metrics.SIGNING_DURATION)
        self._attempts = ledger.cells(metrics.ATTEMPTS)
        self._attempts_running = ledger.cells(metrics.ATTEMPTS_RUNNING)
        self._attempt_duration = ledger.spreads(metrics.ATTEMPT_DURATION)
        self._probes = ledger.cells(metrics.PROBES)
        self._probe_duration = ledger.spreads(metrics.PROBE_DURATION)
        self._node_up = ledger.cells(metrics.NODE_UP)
        self._node_state = ledger.cells(metrics.NODE_STATE)
        self._node_changes = ledger.cells(metrics.NODE_CHANGES)
        self._lookups = ledger.cells(metrics.LOOKUPS)
        self._discovered = ledger.cells(metrics.DISCOVERED)
        self._hedges = ledger.cells(metrics.HEDGES)
        self._hedges_won = ledger.cells(metrics.HEDGES_WON)
        self._retries_delayed = ledger.cells(metrics.RETRIES_DELAYED)[()]
        self._ejections = ledger.cells(metrics.EJECTIONS)
        self._door = ledger.cells(metrics.DOOR)
        self._requests = ledger.cells(metrics.REQUESTS)
        self._request_duration = ledger.spreads(metrics.REQUEST_DURATION)
        self._request_bytes = ledger.cells(metrics.REQUEST_BYTES)
        self._response_bytes = ledger.cells(metrics.RESPONSE_BYTES)
        self._request_failures = ledger.cells(metrics.REQUEST_FAILURES)
        self._upstream_attempts = ledger.cells(metrics.UPSTREAM_ATTEMPTS)
        self._upstream_duration = ledger.spreads(metrics.UPSTREAM_DURATION)
        self._upstream_open = ledger.cells(metrics.UPSTREAM_OPEN)
        self._upstream_waiting = ledger.cells(metrics.UPSTREAM_WAITING)
        self._task_crashes = ledger.cells(metrics.TASK_CRASHES)[()]

    def connection_opened(self, listener: str) -> None:
        self._connections[listener,].value += 1
        self._connections_open[listener,].value += 1

    def connection_closed(self, listener: str) -> None:
        self._connections_open[listener,].value -= 1

    def connection_refused(self, listener: str) -> None:
        self._connections_refused[listener,].value += 1

    def handshake_started(self, listener: str) -> None:
        self._handshakes[listener,].value += 1
        self._handshakes_running.value += 1

    def session_started(
        self, site: str, version: str, cipher: str, group: str, *, resumed: bool, duration_s: float
    ) -> None:
        self._handshakes_running.value -= 1
        self._sessions[site, version, _RESUMED[resumed]].value += 1
        self._sessions_active[site, version].value += 1
        self._key_exchanges[version, cipher, group].value += 1
        self._handshake_duration[version, _RESUMED[resumed]].observe(duration_s)

    def session_ended(self, site: str, version: str, reason: TlsReason | None) -> None:
        self._sessions_active[site, version].value -= 1
        self._sessions_ended[site, version, "closed" if reason is None else reason.value].value += 1

    def handshake_failed(self, site: str, reason: TlsReason, duration_s: float) -> None:
        self._handshakes_running.value -= 1
        self._handshake_failures[site, reason.value].value += 1

    def job_started(self, site: str, scheme: str) -> None:
        self._jobs_running.value += 1

    def job_finished(self, site: str, scheme: str, node: str, duration_s: float) -> None:
        self._jobs_running.value -= 1
        self._jobs[site, scheme, metrics.OK].value += 1
        self._signing_duration[scheme, node].observe(duration_s)

    def job_failed(self, site: str, scheme: str, reason: SigningReason, duration_s: float) -> None:
        self._jobs_running.value -= 1
        self._jobs[site, scheme, reason.value].value += 1

    def attempt_started(self, node: str) -> None:
        self._attempts_running[node,].value += 1

    def attempt_finished(self, node: str, reason: SigningReason | None, duration_s: float) -> None:
        self._attempts_running[node,].value -= 1
        self._attempts[node, _outcome(reason)].value += 1
        self._attempt_duration[node,].observe(duration_s)

    def probe_finished(self, node: str, reason: SigningReason | None, duration_s: float) -> None:
        self._probes[node, _outcome(reason)].value += 1
        if reason is None:
            self._probe_duration[node,].observe(duration_s)

    def node_changed(self, node: str, state: NodeState) -> None:
        for each in NodeState:
            self._node_state[node, each.value].value = int(each is state)
        self._node_up[node,].value = int(state is NodeState.UP)
        self._node_changes[node, state.value].value += 1

    def discovery_answered(self, source: str, outcome: LookupOutcome) -> None:
        self._lookups[source, outcome.value].value += 1

    def discovery_known(self, source: str, nodes: int) -> None:
        self._discovered[source,].value = nodes

    def node_gone(self, node: str) -> None:
        hide_node(self.ledger, node)

    def queue_changed(self, waiting: int) -> None:
        self._jobs_waiting.value = waiting

    def hedge_started(self, node: str) -> None:
        self._hedges[node,].value += 1

    def hedge_won(self, node: str) -> None:
        self._hedges_won[node,].value += 1

    def retry_delayed(self) -> None:
        self._retries_delayed.value += 1

    def node_ejected(self, node: str, why: str) -> None:
        self._ejections[node, why].value += 1

    def door_decided(self, listener: str, decision: DoorDecision) -> None:
        self._door[listener, decision.value].value += 1

    def request_finished(
        self, site: str, upstream: str, method: str, status: int, duration_s: float, bytes_in: int, bytes_out: int
    ) -> None:
        self._requests[site, upstream, method, _STATUS.get(status // 100, "other")].value += 1
        self._request_duration[site,].observe(duration_s)
        self._request_bytes[site,].value += bytes_in
        self._response_bytes[site,].value += bytes_out

    def request_failed(self, site: str, upstream: str, reason: HttpReason, status: int) -> None:
        self._request_failures[site, upstream, reason.value, str(status)].value += 1

    def upstream_attempted(self, upstream: str, server: str, reason: HttpReason | None, duration_s: float) -> None:
        self._upstream_attempts[upstream, server, _outcome(reason)].value += 1
        if reason is None:
            self._upstream_duration[upstream,].observe(duration_s)

    def upstream_connections_changed(self, upstream: str, server: str, open_connections: int) -> None:
        self._upstream_open[upstream, server].value = open_connections

    def upstream_waiting_changed(self, upstream: str, waiting: int) -> None:
        self._upstream_waiting[upstream,].value = waiting

    def task_crashed(self, name: str) -> None:
        self._task_crashes.value += 1
