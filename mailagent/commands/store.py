"""The store of a running daemon, and the mails in it as people name them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mailagent import stores
from mailagent.adapters import redis
from mailagent.config import Config
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.job import PLACES, Job
from mailagent.ports import Jobs, Listed

MOST = 100_000
"""So many mails of one place are looked at for the beginning of an id."""


@asynccontextmanager
async def jobs_of(config: Config) -> AsyncIterator[Jobs]:
    """The job queue. TemporaryError when no daemon keeps it and no Redis of your own does."""
    async with client_of(config) as client:
        yield stores.jobs(config, client)


@asynccontextmanager
async def client_of(config: Config) -> AsyncIterator[redis.Redis]:
    """The Redis that a daemon keeps, or your own. TemporaryError when neither does."""
    try:
        client, _ = await redis.connect(config.redis.url or stores.private_redis(config).url)
    except TemporaryError as error:
        if config.redis.url:
            raise
        raise TemporaryError(f"no daemon runs on {config.storage.state_dir}: its Redis does not answer") from error
    async with client:
        yield client


async def find(jobs: Jobs, key: str) -> Listed:
    """The mail with this Message-ID (received or sent) or job's id; of those that wait or that somebody should see,
    the beginning of the id will do. PermanentError when there is none, or more than one."""
    job = await jobs.find(key) or await jobs.find(f"<{key}>")
    found = [each for each in await _among(jobs, job) if each.job.id.startswith(job.id if job else key.lower())]
    if job and not found:
        return Listed(job, at_work=False, due=None)
    match found:
        case [one]:
            return one
        case []:
            raise PermanentError(f"no mail with the id {key} is known; `mailagent queue` lists those that wait")
        case _:
            raise PermanentError(f"{len(found)} mails have an id that begins with {key}: give more of it")


async def _among(jobs: Jobs, job: Job | None) -> list[Listed]:
    """All mails of the place where this one is, or of every place."""
    places = {PLACES[type(job.stage)]} if job else set(PLACES.values())
    return [each for place in sorted(places - {""}) for each in await jobs.listed(place, MOST)]
