"""Outbox -> submission: hand over frozen replies; try again when the server says later, give up when it says no."""

import asyncio
import logging
from dataclasses import dataclass, replace

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.job import Composed, Dead, Job, Sending, Sent, Stage
from mailagent.core.values import JobId, Outgoing
from mailagent.ports import Blobs, Claim, Clock, Jobs, Submission

log = logging.getLogger(__name__)

RECORD_SECONDS = 1.0


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
        sending, job, response = _where(claim.job.stage), claim.job, ""
        composed = sending.composed
        data = await self.blobs.get(composed.message)
        for recipient in composed.recipients:
            if recipient in sending.done:
                continue
            sending = replace(sending, attempt=sending.attempt + 1)
            job = job.at(sending, "sending", self.clock.now())
            await self.jobs.save(claim, job)
            outgoing = Outgoing(composed.message_id, self.sender, recipient, data)
            response = await self._send(claim, job, sending, outgoing) or response
            sending = replace(sending, done=(*sending.done, recipient))
        await self._finish(claim, job.at(Sent(composed, response), "sent", self.clock.now()))
        log.info("sent job=%s to=%s: %s", job.id, ", ".join(composed.recipients), response)
        await self._file_sent(job.id, Outgoing(composed.message_id, self.sender, composed.recipients[0], data))

    async def _send(self, claim: Claim, job: Job, sending: Sending, outgoing: Outgoing) -> str:
        """The server's answer; "" when it will not take the reply for a colleague, which must not keep it from others.
        Where it stays unknown whether the server took it, the same bytes are sent once more, and no more than that."""
        try:
            return await self.submission.send(outgoing)
        except PermanentError as error:
            if outgoing.recipient == sending.composed.recipients[0]:
                raise
            log.warning("%s is not taken for %s: %s", outgoing.message_id, outgoing.recipient, error)
            return ""
        except TemporaryError as error:
            if not str(error).startswith("uncertain: "):
                raise
            if sending.uncertain:
                raise PermanentError(f"sent twice, and twice without an answer: {error}", for_sender=False) from error
            await self.jobs.save(claim, replace(job, stage=replace(sending, uncertain=1)))
            raise

    async def _finish(self, claim: Claim, job: Job) -> None:
        """Record that the server has it, as long as the lease lasts: sent and not recorded would be sent again."""
        while True:
            try:
                return await self.jobs.finish(claim, job)
            except TemporaryError as error:
                log.warning("job %s is sent, but that cannot be recorded yet: %s", job.id, error)
                await asyncio.sleep(RECORD_SECONDS)

    async def _file_sent(self, job: JobId, outgoing: Outgoing) -> None:
        try:
            await self.submission.file_sent(outgoing)
        except (TemporaryError, PermanentError) as error:
            log.warning("job %s: sent, but no copy in the Sent folder: %s", job, error)

    async def give_up(self, claim: Claim, reason: str, plain: bool) -> None:
        """The server will not take it: the job is dead, for the operator to see; the thread goes on."""
        del plain
        await self.jobs.finish(claim, claim.job.at(Dead(f"not delivered: {reason}"), "dead", self.clock.now()))


def _where(stage: Stage) -> Sending:
    match stage:
        case Composed():
            return Sending(stage, 0)
        case Sending():
            return stage
        case _:
            raise PermanentError(f"stage {type(stage).__name__} is not of the outbox", for_sender=False)
