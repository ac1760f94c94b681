"""Worker processes: started with what they need and nothing else, ended for certain."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm.backends.pkcs11.process import WORKER, WorkerProcess, how_it_ended, worker_command


def python(code: str) -> Callable[[int], list[str]]:
    """A worker that runs `code`; `fd` is its socket."""
    return lambda fd: [sys.executable, "-c", f"fd={fd}\n{code}"]


def test_a_worker_has_its_socket_and_no_other_file() -> None:
    secret, _other = socket.socketpair()
    secret.set_inheritable(True)
    code = "import os, socket\ns=socket.socket(fileno=fd)\ns.sendall(' '.join(os.listdir('/proc/self/fd')).encode())"
    worker = WorkerProcess({}, command=python(code))
    with worker.connection, secret, _other:
        worker.connection.settimeout(10)
        files = {int(number) for number in worker.connection.recv(1000).split()}
        assert worker.wait(10)
    assert len(files - {0, 1, 2}) == 2, "its socket, and the folder that it looks at"


@pytest.mark.parametrize("environment", [{"A=B": "c"}, {"A": "b\0c"}, {"A\0": "b"}])
def test_an_environment_that_can_not_be_is_an_error_of_the_start(environment: dict[str, str]) -> None:
    with pytest.raises(OSError, match=r"environment|null byte"):
        WorkerProcess(environment)


def test_a_worker_has_the_environment_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_SECRET", "hunter2")
    monkeypatch.setenv("LANG", "C.UTF-8")
    code = "import json, os, socket\nsocket.socket(fileno=fd).sendall(json.dumps(dict(os.environ)).encode())"
    worker = WorkerProcess({"SOFTHSM2_CONF": "/x", "LANG": "C"}, command=python(code))
    with worker.connection as connection:
        connection.settimeout(10)
        environment = json.loads(connection.recv(100_000))
        assert worker.wait(10)
    assert environment["SOFTHSM2_CONF"] == "/x"
    assert environment["LANG"] == "C", "its own settings come first"
    assert environment["PATH"] == os.environ["PATH"]
    assert "NODE_SECRET" not in environment
    assert set(environment) <= {
        "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "SOFTHSM2_CONF"
    }  # fmt: skip


@pytest.mark.parametrize("closed", [False, True])
def test_what_a_library_prints_goes_to_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    with (tmp_path / "err").open("w") as standard_error:
        monkeypatch.setattr(sys, "__stderr__", standard_error)
        if closed:
            standard_error.close()
        worker = WorkerProcess({}, command=python("print('the library says hello')"))
        with worker.connection:
            assert worker.wait(10)
    assert (tmp_path / "err").read_text() == ("" if closed else "the library says hello\n")


def test_the_worker_is_this_python_and_nothing_of_the_current_folder() -> None:
    assert worker_command(7) == [sys.executable, "-P", "-m", WORKER, "7"]


def test_a_worker_that_ignores_everything_is_killed() -> None:
    code = "import signal, time\nfor n in (15, 2, 1): signal.signal(n, signal.SIG_IGN)\nopen(fd,'w').write('x')\n"
    worker = WorkerProcess({}, command=python(code + "time.sleep(1000)"))
    with worker.connection:
        ended = threading.Event()
        said: list[str] = []
        worker.watch(lambda sentence: (said.append(sentence), ended.set()))  # type: ignore[func-returns-value]
        assert not worker.wait(0.01)
        worker.kill()
        assert ended.wait(10)
        worker.kill()
    assert said == [""]


def test_a_process_that_can_not_be_started_leaves_no_socket() -> None:
    with pytest.raises(OSError, match="no-such-program"):
        WorkerProcess({}, command=lambda fd: ["/no-such-program", str(fd)])


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, "the token's process ended with status 0"),
        (3, "the token's process ended with status 3"),
        (-signal.SIGSEGV, "the token's process was ended by SIGSEGV"),
        (-signal.SIGKILL, ""),
        (-120, "the token's process was ended by signal 120"),
    ],
)
def test_an_end_is_said_in_words(status: int, said: str) -> None:
    assert how_it_ended(status) == said
