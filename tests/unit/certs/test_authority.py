from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from certs.authority import (
    Authority,
    PkiError,
    create_intermediate,
    create_root,
    is_issued_by,
    issue_from_csr,
    issue_identity,
    load_authority,
)
from hsm.backends.x509_forms import request_builder, signature_hash


@pytest.fixture(scope="module")
def root() -> Authority:
    return create_root("root")


@pytest.fixture(scope="module")
def intermediate(root: Authority) -> Authority:
    return create_intermediate("intermediate", root)


def request_pem(*names: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return request_builder(names[0], names).sign(key, signature_hash(key)).public_bytes(Encoding.PEM)


def test_a_request_becomes_a_chain_that_verifies(root: Authority, intermediate: Authority) -> None:
    leaf, between = x509.load_pem_x509_certificates(issue_from_csr(intermediate, request_pem("a.example")))
    assert between == intermediate.certificate
    verifier = PolicyBuilder().store(Store([root.certificate])).time(datetime.now())
    assert verifier.build_server_verifier(x509.DNSName("a.example")).verify(leaf, [between]) == [
        leaf,
        between,
        root.certificate,
    ]
    with pytest.raises(VerificationError):
        verifier.build_server_verifier(x509.DNSName("b.example")).verify(leaf, [between])
    with pytest.raises(VerificationError):  # a site's certificate opens no link as a client
        verifier.build_client_verifier().verify(leaf, [between])


def test_the_request_decides_nothing_but_subject_names_and_key(intermediate: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = request_builder("a", ["a.example"]).add_extension(x509.BasicConstraints(True, None), critical=True)
    pem = greedy.sign(key, signature_hash(key)).public_bytes(Encoding.PEM)
    leaf = x509.load_pem_x509_certificates(issue_from_csr(intermediate, pem))[0]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_certificates_are_short_lived_and_their_numbers_random(intermediate: Authority) -> None:
    pem = request_pem("a.example")
    leaves = [x509.load_pem_x509_certificates(issue_from_csr(intermediate, pem))[0] for _ in range(5)]
    assert len({leaf.serial_number for leaf in leaves}) == 5
    assert max(leaf.serial_number.bit_length() for leaf in leaves) > 140
    for leaf in leaves:
        assert leaf.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=30)
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc < timedelta(days=397)
    for days in (0, 398):
        with pytest.raises(PkiError, match="days must be 1 to 397"):
            issue_from_csr(intermediate, pem, days=days)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no subject alternative name"),
        ([x509.DNSName("a.example"), x509.UniformResourceIdentifier("sealgate://proxy/dev")], "nothing else"),
        ([x509.RFC822Name("me@a.example")], "nothing else"),
    ],
)
def test_a_site_is_not_certified_as_something_else(
    intermediate: Authority, names: list[x509.GeneralName], message: str
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(key, signature_hash(key))
    with pytest.raises(PkiError, match=message):
        issue_from_csr(intermediate, request.public_bytes(Encoding.PEM))


def test_requests_that_are_none_are_refused(intermediate: Authority) -> None:
    with pytest.raises(PkiError, match="not a PEM certificate request"):
        issue_from_csr(intermediate, b"junk")
    key = ec.generate_private_key(ec.SECP256R1())
    bare = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, signature_hash(key))
    with pytest.raises(PkiError, match="no subject alternative name"):
        issue_from_csr(intermediate, bare.public_bytes(Encoding.PEM))
    der = bytearray(x509.load_pem_x509_csr(request_pem("a.example")).public_bytes(Encoding.DER))
    der[der.index(b"a.example")] = ord("b")
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(PkiError, match="not signed by its own key"):
        issue_from_csr(intermediate, forged)


def test_an_identity_is_a_server_and_a_client_with_a_uri(root: Authority, intermediate: Authority) -> None:
    chain, key = issue_identity(
        intermediate, "node-1", "sealgate://node/node-1", dns_names=["localhost"], addresses=["127.0.0.1", "::1"]
    )
    leaf, between = x509.load_pem_x509_certificates(chain)
    assert load_pem_private_key(key.reveal(), None).public_key() == leaf.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["sealgate://node/node-1"]
    verifier = PolicyBuilder().store(Store([root.certificate])).time(datetime.now())
    verifier.build_server_verifier(x509.DNSName("localhost")).verify(leaf, [between])
    verifier.build_client_verifier().verify(leaf, [between])


def test_authorities_are_limited_to_their_place(root: Authority, intermediate: Authority) -> None:
    for authority, length in ((root, 1), (intermediate, 0)):
        constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert (constraints.value.ca, constraints.value.path_length) == (True, length)
    assert is_issued_by(intermediate.certificate, root)
    assert not is_issued_by(root.certificate, intermediate)
    assert not is_issued_by(intermediate.certificate, create_root("root"))
    assert "PRIVATE" not in repr(root)


def test_an_authority_is_read_from_its_files(tmp_path: Path, intermediate: Authority) -> None:
    certificate, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    with pytest.raises(PkiError, match=r"ca\.pem can't be read: No such file"):
        load_authority(certificate, key, is_root=False)
    certificate.write_bytes(intermediate.certificate_pem)
    key.write_bytes(intermediate.key_pem.reveal())
    loaded = load_authority(certificate, key, is_root=False)
    assert loaded.chain == (intermediate.certificate,)
    assert load_authority(certificate, key, is_root=True).chain == ()
    key.write_bytes(create_root("other").key_pem.reveal())
    with pytest.raises(PkiError, match=r"ca\.key is not the key of .*ca\.pem"):
        load_authority(certificate, key, is_root=False)
    key.write_bytes(b"junk")
    with pytest.raises(PkiError, match="not the PEM files of a development CA"):
        load_authority(certificate, key, is_root=False)


def test_an_rsa_key_is_certified_by_the_same_authority(intermediate: Authority) -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem = request_builder("a", ["a.example"]).sign(key, signature_hash(key)).public_bytes(Encoding.PEM)
    leaf = x509.load_pem_x509_certificates(issue_from_csr(intermediate, pem))[0]
    assert leaf.public_key() == key.public_key()
    assert is_issued_by(leaf, intermediate)
