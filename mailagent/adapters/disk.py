"""Whether the disk has room: mail is taken over only while there is, so that nothing is ever half written."""

import asyncio
import shutil
from pathlib import Path

from mailagent.core.errors import TemporaryError


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
