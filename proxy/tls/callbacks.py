"""What OpenSSL calls while a handshake runs: which site, which protocol (ALPN), and: sign this.

All three are global functions that find the connection they are called for through the current greenlet, because
a handshake runs in a greenlet of its own (see `engine.py`) and OpenSSL calls back on the same stack. pyOpenSSL's own
wrappers are not used: its server name callback cannot choose an alert, and its ALPN callback can only refuse by an
exception.
"""

from __future__ import annotations

import threading
from typing import Any, Final, Protocol

import greenlet
import msgspec
from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from hsm.wire.schemes import SCHEME_BY_NAME, Scheme

MAX_IDLE: Final = 64
"""Greenlets kept for the next handshakes, per thread; making one costs as much as 18 us in a busy worker."""

_ALERT_UNRECOGNIZED_NAME: Final = 112


class SignatureWanted(msgspec.Struct, frozen=True):
    """What the upcall switches to the parent greenlet with; the answer is the signature, or None to fail."""

    ski: bytes
    scheme: Scheme
    message: bytes


class SignatureRefused(Exception):
    """No signature will come; raised into OpenSSL so that it ends the handshake and frees what it holds."""


class Chooser(Protocol):
    """The connection, as the callbacks see it."""

    def choose_site(self, server_name: bytes) -> bool:
        """Take the site of `server_name` (b"" for none); False refuses the client."""

    def choose_protocol(self, offered: bytes) -> Any:
        """The ALPN protocol as a char array that outlives the handshake, or None where none is shared.

        `offered` is the extension's body: protocols, each behind its length (RFC 7301 3.1).
        """

    def step(self) -> int:
        """Go on with the handshake."""


class Runner(greenlet.greenlet):
    """A greenlet that runs steps of handshakes, one after the other, and waits in the pool between them."""

    __slots__ = ("caller", "chooser")

    chooser: Chooser | None
    """The connection whose step is running or suspended; None in the pool."""
    caller: greenlet.greenlet
    """Who switched in, and gets the next outcome."""

    def run(self) -> None:
        """Run steps until the pool drops this greenlet, which raises GreenletExit in `switch`."""
        while self.chooser is not None:
            outcome = self.chooser.step()
            self.chooser = None
            self.caller.switch(outcome)


class _Pool(threading.local):
    """A greenlet belongs to a thread, so does the pool."""

    def __init__(self) -> None:
        self.idle: list[Runner] = []


_pool = _Pool()


def start_step(chooser: Chooser) -> tuple[Runner, int | SignatureWanted]:
    """Run `chooser.step()` in a greenlet; returns when the step is over or wants a signature."""
    idle = _pool.idle
    runner = idle.pop() if idle else Runner()
    runner.chooser = chooser
    return runner, resume_step(runner)


def resume_step(runner: Runner, signature: bytes | None = None) -> int | SignatureWanted:
    """Switch in with what the step waits for; returns as `start_step` does. A step's end frees the runner."""
    runner.caller = greenlet.getcurrent()
    outcome: int | SignatureWanted = runner.switch(signature) if runner else runner.switch()
    if runner.chooser is None:
        if len(_pool.idle) < MAX_IDLE:
            _pool.idle.append(runner)
        else:
            # Its frame refers to itself, so dropping it would leak it with its stack: let it run to its end.
            runner.switch()
    return outcome


def ask_for_signature(ski: bytes, scheme_name: str, message: bytes) -> bytes:
    """The provider's upcall: leave the handshake's greenlet until somebody comes back with the signature."""
    current = greenlet.getcurrent()
    if not isinstance(current, Runner):
        raise RuntimeError("a signature was asked for outside a handshake: nobody can wait for it")
    signature = current.caller.switch(SignatureWanted(ski, SCHEME_BY_NAME[scheme_name], message))
    if signature is None:
        raise SignatureRefused
    return bytes(signature)


def _chooser() -> Chooser:
    current = greenlet.getcurrent()
    if not isinstance(current, Runner) or current.chooser is None:
        raise RuntimeError("a handshake callback was called outside a handshake")
    return current.chooser


def _on_server_name(ssl: Any, alert: Any, _argument: Any) -> int:
    name = lib.SSL_get_servername(ssl, lib.TLSEXT_NAMETYPE_host_name)
    sent = ffi.string(name) if name != ffi.NULL else b""
    if _chooser().choose_site(sent):
        return int(lib.SSL_TLSEXT_ERR_OK if sent else lib.SSL_TLSEXT_ERR_NOACK)
    alert[0] = _ALERT_UNRECOGNIZED_NAME  # RFC 6066 3: fatal, and not a warning that nobody may act on
    return int(lib.SSL_TLSEXT_ERR_ALERT_FATAL)


def _on_alpn(_ssl: Any, out: Any, out_length: Any, offered: Any, length: int, _argument: Any) -> int:
    chosen = _chooser().choose_protocol(ffi.buffer(offered, length)[:])
    if chosen is None:
        return int(lib.SSL_TLSEXT_ERR_ALERT_FATAL)  # becomes no_application_protocol (RFC 7301 3.2)
    out[0], out_length[0] = chosen, len(chosen)
    return int(lib.SSL_TLSEXT_ERR_OK)


_server_name_callback = ffi.callback(
    "int (*)(SSL *, int *, void *)", _on_server_name, error=lib.SSL_TLSEXT_ERR_ALERT_FATAL
)
_alpn_callback = ffi.callback(
    "int (*)(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)",
    _on_alpn,
    error=lib.SSL_TLSEXT_ERR_ALERT_FATAL,
)


def set_server_name_callback(context: SSL.Context) -> None:
    """Let the context that connections begin with ask for the site."""
    lib.SSL_CTX_set_tlsext_servername_callback(context._context, _server_name_callback)


def set_alpn_callback(context: SSL.Context) -> None:
    """Needed on every context: a connection that switched asks the one it switched to."""
    lib.SSL_CTX_set_alpn_select_cb(context._context, _alpn_callback, ffi.NULL)
