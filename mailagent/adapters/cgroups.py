"""Control groups (cgroup v2): one for each sandbox, in the subtree that the service manager handed to us, if it did."""

import asyncio
import logging
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mailagent.adapters import processes
from mailagent.core.errors import TemporaryError

OURS = "main"
"""Where we are ourselves: a group that has limits for groups below it may hold no process (no internal processes)."""

NEEDED = ("memory", "pids")
WANTED = ("memory", "pids", "cpu")
TICK = 0.01
END_SECONDS = 20.0

log = logging.getLogger(__name__)


def delegated() -> Path | None:
    """The subtree that is ours, with us moved out of the way; None where there is none that bounds memory and pids.

    systemd marks what it hands over (Delegate=) with an attribute: elsewhere, to write would be to meddle with it."""
    found = _own()
    if found is None:
        return None
    root = found.parent if found.name == OURS else found
    try:
        if os.getxattr(root, "user.delegate") != b"1":
            return None
        controllers = (root / "cgroup.controllers").read_text().split()
        if any(name not in controllers for name in NEEDED):
            return None
        _make_room(root)
        (root / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in WANTED if name in controllers))
    except OSError:
        return None
    return root


def _own() -> Path | None:
    """The directory of the group that this process is in."""
    with suppress(OSError, StopIteration):
        mounts = processes.lines(processes.PROC / "self" / "mountinfo")
        mounted = next(line.split()[4] for line in mounts if line.partition(" - ")[2].startswith("cgroup2 "))
        group = next(g[3:] for g in processes.lines(processes.PROC / "self" / "cgroup") if g.startswith("0::"))
        return Path(mounted + group)
    return None


def _make_room(root: Path) -> None:
    """Move everybody to our own group, and remove the empty ones that a crash left."""
    for left in root.iterdir():
        if left.is_dir() and left.name != OURS:
            with suppress(OSError):
                left.rmdir()
    (root / OURS).mkdir(exist_ok=True)
    for process in (root / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):  # it has ended
            (root / OURS / "cgroup.procs").write_text(process)


class Group:
    """The control group of one sandbox, once it is made."""

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / name

    def make(self, settings: Mapping[str, str]) -> None:
        """TemporaryError when that cannot be done; then nothing is left of it."""
        try:
            self.path.mkdir()
            try:
                self._set(settings)
            except OSError:
                self.path.rmdir()
                raise
        except OSError as error:
            raise TemporaryError(f"no control group for a sandbox: {error}") from error

    def _set(self, settings: Mapping[str, str]) -> None:
        for key, value in settings.items():
            if (self.path / key).exists():  # cpu.max is missing where that controller was not handed over
                (self.path / key).write_text(value)

    def enter(self) -> str:
        """The line of a shell script that moves the script, and what it becomes, into the group."""
        return f"echo 0 >{shlex.quote(str(self.path / 'cgroup.procs'))}"

    def killed(self) -> int:
        """How many processes the kernel killed here for want of memory."""
        with suppress(FileNotFoundError):
            words = (self.path / "memory.events").read_text().split()
            return int(words[words.index("oom_kill") + 1])
        return 0

    async def end(self) -> None:
        """Kill whatever is in it, at one blow, and remove it once it is empty. What hangs in the kernel stays."""
        with suppress(FileNotFoundError):  # another daemon, started in the same subtree, removed it while it was empty
            (self.path / "cgroup.kill").write_text("1")
            try:
                async with asyncio.timeout(END_SECONDS):
                    while "populated 1" in (self.path / "cgroup.events").read_text():  # noqa: ASYNC110
                        await asyncio.sleep(TICK)
                self.path.rmdir()
            except TimeoutError:
                log.error("%s: a process in it cannot be killed", self.path)
