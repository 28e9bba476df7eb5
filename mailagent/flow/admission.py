"""Thread -> quotas -> job: what becomes of a mail whose sender is proven."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mailagent.core.job import Job, Received, Stamp, job_id, thread_id
from mailagent.core.quota import Limits, Spent, over, too_large, too_long
from mailagent.core.screen import Notice, Rule, colleagues, nothing_to_do, rule_for
from mailagent.core.thread import claimed, continues, evidence
from mailagent.core.token import Key
from mailagent.core.values import BlobId, Inbound, Mailbox, Thread
from mailagent.flow.reading import Aside, Understood
from mailagent.ports import Jobs, Ledger


@dataclass(frozen=True, slots=True)
class Admission:
    """`keys` verify our reply tokens; with `cc`, allowed colleagues whom a mail was addressed to are answered too."""

    jobs: Jobs
    ledger: Ledger
    rules: Sequence[Rule]
    own: str
    limits: Limits
    most_mb: float
    keys: Sequence[Key]
    cc: bool

    async def judge(self, mailbox: Mailbox, mail: Understood, spent: Spent) -> Job | Aside:
        """The job of the mail: to be answered, or to be refused, once for each reason and day."""
        thread = await self._thread(mail.inbound)
        notice = self._notice(mail, thread, spent)
        history = (Stamp("received", mail.received_at), Stamp("parsed", mail.parsed_at))
        job = new_job(mailbox, mail.uid, mail.inbound, mail.message, thread, notice.reason if notice else "", history)
        if notice and not await self._may_tell(job, notice, mail.parsed_at):
            return Aside(mail.uid, "refused", f"from {job.sender}: was told today: {notice.kind}")
        if self.cc and not notice:
            return replace(job, colleagues=colleagues(mail.inbound, self.rules, self.own))
        return job

    async def _may_tell(self, job: Job, notice: Notice, now: float) -> bool:
        """Whether the job may tell it. One that was met before tells nothing more, and must not keep others from it."""
        known = await self.jobs.find(job.id)
        return known is not None or await self.ledger.may_tell(job.sender, notice.kind, job.id, now)

    async def _thread(self, inbound: Inbound) -> Thread | None:
        """The thread that the mail may continue: by a token of ours, else by Message-IDs."""
        claim = claimed(inbound, self.own, self.keys)
        found = await self.jobs.thread(claim) if claim else None
        found = found or await self.jobs.thread_of(evidence(inbound))
        return found if continues(inbound, found) else None

    def _notice(self, mail: Understood, thread: Thread | None, spent: Spent) -> Notice | None:
        """Why the mail is not answered, in words for its sender."""
        rule = rule_for(mail.inbound, self.rules)
        if rule is None:
            return None
        return (
            too_large(mail.size, rule, self.most_mb)
            or over(spent, rule, self.limits, mail.received_at)
            or (too_long(thread.turns, self.limits) if thread else None)
            or nothing_to_do(mail.inbound, follow_up=thread is not None)
        )


def new_job(
    mailbox: Mailbox,
    uid: int,
    inbound: Inbound,
    message: BlobId,
    thread: Thread | None,
    refusal: str,
    history: tuple[Stamp, ...],
) -> Job:
    """The job for a message in a known thread, or in the thread that it opens."""
    identity = job_id(inbound.sender, inbound.message_id, message)
    return Job(
        id=identity,
        thread=thread.id if thread else thread_id(identity),
        message=message,
        message_id=inbound.message_id,
        sender=inbound.sender,
        subject=inbound.subject,
        mailbox=mailbox,
        uid=uid,
        stage=Received(refusal),
        history=history,
    )
