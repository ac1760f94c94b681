"""How processes tell each other how they are: small files in a private folder that the master makes and removes.

Each process writes only its own file, whole, by renaming; readers see the old or the new one. Every fork gets an
*incarnation*, a number that is never used again, so nobody confuses two lives of one slot. When a worker is gone the
master keeps its counts in `past` and then removes its file; a reader that has read both ignores the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from proxy.base.policy import NodeAdmin
from proxy.run.cells import Family, Snapshot, accumulated, keep_only, values_of
from proxy.signing.headroom import CapacityBasis

T = TypeVar("T", bound=msgspec.Struct)
PREFIX = "sealgate-run-"
WISHES = "wishes"
LEFTOVER_S = 60.0
"""A folder that nobody holds and that is this old was left by processes that were all killed."""
STALE_S = 5.0
"""A worker that has not reported for so long is stuck: not ready."""
MAX_KEYS_REPORTED = 1000
"""Site keys of which a worker says who holds them: reports are written several times per second."""


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one worker sees one node."""

    name: str
    address: str
    state: str
    in_flight: int = 0
    keys: int | None = None
    """None where it can't list them, or has not been asked yet."""
    signatures: int = 0
    failures: int = 0
    last_error: str = ""
    zone: str = ""
    weight: float = 1.0
    admin: NodeAdmin = "enabled"
    """What this worker was told to do with it."""
    is_up: bool = False
    """Whether it is in rotation."""
    window: float = 0.0
    """Requests that this worker may have under way there now."""
    latency_s: float = 0.0
    """What an attempt takes there, peak-sensitive; 0 where nothing is known."""
    rate_per_s: float = 0.0
    """Signatures per second that this worker gets from it now."""
    capacity_per_s: float = 0.0
    basis: str = CapacityBasis.ESTIMATED.value


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself, several times per second."""

    slot: str
    incarnation: int
    pid: int
    generation: int
    at: float
    """When it was written, on the monotonic clock, which all processes of a host share."""
    is_ready: bool
    is_draining: bool
    unready_because: str = ""
    is_accepting: bool = False
    """Whether it takes clients; before, it has not met its nodes."""
    connections: int = 0
    nodes: tuple[NodeReport, ...] = ()
    holders: dict[str, tuple[str, ...]] = {}
    """Site key (SKI in hex) -> nodes that hold it, of any state; at most `MAX_KEYS_REPORTED` of them."""
    keys_left_out: int = 0
    """Site keys beyond these."""
    snapshot: Snapshot


class SlotReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the master says of one slot."""

    name: str
    pid: int
    """0 while no process runs in it."""
    restarts: int


class MasterReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the master says."""

    pid: int
    version: str
    generation: int
    started: str
    """UTC, ISO 8601."""
    is_draining: bool
    slots: tuple[SlotReport, ...]
    listeners: tuple[str, ...]


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What people asked of nodes while the proxy runs; it goes before the config and ends with the proxy."""

    states: dict[str, NodeAdmin] = {}


class Past(msgspec.Struct, kw_only=True):
    """Counts of workers that are gone."""

    incarnations: set[int] = set()
    snapshot: Snapshot


class Board:
    """The folder. A file that can't be read counts as absent: its process will write another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held_fd = -1

    @classmethod
    def create(cls) -> Board:
        """A new folder that only this user can look into. What killed masters left behind is removed."""
        _remove_leftovers()
        board = cls(Path(tempfile.mkdtemp(prefix=PREFIX, dir=board_parent())))
        # Inherited by every fork: the folder is held while one of them lives.
        board._held_fd = os.open(board.folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(board._held_fd, fcntl.LOCK_SH)
        return board

    def remove(self) -> None:
        """Delete the folder and what is in it."""
        gone = self.folder.with_name(self.folder.name + ".gone")
        with contextlib.suppress(OSError):
            self.folder.rename(gone)  # first: whoever still writes must not refill it meanwhile
        shutil.rmtree(gone, ignore_errors=True)
        if self._held_fd >= 0:
            os.close(self._held_fd)
            self._held_fd = -1

    def publish_worker(self, report: WorkerReport) -> None:
        """Replace a worker's report."""
        self._write(f"worker-{report.incarnation}", report)

    def publish_master(self, report: MasterReport) -> None:
        """Replace the master's report."""
        self._write("master", report)

    def publish_wishes(self, wishes: Wishes) -> None:
        """Replace what is asked of nodes. Only the control process calls this. Raises OSError."""
        self._write(WISHES, wishes)

    def wishes(self) -> Wishes:
        """What is asked of nodes now."""
        return self._read(self.folder / WISHES, Wishes) or Wishes()

    def wishes_version(self) -> tuple[int, int] | None:
        """Another value after each change; None before the first. Costs one stat(2)."""
        try:
            found = (self.folder / WISHES).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def master(self) -> MasterReport | None:
        """The master's last report."""
        return self._read(self.folder / "master", MasterReport)

    def workers(self) -> list[WorkerReport]:
        """The last report of each worker whose file is there, in the order of forking."""
        found = (self._read(path, WorkerReport) for path in self._worker_files())
        return sorted((report for report in found if report is not None), key=lambda each: each.incarnation)

    def past(self) -> Past:
        """Counts of workers that are gone."""
        return self._read(self.folder / "past", Past) or Past(incarnations=set(), snapshot=Snapshot())

    def living_and_past(self) -> tuple[list[WorkerReport], Past]:
        """Both, such that no worker is counted twice or left out while the master moves it from one to the other."""
        workers = self.workers()  # first: a file that vanishes after this is in `past` already
        past = self.past()
        return [report for report in workers if report.incarnation not in past.incarnations], past

    def bury(self, incarnation: int, families: Iterable[Family]) -> None:
        """Move a dead worker's counts to `past`; its file goes in any case. Only the master calls this.

        Of nodes that neither it nor a living worker knows any more the counts go, too: discovered ones may have new
        names for ever.

        Raises OSError when they can't be written.
        """
        path = self.folder / f"worker-{incarnation}"
        try:
            report = self._read(path, WorkerReport)
            if report is not None:
                past = self.past()
                # Only those whose files may still be there need remembering.
                alive = {int(each.name.removeprefix("worker-")) for each in self._worker_files()}
                past.incarnations = (past.incarnations & alive) | {incarnation}
                families = list(families)
                past.snapshot = accumulated(families, [past.snapshot, report.snapshot])
                known = values_of(families, "node", [each.snapshot for each in self.workers()])
                keep_only(families, "node", known, past.snapshot)
                self._write("past", past)
        finally:
            path.unlink(missing_ok=True)

    def _worker_files(self) -> list[Path]:
        return [path for path in self.folder.glob("worker-*") if path.suffix != ".new"]

    def _write(self, name: str, value: msgspec.Struct) -> None:
        new = self.folder / f"{name}.new"
        new.write_bytes(msgspec.msgpack.encode(value))
        os.replace(new, self.folder / name)

    @staticmethod
    def _read(path: Path, type_: type[T]) -> T | None:
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=type_)
        except (OSError, msgspec.MsgspecError):
            return None


def _remove_leftovers() -> None:
    """Remove this user's old folders that no process holds; memory is dear where they lie."""
    for folder in board_parent().glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if found.st_uid == os.geteuid() and time.time_ns() - found.st_mtime_ns > LEFTOVER_S * 1e9:
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(fd)


def board_parent() -> Path:
    """Where boards are made: in memory if possible, so that a rename touches no disk.

    Reports are replaced several times per second, from within the event loop.
    """
    in_memory = Path("/dev/shm")
    return in_memory if os.access(in_memory, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def is_fresh(report: WorkerReport) -> bool:
    """Whether a report is recent enough to be believed."""
    return time.monotonic() - report.at < STALE_S
