from __future__ import annotations

import socket
import threading

from hsm.backends.pkcs11.framing import MAX_FRAME_BYTES, answer_reader
from hsm.backends.pkcs11.messages import Answer, Done, Failed, Signed
from hsm.backends.pkcs11.outbox import Outbox


def read_until(connection: socket.socket, count: int) -> list[Answer]:
    connection.settimeout(20)
    reader, answers = answer_reader(), list[Answer]()
    while len(answers) < count:
        data = connection.recv(65536)
        assert data, "the outbox hung up"
        answers += reader.feed(data)
    return answers


def test_every_answer_of_many_threads_arrives_once() -> None:
    node, worker = socket.socketpair()
    outbox = Outbox(worker)
    threads = [
        threading.Thread(target=lambda n=n: [outbox.put(Done(id=n * 1000 + i)) for i in range(1000)]) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    answers = read_until(node, 8000)
    for thread in threads:
        thread.join(10)
    assert sorted(answer.id for answer in answers) == list(range(8000))
    node.close()
    worker.close()


def test_what_gathers_while_one_thread_sends_leaves_with_it() -> None:
    node, worker = socket.socketpair()
    outbox = Outbox(worker)
    big = Signed(id=0, signature=bytes(2 * 1024 * 1024))  # more than a socket holds: its sender blocks
    sender = threading.Thread(target=outbox.put, args=(big,))
    sender.start()
    for number in range(1, 50):
        if number == 1:
            while not outbox._sending.locked():
                pass
        outbox.put(Done(id=number))  # returns although nobody reads
    assert [answer.id for answer in read_until(node, 50)] == list(range(50))
    sender.join(10)
    node.close()
    worker.close()


def test_an_answer_that_is_too_long_becomes_an_error() -> None:
    node, worker = socket.socketpair()
    Outbox(worker).put(Signed(id=5, signature=bytes(MAX_FRAME_BYTES)))
    (answer,) = read_until(node, 1)
    assert isinstance(answer, Failed)
    assert (answer.id, answer.kind) == (5, "broken")
    node.close()
    worker.close()


def test_a_node_that_is_gone_is_no_error() -> None:
    node, worker = socket.socketpair()
    node.close()
    outbox = Outbox(worker)
    for number in range(3):
        outbox.put(Done(id=number))
    worker.close()
