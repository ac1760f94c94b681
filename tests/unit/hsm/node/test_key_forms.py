from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from hsm.backends.attributes import KeyAttributes, KeyState, Purpose, Usage
from hsm.backends.vault.keys import KeyRecord
from hsm.node.key_forms import DestroyBody, GenerateBody, ImportBody, KeyView, NewKeyBody, RotateBody
from hsm.wire.schemes import KeyType

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_password_is_in_no_repr() -> None:
    body = ImportBody(pem="secret", label="x", password="hunter2")
    assert "hunter2" not in repr(body)
    assert "secret" not in repr(body).replace("[secret]", "")


def test_what_is_not_said_is_the_default() -> None:
    assert NewKeyBody(label="x").attributes() == KeyAttributes()
    assert msgspec.json.decode(b"{}", type=DestroyBody).grace_s == 7 * 86400
    assert msgspec.json.decode(b"{}", type=RotateBody).quiet_s is None


def test_times_are_kept_in_utc() -> None:
    east = timezone(timedelta(hours=2))
    attributes = NewKeyBody(label="x", not_before=NOW.astimezone(east), active=False).attributes()
    assert attributes.not_before is not None
    assert attributes.not_before.isoformat() == "2030-01-02T03:04:05+00:00"
    assert attributes.state is KeyState.INACTIVE


@pytest.mark.parametrize(
    "more", ['"not_after": "2030-01-01"', '"not_after": "2030-01-01T00:00:00"', '"max_rate": -1', '"state": "active"']
)
def test_what_is_no_key_is_refused(more: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(f'{{"type": "p256", "label": "x", {more}}}', type=GenerateBody)


def test_a_view_says_all_that_may_be_known() -> None:
    attributes = KeyAttributes(
        purpose=Purpose.CA, state=KeyState.DESTROYING, destroy_at=NOW, successor=b"s" * 20, schemes=("ed25519",)
    )
    record = KeyRecord(b"k" * 20, KeyType.ED25519, "www", NOW, True, "PEM", attributes)
    assert msgspec.to_builtins(KeyView.of("hsm", record, Usage(3, NOW))) == {
        "ski": b"k".hex() * 20,
        "type": "ed25519",
        "label": "www",
        "token": "hsm",
        "state": "destroying",
        "purpose": "ca",
        "created": "2030-01-02T03:04:05Z",
        "imported": True,
        "schemes": ("ed25519",),
        "not_before": None,
        "not_after": None,
        "max_rate": None,
        "signatures": 3,
        "last_used": "2030-01-02T03:04:05Z",
        "destroy_at": "2030-01-02T03:04:05Z",
        "successor": b"s".hex() * 20,
        "quiet_s": None,
        "public_key": "PEM",
    }
