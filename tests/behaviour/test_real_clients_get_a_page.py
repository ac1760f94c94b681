"""curl, openssl, GnuTLS, Python and Chromium fetch a page and verify the certificate; the key is elsewhere."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest

from proxy.demo.cluster import Cluster


def run(*command: str, send: bytes = b"", timeout_s: float = 30) -> str:
    """Output of a client, both streams; its exit status must be 0."""
    done = subprocess.run(command, input=send, capture_output=True, timeout=timeout_s, check=False)
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, f"{command[0]} exited with {done.returncode}:\n{output[-2000:]}"
    return output


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("version", ["--tlsv1.3", "--tls-max=1.2"])
def test_curl(cluster: Cluster, version: str) -> None:
    page = run("curl", "-sS", "--http1.1", *version.split("="), "--cacert", str(cluster.ca), cluster.url)
    assert "You reached web-" in page
    assert "<code>https</code>" in page, "the web server must learn X-Forwarded-Proto"


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
@pytest.mark.parametrize(
    ("algorithms", "expected"),
    [
        ("RSA-PSS+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA512:RSA+SHA256", "RSA"),
        ("ECDSA+SHA256", "ECDSA"),
    ],
)
def test_openssl_with_one_kind_of_signature_only(
    cluster: Cluster, version: str, algorithms: str, expected: str
) -> None:
    output = run(
        *("openssl", "s_client", f"-{version}", "-sigalgs", algorithms, "-connect", f"127.0.0.1:{cluster.port}"),
        *(
            "-servername",
            "localhost",
            "-CAfile",
            str(cluster.ca),
            "-verify_return_error",
            "-verify_hostname",
            "localhost",
        ),
        *("-ign_eof",),
        send=REQUEST,
    )
    assert "Verify return code: 0 (ok)" in output
    assert "HTTP/1.1 200 OK" in output
    found = re.search(r"Peer signature type: (\S+)", output)
    assert found is not None, output
    assert found[1].startswith(expected)
    assert version.replace("tls1_", "TLSv1.") in output


def test_gnutls(cluster: Cluster) -> None:
    """Its input stays open until the answer is there: the end of input ends the connection, as of any client."""
    command = ["gnutls-cli", "--x509cafile", str(cluster.ca), "-p", str(cluster.port), "localhost"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(REQUEST)
        client.stdin.flush()
        output = client.stdout.read().decode()
    assert client.returncode == 0, output
    assert "The certificate is trusted" in output
    assert "200 OK" in output
    assert "You reached web-" in output


def test_python(cluster: Cluster) -> None:
    context = ssl.create_default_context(cafile=str(cluster.ca))
    with urllib.request.urlopen(cluster.url, context=context, timeout=10) as answer:
        assert answer.status == 200
        assert b"You reached web-" in answer.read()
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
