"""Whether the machine has memory for one more session, so that turns wait rather than be killed half-way."""

from pathlib import Path

from mailagent.core.errors import TemporaryError

SESSION_MB = 300
"""What a session takes with its tools: measured as 160 MB for the CLI alone, before pandas."""


class Memory:
    """ports.Room: what the kernel says can be had without swapping (proc(5), MemAvailable)."""

    def __init__(self, needed_mb: float = SESSION_MB, meminfo: Path = Path("/proc/meminfo")) -> None:
        self._needed = needed_mb * 1000
        self._meminfo = meminfo

    async def free(self) -> bool:
        """See ports.Room."""
        try:
            fields = dict(line.split(":", 1) for line in self._meminfo.read_text().splitlines())
            return int(fields["MemAvailable"].split()[0]) >= self._needed
        except (OSError, LookupError, ValueError) as error:
            raise TemporaryError(f"{self._meminfo}: cannot be read: {error}") from error
