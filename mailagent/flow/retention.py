"""Blobs that nothing names go once a day, by one of the hosts; directories of threads that left this host go too."""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

from mailagent.core.errors import TemporaryError
from mailagent.core.job import Job
from mailagent.core.values import BlobId, ThreadId
from mailagent.ports import Blobs, Clock, Retention, Workspaces

log = logging.getLogger(__name__)

EVERY = 86400.0
GRACE = 7 * 86400.0
"""A blob is older than this before it goes: far longer than any turn, which stores blobs before it names them, and long
enough to put a Redis of last week back."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Removes what nothing names any more."""

    retention: Retention
    blobs: Blobs
    workspaces: Workspaces
    clock: Clock

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.once()
            except TemporaryError as error:
                log.warning("sweep: %s", error)
            await asyncio.sleep(EVERY / 24)

    async def once(self) -> None:
        """What is due. The directories are last: one that cannot be removed keeps nothing else."""
        now = self.clock.now()
        if await self.retention.turn_to_sweep(EVERY):
            count, size = await sweep(self.retention, self.blobs, now - GRACE)
            log.info("sweep: %d blobs (%d bytes) that nothing names", count, size)
        directories = await self.workspaces.forget(now - EVERY)
        if directories:
            log.info("sweep: %d directories of threads that are gone or went on elsewhere", directories)


async def sweep(retention: Retention, blobs: Blobs, before: float) -> tuple[int, int]:
    """Remove the blobs last put before this moment that nothing names; returns how many, and their bytes."""
    found = await unnamed(retention, blobs, before)
    await blobs.drop(found, before)
    return len(found), sum(found.values())


async def lost(retention: Retention, blobs: Blobs, now: float) -> list[tuple[Job, BlobId]]:
    """The blobs that mails name and that are not there, as when a disk was put back without its Redis, with the mails.

    What is named is read first: what is there was put before it was named."""
    named = [(job, blob) async for kept in retention.threads() for job in kept.jobs for blob in job.blobs()]
    there = await blobs.older(now + EVERY)
    return [(job, blob) for job, blob in named if blob not in there]


async def unnamed(
    retention: Retention, blobs: Blobs, before: float, but: Collection[ThreadId] = ()
) -> dict[BlobId, int]:
    """The blobs last put before this moment that nothing names, but for these threads; with their sizes.

    What is named is read first: a blob that is named only afterwards was put a short time before that, and so is not as
    old as this moment."""
    named = await retention.named(but)
    return {blob: size for blob, size in (await blobs.older(before)).items() if blob not in named}
