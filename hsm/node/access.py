"""Who may sign with what: client identity -> keys -> schemes. What no rule allows is denied.

Pure: it is given rules and keys, and answers. It neither verifies certificates (the TLS stack did) nor counts denials.
An `AccessList` is made anew when the keys change, so that a rule's globs are matched once per key and not per request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import SCHEME_BY_NAME, Scheme

ANY = "*"
SKI_PREFIX = "ski:"
MAX_REMEMBERED_CLIENTS = 1024
_SKI = re.compile(r"ski:[0-9a-fA-F]{40}")


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Lets clients use keys with schemes; see `AccessConfig` for the fields' forms."""

    client: str
    keys: tuple[str, ...]
    schemes: tuple[str, ...] = (ANY,)

    def covers_client(self, identity: str) -> bool:
        """Whether the rule speaks of this client. Case counts."""
        return _matches(identity, self.client)

    def covers_key(self, key: KeyEntry) -> bool:
        """Whether the rule speaks of this key, by label glob or by SKI."""
        return any(_key_matches(pattern, key) for pattern in self.keys)

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
            yield "schemes", f"{name!r} is no scheme; choose of {', '.join(SCHEME_BY_NAME)}, or *"


class Denial(StrEnum):
    """Why a request was denied."""

    UNKNOWN_CLIENT = "unknown_client"
    KEY_NOT_ALLOWED = "key_not_allowed"
    SCHEME_NOT_ALLOWED = "scheme_not_allowed"
    SCHEME_UNFIT = "scheme_unfit"
    """The client may use the key, but a key of this type can't sign with this scheme."""
    UNKNOWN_KEY = "unknown_key"
    """The node has no such key. Said only to clients that a rule knows."""


_SENTENCES = {
    Denial.UNKNOWN_CLIENT: "no access rule names this client",
    Denial.KEY_NOT_ALLOWED: "no access rule lets this client use this key",
    Denial.SCHEME_NOT_ALLOWED: "no access rule lets this client use this key with this scheme",
    Denial.SCHEME_UNFIT: "a key of this type can't sign with this scheme",
    Denial.UNKNOWN_KEY: "this node has no such key",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a client may sign with a key and scheme.

    `denial` is None where it may. `key` is None where the node has no such key, or does not say.
    """

    client: str
    key: KeyEntry | None
    denial: Denial | None

    @property
    def is_allowed(self) -> bool:
        """Whether to go on."""
        return self.denial is None

    @property
    def sentence(self) -> str:
        """The reason of a denial, for people; "" where there is none."""
        return "" if self.denial is None else _SENTENCES[self.denial]


class ClientGrants:
    """What one client may do with the keys a node has now. Look-ups take one dict access each."""

    def __init__(self, identity: str, rules: Iterable[AccessRule], keys: Iterable[KeyEntry]) -> None:
        self.identity = identity
        self.known_as: str | None = None
        """The first rule's pattern that names this client: safe as a metric label, as it comes from the config."""
        mine = [rule for rule in rules if rule.covers_client(identity)]
        if mine:
            self.known_as = mine[0].client
        self._decisions: dict[bytes, dict[Scheme, Decision]] = {}
        self._keys = {key.ski: key for key in keys}
        for key in self._keys.values():
            schemes = {scheme for rule in mine if rule.covers_key(key) for scheme in rule.allowed_schemes(key)}
            self._decisions[key.ski] = {scheme: Decision(identity, key, None) for scheme in schemes}

    @property
    def usable_keys(self) -> tuple[KeyEntry, ...]:
        """Keys this client may use with one scheme at least: all it is told of when it asks for the inventory."""
        return tuple(self._keys[ski] for ski, schemes in self._decisions.items() if schemes)

    def decide(self, ski: bytes, scheme: Scheme) -> Decision:
        """Whether this client may sign with this key and scheme."""
        schemes = self._decisions.get(ski)
        if schemes is not None and (decision := schemes.get(scheme)) is not None:
            return decision
        return self._denied(ski, scheme, schemes)

    def _denied(self, ski: bytes, scheme: Scheme, schemes: dict[Scheme, Decision] | None) -> Decision:
        if self.known_as is None:
            return Decision(self.identity, None, Denial.UNKNOWN_CLIENT)
        if schemes is None:
            return Decision(self.identity, None, Denial.UNKNOWN_KEY)
        key = self._keys[ski]
        if not schemes:
            return Decision(self.identity, key, Denial.KEY_NOT_ALLOWED)
        is_fit = scheme.family is key.type.family
        return Decision(self.identity, key, Denial.SCHEME_NOT_ALLOWED if is_fit else Denial.SCHEME_UNFIT)


class AccessList:
    """The rules of a node joined with the keys it has now. Frozen: changed keys make a new list."""

    def __init__(self, rules: Iterable[AccessRule], keys: Iterable[KeyEntry] = ()) -> None:
        self._rules = tuple(rules)
        self._keys = tuple(keys)
        self._grants: dict[str, ClientGrants] = {}

    def with_keys(self, keys: Iterable[KeyEntry]) -> AccessList:
        """The same rules over other keys."""
        return AccessList(self._rules, keys)

    def grants_for(self, identity: str) -> ClientGrants:
        """What a client may do; made once per client and key set, then asked per request."""
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
