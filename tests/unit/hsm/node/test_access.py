"""Who may sign with what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.backends.attributes import KeyAttributes, KeyState, Purpose
from hsm.node.access import MAX_REMEMBERED_CLIENTS, AccessList, AccessRule, Decision, Denial, rule_problems
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType, Scheme

WWW = KeyEntry(b"\x01" * 20, KeyType.P256, "www-ec")
WWW_RSA = KeyEntry(b"\x02" * 20, KeyType.RSA_2048, "www-rsa")
MAIL = KeyEntry(b"\xab" * 20, KeyType.ED25519, "mail")
KEYS = (WWW, WWW_RSA, MAIL)
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
ORDINARY = KeyAttributes()


@dataclass(frozen=True)
class Held:
    """A key and what its owner says of it."""

    entry: KeyEntry
    attributes: KeyAttributes = ORDINARY


HELD = tuple(Held(key) for key in KEYS)
PROXY = "spiffe://sealgate/proxy"


def listed(*rules: AccessRule) -> AccessList:
    return AccessList(rules, HELD)


def test_without_rules_everything_is_denied() -> None:
    decision = listed().grants_for(PROXY).decide(WWW.ski, Scheme.ECDSA_SHA256)
    assert not decision.is_allowed
    assert decision.denial is Denial.UNKNOWN_CLIENT
    assert decision.sentence == "no access rule names this client"


def test_a_rule_allows_its_client_its_keys_by_label_glob() -> None:
    grants = listed(AccessRule(PROXY, ("www-*",))).grants_for(PROXY)
    assert grants.decide(WWW.ski, Scheme.ECDSA_SHA256).is_allowed
    assert grants.decide(WWW_RSA.ski, Scheme.RSA_PSS_SHA256).key == WWW_RSA
    assert grants.decide(MAIL.ski, Scheme.ED25519).denial is Denial.KEY_NOT_ALLOWED
    assert grants.usable_keys(NOW) == (WWW, WWW_RSA)


def test_a_key_may_be_named_by_ski_in_any_case() -> None:
    grants = listed(AccessRule(PROXY, ("ski:" + "AB" * 20,))).grants_for(PROXY)
    assert grants.usable_keys(NOW) == (MAIL,)
    assert grants.decide(MAIL.ski, Scheme.ED25519).is_allowed


def test_another_client_is_not_helped_by_a_rule() -> None:
    access = listed(AccessRule(PROXY, ("*",)))
    for identity in ("spiffe://sealgate/proxy2", "spiffe://sealgate/PROXY", "CN=proxy", ""):
        assert access.grants_for(identity).decide(WWW.ski, Scheme.ECDSA_SHA256).denial is Denial.UNKNOWN_CLIENT
        assert access.grants_for(identity).usable_keys(NOW) == ()
        assert access.grants_for(identity).known_as is None


def test_clients_match_by_glob_and_are_known_by_the_pattern() -> None:
    grants = listed(AccessRule("spiffe://sealgate/proxy/*", ("*",))).grants_for("spiffe://sealgate/proxy/7")
    assert grants.known_as == "spiffe://sealgate/proxy/*"
    assert grants.decide(WWW.ski, Scheme.ECDSA_SHA384).is_allowed


def test_brackets_are_nothing_special() -> None:
    rule = AccessRule("https://[::1]/?", ("*",))
    assert rule.covers_client("https://[::1]/a")
    assert not rule.covers_client("https://:/a")


def test_schemes_are_limited_per_rule_and_rules_add_up() -> None:
    rules = (AccessRule(PROXY, ("*",), ("ecdsa_sha256",)), AccessRule(PROXY, ("www-rsa",), ("rsa_pss_sha256",)))
    grants = listed(*rules).grants_for(PROXY)
    assert grants.decide(WWW.ski, Scheme.ECDSA_SHA256).is_allowed
    assert grants.decide(WWW.ski, Scheme.ECDSA_SHA384).denial is Denial.SCHEME_NOT_ALLOWED
    assert grants.decide(WWW_RSA.ski, Scheme.RSA_PSS_SHA256).is_allowed
    assert grants.decide(WWW_RSA.ski, Scheme.RSA_PKCS1_SHA256).denial is Denial.SCHEME_NOT_ALLOWED


def test_a_scheme_of_another_family_is_said_to_be_unfit() -> None:
    decision = listed(AccessRule(PROXY, ("*",))).grants_for(PROXY).decide(WWW.ski, Scheme.RSA_PSS_SHA256)
    assert decision.denial is Denial.SCHEME_UNFIT
    assert decision.key == WWW
    assert "type" in decision.sentence


def test_an_unknown_key_is_said_to_be_unknown_to_known_clients_only() -> None:
    access = listed(AccessRule(PROXY, ("*",)))
    assert access.grants_for(PROXY).decide(b"\x77" * 20, Scheme.ED25519).denial is Denial.UNKNOWN_KEY
    assert access.grants_for("CN=x").decide(b"\x77" * 20, Scheme.ED25519).denial is Denial.UNKNOWN_CLIENT


def test_new_keys_come_under_the_same_rules() -> None:
    access = AccessList([AccessRule(PROXY, ("www-*",))])
    assert access.grants_for(PROXY).usable_keys(NOW) == ()
    assert access.with_keys(HELD).grants_for(PROXY).usable_keys(NOW) == (WWW, WWW_RSA)
    assert access.clients == (PROXY,)


def test_grants_are_remembered_for_a_bounded_number_of_clients() -> None:
    access = listed(AccessRule("*", ("*",)))
    first = access.grants_for("CN=0")
    assert access.grants_for("CN=0") is first
    for number in range(MAX_REMEMBERED_CLIENTS + 5):
        access.grants_for(f"CN={number}")
    assert len(access._grants) <= MAX_REMEMBERED_CLIENTS
    assert access.grants_for("CN=0").usable_keys(NOW) == KEYS


@pytest.mark.parametrize(
    ("rule", "field", "words"),
    [
        (AccessRule("a", ("ski:12",)), "keys", '"ski:" and 40 hex digits'),
        (AccessRule("a", ("",)), "keys", "a label is empty"),
        (AccessRule("a", ("*",), ()), "schemes", "allows nothing"),
        (AccessRule("a", ("*",), purposes=()), "purposes", "allows nothing; choose from tls-server, ca, code-signing"),
        (
            AccessRule("a", ("*",), purposes=("web",)),
            "purposes",
            "'web' is no purpose of a key; choose from tls",
        ),
        (AccessRule("a", ("*",), ("rsa_md5",)), "schemes", "'rsa_md5' is no scheme; choose from rsa_pkcs1_sha256"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said(rule: AccessRule, field: str, words: str) -> None:
    [(found, sentence)] = rule_problems(rule)
    assert found == field
    assert words in sentence


def test_a_right_rule_has_no_problems() -> None:
    assert not list(rule_problems(AccessRule("*", ("*", "ski:" + "0f" * 20), ("*", "ed25519"))))


attributes_of_keys = st.builds(
    KeyAttributes,
    purpose=st.sampled_from([Purpose.TLS_SERVER, Purpose.TLS_SERVER, Purpose.CA]),
    state=st.sampled_from([KeyState.ACTIVE, KeyState.ACTIVE, KeyState.RETIRED]),
    schemes=st.sampled_from([(), (), ("ecdsa_sha256", "rsa_pss_sha256")]),
    not_after=st.sampled_from([None, None, NOW - HOUR, NOW + HOUR]),
)


@given(
    st.lists(
        st.builds(
            AccessRule,
            st.sampled_from([PROXY, "spiffe://*", "CN=?"]),
            st.tuples(st.sampled_from(["*", "www-*", "mail", "ski:" + "01" * 20])),
            st.tuples(st.sampled_from(["*", *(scheme.value for scheme in Scheme)])),
            st.sampled_from([("tls-server",), ("tls-server",), ("ca", "general"), ("tls-server", "ca")]),
            st.booleans(),
            st.sampled_from([None, None, 5.0]),
        ),
        max_size=5,
    ),
    st.sampled_from([PROXY, "CN=a", "CN=ab", "spiffe://x"]),
    st.sampled_from(KEYS),
    attributes_of_keys,
    st.sampled_from(list(Scheme)),
)
def test_allowed_is_exactly_what_one_rule_and_the_owner_allow(
    rules: list[AccessRule], client: str, key: KeyEntry, attributes: KeyAttributes, scheme: Scheme
) -> None:
    fitting = [
        rule
        for rule in rules
        if rule.covers_client(client)
        and rule.covers_key(key)
        and attributes.purpose.value in rule.purposes
        and scheme in set(rule.allowed_schemes(key))
    ]
    is_active = attributes.state is KeyState.ACTIVE and (not attributes.schemes or scheme.value in attributes.schemes)
    is_in_time = attributes.not_after is None or attributes.not_after >= NOW
    held = [Held(other, attributes if other is key else ORDINARY) for other in KEYS]
    grants = AccessList(rules, held).grants_for(client)
    decision = grants.decide(key.ski, scheme)
    expected = bool(fitting) and is_active
    assert decision.is_allowed == expected
    assert (decision.denial_at(NOW) is None) == (expected and is_in_time)
    if expected and is_in_time:
        assert key in grants.usable_keys(NOW)
    if expected:
        assert decision.key == key
        assert (decision.digest_meters is not None) == any(rule.digests for rule in fitting)
        assert set(decision.meters) == (set() if any(rule.max_rate is None for rule in fitting) else set(fitting))
    else:
        assert decision.sentence


def decided(attributes: KeyAttributes, *rules: AccessRule, scheme: Scheme = Scheme.ECDSA_SHA256) -> Decision:
    """What is decided of PROXY's request for the one key there is."""
    rules = rules or (AccessRule(PROXY, ("*",)),)
    return AccessList(rules, [Held(WWW, attributes)]).grants_for(PROXY).decide(WWW.ski, scheme)


@pytest.mark.parametrize("state", [KeyState.INACTIVE, KeyState.RETIRED, KeyState.DESTROYING])
def test_only_active_keys_sign(state: KeyState) -> None:
    assert decided(KeyAttributes(state=state)).denial is Denial.KEY_NOT_ACTIVE
    grants = AccessList([AccessRule(PROXY, ("*",))], [Held(WWW, KeyAttributes(state=state))]).grants_for(PROXY)
    assert grants.usable_keys(NOW) == ()


def test_the_owner_of_a_key_may_allow_fewer_schemes_than_the_rules() -> None:
    attributes = KeyAttributes(schemes=("ecdsa_sha384",))
    assert decided(attributes).denial is Denial.KEY_SCHEME_NOT_ALLOWED
    assert decided(attributes, scheme=Scheme.ECDSA_SHA384).is_allowed


@pytest.mark.parametrize(
    ("begin", "end", "denial"),
    [
        (None, None, None),
        (NOW, NOW, None),
        (NOW - HOUR, NOW + HOUR, None),
        (NOW + HOUR, None, Denial.KEY_NOT_YET_VALID),
        (None, NOW - HOUR, Denial.KEY_EXPIRED),
        (NOW + HOUR, NOW - HOUR, Denial.KEY_NOT_YET_VALID),
    ],
)
def test_a_key_signs_in_its_time_only(begin: datetime | None, end: datetime | None, denial: Denial | None) -> None:
    held = Held(WWW, KeyAttributes(not_before=begin, not_after=end))
    grants = AccessList([AccessRule(PROXY, ("*",))], [held]).grants_for(PROXY)
    assert grants.decide(WWW.ski, Scheme.ECDSA_SHA256).denial_at(NOW) is denial
    assert grants.usable_keys(NOW) == ((WWW,) if denial is None else ())


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_rule_is_about_keys_for_tls_servers_unless_it_says_more(purpose: Purpose) -> None:
    attributes = KeyAttributes(purpose=purpose)
    expected = None if purpose is Purpose.TLS_SERVER else Denial.PURPOSE_NOT_ALLOWED
    assert decided(attributes).denial is expected
    assert decided(attributes, AccessRule(PROXY, ("*",), purposes=(purpose.value,))).is_allowed


def test_a_rule_for_another_purpose_does_not_lend_its_schemes() -> None:
    rules = (AccessRule(PROXY, ("*",), ("ecdsa_sha384",)), AccessRule(PROXY, ("*",), purposes=("ca",)))
    assert decided(KeyAttributes(purpose=Purpose.CA), *rules).is_allowed
    assert decided(KeyAttributes(), *rules).denial is Denial.SCHEME_NOT_ALLOWED


def test_digests_alone_are_let_through_by_rules_that_say_so() -> None:
    plain, keyless = AccessRule(PROXY, ("*",)), AccessRule(PROXY, ("*",), digests=True)
    assert decided(KeyAttributes(), plain).digest_meters is None
    assert decided(KeyAttributes(), plain, keyless).digest_meters == ()


def test_a_request_goes_through_on_any_rule_that_lets_it() -> None:
    free = AccessRule(PROXY, ("*",))
    slow = AccessRule(PROXY, ("www-*",), max_rate=1)
    digests = AccessRule(PROXY, ("www-*",), digests=True, max_rate=5)
    assert decided(KeyAttributes(), slow, digests).meters == (slow, digests)
    both = decided(KeyAttributes(), free, slow, digests)
    assert both.meters == (), "one rule has no rate"
    assert both.digest_meters == (digests,), "but that rule lets no digests through"


def test_other_rules_come_over_the_same_keys() -> None:
    access = listed(AccessRule(PROXY, ("www-*",)))
    assert access.with_rules([AccessRule(PROXY, ("mail",))]).grants_for(PROXY).usable_keys(NOW) == (MAIL,)
    assert access.grants_for(PROXY).usable_keys(NOW) == (WWW, WWW_RSA)
