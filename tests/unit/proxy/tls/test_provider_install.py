"""Bringing the provider into a process: OpenSSL's configuration is read once, so each test has its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
OURS = "from proxy.tls import provider\nprovider.install()\n"
WORKS = """
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import crypto
key = ec.generate_private_key(ec.SECP256R1())
assert crypto.load_privatekey(crypto.FILETYPE_PEM, provider.key_reference(key.public_key())).bits() == 256
print("works")
"""
REFUSED = """
from proxy.tls import provider
try:
    provider.install()
except provider.ProviderError as error:
    print(error)
    assert not provider.is_installed()
else:
    raise SystemExit("it was installed")
"""
DEBIAN = """
HOME = .
openssl_conf = openssl_init
oid_section = new_oids
[ new_oids ]
ours = 1.2.3.4
[openssl_init]
providers = provider_sect
ssl_conf = ssl_sect
[provider_sect]
default = default_sect
[default_sect]
# activate = 1
[ssl_sect]
system_default = system_default_sect
[system_default_sect]
MinProtocol = TLSv1.3
Options = -SessionTicket
"""


def run(code: str, conf: str | None = None, **environment: str) -> str:
    settings = {name: value for name, value in os.environ.items() if name != "OPENSSL_CONF"} | environment
    if conf is not None:
        settings["OPENSSL_CONF"] = conf
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, env=settings, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def user_conf(tmp_path: Path) -> Path:
    path = tmp_path / "my openssl #1.cnf"
    path.write_text(DEBIAN)
    return path


def test_it_is_installed_and_the_environment_is_as_before() -> None:
    assert run("import os\n" + OURS + WORKS + "assert 'OPENSSL_CONF' not in os.environ") == "works"
    assert run("import os\n" + OURS + "print(repr(os.environ['OPENSSL_CONF']))", conf="") == "''"


def test_twice_is_once() -> None:
    assert run(OURS + OURS + "assert provider.is_installed()" + WORKS) == "works"


def test_importing_the_module_does_not_load_openssl() -> None:
    code = (
        "import sys\nfrom proxy.tls import provider\nprint('cryptography' in sys.modules or 'OpenSSL' in sys.modules)"
    )
    assert run(code) == "False"


def test_no_file_is_left(tmp_path: Path) -> None:
    code = """
import os
open_now = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
print([name for name in open_now if "sealgate" in name])
"""
    assert run(OURS + code, TMPDIR=str(tmp_path)) == "[]"
    assert list(tmp_path.iterdir()) == []


def test_without_memory_files_a_temporary_one_is_used_and_removed(tmp_path: Path) -> None:
    code = "import os\nos.path.isdir = lambda path: False\n" + OURS + WORKS
    assert run(code, TMPDIR=str(tmp_path)) == "works"
    assert list(tmp_path.iterdir()) == []


def test_no_folder_for_a_temporary_file_is_told() -> None:
    code = "import os, tempfile\nos.path.isdir = lambda path: False\ntempfile.tempdir = '/nowhere'\n" + REFUSED
    assert "point TMPDIR to a folder that can be written" in run(code)


def test_too_late_is_told() -> None:
    told = run("from cryptography.hazmat.primitives.asymmetric import ec\n" + REFUSED)
    assert "was imported before proxy.tls.provider.install() ran" in told


def test_a_provider_that_the_user_has_configured_is_enough(tmp_path: Path) -> None:
    module = run("from proxy.tls import _provider\nprint(_provider.__file__)")
    conf = tmp_path / "openssl.cnf"
    conf.write_text(
        f"openssl_conf = a\n[a]\nproviders = b\n[b]\ndefault = c\nsealgate = d\n[c]\nactivate = 1\n"
        f"[d]\nmodule = {module}\nactivate = 1\n"
    )
    code = "from OpenSSL import SSL\nSSL.Context(SSL.TLS_METHOD)\n" + OURS + WORKS
    assert run(code, conf=str(conf)) == "works"
    assert run(OURS + WORKS, conf=str(conf)) == "works"


def test_the_users_configuration_still_counts(user_conf: Path) -> None:
    """In both OpenSSLs, from a file whose name is hard to quote."""
    code = """
import ssl
from OpenSSL import SSL
assert ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).options & ssl.OP_NO_TICKET
print(bool(SSL.Context(SSL.TLS_METHOD).set_options(0) & SSL.OP_NO_TICKET))
"""
    code = OURS + WORKS + code
    assert run(code, conf=str(user_conf)).split() == ["works", "True"]


def test_a_file_without_sections_of_ours_is_fine(tmp_path: Path) -> None:
    conf = tmp_path / "openssl.cnf"
    for text in ("", "HOME = .\n", "openssl_conf = a\n[a]\n", "openssl_conf = a\n[a]\nproviders = b\n[b]\n"):
        conf.write_text(text)
        assert run(OURS + WORKS, conf=str(conf)) == "works", text


def test_providers_in_an_included_file_are_found(tmp_path: Path, user_conf: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "one.cnf").write_text(DEBIAN)
    conf = tmp_path / "openssl.cnf"
    conf.write_text(f".include {folder}\n")
    assert run(OURS + WORKS, conf=str(conf)) == "works"


def test_a_file_that_is_not_there_is_told() -> None:
    told = run(REFUSED, conf="/nowhere/openssl.cnf")
    assert "/nowhere/openssl.cnf can't be read (No such file or directory)" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    "text",
    [
        "openssl_conf = a\n[a\n",
        "openssl_conf = $nothing\n",
        "openssl_conf = a\n[a]\nalg_section = b\n[b]\ndefault_properties = fips=yes\n",
        "openssl_conf = a\n[a]\nproviders = b\n[b]\nx = y\n[y]\nmodule = /nowhere.so\nactivate = 1\n",
    ],
    ids=["syntax", "variable", "restricts", "module"],
)
def test_a_configuration_that_does_not_work_is_named(tmp_path: Path, text: str) -> None:
    conf = tmp_path / "openssl.cnf"
    conf.write_text(text)
    told = run(REFUSED, conf=str(conf))
    assert str(conf) in told
    assert "correct it or unset OPENSSL_CONF" in told


def test_an_extension_that_can_not_be_read_is_told() -> None:
    code = "import os\nos.access = lambda path, mode: False\n" + REFUSED
    assert "can't be read, so OpenSSL can't load the provider" in run(code)


def test_a_default_configuration_that_would_be_passed_over_is_told(tmp_path: Path) -> None:
    conf = tmp_path / "openssl.cnf"
    conf.write_text("")
    code = f"""
import pathlib
from proxy.tls import provider
provider._own_default_conf = lambda: pathlib.Path({str(conf)!r})
"""
    told = run(code + REFUSED)
    assert f"{conf} is the default configuration" in told
    assert run(code + OURS + WORKS, conf=str(conf)) == "works"


def test_the_default_configuration_is_where_openssl_says() -> None:
    assert run(OURS + "print(provider._own_default_conf())").endswith("/openssl.cnf")


def test_a_shared_openssl_is_told() -> None:
    code = """
import ssl
from proxy.tls import provider
provider._answers = lambda: False
provider._load_stdlib_openssl(None)
def same(user):
    from OpenSSL import SSL
    ssl.OPENSSL_VERSION = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()
provider._import_wheel = same
"""
    assert "install the cryptography wheel from PyPI" in run(code + REFUSED)


def test_a_process_may_end_with_handshakes_put_aside() -> None:
    code = """
import warnings
warnings.simplefilter("ignore")
import greenlet
from OpenSSL import SSL
from tests.support.pki import issue, make_ca
from tests.support.pyopenssl import client_context, server_context
provider.set_upcall(lambda *wanted: greenlet.getcurrent().parent.switch(wanted))
context = server_context(issue(make_ca(), "site.example"), SSL.TLS1_3_VERSION)
waiting = []
for _ in range(20):
    server, client = SSL.Connection(context, None), SSL.Connection(client_context(), None)
    server.set_accept_state()
    client.set_connect_state()
    try:
        client.do_handshake()
    except SSL.WantReadError:
        server.bio_write(client.bio_read(1 << 16))
    inside = greenlet.greenlet(server.do_handshake)
    assert len(inside.switch()) == 3
    waiting.append(inside)
print("put aside")
"""
    assert run(OURS + code) == "put aside"
