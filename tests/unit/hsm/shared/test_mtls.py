from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from certs.authority import create_intermediate, create_root, issue_from_csr, issue_identity, private_pem
from hsm.backends.x509_forms import request_builder
from hsm.shared.mtls import Identity, client_context, peer_identity, server_context
from hsm.shared.strict_toml import ConfigError


def make_identities(folder: Path) -> tuple[Identity, Identity, Identity]:
    """A node, a proxy, and a stranger of another CA."""
    ca = folder / "ca.pem"
    root = create_root("root")
    intermediate = create_intermediate("intermediate", root)
    ca.write_bytes(root.certificate_pem)
    found = []
    for name, authority in (("node", intermediate), ("proxy", intermediate), ("stranger", create_root("other"))):
        chain, key = issue_identity(authority, name, f"sealgate://{name}/x", dns_names=["localhost"])
        certificate, private_key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(chain)
        private_key.write_bytes(key.reveal())
        found.append(Identity(ca, certificate, private_key))
    return found[0], found[1], found[2]


def shake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Complete a handshake in memory and pass one byte each way, so that both sides verified."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    c = client.wrap_bio(to_client, to_server, server_hostname=name)
    s = server.wrap_bio(to_server, to_client, server_side=True)
    done = set()
    for _ in range(10):
        for side in (c, s):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
    assert len(done) == 2
    s.write(b"x")
    assert c.read(1) == b"x"
    return s, c


def test_both_sides_know_each_other(tmp_path: Path) -> None:
    node, proxy, _ = make_identities(tmp_path)
    server, client = shake(server_context(node), client_context(proxy))
    assert client.version() == "TLSv1.3"
    peer = server.getpeercert()
    assert peer is not None
    assert peer_identity(peer) == "sealgate://proxy/x"
    peer = client.getpeercert()
    assert peer is not None
    assert peer_identity(peer) == "sealgate://node/x"


def test_tls_1_2_is_spoken_with_the_one_strong_suite(tmp_path: Path) -> None:
    node, proxy, _ = make_identities(tmp_path)
    context = client_context(proxy)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    _server, client = shake(server_context(node), context)
    cipher = client.cipher()
    assert cipher is not None
    assert (client.version(), cipher[0]) == ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384")


def test_strangers_are_refused_on_both_sides(tmp_path: Path) -> None:
    node, proxy, stranger = make_identities(tmp_path)
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate verify failed|unknown ca"):
        shake(server_context(node), client_context(stranger))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server_context(stranger), client_context(proxy))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(server_context(node), client_context(proxy), "elsewhere")


def test_a_client_without_a_certificate_is_refused(tmp_path: Path) -> None:
    node, _proxy, _ = make_identities(tmp_path)
    bare = ssl.create_default_context(cafile=str(node.ca))
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake(server_context(node), bare)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    node, proxy, _ = make_identities(tmp_path)
    nothing = tmp_path / "nothing.pem"
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    for identity, message in (
        (replace(node, ca=nothing), r"nothing\.pem: can't be read: No such file"),
        (replace(node, certificate=empty), r"empty\.pem: is empty"),
        (replace(node, ca=junk), r"junk\.pem: holds no PEM certificates"),
        (replace(node, certificate=junk), r"junk\.pem: can't be used together with the key"),
        (replace(node, private_key=proxy.private_key), r"proxy\.key: is not the key of .*node\.pem"),
    ):
        for build in (server_context, client_context):
            with pytest.raises(ConfigError, match=message):
                build(identity)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    node, _proxy, _ = make_identities(tmp_path)
    key = serialization.load_pem_private_key(node.private_key.read_bytes(), None)
    sealed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    node.private_key.write_bytes(sealed)
    with pytest.raises(ConfigError, match=r"node\.key: is protected by a password"):
        server_context(node)


def test_a_peer_is_its_first_uri_else_its_common_name() -> None:
    subject = ((("organizationName", "o"),), (("commonName", "box"),))
    both = {"subject": subject, "subjectAltName": (("DNS", "d"), ("URI", "sealgate://a"), ("URI", "sealgate://b"))}
    assert peer_identity(both) == "sealgate://a"
    assert peer_identity({"subject": subject, "subjectAltName": (("DNS", "d"),)}) == "CN=box"
    for nameless in ({}, {"subject": ((("organizationName", "o"),),)}, {"subjectAltName": (("URI", ""),)}):
        with pytest.raises(ValueError, match="no URI name and no common name"):
            peer_identity(nameless)


@pytest.mark.parametrize("uri", ["CN=box", "sealgate", "sealgate://a\0b", "sealgate://a\nb", "sealgate://a b", "://x"])
def test_a_uri_name_that_is_no_uri_is_nobody(uri: str) -> None:
    with pytest.raises(ValueError, match="is not a URI"):
        peer_identity({"subjectAltName": (("URI", uri),), "subject": ((("commonName", "box"),),)})


def test_a_common_name_that_can_not_be_printed_is_nobody() -> None:
    with pytest.raises(ValueError, match="has control characters"):
        peer_identity({"subject": ((("commonName", "box\n"),),)})


def test_a_client_can_not_pass_for_a_node_by_its_common_name(tmp_path: Path) -> None:
    _node, proxy, _ = make_identities(tmp_path)
    issuer = create_root("one more root")
    proxy.ca.write_bytes(issuer.certificate_pem)
    chain, key = issue_identity(issuer, "node-1.example", "sealgate://proxy/x")
    proxy.certificate.write_bytes(chain)
    proxy.private_key.write_bytes(key.reveal())
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(server_context(proxy), client_context(proxy), "node-1.example")


def test_a_site_certificate_of_the_same_ca_is_no_client(tmp_path: Path) -> None:
    node, _proxy, _ = make_identities(tmp_path)
    issuer = create_root("one more root")
    node.ca.write_bytes(issuer.certificate_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    request = request_builder("CN=site", ["localhost"]).sign(key, SHA256())
    site = replace(node, certificate=tmp_path / "site.pem", private_key=tmp_path / "site.key")
    site.certificate.write_bytes(issue_from_csr(issuer, request.public_bytes(Encoding.PEM)))
    site.private_key.write_bytes(private_pem(key).reveal())
    chain, node_key = issue_identity(issuer, "node", "sealgate://node/x", dns_names=["localhost"])
    node.certificate.write_bytes(chain)
    node.private_key.write_bytes(node_key.reveal())
    with pytest.raises(ssl.SSLError, match=r"(?i)unsuitable certificate purpose|certificate verify failed"):
        shake(server_context(node), client_context(site))
