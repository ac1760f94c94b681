from __future__ import annotations

import os
import resource
from collections.abc import Callable

import pytest

from hsm.shared.open_files import allow_open_files

# The child here does nothing that threads of the test process could disturb.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_child(check: Callable[[], bool]) -> int:
    """Exit status of a fork that runs `check`: 0 when it returns True."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_limit_of_open_files_is_raised_as_far_as_allowed() -> None:
    def check() -> bool:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
        return (
            allow_open_files(50) == 100
            and allow_open_files(150) == 150
            and allow_open_files(10_000) == 200
            and resource.getrlimit(resource.RLIMIT_NOFILE) == (200, 200)
        )

    assert in_child(check) == 0
