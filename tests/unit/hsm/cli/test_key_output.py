from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from hsm.cli.key_output import key_details, key_table, notes

NOW = datetime(2030, 1, 31, 12, 30, tzinfo=UTC)
KEY: dict[str, Any] = {
    "ski": "ab" * 20,
    "type": "p256",
    "label": "www",
    "token": "vault",
    "state": "active",
    "purpose": "tls-server",
    "created": "2030-01-01T00:00:00Z",
    "imported": False,
    "schemes": [],
    "not_before": None,
    "not_after": None,
    "max_rate": None,
    "signatures": 0,
    "last_used": None,
    "destroy_at": None,
    "successor": None,
    "quiet_s": None,
    "public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
}
OTHER = {**KEY, "label": "www-2", "ski": "cd" * 20, "signatures": 1234, "last_used": "2030-01-31T12:29:30Z"}


def test_a_table_says_what_matters_a_key_a_line() -> None:
    assert key_table([KEY, OTHER], NOW).splitlines() == [
        "LABEL  STATE   TYPE  PURPOSE     SIGNATURES  LAST USED  SKI",
        f"www    active  p256  tls-server  0           never      {'ab' * 20}",
        f"www-2  active  p256  tls-server  1234        30s ago    {'cd' * 20}",
    ]


def test_tokens_are_told_where_there_are_several() -> None:
    shown = key_table([KEY, {**OTHER, "token": "hsm"}], NOW)
    assert re.search(r"^LABEL .* TOKEN ", shown)
    assert re.search(r"^www-2 .* hsm ", shown, re.MULTILINE)


def test_a_narrow_terminal_gets_no_skis_and_a_pipe_gets_everything() -> None:
    narrow = key_table([KEY, OTHER], NOW, width=80)
    assert "SKI" not in narrow
    assert max(map(len, narrow.splitlines())) <= 80
    assert key_table([KEY], NOW, width=120) == key_table([KEY], NOW)


def test_what_is_special_stands_below_a_key_where_a_terminal_is_too_narrow_for_it() -> None:
    keys = [{**KEY, "not_after": "2030-02-01T00:00:00Z", "max_rate": 50}, OTHER]
    assert key_table(keys, NOW, width=80).splitlines() == [
        "LABEL  STATE   TYPE  PURPOSE     SIGNATURES  LAST USED",
        "www    active  p256  tls-server  0           never",
        "    valid until 2030-02-01 00:00 UTC, at most 50/s",
        "www-2  active  p256  tls-server  1234        30s ago",
    ]
    assert "never      valid until" in key_table(keys, NOW, width=110)


def test_states_are_coloured_only_where_it_is_wanted() -> None:
    keys = [{**KEY, "state": state} for state in ("active", "inactive", "retired", "destroying", "new in 2040")]
    coloured = key_table(keys, NOW, is_coloured=True)
    assert "\x1b[32mactive" in coloured
    assert "\x1b[31mdestroying" in coloured
    assert re.sub(r"\x1b\[\d*m", "", coloured).split() == key_table(keys, NOW).split()
    assert "\x1b" not in key_table(keys, NOW)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, []),
        ({"destroy_at": "2030-02-01T00:00:00Z"}, ["to be destroyed 2030-02-01 00:00 UTC"]),
        ({"successor": "cd" * 20, "quiet_s": 60}, ["retires once www-2 has taken over"]),
        ({"successor": "cd" * 20}, ["replaced by www-2"]),
        ({"successor": "ef" * 20}, [f"replaced by {'ef' * 20}"]),
        ({"not_before": "2030-02-01T00:00:00Z"}, ["valid from 2030-02-01 00:00 UTC"]),
        ({"not_before": "2030-01-01T00:00:00Z"}, []),
        ({"not_after": "2030-02-01T00:00:00Z"}, ["valid until 2030-02-01 00:00 UTC"]),
        ({"not_after": "2030-01-31T12:30:00Z"}, ["ended 2030-01-31 12:30 UTC"]),
        ({"max_rate": 0.5, "schemes": ["ed25519"], "imported": True}, ["at most 0.5/s", "only ed25519", "imported"]),
    ],
)
def test_what_is_special_is_noted(more: dict[str, Any], wanted: list[str]) -> None:
    assert notes({**KEY, **more}, {"cd" * 20: "www-2"}, NOW) == wanted


def test_details_leave_out_what_does_not_apply() -> None:
    shown = key_details(KEY, NOW)
    assert shown.splitlines()[:4] == [
        "label:      www",
        f"ski:        {'ab' * 20}",
        "token:      vault",
        "type:       p256",
    ]
    for word in ("successor", "rate", "destroyed", "origin", "None"):
        assert word not in shown
    assert shown.endswith("-----END PUBLIC KEY-----")
    full = key_details(
        {
            **KEY,
            "created": None,
            "label": "a\x1b[2J",
            "quiet_s": 600.0,
            "successor": "cd" * 20,
            "not_after": "2029-01-01T00:00:00Z",
        },
        NOW,
    )
    for line in (
        "it was not used for 10m",
        "unknown; it was found in the token",
        "2029-01-01 00:00 UTC (it signs no more)",
    ):
        assert line in full
    assert "\x1b" not in full
