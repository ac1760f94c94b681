"""Opens a PKCS#11 token as a token of a node: makes settings of its config, and a worker's life of the settings.

What can't get better by itself is told at once: a library that is missing or is none, a token that is not there while
others are, a wrong PIN. A token that is away does not keep a node from starting: its keys come when it does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from hsm.backends.book import Book, BookError
from hsm.backends.pkcs11.admin import Pkcs11Admin
from hsm.backends.pkcs11.backend import Pkcs11Backend
from hsm.backends.pkcs11.commands import TokenState
from hsm.backends.pkcs11.login import LoginSource
from hsm.backends.pkcs11.pin import (
    PinCredential,
    PinFile,
    PinProblem,
    PinPrompt,
    PinSource,
    PinVariable,
    source_of_uri,
)
from hsm.backends.pkcs11.problems import Pkcs11Problem, ProblemKind
from hsm.backends.pkcs11.results import Failure
from hsm.backends.pkcs11.settings import TokenSettings
from hsm.backends.pkcs11.uri import Pkcs11Uri, UriProblem, parse_uri
from hsm.node.opening.opened import OpenToken, Surroundings, TokenProblem
from hsm.node.refusals import Refusal, RefusalReason
from hsm.node.token_config import Pkcs11TokenConfig
from hsm.shared.logs import get_logger

LASTING = frozenset({Failure.PIN_REFUSED, Failure.INVALID, Failure.UNFIT})
"""Failures of a first opening that trying again would not heal."""
MODULE_FOLDERS = (
    "/usr/lib/pkcs11",
    "/usr/lib64/pkcs11",
    "/usr/lib/x86_64-linux-gnu/pkcs11",
    "/usr/lib/aarch64-linux-gnu/pkcs11",
    "/usr/local/lib/pkcs11",
    "/usr/lib/softhsm",
)
"""Where a `module-name` of a URI is looked for."""


async def open_pkcs11(config: Pkcs11TokenConfig, surroundings: Surroundings) -> OpenToken:
    """Opens the token, or leaves it to be opened later where it is only away. Raises TokenProblem."""
    settings = await surroundings.calls.run(lambda: token_settings(config, surroundings.resolve))
    login = LoginSource(settings.pin, settings.user)
    book = Book(surroundings.resolve(config.book or f"{config.name}.book"))
    backend = await surroundings.calls.run(lambda: _backend(settings, book, login, surroundings.loop))
    await _start(backend, config.name, settings.pin)
    return OpenToken(
        name=config.name,
        kind="pkcs11",
        awaited=backend,
        places=config.concurrency,
        queue=config.queue,
        admin=Pkcs11Admin(settings, book, backend.keys_changed, login=login, running=backend),
        refusal_of=pkcs11_refusal,
        close=backend.stop,
        state=lambda: backend.state,
        details=backend.details,
        try_again=backend.supervisor.try_again,
    )


def token_settings(config: Pkcs11TokenConfig, resolve: Callable[[str], Path]) -> TokenSettings:
    """What a config says, checked as far as files tell. Blocks. Raises TokenProblem."""
    try:
        uri = parse_uri(config.uri)
        pin = _pin_source(config, uri, resolve)
    except (UriProblem, PinProblem) as problem:
        raise TokenProblem(f"token {config.name!r}: {problem}") from None
    _check_environment(config)
    return TokenSettings(
        name=config.name,
        module=_module(config, uri, resolve),
        token=uri.token,
        objects=uri.objects,
        pin=pin,
        user=config.user,
        environment=config.environment,
        concurrency=config.concurrency,
        call_timeout_s=config.call_timeout_s,
        open_timeout_s=config.open_timeout_s,
        rescan_interval_s=config.rescan_interval_s,
        retry_min_s=config.retry_min_s,
        retry_max_s=config.retry_max_s,
    )


def _check_environment(config: Pkcs11TokenConfig) -> None:
    for name, value in config.environment.items():
        if not name or "=" in name or "\0" in name + value:
            sentence = f"no variable can be called {name!r}" if "\0" not in value else f"{name!r} holds a zero byte"
            raise TokenProblem(f"token {config.name!r}: `environment`: {sentence}; correct it")


def _backend(settings: TokenSettings, book: Book, login: LoginSource, loop: asyncio.AbstractEventLoop) -> Pkcs11Backend:
    """Blocks: reads what can be read before a worker is started."""
    try:
        login.read()
        return Pkcs11Backend(settings, book, login, loop, _in_thread)
    except PinProblem as problem:
        raise TokenProblem(f"token {settings.name!r}: {problem}") from None
    except BookError as problem:
        raise TokenProblem(f"token {settings.name!r}: the book of its keys can't be used: {problem}") from None


async def _start(backend: Pkcs11Backend, name: str, pin: PinSource | None) -> None:
    try:
        await backend.start()
    except BaseException:
        await backend.stop()
        raise
    if backend.supervisor.state is TokenState.UP:
        return
    kind, sentence = backend.supervisor.problem
    if kind in LASTING:
        await backend.stop()
        where = f"; the PIN came from {pin.place}" if kind is Failure.PIN_REFUSED and pin is not None else ""
        raise TokenProblem(f"can't open the token {name!r}: {sentence}{where}")
    hint = "the node starts without its keys and goes on trying"
    get_logger("token").warning("token_away_at_start", token=name, reason=sentence, hint=hint)


def _in_thread(work: Callable[[], None]) -> None:
    """Reading a PIN may block for as long as a disk or a person does: nobody waits for the thread."""
    threading.Thread(target=work, name="pin-reader", daemon=True).start()


def _module(config: Pkcs11TokenConfig, uri: Pkcs11Uri, resolve: Callable[[str], Path]) -> Path:
    path = _module_path(config, uri, resolve)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        sentence = f"the library {path} can't be read: {error.strerror}; install it, or correct `module`"
        raise TokenProblem(f"token {config.name!r}: {sentence}") from None
    if magic != b"\x7fELF":
        raise TokenProblem(f"token {config.name!r}: {path} is no library; `module` names the maker's .so file")
    return path


def _module_path(config: Pkcs11TokenConfig, uri: Pkcs11Uri, resolve: Callable[[str], Path]) -> Path:
    if uri.module_path is not None:
        return Path(uri.module_path)
    if uri.module_name is not None:
        return _module_by_name(config.name, uri.module_name)
    if config.module is not None:
        return resolve(config.module)
    sentence = "no library is named; set `module`, or put ?module-path=/path/to/lib.so into the uri"
    raise TokenProblem(f"token {config.name!r}: {sentence}")


def _module_by_name(token: str, name: str) -> Path:
    for folder in MODULE_FOLDERS:
        for file in (f"lib{name}.so", f"{name}.so"):
            if (path := Path(folder, file)).exists():
                return path
    raise TokenProblem(f"token {token!r}: no library is called {name!r} here; name its path with `module-path`")


def _pin_source(config: Pkcs11TokenConfig, uri: Pkcs11Uri, resolve: Callable[[str], Path]) -> PinSource | None:
    """None where nothing names one: the token needs no login."""
    sources: list[PinSource] = []
    if config.pin_file is not None:
        sources.append(PinFile(resolve(config.pin_file)))
    if config.pin_credential is not None:
        sources.append(PinCredential(config.pin_credential))
    if config.pin_env is not None:
        sources.append(PinVariable(config.pin_env))
    if config.pin_prompt:
        sources.append(PinPrompt(config.name))
    if uri.pin_source is not None:
        sources.append(source_of_uri(uri.pin_source))
    if len(sources) > 1:
        raise PinProblem("the PIN is named more than once; keep one of pin_file, pin_credential, pin_env, pin_prompt")
    return sources[0] if sources else None


_REASONS = {
    ProblemKind.NOT_FOUND: RefusalReason.NOT_FOUND,
    ProblemKind.EXISTS: RefusalReason.CONFLICT,
    ProblemKind.CONFLICT: RefusalReason.CONFLICT,
    ProblemKind.UNAVAILABLE: RefusalReason.UNAVAILABLE,
    ProblemKind.INVALID: RefusalReason.INVALID,
}


def pkcs11_refusal(error: Exception) -> Refusal | None:
    """What a token's admin raises, as data; None for what it was not meant to raise."""
    return Refusal(_REASONS[error.kind], error.sentence) if isinstance(error, Pkcs11Problem) else None
