from __future__ import annotations

import pytest

from hsm.backends.vault.errors import VaultError, VaultReason, store_errors_translated
from hsm.store.errors import StoreError, StoreReason


@pytest.mark.parametrize("reason", list(StoreReason))
def test_every_error_of_the_store_becomes_one_of_the_vault(reason: StoreReason) -> None:
    with pytest.raises(VaultError, match="a sentence") as caught, store_errors_translated():
        raise StoreError(reason, "a sentence")
    named = {"conflict", "exists", "invalid", "tampered"}
    assert caught.value.reason.value == (reason.value if reason.value in named else VaultReason.UNAVAILABLE.value)
    assert caught.value.__cause__ is None


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), store_errors_translated():
        raise KeyError
