"""The proxy's metrics: the only file that spells their names and labels (docs/metrics.md lists them for users).

Label values come from the config, from enums and from what OpenSSL was allowed to negotiate, never from a client's
bytes. All times are seconds, all sizes bytes.
"""

from __future__ import annotations

from proxy.base.errors import HttpReason, SigningReason, TlsReason
from proxy.base.observe import LookupOutcome, NodeState, ProxyObserver
from proxy.config.schema import ProxyConfig
from proxy.run.cells import Family, Kind, Ledger

FAST_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""100 us to 10 s: what a signature or a handshake can take."""
SLOW_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""1 ms to a minute: what a web server can take."""

FAMILIES: dict[str, Family] = {}


def _family(kind: Kind, name: str, help_: str, *labels: str, bounds: tuple[float, ...] = ()) -> Family:
    FAMILIES[name] = family = Family(name=name, help=help_, kind=kind, labels=labels, bounds=bounds)
    return family


def _counter(name: str, help_: str, *labels: str) -> Family:
    return _family(Kind.COUNTER, name, help_, *labels)


def _gauge(name: str, help_: str, *labels: str) -> Family:
    return _family(Kind.GAUGE_SUM, name, help_, *labels)


def _histogram(name: str, help_: str, *labels: str, bounds: tuple[float, ...] = FAST_S) -> Family:
    return _family(Kind.HISTOGRAM, name, help_, *labels, bounds=bounds)


# connections
CONNECTIONS = _counter("sealgate_connections_total", "Client connections accepted.", "listener")
CONNECTIONS_OPEN = _gauge("sealgate_connections_open", "Client connections open now.", "listener")
CONNECTIONS_REFUSED = _counter(
    "sealgate_connections_refused_total", "Client connections closed at once because the listener was full.", "listener"
)
CONNECTIONS_LIMIT = _gauge("sealgate_connections_limit", "Client connections that may be open.", "listener")

# TLS
HANDSHAKES_STARTED = _counter("sealgate_tls_handshakes_started_total", "Handshakes begun by clients.", "listener")
HANDSHAKES_RUNNING = _gauge("sealgate_tls_handshakes_in_progress", "Handshakes that have begun and not ended.")
HANDSHAKE_FAILURES = _counter(
    "sealgate_tls_handshake_failures_total", "Handshakes that ended without a session.", "site", "reason"
)
HANDSHAKE_DURATION = _histogram(
    "sealgate_tls_handshake_duration_seconds", "First byte to established session.", "version", "resumed"
)
SESSIONS = _counter("sealgate_tls_sessions_total", "TLS sessions established.", "site", "version", "resumed")
SESSIONS_ACTIVE = _gauge("sealgate_tls_sessions_active", "TLS sessions open now.", "site", "version")
SESSIONS_ENDED = _counter(
    "sealgate_tls_sessions_ended_total",
    "TLS sessions ended; outcome closed is an orderly end.",
    "site",
    "version",
    "outcome",
)
KEY_EXCHANGES = _counter(
    "sealgate_tls_negotiated_total", "TLS sessions by what was negotiated.", "version", "cipher", "group"
)

# signatures
JOBS = _counter("sealgate_signing_jobs_total", "Signatures wanted, by what came of it.", "site", "scheme", "outcome")
JOBS_RUNNING = _gauge("sealgate_signing_jobs_in_flight", "Handshakes that wait for a signature now.")
JOBS_WAITING = _gauge("sealgate_signing_jobs_waiting", "Jobs that no node could take yet.")
JOBS_WAITING_LIMIT = _gauge("sealgate_signing_jobs_waiting_limit", "Jobs that may wait; more are refused at once.")
SIGNING_DURATION = _histogram(
    "sealgate_signing_duration_seconds", "Job to delivered signature, over all attempts.", "scheme", "node"
)
ATTEMPTS = _counter("sealgate_node_attempts_total", "Requests to nodes, by what came of them.", "node", "outcome")
ATTEMPTS_RUNNING = _gauge("sealgate_node_attempts_in_flight", "Requests under way at a node.", "node")
ATTEMPTS_LIMIT = _gauge("sealgate_node_attempts_limit", "Requests that may be under way at a node.", "node")
ATTEMPT_DURATION = _histogram("sealgate_node_attempt_duration_seconds", "Request to a node until its answer.", "node")
PROBES = _counter("sealgate_node_probes_total", "Health probes, each a real signature.", "node", "outcome")
PROBE_DURATION = _histogram("sealgate_node_probe_duration_seconds", "Duration of good health probes.", "node")
NODE_UP = _family(Kind.GAUGE_MIN, "sealgate_node_up", "1 where every worker can use the node, else 0.", "node")
NODE_STATE = _gauge("sealgate_node_state", "Workers that see the node in this state.", "node", "state")
NODE_CHANGES = _counter("sealgate_node_changes_total", "Times a node came into this state.", "node", "state")
LOOKUPS = _counter("sealgate_discovery_lookups_total", "Look-ups of names that stand for nodes.", "source", "outcome")
DISCOVERED = _family(Kind.GAUGE_MAX, "sealgate_discovery_nodes", "Nodes that a source names now.", "source")
DISCOVERED_LIMIT = _family(
    Kind.GAUGE_MAX, "sealgate_discovery_nodes_limit", "Nodes that are taken from one answer.", "source"
)

# HTTP
REQUESTS = _counter("sealgate_http_requests_total", "Responses sent whole.", "site", "upstream", "method", "status")
REQUEST_DURATION = _histogram(
    "sealgate_http_request_duration_seconds", "First byte of a request to last of its response.", "site", bounds=SLOW_S
)
REQUEST_BYTES = _counter("sealgate_http_request_bytes_total", "Bytes of request bodies.", "site")
RESPONSE_BYTES = _counter("sealgate_http_response_bytes_total", "Bytes of response bodies.", "site")
REQUEST_FAILURES = _counter(
    "sealgate_http_failures_total", "Requests refused or broken off.", "site", "upstream", "reason", "status"
)
UPSTREAM_ATTEMPTS = _counter(
    "sealgate_upstream_attempts_total",
    "Requests to web servers, by what came of them.",
    "upstream",
    "server",
    "outcome",
)
UPSTREAM_DURATION = _histogram(
    "sealgate_upstream_response_duration_seconds",
    "Request to a web server until its headers.",
    "upstream",
    bounds=SLOW_S,
)
UPSTREAM_OPEN = _gauge("sealgate_upstream_connections_open", "Connections to web servers.", "upstream", "server")
UPSTREAM_WAITING = _gauge("sealgate_upstream_requests_waiting", "Requests that wait for a connection.", "upstream")
UPSTREAM_WAITING_LIMIT = _gauge(
    "sealgate_upstream_requests_waiting_limit", "Requests that may wait; more get 503.", "upstream"
)
UPSTREAM_LIMIT = _gauge(
    "sealgate_upstream_connections_limit", "Connections to a web server that may be open.", "upstream", "server"
)

# processes
TASK_CRASHES = _counter("sealgate_task_crashes_total", "Defects: background work that ended unexpectedly.")
WORKERS = _gauge("sealgate_workers", "Worker processes by state.", "state")
RESTARTS = _counter("sealgate_process_restarts_total", "Processes forked again after they died.", "role")
GENERATION = _family(Kind.GAUGE_MAX, "sealgate_generation", "Number of the config that is running, from 1.")
BUILD_INFO = _family(Kind.GAUGE_MAX, "sealgate_build_info", "Always 1; the labels say what runs.", "version", "python")
WORKER_CPU = _counter("sealgate_worker_cpu_seconds_total", "User and system time of a worker.", "worker")
WORKER_MEMORY = _gauge("sealgate_worker_resident_memory_bytes", "Resident memory of a worker.", "worker")
LOOP_DELAY = _family(
    Kind.GAUGE_MAX, "sealgate_worker_loop_delay_seconds", "How late a worker's event loop ran a timer.", "worker"
)

OK = "ok"
_RESUMED = {True: "true", False: "false"}
_STATUS = {hundred: f"{hundred}xx" for hundred in range(10)}


def _outcome(reason: SigningReason | HttpReason | TlsReason | None) -> str:
    return OK if reason is None else reason.value


class PrometheusObserver(ProxyObserver):
    """Counts what a worker reports into a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._connections = ledger.cells(CONNECTIONS)
        self._connections_open = ledger.cells(CONNECTIONS_OPEN)
        self._connections_refused = ledger.cells(CONNECTIONS_REFUSED)
        self._handshakes = ledger.cells(HANDSHAKES_STARTED)
        self._handshakes_running = ledger.cells(HANDSHAKES_RUNNING)[()]
        self._handshake_failures = ledger.cells(HANDSHAKE_FAILURES)
        self._handshake_duration = ledger.spreads(HANDSHAKE_DURATION)
        self._sessions = ledger.cells(SESSIONS)
        self._sessions_active = ledger.cells(SESSIONS_ACTIVE)
        self._sessions_ended = ledger.cells(SESSIONS_ENDED)
        self._key_exchanges = ledger.cells(KEY_EXCHANGES)
        self._jobs = ledger.cells(JOBS)
        self._jobs_running = ledger.cells(JOBS_RUNNING)[()]
        self._jobs_waiting = ledger.cells(JOBS_WAITING)[()]
        self._signing_duration = ledger.spreads(SIGNING_DURATION)
        self._attempts = ledger.cells(ATTEMPTS)
        self._attempts_running = ledger.cells(ATTEMPTS_RUNNING)
        self._attempt_duration = ledger.spreads(ATTEMPT_DURATION)
        self._probes = ledger.cells(PROBES)
        self._probe_duration = ledger.spreads(PROBE_DURATION)
        self._node_up = ledger.cells(NODE_UP)
        self._node_state = ledger.cells(NODE_STATE)
        self._node_changes = ledger.cells(NODE_CHANGES)
        self._lookups = ledger.cells(LOOKUPS)
        self._discovered = ledger.cells(DISCOVERED)
        self._requests = ledger.cells(REQUESTS)
        self._request_duration = ledger.spreads(REQUEST_DURATION)
        self._request_bytes = ledger.cells(REQUEST_BYTES)
        self._response_bytes = ledger.cells(RESPONSE_BYTES)
        self._request_failures = ledger.cells(REQUEST_FAILURES)
        self._upstream_attempts = ledger.cells(UPSTREAM_ATTEMPTS)
        self._upstream_duration = ledger.spreads(UPSTREAM_DURATION)
        self._upstream_open = ledger.cells(UPSTREAM_OPEN)
        self._upstream_waiting = ledger.cells(UPSTREAM_WAITING)
        self._task_crashes = ledger.cells(TASK_CRASHES)[()]

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
        self._jobs[site, scheme, OK].value += 1
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

    def queue_changed(self, waiting: int) -> None:
        self._jobs_waiting.value = waiting

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


def declare_limits(ledger: Ledger, config: ProxyConfig) -> None:
    """Write the bounds of the config beside what they bound, and begin what is counted per node and site at 0."""
    for listener in config.listeners:
        ledger.cells(CONNECTIONS_LIMIT)[listener.name,].value = listener.max_connections
        _ = ledger.cells(CONNECTIONS_OPEN)[listener.name,]
    ledger.cells(JOBS_WAITING_LIMIT)[()].value = config.signing.max_waiting_jobs
    for node in config.nodes:
        ledger.cells(ATTEMPTS_LIMIT)[node.name,].value = config.signing.max_in_flight_per_node
        _ = ledger.cells(NODE_UP)[node.name,], ledger.cells(ATTEMPTS)[node.name, OK]
    for source in config.discovery:
        ledger.cells(DISCOVERED_LIMIT)[source.name,].value = source.max_nodes
        _ = ledger.cells(LOOKUPS)[source.name, OK]
    for upstream in config.upstreams:
        ledger.cells(UPSTREAM_WAITING_LIMIT)[upstream.name,].value = upstream.max_waiting
        _ = ledger.cells(UPSTREAM_WAITING)[upstream.name,]
        for server in upstream.servers:
            ledger.cells(UPSTREAM_LIMIT)[upstream.name, server].value = upstream.max_connections
    for site in config.sites:
        for version in ("TLSv1.2", "TLSv1.3"):
            _ = ledger.cells(SESSIONS_ACTIVE)[site.name, version]
