"""The whole of `proxy.toml` as frozen values. Every field has a unit in its name or in its docstring."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from proxy.base.policy import (
    Address,
    Count,
    DiscoverySource,
    Name,
    NodeAddress,
    RoutingPolicy,
    Seconds,
    SigningPolicy,
    Strict,
)

TlsVersion = Literal["1.2", "1.3"]
Bytes = Annotated[int, Meta(ge=1, le=2**50)]


class ProcessConfig(Strict, frozen=True, kw_only=True):
    """The master and its workers: `[process]`."""

    workers: Annotated[int, Meta(ge=0, le=256)] = 0
    """Worker processes; 0 means one per core."""
    drain_timeout_s: Seconds = 30.0
    """After SIGTERM: longest wait for open connections before they are cut."""
    restart_delay_s: Annotated[float, Meta(ge=0.05, le=60)] = 1.0
    """Shortest life of a worker; one that dies younger is forked again only after this long."""
    log_format: Literal["console", "json"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class ControlConfig(Strict, frozen=True, kw_only=True):
    """Where metrics, health and status are served in plain HTTP: `[control]`. Keep it off public addresses."""

    address: Address = "127.0.0.1:9443"
    socket: str = ""
    """Unix socket through which nodes are drained, disabled and enabled at run time; only the proxy's own user may open
    it. "" puts it into the proxy's private folder of this run, where commands find it by asking `address`."""


class ListenerConfig(Strict, frozen=True, kw_only=True):
    """One address that accepts TLS clients: `[[listeners]]`."""

    name: Name = "https"
    address: Address
    backlog: Count = 1024
    max_connections: Count = 10_000
    """Open client connections per worker; more are closed at once."""


class TlsConfig(Strict, frozen=True, kw_only=True):
    """What is negotiated with clients: `[tls]`. Defaults are today's safe ones."""

    min_version: TlsVersion = "1.2"
    max_version: TlsVersion = "1.3"
    groups: tuple[str, ...] = ("X25519MLKEM768", "X25519", "P-256", "P-384")
    """Key exchange groups, best first."""
    ciphers: tuple[str, ...] = (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
    """TLS 1.2 cipher suites, OpenSSL names: AEAD with forward secrecy only; others are refused."""
    ciphersuites: tuple[str, ...] = (
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    )
    """TLS 1.3 cipher suites."""
    signature_algorithms: tuple[str, ...] = (
        "ecdsa_secp256r1_sha256",
        "ed25519",
        "ecdsa_secp384r1_sha384",
        "ecdsa_secp521r1_sha512",
        "rsa_pss_rsae_sha256",
        "rsa_pss_rsae_sha384",
        "rsa_pss_rsae_sha512",
        "rsa_pkcs1_sha256",
        "rsa_pkcs1_sha384",
        "rsa_pkcs1_sha512",
    )
    alpn: tuple[Literal["http/1.1"], ...] = ("http/1.1",)
    """Protocols offered, best first. A client that offers only others is refused (RFC 7301 3.2)."""
    strict_sni: bool = False
    """Refuse clients whose SNI matches no site, or that send none, rather than give them the default site."""
    tickets: bool = True
    """Give clients session tickets, by which they come back without a signature."""
    session_lifetime_s: Annotated[int, Meta(ge=60, le=604_800)] = 7200
    handshake_timeout_s: Seconds = 10.0


class SiteConfig(Strict, frozen=True, kw_only=True):
    """Names and the certificates shown for them: `[[sites]]`. It has no key setting: certificates name their keys."""

    names: Annotated[tuple[str, ...], Meta(min_length=1)]
    """DNS names, exact or with one leading "*." label."""
    certificates: Annotated[tuple[str, ...], Meta(min_length=1)]
    """PEM files, one per key type: the certificate, then its intermediates."""
    upstream: Name
    default: bool = False
    """Serve clients that name no known site; at most one site may."""
    signing_weight: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    """Its share of signatures beside other sites while they all want more than there are."""

    @property
    def name(self) -> str:
        """How the site is called in logs and metrics: its first name."""
        return self.names[0]


class UpstreamConfig(Strict, frozen=True, kw_only=True):
    """A group of web servers: `[[upstreams]]`."""

    name: Name
    servers: Annotated[tuple[Address, ...], Meta(min_length=1)]
    connect_timeout_s: Seconds = 2.0
    response_timeout_s: Seconds = 60.0
    """Longest wait for a response's headers after the request is sent."""
    idle_timeout_s: Seconds = 60.0
    """Longest silence within a body, in either direction."""
    keepalive_s: Seconds = 30.0
    """How long an unused connection is kept."""
    max_idle_connections: Annotated[int, Meta(ge=0, le=100_000)] = 64
    """Unused connections kept per server and worker."""
    max_connections: Count = 1024
    """Open connections per server and worker."""
    max_waiting: Count = 1024
    """Requests per worker that may wait for a connection; more get 503."""
    queue_timeout_s: Seconds = 5.0
    """Longest wait for a connection while all are busy; then 503."""
    server_retry_s: Seconds = 2.0
    """How long a server that could not be connected to is passed over while others can be."""
    tunnel_timeout_s: Seconds = 300.0
    """Longest silence, in both directions, of an upgraded connection (WebSocket)."""
    max_header_bytes: Annotated[int, Meta(ge=1024, le=1_048_576)] = 32_768
    """Status line and all header fields of a response together; more makes it a 502."""


class HttpConfig(Strict, frozen=True, kw_only=True):
    """Limits and timeouts towards clients: `[http]`."""

    max_header_bytes: Annotated[int, Meta(ge=1024, le=1_048_576)] = 32_768
    """Request line and all header fields together; more gets 431."""
    max_headers: Annotated[int, Meta(ge=8, le=10_000)] = 100
    """Header fields of a request; more get 431."""
    max_target_bytes: Annotated[int, Meta(ge=64, le=1_048_576)] = 8192
    """Path and query of a request; more gets 414."""
    max_body_bytes: Bytes = 2**36
    """A larger request body gets 413."""
    header_timeout_s: Seconds = 10.0
    """From a request's first byte to its last header; then 408."""
    keepalive_timeout_s: Seconds = 60.0
    """Longest wait for the next request."""
    body_timeout_s: Seconds = 30.0
    """Longest silence within a request's body; then 408."""
    send_timeout_s: Seconds = 60.0
    """Longest time a client may take nothing of a response; then it is cut."""
    linger_timeout_s: Seconds = 2.0
    """After an answer to a request that was not read to its end: how long the rest is read and thrown away."""
    forwarded: Literal["replace", "append"] = "replace"
    """X-Forwarded-*: overwrite what the client sent, or append to it behind a trusted proxy."""
    via: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{0,64}\Z")] = ""
    """Name put into the Via field of requests; "" sends none (some servers compress no response to a proxy)."""


class ProxyConfig(Strict, frozen=True, kw_only=True):
    """`proxy.toml`."""

    process: ProcessConfig = ProcessConfig()
    control: ControlConfig = ControlConfig()
    tls: TlsConfig = TlsConfig()
    http: HttpConfig = HttpConfig()
    listeners: Annotated[tuple[ListenerConfig, ...], Meta(min_length=1)]
    sites: Annotated[tuple[SiteConfig, ...], Meta(min_length=1)]
    upstreams: Annotated[tuple[UpstreamConfig, ...], Meta(min_length=1)]
    nodes: tuple[NodeAddress, ...] = ()
    discovery: tuple[DiscoverySource, ...] = ()
    """Nodes are listed, discovered, or both; one way is needed."""
    signing: SigningPolicy
    routing: RoutingPolicy = RoutingPolicy()
