"""The janitor: what is derived is rebuilt, so that a store that lost something can never leave a thread stuck."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mailagent.core.errors import TemporaryError
from mailagent.core.operator import is_uncertain
from mailagent.ports import LANES, Jobs

log = logging.getLogger(__name__)

LOOK = 1000
"""So many mails of each lane are looked at when a daemon starts."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Looks after the queue every so many seconds, and tells in a line how it stands."""

    jobs: Jobs
    every: float
    tell: Callable[[str], None]

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.once()
            await asyncio.sleep(self.every)

    async def once(self) -> None:
        """One round."""
        try:
            repaired = await self.jobs.repair()
            self.tell(standing(await self.jobs.counts()))
        except TemporaryError as error:
            log.warning("upkeep: the store is away: %s", error)
            return
        if repaired:
            log.warning("upkeep: %d things in the queue did not agree after a loss of data; they do now", repaired)


async def found(jobs: Jobs) -> str:
    """How the queue stands when a daemon starts: with what the last one was at, as long as its leases last."""
    listed = [each for lane in LANES for each in await jobs.listed(lane, LOOK)]
    at_work = sum(each.at_work for each in listed)
    uncertain = sum(is_uncertain(each.job.stage) for each in listed)
    return f"{standing(await jobs.counts())}; {at_work} were at work, {uncertain} uncertain"


def standing(counts: Mapping[str, int]) -> str:
    """How many mails are where, in a line."""
    names = {"turns": "wait for the agent", "delivery": "in the outbox", "held": "held", "bounced": "bounced"}
    words = [f"{counts[place]} {name}" for place, name in {**names, "dead": "dead"}.items() if counts.get(place)]
    return ", ".join(words) or "nothing waits"
