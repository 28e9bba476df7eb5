"""The loop that owns jobs ends when it is told to, also where a cancellation is lost on the way."""

import asyncio
from collections.abc import Collection
from contextlib import suppress

from mailagent.core.values import ThreadId
from mailagent.flow.worker import Worker
from mailagent.ports import Claim, Lane
from tests.fakes.jobs import FakeJobs


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
