"""The limit of open files: each connection takes one, and the usual limit of 1024 is less than a server needs."""

from __future__ import annotations

import resource


def allow_open_files(wanted: int) -> int:
    """Raise the limit of open files towards `wanted`; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        return target
    return soft
