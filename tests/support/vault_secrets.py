"""The secrets of a vault, read as only its own code can: for tests that look where else they might be.

This reaches into private parts on purpose. No public operation of the vault returns a private number, and another test
proves that.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hsm.backends.vault.admin import VaultAdmin
from hsm.backends.vault.opening import open_store, unlock_from
from hsm.store import database, master_key


def private_numbers_in(store: Path, key_file: Path) -> dict[str, tuple[int, int]]:
    """Every secret number by name, with its size in bytes: scalars, primes, private exponents and the master key."""
    found: dict[str, tuple[int, int]] = {}
    opened = open_store(store, key_file=key_file)
    admin = VaultAdmin(opened)
    for record in admin.list():
        key, _ = admin._private(record.ski)
        if isinstance(key, rsa.RSAPrivateKey):
            numbers = key.private_numbers()
            found[f"{record.label} p"] = (numbers.p, key.key_size // 16)
            found[f"{record.label} q"] = (numbers.q, key.key_size // 16)
            found[f"{record.label} d"] = (numbers.d, key.key_size // 8)
        elif isinstance(key, ec.EllipticCurvePrivateKey):
            found[f"{record.label} scalar"] = (key.private_numbers().private_value, (key.key_size + 7) // 8)
    opened.close()
    master = master_key_of(store, unlock_from(None, key_file))
    found["master key"] = (int.from_bytes(master, "big"), len(master))
    return found


def master_key_of(store: Path, unlock: master_key.Unlock) -> bytes:
    """What all records of a store are encrypted under."""
    connection = database.connect(store, 5.0)
    cluster_id, header = database.read_header(store, connection)
    connection.close()
    return bytes(master_key.unwrap(header, unlock, cluster_id).reveal())
