"""Directory trees that hostile code writes, and may be writing: gone through by handles, never by paths, since what was
a directory a moment ago may be a link to one of the host's by now."""

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

DEEPEST = 100
"""Directories within directories: no analysis needs more, and each is two handles while it is gone through."""
LONGEST = 3000
"""Bytes of a path below the tree: with where that lies, no more than a path can have."""

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
GONE = (FileNotFoundError, NotADirectoryError)
"""What was there a moment ago, and is not, or is something else."""


def entries(tree: str | Path, below: str = "", *, thorough: bool = False) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below, with its path relative to the tree; a directory comes before what is in it.

    Left out is what lies in directories that we may not look into, or deeper than any analysis puts it. Who is
    `thorough` gives us back our rights on the former, since we are the owner, and ends in an OSError at the latter.
    OSError also when the tree itself is not there, or a link."""
    yield from _entries(_opened(Path(tree, below), None, thorough), below and f"{below}/", 0, thorough)


def _entries(directory: int, path: str, depth: int, thorough: bool) -> Iterator[tuple[str, os.stat_result]]:
    """The same for an open directory, which is closed in the end."""
    try:
        if depth > DEEPEST or len(os.fsencode(path)) > LONGEST:
            if thorough:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            return
        with os.scandir(directory) as found:
            for entry in found:
                with suppress(*_passed(thorough)):
                    info, inner = entry.stat(follow_symlinks=False), path + entry.name
                    yield inner, info
                    if stat.S_ISDIR(info.st_mode):
                        yield from _entries(_opened(entry.name, directory, thorough), f"{inner}/", depth + 1, thorough)
    finally:
        os.close(directory)


def _passed(thorough: bool) -> tuple[type[OSError], ...]:
    return GONE if thorough else (*GONE, PermissionError)


def _opened(name: str | Path, parent: int | None, thorough: bool) -> int:
    """A handle on this directory; for who is thorough, with our rights on it."""
    try:
        handle = os.open(name, _FLAGS, dir_fd=parent)
    except PermissionError:
        if not thorough:
            raise
        handle = os.open(name, _FLAGS | os.O_PATH, dir_fd=parent)
    if not thorough or os.fstat(handle).st_mode & 0o500 == 0o500:
        return handle
    try:
        itself = Path(f"/proc/self/fd/{handle}")
        itself.chmod(0o700)
        return os.open(itself, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(handle)


def read(tree: Path, name: str, size: int) -> bytes:
    """The file's bytes, opened without following a link on the way, and no more than it was seen to have."""
    *directories, last = Path(name).parts
    with ExitStack() as stack:
        handle = stack.enter_context(opened(tree))
        for part in directories:
            handle = stack.enter_context(opened(part, handle))

        def itself(last: str, flags: int) -> int:
            return os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)

        with open(last, "rb", opener=itself) as file:
            return file.read(size)


@contextmanager
def opened(name: str | Path, parent: int | None = None) -> Iterator[int]:
    """A handle on this directory, which must not be a link."""
    handle = os.open(name, _FLAGS, dir_fd=parent)
    try:
        yield handle
    finally:
        os.close(handle)


def remove(directory: Path) -> None:
    """By programs: code in the sandbox can nest directories deeper than Python can follow, and take our rights away."""
    with suppress(OSError):
        directory.rmdir()  # most are empty, and a program takes its time
    if not os.path.lexists(directory):
        return
    away = ["rm", "-rf", "--", str(directory)]
    if subprocess.run(away, check=False, capture_output=True).returncode != 0:
        subprocess.run(["chmod", "-R", "u+rwx", "--", str(directory)], check=False, capture_output=True)
        again = subprocess.run(away, check=False, capture_output=True)
        if again.returncode != 0:
            raise OSError(errno.EBUSY, f"it cannot be removed: {again.stderr.decode(errors='replace')[:200]}")
