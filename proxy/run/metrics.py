"""The proxy's metrics: the only file that spells their names and labels (docs/metrics.md lists them for users).

Label values come from the config, from enums and from what OpenSSL was allowed to negotiate, never from a client's
bytes. All times are seconds, all sizes bytes.
"""

from __future__ import annotations

from proxy.run.cells import Family, Kind

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


def _setting(name: str, help_: str, *labels: str) -> Family:
    """A gauge that every process says alike, or one for all: it is not summed."""
    return _family(Kind.GAUGE_MAX, name, help_, *labels)


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

# routing
QUEUE_WAIT_LIMIT = _setting(
    "sealgate_signing_queue_wait_limit_seconds", "Jobs that would have to wait longer are shed at once."
)
RETRIES_DELAYED = _counter("sealgate_signing_retries_delayed_total", "Retries that waited for their budget.")
RETRY_SHARE_LIMIT = _setting("sealgate_signing_retry_share_limit", "Retries that are allowed, as a share of all jobs.")
HEDGES = _counter("sealgate_node_hedges_total", "Second attempts at this node beside a slow one.", "node")
HEDGES_WON = _counter("sealgate_node_hedges_won_total", "Second attempts that answered first.", "node")
HEDGE_SHARE_LIMIT = _setting(
    "sealgate_signing_hedge_share_limit", "Second attempts that are allowed, as a share of all jobs."
)
EJECTIONS = _counter(
    "sealgate_node_ejections_total", "Times bad results took a node or a key of it out.", "node", "why"
)
EJECTED_SHARE_LIMIT = _setting("sealgate_node_ejected_share_limit", "Most of the nodes that may be out at once.")
NODE_ADMIN = _setting("sealgate_node_admin", "1 for what the operator wants of the node.", "node", "state")
NODE_IN_ROTATION = _setting("sealgate_node_in_rotation", "1 where every worker gives the node jobs.", "node")
NODE_WINDOW = _gauge("sealgate_node_window", "Requests that may be under way at a node by its latency now.", "node")
NODE_LATENCY = _setting("sealgate_node_latency_seconds", "Latency of a node by which it is chosen; the worst.", "node")
NODE_RATE = _gauge("sealgate_node_rate_per_second", "Signatures that a node makes per second.", "node")
NODE_CAPACITY = _setting(
    "sealgate_node_capacity_per_second", "Signatures that a node can make per second.", "node", "basis"
)
USED = _setting("sealgate_headroom_used_per_second", "Signatures that all nodes make per second.")
CAPACITY = _setting("sealgate_headroom_capacity_per_second", "Signatures that nodes in rotation can make per second.")
LEFT_AFTER_LOSS = _setting(
    "sealgate_headroom_left_after_loss_per_second", "Capacity left beside the load when the worst node is lost."
)
IS_N_MINUS_1_SAFE = _setting("sealgate_headroom_n_minus_1_safe", "1 where any one node may be lost, else 0.")
LONELY_KEYS = _setting("sealgate_headroom_lonely_keys", "Site keys that fewer than two nodes in rotation hold.")

# the door
DOOR = _counter(
    "sealgate_door_decisions_total",
    "New handshakes while signing capacity was short, by what became of them.",
    "listener",
    "decision",
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
"""The outcome of what has no reason to fail."""
