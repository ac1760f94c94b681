"""Run by test_provider_sanitized.py under AddressSanitizer, with the path of a sanitized extension as its argument.

Handshakes with every kind of key, signed, failed, dropped and interleaved, in real Python and the wheel's OpenSSL.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import warnings

from proxy import tls


def load_extension(path: str) -> None:
    """Have `proxy.tls._provider` be the extension at `path`; OpenSSL is then told to load the same file."""
    spec = importlib.util.spec_from_file_location("proxy.tls._provider", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[spec.name] = module
    tls._provider = module  # type: ignore[attr-defined]  # as an import would


load_extension(sys.argv[1])
from proxy.tls import provider  # noqa: E402

provider.install()

import greenlet  # noqa: E402
from OpenSSL import SSL, crypto  # noqa: E402

from hsm.wire.schemes import SCHEME_BY_NAME  # noqa: E402
from tests.support.pki import issue, make_ca, shared_key, sign  # noqa: E402
from tests.support.pyopenssl import client_context, go_on, server_context  # noqa: E402

warnings.simplefilter("ignore", DeprecationWarning)


def switch_away(ski: bytes, scheme: str, message: bytes) -> bytes:
    answer = greenlet.getcurrent().parent.switch((ski, scheme, message))
    if isinstance(answer, Exception):
        raise answer
    return answer


def begin(context: SSL.Context) -> tuple[greenlet.greenlet, object, SSL.Connection, SSL.Connection]:
    server, client = SSL.Connection(context, None), SSL.Connection(client_context(), None)
    server.set_accept_state()
    client.set_connect_state()

    def accept() -> object:
        try:
            go_on(server, client)
        except SSL.Error as error:
            return error
        return "done"

    inside = greenlet.greenlet(accept)
    return inside, inside.switch(), server, client


def play() -> None:
    order = random.Random(11)
    issued = [issue(make_ca(), "site.example", shared_key(kind)) for kind in ("rsa-2048", "p256", "p521", "ed25519")]
    key_of = {provider.ski_of(one.key.public_key()): one.key for one in issued}
    contexts = [server_context(one, version) for one in issued for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)]
    provider.set_upcall(switch_away)
    waiting = [begin(order.choice(contexts)) for _ in range(80)]
    order.shuffle(waiting)
    for number, (inside, wanted, _, _) in enumerate(waiting):
        ski, scheme, message = wanted
        SSL._lib.ERR_clear_error()
        match number % 5:
            case 0:
                assert isinstance(inside.switch(LookupError("no")), SSL.Error)
                assert isinstance(provider.take_error(), LookupError)
            case 1:
                assert isinstance(inside.switch(b"x" * 5000), SSL.Error)
            case 2:
                pass  # dropped at the end
            case _:
                assert inside.switch(sign(key_of[ski], SCHEME_BY_NAME[scheme], message)) == "done"
    waiting.clear()
    provider.take_error()
    for text in (b"", b"\0" * 100, b"QUJD\n-----END SEALGATE KEY REFERENCE-----\n"):
        try:
            crypto.load_privatekey(crypto.FILETYPE_PEM, b"-----BEGIN SEALGATE KEY REFERENCE-----\n" + text)
        except crypto.Error:
            continue
        raise AssertionError("a bad reference was taken")


play()
print("all is well")
