"""Owning a job: keep its lease alive while a step works on it, and turn the step's error into what comes next."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mailagent.core.errors import LeaseLostError, PermanentError, TemporaryError
from mailagent.core.job import Held, Job, Received, Waiting
from mailagent.core.values import ThreadId
from mailagent.ports import Claim, Clock, Jobs, Lane, Room

log = logging.getLogger(__name__)

CLAIM_SECONDS = 1.0
"""How long one claim waits: also how long a stop may take that finds nothing at work."""
STORE_AWAY_SECONDS = 2.0
RENEW_AGAIN_SECONDS = 0.5
MAX_DELAY_SECONDS = 3600.0
INTERRUPTIONS = 10
"""So often in a row a job may be met again that was begun and neither ended nor given back."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Works on one lane. `step` carries a job on to its end in this lane; `give_up` ends it when that cannot be done,
    with the reason, and whether that reason is in plain words for the sender. `enough` says of a job that failed
    whether it was tried often enough.

    A step that fails counts against its job. A daemon that dies may have been killed by any of its jobs, or by none:
    only a job that it dies of many times in a row is given up."""

    jobs: Jobs
    clock: Clock
    lane: Lane
    step: Callable[[Claim], Awaitable[None]]
    give_up: Callable[[Claim, str, bool], Awaitable[None]]
    enough: Callable[[Job], bool]
    retry_seconds: float
    renew_seconds: float
    claim_seconds: float = CLAIM_SECONDS
    room: Room | None = None
    """Without room, nothing is begun beside what is at work."""
    at_work: set[ThreadId] = field(default_factory=set)

    async def run(self, places: int, stopping: asyncio.Event, drain_seconds: float) -> None:
        """Serve with so many places until `stopping`; then running steps get `drain_seconds` before they are
        abandoned: their jobs go back and are carried on at the next start."""
        over = asyncio.Event()
        tasks = [asyncio.create_task(self._serve(stopping, over)) for _ in range(places)]
        try:
            await _first_of(stopping, tasks)
            _, late = await asyncio.wait(tasks, timeout=drain_seconds)
            if late:
                log.warning("%s: %d running jobs abandoned; the next start resumes them", self.lane, len(late))
        finally:
            # Before Python 3.12 asyncio.wait_for, which redis-py uses, may swallow a cancellation (bpo-37658).
            over.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, stopping: asyncio.Event, over: asyncio.Event) -> None:
        while not (stopping.is_set() or over.is_set()):
            try:
                if self.at_work and self.room and not await self.room.free():
                    await asyncio.sleep(self.claim_seconds)
                    continue
                claim = await self.jobs.claim(self.lane, self.claim_seconds, frozenset(self.at_work))
            except TemporaryError as error:
                log.warning("%s: nothing can be claimed: %s", self.lane, error)
                await asyncio.sleep(STORE_AWAY_SECONDS)
                continue
            if claim and over.is_set():
                await self._give_back(claim)
            elif claim:
                await self._own(claim)

    async def _own(self, claim: Claim) -> None:
        if claim.thread in self.at_work:  # its lease was lost here, and what it began is still being cleared away
            with suppress(LeaseLostError, TemporaryError):
                await self.jobs.retry(claim, claim.job, self.renew_seconds)
            return
        self.at_work.add(claim.thread)
        work = asyncio.ensure_future(self._work(claim))
        beat = asyncio.create_task(self._beat(claim))
        try:
            await asyncio.wait({work, beat}, return_when=asyncio.FIRST_COMPLETED)
            if beat.done() and (error := beat.exception()):
                log.error("job %s: work dropped, its lease cannot be renewed", claim.job.id, exc_info=error)
        except asyncio.CancelledError:
            await _cancelled(work)
            with suppress(LeaseLostError, TemporaryError):
                await asyncio.shield(self._give_back(claim))
            raise
        finally:
            await _cancelled(beat, work)
            self.at_work.discard(claim.thread)

    async def _beat(self, claim: Claim) -> None:
        """Renew the lease until it is lost; soon again where that failed, before somebody else takes it for silence."""
        delay = self.renew_seconds
        while True:
            await asyncio.sleep(delay)
            delay = self.renew_seconds
            try:
                await self.jobs.renew(claim)
            except TemporaryError as error:
                log.warning("%s: the lease could not be renewed: %s", self.lane, error)
                delay = min(self.renew_seconds, RENEW_AGAIN_SECONDS)
            except LeaseLostError:
                log.warning("job %s: lease lost, work dropped", claim.job.id)
                return

    async def _work(self, claim: Claim) -> None:
        """The step; when it fails, what its error calls for; when that fails too, the end of the job: nothing that a
        job brings with it may end the loop, or be met again for ever."""
        claim = replace(claim, job=replace(claim.job, interrupted=claim.job.interrupted + 1))
        failure = await _failure(self._begin(claim))
        if failure is None:
            return
        left = await _failure(self._after(claim, failure))
        if left and not isinstance(left, LeaseLostError | TemporaryError):
            log.error("job %s: could not even be given up", claim.job.id, exc_info=left)
            left = await _failure(self._hold(claim, f"{failure}; and it could not even be given up: {left}"))
        if isinstance(left, TemporaryError):  # not at once: it would cost another turn
            left = await _failure(self._put_off(claim))
        if left:
            log.warning("job %s: work dropped, its lease is lost or will run out: %s", claim.job.id, left)

    async def _begin(self, claim: Claim) -> None:
        """The step; its first save stores the mark that it began."""
        if claim.job.interrupted <= INTERRUPTIONS:
            return await self.step(claim)
        reason = f"begun {INTERRUPTIONS} times, and each time the daemon died before it ended"
        if claim.job.interrupted > INTERRUPTIONS + 1:  # of giving it up, too
            return await self._hold(claim, reason)
        await self.jobs.save(claim, claim.job)
        raise PermanentError(reason, for_sender=False)

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

    async def _hold(self, claim: Claim, reason: str) -> None:
        job = await self._stored(claim)
        before = job.stage if isinstance(job.stage, Waiting) else Received()
        await self.jobs.finish(claim, job.at(Held(reason, before), "held", self.clock.now()))

    async def _again(self, claim: Claim, reason: str) -> None:
        job = await self._stored(claim)
        job = replace(job, attempts=job.attempts + 1, interrupted=0)
        if self.enough(job):
            await self.jobs.save(claim, job)  # counted, whatever becomes of giving it up
            await self.give_up(replace(claim, job=job), reason, False)
        else:
            await self._later(claim, job)

    async def _put_off(self, claim: Claim) -> None:
        await self._later(claim, await self._stored(claim))

    async def _later(self, claim: Claim, job: Job) -> None:
        delay = min(self.retry_seconds * 2 ** min(max(0, job.attempts - 1), 20), MAX_DELAY_SECONDS)
        await self.jobs.retry(claim, replace(job, interrupted=0), delay)

    async def _give_back(self, claim: Claim) -> None:
        await self.jobs.retry(claim, replace(await self._stored(claim), interrupted=0), 0.0)

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
