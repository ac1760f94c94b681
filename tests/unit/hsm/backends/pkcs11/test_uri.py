from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.backends.pkcs11.messages import ObjectMatch, TokenMatch
from hsm.backends.pkcs11.uri import Pkcs11Uri, UriProblem, format_uri, parse_uri

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
maybe = st.none() | words
tokens = st.builds(
    TokenMatch,
    token=maybe,
    manufacturer=maybe,
    model=maybe,
    serial=maybe,
    slot_id=st.none() | st.integers(0, 2**64 - 1),
    slot_description=maybe,
    slot_manufacturer=maybe,
    library_description=maybe,
    library_manufacturer=maybe,
    library_version=st.none() | st.sampled_from(["2", "2.6", "3.0"]),
)
uris = st.builds(
    Pkcs11Uri,
    tokens,
    st.builds(ObjectMatch, label=maybe, id=st.none() | st.binary(max_size=20)),
    module_path=st.none() | words.map(lambda text: "/" + text),
    module_name=st.none() | st.sampled_from(["softhsm2", "cloudhsm_pkcs11"]),
    pin_source=maybe,
    object_type=st.sampled_from([None, "private", "secret-key"]),
)


def test_a_uri_names_token_key_library_and_where_the_pin_stands() -> None:
    uri = parse_uri(
        "pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=1c6d;token=web%3B1;slot-id=7;"
        "id=%01%ab%FF;object=www.example.com;type=private"
        "?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/pin"
    )
    assert uri == Pkcs11Uri(
        TokenMatch(model="SoftHSM v2", manufacturer="SoftHSM project", serial="1c6d", token="web;1", slot_id=7),
        ObjectMatch(label="www.example.com", id=b"\x01\xab\xff"),
        module_path="/usr/lib/softhsm/libsofthsm2.so",
        pin_source="file:/etc/pin",
        object_type="private",
    )


def test_an_empty_uri_fits_everything() -> None:
    assert parse_uri("pkcs11:") == Pkcs11Uri(TokenMatch(), ObjectMatch())
    assert parse_uri("PKCS11:") == parse_uri("pkcs11:")


def test_the_unescaped_characters_of_the_rfc_are_taken() -> None:
    uri = parse_uri("pkcs11:token=a:b[c]@d!e$f'(g)*h+i,j=k&l~m?module-name=x&pin-source=|/a?b")
    assert uri.token.token == "a:b[c]@d!e$f'(g)*h+i,j=k&l~m"
    assert uri.pin_source == "|/a?b"


@given(uris)
def test_what_is_written_is_read_back(uri: Pkcs11Uri) -> None:
    assert parse_uri(format_uri(uri)) == uri


@given(st.text(max_size=80) | st.text(max_size=80).map(lambda text: "pkcs11:" + text))
def test_any_text_is_a_uri_or_a_problem(text: str) -> None:
    problem = None
    try:
        uri = parse_uri(text)
    except UriProblem as error:
        problem = error
    if problem is None:
        assert parse_uri(format_uri(uri)) == uri
    else:
        assert problem.sentence.isprintable()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file:/x", "begins with `pkcs11:`"),
        ("", "begins with `pkcs11:`"),
        ("pkcs11:token=a;token=b", "`token` stands twice"),
        ("pkcs11:token", "`token` in the PKCS#11 URI has no value"),
        ("pkcs11:token=a b", "percent-encoded"),
        ("pkcs11:token=a%2", "percent-encoded"),
        ("pkcs11:token=ä", "percent-encoded"),
        ("pkcs11:token=%ff", "`token` in the PKCS#11 URI is not UTF-8"),
        ("pkcs11:token=%00", "zero byte"),
        ("pkcs11:tokn=web", "`tokn` is not known"),
        ("pkcs11:x-vendor=1", "`x-vendor` is not known"),
        ("pkcs11:token=a;", "a part of it is not known"),
        ("pkcs11:module-path=/x", "`module-path` is not known in its place"),
        ("pkcs11:?token=x", "`token` is not known in its place"),
        ("pkcs11:slot-id=0x7", "decimal"),
        ("pkcs11:slot-id=99999999999999999999", "decimal"),
        ("pkcs11:type=cert", "`cert`"),
        ("pkcs11:library-version=two", "2 or 2.6"),
        ("pkcs11:?module-path=lib.so", "absolute path"),
        ("pkcs11:?module-name=../evil", "without folders"),
        ("pkcs11:token=" + "a" * 4096, "at most 4096"),
    ],
)
def test_problems_say_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(UriProblem) as caught:
        parse_uri(text)
    assert says in caught.value.sentence


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:token=a?pin-value=473829",
        "pkcs11:pin-value=473829",
        "pkcs11:?PIN-VALUE=473829",
        "pkcs11:?pin=473829",
        "pkcs11:?473829",
    ],
)
def test_a_pin_in_a_uri_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UriProblem) as caught:
        parse_uri(text)
    assert "473829" not in caught.value.sentence
