"""The disk: whether it has room, so that nothing is ever half written, and that what was written stays."""

import asyncio
import os
import shutil
from pathlib import Path

from mailagent.core.errors import TemporaryError


def sync(directory: Path) -> None:
    """Let the names in it outlive a crash of the machine (fsync(2))."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Disk:
    """ports.Room: the file system that a directory is on must keep so much free."""

    def __init__(self, directory: Path, min_free_mb: float) -> None:
        self._directory = directory
        self._floor = min_free_mb * 1e6

    async def free(self) -> bool:
        """See ports.Room."""
        try:
            usage = await asyncio.to_thread(shutil.disk_usage, self._directory)
        except OSError as error:
            raise TemporaryError(f"{self._directory}: {error.strerror}") from error
        return usage.free >= self._floor
