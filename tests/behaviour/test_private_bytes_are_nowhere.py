"""No call of the API, no command, no log line and no file yields private bytes, whatever kind of key and token.

Routes and commands are enumerated from the programs themselves: a new one fails this test until it is walked, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import typer
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from structlog.testing import capture_logs

import hsm.node.app
from hsm.backends.vault.admin import VaultAdmin
from hsm.backends.vault.opening import open_store, unlock_from
from hsm.node.app import Node
from hsm.node.config import load_config
from hsm.node.unsealing import Unsealing
from hsm.wire.schemes import KeyFamily, KeyType, Scheme
from tests.support import tls_messages
from tests.support.estate import SLOW_IN_SOFTHSM, TYPES, Estate, make_key
from tests.support.node import Link, make_home
from tests.support.secret_search import Secrets, files_below, values_of
from tests.support.softhsm import SoftToken
from tests.support.vault_secrets import master_key_of

NOT_WALKED = {
    "proxy run": "holds no key: test_the_key_is_not_in_the_proxy reads its whole memory",
    "proxy check": "opens no token and no store",
    "status": "asks a proxy, which holds no key",
    "demo": "runs the programs that are walked here",
    "chaos": "runs the programs that are walked here",
    **dict.fromkeys(
        ("proxy node list", "proxy node enable", "proxy node drain", "proxy node disable"),
        "asks a proxy, which holds no key",
    ),
}
"""Commands that are not run here, and why."""
SCHEMES = {
    KeyFamily.RSA: (Scheme.RSA_PSS_SHA256, Scheme.RSA_PKCS1_SHA384),
    KeyFamily.EC: (Scheme.ECDSA_SHA256, Scheme.ECDSA_SHA512),
    KeyFamily.ED25519: (Scheme.ED25519,),
}


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    """After everything was done to it; the tests only look."""
    estate = Estate(tmp_path_factory.mktemp("estate")).make()
    try:
        estate.start()
        asyncio.run(_walk_routes(estate, "sealed", "/unseal", "/status", "/keys", "/{rest}"))
        _unseal(estate)
        estate.wait_until_ready()
        estate.import_keys()
        estate.generate_keys()
        _add_secrets_of_vault(estate)
        _walk_commands(estate)
        asyncio.run(_sign_with_everything(estate))
        asyncio.run(_walk_routes(estate, "open"))
        _read_operators_pages(estate)
        estate.look_at_processes()
        yield estate
    finally:
        estate.stop()


def _unseal(estate: Estate) -> None:
    where = ("--config", str(estate.config))
    first, second, third = (str(path) for path in estate.shares)
    estate.command("node", "unseal", "--status", *where)
    estate.command("node", "unseal", "--share-file", first, *where)
    estate.command("node", "unseal", "--forget", *where)
    wrong = estate.keep("wrong-share", Path(third).read_bytes()[::-1], is_secret=False)
    estate.command("node", "unseal", "--share-file", str(wrong), *where, status=1)
    estate.command("node", "unseal", "--share-file", third, "--json", *where)
    estate.command("node", "unseal", "--share-file", second, *where)


def _add_secrets_of_vault(estate: Estate) -> None:
    """Keys that were made inside the vault, and what all are encrypted under, as only its own code can read them."""
    passphrase, key_file = estate.kept / "passphrase", estate.home.key_file
    estate.secrets.add("master key", master_key_of(estate.place / "main.db", unlock_from(passphrase, None)))
    estate.secrets.add("master key of sim", master_key_of(estate.home.store, unlock_from(None, key_file)))
    store = open_store(estate.place / "main.db", passphrase_file=passphrase)
    admin = VaultAdmin(store)
    for record in admin.list():
        estate.secrets.add_key(record.label, admin._private(record.ski)[0])
    store.close()


# commands


def commands() -> set[str]:
    """Every command of the program."""
    from proxy.cli import app

    def leaves(command: Any, path: tuple[str, ...]) -> Iterator[str]:
        below = getattr(command, "commands", None)
        if below:
            for name, part in below.items():
                yield from leaves(part, (*path, name))
        else:
            yield " ".join(path)

    return set(leaves(typer.main.get_command(app), ()))


def _walk_commands(estate: Estate) -> None:
    """Each command that has to do with keys, on each token, for people and for programs."""
    where = ("--config", str(estate.config))
    for token, labels in estate.labels.items():
        of = ("--token", token, *where)
        estate.command("key", "list", *of)
        estate.command("key", "list", *of, "--json")
        for label in labels:
            form = ("--json",) if label.startswith("made-") else ()
            estate.command("key", "show", label, *of, *form)
            estate.command("key", "csr", label, "--name", "a.example", *of, *form)
            estate.command("key", "self-sign", label, "--name", "a.example", *of, *form)
            estate.command("key", "set", label, "--max-rate", "100000", *of, *form)
            estate.command("key", "retire", label, *of, *form)
            estate.command("key", "activate", label, *of, *form)
        rotated = f"made-{token}-p256"
        estate.command("key", "rotate", rotated, "--name", "a.example", *of)
        estate.command("key", "generate", f"gone-{token}", "--type", "ed25519", *of)
        estate.command("key", "destroy", f"gone-{token}", "--yes", "--grace", "1h", *of)
        estate.command("key", "destroy", f"gone-{token}", "--yes", "--grace", "0s", *of, "--json")
        pem = estate.kept / f"imported-{token}-rsa-2048.pem"
        estate.command("key", "import", "again", str(pem), *of, status=None)
        bad = estate.keep(f"bad-{token}.pem", pem.read_bytes().replace(b"M", b"N", 40), is_secret=False)
        estate.command("key", "import", "bad", str(bad), *of, status=1)
        locked = estate.kept / f"imported-{token}-rsa-3072.pem"
        estate.command("key", "import", "locked", str(locked), *of, status=1)
    for form in ((), ("--json",)):
        estate.command("node", "status", *where, *form)
        estate.command("node", "profiles", *form)
        estate.command("node", "reload", *where, *form)
        estate.command("node", "unseal", "--status", *where, *form)
        estate.command("node", "retry", "soft", *where, *form)
        estate.command("node", "fault", "set", "wrong-signature", *where, *form)
        estate.command("node", "fault", "list", *where, *form)
        estate.command("node", "fault", "clear", *where, *form)
    _walk_vaults(estate)
    _walk_certs(estate)
    _run_program(estate, "node", "check", *where)
    estate.outputs["sealgate node run"] = b"its log is one of the files"


def _walk_vaults(estate: Estate) -> None:
    for store in ("main.db", "shared.db"):
        estate.command("vault", "show", "--store", str(estate.place / store))
    wrapped = str(estate.place / "wrapped.db")
    estate.command("vault", "init", "--store", wrapped, "--wrapping-key", estate.wrapping_uri)
    key_file = estate.kept / "new.key"
    new = ("--key-file", str(key_file), "--generate")
    estate.command("vault", "rewrap", "--store", wrapped, "--old-wrapping-key", estate.wrapping_uri, *new)
    estate.secrets.add("new.key", key_file.read_bytes())
    wrong = ("--old-passphrase-file", str(estate.kept / "import-password"))
    new = ("--shares", "2/2", "--share-dir", str(estate.kept / "shares"))
    main = str(estate.place / "main.db")
    estate.command("vault", "rewrap", "--store", main, *wrong, *new, status=1)


def _walk_certs(estate: Estate) -> None:
    folder = estate.place / "pki"
    estate.command("certs", "dev", "--dir", str(folder), "--nodes", "1", "--key-type", "p256")
    request = estate.place / "request.pem"
    estate.command(
        "key", "csr", "made-soft-p384", "-n", "b.example", "-o", str(request), "--config", str(estate.config)
    )
    estate.command(
        *("certs", "sign", "--dir", str(folder), "--csr", str(request), "--out", str(estate.place / "signed.pem"))
    )


def _run_program(estate: Estate, *arguments: str) -> None:
    """A command that changes its own process: not in this one."""
    command = [sys.executable, "-m", "hsm", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    estate.outputs[f"sealgate {' '.join(arguments)}"] = done.stdout + done.stderr


# routes


def routes_of(app: web.Application) -> set[tuple[str, str]]:
    """Method and path of each."""
    found = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    return {(method, path) for method, path in found if method != "HEAD"}


async def _served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """What a node really serves, on whatever address."""
    apps: list[web.Application] = []
    real = hsm.node.app.serve

    async def serve(app: web.Application, *args: Any, **more: Any) -> Any:
        apps.append(app)
        return await real(app, *args, **more)

    monkeypatch.setattr(hsm.node.app, "serve", serve)
    home = make_home(folder)
    node = Node(load_config(home.write_config()), folder)
    with capture_logs():
        await node.start()
        await node.stop()
    apps.append(Unsealing().app(node.status))
    assert len(apps) == 3, "the operators' page, the management socket, and that of a sealed node"
    return {route for app in apps for route in routes_of(app)}


def requests(estate: Estate) -> dict[tuple[str, str], list[tuple[str, Any]]]:
    """Paths and bodies to send, by route."""
    labels = [f"{label}?token={token}" for token, found in estate.labels.items() for label in found]
    names = {"names": ["c.example"]}
    pem = estate.kept / "imported-vault-p256.pem"
    secret = pem.read_text() if pem.exists() else "-"

    def each(more: str = "", body: Any = None, of: str = "imported-") -> list[tuple[str, Any]]:
        return [(f"/keys/{label.replace('?', f'{more}?')}", body) for label in labels if label.startswith(of)]

    def some(more: str, body: Any = None) -> list[tuple[str, Any]]:
        """Of an EC and an RSA key; commands ask the same of all kinds."""
        return [(path, body) for path, _ in each(more) if "p256" in path or "rsa-2048" in path]

    faults = [("/tokens/sim/faults", None), ("/tokens/soft/faults", None)]
    return {
        ("GET", "/status"): [("/status", None)],
        ("GET", "/keys"): [("/keys", None), ("/keys?token=soft", None), ("/keys?token=nix", None)],
        ("POST", "/keys"): [
            *(("/keys", {"type": "p256", "label": f"more-{token}", "token": token}) for token in estate.labels),
            ("/keys", {"type": "p257", "label": "x"}),
        ],
        ("POST", "/keys/import"): [
            ("/keys/import", {"pem": secret, "label": "twice", "token": "vault"}),
            ("/keys/import", {"pem": secret[:90], "label": "half", "token": "soft"}),
            ("/keys/import", {"pem": secret, "label": 7}),
            ("/keys/import", {"pem": [secret], "label": "x", "password": secret}),
        ],
        ("GET", "/keys/{key}"): [*each(), ("/keys/nix", None)],
        ("PATCH", "/keys/{key}"): some("", {"max_rate": 90_000.0}),
        ("POST", "/keys/{key}/csr"): some("/csr", names),
        ("POST", "/keys/{key}/self-sign"): some("/self-sign", names),
        ("POST", "/keys/{key}/activate"): some("/activate"),
        ("POST", "/keys/{key}/retire"): some("/retire"),
        ("POST", "/keys/{key}/rotate"): [(f"/keys/made-{token}-p384/rotate", names) for token in estate.labels],
        ("POST", "/keys/{key}/destroy"): each("/destroy", {"grace_s": 3600}, of="made-"),
        ("GET", "/faults"): [("/faults", None)],
        ("GET", "/tokens/{token}/faults"): faults,
        ("POST", "/tokens/{token}/faults"): [(path, {"kind": "slow", "factor": 1}) for path, _ in faults],
        ("DELETE", "/tokens/{token}/faults"): faults,
        ("POST", "/tokens/{token}/retry"): [(f"/tokens/{token}/retry", None) for token in ("vault", "soft", "nix")],
        ("GET", "/unseal"): [("/unseal", None)],
        ("POST", "/unseal"): [("/unseal", {"share": "x" * 100}), ("/unseal", {"share": ["a"]})],
        ("DELETE", "/unseal"): [("/unseal", None)],
        ("POST", "/reload"): [("/reload", None)],
        ("*", "/{rest}"): [("/keys/x/export", None), ("/private", None)],
        # The operators' page; see `_read_operators_pages`.
        ("GET", "/metrics"): [],
        ("GET", "/healthz"): [],
        ("GET", "/readyz"): [],
    }


async def _walk_routes(estate: Estate, when: str, *only: str) -> None:
    connector = aiohttp.UnixConnector(path=str(estate.place / "node-1.sock"))
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        for (method, route), wanted in requests(estate).items():
            for path, body in wanted if not only or route in only else ():
                verb = "GET" if method == "*" else method
                async with session.request(verb, f"http://node{path}", json=body) as response:
                    name = f"{when}: {method} {path} {sorted(body) if body else ''}"
                    head = f"{response.status} {response.headers!r}\n".encode()
                    estate.outputs[name] = estate.outputs.get(name, b"") + head + await response.read()
                    assert response.status != 500, (name, await response.text())


def _read_operators_pages(estate: Estate) -> None:
    for path in ("/metrics", "/healthz", "/readyz"):
        with urllib.request.urlopen(f"http://{estate.ready['ops']}{path}", timeout=10) as answer:
            estate.outputs[path] = answer.read()


async def _sign_with_everything(estate: Estate) -> None:
    """Good requests, refused ones and wrong ones, so that each has left its lines in the log."""
    link = await Link.open(estate.ready["address"], estate.home.identity("proxy"))
    listed = await link.greet()
    estate.outputs["the list of keys"] = repr(listed).encode()
    signed = 0
    for entry in listed.keys:  # type: ignore[attr-defined]
        for scheme in SCHEMES[entry.type.family]:
            for message, is_whole in ((tls_messages.certificate_verify(), True), (b"anything", True), (b"any", False)):
                answer = await link.ask(entry.ski, scheme, message, is_whole=is_whole)
                estate.outputs[f"{entry.label} {scheme.value} {message!r}"] = repr(answer).encode()
                signed += type(answer).__name__ == "Signed"
    assert signed >= 2 * len(TYPES)
    await link.close()


# what must hold


async def test_every_route_was_walked(estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _served(tmp_path, monkeypatch) == set(requests(estate))


def test_every_command_was_walked(estate: Estate) -> None:
    walked = {name for name in commands() if any(f"{said} ".startswith(f"sealgate {name} ") for said in estate.outputs)}
    assert walked | set(NOT_WALKED) == commands()
    assert not walked & set(NOT_WALKED)


def test_every_kind_of_key_was_there(estate: Estate) -> None:
    for token, labels in estate.labels.items():
        wanted = {f"imported-{token}-{type_.value}" for type_ in TYPES}
        wanted |= {f"made-{token}-{type_.value}" for type_ in TYPES if token == "vault" or type_ not in SLOW_IN_SOFTHSM}
        assert set(labels) == wanted
    assert len(estate.secrets.names) > 60


def test_nothing_that_was_said_holds_a_secret(estate: Estate) -> None:
    assert len(estate.outputs) > 400
    found = {name: leaks for name, said in estate.outputs.items() if (leaks := estate.secrets.found_in(said))}
    assert found == {}


def test_no_file_holds_a_secret_but_those_that_are_meant_to(estate: Estate) -> None:
    meant = frozenset((estate.home.key_file,))
    looked_at = {path.name for path, _ in files_below(estate.place, meant)}
    assert {"main.db", "main.db-wal", "shared.db", "node.log", "node-1.toml", "soft.book", "signed.pem"} <= looked_at
    found = {path: leaks for path, data in files_below(estate.place, meant) if (leaks := estate.secrets.found_in(data))}
    assert found == {}


def test_the_log_was_as_talkative_as_can_be(estate: Estate) -> None:
    log = (estate.place / "node.log").read_text()
    for event in ("node_ready", "not_an_hsm", "request_denied", "management_done", "management_refused"):
        assert f'"{event}"' in log, event


@pytest.mark.parametrize("type_", TYPES)
def test_the_search_finds_what_it_looks_for(type_: KeyType) -> None:
    key = make_key(type_)
    secrets = Secrets()
    secrets.add_key("key", key)
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    value = next(iter(values_of(key).values()))
    dump = ":".join(f"{byte:02x}" for byte in value)
    in_json = repr(pem.decode()).encode()
    for leak in (der, pem, in_json, dump.encode(), value[2:-2] + b"...", str(int.from_bytes(value, "big")).encode()):
        assert secrets.found_in(b"before" + leak + b"after"), leak
    public = key.public_key()
    assert not secrets.found_in(repr(public).encode() + bytes(range(256)) * 100)


def test_the_files_that_hold_secrets_are_found(estate: Estate) -> None:
    for name in ("pin", "passphrase", "import-password"):
        assert any(found.startswith(name) for found in estate.secrets.found_in((estate.kept / name).read_bytes()))
    for path in estate.shares:
        assert any(found.startswith(path.name) for found in estate.secrets.found_in(path.read_bytes()))


# what the token itself says

_ASK = """
import json, sys
from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11.cryptoki import Cryptoki
library = Cryptoki(sys.argv[1])
library.initialize()
pin = sys.stdin.readline().strip().encode()
answers = {}
for slot in library.slots():
    if bytes(library.token_info(slot).label).rstrip() != sys.argv[2].encode():
        continue
    session = library.open_session(slot)
    library.login(session, pin)
    secret = (c.CKA_VALUE, c.CKA_PRIVATE_EXPONENT, c.CKA_PRIME_1, c.CKA_PRIME_2, c.CKA_EXPONENT_1, c.CKA_EXPONENT_2,
              c.CKA_COEFFICIENT)
    flags = {"sensitive": c.CKA_SENSITIVE, "extractable": c.CKA_EXTRACTABLE, "never": c.CKA_NEVER_EXTRACTABLE,
             "always": c.CKA_ALWAYS_SENSITIVE, "sign": c.CKA_SIGN, "decrypt": c.CKA_DECRYPT, "unwrap": c.CKA_UNWRAP,
             "derive": c.CKA_DERIVE}
    for key in library.find(session, {c.CKA_CLASS: c.CKO_PRIVATE_KEY}):
        told = library.attributes(session, key, [c.CKA_LABEL, *flags.values()])
        given = library.attributes(session, key, secret)
        answers[told[c.CKA_LABEL].decode()] = {
            "given": [kind for kind, value in given.items() if value],
            **{name: bool(told.get(kind, b"\\0")[0]) for name, kind in flags.items()},
        }
print(json.dumps(answers))
"""


def test_the_token_gives_no_private_value_to_whoever_has_the_pin(estate: Estate) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ASK, estate.soft.module, estate.soft.label],
        input=(estate.kept / "pin").read_bytes(),
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, **estate.soft.environment},
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert set(estate.labels["soft"]) <= set(answers)
    for label in answers:
        told = answers[label]
        assert told["given"] == [], f"{label} gives private values"
        assert (told["sensitive"], told["extractable"], told["sign"]) == (True, False, True), label
        assert (told["decrypt"], told["unwrap"], told["derive"]) == (False, False, False), label
        if label.startswith("made-"):
            assert (told["never"], told["always"]) == (True, True), f"{label} was outside of the token once"


def test_a_pin_of_the_environment_stays_in_the_node(tmp_path: Path) -> None:
    home = make_home(tmp_path, ())
    token = SoftToken(tmp_path / "softhsm", pin=os.urandom(10).hex()).init()
    secrets = Secrets()
    secrets.add("PIN", token.pin.encode())
    tokens = (
        f'[[tokens]]\nname = "soft"\ntype = "pkcs11"\nuri = "{token.uri}"\npin_env = "ESTATE_PIN"\n'
        f'environment = {{ SOFTHSM2_CONF = "{token.config}" }}\n'
    )
    config = home.write_config(extra='[log]\nlevel = "debug"\n', tokens=tokens)
    command = [sys.executable, "-m", "hsm", "node", "run", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "ESTATE_PIN": token.pin}) as node:
        try:
            assert node.stderr is not None
            log = b""
            while b'"node_ready"' not in log:
                line = node.stderr.readline()
                assert line, log
                log += line
            (worker,) = psutil.Process(node.pid).children(recursive=True)
            at = Path(f"/proc/{worker.pid}")
            said = {"cmdline": (at / "cmdline").read_bytes()}
            if os.geteuid() == 0:
                said["environ"] = (at / "environ").read_bytes()
                assert b"SOFTHSM2_CONF" in said["environ"]
            else:
                with pytest.raises(PermissionError):  # nobody but root may look
                    (at / "environ").read_bytes()
        finally:
            node.terminate()
            node.wait(20)
    assert {name: found for name, data in said.items() if (found := secrets.found_in(data))} == {}
    assert not secrets.found_in(log)
    assert not any(secrets.found_in(data) for _, data in files_below(tmp_path, frozenset()))
