"""The loop that owns jobs ends when it is told to, and counts what failed whatever happens on the way."""

import asyncio
from collections.abc import Collection
from contextlib import suppress

from mailagent.core.errors import TemporaryError
from mailagent.core.job import Dead, Job
from mailagent.core.values import JobId, ThreadId
from mailagent.flow.worker import Worker
from mailagent.ports import Claim, Lane
from tests.fakes.jobs import FakeJobs, a_job
from tests.unit.test_flow import Ticking


class DeafJobs(FakeJobs):
    """Swallows a cancellation, as asyncio.wait_for below redis-py may (bpo-37658)."""

    async def claim(self, lane: Lane, wait: float, but: Collection[ThreadId] = ()) -> Claim | None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(wait)
        return await super().claim(lane, 0.0)


async def test_it_ends_when_it_is_cancelled_and_the_store_is_deaf_to_that() -> None:
    async def step(claim: Claim) -> None:
        del claim

    async def give_up(claim: Claim, reason: str, plain: bool) -> None:
        del claim, reason, plain

    worker = Worker(DeafJobs(), None, "turns", step, give_up, 3, 0.01, 0.05, 0.05)  # type: ignore[arg-type]
    running = asyncio.create_task(worker.run(2, asyncio.Event(), 1.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    async with asyncio.timeout(20):
        await asyncio.wait({running})


class NotingJobs(FakeJobs):
    """Notes for how long each job was put off."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[float] = []

    async def retry(self, claim: Claim, job: Job, delay: float) -> None:
        self.delays.append(delay)
        await super().retry(claim, job, delay)


async def test_a_job_that_cannot_be_given_up_yet_is_put_off_and_what_failed_is_counted() -> None:
    jobs, seen, ended = NotingJobs(), list[int](), asyncio.Event()

    async def step(claim: Claim) -> None:
        seen.append(claim.job.attempts)
        raise TemporaryError("the model is away")

    async def give_up(claim: Claim, reason: str, plain: bool) -> None:
        del plain
        if len(seen) < 4:
            raise TemporaryError("the disk is full")
        await jobs.finish(claim, claim.job.at(Dead(reason), "dead", 2.0))
        ended.set()

    await jobs.accept(a_job(), None)
    worker = Worker(jobs, Ticking(), "turns", step, give_up, lambda job: job.attempts >= 2, 0.02, 5.0, 0.05)
    running = asyncio.create_task(worker.run(1, stopping := asyncio.Event(), 1.0))
    async with asyncio.timeout(20):
        await ended.wait()
        stopping.set()
        await running
    assert (seen, jobs.delays) == ([0, 1, 2, 3], [0.02, 0.04, 0.08])
    assert isinstance(jobs.shelf.jobs[JobId("j1")].stage, Dead)
