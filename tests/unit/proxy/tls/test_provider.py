"""Signatures through the provider: every key and scheme, failures, and what must stay impossible.

How the provider gets into the process is in test_provider_install.py, suspended handshakes are in
test_provider_greenlets.py.
"""

from __future__ import annotations

import base64
import ssl
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL, crypto

from hsm.wire.schemes import SCHEME_BY_NAME
from proxy.tls import provider
from tests.support.pki import Issued, issue, make_ca, shared_key, sign
from tests.support.pyopenssl import client_context, handshake, reference_key, server_context

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL PKey objects:DeprecationWarning")

KINDS = ("rsa-2048", "rsa-3072", "p256", "p384", "p521", "ed25519")
SIGNATURE_ALGORITHMS = {
    "rsa-2048": {
        "rsa_pkcs1_sha256",
        "rsa_pkcs1_sha384",
        "rsa_pkcs1_sha512",
        "rsa_pss_rsae_sha256",
        "rsa_pss_rsae_sha384",
        "rsa_pss_rsae_sha512",
    },
    "p256": {"ecdsa_secp256r1_sha256", "ECDSA+SHA384", "ECDSA+SHA512"},
    "p384": {"ecdsa_secp384r1_sha384", "ECDSA+SHA256"},
    "p521": {"ecdsa_secp521r1_sha512"},
    "ed25519": {"ed25519"},
}
SCHEME_OF = {
    "rsa_pss_rsae_sha256": "rsa_pss_sha256",
    "rsa_pss_rsae_sha384": "rsa_pss_sha384",
    "rsa_pss_rsae_sha512": "rsa_pss_sha512",
    "ecdsa_secp256r1_sha256": "ecdsa_sha256",
    "ecdsa_secp384r1_sha384": "ecdsa_sha384",
    "ecdsa_secp521r1_sha512": "ecdsa_sha512",
    "ECDSA+SHA256": "ecdsa_sha256",
    "ECDSA+SHA384": "ecdsa_sha384",
    "ECDSA+SHA512": "ecdsa_sha512",
}
TLS_1_2_ONLY = {
    "rsa_pkcs1_sha256",
    "rsa_pkcs1_sha384",
    "rsa_pkcs1_sha512",
    "ECDSA+SHA256",
    "ECDSA+SHA384",
    "ECDSA+SHA512",
}


@dataclass
class Node:
    """Signs with the keys it was given, or does what `answer` says."""

    issued: dict[bytes, Issued] = field(default_factory=dict)
    asked: list[tuple[bytes, str]] = field(default_factory=list)
    answer: Callable[[], object] | None = None

    def __call__(self, ski: bytes, scheme: str, message: bytes) -> bytes:
        self.asked.append((ski, scheme))
        if self.answer is not None:
            return self.answer()  # type: ignore[return-value]  # wrong types are what some tests are about
        return sign(self.issued[ski].key, SCHEME_BY_NAME[scheme], message)

    def hold(self, kind: str) -> Issued:
        issued = issue(make_ca(), "site.example", shared_key(kind))
        self.issued[provider.ski_of(issued.key.public_key())] = issued
        return issued


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    before = provider.set_upcall(node)
    yield node
    provider.set_upcall(before)
    provider.take_error()


def shake_hands(issued: Issued, version: int, algorithms: str | None = None) -> SSL.Connection:
    server = SSL.Connection(server_context(issued, version), None)
    client = SSL.Connection(client_context(algorithms), None)
    handshake(server, client)
    return client


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["tls1.2", "tls1.3"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_key_serves_tls(node: Node, kind: str, version: int) -> None:
    issued = node.hold(kind)
    client = shake_hands(issued, version)
    shown = client.get_peer_certificate(as_cryptography=True)
    assert shown == issued.certificate
    assert [ski for ski, _ in node.asked] == [provider.ski_of(issued.key.public_key())]


@pytest.mark.parametrize(
    ("kind", "algorithm", "version"),
    [
        (kind, name, version)
        for kind, names in SIGNATURE_ALGORITHMS.items()
        for name in sorted(names)
        for version in ([SSL.TLS1_2_VERSION] if name in TLS_1_2_ONLY else [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
    ],
)
def test_the_scheme_that_the_client_wants_is_signed(node: Node, kind: str, algorithm: str, version: int) -> None:
    shake_hands(node.hold(kind), version, algorithm)
    assert [scheme for _, scheme in node.asked] == [SCHEME_OF.get(algorithm, algorithm)]


def test_a_server_with_our_key_still_verifies_client_certificates(node: Node) -> None:
    """The provider must not win a search for "RSA" or "ECDSA" that verification makes."""
    for kind in KINDS:
        ca = make_ca(key=shared_key(kind, 1))
        context = server_context(node.hold("p256"), SSL.TLS1_3_VERSION)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        store = context.get_cert_store()
        assert store is not None
        store.add_cert(crypto.X509.from_cryptography(ca.certificate))
        theirs = issue(ca, "client.example", shared_key(kind, 2))
        client = client_context()
        client.use_certificate(theirs.certificate)
        client.use_privatekey(theirs.key)
        server = SSL.Connection(context, None)
        handshake(server, SSL.Connection(client, None))
        assert server.get_peer_certificate(as_cryptography=True) == theirs.certificate


def test_cryptography_keeps_working_with_its_own_keys() -> None:
    for kind in KINDS:
        key = shared_key(kind)
        loaded = serialization.load_pem_private_key(Issued(make_ca().certificate, key).key_pem, None)
        assert loaded.public_key() == key.public_key()


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_the_real_key(node: Node, kind: str) -> None:
    issued = node.hold(kind)
    ours, real = reference_key(issued), crypto.PKey.from_cryptography_key(issued.key)
    assert (ours.bits(), ours.type()) == (real.bits(), real.type())


def test_the_public_key_can_be_had(node: Node) -> None:
    for kind in KINDS:
        issued = node.hold(kind)
        assert reference_key(issued).to_cryptography_key is not None
        der = crypto.dump_publickey(crypto.FILETYPE_ASN1, reference_key(issued))
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        assert der == issued.key.public_key().public_bytes(serialization.Encoding.DER, spki)


def test_the_certificate_of_another_key_is_refused(node: Node) -> None:
    for kind in KINDS:
        issued, other = node.hold(kind), issue(make_ca(), "site.example", shared_key(kind, 3))
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate(other.certificate)
        with pytest.raises(SSL.Error):
            context.use_privatekey(reference_key(issued))


def test_a_certificate_with_a_compressed_point_fits(node: Node) -> None:
    """Such a certificate is rare but legal; only TLS itself refuses to use it."""
    issued = node.hold("p256")
    compressed = _with_compressed_point(issued)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(compressed)
    context.use_privatekey(reference_key(issued))
    context.check_privatekey()


def _with_compressed_point(issued: Issued) -> x509.Certificate:
    public = issued.key.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    full = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    der = issued.certificate.public_bytes(serialization.Encoding.DER)
    bits = b"\x03" + bytes([len(full) + 1]) + b"\x00" + full
    at = der.index(bits)
    spki_at = at - 21 - 2
    assert der[spki_at : spki_at + 2] == b"\x30\x59"
    shorter = b"\x30\x39" + der[spki_at + 2 : at] + b"\x03" + bytes([len(point) + 1]) + b"\x00" + point
    tbs_at, saved = 4, len(full) - len(point)
    tbs_length = int.from_bytes(der[tbs_at + 2 : tbs_at + 4], "big") - saved
    whole_length = int.from_bytes(der[2:4], "big") - saved
    new = (
        der[:2]
        + whole_length.to_bytes(2, "big")
        + der[4:6]
        + tbs_length.to_bytes(2, "big")
        + der[8:spki_at]
        + shorter
        + der[at + len(bits) :]
    )
    return x509.load_der_x509_certificate(new)


def dump_privatekey(key: crypto.PKey) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return crypto.dump_privatekey(crypto.FILETYPE_PEM, key)


@pytest.mark.parametrize("kind", KINDS)
def test_the_private_part_can_not_be_had(node: Node, kind: str) -> None:
    key = reference_key(node.hold(kind))
    with pytest.raises((crypto.Error, ValueError, TypeError)):
        dump_privatekey(key)
    with pytest.raises((crypto.Error, ValueError, TypeError)):
        key.to_cryptography_key().private_bytes(  # type: ignore[union-attr]
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    assert node.asked == []


def test_rsa_key_exchange_is_refused(node: Node) -> None:
    """TLS 1.2 with the static RSA key exchange needs decryption, which nodes never do."""
    issued = node.hold("rsa-2048")
    context = server_context(issued, SSL.TLS1_2_VERSION)
    context.set_cipher_list(b"AES128-GCM-SHA256")
    client = client_context()
    client.set_cipher_list(b"AES128-GCM-SHA256")
    with pytest.raises(SSL.Error):
        handshake(SSL.Connection(context, None), SSL.Connection(client, None))
    assert node.asked == []


def fails(node: Node, kind: str = "p256") -> SSL.Error:
    with pytest.raises(SSL.Error) as caught:
        shake_hands(node.hold(kind), SSL.TLS1_3_VERSION)
    return caught.value


def test_an_upcall_that_raises_fails_the_handshake_and_is_told(node: Node) -> None:
    def refuse() -> object:
        raise LookupError("no node")

    node.answer = refuse
    assert "signature upcall failed" in str(fails(node))
    error = provider.take_error()
    assert isinstance(error, LookupError)
    assert str(error) == "no node"
    assert error.__traceback__ is not None
    assert provider.take_error() is None


@pytest.mark.parametrize("answer", ["text", None, 5, bytearray(70)], ids=lambda answer: type(answer).__name__)
def test_an_answer_that_is_no_bytes_fails_the_handshake(node: Node, answer: object) -> None:
    node.answer = lambda: answer
    assert "signature upcall failed" in str(fails(node))
    assert isinstance(provider.take_error(), TypeError)


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        *(("p256", length) for length in (0, 7, 73, 1 << 20)),
        ("p521", 140),
        *(("ed25519", length) for length in (0, 63, 65)),
        *(("rsa-2048", length) for length in (0, 255, 257)),
    ],
)
def test_an_answer_of_the_wrong_length_fails_the_handshake(node: Node, kind: str, length: int) -> None:
    node.answer = lambda: bytes(length)
    assert "signature has the wrong length" in str(fails(node, kind))


def test_without_an_upcall_a_handshake_fails(node: Node) -> None:
    provider.set_upcall(None)
    assert "nobody to ask" in str(fails(node))


def test_an_upcall_must_be_callable(node: Node) -> None:
    with pytest.raises(TypeError, match="upcall"):
        provider.set_upcall(5)  # type: ignore[arg-type]
    assert provider.set_upcall(None) is node
    assert provider.set_upcall(node) is None


def test_an_upcall_may_replace_itself(node: Node) -> None:
    """The running one is held, also when nothing else holds it."""
    issued = node.hold("p256")

    def once(ski: bytes, scheme: str, message: bytes) -> bytes:
        provider.set_upcall(None)
        return node(ski, scheme, message)

    provider.set_upcall(once)
    del once
    shake_hands(issued, SSL.TLS1_3_VERSION)


def body_of(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def pem_of(body: bytes, label: str = provider.PEM_LABEL) -> bytes:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(body).decode()}-----END {label}-----\n".encode()


def load(pem: bytes) -> crypto.PKey:
    return crypto.load_privatekey(crypto.FILETYPE_PEM, pem)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_or_longer_reference_is_refused(kind: str) -> None:
    body = body_of(provider.key_reference(shared_key(kind).public_key()))
    load(pem_of(body))
    for wrong in (*(body[:length] for length in range(0, len(body), 7)), body + b"\0"):
        with pytest.raises(crypto.Error, match="malformed key reference"):
            load(pem_of(wrong))


@pytest.mark.parametrize(("at", "value"), [(0, 0), (0, 2), (1, 0), (1, 1), (1, 3), (1, 5), (1, 6), (1, 255), (24, 5)])
def test_a_wrong_byte_in_a_reference_is_refused(at: int, value: int) -> None:
    body = bytearray(body_of(provider.key_reference(shared_key("p256").public_key())))
    body[at] = value
    with pytest.raises(crypto.Error, match="malformed key reference"):
        load(pem_of(bytes(body)))


@given(st.binary(max_size=400))
def test_no_bytes_in_a_reference_do_harm(body: bytes) -> None:
    with pytest.raises(crypto.Error):
        load(pem_of(body))


@given(st.binary(max_size=2000))
def test_no_bytes_in_a_file_do_harm(text: bytes) -> None:
    with pytest.raises(crypto.Error):
        load(b"-----BEGIN SEALGATE KEY REFERENCE-----\n" + text)


def test_text_around_a_reference_and_other_line_ends_are_fine() -> None:
    reference = provider.key_reference(shared_key("p256").public_key())
    for text in (b"# made today\n" + reference + b"# end\n", reference.replace(b"\n", b"\r\n"), reference.rstrip()):
        assert load(text).bits() == 256


def test_other_keys_are_not_ours() -> None:
    issued = Issued(make_ca().certificate, shared_key("rsa-2048"))
    assert b"PRIVATE KEY" in dump_privatekey(load(issued.key_pem))
    with pytest.raises(crypto.Error, match=r"unsupported|no start line|DECODER"):
        load(pem_of(body_of(provider.key_reference(shared_key("p256").public_key())), "OTHER KEY REFERENCE"))


def test_the_standard_library_does_not_know_the_provider(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its OpenSSL read the user's configuration, not ours."""
    folder = tmp_path_factory.mktemp("stdlib")
    issued = issue(make_ca(), "site.example", shared_key("p256"))
    (folder / "cert.pem").write_bytes(issued.certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(provider.key_reference(issued.key.public_key()))
    with pytest.raises(ssl.SSLError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / "cert.pem", folder / "key.pem")


def test_a_reference_holds_the_ski_of_the_certificate() -> None:
    for kind in KINDS:
        issued = issue(make_ca(), "site.example", shared_key(kind))
        ski = provider.ski_of(issued.key.public_key())
        assert len(ski) == 20
        assert ski == x509.SubjectKeyIdentifier.from_public_key(issued.key.public_key()).digest
        assert body_of(provider.key_reference(issued.key.public_key()))[2:22] == ski


def test_keys_without_a_scheme_are_refused_by_name() -> None:
    with pytest.raises(provider.ProviderError, match="secp256k1"):
        provider.key_reference(ec.generate_private_key(ec.SECP256K1()).public_key())
    for key in (ed448.Ed448PrivateKey.generate(), dsa.generate_private_key(1024)):
        with pytest.raises(provider.ProviderError, match="use RSA, P-256"):
            provider.key_reference(key.public_key())


def test_cryptography_signatures_with_other_keys_verify_as_ever() -> None:
    key = shared_key("rsa-2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    signature = key.sign(b"message", padding.PKCS1v15(), hashes.SHA256())
    key.public_key().verify(signature, b"message", padding.PKCS1v15(), hashes.SHA256())
