from __future__ import annotations

import base64
import time
from datetime import UTC, datetime

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from hsm.backends.vault import keys
from hsm.backends.vault.errors import VaultError, VaultReason
from hsm.wire.schemes import KeyType

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def pem_of(key: keys.PrivateKey, form: PrivateFormat = PrivateFormat.PKCS8, password: bytes | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(password) if password else NoEncryption())


@pytest.mark.parametrize("type_", [KeyType.RSA_2048, KeyType.P256, KeyType.P384, KeyType.P521, KeyType.ED25519])
def test_keys_of_each_type_survive_sealing(type_: KeyType) -> None:
    key = keys.generate(type_)
    assert keys.type_of(key) is type_
    record, value = keys.seal(key, "label", imported=False, now=NOW)
    assert record.ski == keys.ski_of(key) == x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    sealed = keys.unseal(value, record.ski)
    assert sealed.record(record.ski) == record
    assert (record.created, record.imported, record.label, record.type) == (NOW, False, "label", type_)
    assert keys.private_key_of(sealed, record.ski).public_key() == key.public_key()
    assert "PRIVATE" not in repr(sealed)
    assert repr(sealed.private_key) not in repr(sealed)


def test_rsa_of_another_size_can_not_be_generated() -> None:
    with pytest.raises(VaultError, match="can't be generated; choose one of rsa-2048, rsa-3072"):
        keys.generate(KeyType.RSA_OTHER)


def test_a_key_filed_under_a_wrong_name_is_refused() -> None:
    record, value = keys.seal(keys.generate(KeyType.P256), "a", imported=False, now=NOW)
    sealed = keys.unseal(value, record.ski)
    with pytest.raises(VaultError, match="holds another key than its name says") as caught:
        keys.private_key_of(sealed, bytes(20))
    assert caught.value.reason is VaultReason.TAMPERED
    with pytest.raises(VaultError, match="can't be decoded"):
        keys.private_key_of(msgspec.structs.replace(sealed, private_key=b"x"), record.ski)


def test_records_of_newer_versions_are_named() -> None:
    record, value = keys.seal(keys.generate(KeyType.ED25519), "a", imported=False, now=NOW)
    newer = msgspec.structs.replace(keys.unseal(value, record.ski), type="ml-dsa-65")
    with pytest.raises(VaultError, match="has the unknown type 'ml-dsa-65'"):
        newer.record(record.ski)
    with pytest.raises(VaultError, match="is stored in a form this version does not know"):
        keys.unseal(b"\xc1", record.ski)


def test_every_usual_pem_is_read() -> None:
    elliptic, rsa_key = keys.generate(KeyType.P384), rsa.generate_private_key(65537, 2048)
    for pem, password in (
        (pem_of(elliptic), None),
        (pem_of(elliptic, PrivateFormat.TraditionalOpenSSL), None),
        (pem_of(elliptic, password=b"pw"), b"pw"),
        (b"a comment\n" + pem_of(elliptic), None),
        (pem_of(elliptic), b""),
    ):
        assert keys.from_pem(pem, password).public_key() == elliptic.public_key()
    assert keys.from_pem(pem_of(rsa_key, PrivateFormat.TraditionalOpenSSL), None).public_key() == rsa_key.public_key()


def test_pem_that_can_not_be_used_is_refused_with_a_reason() -> None:
    good = keys.generate(KeyType.P256)
    sealed = pem_of(good, password=b"right")
    public = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    for pem, password, words in (
        (b"", None, "give the PEM file of a private key"),
        (b"junk", None, "give the PEM file of a private key"),
        (public, None, "give the PEM file of a private key"),
        (pem_of(good)[:-60], None, "give the PEM file of a private key"),
        (sealed, None, "the key needs a password; give it"),
        (sealed, b"wrong", "is the password right"),
        (pem_of(good), b"surplus", "the key has no password, but one was given"),
        (b"x" * 70_000, None, "larger than 64 KiB"),
    ):
        with pytest.raises(VaultError, match=words) as caught:
            keys.from_pem(pem, password)
        assert caught.value.reason is VaultReason.INVALID
        assert "right" not in str(caught.value).replace("password right", "")


def test_kinds_and_sizes_that_tls_should_not_use_are_refused() -> None:
    with pytest.raises(VaultError, match="2048 to 8192 bits, this one has 1024"):
        keys.from_pem(pem_of(rsa.generate_private_key(65537, 1024)), None)
    for other in (
        ec.generate_private_key(ec.SECP256K1()),
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
        dsa.generate_private_key(2048),
    ):
        pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(VaultError, match="keys must be RSA, EC on P-256"):
            keys.from_pem(pem, None)


def test_types_are_told_by_size() -> None:
    assert keys.type_of(rsa.generate_private_key(65537, 2056)) is KeyType.RSA_OTHER
    assert keys.type_of(ed25519.Ed25519PrivateKey.generate()) is KeyType.ED25519


@pytest.mark.parametrize("label", ["", "a b", "a/b", "..", "-a", "ä", "a\n", "a" * 65, "0" * 40])
def test_labels_that_could_confuse_are_refused(label: str) -> None:
    with pytest.raises(VaultError):
        keys.check_label(label)


def test_references_are_skis_or_labels() -> None:
    assert keys.check_label("www.example.com-ecdsa_2") == "www.example.com-ecdsa_2"
    assert keys.ski_in("AB" * 20) == b"\xab" * 20
    assert keys.ski_in(b"x" * 20) == b"x" * 20
    assert keys.ski_in("label") is None


def pem_of_huge_primes() -> bytes:
    """A sound RSA key of 44,910 bits, from two Mersenne primes."""
    p, q, e = 2**23209 - 1, 2**21701 - 1, 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    parts = b"".join(der(2, n) for n in (0, p * q, e, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p)))
    lines = base64.encodebytes(der(0x30, parts)).decode()
    return f"-----BEGIN RSA PRIVATE KEY-----\n{lines}-----END RSA PRIVATE KEY-----\n".encode()


def der(tag: int, value: int | bytes) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1) if isinstance(value, int) else value
    size = len(data).to_bytes((len(data).bit_length() + 7) // 8)
    return bytes((tag,)) + (size if len(data) < 0x80 else bytes((0x80 | len(size),)) + size) + data


def test_an_oversized_key_is_refused_before_its_primes_are_looked_at() -> None:
    pem = pem_of_huge_primes()
    assert len(pem) < keys.MAX_PEM_BYTES
    begin = time.perf_counter()
    with pytest.raises(VaultError, match="this one has 44910"):
        keys.from_pem(pem, None)
    assert time.perf_counter() - begin < 2.0


def test_a_key_whose_parts_do_not_fit_together_is_refused() -> None:
    numbers = rsa.generate_private_key(65537, 2048).private_numbers()
    bent = rsa.RSAPrivateNumbers(
        p=numbers.p, q=numbers.q, d=numbers.d, dmp1=numbers.dmp1 + 2, dmq1=numbers.dmq1, iqmp=numbers.iqmp,
        public_numbers=numbers.public_numbers,
    )  # fmt: skip
    key = bent.private_key(unsafe_skip_rsa_key_validation=True)
    with pytest.raises(VaultError, match="no usable private key"):
        keys.from_pem(pem_of(key), None)
