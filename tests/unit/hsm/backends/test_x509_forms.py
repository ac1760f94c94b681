from __future__ import annotations

import contextlib
import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from hsm.backends.attributes import Purpose
from hsm.backends.x509_forms import (
    MAX_DAYS,
    FormProblem,
    leaf_builder,
    parse_names,
    parse_subject,
    request_builder,
    self_signed_builder,
    signature_hash,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def test_subjects_are_names_or_bare_common_names() -> None:
    assert parse_subject("CN=a.example,O=Acme\\, Inc").rfc4514_string() == "CN=a.example,O=Acme\\, Inc"
    assert parse_subject("a.example").rfc4514_string() == "CN=a.example"
    for bad in ("", "  ", "XX=1", "=x", "CN=a\nb", "C=LONG", "C=ß", "2.5.4.5=a@b", "x" * 65):
        with pytest.raises(FormProblem, match="is not a subject"):
            parse_subject(bad)


def test_names_are_dns_names_and_addresses() -> None:
    assert parse_names(["A.example", "*.b.example", "127.0.0.1", "::1", "localhost", "xn--mnchen-3ya.de"]) == [
        x509.DNSName("a.example"),
        x509.DNSName("*.b.example"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
        x509.DNSName("localhost"),
        x509.DNSName("xn--mnchen-3ya.de"),
    ]
    assert len(parse_names(["a", "a"])) == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        "*",
        "*.",
        "a..b",
        "-a",
        "a-",
        "a.*.b",
        "*a.b",
        "münchen.de",
        "a b",
        "a\n",
        "a_b",
        "http://a",
        "a:80",
        "a" * 64,
        "a." * 127 + "a",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(FormProblem, match="is not a DNS name or IP address"):
        parse_names([name])


def test_there_is_at_least_one_name_and_not_too_many() -> None:
    with pytest.raises(FormProblem, match="at least one name"):
        parse_names([])
    with pytest.raises(FormProblem, match="at most 100"):
        parse_names([f"a{number}" for number in range(101)])


@given(st.text(max_size=300))
def test_any_text_is_taken_or_refused_with_an_error_of_ours(text: str) -> None:
    for parse in (parse_subject, lambda value: parse_names([value])):
        with contextlib.suppress(FormProblem):
            assert parse(text)


def test_each_key_signs_with_a_digest_of_its_strength() -> None:
    def name(key: object) -> str | None:
        algorithm = signature_hash(key)
        return algorithm.name if algorithm else None

    assert name(ec.generate_private_key(ec.SECP256R1())) == "sha256"
    assert name(ec.generate_private_key(ec.SECP384R1())) == "sha384"
    assert name(ec.generate_private_key(ec.SECP521R1())) == "sha512"
    assert name(rsa.generate_private_key(65537, 2048)) == "sha256"
    assert name(ed25519.Ed25519PrivateKey.generate()) is None


def test_a_request_carries_its_names() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    request = request_builder("a", ["a.example"]).sign(key, signature_hash(key))
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example"]


@pytest.mark.parametrize("is_client", [False, True])
def test_leaves_have_what_strict_verifiers_want(is_client: bool) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    own_ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = parse_subject("a")
    builder = leaf_builder(
        name,
        parse_names(["a"]),
        key.public_key(),
        issuer=name,
        issuer_ski=own_ski,
        now=NOW,
        days=397,
        is_client=is_client,
    )
    leaf = builder.sign(key, signature_hash(key))
    get = leaf.extensions.get_extension_for_class
    usage = get(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.digital_signature, usage.value.key_cert_sign, usage.value.key_encipherment) == (
        True,
        False,
        False,
    )
    assert (ExtendedKeyUsageOID.CLIENT_AUTH in get(x509.ExtendedKeyUsage).value) is is_client
    assert ExtendedKeyUsageOID.SERVER_AUTH in get(x509.ExtendedKeyUsage).value
    assert get(x509.AuthorityKeyIdentifier).value.key_identifier == own_ski.digest
    assert get(x509.SubjectKeyIdentifier).value == own_ski
    assert leaf.not_valid_before_utc == NOW - timedelta(hours=1)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc < timedelta(days=397)


def usages(extensions: x509.Extensions) -> tuple[bool | None, bool | None, list[x509.ObjectIdentifier]]:
    """Whether it is a CA, whether it may sign certificates, and its extended usages."""
    found = {type(extension.value): extension for extension in extensions}
    basic, usage = found.get(x509.BasicConstraints), found.get(x509.KeyUsage)
    extended = found.get(x509.ExtendedKeyUsage)
    for extension in (basic, usage):
        assert extension is None or extension.critical
    return (
        basic.value.ca if basic else None,
        usage.value.key_cert_sign if usage else None,
        list(extended.value) if extended else [],
    )


@pytest.mark.parametrize(
    ("purpose", "certificate", "request_"),
    [
        (Purpose.TLS_SERVER, (False, False, [ExtendedKeyUsageOID.SERVER_AUTH]), (None, None, [])),
        (Purpose.CA, (True, True, []), (True, True, [])),
        (
            Purpose.CODE_SIGNING,
            (False, False, [ExtendedKeyUsageOID.CODE_SIGNING]),
            (False, False, [ExtendedKeyUsageOID.CODE_SIGNING]),
        ),
        (Purpose.GENERAL, (False, None, []), (False, None, [])),
    ],
)
def test_each_purpose_has_its_usages(purpose: Purpose, certificate: object, request_: object) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = ["a.example"]
    signed = self_signed_builder("a", names, key.public_key(), purpose=purpose, now=NOW, days=30).sign(key, SHA256())
    assert usages(signed.extensions) == certificate
    request = request_builder("a", names, purpose).sign(key, SHA256())
    assert usages(request.extensions) == request_
    for extensions in (signed.extensions, request.extensions):
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert found.get_values_for_type(x509.DNSName) == names
    own_ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    assert signed.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value == own_ski
    identifier = signed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert identifier == own_ski.digest


def test_only_servers_need_names() -> None:
    for purpose in Purpose:
        if purpose is Purpose.TLS_SERVER:
            with pytest.raises(FormProblem, match="at least one name"):
                request_builder("a", [], purpose)
        else:
            assert request_builder("a", [], purpose)


@pytest.mark.parametrize(("purpose", "days"), MAX_DAYS.items())
def test_each_purpose_has_its_longest_validity(purpose: Purpose, days: int) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert self_signed_builder("a", ["a"], key, purpose=purpose, now=NOW, days=days)
    for wrong in (0, days + 1):
        with pytest.raises(FormProblem, match=f"days must be 1 to {days} for a {purpose.value} key, not {wrong}"):
            self_signed_builder("a", ["a"], key, purpose=purpose, now=NOW, days=wrong)


def test_a_public_key_says_the_same_digest_as_its_private_key() -> None:
    for key in (ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()):
        private, public = signature_hash(key), signature_hash(key.public_key())
        assert (private and private.name) == (public and public.name)
