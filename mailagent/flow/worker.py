"""Owning a job: keep its lease alive while a step works on it, and turn the step's error into what comes next."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mailagent.core.errors import LeaseLostError, PermanentError, TemporaryError
from mailagent.core.job import Dead, Job
from mailagent.core.values import ThreadId
from mailagent.ports import Claim, Clock, Jobs, Lane

log = logging.getLogger(__name__)

CLAIM_SECONDS = 1.0
"""How long one claim waits: also how long a stop may take that finds nothing at work."""
STORE_AWAY_SECONDS = 2.0
MAX_DELAY_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Worker:
    """Works on one lane. `step` carries a job on to its end in this lane; `give_up` ends it when that cannot be done,
    with the reason, and whether that reason is in plain words for the sender."""

    jobs: Jobs
    clock: Clock
    lane: Lane
    step: Callable[[Claim], Awaitable[None]]
    give_up: Callable[[Claim, str, bool], Awaitable[None]]
    attempts: int
    retry_seconds: float
    renew_seconds: float
    claim_seconds: float = CLAIM_SECONDS
    at_work: set[ThreadId] = field(default_factory=set)

    async def run(self, places: int, stopping: asyncio.Event, drain_seconds: float) -> None:
        """Serve with so many places until `stopping`; then running steps get `drain_seconds` before they are
        abandoned: their jobs go back and are carried on at the next start."""
        tasks = [asyncio.create_task(self._serve(stopping)) for _ in range(places)]
        try:
            await _first_of(stopping, tasks)
            _, late = await asyncio.wait(tasks, timeout=drain_seconds)
            if late:
                log.warning("%s: %d running jobs abandoned; the next start resumes them", self.lane, len(late))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                claim = await self.jobs.claim(self.lane, self.claim_seconds)
            except TemporaryError as error:
                log.warning("%s: the store is away: %s", self.lane, error)
                await asyncio.sleep(STORE_AWAY_SECONDS)
                continue
            if claim:
                await self._own(claim)

    async def _own(self, claim: Claim) -> None:
        if claim.thread in self.at_work:  # its lease was lost here, and what it began is still being cleared away
            await self.jobs.retry(claim, claim.job, self.renew_seconds)
            return
        self.at_work.add(claim.thread)
        work = asyncio.ensure_future(self._work(claim))
        beat = asyncio.create_task(self._beat(claim))
        try:
            await asyncio.wait({work, beat}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await _cancelled(work)
            with suppress(LeaseLostError, TemporaryError):
                await asyncio.shield(self._give_back(claim))
            raise
        finally:
            await _cancelled(beat, work)
            self.at_work.discard(claim.thread)

    async def _beat(self, claim: Claim) -> None:
        """Renew the lease until it is lost."""
        while True:
            await asyncio.sleep(self.renew_seconds)
            try:
                await self.jobs.renew(claim)
            except TemporaryError as error:
                log.warning("%s: the lease could not be renewed: %s", self.lane, error)
            except LeaseLostError:
                log.warning("job %s: lease lost, work dropped", claim.job.id)
                return

    async def _work(self, claim: Claim) -> None:
        """The step; when it fails, what its error calls for; when that fails too, the end of the job: nothing that a
        job brings with it may end the loop, or be met again for ever."""
        failure = await _failure(self.step(claim))
        if failure:
            failure = await _failure(self._after(claim, failure))
        if failure and not isinstance(failure, LeaseLostError | TemporaryError):
            failure = await _failure(self._bury(claim, failure))
        if failure:
            log.warning("job %s: work dropped, its lease is lost or will run out: %s", claim.job.id, failure)

    async def _after(self, claim: Claim, failure: Exception) -> None:
        match failure:
            case LeaseLostError():
                raise failure
            case PermanentError():
                log.warning("job %s: given up: %s", claim.job.id, failure)
                await self.give_up(replace(claim, job=await self._stored(claim)), str(failure), failure.for_sender)
            case _:
                expected = isinstance(failure, TemporaryError)
                log.warning("job %s: attempt failed: %s", claim.job.id, failure, exc_info=None if expected else failure)
                await self._again(claim, str(failure))

    async def _bury(self, claim: Claim, failure: Exception) -> None:
        log.error("job %s: could not even be given up", claim.job.id, exc_info=failure)
        job = await self._stored(claim)
        await self.jobs.finish(claim, job.at(Dead(str(failure)), "dead", self.clock.now()))

    async def _again(self, claim: Claim, reason: str) -> None:
        job = await self._stored(claim)
        tried = job.attempts + 1
        if tried >= self.attempts:
            await self.give_up(replace(claim, job=job), reason, False)
            return
        delay = min(self.retry_seconds * 2 ** (tried - 1), MAX_DELAY_SECONDS)
        await self.jobs.retry(claim, replace(job, attempts=tried), delay)

    async def _give_back(self, claim: Claim) -> None:
        await self.jobs.retry(claim, await self._stored(claim), 0.0)

    async def _stored(self, claim: Claim) -> Job:
        """The job as it stands: the step may have saved a later stage than the one that was claimed."""
        return await self.jobs.find(claim.job.id) or claim.job


async def _failure(action: Awaitable[None]) -> Exception | None:
    try:
        await action
    except Exception as error:  # noqa: BLE001 - the one place that owns whatever a job does
        return error
    return None


async def _cancelled(*tasks: "asyncio.Future[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _first_of(stopping: asyncio.Event, tasks: "list[asyncio.Task[None]]") -> None:
    """Return when asked to stop, or when a task ended, which it does only by a fault: that one is raised."""
    stop = asyncio.create_task(stopping.wait())
    done, _ = await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    for task in done - {stop}:
        task.result()
