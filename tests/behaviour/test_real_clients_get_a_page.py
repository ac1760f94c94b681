"""curl, openssl, GnuTLS, Python and Chromium fetch a page and verify the certificate; the key is elsewhere.

In both versions of TLS, with every kind of key, from nodes on a vault and from nodes on a SoftHSM2 token.
"""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest

from proxy.demo.check import client_context, fetch
from proxy.demo.cluster import Cluster


def run(*command: str, send: bytes = b"", timeout_s: float = 30) -> str:
    """Output of a client, both streams; its exit status must be 0."""
    done = subprocess.run(command, input=send, capture_output=True, timeout=timeout_s, check=False)
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, f"{command[0]} exited with {done.returncode}:\n{output[-2000:]}"
    return output


def request(site: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n".encode()


SITES = {"localhost": "p256", "rsa.localhost": "rsa-2048", "p384.localhost": "p384"}
"""The key that a client gets which can do everything."""
both_versions = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
all_sites = pytest.mark.parametrize("site", list(SITES))


@all_sites
@both_versions
def test_curl(each_cluster: Cluster, version: ssl.TLSVersion, site: str) -> None:
    wanted = ["--tlsv1.3"] if version is ssl.TLSVersion.TLSv1_3 else ["--tls-max", "1.2"]
    where = ["--resolve", f"{site}:{each_cluster.port}:127.0.0.1", "--cacert", str(each_cluster.ca)]
    page = run("curl", "-sS", "--http1.1", *wanted, *where, each_cluster.url_of(site))
    assert "You reached web-" in page
    assert "<code>https</code>" in page, "the web server must learn X-Forwarded-Proto"


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
@pytest.mark.parametrize(
    ("site", "algorithms", "expected", "bits"),
    [
        ("localhost", "RSA-PSS+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA512:RSA+SHA256", "RSA", 2048),
        ("localhost", "ECDSA+SHA256", "ECDSA", 256),
        ("p384.localhost", "ECDSA+SHA384", "ECDSA", 384),
    ],
    ids=["rsa-2048", "p256", "p384"],
)
def test_openssl_with_one_kind_of_signature_only(
    each_cluster: Cluster, version: str, site: str, algorithms: str, expected: str, bits: int
) -> None:
    output = run(
        *("openssl", "s_client", f"-{version}", "-sigalgs", algorithms, "-connect", f"127.0.0.1:{each_cluster.port}"),
        *("-servername", site, "-CAfile", str(each_cluster.ca), "-verify_return_error", "-verify_hostname", site),
        *("-ign_eof",),
        send=request(site),
    )
    assert "Verify return code: 0 (ok)" in output
    assert "HTTP/1.1 200 OK" in output
    found = re.search(r"Peer signature type: (\S+)", output)
    assert found is not None, output
    assert found[1].startswith(expected)
    assert f"Server public key is {bits} bit" in output
    assert version.replace("tls1_", "TLSv1.") in output


@all_sites
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_gnutls(each_cluster: Cluster, version: str, site: str) -> None:
    """Its input stays open until the answer is there: the end of input ends the connection, as of any client."""
    command = ["gnutls-cli", "--x509cafile", str(each_cluster.ca), "-p", str(each_cluster.port), "127.0.0.1"]
    command += ["--sni-hostname", site, "--verify-hostname", site, f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(request(site))
        client.stdin.flush()
        output = client.stdout.read().decode()
    assert client.returncode == 0, output
    assert "The certificate is trusted" in output
    assert f"(TLS{version}-" in output.replace("X.509", ""), output
    assert "200 OK" in output
    assert "You reached web-" in output


@all_sites
@both_versions
async def test_python(each_cluster: Cluster, version: ssl.TLSVersion, site: str) -> None:
    context = client_context(str(each_cluster.ca), version)
    kind, page = await fetch(context, each_cluster.port, site=site)
    assert kind == f"{'TLSv1.2' if version is ssl.TLSVersion.TLSv1_2 else 'TLSv1.3'} {SITES[site]}"
    assert b"You reached web-" in page
    assert each_cluster.spec.key_place.encode() in page, "the page says which token it is"


def test_a_client_that_does_not_know_the_authority_refuses(cluster: Cluster) -> None:
    with pytest.raises(OSError, match="certificate verify failed"):
        urllib.request.urlopen(cluster.url, context=ssl.create_default_context(cafile=None), timeout=10)


def test_hybrid_group_is_negotiated_where_the_client_can(cluster: Cluster) -> None:
    """OpenSSL 4 of the proxy's own interpreter is the client: Debian's tools are too old for ML-KEM."""
    from tests.support.tls_client import negotiated_group

    assert negotiated_group(cluster.port, "localhost", "X25519MLKEM768:X25519") == "X25519MLKEM768"
    assert negotiated_group(cluster.port, "localhost", "X25519").lower() == "x25519"


@pytest.mark.timeout(180)
def test_chromium(cluster: Cluster, tmp_path: Path) -> None:
    profile, database = tmp_path / "profile", tmp_path / "home" / ".pki" / "nssdb"
    database.mkdir(parents=True)
    run("certutil", "-N", "-d", f"sql:{database}", "--empty-password")
    run("certutil", "-A", "-d", f"sql:{database}", "-t", "C,,", "-n", "demo", "-i", str(cluster.ca))
    chromium = shutil.which("chromium")
    assert chromium is not None
    command = [
        *(
            "env",
            f"HOME={tmp_path / 'home'}",
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
        ),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--disable-dev-shm-usage", f"--user-data-dir={profile}", "--window-size=900,620"),
    ]
    page = run(*command, "--dump-dom", cluster.url, timeout_s=80)
    assert "You reached web-" in page, page[-500:]
    run(*command, f"--screenshot={tmp_path / 'page.png'}", cluster.url, timeout_s=80)
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
