"""What a crashed daemon may not leave behind: processes, files of sessions, cgroups."""

import ctypes
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
OURS = ("mailagent.adapters.parser", "redis-server")
"""The children that a daemon has all the time."""


@contextmanager
def adopting() -> Iterator[None]:
    """The orphans of our children become our own (prctl(2)), so that none can hide."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def children(of: int) -> dict[int, str]:
    """The children of a process, with their command lines; not those that have ended. Any process may have any name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(OSError, IndexError):
            state, parent = (entry / "stat").read_text("latin-1").rpartition(")")[2].split()[:2]
            if int(parent) != of:
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if state != "Z":
                found[int(entry.name)] = command or (entry / "comm").read_text("latin-1").strip()
    return found


def processes(known: Collection[int], daemons: Collection[int]) -> dict[int, str]:
    """Our children that are neither `known` nor `daemons`, and what these run beside what every daemon has."""
    left = {pid: words for pid, words in children(os.getpid()).items() if pid not in known and pid not in daemons}
    for daemon in daemons:
        left |= {pid: words for pid, words in children(daemon).items() if not any(name in words for name in OURS)}
    return left


def files(state: Path, runtime: Path) -> list[str]:
    """Sockets of sessions, copies of transcripts, and half-restored workspaces."""
    patterns = ((runtime, "*.sock"), (state, "tmp/*"), (state, "threads/*/restoring"))
    return [str(path) for top, pattern in patterns for path in top.glob(pattern)]


def cgroups() -> set[str]:
    """The cgroups below the one that we are in, in every hierarchy (cgroups(7))."""
    found = set()
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for top in ("/sys/fs/cgroup", f"/sys/fs/cgroup/{controllers.removeprefix('name=') or 'unified'}"):
            place = Path(top + path)
            if (place / "cgroup.procs").exists():
                found |= {str(below) for below in place.rglob("*") if below.is_dir()}
    return found
