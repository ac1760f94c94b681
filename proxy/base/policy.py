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
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every config section: frozen, and unknown keys are errors."""


class NodeAddress(Strict, frozen=True, kw_only=True):
    """One HSM node: `[[nodes]]`."""

    name: Name
    address: Address
    server_name: str = ""
    """Name its certificate must carry; "" means the host of `address`."""


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
    """Longest wait for one node before another is asked."""
    max_attempts: Count = 6
    """Failed attempts after which a job fails, even if its deadline would allow more; busy answers do not count."""
    retry_backoff_s: Seconds = 0.05
    """When every node has failed a job: wait before it is tried again; doubles with every round."""
    connect_timeout_s: Seconds = 2.0
    """Longest wait for a link: TCP, TLS and the node's list of keys."""
    reconnect_min_s: Seconds = 0.05
    reconnect_max_s: Seconds = 2.0
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
    """Requests one worker has under way at one node."""
    max_waiting_jobs: Count = 4096
    """Jobs that may wait in one worker while every node is full; more are refused at once."""
