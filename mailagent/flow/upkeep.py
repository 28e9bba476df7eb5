"""The janitor: what is derived is rebuilt, so that a store that lost something can never leave a thread stuck."""

import asyncio
import logging
from dataclasses import dataclass

from mailagent.core.errors import TemporaryError
from mailagent.ports import Jobs

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Looks after the queue every so many seconds."""

    jobs: Jobs
    every: float

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.once()
            await asyncio.sleep(self.every)

    async def once(self) -> None:
        """One round."""
        try:
            repaired = await self.jobs.repair()
        except TemporaryError as error:
            log.warning("upkeep: the store is away: %s", error)
            return
        if repaired:
            log.warning("upkeep: %d things in the queue did not agree after a loss of data; they do now", repaired)
