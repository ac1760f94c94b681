"""Where the PIN of a token comes from: a private file, a systemd credential, an environment variable, a terminal.

Never a command line or a config file. What is read is a `Secret`; errors name the place, never what stands there.
"""

from __future__ import annotations

import getpass
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from hsm.shared.logs import Secret
from hsm.store.errors import StoreError
from hsm.store.files import read_private

MAX_PIN_BYTES = 255
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}\Z", re.ASCII)
_once: dict[str, Secret[bytes]] = {}
"""What can be had only once in a process: variables that were taken out of the environment, and what was typed."""
_lock = threading.Lock()


class PinProblem(Exception):
    """There is no usable PIN. `sentence` says where it was looked for and what to do."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True)
class PinFile:
    """The first line of a file that only its owner may read."""

    path: Path

    @property
    def place(self) -> str:
        """For people: where to look."""
        return str(self.path)

    def read(self) -> Secret[bytes]:
        """Raises PinProblem. Reads the file each time, so that a changed PIN is seen."""
        return _of_file(self.path)


@dataclass(frozen=True, slots=True)
class PinCredential:
    """A systemd credential (LoadCredential= or LoadCredentialEncrypted= of the unit), by its name."""

    name: str

    @property
    def place(self) -> str:
        """For people: where to look."""
        return f"the systemd credential {self.name}"

    def read(self) -> Secret[bytes]:
        """Raises PinProblem."""
        folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
        if not folder:
            sentence = f"the PIN should be the systemd credential {self.name}, but systemd gave this program none"
            raise PinProblem(f"{sentence}; add LoadCredential={self.name}:PATH to its unit")
        if not _CREDENTIAL_NAME.match(self.name) or self.name in (".", ".."):
            raise PinProblem(f"{self.name!r} can't be the name of a systemd credential")
        path = Path(folder, self.name)
        try:
            # systemd's own folder: nobody else gets there, whatever the file's mode says (0440 in a user's unit).
            with path.open("rb") as file:
                data = file.read(MAX_PIN_BYTES + 3)
        except OSError as error:
            raise PinProblem(f"the systemd credential {self.name} can't be read: {error.strerror}") from None
        return _checked(_first_line(data), f"the systemd credential {self.name}")


@dataclass(frozen=True, slots=True)
class PinVariable:
    """An environment variable, taken out of the environment when it is first read: children never see it."""

    name: str

    @property
    def place(self) -> str:
        """For people: where to look."""
        return f"the environment variable {self.name}"

    def read(self) -> Secret[bytes]:
        """Raises PinProblem."""
        with _lock:
            text = os.environ.pop(self.name, None)
            if text is not None:
                _once[self.name] = _checked(os.fsencode(text), f"the environment variable {self.name}")
            if self.name not in _once:
                raise PinProblem(f"the PIN should be in the environment variable {self.name}, which is not set")
            return _once[self.name]


@dataclass(frozen=True, slots=True)
class PinPrompt:
    """Asked for at the terminal, once in the life of a process."""

    token: str
    """Name of the token, shown in the question."""

    @property
    def place(self) -> str:
        """For people: where to look."""
        return "the terminal"

    def read(self) -> Secret[bytes]:
        """Raises PinProblem. Blocks until somebody has typed."""
        question = f"PIN of the token {self.token}: "
        with _lock:
            if question not in _once:
                _once[question] = _checked(_asked(question), f"what was typed for the token {self.token}")
            return _once[question]


PinSource: TypeAlias = PinFile | PinCredential | PinVariable | PinPrompt


def source_of_uri(text: str) -> PinFile:
    """What a URI's `pin-source` names (RFC 7512 2.4): an absolute path, or a file: URI. Raises PinProblem."""
    if text.startswith("|"):
        raise PinProblem("`pin-source` names a program; Sealgate runs none, name the file that holds the PIN")
    if text.startswith("/"):
        return PinFile(Path(text))
    parts = urlsplit(text)
    is_local = parts.scheme == "file" and parts.netloc in ("", "localhost") and not parts.query and not parts.fragment
    path = unquote(parts.path)
    if not is_local or not path.startswith("/"):
        raise PinProblem("`pin-source` must be an absolute path or a file: URI, such as file:/etc/sealgate/pin")
    return PinFile(Path(path))


def _of_file(path: Path) -> Secret[bytes]:
    try:
        data = read_private(path, MAX_PIN_BYTES + 2)
    except StoreError as error:
        raise PinProblem(f"the PIN can't be read: {error.sentence}") from None
    return _checked(_first_line(data), str(path))


def _first_line(data: bytes) -> bytes:
    return data.split(b"\n", 1)[0].rstrip(b"\r")


def _asked(question: str) -> bytes:
    try:
        with Path("/dev/tty").open("rb"):
            pass
    except OSError:
        sentence = "the PIN should be typed, but there is no terminal; use pin_file or pin_credential for a service"
        raise PinProblem(sentence) from None
    try:
        return os.fsencode(getpass.getpass(question))
    except (EOFError, KeyboardInterrupt):
        raise PinProblem("no PIN was typed") from None


def _checked(pin: bytes, source: str) -> Secret[bytes]:
    if not pin:
        raise PinProblem(f"the PIN in {source} is empty; it must stand on the first line")
    if len(pin) > MAX_PIN_BYTES:
        raise PinProblem(f"the PIN in {source} is longer than {MAX_PIN_BYTES} bytes; is it the right place?")
    if b"\0" in pin:
        raise PinProblem(f"the PIN in {source} holds a zero byte; is it the right place?")
    return Secret(pin)
