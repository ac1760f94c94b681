"""Whoever takes a proxy over, certificate and all, gets handshakes signed and nothing else.

The client here holds the proxy's own certificate. What it asks to have signed is what a thief would ask for: a forged
certificate, a token, a login as a client, anything. The same on a vault and on a SoftHSM2 token.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import os
import re
import socket
import ssl
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm.cli.management_client import call
from hsm.shared.mtls import Identity
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import Failed, Signed
from hsm.wire.schemes import Scheme
from proxy.demo.cluster import CLIENT_IDENTITY, Cluster, NodeSpot
from tests.support.node import Link, verify
from tests.support.tls_messages import certificate_verify, key_exchange

DIGEST_ONLY = "digest_only"
KINDS = {
    "p256": ("localhost", "ecdsa", Scheme.ECDSA_SHA256, "node-1"),
    "rsa-2048": ("rsa.localhost", "rsa", Scheme.RSA_PSS_SHA256, "node-2"),
    "p384": ("p384.localhost", "p384", Scheme.ECDSA_SHA384, "node-3"),
}
"""Site, its certificate, a scheme of TLS 1.3, and the node that is asked: logs of denials are bounded by node."""


def certificate_of(cluster: Cluster, kind: str) -> x509.Certificate:
    """A site's certificate; the key that it names is the one a thief wants to use."""
    site, chain, _scheme, _node = KINDS[kind]
    return x509.load_pem_x509_certificates(cluster.chains[site][chain].read_bytes())[0]


def forged_certificate(real: x509.Certificate) -> bytes:
    """What a CA would sign for "bank.example", if the site's key were a CA's."""
    now = datetime.datetime.now(datetime.UTC)
    own = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(
        issuer_name=real.subject,
        subject_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bank.example")]),
        public_key=own.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now,
        not_valid_after=now + datetime.timedelta(days=90),
        extensions=[x509.Extension(x509.ExtensionOID.BASIC_CONSTRAINTS, True, x509.BasicConstraints(True, None))],
    )
    return builder.sign(own, hashes.SHA256()).tbs_certificate_bytes


def token() -> bytes:
    """What is signed of a JSON web token (RFC 7515 5.1)."""
    parts = ({"alg": "ES256", "typ": "JWT"}, {"sub": "admin", "exp": 9999999999})
    return b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)


def thefts(real: x509.Certificate) -> dict[str, tuple[bytes, str]]:
    """What is asked for, and the reason for which it must be refused."""
    return {
        "a forged certificate": (forged_certificate(real), "not_tls"),
        "a token": (token(), "not_tls"),
        "a TLS client's CertificateVerify": (certificate_verify(context="client"), "client_context"),
        "random bytes": (os.urandom(200), "not_tls"),
    }


def identity_of_proxy(cluster: Cluster) -> Identity:
    """The files with which the proxy connects to nodes."""
    signing = tomllib.loads(cluster.proxy_config.read_text())["signing"]
    return Identity(*(Path(signing[name]) for name in ("ca", "certificate", "private_key")))


async def link_to(cluster: Cluster, node: NodeSpot) -> Link:
    """A connection to a node with the proxy's certificate."""
    link = await Link.open(f"127.0.0.1:{node.port}", identity_of_proxy(cluster))
    await link.greet()
    return link


def denials(node: NodeSpot) -> dict[str, float]:
    """How often the node denied this client something, by reason."""
    with urllib.request.urlopen(f"{node.ops_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'^sealgate_node_denials_total\{client="(.*?)",reason="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {reason: float(count) for client, reason, count in found if client == CLIENT_IDENTITY}


def logged(cluster: Cluster, node: str) -> list[dict[str, str]]:
    """The lines in which a node logged denials."""
    lines = [json.loads(line) for line in cluster.node_programs[node].log.read_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if line["event"] == "request_denied"]


def handshake(cluster: Cluster, site: str, version: ssl.TLSVersion) -> x509.Certificate:
    """A full handshake through the proxy, verified; the certificate that it showed."""
    context = ssl.create_default_context(cafile=str(cluster.ca))
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", cluster.port), timeout=10) as wire,
        context.wrap_socket(wire, server_hostname=site) as connection,
    ):
        assert not connection.session_reused
        der = connection.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_no_handshake_is_refused_and_handshakes_pass(
    each_cluster: Cluster, kind: str, wait: Callable[..., None]
) -> None:
    cluster = each_cluster
    site, _chain, scheme, name = KINDS[kind]
    node, real = cluster.nodes[name], certificate_of(cluster, kind)
    ski = x509.SubjectKeyIdentifier.from_public_key(real.public_key()).digest
    public = real.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    link = await link_to(cluster, node)
    before, lines_before = denials(node), len(logged(cluster, name))
    wanted = {DIGEST_ONLY: 0.0}
    for what, (message, reason) in thefts(real).items():
        shown = await link.ask(ski, scheme, message, is_whole=True)
        hidden = await link.ask(ski, scheme, message)
        for answer, why in ((shown, reason), (hidden, DIGEST_ONLY)):
            assert isinstance(answer, Failed), f"{what} was signed"
            assert answer.code is ErrorCode.DENIED, what
            assert answer.detail, what
            wanted[why] = wanted.get(why, 0.0) + 1
    for message in (certificate_verify(os.urandom(8)), key_exchange(29), key_exchange(23)):
        answer = await link.ask(ski, scheme, message, is_whole=True)
        assert isinstance(answer, Signed), answer
        verify(public, scheme, answer.signature, message)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert await asyncio.to_thread(handshake, cluster, site, version) == real
    await link.close()
    after = denials(node)
    assert {reason: after[reason] - before.get(reason, 0.0) for reason in wanted} == wanted
    wait(lambda: len(logged(cluster, name)) >= lines_before + sum(wanted.values()), "the log tells of every denial")
    lines = logged(cluster, name)[lines_before:]
    assert {line["reason"] for line in lines} == set(wanted)
    assert all(line["client"] == CLIENT_IDENTITY and site in line["key"] and line["why"] for line in lines), lines


async def test_digests_alone_pass_only_where_the_rule_says_so(each_cluster: Cluster) -> None:
    cluster = each_cluster
    node = cluster.nodes["node-3"]
    ski = x509.SubjectKeyIdentifier.from_public_key(certificate_of(cluster, "p256").public_key()).digest
    strict = node.config.read_text()
    link = await link_to(cluster, node)

    async def ask(text: str) -> object:
        """What is answered, on a connection that stays open, once the node has read another config."""
        node.config.write_text(text)
        await asyncio.to_thread(call, node.socket, "POST", "/reload")
        return await link.ask(ski, Scheme.ECDSA_SHA256, b"of whatever")

    try:
        assert isinstance(await ask(strict), Failed)
        lenient = strict.replace('keys = ["*"]', 'keys = ["*"]\ndigests = true', 1)
        assert isinstance(await ask(lenient), Signed)
        shown = await link.ask(ski, Scheme.ECDSA_SHA256, b"of whatever", is_whole=True)
        assert isinstance(shown, Failed), "what is shown is looked at all the same"
    finally:
        assert isinstance(await ask(strict), Failed)
    await link.close()
