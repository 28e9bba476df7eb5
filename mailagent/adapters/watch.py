"""What a sandbox uses, looked at from outside every quarter of a second: the disk, which no limit of the kernel bounds
for a service without privileges, and memory where there is no control group."""

import errno
import os
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.policy import HOME, SHM, TMP, Policy

TICK = 0.25
RESERVE = 256 << 20
"""What must be left on the file system for everybody else."""

PROC = Path("/proc")
PAGE = os.sysconf("SC_PAGE_SIZE")
DEEPEST = 100
"""Directories within directories: no analysis needs more, and each is a handle while it is looked through."""
LONGEST = 3000
"""Bytes of a directory's path below the tree: with where that lies, and a name in it, no more than a path can have."""

_GONE = (FileNotFoundError, NotADirectoryError)
"""What was there a moment ago, and is not, or is something else."""

AGENT = 2
"""The agent's number inside, where bubblewrap is process 1."""

TOO_MUCH_DISK = (
    "The analysis wrote more files than one conversation may have, so they were removed. Please ask for less at once."
)
TOO_MUCH_MEMORY = "The analysis needed more memory than one answer may have. Please ask for less at once."


class Watch:
    """A watch over the directory trees that a sandbox may write and, once it is there, over its processes."""

    def __init__(self, policy: Policy, others: Callable[[], Sequence[str]], *, memory: bool) -> None:
        """`others` are directories that are written beside the workspace."""
        self._limits = policy.limits
        self._trees = [f"{policy.workspace}/work", f"{policy.workspace}/out"]
        self._others = others
        self._memory = memory
        self._over = False
        self._nested = bool(policy.host.runsc)
        self._namespace = self._init = 0

    def attach(self, namespace: int, init: int) -> None:
        """Watch the processes of this pid namespace, of which a handle is held open: its number is not given to another
        meanwhile. `init` is the first one."""
        self._namespace, self._init = os.fstat(namespace).st_ino, init

    def look(self) -> PermanentError | TemporaryError | None:
        """Why the sandbox must end, None when it need not. Commands that take too much memory are killed; when the next
        look finds that it did not help, the sandbox must end."""
        members = list(self._members()) if self._init else []
        if self._memory and self._used(members) > self._limits.memory_bytes:
            if self._over or self._nested:
                return PermanentError(TOO_MUCH_MEMORY)
            self._kill_commands(members)
            self._over = True
        else:
            self._over = False
        trees = [tree for tree in (*self._trees, *self._others()) if Path(tree).is_dir()]
        if any(_free(tree) < RESERVE for tree in trees):
            return TemporaryError("the disk is nearly full")
        return None if self._fits(trees, members) else PermanentError(TOO_MUCH_DISK)

    def _members(self) -> Iterator[int]:
        for entry in PROC.iterdir():
            if entry.name.isdigit() and self._is_member(int(entry.name)):
                yield int(entry.name)

    def _is_member(self, process: int) -> bool:
        """Whether it is in the namespace or, for gVisor, which makes more, comes from one that is."""
        try:
            if (PROC / str(process) / "ns" / "pid").stat().st_ino == self._namespace:
                return True
        except OSError:
            return False  # gone, or another user's
        parent = _status(process, "PPid") if self._nested else 0
        return parent > 1 and self._is_member(parent)

    def _kill_commands(self, members: Sequence[int]) -> None:
        """Kill all but bubblewrap, the agent, and what the agent started itself: shells, which tell it how their
        commands ended."""
        agent = next((process for process in members if _status(process, "NSpid") == AGENT), 0)
        for process in members:
            if process not in (self._init, agent) and _status(process, "PPid") != agent:
                self._kill(process)

    def _kill(self, process: int) -> None:
        """By a handle, since the number may be somebody else's by now."""
        with suppress(OSError):
            handle = os.pidfd_open(process)
            try:
                if self._is_member(process):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)

    def _used(self, members: Sequence[int]) -> int:
        """Memory of the processes and of what lies in the file systems in memory. What is shared is counted in full,
        which is quick, and by shares only when that is too much."""
        files = _in_memory(self._init)
        total = files + sum(map(_resident, members))
        return total if total <= self._limits.memory_bytes else files + sum(map(_proportional, members))

    def _fits(self, trees: Sequence[str], members: Sequence[int]) -> bool:
        blocks, files = self._limits.disk_bytes // 512, self._limits.files
        devices = {Path(tree).stat().st_dev for tree in trees}
        try:
            for size in chain(_unlinked(members, devices), *(sizes(tree) for tree in trees)):
                blocks, files = blocks - size, files - 1
                if blocks < 0 or files < 0:
                    return False
        except OSError:  # a tree deeper than a path can be is nobody's analysis
            return False
        return True


def _in_memory(process: int) -> int:
    """What the files take that lie in memory, as this process sees them."""
    with suppress(OSError):
        filled = [os.statvfs(PROC / str(process) / f"root{mount}") for mount in (TMP, SHM, HOME)]
        return sum((each.f_blocks - each.f_bfree) * each.f_frsize for each in filled)
    return 0


def _free(directory: str) -> int:
    with suppress(FileNotFoundError):  # the SDK removes its own when it is done
        status = os.statvfs(directory)
        return status.f_bavail * status.f_frsize
    return RESERVE


def sizes(tree: str) -> Iterator[int]:
    """Blocks of 512 bytes of everything below; OSError for what cannot be looked into.

    By handles, not by paths: what was a directory a moment ago may be a link to one of the host's by now."""
    with suppress(*_GONE):
        yield from _below(_opened(tree, None), 0, 0)


def _below(directory: int, depth: int, length: int) -> Iterator[int]:
    """The same for an open directory, which is closed in the end."""
    try:
        if depth > DEEPEST or length > LONGEST:
            raise OSError(errno.ENAMETOOLONG, "too deep")
        with os.scandir(directory) as entries:
            for entry in entries:
                with suppress(*_GONE):
                    info = entry.stat(follow_symlinks=False)
                    yield info.st_blocks
                    if stat.S_ISDIR(info.st_mode):
                        longer = length + 1 + len(os.fsencode(entry.name))
                        yield from _below(_opened(entry.name, directory), depth + 1, longer)
    finally:
        os.close(directory)


def _opened(name: str, parent: int | None) -> int:
    """The directory, whose owner we are, with our rights on it given back."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        handle = os.open(name, flags | os.O_PATH, dir_fd=parent)
    try:
        Path(f"/proc/self/fd/{handle}").chmod(0o700)
        return os.open(f"/proc/self/fd/{handle}", os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(handle)


def _unlinked(members: Sequence[int], devices: set[int]) -> Iterator[int]:
    """Blocks of files that have no name any more but are open: they fill the disk like others."""
    seen = set()
    for process in members:
        with suppress(OSError):
            for descriptor in (PROC / str(process) / "fd").iterdir():
                with suppress(OSError):
                    info = descriptor.stat()
                    if info.st_nlink == 0 and info.st_dev in devices and info.st_ino not in seen:
                        seen.add(info.st_ino)
                        yield info.st_blocks


def _status(process: int, field: str) -> int:
    """The last number of this field of proc(5)'s status; 0 when the process is gone."""
    with suppress(OSError):
        for line in (PROC / str(process) / "status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[-1])
    return 0


def _resident(process: int) -> int:
    with suppress(OSError):
        return int((PROC / str(process) / "statm").read_text().split()[1]) * PAGE
    return 0


def _proportional(process: int) -> int:
    with suppress(OSError):
        lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
    return 0
