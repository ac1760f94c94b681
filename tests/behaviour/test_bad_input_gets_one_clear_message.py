"""Bad input of every kind gets a message that names the file and the fault, and no traceback."""

from __future__ import annotations

import fcntl
import shutil
import socket
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certs.site_keys import VaultPlace
from proxy.demo.cluster import Cluster, ClusterSpec
from proxy.demo.processes import sealgate
from proxy.demo.web import nginx_program


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Everything in place, nothing started."""
    cluster = Cluster(ClusterSpec(tmp_path_factory.mktemp("prepared")))
    cluster.prepare()
    return cluster


def refused(*arguments: str) -> str:
    """What a command that must fail tells its user, on one line per problem and without a traceback."""
    done = subprocess.run(sealgate(*arguments), capture_output=True, text=True, timeout=30, check=False)
    output = done.stdout + done.stderr
    assert done.returncode not in (0, None), f"it should have failed:\n{output}"
    assert done.returncode > 0, f"it was killed:\n{output}"
    assert "Traceback" not in output, output
    assert output.strip(), "it failed in silence"
    return " ".join(output.split())


def certificate(
    path: Path, names: list[str], *, start_days: int = -1, end_days: int = 30, key_too: bool = False
) -> Path:
    """A self-signed certificate with the faults asked for."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=start_days))
        .not_valid_after(now + timedelta(days=end_days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    data = made.public_bytes(serialization.Encoding.PEM)
    if key_too:
        data += key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    path.write_bytes(data)
    return path


ECDSA = "localhost-ecdsa.pem"


def edited(cluster: Cluster, tmp_path: Path, edit: Callable[[str], str]) -> Path:
    """A copy of the good proxy.toml with one thing wrong."""
    good = cluster.proxy_config.read_text()
    bad = edit(good)
    assert bad != good, "the edit changed nothing"
    path = tmp_path / "proxy.toml"
    path.write_text(bad)
    return path


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[process]", "[process", ["proxy.toml:2", "]"]),
        ("workers = 2", "workers = 2\nwrokers = 3", ["proxy.toml:4", "process.wrokers", "unknown"]),
        ("workers = 2", 'workers = "two"', ["proxy.toml:3", "process.workers", "int"]),
        ("workers = 2", "workers = 999", ["proxy.toml:3", "process.workers", "256"]),
        ('upstream = "web"', 'upstream = "wbe"', ["sites[0].upstream", "wbe"]),
        ('names = ["localhost"]', 'names = ["local host"]', ["sites[0].names", "local host"]),
        ('names = ["localhost"]', 'names = ["*.*.example.org"]', ["sites[0].names", "*.*.example.org"]),
        ("[process]", '[tls]\ngroups = ["P-257"]\n[process]', ["groups", "P-257"]),
        ("[process]", '[tls]\nciphers = ["AES128-SHA"]\n[process]', ["ciphers", "AES128-SHA"]),
        ("[process]", '[tls]\nsignature_algorithms = ["md5"]\n[process]', ["signature_algorithms", "md5"]),
        ("[process]", '[tls]\nmin_version = "1.1"\n[process]', ["tls.min_version", "1.1"]),
        ('[[nodes]]\nname = "node-2"', '[[nodes]]\nname = "node-1"', ["nodes", "node-1"]),
        ("proxy.key", "absent.key", ["absent.key"]),
    ],
)
def test_proxy_config(prepared: Cluster, tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    path = edited(prepared, tmp_path, lambda text: text.replace(old, new, 1))
    message = refused("proxy", "check", "--config", str(path))
    for part in expected:
        assert part in message
    assert message == refused("proxy", "run", "--config", str(path)) or expected[0] in message


def test_config_file_is_missing(tmp_path: Path) -> None:
    assert "absent.toml" in refused("proxy", "check", "--config", str(tmp_path / "absent.toml"))
    assert "absent.toml" in refused("node", "check", "--config", str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.unlink(missing_ok=True), ["no such file|does not exist|not found"]),
        (lambda path: path.write_text("hello"), ["certificate"]),
        (lambda path: certificate(path, ["localhost"], start_days=-60, end_days=-5), ["expired"]),
        (lambda path: certificate(path, ["localhost"], start_days=5), ["not valid|not yet valid"]),
        (lambda path: certificate(path, ["other.example.org"]), ["localhost", "name|cover"]),
        (lambda path: certificate(path, ["localhost"], key_too=True), ["private key"]),
    ],
    ids=["missing", "not-pem", "expired", "not-yet", "wrong-name", "with-key"],
)
def test_certificate(prepared: Cluster, tmp_path: Path, make: Callable[[Path], object], expected: list[str]) -> None:
    path = tmp_path / "site.pem"
    make(path)
    good = str(prepared.chains["localhost"]["ecdsa"])
    message = refused(
        "proxy", "check", "--config", str(edited(prepared, tmp_path, lambda text: text.replace(good, str(path))))
    ).lower()
    assert str(path) in message
    for part in expected:
        assert any(choice in message for choice in part.split("|")), message


def test_chain_out_of_order(prepared: Cluster, tmp_path: Path) -> None:
    good = prepared.chains["localhost"]["ecdsa"]
    first, second = x509.load_pem_x509_certificates(good.read_bytes())[:2]
    path = tmp_path / "site.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(second.public_bytes(pem) + first.public_bytes(pem))
    config = edited(prepared, tmp_path, lambda text: text.replace(str(good), str(path)))
    assert str(path) in refused("proxy", "check", "--config", str(config))


def test_every_certificate_problem_is_told_at_once(prepared: Cluster, tmp_path: Path) -> None:
    chains = prepared.chains["localhost"]
    one = certificate(tmp_path / "one.pem", ["localhost"], start_days=-60, end_days=-5)

    def edit(text: str) -> str:
        return text.replace(str(chains["ecdsa"]), str(one)).replace(str(chains["rsa"]), str(tmp_path / "two.pem"))

    message = refused("proxy", "check", "--config", str(edited(prepared, tmp_path, edit)))
    assert str(one) in message
    assert str(tmp_path / "two.pem") in message


def test_port_in_use(prepared: Cluster, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        config = edited(prepared, tmp_path, lambda text: text.replace(f":{prepared.port}", f":{port}"))
        message = refused("proxy", "run", "--config", str(config))
    assert f"127.0.0.1:{port}" in message
    assert "another program" in message


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda text, _: text.replace("[node]\n", "[node]\ncolour = 1\n"), ["node.colour", "unknown"]),
        (lambda text, _: text.replace('type = "vault"', 'type = "paper"'), ["tokens[0]", "paper"]),
        (lambda text, folder: text.replace("master.key", "absent.key"), ["absent.key"]),
        (lambda text, folder: text.replace("store.db", "absent.db"), ["absent.db", "vault init"]),
        (lambda text, _: text.replace("sealgate://proxy/dev", ""), ["access"]),
        (lambda text, _: text.replace("127.0.0.1:", "127.0.0.1.", 1), ["listen.address"]),
    ],
    ids=["unknown-key", "backend", "key-file", "store", "client", "address"],
)
def test_node_config(prepared: Cluster, tmp_path: Path, edit: Callable[[str, Path], str], expected: list[str]) -> None:
    good = prepared.nodes["node-1"].config.read_text()
    bad = edit(good, tmp_path)
    assert bad != good
    path = tmp_path / "node.toml"
    path.write_text(bad)
    message = refused("node", "check", "--config", str(path))
    assert "node.toml" in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda path: path.chmod(0o644), "chmod 600"),
        (lambda path: path.write_bytes(b"\0" * 32), "key"),
        (lambda path: path.write_bytes(b"short"), "a key file has 32"),
    ],
    ids=["readable-by-others", "wrong-key", "short-key"],
)
def test_node_key_file(prepared: Cluster, tmp_path: Path, spoil: Callable[[Path], object], expected: str) -> None:
    assert isinstance(prepared.token, VaultPlace)
    key_file, spoilt = prepared.token.key_file, tmp_path / "master.key"
    shutil.copy(key_file, spoilt)
    spoilt.chmod(0o600)
    spoil(spoilt)
    path = tmp_path / "node.toml"
    text = prepared.nodes["node-1"].config.read_text().replace(str(key_file), str(spoilt))
    path.write_text(text)
    message = refused("node", "run", "--config", str(path))
    assert expected in message
    assert str(spoilt) in message or "store.db" in message


def test_demo_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = refused("demo", "--check", "--port", str(port), "--dir", str(tmp_path / "demo"))
    assert f"127.0.0.1:{port}" in message


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--profile", "yubihsm2"), "--profile is for --backend simulated"),
        (("--backend", "simulated", "--profile", "yubi"), "there is no 'yubi'; choose from"),
    ],
)
def test_demo_profile_that_means_nothing(tmp_path: Path, options: tuple[str, ...], sentence: str) -> None:
    folder = tmp_path / "demo"
    arguments = sealgate("demo", "--check", "--dir", str(folder), *options)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not folder.exists()


def test_demo_folder_of_a_demo_that_runs(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refused("demo", "--check", "--dir", str(tmp_path))
    assert f"Another demo runs in {tmp_path}; stop it" in message
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_demo_folder_that_cannot_be_used(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    message = refused("demo", "--check", "--dir", str(taken))
    assert str(taken) in message
    assert "internal error" not in message


def test_demo_without_softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "nginx").symlink_to(nginx_program())
    monkeypatch.setenv("PATH", str(tools))
    folder = tmp_path / "demo"
    message = refused("demo", "--check", "--backend", "pkcs11", "--dir", str(folder))
    assert "SoftHSM2 is not installed" in message
    assert "apt-get install softhsm2" in message
    assert not folder.exists(), "nothing is made before"


def test_demo_folder_that_softhsm_can_not_use(tmp_path: Path) -> None:
    message = refused("demo", "--check", "--backend", "pkcs11", "--dir", str(tmp_path / "a#b"))
    assert "SoftHSM2 can't use the folder" in message
    assert "'#'" in message


def test_demo_folder_with_a_broken_vault(tmp_path: Path) -> None:
    vault = tmp_path / "demo" / "pki" / "vault"
    vault.mkdir(parents=True, mode=0o700)
    for folder in (vault.parent, vault):
        folder.chmod(0o700)
    (vault / "store.db").write_bytes(b"no database")
    message = refused("demo", "--check", "--dir", str(tmp_path / "demo"))
    assert "vault" in message
    assert "internal error" not in message
