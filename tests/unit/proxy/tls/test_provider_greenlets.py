"""Handshakes that are put aside inside the upcall, many at a time, and that end in any order or not at all."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import greenlet
import psutil
import pytest
from OpenSSL import SSL

from hsm.wire.schemes import SCHEME_BY_NAME
from proxy.tls import provider
from tests.support.pki import Issued, issue, make_ca, shared_key, sign
from tests.support.pyopenssl import client_context, go_on, server_context

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL PKey objects:DeprecationWarning")

Wanted = tuple[bytes, str, bytes]
KINDS = ("rsa-2048", "p256", "p384", "ed25519")


def switch_away(ski: bytes, scheme: str, message: bytes) -> bytes:
    """The upcall as the engine has it: leave the greenlet until there is an answer."""
    answer = greenlet.getcurrent().parent.switch((ski, scheme, message))
    if isinstance(answer, BaseException):
        raise answer
    return cast("bytes", answer)


@dataclass
class Suspended:
    """A server in a greenlet that waits for its signature, and its client."""

    server: SSL.Connection
    client: SSL.Connection
    inside: Any
    wanted: Wanted

    def resume(self, answer: object) -> object:
        SSL._lib.ERR_clear_error()  # type: ignore[attr-defined]  # the queue is per thread; the engine does the same
        return self.inside.switch(answer)

    def finish(self, key_of: dict[bytes, Issued]) -> None:
        ski, scheme, message = self.wanted
        assert self.resume(sign(key_of[ski].key, SCHEME_BY_NAME[scheme], message)) == "wants data"
        assert self.inside.dead
        handshake_rest(self.server, self.client)


def handshake_rest(server: SSL.Connection, client: SSL.Connection) -> None:
    client.bio_write(server.bio_read(1 << 16))
    client.do_handshake()
    server.bio_write(client.bio_read(1 << 16))
    server.do_handshake()
    server.send(b"served")
    client.bio_write(server.bio_read(1 << 16))
    assert client.recv(100) == b"served"


def suspend(context: SSL.Context, to_client: SSL.Context) -> Suspended:
    server, client = SSL.Connection(context, None), SSL.Connection(to_client, None)
    server.set_accept_state()
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    server.bio_write(client.bio_read(1 << 16))

    def accept() -> object:
        try:
            server.do_handshake()
        except SSL.WantReadError:
            return "wants data"
        except SSL.Error as error:
            return error
        return "done"

    inside = greenlet.greenlet(accept)
    return Suspended(server, client, inside, cast("Wanted", inside.switch()))


@pytest.fixture
def key_of() -> Iterator[dict[bytes, Issued]]:
    issued = [issue(make_ca(), "site.example", shared_key(kind)) for kind in KINDS]
    before = provider.set_upcall(switch_away)
    yield {provider.ski_of(one.key.public_key()): one for one in issued}
    provider.set_upcall(before)
    provider.take_error()


def greenlets_alive() -> int:
    here = greenlet.getcurrent()
    gc.collect()
    return sum(isinstance(one, greenlet.greenlet) and bool(one) and one is not here for one in gc.get_objects())


def test_hundreds_are_put_aside_and_end_in_any_order(key_of: dict[bytes, Issued]) -> None:
    order = random.Random(7)
    contexts = [server_context(one, SSL.TLS1_3_VERSION) for one in key_of.values()]
    to_client = client_context()
    before = greenlets_alive()
    waiting = [suspend(contexts[number % len(contexts)], to_client) for number in range(400)]
    assert greenlets_alive() == before + 400
    order.shuffle(waiting)
    outcomes = {"finished": 0, "failed": 0, "dropped": 0}
    while waiting:
        one = waiting.pop()
        match order.randrange(10):
            case 0 | 1:
                answer = one.resume(ConnectionError("gone") if order.random() < 0.5 else b"short")
                assert "sealgate" in str(answer) or "signature" in str(answer), answer
                outcomes["failed"] += 1
            case 2:
                del one  # nobody holds it any more: greenlet raises GreenletExit inside, OpenSSL unwinds
                outcomes["dropped"] += 1
            case 3 if waiting:
                waiting.append(suspend(contexts[0], to_client))
                waiting.insert(0, one)
            case _:
                one.finish(key_of)
                outcomes["finished"] += 1
    assert min(outcomes.values()) > 10
    provider.take_error()
    assert greenlets_alive() == before


def test_tls_1_2_is_put_aside_as_well(key_of: dict[bytes, Issued]) -> None:
    contexts = [server_context(one, SSL.TLS1_2_VERSION) for one in key_of.values()]
    waiting = [suspend(context, client_context()) for context in contexts * 5]
    random.Random(3).shuffle(waiting)
    for one in waiting:
        ski, scheme, message = one.wanted
        assert one.resume(sign(key_of[ski].key, SCHEME_BY_NAME[scheme], message)) == "wants data"
        one.client.bio_write(one.server.bio_read(1 << 16))
        go_on(one.server, one.client)


def test_a_key_and_its_context_outlive_their_owners(key_of: dict[bytes, Issued]) -> None:
    one = suspend(server_context(next(iter(key_of.values())), SSL.TLS1_3_VERSION), client_context())
    gc.collect()
    one.finish(key_of)


def test_other_threads_sign_while_handshakes_wait(key_of: dict[bytes, Issued]) -> None:
    """A greenlet stays in its thread; each thread's handshakes are its own."""
    contexts = [server_context(one, SSL.TLS1_3_VERSION) for one in key_of.values()]
    failures: list[BaseException] = []

    def play(seed: int) -> None:
        try:
            order = random.Random(seed)
            waiting = [suspend(contexts[number % len(contexts)], client_context()) for number in range(40)]
            order.shuffle(waiting)
            for one in waiting:
                one.finish(key_of)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=play, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_an_error_is_kept_for_the_thread_it_happened_in(key_of: dict[bytes, Issued]) -> None:
    one = suspend(server_context(next(iter(key_of.values())), SSL.TLS1_3_VERSION), client_context())
    assert isinstance(one.resume(LookupError("mine")), SSL.Error)
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(provider.take_error()))
    thread.start()
    thread.join(10)
    assert seen == [None]
    assert isinstance(provider.take_error(), LookupError)


def test_failed_and_dropped_handshakes_leave_no_memory(key_of: dict[bytes, Issued]) -> None:
    context, to_client = server_context(next(iter(key_of.values())), SSL.TLS1_3_VERSION), client_context()

    def play(rounds: int) -> None:
        for number in range(rounds):
            one = suspend(context, to_client)
            if number % 3 == 0:
                one.resume(ConnectionError("gone"))
                provider.take_error()
            elif number % 3 == 1:
                one.finish(key_of)
            del one

    play(300)
    gc.collect()
    before = psutil.Process().memory_info().rss
    play(900)
    gc.collect()
    grown = psutil.Process().memory_info().rss - before
    assert grown < 900 * 2048, f"{grown} bytes more after 900 handshakes"
