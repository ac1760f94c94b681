from __future__ import annotations

import socket
import threading
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


@pytest.mark.parametrize("url", ["http://a b", "http://127.0.0.1:\x00"])
def test_what_is_no_url_gets_a_sentence(url: str) -> None:
    with pytest.raises(StatusError, match="is no URL"):
        fetch_status(url)


def answer_once(listening: socket.socket, answer: bytes) -> threading.Thread:
    """Give `answer` to the first client, whatever it asks."""

    def serve() -> None:
        client, _ = listening.accept()
        with client:
            client.recv(4096)
            client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x03\x00\x02\x02\x50",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xff\xff\xff",
    ],
)
def test_other_programs_are_no_proxy(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = answer_once(listening, answer)
        with pytest.raises(StatusError, match="what answers there is not a Sealgate proxy"):
            fetch_status(f"http://127.0.0.1:{listening.getsockname()[1]}")
        thread.join(5)


def test_the_web_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n{"version":"1","ready":false}'
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = answer_once(listening, answer)
        assert fetch_status(f"http://127.0.0.1:{listening.getsockname()[1]}").version == "1"
        thread.join(5)
