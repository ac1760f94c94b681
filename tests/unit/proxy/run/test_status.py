from __future__ import annotations

from pathlib import Path

import pytest

from proxy.run.status import StatusError, address_in, fetch_status
from tests.support.proxy_toml import GOOD


def test_the_config_names_the_address(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(GOOD)
    assert address_in(path) == "http://127.0.0.1:9443"
    path.write_text("nonsense")
    with pytest.raises(StatusError, match="not valid TOML"):
        address_in(path)


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:9443", "https://127.0.0.1:9443"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(StatusError, match="write a URL like"):
        fetch_status(url)


def test_nobody_there() -> None:
    with pytest.raises(StatusError, match=r"no proxy answers: .*; is it running"):
        fetch_status("http://127.0.0.1:1")
