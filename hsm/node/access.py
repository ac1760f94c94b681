"""Who may sign with what: client identity -> keys -> schemes. What no rule allows is denied.

Pure: it is given rules, keys and their attributes, and answers. It neither verifies certificates (the TLS stack did)
nor counts denials or signatures; it says which rates bound an allowed request. An `AccessList` is made anew when the
keys or the rules change, so that a rule's globs are matched once per key and not per request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Protocol

from hsm.backends.attributes import KeyAttributes, KeyState, Purpose
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import SCHEME_BY_NAME, Scheme

ANY = "*"
SKI_PREFIX = "ski:"
MAX_REMEMBERED_CLIENTS = 1024
_SKI = re.compile(r"ski:[0-9a-fA-F]{40}")


class HeldKey(Protocol):
    """A key that the node has."""

    @property
    def entry(self) -> KeyEntry: ...
    @property
    def attributes(self) -> KeyAttributes: ...


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Lets clients use keys with schemes; see `AccessConfig` for the fields' forms."""

    client: str
    keys: tuple[str, ...]
    schemes: tuple[str, ...] = (ANY,)
    purposes: tuple[str, ...] = (Purpose.TLS_SERVER.value,)
    digests: bool = False
    max_rate: float | None = None

    def covers_client(self, identity: str) -> bool:
        """Whether the rule speaks of this client. Case counts."""
        return _matches(identity, self.client)

    def covers_key(self, key: KeyEntry) -> bool:
        """Whether the rule speaks of this key, by label glob or by SKI."""
        return any(_key_matches(pattern, key) for pattern in self.keys)

    def covers_purpose(self, attributes: KeyAttributes) -> bool:
        """Whether the rule speaks of keys for this purpose."""
        return attributes.purpose.value in self.purposes

    def allowed_schemes(self, key: KeyEntry) -> Iterator[Scheme]:
        """The schemes the rule allows that this type of key can sign."""
        for scheme in Scheme:
            if scheme.family is key.type.family and (ANY in self.schemes or scheme.value in self.schemes):
                yield scheme


def _key_matches(pattern: str, key: KeyEntry) -> bool:
    if pattern.startswith(SKI_PREFIX):
        return pattern[len(SKI_PREFIX) :].lower() == key.ski.hex()
    return _matches(key.label, pattern)


def _matches(text: str, glob: str) -> bool:
    """Whether the whole text fits. Only `*` and `?` are special: identities may hold brackets (RFC 3986 3.2.2)."""
    return fnmatchcase(text, glob.replace("[", "[[]"))


def rule_problems(rule: AccessRule) -> Iterator[tuple[str, str]]:
    """What is wrong with a rule: the field, and "what; what to do"."""
    for pattern in rule.keys:
        if pattern.startswith(SKI_PREFIX) and not _SKI.fullmatch(pattern):
            yield "keys", f'{pattern!r} is no SKI; write "ski:" and 40 hex digits'
        elif not pattern:
            yield "keys", 'a label is empty; write a label, a glob such as "www-*", or "*" for every key'
    if not rule.schemes:
        yield "schemes", 'is empty, so the rule allows nothing; name schemes or write "*"'
    for name in rule.schemes:
        if name != ANY and name not in SCHEME_BY_NAME:
            yield "schemes", f"{name!r} is no scheme; choose from {', '.join(SCHEME_BY_NAME)}, or *"
    known = [purpose.value for purpose in Purpose]
    if not rule.purposes:
        yield "purposes", f"is empty, so the rule allows nothing; choose from {', '.join(known)}"
    for name in rule.purposes:
        if name not in known:
            yield "purposes", f"{name!r} is no purpose of a key; choose from {', '.join(known)}"


class Denial(StrEnum):
    """Why a request was denied."""

    UNKNOWN_CLIENT = "unknown_client"
    KEY_NOT_ALLOWED = "key_not_allowed"
    SCHEME_NOT_ALLOWED = "scheme_not_allowed"
    SCHEME_UNFIT = "scheme_unfit"
    """The client may use the key, but a key of this type can't sign with this scheme."""
    UNKNOWN_KEY = "unknown_key"
    """The node has no such key. Said only to clients that a rule knows."""
    PURPOSE_NOT_ALLOWED = "purpose_not_allowed"
    KEY_NOT_ACTIVE = "key_not_active"
    KEY_NOT_YET_VALID = "key_not_yet_valid"
    KEY_EXPIRED = "key_expired"
    KEY_SCHEME_NOT_ALLOWED = "key_scheme_not_allowed"
    """The rules allow the scheme, the owner of the key does not."""
    DIGEST_ONLY = "digest_only"
    """The key only signs TLS, and the client did not show what it wants signed."""
    DIGEST_MISMATCH = "digest_mismatch"
    """The client showed a message, and the digest of another one."""

    @property
    def sentence(self) -> str:
        """The reason, for people."""
        return _SENTENCES[self]


_SENTENCES = {
    Denial.UNKNOWN_CLIENT: "no access rule names this client",
    Denial.KEY_NOT_ALLOWED: "no access rule lets this client use this key",
    Denial.SCHEME_NOT_ALLOWED: "no access rule lets this client use this key with this scheme",
    Denial.SCHEME_UNFIT: "a key of this type can't sign with this scheme",
    Denial.UNKNOWN_KEY: "this node has no such key",
    Denial.PURPOSE_NOT_ALLOWED: "no access rule lets this client use keys of this purpose",
    Denial.KEY_NOT_ACTIVE: "this key is not active",
    Denial.KEY_NOT_YET_VALID: "this key may not be used yet",
    Denial.KEY_EXPIRED: "this key may not be used any more",
    Denial.KEY_SCHEME_NOT_ALLOWED: "the owner of this key does not let it sign with this scheme",
    Denial.DIGEST_ONLY: "this key signs TLS handshakes only, and this client must send the whole message",
    Denial.DIGEST_MISMATCH: "the digest is not that of the message",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a client may sign with a key and scheme.

    `denial` is None where it may. `key` is None where the node has no such key, or does not say.
    """

    client: str
    key: KeyEntry | None
    denial: Denial | None
    limits: KeyAttributes | None = None
    """The key's attributes where they bound the times at which it signs; None where it always does."""
    meters: tuple[AccessRule, ...] = ()
    """The rules whose rates bound the request, where no rule lets it through without: one must have room."""
    digest_meters: tuple[AccessRule, ...] | None = None
    """The same for requests that show no message; None: no rule lets them through."""

    @property
    def is_allowed(self) -> bool:
        """Whether to go on."""
        return self.denial is None

    @property
    def sentence(self) -> str:
        """The reason of a denial, for people; "" where there is none."""
        return "" if self.denial is None else _SENTENCES[self.denial]

    def denial_at(self, now: datetime) -> Denial | None:
        """Why the request is denied at this time."""
        if self.denial is not None or self.limits is None:
            return self.denial
        if self.limits.not_before is not None and now < self.limits.not_before:
            return Denial.KEY_NOT_YET_VALID
        if self.limits.not_after is not None and now > self.limits.not_after:
            return Denial.KEY_EXPIRED
        return None


def _decision(client: str, key: HeldKey, scheme: Scheme, rules: list[AccessRule]) -> Decision:
    """What is decided of a request that these rules let through."""
    attributes = key.attributes
    if attributes.state is not KeyState.ACTIVE:
        return Decision(client, key.entry, Denial.KEY_NOT_ACTIVE)
    if not attributes.allows(scheme):
        return Decision(client, key.entry, Denial.KEY_SCHEME_NOT_ALLOWED)
    has_limits = attributes.not_before is not None or attributes.not_after is not None
    digest_rules = [rule for rule in rules if rule.digests]
    return Decision(
        client,
        key.entry,
        None,
        limits=attributes if has_limits else None,
        meters=_meters(rules),
        digest_meters=_meters(digest_rules) if digest_rules else None,
    )


def _meters(rules: list[AccessRule]) -> tuple[AccessRule, ...]:
    """The rules whose rates count: none where one of the rules has no rate."""
    return () if any(rule.max_rate is None for rule in rules) else tuple(rules)


class ClientGrants:
    """What one client may do with the keys a node has now. Look-ups take one dict access each."""

    def __init__(self, identity: str, rules: Iterable[AccessRule], keys: Iterable[HeldKey]) -> None:
        self.identity = identity
        self.known_as: str | None = None
        """The first rule's pattern that names this client: safe as a metric label, as it comes from the config."""
        mine = [rule for rule in rules if rule.covers_client(identity)]
        if mine:
            self.known_as = mine[0].client
        self._decisions: dict[bytes, dict[Scheme, Decision]] = {}
        self._keys = {key.entry.ski: key for key in keys}
        self._unfit: dict[bytes, Denial] = {}
        """Why no scheme at all is allowed, where a rule is about the key."""
        for ski, key in self._keys.items():
            self._decisions[ski] = self._decide_key(key, [rule for rule in mine if rule.covers_key(key.entry)])

    def _decide_key(self, key: HeldKey, rules: list[AccessRule]) -> dict[Scheme, Decision]:
        fitting = [rule for rule in rules if rule.covers_purpose(key.attributes)]
        if rules and not fitting:
            self._unfit[key.entry.ski] = Denial.PURPOSE_NOT_ALLOWED
        by_scheme: dict[Scheme, list[AccessRule]] = {}
        for rule in fitting:
            for scheme in rule.allowed_schemes(key.entry):
                by_scheme.setdefault(scheme, []).append(rule)
        return {scheme: _decision(self.identity, key, scheme, allowed) for scheme, allowed in by_scheme.items()}

    def usable_keys(self, now: datetime) -> tuple[KeyEntry, ...]:
        """Keys this client may use with one scheme at least: all it is told of when it asks for the inventory."""
        return tuple(
            self._keys[ski].entry
            for ski, schemes in self._decisions.items()
            if any(decision.denial_at(now) is None for decision in schemes.values())
        )

    def decide(self, ski: bytes, scheme: Scheme) -> Decision:
        """Whether this client may sign with this key and scheme, if the time is right (`Decision.denial_at`)."""
        schemes = self._decisions.get(ski)
        if schemes is not None and (decision := schemes.get(scheme)) is not None:
            return decision
        return self._denied(ski, scheme, schemes)

    def _denied(self, ski: bytes, scheme: Scheme, schemes: dict[Scheme, Decision] | None) -> Decision:
        if self.known_as is None:
            return Decision(self.identity, None, Denial.UNKNOWN_CLIENT)
        if schemes is None:
            return Decision(self.identity, None, Denial.UNKNOWN_KEY)
        key = self._keys[ski].entry
        if not schemes:
            return Decision(self.identity, key, self._unfit.get(ski, Denial.KEY_NOT_ALLOWED))
        is_fit = scheme.family is key.type.family
        return Decision(self.identity, key, Denial.SCHEME_NOT_ALLOWED if is_fit else Denial.SCHEME_UNFIT)


class AccessList:
    """The rules of a node joined with the keys it has now. Frozen: changed keys and rules make a new list."""

    def __init__(self, rules: Iterable[AccessRule], keys: Iterable[HeldKey] = ()) -> None:
        self._rules = tuple(rules)
        self._keys = tuple(keys)
        self._grants: dict[str, ClientGrants] = {}

    def with_keys(self, keys: Iterable[HeldKey]) -> AccessList:
        """The same rules over other keys."""
        return AccessList(self._rules, keys)

    def with_rules(self, rules: Iterable[AccessRule]) -> AccessList:
        """Other rules over the same keys."""
        return AccessList(rules, self._keys)

    def grants_for(self, identity: str) -> ClientGrants:
        """What a client may do; made once per client, key set and rules, then asked per request."""
        grants = self._grants.get(identity)
        if grants is None:
            if len(self._grants) >= MAX_REMEMBERED_CLIENTS:
                self._grants.clear()
            grants = self._grants[identity] = ClientGrants(identity, self._rules, self._keys)
        return grants

    @property
    def clients(self) -> tuple[str, ...]:
        """The client patterns of all rules, in order, each once."""
        return tuple(dict.fromkeys(rule.client for rule in self._rules))
