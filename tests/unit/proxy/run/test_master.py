from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from OpenSSL import SSL

from proxy.run.admin_client import set_state
from proxy.run.board import Board, board_parent
from tests.support.edge import client_context
from tests.support.fleet import NAME, ProxyProcess, in_thread, make_proxy, until
from tests.support.tls_client import visit

Start = Callable[..., Awaitable[ProxyProcess]]


@pytest_asyncio.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    started: list[ProxyProcess] = []

    async def make(*, wait: bool = True, **config: Any) -> ProxyProcess:
        proxy = await make_proxy(tmp_path, **config)
        started.append(await proxy.start())
        if wait:
            await proxy.wait_ready()
        return proxy

    yield make
    for proxy in started:
        children = psutil.Process(proxy.pid).children() if psutil.pid_exists(proxy.pid) else []
        await proxy.stop()
        await proxy.node.kill()
        proxy.web.stop()
        _, left = psutil.wait_procs(children, timeout=10)
        assert left == []
        assert "Traceback" not in proxy.log(), proxy.log()


def is_refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def boards_of(pid: int) -> list[Path]:
    """Folders in which a master's report lies."""
    found = board_parent().glob("sealgate-run-*")
    return [folder for folder in found if (report := Board(folder).master()) and report.pid == pid]


async def workers_of(proxy: ProxyProcess) -> dict[str, int]:
    return {worker["slot"]: worker["pid"] for worker in (await proxy.status())["workers"]}


async def test_it_serves_says_how_it_is_and_stops_without_a_trace(start: Start) -> None:
    proxy = await start()
    seen = await in_thread(visit, proxy.port, NAME)
    assert seen.answer.endswith(b"hello")
    assert (await proxy.get("/readyz"))[0] == 200
    shown = await proxy.status()
    assert (shown["master"]["pid"], shown["master"]["generation"], shown["nodes"][0]["up"]) == (proxy.pid, 1, True)
    folders = boards_of(proxy.pid)
    assert len(folders) == 1
    children = psutil.Process(proxy.pid).children()
    assert len(children) == 3
    assert all("private" not in " ".join(child.cmdline()) for child in children)
    proxy.send(signal.SIGTERM)
    assert await proxy.wait_exit() == 0
    assert not folders[0].exists()
    assert not any(child.is_running() for child in children)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", proxy.port))


async def test_a_dead_worker_is_forked_again_on_the_same_socket_and_its_counts_stay(start: Start) -> None:
    proxy = await start(extra_process="restart_delay_s = 0.5")
    for _ in range(6):
        await in_thread(visit, proxy.port, NAME)
    async with asyncio.timeout(5):
        while await proxy.metric("sealgate_tls_sessions_total") != 6:
            await asyncio.sleep(0.05)
    before = await workers_of(proxy)
    os.kill(before["worker-0"], signal.SIGKILL)
    # No client is refused meanwhile: half of them wait in the queue of the dead worker's socket.
    answers = await asyncio.gather(*(in_thread(visit, proxy.port, NAME) for _ in range(8)))
    assert all(seen.answer.endswith(b"hello") for seen in answers)
    async with asyncio.timeout(10):
        while (await proxy.get("/readyz"))[0] != 200 or await proxy.metric("sealgate_tls_sessions_total") < 14:
            await asyncio.sleep(0.05)
    after = await workers_of(proxy)
    assert after["worker-0"] != before["worker-0"]
    assert after["worker-1"] == before["worker-1"]
    assert await proxy.metric("sealgate_process_restarts_total") == 1
    assert await proxy.metric("sealgate_tls_sessions_total") == 14


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])
async def test_a_ticket_of_one_worker_resumes_at_the_other(start: Start, version: int) -> None:
    proxy = await start()
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    first = await in_thread(visit, proxy.port, NAME, context=context)
    assert not first.is_resumed
    asked = proxy.node.asked.total()
    for count in range(1, 31):  # all 30 at one worker: one time in 500 million
        again = await in_thread(visit, proxy.port, NAME, context=context, session=first.session)
        assert again.is_resumed, f"visit {count} was not resumed"
    async with asyncio.timeout(5):
        while not all(worker["sessions"]["total"] for worker in (await proxy.status())["workers"]):
            await asyncio.sleep(0.05)
    probes = await proxy.metric("sealgate_node_probes_total")
    assert await proxy.metric("sealgate_signing_jobs_total") == 1
    assert proxy.node.asked.total() - asked <= probes + 4


async def test_a_port_in_use_is_refused_with_one_sentence(start: Start) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as an old proxy would
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        proxy = await start(wait=False, listen=f"127.0.0.1:{port}")
        assert await proxy.wait_exit() == 1
    assert proxy.log().strip() == (
        f"can't listen on 127.0.0.1:{port}: another program (or an older proxy) listens there; "
        "stop it or choose another port"
    )


async def test_a_drain_finishes_the_request_in_flight(start: Start) -> None:
    proxy = await start()
    request = asyncio.ensure_future(in_thread(visit, proxy.port, NAME, path="/hold"))
    await until(lambda: proxy.web.requests == 1, "the request is at the web server")
    children = psutil.Process(proxy.pid).children()
    proxy.send(signal.SIGTERM)
    await until(lambda: "draining" in proxy.log())
    await until(lambda: is_refused(proxy.port), "new clients are refused")
    assert (await proxy.get("/readyz"))[0] == 503
    proxy.web.release.set()
    assert (await request).answer.endswith(b"hello")
    assert await proxy.wait_exit() == 0
    assert not any(child.is_running() for child in children)


async def test_a_second_signal_does_not_wait(start: Start) -> None:
    proxy = await start()
    request = asyncio.ensure_future(in_thread(visit, proxy.port, NAME, path="/hold"))
    await until(lambda: proxy.web.requests == 1)
    proxy.send(signal.SIGTERM)
    await until(lambda: "draining" in proxy.log())
    proxy.send(signal.SIGTERM)
    assert await proxy.wait_exit() == 0
    proxy.web.release.set()
    with pytest.raises((OSError, SSL.Error, AssertionError)):
        assert (await request).answer.endswith(b"hello")


async def test_a_drain_has_an_end(start: Start) -> None:
    proxy = await start(extra_process="drain_timeout_s = 0.3")
    request = asyncio.ensure_future(in_thread(visit, proxy.port, NAME, path="/hold"))
    await until(lambda: proxy.web.requests == 1)
    proxy.send(signal.SIGINT)
    assert await proxy.wait_exit() == 0
    assert "cut_connections=1" in proxy.log()
    proxy.web.release.set()
    with pytest.raises((OSError, SSL.Error, AssertionError)):
        assert (await request).answer.endswith(b"hello")


async def test_signals_of_later_versions_do_no_harm(start: Start) -> None:
    proxy = await start(workers=1)
    for number in (signal.SIGHUP, signal.SIGUSR2):
        proxy.send(number)
        await until(lambda number=number: f"signal={number.name}" in proxy.log())
    for pid in (await workers_of(proxy)).values():
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGINT)
    assert (await in_thread(visit, proxy.port, NAME)).answer.endswith(b"hello")


async def test_the_master_outlives_odd_ends_of_workers(start: Start) -> None:
    proxy = await start(workers=1, extra_process="restart_delay_s = 0.1")
    [folder] = boards_of(proxy.pid)
    (folder / "past.new").mkdir()  # the counts of the dead can't be written
    before = await workers_of(proxy)
    os.kill(before["worker-0"], signal.SIGRTMIN + 3)
    await until(lambda: f"how=signal {signal.SIGRTMIN + 3}" in proxy.log().replace("'", ""), "the end was noted")
    assert "counts_lost" in proxy.log()
    assert (await in_thread(visit, proxy.port, NAME)).answer.endswith(b"hello")
    assert (await workers_of(proxy))["worker-0"] != before["worker-0"]


async def test_what_is_asked_of_a_node_outlives_who_heard_it(start: Start) -> None:
    proxy = await start(workers=1, extra_process="restart_delay_s = 0.1")

    async def socket_path() -> Path:
        return Path((await proxy.status())["control_socket"])

    name, path = proxy.node.name, await socket_path()
    answer = await in_thread(set_state, path, name, "draining", force=True, wait_s=5.0)
    assert (answer["told"], answer["in_flight"]) == (["worker-0"], 0)
    children = {child.name(): child for child in psutil.Process(proxy.pid).children()}
    for child in children.values():
        child.kill()

    async def is_back() -> bool:
        try:
            shown = await proxy.status()
        except OSError:  # the control process is being forked again
            return False
        pids = {worker["pid"] for worker in shown["workers"]}
        told = {node["states"].get("worker-0") for node in shown["nodes"]}
        return not pids & {child.pid for child in children.values()} and told == {"draining"}

    async with asyncio.timeout(10):
        while not await is_back():
            await asyncio.sleep(0.05)
    answer = await in_thread(set_state, await socket_path(), name, "enabled", force=False, wait_s=0.0)
    assert answer["before"] == "draining"
    assert (await in_thread(visit, proxy.port, NAME)).answer.endswith(b"hello")


async def test_nobody_outlives_a_killed_master(start: Start) -> None:
    proxy = await start()
    children = psutil.Process(proxy.pid).children()
    folders = boards_of(proxy.pid)
    assert len(folders) == 1
    proxy.send(signal.SIGKILL)
    await proxy.wait_exit()
    await until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    assert not boards_of(proxy.pid)
    await until(lambda: not any(folder.exists() for folder in folders), "the board is gone")


async def test_without_nodes_it_is_not_ready_but_serves_who_can_resume(start: Start) -> None:
    proxy = await start(workers=1, extra_signing="job_timeout_s = 0.5\nattempt_timeout_s = 0.2")
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    first = await in_thread(visit, proxy.port, NAME, context=context)
    await proxy.node.kill()
    async with asyncio.timeout(10):
        while (await proxy.get("/readyz"))[0] == 200:
            await asyncio.sleep(0.05)
    assert "no node is up for the key of" in (await proxy.get("/readyz"))[1]
    assert (await in_thread(visit, proxy.port, NAME, context=context, session=first.session)).is_resumed

    def full_handshake() -> None:
        with (
            socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as plain,
            client_context().wrap_socket(plain, server_hostname=NAME),
        ):
            pass

    with pytest.raises((ssl.SSLError, OSError)):
        await in_thread(full_handshake)
    await proxy.node.start()
    async with asyncio.timeout(10):
        while (await proxy.get("/readyz"))[0] != 200:
            await asyncio.sleep(0.05)
