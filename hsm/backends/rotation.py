"""Makes the successor of a key: a new key of the same type and attributes in the same token, with a request for it.

Blocks, and works with any `KeyAdmin`. The old key retires later, by `lifecycle.run_due`. Whatever fails leaves the old
key as it was and no successor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from hsm.backends.attributes import Purpose
from hsm.backends.base import KeyAdmin, KeyRecord
from hsm.backends.lifecycle import next_label, quiet_for, rotating, succeeding
from hsm.backends.x509_forms import FormProblem, parse_names, parse_subject

MAX_COMMON_NAME = 64
"""RFC 5280 A.1: ub-common-name."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """A key, the one that takes its place, and a request for the latter's certificate (PEM)."""

    old: KeyRecord
    successor: KeyRecord
    csr: bytes


@dataclass(frozen=True, slots=True)
class Names:
    """What a certificate is to be made out to."""

    names: Sequence[str] = ()
    subject: str = ""

    def subject_for(self, record: KeyRecord) -> str:
        """The subject that was given, or one that suits the key: the first name that fits, or its label.

        Raises FormProblem where the names or the subject can't be certified for a key of its purpose.
        """
        if not self.names and record.attributes.purpose is Purpose.TLS_SERVER:
            raise FormProblem("give at least one name: clients look at the names, not at the subject")
        subject = self.subject or f"CN={self._common_name(record.label)}"
        parse_subject(subject)
        if self.names:
            parse_names(self.names)
        return subject

    def _common_name(self, label: str) -> str:
        if not self.names:
            return label
        fitting = next((name for name in self.names if len(name) <= MAX_COMMON_NAME), None)
        if fitting is None:
            sentence = f"no name has at most {MAX_COMMON_NAME} characters, as the subject needs; give a subject"
            raise FormProblem(sentence)
        return fitting


def rotate(
    admin: KeyAdmin,
    reference: str,
    now: datetime,
    names: Names,
    *,
    quiet_s: float | None = None,
    taken: Collection[str] = (),
) -> Rotation:
    """Make a key's successor, whose label is none of `taken`; the key is to retire `quiet_s` after its last use.

    None for `quiet_s` chooses what suits the number of keys. Raises LifecycleProblem, FormProblem, and what the
    token's admin raises.
    """
    record = admin.get(reference)
    attributes = succeeding(record, now)
    subject = names.subject_for(record)  # before there is anything to be undone
    labels = [other.label for other in admin.list()]
    label = next_label(record.label, {*taken, *labels})
    quiet_s = quiet_for(len(labels) + 1) if quiet_s is None else quiet_s
    successor = admin.generate(record.type, label, attributes)
    with _undone(admin, successor):
        csr = admin.csr(successor.ski.hex(), subject, names.names)
        old = admin.change(record.ski.hex(), lambda current: rotating(current, now, successor.ski, quiet_s))
    return Rotation(old, successor, csr)


@contextlib.contextmanager
def _undone(admin: KeyAdmin, successor: KeyRecord) -> Iterator[None]:
    try:
        yield
    except Exception:
        with contextlib.suppress(Exception):  # what went wrong first is what is told
            admin.destroy(successor.ski.hex())
        raise
