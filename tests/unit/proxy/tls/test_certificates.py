"""Certificates are checked at start; each mistake has a message that names file, site and what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsm.wire.schemes import KeyType
from proxy.config.schema import SiteConfig
from proxy.tls import provider
from proxy.tls.certificates import MAX_FILE_BYTES, LoadedCertificates, load_certificates
from proxy.tls.problems import CertificateProblems
from tests.support import pki

NOW = datetime.now(UTC)
ROOT = pki.make_ca("Root", key=pki.shared_key())
INTER = pki.issue(ROOT, "Intermediate", pki.shared_key("p384"), is_ca=True)
OTHER = pki.make_ca("Other", key=pki.shared_key("p256", 9))


def site(*files: str, names: tuple[str, ...] = ("a.test",)) -> SiteConfig:
    return SiteConfig(names=names, certificates=files, upstream="web")


def load(folder: Path, *sites: SiteConfig, now: datetime = NOW) -> LoadedCertificates:
    return load_certificates(sites, folder, now=now)


def reasons(folder: Path, *sites: SiteConfig, now: datetime = NOW) -> list[str]:
    with pytest.raises(CertificateProblems) as caught:
        load(folder, *sites, now=now)
    return str(caught.value).splitlines()


def only_reason(folder: Path, issued: pki.Issued | list[x509.Certificate], **changes: datetime) -> str:
    """The one complaint about one file of the site a.test."""
    file = pki.write_chain(folder / "a.pem", issued)
    (line,) = reasons(folder, site("a.pem"), **changes)
    prefix = f"{file}: site a.test: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


@pytest.mark.parametrize(
    ("kind", "key_type"),
    [
        ("p256", KeyType.P256),
        ("p384", KeyType.P384),
        ("p521", KeyType.P521),
        ("ed25519", KeyType.ED25519),
        ("rsa-2048", KeyType.RSA_2048),
        ("rsa-2056", KeyType.RSA_OTHER),
    ],
)
def test_a_good_certificate_says_which_key(tmp_path: Path, kind: str, key_type: KeyType) -> None:
    issued = pki.issue(INTER, ["a.test"], pki.shared_key(kind))
    pki.write_chain(tmp_path / "a.pem", issued)
    loaded = load(tmp_path, site("a.pem"))
    (one,) = loaded.by_site["a.test"]
    assert (one.key_type, one.site, loaded.warnings) == (key_type, "a.test", ())
    assert one.ski == provider.ski_of(issued.key.public_key())
    assert one.chain == (issued.certificate, INTER.certificate)
    assert one.chain_pem == (tmp_path / "a.pem").read_bytes()


def test_absolute_paths_wildcards_and_text_around_pem(tmp_path: Path) -> None:
    file = pki.write_chain(tmp_path / "w.pem", pki.issue(ROOT, ["*.a.test", "a.test"]))
    file.write_bytes(b"subject=CN a.test\n" + file.read_bytes())
    loaded = load(tmp_path / "elsewhere", site(str(file), names=("a.test", "*.a.test", "www.a.test")))
    assert len(loaded.by_site["a.test"]) == 1


def test_missing_file(tmp_path: Path) -> None:
    assert reasons(tmp_path, site("no.pem")) == [
        f"{tmp_path / 'no.pem'}: site a.test: cannot be read: No such file or directory"
    ]


def test_folder_instead_of_file(tmp_path: Path) -> None:
    (line,) = reasons(tmp_path, site("."))
    assert "cannot be read: Is a directory" in line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "contains no PEM certificate"),
        (b"\x30\x82\x01\x00 some DER", "contains no PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be parsed"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "cannot be parsed"),
        (b"\n" * (MAX_FILE_BYTES + 1), "is longer than"),
    ],
)
def test_not_a_certificate(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.pem").write_bytes(content)
    (line,) = reasons(tmp_path, site("a.pem"))
    assert reason in line


@pytest.mark.parametrize("label", ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
def test_a_private_key_has_no_place_here(tmp_path: Path, label: str) -> None:
    file = pki.write_chain(tmp_path / "a.pem", pki.issue(ROOT, ["a.test"]))
    secret = f"-----BEGIN {label}-----\nc2VjcmV0\n-----END {label}-----\n"
    file.write_bytes(file.read_bytes() + secret.encode())
    (line,) = reasons(tmp_path, site("a.pem"))
    assert "must not contain a private key: site keys live on the HSM nodes only; take it out" in line
    assert "c2VjcmV0" not in line


def test_expired_and_not_yet_valid(tmp_path: Path) -> None:
    issued = pki.issue(ROOT, ["a.test"], days=30)
    assert "the certificate expired on" in only_reason(tmp_path, issued, now=NOW + timedelta(days=31))
    assert "is not valid before" in only_reason(tmp_path, issued, now=NOW - timedelta(days=3))


def test_an_expired_intermediate_is_named(tmp_path: Path) -> None:
    short = pki.issue(ROOT, "Short lived", is_ca=True, days=5)
    reason = only_reason(tmp_path, pki.issue(short, ["a.test"]), now=NOW + timedelta(days=6))
    assert "intermediate 1 (CN=Short lived) expired on" in reason


def test_soon_to_expire_is_a_warning(tmp_path: Path) -> None:
    pki.write_chain(tmp_path / "a.pem", pki.issue(ROOT, ["a.test"], days=13))
    (warning,) = load(tmp_path, site("a.pem")).warnings
    assert "renew it soon" in str(warning)
    assert str(tmp_path / "a.pem") in str(warning)
    assert load(tmp_path, site("a.pem"), now=NOW - timedelta(hours=23)).warnings != ()


def test_names_that_are_not_covered(tmp_path: Path) -> None:
    pki.write_chain(tmp_path / "a.pem", pki.issue(ROOT, ["a.test", "127.0.0.1"]))
    (line,) = reasons(tmp_path, site("a.pem", names=("a.test", "b.test", "*.a.test")))
    assert "does not cover b.test, *.a.test; its names are a.test" in line


def test_a_common_name_alone_covers_nothing(tmp_path: Path) -> None:
    assert "does not cover a.test; its names are none" in only_reason(
        tmp_path, [build(lambda b: b, subject="a.test", san=False)]
    )


def test_wrong_chain(tmp_path: Path) -> None:
    leaf = pki.issue(INTER, ["a.test"])
    reason = only_reason(tmp_path, [leaf.certificate, OTHER.certificate])
    assert "certificate 2 (CN=Other) did not issue certificate 1 (CN=a.test); each must be signed by the next" in reason


def test_a_look_alike_issuer_does_not_pass(tmp_path: Path) -> None:
    fake = pki.make_ca("Intermediate")
    assert "did not issue" in only_reason(tmp_path, [pki.issue(INTER, ["a.test"]).certificate, fake.certificate])


def test_the_issuer_must_be_a_ca(tmp_path: Path) -> None:
    server = pki.issue(ROOT, ["server.test"])
    forged = pki.Issued(server.certificate, server.key)
    leaf = pki.issue(forged, ["a.test"])
    assert "certificate 2 (CN=server.test) is not a CA's" in only_reason(
        tmp_path, [leaf.certificate, server.certificate]
    )


def test_the_wrong_order_is_explained(tmp_path: Path) -> None:
    leaf = pki.issue(INTER, ["a.test"])
    pki.write_chain(tmp_path / "a.pem", [INTER.certificate, leaf.certificate])
    assert any("the site's own must come first" in line for line in reasons(tmp_path, site("a.pem")))


def test_a_self_signed_certificate_is_allowed(tmp_path: Path) -> None:
    pki.write_chain(tmp_path / "a.pem", [build(lambda b: b)])
    assert load(tmp_path, site("a.pem")).by_site["a.test"]


def build(change: object, *, subject: str = "a.test", san: bool = True, key: object = None) -> x509.Certificate:
    """A self-signed certificate with something special about it."""
    from cryptography.hazmat.primitives import hashes

    key = key or pki.shared_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())  # type: ignore[attr-defined]  # any private key
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=60))
    )
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("a.test")]), critical=False)
    return change(builder).sign(key, hashes.SHA256())  # type: ignore[operator,no-any-return]  # a callable


def test_usages_that_forbid_servers(tmp_path: Path) -> None:
    usage = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
    assert "key usage does not allow digital signatures" in only_reason(
        tmp_path, [build(lambda b: b.add_extension(usage, critical=True))]
    )
    clients = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    assert "extended key usage does not allow TLS servers" in only_reason(
        tmp_path, [build(lambda b: b.add_extension(clients, critical=False))]
    )


def test_keys_that_nodes_do_not_have(tmp_path: Path) -> None:
    assert "at least 2048 are needed" in only_reason(tmp_path, [build(lambda b: b, key=pki.shared_key("rsa-1024"))])
    secp = ec.generate_private_key(ec.SECP256K1())
    assert "use P-256, P-384 or P-521" in only_reason(tmp_path, [build(lambda b: b, key=secp)])
    assert "neither RSA, ECDSA nor Ed25519" in only_reason(
        tmp_path, [build(lambda b: b, key=dsa.generate_private_key(1024))]
    )


def test_two_certificates_of_one_family(tmp_path: Path) -> None:
    pki.write_chain(tmp_path / "one.pem", pki.issue(ROOT, ["a.test"], pki.shared_key("p256", 1)))
    pki.write_chain(tmp_path / "two.pem", pki.issue(ROOT, ["a.test"], pki.shared_key("p384", 1)))
    (line,) = reasons(tmp_path, site("one.pem", "two.pem"))
    assert line == (
        f"{tmp_path / 'two.pem'}: site a.test: is a second certificate with an ec key, beside "
        f"{tmp_path / 'one.pem'}; keep one"
    )


def test_everything_is_reported_at_once(tmp_path: Path) -> None:
    pki.write_chain(tmp_path / "old.pem", pki.issue(ROOT, ["x.test"], days=-1))
    lines = reasons(tmp_path, site("old.pem", "no.pem"), site("gone.pem", names=("b.test",)))
    assert len(lines) == 4
    assert [line.split(": ")[1] for line in lines] == ["site a.test", "site a.test", "site a.test", "site b.test"]


def test_certificates_encode_as_pem() -> None:
    assert INTER.certificate.public_bytes(Encoding.PEM).startswith(b"-----BEGIN CERTIFICATE-----")
