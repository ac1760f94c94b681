"""Config values of the signing side; `proxy/config/schema.py` embeds them and `proxy/signing` obeys them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=86400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Address = Annotated[str, Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^\[\]:\s/]+):[0-9]{1,5}\Z")]
"""host:port, or [ipv6]:port."""
Verify = Literal["always", "sampled", "never"]
"""Which signatures a proxy verifies before it uses them."""
NodeAdmin = Literal["enabled", "draining", "disabled"]
"""What the operator wants of a node."""
Share = Annotated[float, Meta(gt=0, le=1)]
Zone = Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?\Z")]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every config section: frozen, and unknown keys are errors."""


class NodeAddress(Strict, frozen=True, kw_only=True):
    """One HSM node: `[[nodes]]`."""

    name: Name
    address: Address
    server_name: str = ""
    """Name its certificate must carry; "" means the host of `address`."""
    zone: Zone = ""
    """Where it stands. A proxy prefers nodes of its own `routing.zone`."""
    weight: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    """Its share of the jobs beside other nodes that are as fast."""
    backup: bool = False
    """Asked only when no other node of the key has room."""
    state: NodeAdmin = "enabled"
    """"draining": no new jobs, links and probes stay. "disabled": not even a link."""
    capacity_per_s: Annotated[float, Meta(ge=0, le=10_000_000)] = 0.0
    """Signatures per second it is known to make, for the headroom; 0: measured or estimated."""


class DiscoverySource(Strict, frozen=True, kw_only=True):
    """Nodes that a name in the DNS stands for: `[[discovery]]`. They come and go while the proxy runs."""

    name: Name
    """Nodes are called name-ADDRESS-PORT."""
    kind: Literal["host", "srv"] = "host"
    """"host": every A and AAAA record is a node at `port`. "srv": every address that an SRV record's target has
    is a node at the record's port (RFC 2782)."""
    record: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?\Z")]
    """What is looked up: hsm.example.internal, or _keyless._tcp.example.internal."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Port of the nodes, where `kind` is "host"; SRV records have their own."""
    server_name: str = ""
    """Name in the certificates of all its nodes; "" means `record`, or the target of each SRV record."""
    zone: Zone = ""
    weight: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    capacity_per_s: Annotated[float, Meta(ge=0, le=10_000_000)] = 0.0
    interval_s: Seconds = 10.0
    """Longest time between two look-ups; records that live shorter are looked up sooner, but not within a second."""
    timeout_s: Seconds = 3.0
    """Longest wait for one look-up. A name that can't be looked up, or has no records, changes nothing."""
    max_nodes: Annotated[int, Meta(ge=1, le=256)] = 64
    """Nodes taken from one answer; more are left out with a warning."""
    nameservers: tuple[Address, ...] = ()
    """Servers to ask; none means those of /etc/resolv.conf."""


class RoutingPolicy(Strict, frozen=True, kw_only=True):
    """Which node signs, when another is asked, who waits: `[routing]`. docs/routing.md says when to touch what."""

    zone: Zone = ""
    """Where this proxy stands; "" prefers no node."""
    zone_factor: Annotated[float, Meta(ge=1, le=1000)] = 2.0
    """A node of another zone is asked when the own zone's is worse by this factor, or can take nothing."""
    latency_memory_s: Seconds = 2.0
    """How long a slow answer is held against a node: time constant of the peak-sensitive moving average."""
    window_initial: Count = 16
    """Requests one worker may have under way at a node that it does not know yet."""
    window_min: Annotated[int, Meta(ge=1, le=10_000)] = 2
    """The window of a node never shrinks below this; it grows up to `signing.max_in_flight_per_node`."""
    window_tolerance: Annotated[float, Meta(ge=1.1, le=100)] = 3.0
    """A window shrinks when latency is this many times that of a node without a queue."""
    key_share: Share = 0.75
    """Share of a node's window that one key may take while others are in use; 1 is no bulkhead."""
    queue_wait_s: Seconds = 0.5
    """A job that would have to wait longer than this for its turn is shed at once."""
    no_node_wait_s: Seconds = 1.0
    """How long a job waits for a node of its key while none is up."""
    attempt_timeout_min_s: Seconds = 0.05
    """An attempt waits for `attempt_timeout_factor` times the 99th percentile of recent latencies, not shorter than
    this and not longer than `signing.attempt_timeout_s`."""
    attempt_timeout_factor: Annotated[float, Meta(ge=1, le=100)] = 3.0
    retry_share: Share = 0.2
    """Attempts after timeouts and errors, as a share of all jobs; beyond it, retries wait."""
    hedge_share: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """Second attempts beside slow ones, as a share of all jobs; 0 turns hedging off."""
    hedge_quantile: Annotated[float, Meta(ge=0.5, le=0.999)] = 0.95
    """An attempt is slow when this share of recent ones was faster."""
    eject_after: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Failures in a row that take a node out of rotation for a while."""
    eject_error_share: Share = 0.5
    """Share of failures within `eject_window_s` that does the same, from `eject_volume` answers on."""
    eject_window_s: Seconds = 10.0
    eject_volume: Count = 20
    eject_min_s: Seconds = 1.0
    eject_max_s: Seconds = 30.0
    """A node stays out for the shortest time at first, and for twice as long each time it is out again soon."""
    max_ejected_share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Most of the nodes with a link that may be out for bad results or bad probes at once."""
    ramp_up_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    """A node that came back gets its full share of jobs after this long."""
    shed_at_door: bool = True
    """While signing capacity is short: refuse new handshakes that need a signature before any work is done for them."""
    door_prefix_v4: Annotated[int, Meta(ge=8, le=32)] = 24
    door_prefix_v6: Annotated[int, Meta(ge=16, le=128)] = 56
    """Clients whose addresses share so many bits count as one where capacity is divided among them."""


class SigningPolicy(Strict, frozen=True, kw_only=True):
    """How signatures are obtained: `[signing]`."""

    ca: str
    """PEM file of the CA that certifies nodes."""
    certificate: str
    """PEM chain by which this proxy shows nodes who it is."""
    private_key: str
    """PEM key of `certificate`. It opens the link to the nodes; it is no site's key."""
    job_timeout_s: Seconds = 5.0
    """Longest wait for a signature, over all attempts (a handshake's own deadline may end it earlier)."""
    attempt_timeout_s: Seconds = 1.0
    """Longest wait for one node before another is asked; mostly it is shorter (`routing.attempt_timeout_factor`)."""
    max_attempts: Count = 6
    """Failed attempts after which a job fails, even if its deadline would allow more; busy answers do not count."""
    retry_backoff_s: Seconds = 0.05
    """When every node has failed a job: wait before it is tried again; doubles with every round."""
    connect_timeout_s: Seconds = 2.0
    """Longest wait for a link: TCP, TLS and the node's list of keys."""
    reconnect_min_s: Seconds = 0.05
    reconnect_max_s: Seconds = 1.0
    """Back-off between connection attempts grows from min to max, with jitter."""
    probe_interval_s: Seconds = 1.0
    probe_timeout_s: Seconds = 1.0
    probe_rise: Count = 1
    """Good probes in a row that bring a node back."""
    probe_fall: Count = 2
    """Bad probes in a row that take a node out."""
    verify_signatures: Verify = "sampled"
    """Which signatures are verified with the certificate's public key before a handshake goes on with them.

    "sampled": every one of a node until it has given 64 good ones with the key, from then on one in 16 at random, and
    every RSA signature. "never": those of probes only. A wrong one takes its node out of rotation at once, and another
    node is asked. To verify all costs 13 % of a handshake's CPU with P-256, 88 % with P-384 and 4 % with RSA-2048; to
    sample costs 1, 5 and 4 % (docs/signing.md).
    """
    links_per_node: Annotated[int, Meta(ge=1, le=16)] = 1
    """Connections from each worker to each node."""
    max_in_flight_per_node: Count = 512
    """Most requests one worker has under way at one node; the window that adapts is within this."""
    max_waiting_jobs: Count = 4096
    """Jobs that may wait in one worker; the newest of the site with most of them is refused when there are more."""
