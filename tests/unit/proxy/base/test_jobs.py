"""A job's payload is what its scheme signs: a digest, or the message itself."""

from __future__ import annotations

import hashlib

import pytest

from hsm.wire.schemes import Scheme
from proxy.base.jobs import SignJob


@pytest.mark.parametrize("scheme", Scheme)
def test_payload(scheme: Scheme) -> None:
    message = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)
    job = SignJob(bytes(20), scheme, message, "www", 1.0)
    expected = hashlib.new(scheme.digest, message).digest() if scheme.digest else message
    assert job.payload == expected
    assert scheme.payload_bytes in (None, len(job.payload))
