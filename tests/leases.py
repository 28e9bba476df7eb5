"""Leases of threads for tests of what needs one."""

from mailagent.adapters.redis import Redis, RedisJobs
from mailagent.core.job import Dead
from mailagent.core.values import ThreadId
from mailagent.ports import Claim
from tests.fakes.jobs import a_job


class Leases:
    """Takes the lease of a thread's turn, from whoever has it."""

    def __init__(self, client: Redis) -> None:
        self.jobs = RedisJobs(client, owner="test", lease_seconds=600, retention_seconds=1000)
        self._claims: dict[ThreadId, Claim] = {}

    async def take(self, thread: ThreadId) -> str:
        """The new token."""
        before = self._claims.get(thread)
        if before:
            await self.jobs.retry(before, before.job, 0.0)
        else:
            await self.jobs.accept(a_job(f"job-{thread}", thread), None)
        claim = await self.jobs.claim("turns", 5.0)
        assert claim
        assert claim.thread == thread
        self._claims[thread] = claim
        return claim.token

    async def end(self, thread: ThreadId) -> None:
        """The thread has no work any more."""
        claim = self._claims.pop(thread)
        await self.jobs.finish(claim, claim.job.at(Dead("over"), "dead", 1.0))
