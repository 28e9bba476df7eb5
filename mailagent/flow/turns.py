"""Queue -> lease -> workspace -> agent -> render -> compose -> outbox: one turn of one thread."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from mailagent.core.compose import compose, reply_id
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.job import Answered, Composed, Job, Merged, Received, Stamp, session_id
from mailagent.core.parse import REPLY_MARKER
from mailagent.core.prompt import prompt
from mailagent.core.quota import Payer, daily
from mailagent.core.render import Style, render
from mailagent.core.screen import Rule, rule_for
from mailagent.core.thread import goes_on
from mailagent.core.token import Key, address_with, make
from mailagent.core.values import Inbound, Outcome, OutFile, Profile, Reply, ThreadId, Turn, Usage
from mailagent.ports import Agent, Blobs, Claim, Clock, Jobs, Parser, Workspace, Workspaces

log = logging.getLogger(__name__)

NO_USAGE = Usage("", 0, 0, 0, 0.0)
ANSWER = "answer.md"
OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)
APOLOGY = (
    "I am sorry: I could not answer this. Something on our side failed, also when it was tried again.\n\n"
    "Nothing of yours is lost: your files are still here. Please reply to this mail to try once more."
)
FORGOTTEN = (
    "I do not have the conversation that your mail refers to: "
    "this answer rests on what the mail itself quotes and carries."
)


@dataclass(frozen=True, slots=True)
class Turns:
    """Answers the jobs of the turns lane; `sender` and `sender_name` are what replies come from."""

    jobs: Jobs
    blobs: Blobs
    parser: Parser
    workspaces: Workspaces
    agent: Agent
    clock: Clock
    style: Style
    sender: str
    sender_name: str
    notice: str
    turn_seconds: float
    rules: Sequence[Rule]
    keys: Sequence[Key]
    """Those of reply tokens, the one that signs first; none where the server knows no plus addresses."""

    async def step(self, claim: Claim) -> None:
        """Carry one job from wherever it stands to the outbox, and with it those that wait behind it in its thread."""
        job = claim.job.stamped(Stamp("begun", self.clock.now()))
        await self.jobs.save(claim, job)
        claim = replace(claim, job=job)
        waiting = {each.id: each for each in await self.jobs.waiting(claim)}
        if isinstance(job.stage, Received):
            job = await self._answered(claim, job.stage, [each for each in waiting.values() if _may_join(each)])
        if not isinstance(job.stage, Answered):
            raise PermanentError(f"stage {type(job.stage).__name__} is not of the turns lane", for_sender=False)
        merged = [waiting[each] for each in job.stage.also if each in waiting]
        outcome = OUTCOME.validate_json(await self.blobs.get(job.stage.outcome))
        await self._hand_over(claim, job, merged, outcome)

    async def give_up(self, claim: Claim, reason: str, plain: bool) -> None:
        """Send one honest reply instead of an answer: the reason when it is in plain words, else an apology; then the
        job is held when that is sent."""
        tried = f" ({claim.job.attempts} attempts)" if claim.job.attempts else ""
        why = "" if plain else f"an apology was sent: {reason}{tried}"
        await self._hand_over(claim, claim.job, (), said(APOLOGY if why else reason), why)

    async def _answered(self, claim: Claim, stage: Received, waiting: Sequence[Job]) -> Job:
        """The job with its outcome durable: of the agent's turn, or of the refusal that intake decided on."""
        job, also = claim.job, tuple(each.id for each in waiting)
        if stage.refusal:
            outcome, also = said(stage.refusal), ()
        else:
            job, outcome = await self._agent_turn(claim, [await self._mail(each) for each in (job, *waiting)])
        blob = await self.blobs.put(OUTCOME.dump_json(outcome))
        job = job.at(Answered(blob, outcome.usage, also), "answered", self.clock.now())
        await self.jobs.save(claim, job)
        return job

    async def _mail(self, job: Job) -> Inbound:
        return await self.parser.parse(await self.blobs.get(job.message))

    async def _agent_turn(self, claim: Claim, mails: Sequence[Inbound]) -> tuple[Job, Outcome]:
        thread = await self.jobs.thread(claim.thread)
        number = thread.turns + 1 if thread else 1
        try:
            async with asyncio.timeout(self.turn_seconds):
                return await self._ask(claim, mails, number)
        except TimeoutError as error:
            raise TemporaryError(f"the turn took longer than {self.turn_seconds:.0f} s") from error
        finally:
            self.workspaces.close(claim.thread)

    async def _ask(self, claim: Claim, mails: Sequence[Inbound], number: int) -> tuple[Job, Outcome]:
        job, workspace = claim.job, await self.workspaces.open(claim.thread, claim.token)
        await self.workspaces.clear_out(workspace, number)
        files = [(file.name, file.data) for mail in mails for file in mail.attachments]
        names = await self.workspaces.add(workspace, files)
        rule = rule_for(mails[0], self.rules) or Rule()
        payer = Payer(job.id, job.thread, job.sender, daily(rule))
        opening = self._opening(workspace, mails, number)
        async with self.agent.session(workspace, payer, rule.skills) as session:
            profile = await session.profile() if names or not session.known else None
            job = job.stamped(Stamp("ingested", self.clock.now()))
            if profile and not profile.tables:
                return job, said(opening + nothing_readable(profile))
            text = prompt(mails, number, names, profile)
            outcome = await session.ask(Turn(job.thread, number, session_id(job.thread), text))
        job = job.stamped(Stamp("first model request", outcome.first_request_at))
        outcome = await self._collected(workspace, outcome)
        return job, replace(outcome, answer=opening + outcome.answer)

    def _opening(self, workspace: Workspace, mails: Sequence[Inbound], number: int) -> str:
        """One line for who goes on from a conversation that we do not have: it was forgotten, lost, or is another's."""
        domain = self.sender.rpartition("@")[2]
        unknown = number == 1 and any(goes_on(mail, domain) for mail in mails)
        return f"{FORGOTTEN}\n\n" if workspace.lost or unknown else ""

    async def _collected(self, workspace: Workspace, outcome: Outcome) -> Outcome:
        files = await self.workspaces.collect(workspace)
        await self.workspaces.snapshot(workspace)
        return replace(outcome, answer=answer_of(files) or outcome.answer, files=files)

    def _rendered(self, outcome: Outcome, mail: Inbound) -> Reply:
        """A reply that no model made says again what was asked: the next mail then brings the question back, which no
        session knows."""
        made = outcome.usage.requests > 0
        notice, question = (self.notice, "") if made else ("", mail.text)
        return render(outcome, self.style, notice=notice, marker=REPLY_MARKER, quoted_intro=question)

    async def _reply_to(self, thread: ThreadId, sender: str) -> str:
        """The address that leads back into this thread, for this sender alone; "" where it cannot be had."""
        if not self.keys:
            return ""
        found = await self.jobs.thread(thread)
        token = make(self.keys[0], thread, found.turns + 1 if found else 1, sender)
        return address_with(token, self.sender) or ""

    async def _hand_over(
        self, claim: Claim, job: Job, merged: Sequence[Job], outcome: Outcome, apology_for: str = ""
    ) -> None:
        """Lay the reply out, freeze its bytes and put it into the outbox; the merged jobs end with it."""
        mails = [await self._mail(each) for each in (job, *merged)]
        newest = mails[-1]
        colleagues = (*(mail.sender for mail in mails), *(name for each in (job, *merged) for name in each.colleagues))
        cc = tuple(dict.fromkeys(name for name in colleagues if name != newest.sender))
        outgoing = compose(
            await asyncio.to_thread(self._rendered, outcome, newest),
            inbound=newest,
            also=[mail.message_id for mail in mails[:-1]],
            cc=cc,
            reply_to=await self._reply_to(job.thread, newest.sender),
            sender=self.sender,
            sender_name=self.sender_name,
            message_id=reply_id(job.id, self.sender.rpartition("@")[2], job.times("requeued")),
            date=self.clock.now(),
            instance=self.sender,
        )
        blob = await self.blobs.put(outgoing.data)
        stage = Composed(blob, outgoing.message_id, (newest.sender, *cc), outcome.usage, apology_for)
        now = self.clock.now()
        composed = replace(job.at(stage, "composed", now), attempts=0, interrupted=0)
        await self.jobs.hand_over(claim, composed, [each.at(Merged(job.id), "merged", now) for each in merged])


def _may_join(job: Job) -> bool:
    """Whether a waiting job can be answered together with the one before it."""
    return isinstance(job.stage, Received) and not job.stage.refusal


def said(text: str) -> Outcome:
    """An outcome that no agent made: a refusal, a reason, an apology."""
    return Outcome(text, (), NO_USAGE, 0.0)


def answer_of(files: Sequence[OutFile]) -> str:
    """The text of out/answer.md, "" when the agent wrote none."""
    return next((file.data.decode("utf-8", "replace") for file in files if file.path == ANSWER), "")


def nothing_readable(profile: Profile) -> str:
    """What the sender is told when not one attachment holds a table: each file with its reason."""
    if not profile.unreadable:
        return "There is no data in this conversation yet. Please attach it as CSV, XLSX or Parquet."
    reasons = "\n".join(f"- `{name}` {reason}" for name, reason in profile.unreadable)
    return f"I could not read any data in what you sent:\n\n{reasons}\n\nPlease send it as CSV, XLSX or Parquet."
