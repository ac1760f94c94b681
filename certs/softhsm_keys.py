"""A SoftHSM2 token for a development PKI: made without a secret on any command line, opened through PKCS#11.

The token lives in `softhsm/` of the PKI's folder, with the config that SoftHSM2 wants and a random PIN in a private
file. The machine's own SoftHSM2 tokens are neither read nor changed. The PIN of its security officer is thrown away:
a development token that is lost is made anew.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from certs import folder
from certs.authority import PkiError
from certs.site_keys import Pkcs11Place, SiteKeys

TOKEN_LABEL = "sealgate-dev"
MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
)
INIT_TIMEOUT_S, EXIT_TIMEOUT_S = 30.0, 5.0
_UNFIT = frozenset("#=\n\r\t")
"""What the format of SoftHSM2's config can't hold in a value."""
_MISSING = "SoftHSM2 is not installed ({}); run `apt-get install softhsm2`"


def find_module() -> Path:
    """SoftHSM2's library; SOFTHSM2_MODULE names one that is elsewhere. Raises PkiError when it is not installed."""
    if shutil.which("softhsm2-util") is None:
        raise PkiError(_MISSING.format("there is no softhsm2-util"))
    named = os.environ.get("SOFTHSM2_MODULE")
    for path in (Path(named),) if named else MODULES:
        if path.exists():
            return path
    if named:
        raise PkiError(f"SOFTHSM2_MODULE names {named}, which does not exist")
    raise PkiError(_MISSING.format("there is no libsofthsm2.so in /usr/lib/softhsm"))


@contextlib.contextmanager
def softhsm_keys(base: Path) -> Iterator[SiteKeys]:
    """The token in `base`/softhsm. Raises PkiError."""
    from hsm.backends.book import Book
    from hsm.backends.pkcs11.admin import Pkcs11Admin
    from hsm.backends.pkcs11.blocking_worker import BlockingWorker
    from hsm.backends.pkcs11.messages import TokenMatch
    from hsm.backends.pkcs11.pin import PinFile
    from hsm.backends.pkcs11.problems import Pkcs11Problem, WorkerProblem
    from hsm.backends.pkcs11.settings import TokenSettings

    home = base.absolute() / "softhsm"
    module = find_module()
    folder.make_private(home)
    was_made = _make_token(home, module)
    environment = {"SOFTHSM2_CONF": str(_write_config(home / "softhsm2.conf", home / "tokens"))}
    place = Pkcs11Place(module, TOKEN_LABEL, home / "pin", home / "keys.book", tuple(environment.items()))
    settings = TokenSettings(
        module=module, token=TokenMatch(token=TOKEN_LABEL), pin=PinFile(place.pin_file), environment=environment
    )
    try:
        with BlockingWorker.open(settings) as worker:  # for all that only looks and signs
            admin = Pkcs11Admin(settings, Book(place.book), running=worker)
            yield SiteKeys(admin, place, "softhsm/tokens", was_made)
    except (Pkcs11Problem, WorkerProblem) as error:
        raise PkiError(f"{home}: {error}") from None


def _make_token(home: Path, module: Path) -> bool:
    """Make the token where there is none; True when it did. A token that is there in part is never used."""
    tokens, pin_file = home / "tokens", home / "pin"
    if tokens.exists():
        if not pin_file.exists():
            raise PkiError(f"{tokens} can't be opened: {pin_file} is missing; remove {home} to make a new token")
        return False
    draft = home / f"draft-{os.urandom(6).hex()}"
    draft.mkdir(mode=0o700)
    pin, officer_pin = os.urandom(12).hex(), os.urandom(12).hex()
    try:
        config = _write_config(home / "draft.conf", draft)
        command = ("softhsm2-util", "--module", str(module), "--init-token", "--free", "--label", TOKEN_LABEL)
        _run_with_answers(command, {"SOFTHSM2_CONF": str(config)}, [officer_pin, officer_pin, pin, pin])
        folder.write(pin_file, pin.encode() + b"\n", is_private=True)
        draft.rename(tokens)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    finally:
        (home / "draft.conf").unlink(missing_ok=True)
    return True


def _write_config(path: Path, tokens: Path) -> Path:
    """SoftHSM2's config for a folder of tokens."""
    if unfit := set(str(tokens)) & _UNFIT:
        raise PkiError(f"SoftHSM2 can't use the folder {tokens}: its name holds {min(unfit)!r}; choose another")
    text = f"directories.tokendir = {tokens}\nobjectstore.backend = file\nobjectstore.umask = 0077\nlog.level = ERROR\n"
    folder.write(path, text.encode(), is_private=True)
    return path


def _run_with_answers(command: Sequence[str], environment: dict[str, str], answers: Sequence[str]) -> None:
    """Run a program that asks for PINs at its terminal, and answer: a command line could be read by everybody.

    Raises PkiError when the program fails or is not done in time.
    """
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            process = subprocess.Popen(
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={"PATH": os.environ.get("PATH", os.defpath), **environment},
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        try:
            said = _converse(terminal.fileno(), [answer.encode() + b"\n" for answer in answers])
            status = process.wait(timeout=EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status, said = None, "it did not end in time"
        finally:
            process.kill()
            process.wait()
    if status != 0:
        raise PkiError(
            f"{command[0]} could not make a token: {said.strip().splitlines()[-1] if said.strip() else status}"
        )


def _converse(terminal: int, answers: list[bytes]) -> str:
    """Answers one prompt after the other, until the program closes its terminal or the time is over; what it said.

    softhsm2-util switches echoing off before it asks, so no answer is among what it said.
    """
    deadline, said = time.monotonic() + INIT_TIMEOUT_S, b""
    given = 0
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([terminal], [], [], left)[0]:
            break
        try:
            data = os.read(terminal, 4096)
        except OSError:  # EIO: nobody has the other side open any more
            break
        said += data
        while given < min(said.count(b"PIN: "), len(answers)):
            os.write(terminal, answers[given])
            given += 1
        if not data:
            break
    return said.decode("utf-8", "replace")
