"""Outbox -> submission: hand over frozen replies; try again when the server says later, give up when it says no."""

import logging
from dataclasses import dataclass

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.job import Composed, Dead, Sending, Sent, Stage
from mailagent.core.values import JobId, Outgoing
from mailagent.ports import Blobs, Claim, Clock, Jobs, Submission

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """Sends the jobs of the delivery lane; `sender` is the envelope's."""

    jobs: Jobs
    blobs: Blobs
    submission: Submission
    clock: Clock
    sender: str

    async def step(self, claim: Claim) -> None:
        """Send one reply: `sending` is saved before the server sees it, its answer after; the Sent copy comes last."""
        composed, attempt, done = _where(claim.job.stage)
        data = await self.blobs.get(composed.message)
        job, response = claim.job, ""
        for recipient in composed.recipients:
            if recipient in done:
                continue
            job = job.at(Sending(composed, attempt + 1, done), "sending", self.clock.now())
            await self.jobs.save(claim, job)
            outgoing = Outgoing(composed.message_id, self.sender, recipient, data)
            response = await self._send(outgoing, first=recipient == composed.recipients[0]) or response
            done = (*done, recipient)
        await self.jobs.finish(claim, job.at(Sent(composed, response), "sent", self.clock.now()))
        log.info("sent job=%s to=%s: %s", job.id, ", ".join(composed.recipients), response)
        await self._file_sent(job.id, Outgoing(composed.message_id, self.sender, composed.recipients[0], data))

    async def _send(self, outgoing: Outgoing, *, first: bool) -> str:
        """The server's answer; "" when it will not take the reply for a colleague, which must not keep it from others."""
        try:
            return await self.submission.send(outgoing)
        except PermanentError as error:
            if first:
                raise
            log.warning("%s is not taken for %s: %s", outgoing.message_id, outgoing.recipient, error)
            return ""

    async def _file_sent(self, job: JobId, outgoing: Outgoing) -> None:
        try:
            await self.submission.file_sent(outgoing)
        except (TemporaryError, PermanentError) as error:
            log.warning("job %s: sent, but no copy in the Sent folder: %s", job, error)

    async def give_up(self, claim: Claim, reason: str, plain: bool) -> None:
        """The server will not take it: the job is dead, for the operator to see; the thread goes on."""
        del plain
        await self.jobs.finish(claim, claim.job.at(Dead(f"not delivered: {reason}"), "dead", self.clock.now()))


def _where(stage: Stage) -> tuple[Composed, int, tuple[str, ...]]:
    match stage:
        case Composed():
            return stage, 0, ()
        case Sending(composed, attempt, done):
            return composed, attempt, done
        case _:
            raise PermanentError(f"a job in stage {type(stage).__name__} does not belong into the outbox")
