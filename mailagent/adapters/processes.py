"""What the kernel tells of processes that may be hostile, proc(5); one that is gone has nothing."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
SECONDS = 1.0
"""How long one question may take: the kernel answers some page by page."""


def descriptors(members: Sequence[int]) -> Iterator[os.stat_result]:
    """What the processes have open; a file that has no name any more fills the disk, or memory, like others."""
    for process in members:
        with suppress(OSError), os.scandir(PROC / str(process) / "fd") as entries:
            for descriptor in entries:
                with suppress(OSError):
                    yield descriptor.stat()


def hides(members: Sequence[int], devices: set[int]) -> bool:
    """Whether they have files on these devices that are in no directory, and may not be open either: mapped, or on
    their way through a socket. Also when there are too many places to look in."""
    end = time.monotonic() + SECONDS
    for process in members:
        with suppress(OSError), (PROC / str(process) / "maps").open(encoding="latin-1", newline="\n") as mappings:
            for line in mappings:
                major, minor = (int(part, 16) for part in line.split(maxsplit=4)[3].split(":"))
                if "(deleted)" in line and os.makedev(major, minor) in devices:
                    return True
                if time.monotonic() > end:
                    return True
        with suppress(OSError):
            if any(map(_has_files, (PROC / str(process) / "fdinfo").iterdir())):
                return True
    return False


def is_sent_files(socket: int) -> bool:
    """Whether files wait in this socket of ours until it is read."""
    return _has_files(PROC / "self" / "fdinfo" / str(socket))


def _has_files(descriptor: Path) -> bool:
    with suppress(OSError):
        return any(re.match(r"scm_fds:\s*[1-9]", line) for line in lines(descriptor))
    return False


def headless(process: int) -> bool:
    """Whether its first thread has ended and others go on: nothing is told then of what they have."""
    with suppress(OSError):
        told = dict(line.partition(":")[::2] for line in lines(PROC / str(process) / "status"))
        return told["State"].lstrip().startswith("Z") and int(told["Threads"]) > 1
    return False


def private_bytes(process: int) -> int:
    """Its own memory, that which was moved to the disk and the kernel's tables of it included, proc(5)."""
    fields = _kilobytes(process, "status")
    return sum(fields.get(name, 0) for name in ("RssAnon", "VmSwap", "VmPTE"))


def bytes_of_all(members: Sequence[int]) -> int:
    """The same of all, with what several have in common counted once, as far as there is time to ask."""
    total, end = 0, time.monotonic() + SECONDS
    for process in members:
        if time.monotonic() < end:
            fields = _kilobytes(process, "smaps_rollup") | _kilobytes(process, "status")
            total += sum(fields.get(name, 0) for name in ("Pss_Anon", "SwapPss", "VmPTE"))
        else:
            total += private_bytes(process)
    return total


def memory_device() -> int:
    """The number of the file system that files have which lie in memory and nowhere else, memfd_create(2)."""
    descriptor = os.memfd_create("one")
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def available_bytes() -> int:
    """What programs on this machine can still get without swapping, by the kernel's estimate."""
    fields = (line.split() for line in lines(PROC / "meminfo"))
    return next(int(each[1]) << 10 for each in fields if each[0] == "MemAvailable:")


def status(process: int, field: str) -> int:
    """The last number of this field of proc(5)'s status; 0 when the process is gone."""
    with suppress(OSError):
        for line in lines(PROC / str(process) / "status"):
            if line.startswith(f"{field}:"):
                return int(line.split()[-1])
    return 0


def _kilobytes(process: int, file: str) -> dict[str, int]:
    """The fields of a file of the process that are sizes, in bytes."""
    with suppress(OSError):
        fields = (line.split() for line in lines(PROC / str(process) / file))
        return {each[0].rstrip(":"): int(each[1]) << 10 for each in fields if each[2:] == ["kB"] and each[1].isdigit()}
    return {}


def lines(file: Path) -> list[str]:
    """Of a file of proc(5). Whatever bytes are in a name there, of a process or of where something is mounted: only the
    kernel breaks a line, by LF."""
    return os.fsdecode(file.read_bytes()).removesuffix("\n").split("\n")
