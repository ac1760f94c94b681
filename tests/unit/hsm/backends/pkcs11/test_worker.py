"""The worker as a program, on real SoftHSM2 tokens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509 import SubjectKeyIdentifier

from hsm.backends.pkcs11 import worker as worker_module
from hsm.backends.pkcs11.framing import frame
from hsm.backends.pkcs11.messages import (
    Destroy,
    Done,
    Failed,
    FoundKey,
    Generate,
    KeysFound,
    ListKeys,
    Mac,
    ObjectMatch,
    Opened,
    Ping,
    Sign,
    Signed,
    TokenMatch,
)
from hsm.wire.schemes import KeyFamily, KeyType, Scheme
from tests.support.softhsm import SoftToken
from tests.support.token_worker import ROOT, TokenWorker, expect

TYPES = [type_ for type_ in KeyType if type_ is not KeyType.RSA_OTHER]
DEAR = {KeyType.RSA_3072: 3072, KeyType.RSA_4096: 4096}
"""SoftHSM takes many seconds to generate these; they are imported."""
HASHES: dict[str, HashAlgorithm] = {"sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}
MESSAGE = b"what a TLS server signs"


def verify(key: FoundKey, scheme: Scheme, signature: bytes, message: bytes = MESSAGE) -> None:
    public = load_der_public_key(key.public_key)
    if isinstance(public, Ed25519PublicKey):
        return public.verify(signature, message)
    algorithm = HASHES[str(scheme.digest)]
    if isinstance(public, EllipticCurvePublicKey):
        return public.verify(signature, message, ECDSA(algorithm))
    assert isinstance(public, RSAPublicKey)
    pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH)
    return public.verify(signature, message, pss if scheme.is_pss else padding.PKCS1v15(), algorithm)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    return SoftToken(tmp_path_factory.mktemp("token")).init()


@pytest.fixture(scope="module")
def worker(token: SoftToken) -> Iterator[TokenWorker]:
    """A worker with three sessions and a key of each type."""
    with TokenWorker(token) as running:
        running.open(sessions=3)
        for type_ in TYPES:
            if type_ not in DEAR:
                running.generate(type_, f"of-{type_.value}")
        for type_, bits in DEAR.items():
            running.import_key(generate_private_key(65537, bits), f"of-{type_.value}")
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Iterator[TokenWorker]:
    """A worker on an empty token of its own, not opened."""
    with TokenWorker(SoftToken(tmp_path / "own").init()) as running:
        yield running


def keys_of(worker: TokenWorker) -> dict[str, FoundKey]:
    found = expect(worker.ask(ListKeys(id=worker.next_id())), KeysFound)
    return {key.label: key for key in found.keys}


@pytest.mark.parametrize("type_", TYPES)
def test_every_type_signs_with_every_scheme_of_its_family(worker: TokenWorker, type_: KeyType) -> None:
    key = keys_of(worker)[f"of-{type_.value}"]
    assert key.type is type_
    for scheme in Scheme:
        request = Sign(id=worker.next_id(), key=key.ski, scheme=str(scheme.value), payload=scheme.payload_of(MESSAGE))
        answer = worker.ask(request)
        if scheme.family is type_.family:
            verify(key, scheme, expect(answer, Signed).signature)
        else:
            assert expect(answer, Failed).kind == "invalid"


def test_keys_are_named_by_their_ski_and_generated_ones_are_the_tokens_own(worker: TokenWorker) -> None:
    for type_ in TYPES:
        key = keys_of(worker)[f"of-{type_.value}"]
        public = load_der_public_key(key.public_key)
        assert key.ski == SubjectKeyIdentifier.from_public_key(public).digest  # type: ignore[arg-type]
        assert key.id == key.ski
        assert key.is_local is (type_ not in DEAR)
        assert not key.is_extractable


def test_opening_tells_the_token_and_its_keys(worker: TokenWorker, token: SoftToken) -> None:
    with TokenWorker(token) as other:
        opened = other.open(sessions=1)
        assert {key.label for key in opened.keys} >= {f"of-{type_.value}" for type_ in TYPES}
        assert opened.token == token.label
        assert len(opened.serial) == 16
        assert opened.library == "Implementation of PKCS11 2.6 (PKCS#11 2.40)"
        assert opened.left_out == ()


def test_wrong_requests_get_one_answer_each(worker: TokenWorker) -> None:
    key = keys_of(worker)["of-p256"]
    wrong = {
        "is no signature scheme": Sign(id=worker.next_id(), key=key.ski, scheme="md5", payload=bytes(32)),
        "signs 32 bytes": Sign(id=worker.next_id(), key=key.ski, scheme="ecdsa_sha256", payload=bytes(33)),
        "already": Generate(id=worker.next_id(), type=KeyType.P256, label="of-p256"),
        "can't be generated": Generate(id=worker.next_id(), type=KeyType.RSA_OTHER, label="new"),
        "a label has": Generate(id=worker.next_id(), type=KeyType.P256, label=""),
        "printable": Generate(id=worker.next_id(), type=KeyType.P256, label="a\nb"),
        "the token has no key": Destroy(id=worker.next_id(), key=b"?" * 20),
        "no secret key": Mac(id=worker.next_id(), label="none", data=b""),
    }
    for says, request in wrong.items():
        failed = expect(worker.ask(request), Failed)
        assert failed.kind == "invalid"
        assert says in failed.detail


def test_a_key_that_is_not_there_is_gone_and_not_a_wrong_request(worker: TokenWorker) -> None:
    """Others may have it: a node is not to blame for a key that somebody took away."""
    failed = expect(
        worker.ask(Sign(id=worker.next_id(), key=b"?" * 20, scheme="ecdsa_sha256", payload=bytes(32))), Failed
    )
    assert failed.kind == "key_gone"
    assert "has no key" in failed.detail


def test_a_key_generated_elsewhere_is_listed_and_signs(worker: TokenWorker, token: SoftToken) -> None:
    with TokenWorker(token) as owner:
        owner.open()
        made = owner.generate(KeyType.P256, "made-elsewhere")
    assert keys_of(worker)["made-elsewhere"] == made
    digest = Scheme.ECDSA_SHA384.payload_of(MESSAGE)
    verify(made, Scheme.ECDSA_SHA384, worker.sign(made.ski, "ecdsa_sha384", digest))
    with TokenWorker(token) as owner:
        owner.open()
        assert owner.ask(Destroy(id=owner.next_id(), key=made.ski)) == Done(id=2)
    failed = expect(worker.ask(Sign(id=worker.next_id(), key=made.ski, scheme="ecdsa_sha384", payload=digest)), Failed)
    assert failed.kind == "key_gone"
    assert "made-elsewhere" not in keys_of(worker)


def test_destroying_leaves_nothing_and_touches_nothing_else(own: TokenWorker) -> None:
    own.open(sessions=1)
    web, api = own.generate(KeyType.P256, "web"), own.generate(KeyType.RSA_2048, "api")
    assert own.ask(Destroy(id=own.next_id(), key=web.ski)) == Done(id=4)
    assert keys_of(own) == {"api": api}
    assert expect(own.ask(Destroy(id=own.next_id(), key=web.ski)), Failed).kind == "invalid"
    # Only the two objects of the other pair are left in the token's folder.
    assert len(list(own.token.folder.glob("tokens/*/*.object"))) == 3  # the token itself is one


def test_macs_come_from_a_key_that_is_made_once(own: TokenWorker) -> None:
    own.open()
    first = expect(own.ask(Mac(id=own.next_id(), label="wrap", data=b"data", make=True)), Signed).signature
    again = expect(own.ask(Mac(id=own.next_id(), label="wrap", data=b"data", make=True)), Signed).signature
    used = expect(own.ask(Mac(id=own.next_id(), label="wrap", data=b"data")), Signed).signature
    other = expect(own.ask(Mac(id=own.next_id(), label="wrap", data=b"Data")), Signed).signature
    assert first == again == used != other
    assert len(first) == 32
    assert keys_of(own) == {}


def test_the_objects_that_a_uri_names_are_all_that_is_there(worker: TokenWorker, token: SoftToken) -> None:
    with TokenWorker(token) as narrow:
        opened = expect(narrow.open_as(objects=ObjectMatch(label="of-p384"), sessions=1), Opened)
        assert [key.label for key in opened.keys] == ["of-p384"]
        p256 = keys_of(worker)["of-p256"]
        request = Sign(id=narrow.next_id(), key=p256.ski, scheme="ecdsa_sha256", payload=bytes(32))
        assert expect(narrow.ask(request), Failed).kind == "key_gone"


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"pin": b"00000000"}, "pin_refused", "the PIN is wrong; it is not tried again"),
        ({"pin": b"1"}, "pin_refused", "PIN"),
        ({"pin": None}, "pin_refused", "none is configured"),
        ({"token": TokenMatch(token="other")}, "token_gone", 'it has "sealgate-test"'),
        ({"module": "/nowhere/lib.so"}, "unfit", "does not exist"),
        ({"module": "lib.so"}, "unfit", "absolute path"),
        ({"module": "/etc/passwd"}, "unfit", "can't be loaded"),
        ({"module": "/lib/x86_64-linux-gnu/libc.so.6"}, "unfit", "no C_GetFunctionList"),
    ],
)
def test_a_token_that_can_not_be_opened(own: TokenWorker, changes: dict[str, object], kind: str, says: str) -> None:
    if str(changes.get("module", "")).endswith("libc.so.6") and not Path(str(changes["module"])).exists():
        pytest.skip("another place for libc")
    failed = expect(own.open_as(**changes), Failed)
    assert failed.kind == kind
    assert says in failed.detail
    assert "00000000" not in failed.detail
    assert own.ask(Ping(id=own.next_id())) == Done(id=2)


def test_nothing_works_before_opening_and_opening_works_once(own: TokenWorker) -> None:
    for request in (
        Sign(id=own.next_id(), key=b"", scheme="ed25519", payload=b""),
        ListKeys(id=own.next_id()),
        Generate(id=own.next_id(), type=KeyType.P256, label="web"),
    ):
        assert "not open" in expect(own.ask(request), Failed).detail
    own.open()
    assert "opened before" in expect(own.open_as(), Failed).detail
    assert (
        "not open for signatures"
        in expect(own.ask(Sign(id=own.next_id(), key=b"", scheme="ed25519", payload=b"")), Failed).detail
    )


def test_pings_are_answered_while_a_key_is_generated(worker: TokenWorker) -> None:
    """And signatures are made: generation has a session of its own."""
    key = keys_of(worker)["of-p256"]
    slow = Generate(id=worker.next_id(), type=KeyType.RSA_3072, label="slow")
    quick = [
        Ping(id=worker.next_id()),
        Sign(id=worker.next_id(), key=key.ski, scheme="ecdsa_sha256", payload=bytes(32)),
    ]
    worker.send(slow, *quick)
    order = [worker.receive().id for _ in range(3)]
    assert order[-1] == slow.id


def test_the_worker_ends_when_the_node_hangs_up(own: TokenWorker) -> None:
    own.open(sessions=4)
    own.socket.close()
    assert own.process.wait(10) == 0


def test_what_is_no_frame_ends_the_worker(own: TokenWorker) -> None:
    own.socket.sendall(b"\xff" * 64)
    assert own.process.wait(10) == 0


def test_the_worker_dies_with_its_parent() -> None:
    ping = frame(Ping(id=1)).hex()  # once it is answered, the worker has settled in
    parent = (
        "import os, socket, subprocess, sys, time\n"
        "a, b = socket.socketpair()\n"
        "command = [sys.executable, '-m', 'hsm.backends.pkcs11.worker', str(b.fileno())]\n"
        "p = subprocess.Popen(command, pass_fds=[b.fileno()])\n"
        f"a.sendall(bytes.fromhex('{ping}'))\n"
        "a.settimeout(20)\n"
        "a.recv(100)\n"
        # A third process keeps the socket open, so that only the parent's death can be what ends the worker.
        "q = subprocess.Popen(['sleep', '60'], pass_fds=[a.fileno()])\n"
        "print(p.pid, q.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    worker_pid, keeper = map(int, run.stdout.readline().split())
    try:
        assert psutil.pid_exists(worker_pid)
        run.kill()
        run.wait(10)
        deadline = time.monotonic() + 10
        while psutil.pid_exists(worker_pid) and psutil.Process(worker_pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "the worker outlived its parent"
            time.sleep(0.01)
    finally:
        run.stdout.close()
        os.kill(keeper, signal.SIGKILL)


def test_the_process_keeps_its_memory_and_shows_no_pin(worker: TokenWorker, token: SoftToken) -> None:
    process = psutil.Process(worker.process.pid)
    assert process.name() == "sealgate-token"
    assert token.pin not in " ".join(process.cmdline())
    assert Path(f"/proc/{process.pid}/mem").stat().st_uid == 0  # not dumpable: root's, whoever runs it
    limits = Path(f"/proc/{process.pid}/limits")
    if os.access(limits, os.R_OK):
        (core,) = [line for line in limits.read_text().splitlines() if line.startswith("Max core file size")]
        assert core.split()[4:6] == ["0", "0"]


def test_a_library_that_kills_its_process_kills_nothing_else(own: TokenWorker) -> None:
    own.open(sessions=1)
    own.process.send_signal(signal.SIGSEGV)
    assert own.process.wait(10) == -signal.SIGSEGV
    assert own.socket.recv(100) == b""


@pytest.mark.parametrize("arguments", [[], ["x"], ["3", "4"], ["-1"]])
def test_people_are_told_that_it_is_not_for_them(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "hsm.backends.pkcs11.worker", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert run.returncode == 2
    assert run.stderr.startswith("usage: ")


def test_a_number_that_is_no_socket() -> None:
    command = [sys.executable, "-m", "hsm.backends.pkcs11.worker", "99"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (run.returncode, run.stderr) == (2, "the token worker got no socket: Bad file descriptor\n")


def test_programs_that_a_library_starts_do_not_get_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)  # as it comes from the node
    served: list[socket.socket] = []
    monkeypatch.setattr(worker_module, "_settle_in", lambda: None)
    monkeypatch.setattr(worker_module, "serve", served.append)
    assert worker_module.main([str(theirs.detach())]) == 0
    with ours, served[0] as connection:
        assert not connection.get_inheritable()


def test_nothing_is_printed(tmp_path: Path) -> None:
    running = TokenWorker(SoftToken(tmp_path / "own").init())
    with running:
        running.open(sessions=2)
        key = running.generate(KeyType.P256, "web")
        running.sign(key.ski, "ecdsa_sha256", bytes(32))
    assert running.stderr == ""


def test_more_requests_than_sessions_are_all_answered(worker: TokenWorker) -> None:
    keys = keys_of(worker)
    chosen = [keys["of-p256"], keys["of-rsa-2048"], keys["of-ed25519"]]
    scheme_of = {
        KeyFamily.EC: Scheme.ECDSA_SHA256,
        KeyFamily.RSA: Scheme.RSA_PSS_SHA256,
        KeyFamily.ED25519: Scheme.ED25519,
    }
    asked = {}
    for number in range(300):
        key = chosen[number % 3]
        scheme = scheme_of[key.type.family]
        message = b"message %d" % number
        request = Sign(id=worker.next_id(), key=key.ski, scheme=str(scheme.value), payload=scheme.payload_of(message))
        asked[request.id] = (request, key, scheme, message)
    answers = worker.sign_all((request for request, *_ in asked.values()), in_flight=300)
    assert answers.keys() == asked.keys()
    for number, answer in answers.items():
        _, key, scheme, message = asked[number]
        verify(key, scheme, expect(answer, Signed).signature, message)


def test_keys_come_and_go_while_others_sign(own: TokenWorker) -> None:
    own.open(sessions=4)
    key = own.generate(KeyType.P256, "signs")
    digest = Scheme.ECDSA_SHA256.payload_of(MESSAGE)
    signatures = [Sign(id=own.next_id(), key=key.ski, scheme="ecdsa_sha256", payload=digest) for _ in range(1500)]
    changes = [Generate(id=own.next_id(), type=KeyType.P256, label=f"new-{number}") for number in range(15)]
    lists = [ListKeys(id=own.next_id()) for _ in range(15)]
    mixed = [request for pair in zip(changes, lists, strict=True) for request in pair]
    for number, request in enumerate(mixed):
        own.send(*signatures[number * 50 : number * 50 + 50], request)
    answers = {answer.id: answer for answer in (own.receive() for _ in range(len(signatures) + len(mixed)))}
    assert len(answers) == len(signatures) + len(mixed)
    for request in signatures:
        verify(key, Scheme.ECDSA_SHA256, expect(answers[request.id], Signed).signature)
    for number, listing in enumerate(lists):
        assert len(expect(answers[listing.id], KeysFound).keys) == number + 2
