from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from hsm.backends.attributes import KeyAttributes, KeyState, Purpose, Usage
from hsm.backends.book import Book, BookEntry, BookError, BookReason

A, B = b"a" * 20, b"b" * 20
NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
FULL = KeyAttributes(
    purpose=Purpose.CODE_SIGNING,
    state=KeyState.DESTROYING,
    schemes=("ecdsa_sha256",),
    not_before=NOW,
    not_after=NOW + timedelta(days=1),
    max_rate=0.5,
    destroy_at=NOW,
    successor=B,
    retire_quiet_s=600.0,
)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "token.book")


def retired(attributes: KeyAttributes) -> KeyAttributes:
    return replace(attributes, state=KeyState.RETIRED)


def test_a_book_that_is_not_there_yet_says_the_defaults(book: Book) -> None:
    assert book.attributes(A) == KeyAttributes()
    assert book.entries() == {}
    assert book.usage() == {}
    assert not book.has_changed()
    assert not book.path.exists(), "reading makes no file"


def test_everything_said_is_read_again_by_another_process(book: Book) -> None:
    book.add(A, FULL, created=NOW, imported=True)
    book.add_usage("node-1", {A: Usage(3, NOW), B: Usage(1, NOW)})
    again = Book(book.path)
    assert again.entries() == {
        A: BookEntry(attributes=FULL, created=NOW, imported=True, usage=Usage(3, NOW)),
        B: BookEntry(usage=Usage(1, NOW)),
    }
    assert stat.S_IMODE(book.path.stat().st_mode) == 0o600
    assert {path.name for path in book.path.parent.iterdir()} == {"token.book", "token.book.lock"}


def test_a_change_is_of_one_key_and_what_refuses_it_is_passed_on(book: Book) -> None:
    book.add(A, KeyAttributes(purpose=Purpose.CA))
    assert book.change(A, retired) == KeyAttributes(purpose=Purpose.CA, state=KeyState.RETIRED)
    assert book.change(B, retired).state is KeyState.RETIRED, "also of a key that was found in the token"
    assert book.attributes(A).state is KeyState.RETIRED
    before = book.path.read_bytes()

    def refuse(_: KeyAttributes) -> KeyAttributes:
        raise LookupError("no")

    with pytest.raises(LookupError):
        book.change(A, refuse)
    assert book.path.read_bytes() == before
    assert book.change(B, retired), "and the lock is free again"


def test_usage_of_all_nodes_is_one_sum_with_the_latest_time(book: Book) -> None:
    book.add_usage("node-1", {A: Usage(3, NOW)})
    book.add_usage("node-2", {A: Usage(2, NOW - timedelta(days=1)), B: Usage(1, NOW)})
    assert book.usage() == {A: Usage(5, NOW), B: Usage(1, NOW)}
    book.add_usage("node-1", {})
    book.change(A, retired)
    assert book.usage()[A] == Usage(5, NOW), "attributes and usage do not disturb each other"


def test_a_forgotten_key_leaves_nothing(book: Book) -> None:
    book.add(A, FULL)
    book.add_usage("node-1", {A: Usage(3, NOW)})
    book.forget(A)
    book.forget(B)
    assert book.attributes(A) == KeyAttributes()
    assert A.hex() not in book.path.read_text()
    book.add(A, KeyAttributes())
    assert book.usage() == {}


def test_a_key_that_is_made_again_begins_anew(book: Book) -> None:
    book.change(A, retired)
    book.add_usage("node-1", {A: Usage(3, NOW)})
    book.add(A, KeyAttributes(), created=NOW)
    assert book.entry(A) == BookEntry(created=NOW)


def test_changes_are_noticed_whoever_made_them(book: Book) -> None:
    other = Book(book.path)
    book.entries()
    other.change(A, retired)
    assert book.has_changed()
    assert book.attributes(A).state is KeyState.RETIRED
    assert book.has_changed(), "until the whole is asked for"
    book.entries()
    assert not book.has_changed()
    book.change(B, retired)
    assert book.has_changed(), "its own ones too: a backend and an admin may share a book"


def broken_books() -> list[tuple[str, str, BookReason]]:
    key = f'"{A.hex()}"'
    return [
        ("", "is not a book", BookReason.MALFORMED),
        ("{", "is not a book", BookReason.MALFORMED),
        ("[]", "Expected `object`", BookReason.MALFORMED),
        ('{"format": 1}', "missing required field `keys`", BookReason.MALFORMED),
        ('{"format": 2, "keys": {}}', "has format 2", BookReason.MALFORMED),
        ('{"format": 1, "keys": {}, "x": 1}', "unknown field `x`", BookReason.MALFORMED),
        ('{"format": 1, "keys": {"www": {}}}', "names a key 'www'", BookReason.MALFORMED),
        (f'{{"format": 1, "keys": {{{key}: {{"x": 1}}}}}}', "unknown field `x`", BookReason.MALFORMED),
        (
            f'{{"format": 1, "keys": {{{key}: {{"attributes": {{"state": "lost"}}}}}}}}',
            "Invalid enum value 'lost'",
            BookReason.MALFORMED,
        ),
        (
            f'{{"format": 1, "keys": {{{key}: {{"attributes": {{"max_rate": 0}}}}}}}}',
            "Expected `float` > 0",
            BookReason.MALFORMED,
        ),
    ]


@pytest.mark.parametrize(("text", "words", "reason"), broken_books())
def test_what_is_no_book_is_refused_by_name_and_left_alone(
    book: Book, text: str, words: str, reason: BookReason
) -> None:
    book.path.write_text(text)
    book.path.chmod(0o600)
    for attempt in (lambda: book.attributes(A), lambda: book.add(A, FULL), lambda: book.add_usage("n", {A: Usage(1)})):
        with pytest.raises(BookError, match=words) as caught:
            attempt()
        assert caught.value.reason is reason
        assert str(caught.value).startswith(str(book.path))
    assert book.path.read_text() == text


@pytest.mark.parametrize("data", [b'{"format": 1, "keys": {"\xff": {}}}', b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_text_are_no_book(book: Book, data: bytes) -> None:
    book.path.write_bytes(data)
    book.path.chmod(0o600)
    with pytest.raises(BookError, match="is not a book"):
        book.entries()


@settings(max_examples=40)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_book_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("book") / "b"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(BookError):
        Book(path).entries()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('{"attributes": {"not_before": "2030-01-02T00:00:00"}}', f"about key {A.hex()}: not_before has no time zone"),
        ('{"attributes": {"not_after": "2030-01-02T00:00:00"}}', "not_after has no time zone"),
        ('{"attributes": {"not_after": "9999-12-31T23:59:59-01:00"}}', "after the year 9999"),
        ('{"attributes": {"retire_quiet_s": 1e300}}', "retire_quiet_s"),
        ('{"created": "2030-01-02T00:00:00"}', "timezone"),
        ('{"usage": {"signatures": 1, "last_used": "2030-01-02T00:00:00"}}', "timezone"),
    ],
)
def test_times_that_no_clock_can_be_compared_with_are_refused(book: Book, entry: str, words: str) -> None:
    """Else the question whether the key may sign would fail, and with it every request for it."""
    book.path.write_text(f'{{"format": 1, "keys": {{"{A.hex()}": {entry}}}}}')
    book.path.chmod(0o600)
    with pytest.raises(BookError, match=words) as caught:
        book.entries()
    assert caught.value.reason is BookReason.MALFORMED


def test_a_book_that_others_may_touch_is_refused(book: Book) -> None:
    book.add(A, FULL)
    book.path.chmod(0o640)
    with pytest.raises(BookError, match="chmod 600") as caught:
        Book(book.path).attributes(A)
    assert caught.value.reason is BookReason.UNSAFE
    book.path.unlink()
    os.mkfifo(book.path, 0o600)
    with pytest.raises(BookError, match="is not a regular file"):
        Book(book.path).attributes(A)


def test_a_book_that_vanishes_does_not_make_retired_keys_active(book: Book) -> None:
    book.change(A, retired)
    book.path.unlink()
    assert book.has_changed()
    for attempt in (lambda: book.attributes(A), lambda: book.change(B, retired), book.entries):
        with pytest.raises(BookError, match="was removed while it was in use") as caught:
            attempt()
        assert caught.value.reason is BookReason.GONE
    assert not book.path.exists()


def test_a_folder_that_is_missing_or_open_to_others_is_named(tmp_path: Path) -> None:
    book = Book(tmp_path / "none" / "token.book")
    assert book.attributes(A) == KeyAttributes()
    with pytest.raises(BookError, match=r"none/token\.book can't be trusted: .*none does not exist"):
        book.add(A, FULL)
    (tmp_path / "none").mkdir()
    book.add(A, FULL)
    (tmp_path / "none").chmod(0o770)
    for attempt in (lambda: book.forget(A), lambda: Book(book.path).entries()):
        with pytest.raises(BookError, match="can be written by group or others") as caught:
            attempt()
        assert caught.value.reason is BookReason.UNSAFE


def test_a_disk_that_fails_leaves_the_old_book(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    book.add(A, FULL)
    before = book.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BookError, match="can't be written: No space left on device"):
        book.forget(A)
    assert book.path.read_bytes() == before
    assert book.attributes(A) == FULL
    assert {path.name for path in book.path.parent.iterdir()} == {"token.book", "token.book.lock"}


def test_nobody_waits_for_ever_for_the_lock(tmp_path: Path) -> None:
    book = Book(tmp_path / "token.book", lock_timeout_s=0.05)
    with (tmp_path / "token.book.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BookError, match=r"held by another process for more than 0\.05 s") as caught:
            book.add(A, FULL)
        assert caught.value.reason is BookReason.BUSY
        assert book.attributes(A) == KeyAttributes(), "reading does not wait"
    book.add(A, FULL)


def count(path: Path, node: str, times: int) -> None:
    book = Book(path)
    for _ in range(times):
        book.add_usage(node, {A: Usage(1, NOW)})


def test_processes_and_threads_lose_none_of_each_others_changes(book: Book) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=count, args=(book.path, f"node-{number}", 10)) for number in range(2)]
    threads = [threading.Thread(target=count, args=(book.path, "here", 10)) for _ in range(2)]
    workers: list[multiprocessing.process.BaseProcess | threading.Thread] = [*processes, *threads]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert book.usage()[A] == Usage(40, NOW)


def test_a_reader_never_sees_half_a_book(book: Book) -> None:
    book.add(A, FULL)
    done = threading.Event()
    failures: list[Exception] = []

    def read() -> None:
        while not done.is_set():
            try:
                assert Book(book.path).attributes(A) == FULL
            except Exception as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20):
        book.change(number.to_bytes(20), retired)
    done.set()
    reader.join(10)
    assert failures == []


def test_the_file_can_be_read_by_people(book: Book) -> None:
    book.add(A, KeyAttributes(purpose=Purpose.CA, max_rate=2.0), created=NOW)
    entry = json.loads(book.path.read_text())["keys"][A.hex()]
    assert entry == {"attributes": {"purpose": "ca", "max_rate": 2.0}, "created": "2030-01-02T03:04:05Z"}
