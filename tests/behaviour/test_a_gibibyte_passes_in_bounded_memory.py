"""1 GiB up and 1 GiB down, quickly and to a slow reader: the proxy's resident memory grows by less than 32 MiB."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from proxy.demo.cluster import Cluster

GIB, MIB = 2**30, 2**20
LIMIT = 32 * MIB


class MemoryWatch:
    """Samples the resident memory of every process of the proxy while a transfer runs."""

    def __init__(self, pid: int) -> None:
        root = psutil.Process(pid)
        self._processes = [root, *root.children(recursive=True)]
        self._before = self._resident()
        self._peak = dict(self._before)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _resident(self) -> dict[int, int]:
        return {process.pid: process.memory_info().rss for process in self._processes}

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            for pid, resident in self._resident().items():
                self._peak[pid] = max(self._peak[pid], resident)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        """Sum over the processes of how far each rose above its start."""
        return sum(self._peak[pid] - before for pid, before in self._before.items())


@pytest.fixture(scope="module")
def big_file(cluster: Cluster) -> Iterator[str]:
    """A sparse file of 1 GiB on every web server; returns its path in the URL."""
    files = [cluster.spec.directory / name / "root" / "big.bin" for name in ("web-1", "web-2")]
    for path in files:
        with path.open("wb") as file:
            file.truncate(GIB)
    yield "big.bin"
    for path in files:
        path.unlink()


def warm_up(cluster: Cluster) -> None:
    """First requests load what is loaded once; that is not growth by size."""
    for _ in range(8):
        subprocess.run(
            ["curl", "-sS", "--cacert", str(cluster.ca), "-o", "/dev/null", cluster.url + "small"],
            check=True,
            timeout=20,
        )


@pytest.mark.timeout(240)
def test_download(cluster: Cluster, big_file: str) -> None:
    warm_up(cluster)
    command = ["curl", "-sS", "--cacert", str(cluster.ca), "-o", "/dev/null", "-w", "%{size_download} %{http_code}"]
    with MemoryWatch(cluster.proxy.pid) as memory:
        done = subprocess.run(
            [*command, cluster.url + big_file], capture_output=True, text=True, timeout=200, check=True
        )
    assert done.stdout == f"{GIB} 200"
    assert memory.growth < LIMIT


@pytest.mark.timeout(240)
def test_upload(cluster: Cluster, tmp_path: Path) -> None:
    """The web server keeps what it got, so that its size can be looked at."""
    source = tmp_path / "upload.bin"
    with source.open("wb") as file:
        file.truncate(GIB)
    warm_up(cluster)
    command = ["curl", "-sS", "--cacert", str(cluster.ca), "-H", "Expect:", "-w", "%{size_upload} %{http_code}"]
    with MemoryWatch(cluster.proxy.pid) as memory:
        done = subprocess.run(
            [*command, "-o", str(tmp_path / "answer"), "-X", "PUT", "-T", str(source), cluster.url + "upload/file.bin"],
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        )
    assert done.stdout == f"{GIB} 201", (tmp_path / "answer").read_text()
    stored = [cluster.spec.directory / web / "root" / "upload" / "file.bin" for web in ("web-1", "web-2")]
    sizes = [path.stat().st_size for path in stored if path.exists()]
    for path in stored:
        path.unlink(missing_ok=True)
    assert sizes == [GIB]
    assert memory.growth < LIMIT


async def _read_slowly(cluster: Cluster, path: str, still: Callable[[], int]) -> int:
    """Asks for the file and reads nothing until the proxy's memory has had every chance to grow, then a little."""
    context = ssl.create_default_context(cafile=str(cluster.ca))
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.port, ssl=context, limit=65536)
    writer.write(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    total = 0
    quiet_since, last = 0, -1
    while quiet_since < 20:  # the web server has stopped sending: everything between is full
        await asyncio.sleep(0.05)
        now = still()
        quiet_since, last = (quiet_since + 1, now) if now == last else (0, now)
    for _ in range(256):
        total += len(await reader.read(16384))
    writer.transport.abort()
    return total


@pytest.mark.timeout(120)
def test_slow_reader(cluster: Cluster, big_file: str) -> None:
    warm_up(cluster)
    web = [psutil.Process(pid) for program in cluster.web_programs for pid in [program.pid]]
    workers = [child for process in web for child in process.children()]

    def bytes_sent() -> int:
        return sum(child.io_counters().read_chars + child.io_counters().write_chars for child in workers)

    with MemoryWatch(cluster.proxy.pid) as memory:
        total = asyncio.run(_read_slowly(cluster, big_file, bytes_sent))
    assert total > MIB
    assert memory.growth < LIMIT
