"""The token worker: the one program that loads an HSM maker's library. `python -m hsm.backends.pkcs11.worker FD`.

    node --socket--> this thread: reads, answers Ping -----> signing threads, each with a session
                                                      \\----> custodian: opens, lists, changes keys
    node <--socket-- outbox <------------------------------- all of them

It is started by a node (or by a command that manages keys) with one end of a socket pair. The PIN comes over that
socket, never in arguments or environment. The worker ends when the socket does, and dies with who started it; a crash
or a hang of the library ends this process and nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
from queue import SimpleQueue

from hsm.backends.pkcs11.custodian import Custodian
from hsm.backends.pkcs11.failures import failed
from hsm.backends.pkcs11.framing import FramingError, request_reader
from hsm.backends.pkcs11.messages import Done, Ping, Request, Sign
from hsm.backends.pkcs11.outbox import Outbox
from hsm.backends.pkcs11.results import Failure, Refused
from hsm.backends.pkcs11.signing_threads import SigningThreads
from hsm.shared.hardening import harden_process, lock_memory

TITLE = b"sealgate-token"
_READ_BYTES = 256 * 1024
_MAX_CHORES = 256
"""Requests besides signatures that may wait."""
_END_S = 1.0
"""How long the library may take to end its sessions when the node has hung up."""
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def main(arguments: list[str]) -> int:
    """Serve the socket whose number is the one argument, until its other end is closed."""
    if len(arguments) != 1 or not arguments[0].isdecimal():
        print("usage: python -m hsm.backends.pkcs11.worker FD (started by a node, not by people)", file=sys.stderr)  # noqa: T201
        return 2
    _settle_in()
    try:
        connection = socket.socket(fileno=int(arguments[0]))
    except OSError as error:
        print(f"the token worker got no socket: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 2
    connection.setblocking(True)
    # Some libraries start programs: the node would not hear the end of this process while they hold its socket.
    connection.set_inheritable(False)
    serve(connection)
    return 0


def serve(connection: socket.socket) -> None:
    """Answer requests until the node hangs up, then end the library."""
    outbox = Outbox(connection)
    signing = SigningThreads(outbox)
    custodian = Custodian(signing.start)
    chores: SimpleQueue[Request | None] = SimpleQueue()

    def do_chores() -> None:
        while (request := chores.get()) is not None:
            outbox.put(custodian.answer(request))

    chore_thread = threading.Thread(target=do_chores, name="custodian", daemon=True)
    chore_thread.start()
    with contextlib.suppress(OSError, FramingError):  # the node is gone, or is none: both end the conversation
        _read(connection, outbox, signing, chores)
    chores.put(None)
    chore_thread.join(_END_S)
    if signing.stop(_END_S) and not chore_thread.is_alive():
        ending = threading.Thread(target=custodian.close, daemon=True)
        ending.start()
        ending.join(_END_S)


def _read(
    connection: socket.socket, outbox: Outbox, signing: SigningThreads, chores: SimpleQueue[Request | None]
) -> None:
    reader = request_reader()
    while data := connection.recv(_READ_BYTES):
        for request in reader.feed(data):
            if isinstance(request, Sign):
                signing.give(request)
            elif isinstance(request, Ping):
                outbox.put(Done(id=request.id))
            elif chores.qsize() >= _MAX_CHORES:
                outbox.put(failed(request.id, Refused(Failure.BUSY, "too many requests wait for the token")))
            else:
                chores.put(request)


def _settle_in() -> None:
    harden_process()
    lock_memory()  # where it may not, the node has said so
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        prctl = ctypes.CDLL(None).prctl
        # The parent's death is told to this process even where the socket has another copy somewhere.
        prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3)
        prctl(_PR_SET_NAME, ctypes.c_char_p(TITLE), *[ctypes.c_ulong(0)] * 3)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    # A library may hang in its own clean-up at exit, or in a call that never ends.
    os._exit(status)
