from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy import __version__
from tests.support import pki
from tests.support.fake_node import LinkPki
from tests.support.proxy_toml import toml

ROOT = Path(__file__).parents[3]


def sealgate(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        **options,
    )


def good_config(folder: Path) -> Path:
    LinkPki.make(folder)
    issued = pki.issue(pki.make_ca(), "a.test")
    pki.write_chain(folder / "a.pem", issued)
    path = folder / "proxy.toml"
    path.write_text(toml())
    return path


def test_help_is_quick_and_lists_every_program() -> None:
    best = float("inf")
    for _ in range(3):
        before = time.monotonic()
        shown = sealgate("--help")
        best = min(best, time.monotonic() - before)
    assert shown.returncode == 0
    for name in ("proxy", "node", "vault", "key", "certs", "demo", "status"):
        assert name in shown.stdout
    assert best < 2.0  # about 0.25 s on an idle machine


def test_mounting_the_commands_does_not_load_cryptography() -> None:
    code = (
        "import sys, proxy.cli; "
        "heavy = {'cryptography', 'OpenSSL', 'aiohttp', 'uvloop', 'prometheus_client'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_version_is_that_of_the_project() -> None:
    assert sealgate("--version").stdout == f"sealgate {__version__}\n"
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_check_says_what_a_good_config_has(tmp_path: Path) -> None:
    path = good_config(tmp_path)
    text = path.read_text()
    path.write_text(f'{text}\n[[discovery]]\nname = "hsm"\nrecord = "hsm.test"\nport = 2407\n')
    checked = sealgate("proxy", "check", "--config", str(path))
    assert checked.returncode == 0, checked.stderr
    expected = f"{path}: ok: 1 sites with 1 keys, 1 listeners, 1 upstreams, 2 nodes, 1 discovery sources\n"
    assert checked.stdout == expected


def test_check_prints_everything_that_is_wrong(tmp_path: Path) -> None:
    path = good_config(tmp_path)
    (tmp_path / "a.pem").write_text("nonsense")
    (tmp_path / "proxy.key").unlink()
    checked = sealgate("proxy", "check", "--config", str(path))
    assert checked.returncode == 1
    assert f"signing.private_key: {tmp_path / 'proxy.key'}: no such file" in checked.stderr
    assert "a.pem" in checked.stderr
    assert checked.stderr.endswith("2 problems found\n")
    assert "Traceback" not in checked.stderr


@pytest.mark.parametrize("command", [("proxy", "run"), ("proxy", "check")])
def test_a_bad_config_is_one_clear_message(tmp_path: Path, command: tuple[str, str]) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(toml(tls="ticket = 2"))
    failed = sealgate(*command, "--config", str(path))
    assert failed.returncode == 1
    line = 1 + path.read_text().splitlines().index("ticket = 2")
    assert f"{path}:{line}: tls.ticket: unknown key; did you mean 'tickets'?" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    failed = sealgate("proxy", "run", "--config", str(tmp_path / "no.toml"))
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == f"{tmp_path / 'no.toml'}: can't be read: No such file or directory; " + (
        "check the path and its permissions\n"
    )


def test_status_of_nobody_is_one_sentence() -> None:
    failed = sealgate("status", "--url", "http://127.0.0.1:1")
    assert failed.returncode == 1
    assert failed.stderr == "http://127.0.0.1:1: no proxy answers: [Errno 111] Connection refused; is it running?\n"


def test_a_defect_is_one_line_unless_asked(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['sealgate', 'status'];"
        "import proxy.run.status as status;"
        "status.fetch_status = lambda url: 1 / 0;"
        "from proxy.cli import main; main()"
    )
    run = [sys.executable, "-c", code]
    failed = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert failed.returncode == 1
    assert failed.stderr == (
        "sealgate: internal error: ZeroDivisionError: division by zero (SEALGATE_DEBUG=1 shows where)\n"
    )


def test_wrong_usage_says_what_is_right() -> None:
    failed = sealgate("proxy", "runn")
    assert failed.returncode == 2
    assert "run" in failed.stderr


def test_status_shows_tables_or_json(tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    import msgspec

    from proxy.run.control import status
    from tests.support.reports import master_report, worker_report

    body = msgspec.json.encode(status(master_report(), [worker_report("worker-0", 11, nodes={"n1": "up"})]))

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        tables = sealgate("status", "--url", url)
        as_json = sealgate("status", "--url", url, "--json")
        server.shutdown()
    assert (tables.returncode, as_json.returncode) == (0, 0)
    assert "sealgate 0.1.0: ready" in tables.stdout
    assert "worker-0" in tables.stdout
    assert "n1" in tables.stdout
    assert json.loads(as_json.stdout)["nodes"][0]["name"] == "n1"


@pytest.mark.parametrize(("command", "default"), [("demo", "8443"), ("chaos", "a temporary one"), ("status", ":9443")])
def test_help_shows_defaults_that_are_words(command: str, default: str) -> None:
    """Brackets in a help text are markup unless they are escaped, and would swallow them."""
    shown = " ".join(sealgate(command, "--help", env={**os.environ, "COLUMNS": "160"}).stdout.split())
    assert re.search(rf"\[default: [^\]]*{default}", shown)
