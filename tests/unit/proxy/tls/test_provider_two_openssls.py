"""Two OpenSSLs in one process load the provider at once and must not be mixed up: the system's here, by ctypes."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import greenlet
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto

from hsm.wire.schemes import SCHEME_BY_NAME
from proxy.tls import _provider, provider
from tests.support.pki import shared_key, sign

LIBCRYPTO = ctypes.util.find_library("crypto")
pytestmark = pytest.mark.skipif(LIBCRYPTO is None or ".so.3" not in LIBCRYPTO, reason="the system has no OpenSSL 3")


class SystemOpenssl:
    """A library context of the system's libcrypto with the default provider and ours."""

    def __init__(self, folder: Path) -> None:
        (folder / "sealgate.so").symlink_to(Path(_provider.__file__))
        self.lib = ctypes.CDLL(LIBCRYPTO)
        for name in ("OSSL_LIB_CTX_new", "OSSL_PROVIDER_load", "BIO_new_mem_buf", "PEM_read_bio_PrivateKey_ex"):
            getattr(self.lib, name).restype = ctypes.c_void_p
        for name in ("EVP_MD_CTX_new", "ERR_reason_error_string"):
            getattr(self.lib, name).restype = ctypes.c_void_p
        self.lib.ERR_peek_last_error.restype = ctypes.c_ulong
        self.context = ctypes.c_void_p(self.lib.OSSL_LIB_CTX_new())
        assert self.lib.OSSL_PROVIDER_set_default_search_path(self.context, str(folder).encode())
        assert self.lib.OSSL_PROVIDER_load(self.context, b"default")
        assert self.lib.OSSL_PROVIDER_load(self.context, b"sealgate")

    def load(self, pem: bytes) -> ctypes.c_void_p:
        bio = ctypes.c_void_p(self.lib.BIO_new_mem_buf(pem, len(pem)))
        key = self.lib.PEM_read_bio_PrivateKey_ex(bio, None, None, None, self.context, None)
        self.lib.BIO_free(bio)
        return ctypes.c_void_p(key)

    def sign(self, key: ctypes.c_void_p, message: bytes, *, keeps_gil: bool = False) -> bytes:
        """The signature, or nothing where it failed; called as cffi does (without the GIL) or as Rust may (with it)."""
        signing = ctypes.c_void_p(self.lib.EVP_MD_CTX_new())
        length = ctypes.c_size_t(200)
        signature = ctypes.create_string_buffer(200)
        digest: Any = b"SHA256"
        assert self.lib.EVP_DigestSignInit_ex(signing, None, digest, self.context, None, key, None) == 1
        lib = ctypes.PyDLL(LIBCRYPTO) if keeps_gil else self.lib
        good = lib.EVP_DigestSign(signing, signature, ctypes.byref(length), message, len(message))
        self.lib.EVP_MD_CTX_free(signing)
        return signature.raw[: length.value] if good == 1 else b""

    def errors(self) -> int:
        found = int(self.lib.ERR_peek_last_error())
        self.lib.ERR_clear_error()
        return found


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> SystemOpenssl:
    return SystemOpenssl(tmp_path_factory.mktemp("modules"))


@pytest.fixture
def private_key() -> Iterator[ec.EllipticCurvePrivateKey]:
    key = shared_key("p256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    before = provider.set_upcall(lambda ski, scheme, message: sign(key, SCHEME_BY_NAME[scheme], message))
    yield key
    provider.set_upcall(before)
    provider.take_error()


def test_both_sign(system: SystemOpenssl, private_key: ec.EllipticCurvePrivateKey) -> None:
    reference = provider.key_reference(private_key.public_key())
    theirs, ours = system.load(reference), crypto.load_privatekey(crypto.FILETYPE_PEM, reference)
    signature = system.sign(theirs, b"message")
    private_key.public_key().verify(signature, b"message", ec.ECDSA(hashes.SHA256()))
    assert ours.bits() == 256
    system.lib.EVP_PKEY_free(theirs)


def test_a_caller_may_hold_the_gil(system: SystemOpenssl, private_key: ec.EllipticCurvePrivateKey) -> None:
    theirs = system.load(provider.key_reference(private_key.public_key()))
    for keeps_gil in (True, False, True):
        signature = system.sign(theirs, b"message", keeps_gil=keeps_gil)
        private_key.public_key().verify(signature, b"message", ec.ECDSA(hashes.SHA256()))
    system.lib.EVP_PKEY_free(theirs)


def test_both_callers_may_be_put_aside_and_end_in_any_order(
    system: SystemOpenssl, private_key: ec.EllipticCurvePrivateKey
) -> None:
    theirs = system.load(provider.key_reference(private_key.public_key()))

    def switch_away(ski: bytes, scheme: str, message: bytes) -> bytes:
        answer = greenlet.getcurrent().parent.switch(message)
        assert isinstance(answer, bytes)
        return answer

    provider.set_upcall(switch_away)
    inside = [greenlet.greenlet(system.sign) for _ in range(40)]
    messages = [
        one.switch(theirs, b"message %d" % number, keeps_gil=number % 3 == 0) for number, one in enumerate(inside)
    ]
    order = list(range(40))
    random.Random(5).shuffle(order)
    for number in order:
        signature = sign(private_key, SCHEME_BY_NAME["ecdsa_sha256"], messages[number])
        assert inside[number].switch(signature) == signature
    system.lib.EVP_PKEY_free(theirs)


def test_an_error_goes_to_the_openssl_that_asked(
    system: SystemOpenssl, private_key: ec.EllipticCurvePrivateKey
) -> None:
    theirs = system.load(provider.key_reference(private_key.public_key()))
    SSL._lib.ERR_clear_error()  # type: ignore[attr-defined]
    system.errors()
    provider.set_upcall(lambda *_: hashlib.sha256().hexdigest().encode() * 9)
    assert system.sign(theirs, b"message") == b""
    assert system.errors() != 0
    assert SSL._lib.ERR_peek_error() == 0  # type: ignore[attr-defined]
    with pytest.raises(crypto.Error, match="malformed key reference"):
        crypto.load_privatekey(crypto.FILETYPE_PEM, b"-----BEGIN SEALGATE KEY REFERENCE-----\n")
    assert system.errors() == 0
    system.lib.EVP_PKEY_free(theirs)
