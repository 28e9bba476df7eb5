"""Outbox -> submission: hand over frozen replies, try again for five days, find out what became of the uncertain."""

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Literal

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.job import Bounced, Composed, Dead, Held, Job, Sending, Sent, Stage
from mailagent.core.values import JobId, Outgoing
from mailagent.ports import Blobs, Claim, Clock, Jobs, Submission

log = logging.getLogger(__name__)

RECORD_SECONDS = 1.0
PATIENCE_SECONDS = 5 * 86400.0
"""As long as mail servers try (RFC 5321 section 4.5.4.1)."""
STARTS = ("composed", "released", "resolved")
"""Moments from which this time is counted."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Sends the jobs of the delivery lane; `sender` is the envelope's. Where it is uncertain whether the server took a
    reply, the Sent folder is asked after `grace_seconds`, and without proof `on_uncertain` decides."""

    jobs: Jobs
    blobs: Blobs
    submission: Submission
    clock: Clock
    sender: str
    grace_seconds: float
    on_uncertain: Literal["resend", "hold"]

    async def step(self, claim: Claim) -> None:
        """Send one reply: whose envelope is under way is saved before the server sees it, its answer after; then comes
        the Sent copy, which a daemon that dies here makes at its next start. TemporaryError when the server has put it
        off for somebody, once it was asked for all."""
        sending = await self._settled(claim, _where(claim.job.stage))
        if sending is None:
            return
        job, composed = claim.job, sending.composed
        data = await self.blobs.get(composed.message)
        put_off: list[TemporaryError] = []
        for recipient in composed.recipients:
            if recipient in sending.done:
                continue
            sending = replace(sending, attempt=sending.attempt + 1, to=recipient)
            job = job.at(sending, "sending", self.clock.now())
            await self.jobs.save(claim, job)
            try:
                response = await self._send(claim, job, sending, data) or sending.response
            except TemporaryError as error:
                if error.uncertain:
                    raise
                put_off.append(error)
                continue
            sending = replace(sending, done=(*sending.done, recipient), to="", response=response)
            await self._record(claim, replace(job, stage=sending))
        if put_off:
            raise put_off[0]
        log.info("sent job=%s to=%s: %s", job.id, ", ".join(composed.recipients), sending.response)
        await self._file_sent(job.id, self._outgoing(composed, composed.recipients[0], data))
        await self.jobs.finish(claim, self._sent(job, composed, sending.response))

    async def _send(self, claim: Claim, job: Job, sending: Sending, data: bytes) -> str:
        """The server's answer; "" when it will not take the reply for a colleague, which must not keep it from others.
        When it surely has not taken it, that is saved before the error goes on."""
        outgoing = self._outgoing(sending.composed, sending.to, data)
        try:
            return await self.submission.send(outgoing)
        except (PermanentError, TemporaryError) as error:
            if isinstance(error, PermanentError) and sending.to != sending.composed.recipients[0]:
                log.warning("%s is not taken for %s: %s", outgoing.message_id, sending.to, error)
                return ""
            if isinstance(error, PermanentError) or not error.uncertain:
                await self.jobs.save(claim, replace(job, stage=replace(sending, to="")))
            raise

    async def _settled(self, claim: Claim, sending: Sending) -> Sending | None:
        """Where to go on from: an envelope found under way was sent by a daemon that died then, or that never heard
        the server's answer. None when it is not to be settled now."""
        job, to = claim.job, sending.to
        if not to:
            return sending
        began, now = job.history[-1], self.clock.now()
        if began.name != "uncertain":
            log.warning("job %s: uncertain whether the server took it for %s", job.id, to)
            job = replace(job.at(sending, "uncertain", now), interrupted=0)
            await self.jobs.retry(claim, job, max(0.0, began.at + self.grace_seconds - now))
            return None
        if await self._is_proven(sending):
            log.info("job %s: taken for %s: the server has put a copy into Sent", job.id, to)
            return replace(sending, done=(*sending.done, to), to="")
        if self.on_uncertain == "resend" and to not in sending.again:
            log.warning("job %s: no copy is in Sent: the same bytes go to %s once more", job.id, to)
            return replace(sending, to="", again=(*sending.again, to))
        times = "twice, both times without an answer" if to in sending.again else "without an answer"
        await self._hold(claim, f"sent to {to} {times}, and no copy is in Sent: it may have arrived or not", sending)
        return None

    async def _is_proven(self, sending: Sending) -> bool:
        """Whether a copy in Sent proves the envelope under way. Those of one reply share their Message-ID, and some
        servers keep one copy for each, others one for all: it says something of the first envelope alone. A copy of our
        own proves nothing false, since it is filed when no envelope is left."""
        return not sending.done and await self.submission.was_sent(self._outgoing(sending.composed, sending.to, b""))

    async def _hold(self, claim: Claim, reason: str, before: Sending) -> None:
        log.error("job %s: held: %s", claim.job.id, reason)
        await self.jobs.finish(claim, claim.job.at(Held(reason, before), "held", self.clock.now()))

    def _sent(self, job: Job, composed: Composed, response: str) -> Job:
        """The end. Whoever got an apology is still owed an answer: that job is kept for a person."""
        now = self.clock.now()
        stage = Sent(composed, response)
        sent = job.at(stage, "sent", now)
        return sent.at(Held(composed.apology_for, stage), "held", now) if composed.apology_for else sent

    async def _record(self, claim: Claim, job: Job) -> None:
        """Save that the server has it, as long as the lease lasts: sent and not recorded is uncertain."""
        while True:
            try:
                return await self.jobs.save(claim, job)
            except TemporaryError as error:
                log.warning("job %s is sent, but that cannot be recorded yet: %s", job.id, error)
                await asyncio.sleep(RECORD_SECONDS)

    async def _file_sent(self, job: JobId, outgoing: Outgoing) -> None:
        try:
            await self.submission.file_sent(outgoing)
        except (TemporaryError, PermanentError) as error:
            log.warning("job %s: sent, but no copy in the Sent folder: %s", job, error)

    def _outgoing(self, composed: Composed, recipient: str, data: bytes) -> Outgoing:
        return Outgoing(composed.message_id, self.sender, recipient, data)

    def enough(self, job: Job) -> bool:
        """Whether it was tried for as long as mail servers try."""
        began = max((stamp.at for stamp in job.history if stamp.name in STARTS), default=0.0)
        return self.clock.now() - began >= PATIENCE_SECONDS

    async def give_up(self, claim: Claim, reason: str, plain: bool) -> None:
        """The server will not take it: the reply has bounced, for the operator to see; the thread goes on."""
        del plain
        now = self.clock.now()
        match claim.job.stage:
            case Sending() as sending if sending.to:
                await self._hold(claim, f"it is uncertain whether {sending.to} got it: {reason}", sending)
            case Composed() | Sending() as stage:
                sending = _where(stage)
                bounced = Bounced(sending.composed, reason, sending.done)
                await self.jobs.finish(claim, claim.job.at(bounced, "bounced", now))
            case _:
                await self.jobs.finish(claim, claim.job.at(Dead(reason), "dead", now))


def _where(stage: Stage) -> Sending:
    match stage:
        case Composed():
            return Sending(stage, 0)
        case Sending():
            return stage
        case _:
            raise PermanentError(f"stage {type(stage).__name__} is not of the outbox", for_sender=False)
