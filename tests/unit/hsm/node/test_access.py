"""Who may sign with what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.node.access import MAX_REMEMBERED_CLIENTS, AccessList, AccessRule, Denial, rule_problems
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType, Scheme

WWW = KeyEntry(b"\x01" * 20, KeyType.P256, "www-ec")
WWW_RSA = KeyEntry(b"\x02" * 20, KeyType.RSA_2048, "www-rsa")
MAIL = KeyEntry(b"\xab" * 20, KeyType.ED25519, "mail")
KEYS = (WWW, WWW_RSA, MAIL)
PROXY = "spiffe://sealgate/proxy"


def listed(*rules: AccessRule) -> AccessList:
    return AccessList(rules, KEYS)


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
    assert grants.usable_keys == (WWW, WWW_RSA)


def test_a_key_may_be_named_by_ski_in_any_case() -> None:
    grants = listed(AccessRule(PROXY, ("ski:" + "AB" * 20,))).grants_for(PROXY)
    assert grants.usable_keys == (MAIL,)
    assert grants.decide(MAIL.ski, Scheme.ED25519).is_allowed


def test_another_client_is_not_helped_by_a_rule() -> None:
    access = listed(AccessRule(PROXY, ("*",)))
    for identity in ("spiffe://sealgate/proxy2", "spiffe://sealgate/PROXY", "CN=proxy", ""):
        assert access.grants_for(identity).decide(WWW.ski, Scheme.ECDSA_SHA256).denial is Denial.UNKNOWN_CLIENT
        assert access.grants_for(identity).usable_keys == ()
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
    assert access.grants_for(PROXY).usable_keys == ()
    assert access.with_keys(KEYS).grants_for(PROXY).usable_keys == (WWW, WWW_RSA)
    assert access.clients == (PROXY,)


def test_grants_are_remembered_for_a_bounded_number_of_clients() -> None:
    access = listed(AccessRule("*", ("*",)))
    first = access.grants_for("CN=0")
    assert access.grants_for("CN=0") is first
    for number in range(MAX_REMEMBERED_CLIENTS + 5):
        access.grants_for(f"CN={number}")
    assert len(access._grants) <= MAX_REMEMBERED_CLIENTS
    assert access.grants_for("CN=0").usable_keys == KEYS


@pytest.mark.parametrize(
    ("rule", "field", "words"),
    [
        (AccessRule("a", ("ski:12",)), "keys", '"ski:" and 40 hex digits'),
        (AccessRule("a", ("",)), "keys", "a label is empty"),
        (AccessRule("a", ("*",), ()), "schemes", "allows nothing"),
        (AccessRule("a", ("*",), ("rsa_md5",)), "schemes", "'rsa_md5' is no scheme; choose of rsa_pkcs1_sha256"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said(rule: AccessRule, field: str, words: str) -> None:
    [(found, sentence)] = rule_problems(rule)
    assert found == field
    assert words in sentence


def test_a_right_rule_has_no_problems() -> None:
    assert not list(rule_problems(AccessRule("*", ("*", "ski:" + "0f" * 20), ("*", "ed25519"))))


@given(
    st.lists(
        st.builds(
            AccessRule,
            st.sampled_from([PROXY, "spiffe://*", "CN=?"]),
            st.tuples(st.sampled_from(["*", "www-*", "mail", "ski:" + "01" * 20])),
            st.tuples(st.sampled_from(["*", *(scheme.value for scheme in Scheme)])),
        ),
        max_size=5,
    ),
    st.sampled_from([PROXY, "CN=a", "CN=ab", "spiffe://x"]),
    st.sampled_from(KEYS),
    st.sampled_from(list(Scheme)),
)
def test_allowed_is_exactly_what_one_rule_allows(
    rules: list[AccessRule], client: str, key: KeyEntry, scheme: Scheme
) -> None:
    expected = any(
        rule.covers_client(client) and rule.covers_key(key) and scheme in set(rule.allowed_schemes(key))
        for rule in rules
    )
    assert AccessList(rules, KEYS).grants_for(client).decide(key.ski, scheme).is_allowed == expected
