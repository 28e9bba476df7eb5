"""What a sandbox uses, looked at from outside every quarter of a second: the disk, which no limit of the kernel bounds
for a service without privileges, and memory where there is no control group."""

import errno
import os
import signal
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

from mailagent.adapters import processes, trees
from mailagent.adapters.processes import PROC
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.policy import HOME, SHM, TMP, Policy

TICK = 0.25
RESERVE = 256 << 20
"""What must be left for everybody else, on the file system and in memory."""

SHARE, LONGEST_PAUSE = 10, 2.0
"""A look through many files is followed by ten times as long without one, but by no more seconds than this."""
FAST = 4
"""When the disk has lost this part of the quota since, the next one does not wait."""

DESCRIPTORS = 10_000
"""What all processes of a sandbox may have open together: each is looked at."""
ENTRY = 1 << 10
"""About what the kernel keeps of a file in memory beside its content."""
BLOCK = 512
"""Bytes of a block of stat(2), whatever those of the file system have."""
AGENT = 2
"""The agent's number inside, where bubblewrap is process 1."""

TOO_MUCH_DISK = (
    "The analysis wrote or opened more files than one conversation may have, so they were removed. "
    "Please ask for less at once."
)
TOO_MUCH_MEMORY = "The analysis needed more memory than one answer may have. Please ask for less at once."


class Watch:
    """A watch over the directory trees that a sandbox may write and, once it is there, over its processes."""

    def __init__(self, policy: Policy, beside: str, *, killed: Callable[[], int] | None = None) -> None:
        """`beside` is the directory that is written beside the workspace, once it is there; `killed` tells how many
        processes the kernel has killed for want of memory, where a control group bounds it."""
        self._limits = policy.limits
        self._trees = [f"{policy.workspace}/work", f"{policy.workspace}/out", beside]
        self._killed = killed
        self._count, self._shells = 0, frozenset[int]()
        self._over = False
        self._nested = bool(policy.host.runsc)
        self._namespace = self._init = self._hurry = 0
        self._due = 0.0
        self._memory_device = processes.memory_device()

    def attach(self, namespace: int, init: int) -> None:
        """Watch the processes of this pid namespace, of which a handle is held open: its number is not given to another
        meanwhile. `init` is the first one."""
        self._namespace, self._init = os.fstat(namespace).st_ino, init

    def look(self, *, patient: bool = False) -> PermanentError | TemporaryError | None:
        """Why the sandbox must end, None when it need not. Processes that hide what they have are killed, and commands
        that take too much memory; when the next look finds that it did not help, the sandbox must end. A `patient` look
        goes through the files only when that is due."""
        members = list(self._members()) if self._init else []
        for process in () if self._nested else filter(processes.headless, members):
            self._kill(process)
        descriptors = list(islice(processes.descriptors(members), DESCRIPTORS + 1))
        if len(descriptors) > DESCRIPTORS:
            return PermanentError(TOO_MUCH_DISK)
        nameless = list({(info.st_dev, info.st_ino): info for info in descriptors if info.st_nlink == 0}.values())
        return self._of_memory(members, nameless) or self._of_disk(members, nameless, patient=patient)

    def _of_memory(
        self, members: Sequence[int], nameless: Sequence[os.stat_result]
    ) -> PermanentError | TemporaryError | None:
        if self._killed:
            return self._of_group(members, self._killed())
        if self._used(members, nameless) <= self._limits.memory_bytes:
            self._over = False
        elif self._over or self._nested:
            return PermanentError(TOO_MUCH_MEMORY)
        else:
            self._kill_commands(members)
            self._over = True
        if processes.available_bytes() < RESERVE:
            return TemporaryError("the machine's memory is nearly used up")
        return None

    def _of_group(self, members: Sequence[int], killed: int) -> PermanentError | None:
        """The kernel takes one process at a time. What is left of its command might wait for that one for ever, or go
        on as if all had been well: it is killed as well, and so its shell is told. A command that has only just begun
        is spared when there was another one before it."""
        shells = frozenset(self._shells_of(members))
        late = shells - self._shells if self._shells else frozenset()
        count, self._count, self._shells = self._count, killed, shells
        if killed > count:
            if self._nested:
                return PermanentError(TOO_MUCH_MEMORY)
            self._kill_commands(members, late)
        return None

    def _of_disk(
        self, members: Sequence[int], nameless: Sequence[os.stat_result], *, patient: bool
    ) -> PermanentError | TemporaryError | None:
        devices = dict(_devices(self._trees))
        free = min(map(_free, devices), default=RESERVE)
        if not patient or free < self._hurry or time.monotonic() >= self._due:
            hidden = (_size(info) for info in nameless if info.st_dev in devices.values())
            try:
                if not self._fits(chain(hidden, *map(sizes, devices))):
                    return PermanentError(TOO_MUCH_DISK)
            except OSError as error:
                return TemporaryError(f"a sandbox cannot be looked through: {error}")
            self._hurry = max(RESERVE, free - self._limits.disk_bytes // FAST)
        if free >= RESERVE:
            return None
        if processes.hides(members, set(devices.values())):
            return PermanentError(TOO_MUCH_DISK)
        return TemporaryError("the disk is nearly full")

    def _members(self) -> Iterator[int]:
        for entry in PROC.iterdir():
            if entry.name.isdigit() and self._is_member(int(entry.name)):
                yield int(entry.name)

    def _is_member(self, process: int) -> bool:
        """Whether it is in the namespace or, for gVisor, which makes more, comes from one that is."""
        while process > 1:
            try:
                if (PROC / str(process) / "ns" / "pid").stat().st_ino == self._namespace:
                    return True
            except OSError:
                return False  # gone, or another user's
            process = processes.status(process, "PPid") if self._nested else 0
        return False

    def _kill_commands(self, members: Sequence[int], spared: Collection[int] = ()) -> None:
        """Kill all but bubblewrap, the agent, and what the agent started itself: shells, which tell it how their
        commands ended. The commands of the shells in `spared` are not touched."""
        agent, shells = _agent(members), set(self._shells_of(members))
        for process in members:
            if process not in (self._init, agent, *shells) and not _descends(process, spared):
                self._kill(process)

    def _shells_of(self, members: Sequence[int]) -> Iterator[int]:
        """What the agent started itself."""
        agent = _agent(members)
        return (process for process in members if agent and processes.status(process, "PPid") == agent)

    def _kill(self, process: int) -> None:
        """By a handle, since the number may be somebody else's by now."""
        with suppress(OSError):
            handle = os.pidfd_open(process)
            try:
                if self._is_member(process):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)

    def _used(self, members: Sequence[int], nameless: Sequence[os.stat_result]) -> int:
        """Memory that is the processes' own, and what lies in the file systems in memory: there is no other that they
        could share. What they have in common since one started another is counted in full, which is quick, and by
        shares only when that is too much."""
        without_name = sum(info.st_blocks * BLOCK for info in nameless if info.st_dev == self._memory_device)
        files = _in_memory(self._init) + without_name
        total = files + sum(map(processes.private_bytes, members))
        return total if total <= self._limits.memory_bytes else files + processes.bytes_of_all(members)

    def _fits(self, sizes_of_all: Iterable[int]) -> bool:
        began = time.monotonic()
        room, files = self._limits.disk_bytes, self._limits.files
        try:
            for size in sizes_of_all:
                room, files = room - size, files - 1
                if room < 0 or files < 0:
                    return False
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return False  # a tree so deep is nobody's analysis
        took = time.monotonic() - began
        self._due = began + took + min(LONGEST_PAUSE, SHARE * took)
        return True


def _agent(members: Sequence[int]) -> int:
    """The agent among them; 0 when it is gone."""
    return next((process for process in members if processes.status(process, "NSpid") == AGENT), 0)


def _descends(process: int, ancestors: Collection[int]) -> bool:
    """Whether one of these is among its parents, their parents, and so on."""
    while ancestors and process > 1:
        if process in ancestors:
            return True
        process = processes.status(process, "PPid")
    return False


def _devices(trees: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The trees that are there, and the number of the file system that each lies on."""
    for tree in trees:
        with suppress(FileNotFoundError):
            yield tree, Path(tree).stat().st_dev


def _in_memory(process: int) -> int:
    """What the files take that lie in memory, as this process sees them; an empty one has its entry there, too."""
    with suppress(OSError):
        filled = [os.statvfs(PROC / str(process) / f"root{mount}") for mount in (TMP, SHM, HOME)]
        blocks = sum((each.f_blocks - each.f_bfree) * each.f_frsize for each in filled)
        return blocks + sum(each.f_files - each.f_ffree for each in filled) * ENTRY
    return 0


def _free(directory: str) -> int:
    with suppress(FileNotFoundError):
        status = os.statvfs(directory)
        return status.f_bavail * status.f_frsize
    return RESERVE


def sizes(tree: str) -> Iterator[int]:
    """Bytes of everything below; OSError for a tree that cannot be gone through."""
    with suppress(*trees.GONE):
        yield from (_size(info) for _, info in trees.entries(tree, thorough=True))


def _size(info: os.stat_result) -> int:
    """What a file takes, or would once its holes are filled: a copy of it has none."""
    return max(info.st_blocks * BLOCK, info.st_size if stat.S_ISREG(info.st_mode) else 0)
