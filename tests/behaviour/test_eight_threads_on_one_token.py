"""Eight threads of one token worker sign 20,000 times on a SoftHSM2 token: no crash, and every signature is good.

A library that is initialised for one thread only crashes here within a few hundred.
"""

from __future__ import annotations

from pathlib import Path

import psutil
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsm.backends.pkcs11.messages import FoundKey, Sign, Signed
from hsm.wire.schemes import KeyType
from tests.support.softhsm import SoftToken
from tests.support.token_worker import TokenWorker, expect

COUNT, THREADS, IN_FLIGHT = 20_000, 8, 64
# Of each sixteen signatures, one is RSA: it takes as long as the others together.
PATTERN = [KeyType.RSA_2048] + [KeyType.P256] * 12 + [KeyType.ED25519] * 3
SCHEMES = {KeyType.RSA_2048: "rsa_pss_sha256", KeyType.P256: "ecdsa_sha256", KeyType.ED25519: "ed25519"}


def digest_of(number: int) -> bytes:
    """Different for each request, so that no signature can pass for another's."""
    return number.to_bytes(32, "big")


def verify(public: object, signature: bytes, digest: bytes) -> None:
    if isinstance(public, EllipticCurvePublicKey):
        public.verify(signature, digest, ECDSA(Prehashed(SHA256())))
    elif isinstance(public, Ed25519PublicKey):
        public.verify(signature, digest)
    else:
        assert isinstance(public, RSAPublicKey)
        public.verify(signature, digest, PSS(MGF1(SHA256()), PSS.DIGEST_LENGTH), Prehashed(SHA256()))


def test_eight_threads_on_one_token(tmp_path: Path) -> None:
    with TokenWorker(SoftToken(tmp_path / "token").init()) as worker:
        worker.open(sessions=THREADS)
        keys: dict[KeyType, FoundKey] = {type_: worker.generate(type_, type_.value) for type_ in SCHEMES}
        publics = {type_: load_der_public_key(key.public_key) for type_, key in keys.items()}
        wanted = {worker.next_id(): PATTERN[number % len(PATTERN)] for number in range(COUNT)}
        requests = (
            Sign(id=number, key=keys[type_].ski, scheme=SCHEMES[type_], payload=digest_of(number))
            for number, type_ in wanted.items()
        )
        answers = worker.sign_all(requests, IN_FLIGHT)
        threads = [thread for thread in psutil.Process(worker.process.pid).threads() if thread.user_time > 0]
        assert worker.process.poll() is None
    assert answers.keys() == wanted.keys()
    for number, answer in answers.items():
        verify(publics[wanted[number]], expect(answer, Signed).signature, digest_of(number))
    assert len(threads) >= THREADS, "not all threads have signed"
