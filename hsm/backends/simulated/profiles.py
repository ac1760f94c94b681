"""What is known of real devices' speed, figure by figure, with its source; and models made of it.

Nobody publishes everything. A figure is therefore one of four: read in the source that is named, worked out from such
a figure, reported (the source is named, but its page was not at hand when this was written), or estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from hsm.backends.simulated.device import DeviceModel, Figures
from hsm.wire.schemes import KeyType


class Basis(StrEnum):
    """How a figure is known."""

    PUBLISHED = "published"
    DERIVED = "derived"
    REPORTED = "reported"
    ESTIMATED = "estimated"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a figure comes from."""

    basis: Basis
    says: str
    """What the source says, or what the estimate rests on."""
    url: str = ""


@dataclass(frozen=True, slots=True)
class KeyFigures:
    """One kind of key on one device."""

    type: KeyType
    rate: float
    """Signatures per second."""
    rate_source: Source
    median_s: float
    p99_s: float
    latency_source: Source


@dataclass(frozen=True, slots=True)
class Profile:
    """One device. Its rates are those of one HSM, not of a cluster."""

    name: str
    title: str
    concurrency: int
    concurrency_source: Source
    queue: int
    queue_source: Source
    keys: tuple[KeyFigures, ...]

    def model(self) -> DeviceModel:
        """The device; kinds of keys that the profile lacks are as fast as its slowest of the same family."""
        known = {key.type: Figures(key.rate, key.median_s, key.p99_s) for key in self.keys}
        figures = {type_: known.get(type_) or _slowest(known, type_) for type_ in KeyType}
        return DeviceModel(figures, self.concurrency, self.queue)


def _slowest(known: Mapping[KeyType, Figures], type_: KeyType) -> Figures:
    family = [figures for other, figures in known.items() if other.family is type_.family]
    return min(family or known.values(), key=lambda figures: figures.rate)


def tuned(
    model: DeviceModel,
    *,
    rate: float | None = None,
    latency_s: float | None = None,
    latency_p99_s: float | None = None,
    concurrency: int | None = None,
    queue: int | None = None,
) -> DeviceModel:
    """The model with some figures replaced, for all kinds of keys. The 99th percentile keeps its ratio to the median
    where only the median is given. Raises ValueError where it would be below the median."""
    figures = {}
    for type_, old in model.figures.items():
        median_s = old.median_s if latency_s is None else latency_s
        ratio = old.p99_s / old.median_s if old.median_s else 1.0
        p99_s = median_s * ratio if latency_p99_s is None else latency_p99_s
        if p99_s < median_s:
            sentence = f"a 99th percentile of {p99_s * 1e3:g} ms is below the median of {median_s * 1e3:g} ms"
            raise ValueError(sentence)
        figures[type_] = Figures(old.rate if rate is None else rate, median_s, p99_s)
    return replace(
        model,
        figures=figures,
        concurrency=model.concurrency if concurrency is None else concurrency,
        queue=model.queue if queue is None else queue,
    )


_CLOUDHSM_PAGE = "https://docs.aws.amazon.com/cloudhsm/latest/userguide/performance.html"
_CLOUDHSM_BUSY_PAGE = "https://docs.aws.amazon.com/cloudhsm/latest/userguide/troubleshoot-hsm-throttling.html"
_LUNA_PAGE = "https://cpl.thalesgroup.com/encryption/hardware-security-modules/network-hsms"
_LUNA_THREADS_PAGE = "https://thalesdocs.com/gphsm/luna/7.1/docs/pci/Content/administration/ha/performance.htm"
_YUBIHSM_PAGE = "https://docs.yubico.com/hardware/yubihsm-2/hsm-2-user-guide/hsm2-device-specs.html"

_AZURE_RATIO = Source(
    Basis.ESTIMATED,
    "from RSA-2048 by the ratios of Azure Key Vault's limits for HSM keys: 2,000, 500 and 250 per 10 s",
    "https://learn.microsoft.com/en-us/azure/key-vault/general/service-limits",
)
_CURVE_RATIO = Source(Basis.ESTIMATED, "from P-256 by the ratios of the YubiHSM 2: 73, 120 and 210 ms")
_AS_P256 = Source(Basis.ESTIMATED, "as P-256; no figure is published")
_SPREAD = "99th percentile three times that"


def _network_keys(
    rsa: float, rsa_source: Source, p256: float, p256_source: Source, way_s: float, latency: Source
) -> tuple[KeyFigures, ...]:
    """`way_s`: network and library, there and back."""

    def key(type_: KeyType, rate: float, source: Source) -> KeyFigures:
        median_s = round(way_s + 1 / rate, 5)
        return KeyFigures(type_, rate, source, median_s, round(3 * median_s, 5), latency)

    return (
        key(KeyType.RSA_2048, rsa, rsa_source),
        key(KeyType.RSA_3072, rsa / 4, _AZURE_RATIO),
        key(KeyType.RSA_4096, rsa / 8, _AZURE_RATIO),
        key(KeyType.P256, p256, p256_source),
        key(KeyType.P384, round(p256 * 73 / 120, 1), _CURVE_RATIO),
        key(KeyType.P521, round(p256 * 73 / 210, 1), _CURVE_RATIO),
        key(KeyType.ED25519, p256, _AS_P256),
    )


def _cloudhsm(name: str, title: str, p256: int) -> Profile:
    half = "half of what the page gives for a cluster of two:"
    return Profile(
        name=name,
        title=title,
        concurrency=30,
        concurrency_source=Source(Basis.ESTIMATED, "nothing is published; as for a Luna"),
        queue=64,
        queue_source=Source(
            Basis.ESTIMATED,
            "its length; that a full one is answered with CKR_FUNCTION_FAILED is published",
            _CLOUDHSM_BUSY_PAGE,
        ),
        keys=_network_keys(
            1000.0,
            Source(Basis.DERIVED, f"{half} RSA 2048-bit sign 2,000/s", _CLOUDHSM_PAGE),
            p256 / 2,
            Source(Basis.DERIVED, f"{half} EC P256 sign {p256:,}/s", _CLOUDHSM_PAGE),
            0.002,
            Source(Basis.ESTIMATED, f"2 ms for network and library plus one signature at that rate; {_SPREAD}"),
        ),
    )


_YUBIHSM_METRICS = "average from an otherwise unoccupied device"
_YUBIHSM_SPREAD = "; 99th percentile 1.2 times that, estimated"


def _yubihsm_key(type_: KeyType, milliseconds: float, basis: Basis, says: str, url: str) -> KeyFigures:
    """It does one thing after another: its rate is one by its latency."""
    seconds = milliseconds / 1e3
    rate = Source(Basis.DERIVED, f"one by its latency of {milliseconds:g} ms", url)
    latency = Source(basis, says + _YUBIHSM_SPREAD, url)
    return KeyFigures(type_, round(1 / seconds, 2), rate, seconds, round(seconds * 1.2, 5), latency)


_YUBIHSM_MS = (
    (KeyType.RSA_2048, 139, "RSA-2048-PKCS1-SHA256"),
    (KeyType.RSA_3072, 504, "RSA-3072-PKCS1-SHA384"),
    (KeyType.RSA_4096, 852, "RSA-4096-PKCS1-SHA512"),
    (KeyType.P256, 73, "ECDSA-P256-SHA256"),
    (KeyType.P384, 120, "ECDSA-P384-SHA384"),
    (KeyType.P521, 210, "ECDSA-P521-SHA512"),
)

CLOUDHSM_HSM1 = _cloudhsm("cloudhsm-hsm1", "AWS CloudHSM hsm1.medium", 500)
CLOUDHSM_HSM2M = _cloudhsm("cloudhsm-hsm2m", "AWS CloudHSM hsm2m.medium", 3000)
LUNA_A790 = Profile(
    name="luna-a790",
    title="Thales Luna Network HSM A790",
    concurrency=30,
    concurrency_source=Source(Basis.PUBLISHED, "best at around 30 simultaneous threads per HSM", _LUNA_THREADS_PAGE),
    queue=770,
    queue_source=Source(Basis.ESTIMATED, "800 connections per appliance, one request each"),
    keys=_network_keys(
        10_000.0,
        Source(Basis.REPORTED, "RSA-2048: 10,000 transactions/s", _LUNA_PAGE),
        20_000.0,
        Source(Basis.REPORTED, "ECC P256: 20,000 transactions/s", _LUNA_PAGE),
        0.0007,
        Source(
            Basis.ESTIMATED,
            "0.7 ms for network and library plus one signature: 30 threads make 20,000/s only if each takes less than"
            f" 1.5 ms (Little's law); {_SPREAD}",
        ),
    ),
)
YUBIHSM_2 = Profile(
    name="yubihsm2",
    title="Yubico YubiHSM 2",
    concurrency=1,
    concurrency_source=Source(
        Basis.PUBLISHED, "users' report: it is single threaded", "https://github.com/iqlusioninc/tmkms/issues/691"
    ),
    queue=15,
    queue_source=Source(Basis.ESTIMATED, "16 sessions may be open, one request each"),
    keys=(
        *(
            _yubihsm_key(type_, ms, Basis.REPORTED, f"{name}: about {ms} ms, {_YUBIHSM_METRICS}", _YUBIHSM_PAGE)
            for type_, ms, name in _YUBIHSM_MS
        ),
        _yubihsm_key(
            KeyType.ED25519,
            114,
            Basis.PUBLISHED,
            "measured by users: 114 ms per signature, 8.7 signatures/s",
            "https://github.com/tendermint/yubihsm-rs/pull/16",
        ),
    ),
)

PROFILES = {profile.name: profile for profile in (CLOUDHSM_HSM1, CLOUDHSM_HSM2M, LUNA_A790, YUBIHSM_2)}
"""By name, as the config and `sealgate node profiles` call them."""
