from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from hsm.backends.pkcs11.pin import PinCredential, PinFile, PinProblem, PinPrompt, PinVariable, source_of_uri

ROOT = Path(__file__).parents[5]
PIN = "93847561"


def private(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("data", [b"93847561", b"93847561\n", b"93847561\r\nmore\n"])
def test_the_first_line_of_a_private_file(tmp_path: Path, data: bytes) -> None:
    secret = PinFile(private(tmp_path / "pin", data)).read()
    assert secret.reveal() == PIN.encode()
    assert PIN not in f"{secret!r}{secret}"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    source = PinFile(private(tmp_path / "pin", b"1111"))
    assert source.read().reveal() == b"1111"
    private(tmp_path / "pin", b"2222")
    assert source.read().reveal() == b"2222"


@pytest.mark.parametrize(
    ("data", "mode", "says"),
    [
        (b"93847561", 0o640, "chmod 600"),
        (b"", 0o600, "is empty"),
        (b"\n93847561", 0o600, "is empty"),
        (b"9" * 256, 0o600, "longer than 255"),
        (b"9" * 300, 0o600, "larger than"),
        (b"93847561\0", 0o600, "zero byte"),
    ],
)
def test_files_that_hold_no_pin(tmp_path: Path, data: bytes, mode: int, says: str) -> None:
    path = private(tmp_path / "pin", data)
    path.chmod(mode)
    with pytest.raises(PinProblem) as caught:
        PinFile(path).read()
    assert says in caught.value.sentence
    assert str(path) in caught.value.sentence
    assert PIN not in caught.value.sentence


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PinProblem, match="does not exist"):
        PinFile(tmp_path / "pin").read()


def test_a_systemd_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hsm-pin").write_text(PIN + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert PinCredential("hsm-pin").read().reveal() == PIN.encode()
    with pytest.raises(PinProblem, match="other can't be read"):
        PinCredential("other").read()
    with pytest.raises(PinProblem, match="can't be the name"):
        PinCredential("../pin").read()
    with pytest.raises(PinProblem, match="can't be the name"):
        PinCredential("..").read()


def test_without_systemd_the_unit_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(PinProblem, match="LoadCredential=hsm-pin:PATH"):
        PinCredential("hsm-pin").read()


def test_a_variable_leaves_the_environment_and_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "SEALGATE_TEST_PIN_TAKEN"
    monkeypatch.setenv(name, PIN)
    assert PinVariable(name).read().reveal() == PIN.encode()
    assert name not in os.environ
    child = subprocess.run([sys.executable, "-c", f"import os; print(os.getenv({name!r}))"], capture_output=True)
    assert child.stdout == b"None\n"
    assert PinVariable(name).read().reveal() == PIN.encode()


def test_a_variable_that_is_not_set_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PinProblem, match="SEALGATE_TEST_NO_PIN, which is not set"):
        PinVariable("SEALGATE_TEST_NO_PIN").read()
    monkeypatch.setenv("SEALGATE_TEST_EMPTY_PIN", "")
    with pytest.raises(PinProblem, match="SEALGATE_TEST_EMPTY_PIN is empty"):
        PinVariable("SEALGATE_TEST_EMPTY_PIN").read()


PROMPTS = """
from hsm.backends.pkcs11.pin import PinProblem, PinPrompt
try:
    first, second = PinPrompt("web").read(), PinPrompt("web").read()
    print("length", len(first.reveal()), first.reveal() == second.reveal(), flush=True)
except PinProblem as problem:
    print(problem, flush=True)
"""


def read_all(fd: int) -> bytes:
    data = b""
    while True:
        try:
            piece = os.read(fd, 4096)
        except OSError:
            return data
        if not piece:
            return data
        data += piece


@pytest.mark.parametrize(
    ("typed", "says"), [(b"93847561\n", b"length 8 True"), (b"\n", b"is empty"), (b"\4", b"no PIN")]
)
@pytest.mark.filterwarnings("ignore:.*use of forkpty.*:DeprecationWarning")
def test_a_prompt_asks_once_and_shows_nothing(typed: bytes, says: bytes) -> None:
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", PROMPTS])
    seen = b""
    while b"PIN of the token web: " not in seen:
        seen += os.read(fd, 4096)
    os.write(fd, typed)
    seen += read_all(fd)
    os.waitpid(pid, 0)
    os.close(fd)
    assert says in seen
    assert PIN.encode() not in seen


def test_without_a_terminal_nothing_is_asked() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROMPTS], cwd=ROOT, capture_output=True, text=True, start_new_session=True, input=""
    )
    assert "there is no terminal; use pin_file" in run.stdout


@pytest.mark.parametrize(
    "text", ["/etc/my pin", "file:/etc/my%20pin", "file:///etc/my%20pin", "file://localhost/etc/my pin"]
)
def test_a_uri_names_a_file(text: str) -> None:
    assert source_of_uri(text) == PinFile(Path("/etc/my pin"))


@pytest.mark.parametrize(
    "text", ["|/bin/pin", "pin", "", "https://x/pin", "file://host/pin", "file:pin", "file:/pin?x"]
)
def test_a_uri_names_nothing_else(text: str) -> None:
    with pytest.raises(PinProblem, match=r"`pin-source`"):
        source_of_uri(text)


def test_sources_are_values() -> None:
    assert PinPrompt("web") == PinPrompt("web")
    assert {PinVariable("A"), PinVariable("A")} == {PinVariable("A")}


def test_each_source_has_a_place_for_people() -> None:
    assert PinFile(Path("/etc/pin")).place == "/etc/pin"
    assert PinCredential("pin").place == "the systemd credential pin"
    assert PinVariable("HSM_PIN").place == "the environment variable HSM_PIN"
    assert PinPrompt("web").place == "the terminal"
