"""Names and addresses of the config: what is let through, and what is not."""

from __future__ import annotations

import msgspec
import pytest

from proxy.base.policy import NodeAddress


def node(name: str = "node-1", address: str = "10.0.0.1:2407") -> NodeAddress:
    return msgspec.convert({"name": name, "address": address}, NodeAddress)


@pytest.mark.parametrize("address", ["10.0.0.1:2407", "node-1.example:1", "[::1]:2407", "localhost:0"])
def test_good_addresses(address: str) -> None:
    assert node(address=address).address == address


@pytest.mark.parametrize(
    "address", ["", "10.0.0.1", "10.0.0.1:", ":2407", "::1:2407", "a b:1", "h:1\n", "h:123456", "http://h:1", "[h]:1"]
)
def test_bad_addresses(address: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="address"):
        node(address=address)


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 65, "node-1\n", 'a"b'])
def test_bad_names(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="name"):
        node(name=name)
