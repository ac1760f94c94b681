"""The `[[tokens]]` of `node.toml` as frozen values: what holds the keys, of which kind, and how it is opened.

Paths stay as written; relative ones start at the folder of the config file.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=86400)]
FilePath = Annotated[str, Meta(min_length=1, max_length=4096)]
TokenName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every config section: frozen, and unknown keys are errors."""


class TokenBase(Strict, frozen=True, kw_only=True):
    """What every kind of token has: `[[tokens]]`."""

    name: TokenName
    """How logs, metrics and `--token` call it; unique within the node."""
    queue: Annotated[int, Meta(ge=0, le=1_000_000)] = 1024
    """Requests that may wait for the token; more are answered busy."""


class VaultOpening(TokenBase, frozen=True, kw_only=True):
    """A vault and what opens it: exactly one of the three files or `shares`."""

    store: FilePath
    """File of the key store, shared by the nodes of this host."""
    passphrase_file: FilePath | None = None
    """File whose first line opens the vault."""
    key_file: FilePath | None = None
    """File of 32 bytes that opens the vault."""
    shares: bool = False
    """The vault is opened by shares, sent with `sealgate node unseal` each time the node starts."""
    wrapping_key: Annotated[str, Meta(min_length=8, max_length=4096)] | None = None
    """RFC 7512 URI of a secret key in a PKCS#11 token that opens the vault, with `pin-source` and `module-path`."""
    environment: dict[str, str] = {}
    """Variables for the process that runs the library of `wrapping_key`, such as SOFTHSM2_CONF."""


class VaultTokenConfig(VaultOpening, frozen=True, kw_only=True, tag="vault", tag_field="type"):
    """The software vault. P-256 and Ed25519 keys sign in the event loop, others in threads."""

    concurrency: Annotated[int, Meta(ge=0, le=256)] = 0
    """Signatures made at once in threads; 0 means one per core."""
    loop_queue: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    """Requests for P-256 and Ed25519 keys that may wait for the event loop; more are answered busy."""


class Pkcs11TokenConfig(TokenBase, frozen=True, kw_only=True, tag="pkcs11", tag_field="type"):
    """An HSM, through its maker's PKCS#11 library, which runs in a process of its own."""

    uri: Annotated[str, Meta(min_length=8, max_length=4096)]
    """RFC 7512 URI: names the token (`token`, `serial`, `manufacturer`, `model`, `slot-id`), the library
    (`?module-path=`) and, if not all keys are meant, the object (`object`, `id`). Never the PIN."""
    module: FilePath | None = None
    """The library, where the URI has no `module-path`."""
    pin_file: FilePath | None = None
    """File whose first line is the PIN; mode 0600. Exactly one of the four `pin_`s, unless the URI has `pin-source`."""
    pin_credential: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,255}\Z")] | None = None
    """Name of a systemd credential (LoadCredential=) that holds the PIN."""
    pin_env: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}\Z")] | None = None
    """Environment variable that holds the PIN; the node takes it out of its environment."""
    pin_prompt: bool = False
    """Ask for the PIN at the terminal when the node starts."""
    user: Annotated[str, Meta(max_length=255)] = ""
    """Put before the PIN with a colon, as AWS CloudHSM wants it (`user:password`); "" for others."""
    concurrency: Annotated[int, Meta(ge=1, le=1024)] = 30
    """Signing threads, each with a session of its own: signatures under way at once."""
    call_timeout_s: Seconds = 5.0
    """A call of the library that takes longer is taken for hung, and its process is replaced."""
    open_timeout_s: Seconds = 30.0
    """Longest wait for the library to load, log in and list the keys."""
    rescan_interval_s: Annotated[float, Meta(ge=0.1, le=86400)] = 5.0
    """How often the token is asked for keys that came or went."""
    retry_min_s: Annotated[float, Meta(ge=0.01, le=3600)] = 0.2
    retry_max_s: Annotated[float, Meta(ge=0.01, le=3600)] = 10.0
    """A token that can't be opened is tried again with pauses that grow from min to max."""
    book: FilePath | None = None
    """File in which the attributes of the token's keys are kept, mode 0600; default: `<name>.book` beside this file."""
    environment: dict[str, str] = {}
    """Variables for the library's process, such as SOFTHSM2_CONF."""


class SimulatedTokenConfig(VaultOpening, frozen=True, kw_only=True, tag="simulated", tag_field="type"):
    """A vault that is as slow, as narrow and as faulty as an HSM can be: for tests of what depends on it."""

    i_know_this_is_not_an_hsm: bool = False
    """Must be true."""
    profile: str = "cloudhsm-hsm2m"
    """Published rates to imitate; `sealgate node profiles` lists them."""
    concurrency: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """Signatures under way at once in the device; default: the profile's."""
    device_queue: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """Requests that may wait in the device; it answers more with busy. Default: the profile's."""
    places: Annotated[int, Meta(ge=1, le=4096)] | None = None
    """Requests that the node has in the device at once; default: `concurrency`. More make the device queue, as when
    an HSM is driven too hard."""
    call_timeout_s: Seconds = 5.0
    """A request that the device does not answer for so long fails."""
    rate: Annotated[float, Meta(gt=0)] | None = None
    """Signatures per second, of any kind; default: the profile's, by kind of key."""
    latency_ms: Annotated[float, Meta(ge=0, le=60_000)] | None = None
    """Median time of a signature that does not wait; default: the profile's."""
    latency_p99_ms: Annotated[float, Meta(ge=0, le=60_000)] | None = None
    """Its 99th percentile."""
    seed: int | None = None
    """Makes latencies and faults repeatable."""


TokenConfig: TypeAlias = VaultTokenConfig | Pkcs11TokenConfig | SimulatedTokenConfig
