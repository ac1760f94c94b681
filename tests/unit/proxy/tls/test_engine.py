"""Engine and real clients, without sockets: handshakes, data, ends and failures."""

from __future__ import annotations

import gc
import itertools
import ssl
import weakref
from pathlib import Path

import greenlet
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from OpenSSL._util import lib

from hsm.wire.schemes import Scheme
from proxy.base.errors import TlsReason
from proxy.config.schema import TlsConfig
from proxy.tls import callbacks
from proxy.tls.contexts import Contexts
from proxy.tls.engine import MAX_EARLY_BYTES, TlsEngine
from proxy.tls.events import NeedSignature, PeerClosed, Plaintext, TlsFailed
from tests.support import pki
from tests.support.tls_peer import Conversation, Keys, Served, StdlibClient, build_sites, client_context

CA = pki.make_ca(key=pki.shared_key())
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class World:
    """One site with three kinds of certificates, and clients for it."""

    def __init__(self, folder: Path, *, kinds: tuple[str, ...] = ("p256",), tls: TlsConfig | None = None) -> None:
        certificates = tuple(pki.issue(CA, ["a.test"], pki.shared_key(kind)) for kind in kinds)
        self.contexts, self.keys = build_sites(folder, [Served(("a.test",), certificates, default=True)], tls)

    def talk(self, server_name: str | None = "a.test", **changes: object) -> Conversation:
        """A new client that has not said anything yet."""
        client = StdlibClient(client_context(CA, **changes), server_name)
        return Conversation(TlsEngine(self.contexts), client, self.keys.sign)

    def suspended(self) -> Conversation:
        """A handshake that waits for its signature."""
        talk = self.talk()
        talk._signer = None
        talk.run()
        assert talk.engine.is_waiting
        return talk


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("kind", "tls13", "tls12"),
    [
        ("p256", Scheme.ECDSA_SHA256, Scheme.ECDSA_SHA256),
        ("p384", Scheme.ECDSA_SHA384, Scheme.ECDSA_SHA384),
        ("ed25519", Scheme.ED25519, Scheme.ED25519),
        ("rsa-2048", Scheme.RSA_PSS_SHA256, Scheme.RSA_PSS_SHA256),
    ],
)
def test_every_key_type_signs_in_both_versions(
    tmp_path: Path, version: ssl.TLSVersion, kind: str, tls13: Scheme, tls12: Scheme
) -> None:
    world = World(tmp_path, kinds=(kind,))
    talk = world.talk(maximum_version=version, minimum_version=version).run()
    assert talk.done.version == ("TLSv1.3" if version is ssl.TLSVersion.TLSv1_3 else "TLSv1.2")
    assert talk.client.is_done
    assert world.keys.schemes[0].family is tls13.family
    assert talk.client.tls.cipher()[0] == talk.done.cipher  # type: ignore[index]  # not None after a handshake
    assert not talk.done.is_resumed
    assert not any(isinstance(event, TlsFailed) for event in talk.events)


def test_what_is_to_be_signed_says_for_whom(world: World) -> None:
    talk = world.suspended()
    (wanted,) = (event for event in talk.events if isinstance(event, NeedSignature))
    assert (wanted.site, wanted.server_name, wanted.scheme) == ("a.test", "a.test", Scheme.ECDSA_SHA256)
    assert (wanted.ski, b"server CertificateVerify" in wanted.message) == (world.contexts.site_keys[0][0], True)
    assert not talk.engine.handshake_is_done
    talk.engine.complete_signature(world.keys.sign(wanted))
    assert talk.run().done.group == "x25519"


@pytest.mark.parametrize("version", VERSIONS)
def test_data_flows_both_ways_and_both_ends_say_goodbye(world: World, version: ssl.TLSVersion) -> None:
    talk = world.talk(maximum_version=version).run()
    upload, download = b"u" * 1_500_000, b"d" * 3_000_001
    talk.client.tls.write(upload)
    talk.engine.send(download)
    talk.run()
    assert talk.plaintext == upload
    assert bytes(talk.client.received) == download
    talk.engine.close()
    talk.run()
    assert talk.client.is_closed
    talk.client.close()
    assert isinstance(talk.run().events[-1], PeerClosed)
    talk.engine.receive_eof()
    assert talk.engine.events() == []


def test_the_client_closes_first_and_still_gets_the_rest(world: World) -> None:
    talk = world.talk().run()
    talk.client.close()
    talk.run()
    assert talk.events[-1] == PeerClosed()
    talk.engine.send(b"the rest")
    talk.engine.close()
    talk.run()
    assert talk.engine.events() == []


def test_nothing_is_sent_after_close(world: World) -> None:
    talk = world.talk().run()
    talk.engine.close()
    assert talk.engine.data_to_send()
    talk.engine.send(b"late")
    talk.engine.close()
    assert talk.engine.data_to_send() == b""


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    up=st.binary(max_size=40_000),
    down=st.lists(st.binary(max_size=20_000), max_size=5),
    cuts=st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    version=st.sampled_from(VERSIONS),
)
def test_chunking_does_not_matter(
    world: World, up: bytes, down: list[bytes], cuts: list[int], version: ssl.TLSVersion
) -> None:
    talk = world.talk(maximum_version=version)
    sizes = itertools.cycle(cuts)
    wrote = False
    for _ in range(6):
        talk.client.step()
        if talk.client.is_done and talk.engine.handshake_is_done and not wrote:
            talk.client.tls.write(up)
            wrote = True
        outgoing = talk.client.data_to_send()
        while outgoing:
            size = next(sizes)
            talk.engine.receive_data(outgoing[:size])
            talk._handle(talk.engine.events())
            outgoing = outgoing[size:]
        talk.client.receive_data(talk.engine.data_to_send())
    for piece in down:
        talk.engine.send(piece)
    talk.run()
    assert (wrote, talk.plaintext) == (True, up)
    assert bytes(talk.client.received) == b"".join(down)


def test_one_byte_at_a_time(world: World) -> None:
    talk = world.talk()
    for _ in range(3):
        talk.client.step()
        for byte in talk.client.data_to_send():
            talk.engine.receive_data(bytes((byte,)))
            talk._handle(talk.engine.events())
        talk.client.receive_data(talk.engine.data_to_send())
    assert talk.run().done.version == "TLSv1.3"


def test_a_hello_in_many_tiny_records(world: World) -> None:
    talk = world.talk()
    talk.client.step()
    hello = talk.client.data_to_send()
    body = hello[5:]
    records = b"".join(hello[:3] + b"\x00\x01" + bytes((byte,)) for byte in body)
    talk.engine.receive_data(records)
    talk._handle(talk.engine.events())
    talk.client.receive_data(talk.engine.data_to_send())
    assert talk.run().done.version == "TLSv1.3"


def test_several_hundred_handshakes_interleave(world: World) -> None:
    talks = [world.suspended() for _ in range(300)]
    for number, talk in enumerate(reversed(talks)):
        (wanted,) = (event for event in talk.events if isinstance(event, NeedSignature))
        if number % 7 == 0:
            talk.engine.fail_signature()
        elif number % 11 == 0:
            talk.engine.abort()
        else:
            talk.engine.complete_signature(world.keys.sign(wanted))
            if number % 3 == 0:  # others' errors lie in the queue meanwhile
                TlsEngine(world.contexts).receive_data(b"GET / HTTP/1.1\r\n\r\n")
    for number, talk in enumerate(reversed(talks)):
        talk.run()
        if number % 7 == 0:
            assert talk.failed.reason is TlsReason.SIGNING_FAILED
        elif number % 11:
            assert talk.done.site == "a.test"


def test_a_refused_signature_is_an_alert_and_a_reason(world: World) -> None:
    talk = world.suspended()
    talk.engine.fail_signature()
    talk.run()
    assert talk.failed == TlsFailed(TlsReason.SIGNING_FAILED, "no signature", "a.test")
    assert "internal error" in str(talk.client_error)
    shed = world.suspended()
    shed.engine.fail_signature(TlsReason.OVERLOADED, "queue is full")
    assert shed.run().failed.reason is TlsReason.OVERLOADED


def test_a_signature_of_the_wrong_length_fails_the_handshake_not_the_program(world: World) -> None:
    talk = world.suspended()
    talk.engine.complete_signature(b"x" * 5000)
    assert talk.run().failed.reason is TlsReason.SIGNING_FAILED


def test_abort_frees_everything(world: World) -> None:
    before = len([one for one in gc.get_objects() if isinstance(one, greenlet.greenlet)])
    gone = []
    for _ in range(200):
        talk = world.suspended()
        gone.append(weakref.ref(talk.engine))
        talk.engine.abort()
        talk.engine.receive_data(b"more")
        talk.engine.complete_signature(b"late")
        talk.engine.fail_signature()
        talk.engine.receive_eof()
        assert (talk.engine.events(), talk.engine.data_to_send(), talk.engine.is_waiting) == ([], b"", False)
    del talk
    assert [engine for engine in gone if engine() is not None] == []
    after = len([one for one in gc.get_objects() if isinstance(one, greenlet.greenlet)])
    assert after <= before + callbacks.MAX_IDLE


def test_clients_that_vanish_leave_no_memory(world: World) -> None:
    def vanish(count: int) -> int:
        for _ in range(count):
            world.suspended().engine.abort()
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    before = vanish(300)
    assert vanish(600) - before < 3_000_000  # one leaked handshake would be about 30 kB


def test_engines_are_freed_without_the_garbage_collector(world: World) -> None:
    gc.disable()
    try:
        talk = world.talk().run()
        gone = weakref.ref(talk.engine)
        del talk
        assert gone() is None
    finally:
        gc.enable()


def test_the_client_closes_while_its_signature_is_made(world: World) -> None:
    talk = world.suspended()
    talk.engine.receive_eof()
    detail = "the client closed the connection during the handshake"
    assert talk.engine.events() == [TlsFailed(TlsReason.CLIENT_CLOSED, detail, "a.test")]
    assert not talk.engine.is_waiting


def test_a_connection_cut_short_is_truncated(world: World) -> None:
    talk = world.talk().run()
    talk.engine.receive_eof()
    (failed,) = talk.engine.events()
    assert isinstance(failed, TlsFailed)
    assert (failed.reason, failed.site) == (TlsReason.TRUNCATED, "a.test")


def test_what_a_client_may_send_while_it_waits_is_bounded(world: World) -> None:
    talk = world.suspended()
    for _ in range(5):
        talk.engine.receive_data(bytes(MAX_EARLY_BYTES // 4))
    (failed,) = talk.engine.events()
    assert isinstance(failed, TlsFailed)
    assert failed.reason is TlsReason.BAD_RECORD


def test_sending_before_the_handshake_is_a_mistake_of_the_caller(world: World) -> None:
    with pytest.raises(RuntimeError, match="before HandshakeDone"):
        TlsEngine(world.contexts).send(b"early")


def test_the_untrusting_client_is_heard(world: World) -> None:
    stranger = pki.make_ca("Stranger")
    talk = Conversation(
        TlsEngine(world.contexts), StdlibClient(client_context(stranger), "a.test"), world.keys.sign
    ).run()
    assert talk.failed.reason is TlsReason.CLIENT_ALERT
    assert isinstance(talk.client_error, ssl.SSLCertVerificationError)


def make_engine(contexts: Contexts, data: bytes) -> TlsEngine:
    engine = TlsEngine(contexts)
    engine.receive_data(data)
    return engine


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", TlsReason.NOT_TLS),
        (b"CONNECT a.test:443 HTTP/1.1\r\n\r\n", TlsReason.NOT_TLS),
        (b"\x00" * 100, TlsReason.NOT_TLS),
        (b"\xff" * 100, TlsReason.NOT_TLS),
        (b"SSH-2.0-OpenSSH_9.6\r\n", TlsReason.NOT_TLS),
        (b"\x16\x05\x01\x00\x05hello", TlsReason.BAD_RECORD),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00" + b"\x16\x03\x01\x00\x01\x00", TlsReason.BAD_RECORD),
        (b"\x16\x03\x01\x00\x05\x0b\x00\x00\x01\x00", TlsReason.BAD_RECORD),
        (b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16380), TlsReason.BAD_RECORD),
        (b"\x16\x03\x01\xff\xff" + bytes(70000), TlsReason.BAD_RECORD),
        (b"\x15\x03\x01\x00\x02\x02\x28", TlsReason.NOT_TLS),
    ],
)
def test_hostile_first_bytes_have_a_reason(world: World, data: bytes, reason: TlsReason) -> None:
    engine = make_engine(world.contexts, data)
    (failed,) = engine.events()
    assert isinstance(failed, TlsFailed)
    assert (failed.reason, failed.site) == (reason, ""), failed.detail
    assert failed.detail
    engine.receive_data(data)
    engine.close()
    assert engine.events() == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=2000), st.booleans())
def test_garbage_never_raises(world: World, data: bytes, looks_like_tls: bool) -> None:
    prefix = b"\x16\x03\x01" + len(data).to_bytes(2, "big") if looks_like_tls else b""
    engine = make_engine(world.contexts, prefix + data)
    engine.receive_eof()
    assert all(isinstance(event, TlsFailed) for event in engine.events())
    engine.abort()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(5, 600), st.integers(0, 255)), min_size=1, max_size=4), st.sampled_from(VERSIONS))
def test_a_damaged_hello_never_raises(world: World, changes: list[tuple[int, int]], version: ssl.TLSVersion) -> None:
    talk = world.talk(maximum_version=version)
    talk.client.step()
    hello = bytearray(talk.client.data_to_send())
    for place, value in changes:
        hello[place % len(hello)] = value
    talk.engine.receive_data(bytes(hello))
    talk.engine.receive_eof()
    events = talk.engine.events()
    assert isinstance(events[-1], TlsFailed)
    assert all(isinstance(event, NeedSignature) for event in events[:-1])
    assert not talk.engine.is_waiting


def test_errors_of_others_do_not_count(world: World) -> None:
    talk = world.talk().run()
    lib.SSL_CTX_use_certificate_chain_file(world.contexts.front._context, b"/nonexistent")
    talk.engine.send(b"down")
    lib.SSL_CTX_use_certificate_chain_file(world.contexts.front._context, b"/nonexistent")
    talk.client.tls.write(b"up")
    assert talk.run().plaintext == b"up"
    assert bytes(talk.client.received) == b"down"
    assert not any(isinstance(event, TlsFailed) for event in talk.events)


def test_a_damaged_record_is_a_bad_record_and_an_alert(world: World) -> None:
    talk = world.talk().run()
    talk.client.tls.write(b"payload" * 100)
    record = bytearray(talk.client.data_to_send())
    record[-1] ^= 1
    talk.engine.receive_data(bytes(record))
    (failed,) = talk.engine.events()
    assert isinstance(failed, TlsFailed)
    assert failed.reason is TlsReason.BAD_RECORD
    assert talk.engine.data_to_send()
    talk.engine.send(b"after the end")
    assert talk.engine.data_to_send() == b""


def test_many_tiny_records_become_few_events(world: World) -> None:
    talk = world.talk().run()
    for number in range(3000):
        talk.client.tls.write(bytes((number % 256,)))
    talk.run()
    assert talk.plaintext == bytes(number % 256 for number in range(3000))
    assert len([event for event in talk.events if isinstance(event, Plaintext)]) <= 20


def test_keys_are_asked_for_by_name_only(world: World) -> None:
    assert isinstance(world.keys, Keys)
    with pytest.raises(KeyError):
        world.keys.sign(NeedSignature(bytes(20), Scheme.ED25519, b"", "a.test", ""))
