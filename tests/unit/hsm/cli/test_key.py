"""`sealgate key` against a node in the same process."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from hsm.cli.key import key_app
from hsm.node.app import Node
from hsm.node.config import load_config
from tests.support import pki
from tests.support.node import NodeHome, make_home


class Shell:
    """Runs commands beside the event loop in which the node serves."""

    def __init__(self, home: NodeHome, config: Path) -> None:
        self.home, self.config = home, config

    async def run(self, *arguments: str, stdin: str | None = None) -> Result:
        command = [*arguments, "--config", str(self.config)]
        return await asyncio.to_thread(CliRunner().invoke, key_app, command, input=stdin)

    async def json(self, *arguments: str) -> dict[str, object]:
        result = await self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        found: dict[str, object] = json.loads(result.stdout)
        return found


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    home = make_home(tmp_path)
    config = home.write_config()
    node = Node(load_config(config), home.path)
    with capture_logs():  # the node's lines are not the commands' output
        await node.start()
        yield Shell(home, config)
        await node.stop()


async def test_a_key_is_made_listed_shown_and_destroyed(shell: Shell) -> None:
    made = await shell.json("generate", "www-new", "--type", "ed25519")
    assert made["type"] == "ed25519"
    shown = await shell.run("show", "www-new")
    assert f"ski:        {made['ski']}\n" in shown.stdout
    assert "last used:  never\n" in shown.stdout
    assert shown.stdout.endswith("-----END PUBLIC KEY-----\n")
    listed = await shell.run("list")
    for word in ("LABEL", "www-new", "ed25519", str(made["ski"])):
        assert word in listed.stdout
    assert "TOKEN" not in listed.stdout, "there is one only"
    gone = await shell.run("destroy", "www-new", "--yes", "--grace", "0")
    assert gone.stdout == f"destroyed www-new ({made['ski']})\n"
    assert "www-new" not in (await shell.run("list", "--json")).stdout


async def test_destruction_needs_yes_and_can_be_taken_back(shell: Shell) -> None:
    refused = await shell.run("destroy", "mail")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == (
        "'mail' would sign no more, and destroying it can't be undone after 7d; add --yes to do it\n"
    )
    assert "can't be undone at all" in (await shell.run("destroy", "mail", "--grace", "0")).stderr
    done = await shell.run("destroy", "mail", "--yes", "--grace", "12h")
    assert done.stdout.startswith("mail signs no more and is destroyed at 20")
    assert "`sealgate key activate` takes that back" in done.stdout
    assert "to be destroyed 20" in (await shell.run("list")).stdout
    assert (await shell.run("activate", "mail")).stdout == "mail is active\n"
    assert (await shell.json("show", "mail"))["destroy_at"] is None
    gone = await shell.json("destroy", "mail", "--yes", "--grace", "30m")
    assert gone["state"] == "destroying"


async def test_attributes_are_given_and_changed(shell: Shell) -> None:
    made = await shell.json(
        *("generate", "sign", "--purpose", "code-signing", "--inactive", "--max-rate", "2.5"),
        *("--scheme", "ecdsa_sha384", "--not-before", "2030-01-01", "--days-valid", "10"),
    )
    assert (made["state"], made["purpose"], made["max_rate"]) == ("inactive", "code-signing", 2.5)
    assert (made["not_before"], made["not_after"]) == ("2030-01-01T00:00:00Z", "2030-01-11T00:00:00Z")
    shown = (await shell.run("show", "sign")).stdout
    for line in ("schemes:     ecdsa_sha384", "rate:        at most 2.5 signatures/s by each node"):
        assert line in shown
    arguments = ("--scheme", "all", "--not-before", "none", "--not-after", "none", "--max-rate", "none")
    changed = await shell.json("set", "sign", "--purpose", "general", *arguments)
    assert changed["schemes"] == []
    assert {changed[name] for name in ("not_before", "not_after", "max_rate")} == {None}
    assert changed["purpose"] == "general"
    assert (await shell.run("retire", "sign")).stdout.startswith("sign is retired; `sealgate key activate`")
    assert (await shell.json("activate", "sign"))["state"] == "active"
    assert (await shell.json("retire", "sign"))["state"] == "retired"


async def test_a_key_is_rotated(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out.csr"
    done = await shell.run("rotate", "www-p256", "--name", "www.example", "--quiet", "90s", "--out", str(out))
    assert (done.exit_code, done.stdout) == (0, f"made  {out}\n")
    assert "made www-p256-2 (" in done.stderr
    assert "www-p256 retires 90s after its last use" in done.stderr
    x509.load_pem_x509_csr(out.read_bytes())
    assert "retires once www-p256-2 has taken over" in (await shell.run("list")).stdout
    again = await shell.json("rotate", "www-p256-2", "--name", "www.example")
    assert x509.load_pem_x509_csr(str(again["pem"]).encode()).is_signature_valid
    plain = await shell.run("rotate", "mail", "--name", "mail.example")
    assert x509.load_pem_x509_csr(plain.stdout.encode()).is_signature_valid, "nothing but the request is in a pipe"


async def test_every_command_speaks_json(shell: Shell, tmp_path: Path) -> None:
    pem = tmp_path / "a.key"
    pem.write_bytes(pki.make_ca("c").key_pem)
    for arguments in (
        ("generate", "a"), ("list",), ("show", "a"), ("csr", "a", "-n", "a.example"),
        ("self-sign", "a", "-n", "a.example"), ("import", "b", str(pem)), ("set", "a", "--max-rate", "5"),
        ("retire", "a"), ("activate", "a"), ("rotate", "a", "-n", "a.example"), ("destroy", "a", "--yes"),
    ):  # fmt: skip
        assert await shell.json(*arguments), arguments
    commands = {command.name or getattr(command.callback, "__name__", "") for command in key_app.registered_commands}
    walked = {"generate", "list", "show", "csr", "self-sign", "import", "set", "retire", "activate", "rotate"}
    assert commands == walked | {"destroy"}


async def test_certificates_go_to_a_file_or_to_standard_output(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out.pem"
    result = await shell.run("csr", "www-p256", "--name", "a.example", "--name", "b.example", "--out", str(out))
    assert (result.exit_code, result.stdout) == (0, f"made  {out}\n")
    names = x509.load_pem_x509_csr(out.read_bytes()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["a.example", "b.example"]
    result = await shell.run("self-sign", "www-p256", "--subject", "CN=a.example", "-n", "a.example", "--days", "2")
    assert x509.load_pem_x509_certificate(result.stdout.encode()).subject.rfc4514_string() == "CN=a.example"
    result = await shell.run("csr", "www-p256", "--name", "a.example", "--out", str(tmp_path / "no" / "x"))
    sentence = f"can't write {tmp_path}/no/x: there is no folder {tmp_path}/no; nothing was done\n"
    assert (result.exit_code, result.stderr) == (1, sentence)


async def test_nothing_is_made_where_its_certificate_request_has_no_place(shell: Shell, tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "no" / "x"):
        result = await shell.run("rotate", "mail", "--name", "mail.example", "--out", str(out))
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
        assert f"can't write {out}: " in result.stderr
    assert "mail-2" not in (await shell.run("list")).stdout


async def test_a_key_is_imported_from_file_standard_input_and_with_a_password(shell: Shell, tmp_path: Path) -> None:
    first, second = pki.make_ca("a").key, pki.make_ca("b").key
    plain = tmp_path / "a.key"
    plain.write_bytes(pki.make_ca("c").key_pem)
    assert (await shell.json("import", "from-file", str(plain)))["imported"] is True
    locked = first.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")).decode()
    (tmp_path / "locked.key").write_text(locked)
    (tmp_path / "password").write_text("hunter2\n")
    result = await shell.run(
        "import", "locked", str(tmp_path / "locked.key"), "--password-file", str(tmp_path / "password")
    )
    assert result.exit_code == 0, result.output
    assert "origin:     imported: copies may exist outside" in result.stdout
    result = await shell.run(
        "import", "piped", "-", stdin=pki.Issued(pki.make_ca("d").certificate, second).key_pem.decode()
    )
    assert result.exit_code == 0, result.output
    assert "imported" in (await shell.run("list")).stdout


async def test_a_wrong_password_is_one_sentence_without_it(shell: Shell, tmp_path: Path) -> None:
    key = pki.make_ca("a").key
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"right")).decode()
    (tmp_path / "locked.key").write_text(locked)
    result = await shell.run("import", "x", str(tmp_path / "locked.key"), "--ask-password", stdin="hunter2\n")
    assert result.exit_code == 1
    assert "hunter2" not in result.output
    none = await shell.run("import", "x", str(tmp_path / "locked.key"))
    sentence = f"the key in {tmp_path}/locked.key needs a password; give --password-file or --ask-password\n"
    assert (none.exit_code, none.stderr) == (1, sentence)
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "none"], "the vault has no key 'none'"),
        (["show", "a/../b?c#d"], "a/../b?c#d"),
        (["generate", "mail"], "exists already; choose another label"),
        (["generate", "a b"], "label"),
        (["csr", "mail"], "give at least one name"),
        (["self-sign", "mail", "-n", "a.example", "--days", "398"], "days must be 1 to 397 for a tls-server key"),
        (["generate", "x", "--scheme", "dsa"], "'dsa' is no scheme; choose from"),
        (["show", "mail", "--token", "hsm"], "this node has no token 'hsm'; it has vault"),
        (["rotate", "mail"], "give at least one name"),
        (["import", "x", "/nonexistent.pem"], "can't read /nonexistent.pem: No such file or directory"),
    ],
)
async def test_errors_are_one_clear_sentence(shell: Shell, arguments: list[str], message: str) -> None:
    result = await shell.run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["destroy", "mail", "--yes", "--grace", "1w"], "'1w' is no duration"),
        (["destroy", "mail", "--yes", "--grace", "4000d"], "--grace must be from 0s to 3650d, not 4000d"),
        (["rotate", "mail", "--quiet", "soon"], "--quiet: 'soon' is no duration"),
        (["rotate", "mail", "--quiet", "5s"], "--quiet must be from 15s to 365d, not 5s"),
        (["generate", "x", "--not-after", "2020-01-31"], "2020-01-31 00:00 UTC is past, so the key would not sign"),
        (["set", "x", "--not-before", "2020-01-01", "--days-valid", "9"], "2020-01-10 00:00 UTC is past, so the key"),
        (["generate", "x", "--not-after", "tomorrow"], "'tomorrow' is no time"),
        (["generate", "x", "--not-after", "2030-01-01", "--days-valid", "3"], "either --not-after or --days-valid"),
        (["generate", "x", "--max-rate", "inf"], "'inf' is no rate"),
        (["set", "mail"], "say what is to be changed"),
    ],
)
def test_what_is_typed_wrongly_is_told_before_a_node_is_asked(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(key_app, [*arguments, "--socket", "/nonexistent.sock"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_what_is_piped_in_must_be_text(tmp_path: Path) -> None:
    arguments = ["import", "x", "-", "--socket", str(tmp_path / "none")]
    result = CliRunner().invoke(key_app, arguments, input=b"\x30\x82\xff\xfe")
    assert (result.exit_code, result.stderr) == (1, "standard input is not text; give the PEM of a private key\n")


def test_without_a_node_it_is_said_who_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(key_app, ["list"])
    assert (result.exit_code, result.stderr) == (1, "which node? Give --socket PATH or --config node.toml\n")
    result = CliRunner().invoke(key_app, ["list", "--socket", "gone.sock"])
    assert (result.exit_code, result.stderr) == (1, "there is no socket gone.sock; is the node running?\n")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("dead.sock")
    result = CliRunner().invoke(key_app, ["list", "--socket", "dead.sock"])
    assert (result.exit_code, result.stderr) == (1, "nobody listens on dead.sock; is the node running?\n")
