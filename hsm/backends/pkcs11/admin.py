"""What an administrator does with the keys of a PKCS#11 token. No operation returns private bytes.

Keys are made, imported and destroyed by a worker that lives as long as the operation, so that a token that takes a
minute to make a key, or that crashes at it, disturbs no signature. Within a node, what only looks or signs goes through
the worker that signs anyway. What a token can't keep (attributes, use, when a key was made) stands in the book.
Methods block and may be called from any thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from hsm.backends.attributes import KeyAttributes, Usage, attributes_problem
from hsm.backends.book import Book, BookEntry, BookError, BookReason
from hsm.backends.pkcs11.blocking_worker import BlockingWorker
from hsm.backends.pkcs11.login import LoginSource
from hsm.backends.pkcs11.messages import (
    Answer,
    Destroy,
    FoundKey,
    Generate,
    Import,
    KeysFound,
    ListKeys,
    Request,
    Sign,
    Signed,
)
from hsm.backends.pkcs11.private_keys import TokenPrivateKey, private_key_of
from hsm.backends.pkcs11.problems import Pkcs11Problem, ProblemKind, WorkerProblem, problem_of
from hsm.backends.pkcs11.settings import TokenSettings
from hsm.backends.vault import keys as forms
from hsm.backends.vault.errors import VaultError
from hsm.backends.x509_forms import FormProblem, request_builder, self_signed_builder, signature_hash
from hsm.wire.schemes import KeyType, Scheme

MAX_COPIES = 8
"""Of one key, destroyed at once."""


class Asks(Protocol):
    """A worker that can be asked. Blocks. Raises WorkerProblem."""

    def ask(self, request: Request) -> Answer: ...


@dataclass(frozen=True, slots=True)
class TokenKeyRecord:
    """What anybody may know of a key in a token."""

    ski: bytes
    type: KeyType
    label: str
    created: datetime | None
    """None for a key that was in the token before."""
    imported: bool
    """The token did not make it, so copies may exist elsewhere."""
    public_key: str
    attributes: KeyAttributes


class Pkcs11Admin:
    """A `KeyAdmin` of a PKCS#11 token. Keys are named by SKI (40 hex digits) or by label. Raises Pkcs11Problem."""

    def __init__(
        self,
        settings: TokenSettings,
        book: Book,
        on_change: Callable[[], None] = lambda: None,
        *,
        login: LoginSource | None = None,
        running: Asks | None = None,
    ) -> None:
        """`on_change` is called after each operation that made or destroyed a key; `running` is the node's worker."""
        self._settings = settings
        self._book = book
        self._on_change = on_change
        self._login = login or LoginSource(settings.pin, settings.user)
        self._running = running

    def generate(self, type: KeyType, label: str, attributes: KeyAttributes = KeyAttributes()) -> TokenKeyRecord:
        """Make a new key inside the token, never to leave it."""
        with self._translated():
            forms.check_label(label)
            _check(attributes, type)
            if type not in forms.GENERATED_TYPES:
                known = ", ".join(known_type.value for known_type in forms.GENERATED_TYPES)
                sentence = f"keys of type {type.value} can't be generated; choose one of {known}"
                raise Pkcs11Problem(ProblemKind.INVALID, sentence)
            return self._add(Generate(id=0, type=type, label=label), label, attributes, imported=False)

    def import_pem(
        self, pem: bytes, password: bytes | None, label: str, attributes: KeyAttributes = KeyAttributes()
    ) -> TokenKeyRecord:
        """Put a key from outside (PEM: PKCS#8, PKCS#1, SEC 1) into the token, not to be read again.

        Destroy the outside copies: the token can't.
        """
        with self._translated():
            forms.check_label(label)
            key = forms.from_pem(pem, password)
            _check(attributes, forms.type_of(key))
            der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            return self._add(Import(id=0, label=label, private_key=der), label, attributes, imported=True)

    def get(self, reference: str) -> TokenKeyRecord:
        """One key."""
        with self._translated(), self._looking() as worker:
            return self._record(_the_key(_listed(worker), reference))

    def csr(self, reference: str, subject: str, names: Sequence[str]) -> bytes:
        """A PEM certificate request signed by the key, for a CA to certify; of the form of the key's purpose."""
        with self._translated(), self._looking() as worker:
            key, record = self._private(worker, reference)
            builder = request_builder(subject, names, record.attributes.purpose)
            return builder.sign(key, signature_hash(key)).public_bytes(Encoding.PEM)

    def self_sign(self, reference: str, subject: str, names: Sequence[str], days: int = 90) -> bytes:
        """A PEM certificate that the key signs for itself, valid for `days`; of the form of the key's purpose."""
        with self._translated(), self._looking() as worker:
            key, record = self._private(worker, reference)
            purpose, now = record.attributes.purpose, datetime.now(UTC)
            builder = self_signed_builder(subject, names, key.public_key(), purpose=purpose, now=now, days=days)
            return builder.sign(key, signature_hash(key)).public_bytes(Encoding.PEM)

    def change(self, reference: str, change: Callable[[TokenKeyRecord], KeyAttributes]) -> TokenKeyRecord:
        """Replace a key's attributes by what `change` makes of its record; what it raises is passed on."""
        with self._translated():
            with self._looking() as worker:
                found = _the_key(_listed(worker), reference)
            entry = self._book.entry(found.ski)

            def changed(attributes: KeyAttributes) -> KeyAttributes:
                return _check(change(_record(found, entry, attributes)), found.type)

            return _record(found, entry, self._book.change(found.ski, changed))

    def destroy(self, reference: str) -> TokenKeyRecord:
        """Delete a key for ever and return what it was. Certificates made for it become useless."""
        with self._translated(), self._working() as worker:
            found = _the_key(_listed(worker), reference)
            record = self._record(found)
            try:
                _destroy_all(worker, found)
            finally:
                self._on_change()
            self._book.forget(found.ski)
            return record

    def add_usage(self, node: str, used: Mapping[bytes, Usage]) -> None:
        """Add what one node has signed since it last said so. Keys are left out that the token says are gone."""
        if not used:
            return
        with self._translated():
            gone = self._gone_of(used)
            self._book.add_usage(node, {ski: usage for ski, usage in used.items() if ski not in gone})

    def usage(self) -> Mapping[bytes, Usage]:
        """By SKI, all nodes together. Keys never used are left out."""
        with self._translated():
            return self._book.usage()

    # how

    def _gone_of(self, skis: Collection[bytes]) -> set[bytes]:
        try:
            with self._looking() as worker:
                return set(skis) - {key.ski for key in _listed(worker)}
        except WorkerProblem:
            return set()  # the token is away; nobody could sign with a key that was gone before

    def _add(
        self, request: Generate | Import, label: str, attributes: KeyAttributes, *, imported: bool
    ) -> TokenKeyRecord:
        with self._working() as worker:
            if any(key.label == label for key in _listed(worker)):
                sentence = f"a key labelled {label!r} exists already; choose another label"
                raise Pkcs11Problem(ProblemKind.EXISTS, sentence)
            try:
                answer = worker.ask(request)
                assert isinstance(answer, KeysFound)
                (found,) = answer.keys
                try:
                    created = datetime.now(UTC).replace(microsecond=0)
                    self._book.add(found.ski, attributes, created=created, imported=imported)
                except BookError:
                    worker.ask(Destroy(id=0, key=found.ski))  # without its attributes it might sign too much
                    raise
            finally:
                self._on_change()
        return self._record(found)

    @contextlib.contextmanager
    def _working(self) -> Iterator[BlockingWorker]:
        """A worker for this operation alone."""
        with BlockingWorker.open(self._settings, self._login) as worker:
            yield worker

    @contextlib.contextmanager
    def _looking(self) -> Iterator[Asks]:
        """A worker that can list and sign."""
        if self._running is not None:
            yield self._running
        else:
            with self._working() as worker:
                yield worker

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Within it, what others raise becomes a Pkcs11Problem."""
        try:
            yield
        except WorkerProblem as problem:
            raise problem_of(problem) from None
        except BookError as problem:
            kind = ProblemKind.CONFLICT if problem.reason is BookReason.BUSY else ProblemKind.UNAVAILABLE
            raise Pkcs11Problem(kind, problem.sentence) from None
        except FormProblem as problem:
            raise Pkcs11Problem(ProblemKind.INVALID, problem.sentence) from None
        except VaultError as problem:  # labels and PEM files are looked at by the vault's rules
            raise Pkcs11Problem(ProblemKind.INVALID, problem.sentence) from None

    def _record(self, found: FoundKey) -> TokenKeyRecord:
        entry = self._book.entry(found.ski)
        return _record(found, entry, entry.attributes)

    def _private(self, worker: Asks, reference: str) -> tuple[TokenPrivateKey, TokenKeyRecord]:
        found = _the_key(_listed(worker), reference)

        def sign(scheme: Scheme, payload: bytes) -> bytes:
            answer = worker.ask(Sign(id=0, key=found.ski, scheme=scheme.value, payload=payload))
            assert isinstance(answer, Signed)
            return answer.signature

        return private_key_of(found, sign), self._record(found)

    # The last method, because in the class body its name hides the built-in type from annotations below it.
    def list(self) -> Sequence[TokenKeyRecord]:
        """All keys, by label."""
        with self._translated():
            with self._looking() as worker:
                found = _listed(worker)
            records = [self._record(key) for key in found]
        return sorted(records, key=lambda record: (record.label, record.ski))


def _destroy_all(worker: Asks, key: FoundKey) -> None:
    """Destroy a key and its copies: of one that is left the book would say nothing, so that it would be active."""
    for _ in range(MAX_COPIES):
        worker.ask(Destroy(id=0, key=key.ski))
        if all(left.ski != key.ski for left in _listed(worker)):
            return
    sentence = f"key {key.label!r} is in the token still, though {MAX_COPIES} copies of it were destroyed; try again"
    raise Pkcs11Problem(ProblemKind.UNAVAILABLE, sentence)


def _listed(worker: Asks) -> tuple[FoundKey, ...]:
    answer = worker.ask(ListKeys(id=0))
    assert isinstance(answer, KeysFound)
    return answer.keys


def _the_key(found: Sequence[FoundKey], reference: str) -> FoundKey:
    ski = forms.ski_in(reference)
    fitting = [key for key in found if (key.ski == ski if ski is not None else key.label == reference)]
    if len(fitting) > 1:
        names = ", ".join(sorted(key.ski.hex() for key in fitting))
        sentence = f"{len(fitting)} keys of the token are labelled {reference!r}; name one by its SKI: {names}"
        raise Pkcs11Problem(ProblemKind.INVALID, sentence)
    if not fitting:
        sentence = f"the token has no key {reference!r}; list the keys to see their names"
        raise Pkcs11Problem(ProblemKind.NOT_FOUND, sentence)
    return fitting[0]


def _record(found: FoundKey, entry: BookEntry, attributes: KeyAttributes) -> TokenKeyRecord:
    pem = load_der_public_key(found.public_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    is_imported = entry.imported or not found.is_local
    return TokenKeyRecord(found.ski, found.type, found.label, entry.created, is_imported, pem.decode(), attributes)


def _check(attributes: KeyAttributes, type_: KeyType) -> KeyAttributes:
    problem = attributes_problem(attributes, type_)
    if problem is not None:
        raise Pkcs11Problem(ProblemKind.INVALID, problem)
    return attributes
