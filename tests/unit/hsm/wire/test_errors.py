"""Codes of answers."""

from __future__ import annotations

from hsm.wire.errors import ErrorCode, MalformedMessage, VersionMismatch, WireError


def test_plain_codes_have_the_numbers_of_keyless_v1() -> None:
    assert [code.value for code in ErrorCode if code < 0x80] == list(range(1, 12))
    assert [code.value for code in ErrorCode if code >= 0x80] == [0x80, 0x81, 0x82, 0x83, 0x84]


def test_only_faults_of_the_request_itself_are_final() -> None:
    final = {code for code in ErrorCode if not code.other_node_may_sign}
    assert final == {ErrorCode.MALFORMED, ErrorCode.VERSION_MISMATCH, ErrorCode.UNEXPECTED_OPCODE}


def test_wire_errors_have_a_reason() -> None:
    assert MalformedMessage("the opcode is missing").reason == "the opcode is missing"
    fault = VersionMismatch(3, 77)
    assert isinstance(fault, WireError)
    assert (fault.request_id, str(fault)) == (77, "the peer speaks Keyless major version 3, not 1")
