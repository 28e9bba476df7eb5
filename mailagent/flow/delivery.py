"""Outbox -> submission: hand over frozen replies; try again when the server says later, give up when it says no."""

import logging
from dataclasses import dataclass

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.job import Composed, Dead, Sending, Sent
from mailagent.core.values import Outgoing
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
        job = claim.job
        composed, attempt = _where(job.stage)
        outgoing = Outgoing(
            composed.message_id, self.sender, composed.recipient, await self.blobs.get(composed.message)
        )
        job = job.at(Sending(composed, attempt + 1), "sending", self.clock.now())
        await self.jobs.save(claim, job)
        response = await self.submission.send(outgoing)
        await self.jobs.finish(claim, job.at(Sent(composed, response), "sent", self.clock.now()))
        log.info("sent job=%s to=%s: %s", job.id, composed.recipient, response)
        try:
            await self.submission.file_sent(outgoing)
        except (TemporaryError, PermanentError) as error:
            log.warning("job %s: sent, but no copy in the Sent folder: %s", job.id, error)

    async def give_up(self, claim: Claim, reason: str, plain: bool) -> None:
        """The server will not take it: the job is dead, for the operator to see; the thread goes on."""
        del plain
        await self.jobs.finish(claim, claim.job.at(Dead(f"not delivered: {reason}"), "dead", self.clock.now()))


def _where(stage: object) -> tuple[Composed, int]:
    match stage:
        case Composed():
            return stage, 0
        case Sending(composed, attempt):
            return composed, attempt
        case _:
            raise PermanentError(f"a job in stage {type(stage).__name__} does not belong into the outbox")
