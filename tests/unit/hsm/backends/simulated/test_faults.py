"""Faults as values: names, parameters that fit their kind, patterns of labels."""

from __future__ import annotations

import msgspec
import pytest

from hsm.backends.simulated.faults import Fault, FaultKind


def test_a_fault_is_named_by_kind_and_key() -> None:
    assert Fault(kind=FaultKind.HANG).name == "hang"
    assert Fault(kind=FaultKind.LOST_KEY, key="www-*").name == "lost-key:www-*"


@pytest.mark.parametrize("kind", FaultKind)
def test_every_kind_takes_a_duration_and_needs_nothing(kind: FaultKind) -> None:
    assert Fault(kind=kind).problem() is None
    assert Fault(kind=kind, duration_s=1.5).problem() is None


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault(kind=FaultKind.HANG, factor=2.0), "a hang fault has no factor; it takes duration_s"),
        (Fault(kind=FaultKind.SLOW, key="www-*"), "a slow fault has no key; it takes duration_s and factor"),
        (Fault(kind=FaultKind.LOST_KEY, rate=0.5), "a lost-key fault has no rate; it takes duration_s and key"),
        (Fault(kind=FaultKind.ERROR, factor=2.0), "an error fault has no factor; it takes duration_s and key and rate"),
        (Fault(kind=FaultKind.CRASH, key="www"), "a crash fault has no key; it takes duration_s"),
    ],
)
def test_parameters_must_fit_the_kind(fault: Fault, sentence: str) -> None:
    assert fault.problem() == sentence


def test_labels_are_matched_by_pattern_and_case() -> None:
    fault = Fault(kind=FaultKind.ERROR, key="www-*")
    assert fault.concerns("www-p256")
    assert not fault.concerns("mail")
    assert not fault.concerns("WWW-p256")
    assert Fault(kind=FaultKind.ERROR).concerns("mail")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"kind":"melt"}',
        b'{"kind":"slow","factor":0.5}',
        b'{"kind":"error","rate":1.1}',
        b'{"kind":"hang","duration_s":0}',
        b'{"kind":"hang","duration":3}',
        b'{"kind":"lost-key","key":""}',
        b"{}",
    ],
)
def test_json_of_no_fault_is_refused(raw: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(raw, type=Fault)


def test_json_leaves_out_what_is_not_said() -> None:
    assert msgspec.json.encode(Fault(kind=FaultKind.SLOW, factor=3.0)) == b'{"kind":"slow","factor":3.0}'
