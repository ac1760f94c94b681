"""Settings of a token."""

from __future__ import annotations

from pathlib import Path

from hsm.backends.pkcs11.commands import Timing
from hsm.backends.pkcs11.settings import TokenSettings


def test_supervision_gets_its_times() -> None:
    settings = TokenSettings(module=Path("/m.so"), pin=None, call_timeout_s=2.0, retry_min_s=0.5, retry_max_s=3.0)
    assert settings.timing == Timing(2.0, 30.0, 0.5, 3.0)


def test_pauses_do_not_shrink_where_the_least_is_more_than_the_most() -> None:
    settings = TokenSettings(module=Path("/m.so"), pin=None, retry_min_s=5.0, retry_max_s=1.0)
    assert settings.timing.retry_max_s == 5.0


def test_the_librarys_environment_is_not_shown() -> None:
    settings = TokenSettings(module=Path("/m.so"), pin=None, environment={"HSM_PASSWORD": "hunter2"})
    assert "hunter2" not in repr(settings)
