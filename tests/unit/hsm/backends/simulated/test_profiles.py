"""Profiles: what is said of real devices, and the models made of it."""

from __future__ import annotations

import random

import pytest

from hsm.backends.simulated.device import SimulatedDevice, Verdict
from hsm.backends.simulated.profiles import (
    CLOUDHSM_HSM1,
    CLOUDHSM_HSM2M,
    LUNA_A790,
    PROFILES,
    YUBIHSM_2,
    Basis,
    Profile,
    Source,
    tuned,
)
from hsm.wire.schemes import KeyType

ALL = pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)


def served_per_s(profile: Profile, type_: KeyType, seconds: float) -> float:
    """Signatures per simulated second that a device makes while its places are never empty."""
    device: SimulatedDevice[int] = SimulatedDevice(profile.model(), random.Random(1))
    for number in range(profile.concurrency):
        device.submit(0.0, number, type_, "www")
    good = 0
    while (now := device.next_event()) is not None and now < seconds:
        for done in device.advance(now):
            assert done.verdict is Verdict.GOOD
            good += 1
            device.submit(now, done.item, type_, "www")
    return good / seconds


@ALL
@pytest.mark.parametrize("type_", [KeyType.RSA_2048, KeyType.P256, KeyType.P384])
def test_a_device_that_is_driven_hard_serves_the_published_rate(profile: Profile, type_: KeyType) -> None:
    wanted = next(key.rate for key in profile.keys if key.type is type_)
    served = served_per_s(profile, type_, seconds=min(200.0, 4000 / wanted))
    assert served <= wanted * 1.001
    assert served >= wanted * (0.98 if profile.concurrency > 1 else 0.9)


@ALL
def test_a_request_that_meets_nobody_takes_the_profiles_latency(profile: Profile) -> None:
    device: SimulatedDevice[int] = SimulatedDevice(profile.model(), random.Random(2))
    figures = next(key for key in profile.keys if key.type is KeyType.P256)
    taken, now = [], 0.0
    for number in range(2000):
        device.submit(now, number, KeyType.P256, "www")
        at = device.next_event()
        while not (done := device.advance(at or now)):
            at = device.next_event()
        taken.append(done[0].at - now)
        now += 1.0
    taken.sort()
    assert taken[1000] == pytest.approx(figures.median_s, rel=0.06)
    assert taken[1980] == pytest.approx(figures.p99_s, rel=0.2)
    assert taken[0] >= 1 / figures.rate * 0.999


@ALL
def test_every_figure_has_a_source(profile: Profile) -> None:
    sources = [profile.concurrency_source, profile.queue_source]
    for key in profile.keys:
        sources += [key.rate_source, key.latency_source]
    for source in sources:
        assert len(source.says) > 10
        if source.basis in (Basis.PUBLISHED, Basis.REPORTED, Basis.DERIVED):
            assert source.url.startswith("https://"), source


@ALL
def test_every_kind_of_key_can_be_asked_for(profile: Profile) -> None:
    model = profile.model()
    assert set(model.figures) == set(KeyType)
    assert model.figures[KeyType.RSA_OTHER] == model.figures[KeyType.RSA_4096]


def rates(profile: Profile) -> tuple[float, float]:
    figures = profile.model().figures
    return figures[KeyType.RSA_2048].rate, figures[KeyType.P256].rate


def test_rates_are_those_of_the_sources() -> None:
    assert rates(CLOUDHSM_HSM1) == (1000, 250)
    assert rates(CLOUDHSM_HSM2M) == (1000, 1500)
    assert rates(LUNA_A790) == (10_000, 20_000)
    assert rates(YUBIHSM_2) == (pytest.approx(7.19), pytest.approx(13.7))
    assert (LUNA_A790.concurrency, YUBIHSM_2.concurrency) == (30, 1)


def test_figures_can_be_replaced() -> None:
    model = tuned(CLOUDHSM_HSM2M.model(), rate=50.0, latency_s=0.01, concurrency=4, queue=0)
    assert (model.concurrency, model.queue) == (4, 0)
    assert {figures.rate for figures in model.figures.values()} == {50.0}
    assert model.figures[KeyType.P256].median_s == 0.01
    assert model.figures[KeyType.P256].p99_s == pytest.approx(0.03)
    assert tuned(CLOUDHSM_HSM1.model(), latency_p99_s=5.0).figures[KeyType.P256].p99_s == 5.0


def test_a_percentile_below_the_median_is_refused() -> None:
    with pytest.raises(ValueError, match="a 99th percentile of 1 ms is below the median of 10 ms"):
        tuned(CLOUDHSM_HSM2M.model(), latency_s=0.01, latency_p99_s=0.001)


def test_a_source_without_a_page_is_an_estimate() -> None:
    assert Source(Basis.ESTIMATED, "made up").url == ""
