"""What a key that only signs TLS lets through, compared with an independent reading of the two RFCs."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from hsm.node.tls_messages import Refusal, TlsMessage, check
from hsm.wire.schemes import KeyFamily, KeyType, Scheme
from tests.support.tls_messages import (
    NIST,
    OPAQUE,
    certificate_verify,
    forged_attributes,
    forged_certificate,
    key_exchange,
    point_on,
)

VERIFY, EXCHANGE = TlsMessage.CERTIFICATE_VERIFY, TlsMessage.SERVER_KEY_EXCHANGE
P256 = (Scheme.ECDSA_SHA256, KeyType.P256)
RSA = (Scheme.RSA_PSS_SHA256, KeyType.RSA_2048)
POINTS = {curve: tuple(point_on(curve) for _ in range(3)) for curve in (*NIST, *OPAQUE)}
FIXED = 64 + len("TLS 1.3, server CertificateVerify") + 1

FORGERIES = [forged_attributes(), forged_certificate()]

pairs = st.tuples(st.sampled_from(list(Scheme)), st.sampled_from(list(KeyType)))
fitting = pairs.filter(lambda pair: pair[0].family is pair[1].family)


def is_verify(message: bytes, scheme: Scheme, key_type: KeyType) -> bool:
    """RFC 8446 4.4.3 and 4.2.3, read literally."""
    if message[:64] != bytes([0x20] * 64) or message[64:97] != b"TLS 1.3, server CertificateVerify":
        return False
    if message[97:98] != b"\x00" or len(message[98:]) not in (32, 48):
        return False
    return (scheme.value, key_type.value) in {
        ("ecdsa_sha256", "p256"),
        ("ecdsa_sha384", "p384"),
        ("ecdsa_sha512", "p521"),
        ("ed25519", "ed25519"),
        *((f"rsa_pss_{digest}", f"rsa-{size}") for digest in ("sha256", "sha384", "sha512") for size in RSA_SIZES),
    }


RSA_SIZES = ("2048", "3072", "4096", "other")


def is_exchange(message: bytes, scheme: Scheme, key_type: KeyType) -> bool:
    """RFC 8422 5.4, read literally; whether a point is on its curve says a library."""
    if scheme.family is not key_type.family or len(message) < 68:
        return False
    kind, curve, length, point = message[64], int.from_bytes(message[65:67], "big"), message[67], message[68:]
    if kind != 3 or length != len(point):
        return False
    if curve in OPAQUE:
        return length == OPAQUE[curve]
    if curve not in NIST or point[:1] != b"\x04":
        return False
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(NIST[curve], point)
    except ValueError:
        return False
    return True


def expected(message: bytes, scheme: Scheme, key_type: KeyType) -> TlsMessage | None:
    if is_verify(message, scheme, key_type):
        return VERIFY
    return EXCHANGE if is_exchange(message, scheme, key_type) else None


def agrees(message: bytes, scheme: Scheme, key_type: KeyType) -> None:
    found = check(message, scheme, key_type)
    wanted = expected(message, scheme, key_type)
    assert found is wanted if wanted is not None else isinstance(found, Refusal)


@st.composite
def verifies(draw: st.DrawFn) -> bytes:
    """Nearly what TLS 1.3 signs, and now and then exactly that."""
    padding = b" " * draw(st.sampled_from([64, 64, 64, 63, 65, 0]))
    role = draw(st.sampled_from([b"server", b"server", b"server", b"client", b"exporter"]))
    end = draw(st.sampled_from([b"\0", b"\0", b"\0", b"", b"\1"]))
    return padding + b"TLS 1.3, " + role + b" CertificateVerify" + end + draw(st.binary(min_size=30, max_size=64))


@st.composite
def exchanges(draw: st.DrawFn) -> bytes:
    """Nearly what TLS 1.2 signs, and now and then exactly that."""
    curve = draw(st.sampled_from([*POINTS, 22, 31, 0x11EC]))
    point = draw(st.sampled_from(POINTS[draw(st.sampled_from(list(POINTS))) if curve not in POINTS else curve]))
    length = draw(st.sampled_from([len(point), len(point), len(point), 0, 255]))
    kind = draw(st.sampled_from([3, 3, 3, 1, 2, 0]))
    tail = draw(st.sampled_from([b"", b"", b"", b"\0", b"tail"]))
    randoms = draw(st.sampled_from([b" " * 64, b"r" * 64, draw(st.binary(min_size=64, max_size=64))]))
    return randoms + bytes([kind]) + curve.to_bytes(2, "big") + bytes([length]) + point + tail


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """One of `messages` with up to three bytes changed, cut or put in."""
    data = bytearray(draw(messages))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


@given(st.binary(max_size=400), pairs)
def test_any_bytes_are_judged_as_the_rfcs_do(message: bytes, pair: tuple[Scheme, KeyType]) -> None:
    agrees(message, *pair)


@given(mutated(st.one_of(verifies(), exchanges())), fitting)
def test_what_is_nearly_right_is_judged_as_the_rfcs_do(message: bytes, pair: tuple[Scheme, KeyType]) -> None:
    agrees(message, *pair)


@given(st.one_of(verifies(), exchanges()), pairs)
def test_forms_and_schemes_are_judged_as_the_rfcs_do(message: bytes, pair: tuple[Scheme, KeyType]) -> None:
    agrees(message, *pair)


@pytest.mark.parametrize("at", range(FIXED))
def test_no_byte_before_the_transcript_hash_may_differ(at: int) -> None:
    for other in range(256):
        message = bytearray(certificate_verify())
        was, message[at] = message[at], other
        assert isinstance(check(bytes(message), *P256), Refusal) == (other != was)


@pytest.mark.parametrize("curve", POINTS)
@pytest.mark.parametrize("at", range(64, 68))
def test_no_byte_of_the_curve_parameters_may_differ(curve: int, at: int) -> None:
    good = key_exchange(curve)
    for other in range(256):
        message = bytearray(good)
        was, message[at] = message[at], other
        assert isinstance(check(bytes(message), *P256), Refusal) == (other != was)


@pytest.mark.parametrize("curve", NIST)
def test_a_point_with_one_bit_changed_is_not_on_its_curve(curve: int) -> None:
    good = key_exchange(curve)
    for at in range(69, len(good)):
        message = bytearray(good)
        message[at] ^= 1
        assert check(bytes(message), *P256) is Refusal.POINT_NOT_ON_CURVE


@pytest.mark.parametrize("curve", NIST)
def test_coordinates_are_less_than_the_prime(curve: int) -> None:
    size = (len(POINTS[curve][0]) - 1) // 2
    beyond = b"\x04" + b"\xff" * size + POINTS[curve][0][1 + size :]
    assert check(key_exchange(curve, point=beyond), *P256) is Refusal.POINT_NOT_ON_CURVE
    assert check(key_exchange(curve, point=b"\x04" + bytes(2 * size)), *P256) is Refusal.POINT_NOT_ON_CURVE


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("curve", POINTS)
def test_tls12_allows_every_scheme_of_the_key(scheme: Scheme, curve: int) -> None:
    for key_type in KeyType:
        wanted = EXCHANGE if key_type.family is scheme.family else Refusal.SCHEME_UNFIT
        assert check(key_exchange(curve), scheme, key_type) is wanted


@pytest.mark.parametrize("digest", ["sha256", "sha384"])
@pytest.mark.parametrize("scheme", list(Scheme))
def test_tls13_allows_its_own_schemes_only(scheme: Scheme, digest: str) -> None:
    message = certificate_verify(digest=digest)
    found = {key_type: check(message, scheme, key_type) for key_type in KeyType if key_type.family is scheme.family}
    if scheme.family is KeyFamily.EC:
        wanted = {"sha256": KeyType.P256, "sha384": KeyType.P384, "sha512": KeyType.P521}[scheme.digest or ""]
        assert {key for key, verdict in found.items() if verdict is VERIFY} == {wanted}
        assert set(found.values()) == {VERIFY, Refusal.DIGEST_NOT_OF_CURVE}
    elif scheme.family is KeyFamily.RSA:
        assert set(found.values()) == {VERIFY if scheme.is_pss else Refusal.SCHEME_NOT_IN_TLS13}
    else:
        assert set(found.values()) == {VERIFY}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", Refusal.NOT_TLS),
        (b"0\x82\x02\x1e" + b"\xa0\x03\x02\x01\x02" * 100, Refusal.NOT_TLS),
        (b"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZG1pbiIsImV4cCI6OTk5OTk5OTk5OX0" * 3, Refusal.NOT_TLS),
        (certificate_verify(context="client"), Refusal.CLIENT_CONTEXT),
        (certificate_verify(context="serber"), Refusal.OTHER_CONTEXT),
        (b" " * 64, Refusal.OTHER_CONTEXT),
        (certificate_verify()[1:], Refusal.WRONG_PADDING),
        (b" " + certificate_verify(), Refusal.OTHER_CONTEXT),
        (b"\t" + certificate_verify()[1:], Refusal.WRONG_PADDING),
        (certificate_verify()[:-1], Refusal.HASH_LENGTH),
        (certificate_verify() + b"\0", Refusal.HASH_LENGTH),
        (certificate_verify(digest="sha512"), Refusal.HASH_LENGTH),
        (b"r" * 64 + b"\x01" + bytes(100), Refusal.EXPLICIT_CURVE),
        (key_exchange(29)[:64] + b"\x03\x00\x16\x20" + bytes(32), Refusal.UNKNOWN_CURVE),
        (key_exchange(29)[:64] + b"\x03\x00\x1d\x21" + bytes(33), Refusal.POINT_LENGTH),
        (key_exchange(29)[:-1], Refusal.TRUNCATED),
        (key_exchange(29) + b"\0", Refusal.TRAILING_BYTES),
        (key_exchange(23, point=b"\x02" + POINTS[23][0][1:33]), Refusal.POINT_LENGTH),
        (key_exchange(23, point=b"\x06" + POINTS[23][0][1:]), Refusal.POINT_FORM),
        (key_exchange(23, point=b"\x04" + b"\x01" * 64), Refusal.POINT_NOT_ON_CURVE),
    ],
)
def test_each_reason_is_its_own(message: bytes, reason: Refusal) -> None:
    assert check(message, *P256) is reason
    assert check(message, *RSA) is reason


@pytest.mark.parametrize("message", FORGERIES)
def test_a_certificate_in_the_form_of_a_tls12_message_is_refused(message: bytes) -> None:
    """Found by trying: each of these has the right length, the curve in its place, and is a certificate's."""
    assert is_exchange(message, *P256)
    assert check(message, *P256) is Refusal.ALSO_ASN1


def test_every_reason_has_its_sentence() -> None:
    assert len({reason.sentence for reason in Refusal}) == len(Refusal)
    assert not any(reason.sentence.endswith(".") for reason in Refusal)
