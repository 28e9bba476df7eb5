"""Mailbox -> parse -> screen -> thread -> queue: a message is taken over once its job is stored, the cursor moved."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.job import Job, Received, Stamp, job_id, thread_id
from mailagent.core.quota import Limits, over, too_large, too_long
from mailagent.core.screen import Notice, Rule, colleagues, nothing_to_do, rule_for, screen
from mailagent.core.thread import claimed, continues, evidence
from mailagent.core.token import Key
from mailagent.core.values import BlobId, Ignore, Inbound, Mailbox, RawMessage, Thread
from mailagent.ports import Blobs, Clock, CursorMove, Folder, Inbox, Jobs, Ledger, Parser

log = logging.getLogger(__name__)

MAX_DELAY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Intake:
    """One mailbox, watched. `start` is where the cursor of a mailbox never seen begins: "new", "unseen" or "all";
    `keys` verify our reply tokens; with `cc` allowed colleagues whom a mail was addressed to are answered too."""

    inbox: Inbox
    parser: Parser
    blobs: Blobs
    jobs: Jobs
    clock: Clock
    rules: Sequence[Rule]
    own: str
    authserv_id: str
    start: str
    poll_seconds: float
    ledger: Ledger
    limits: Limits
    most_mb: float
    keys: Sequence[Key]
    cc: bool

    async def run(self, ready: Callable[[], None]) -> None:
        """Watch the mailbox for ever; when it or the store is away, connect again after a while. Nothing is lost by
        that and nothing is taken twice: the cursor in the store says what was taken over. `ready` is called when
        the mailbox is open and its cursor stands: whatever arrives from then on is answered."""
        delay = 1.0
        while True:
            try:
                mailbox = await self.inbox.open()
                await self._cursor(mailbox)
                ready()
                while True:
                    await self.take_new(mailbox)
                    delay = 1.0
                    await self.inbox.changed(self.poll_seconds)
            except TemporaryError as error:
                log.warning("intake: %s; again in %.0f s", error, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_DELAY_SECONDS)

    async def take_new(self, mailbox: Mailbox) -> None:
        """Take over every message above the cursor. Where the cursor is found elsewhere – the store lost its tail, or
        another daemon was here – begin again from where it stands."""
        while not await self._take_all(mailbox, await self._cursor(mailbox)):
            log.warning("the cursor of %s was moved: taken up from there", mailbox.folder)

    async def _take_all(self, mailbox: Mailbox, cursor: int) -> bool:
        for uid in await self.inbox.uids_after(cursor):
            if await self.ledger.overall_last_hour(self.clock.now()) >= self.limits.mails_per_hour:
                log.warning("over %d mails in an hour: the rest is held in the mailbox", self.limits.mails_per_hour)
                return True
            if not await self._take(CursorMove(mailbox, cursor, uid)):
                return False
            cursor = uid
        return True

    async def _cursor(self, mailbox: Mailbox) -> int:
        known = await self.jobs.cursor(mailbox)
        if known is not None:
            return known
        if await self.jobs.knows(mailbox.account, mailbox.folder):
            log.warning("%s has a new UIDVALIDITY: all of it is looked at again", mailbox.folder)
            first = 0
        else:
            first = await self.inbox.first_cursor(self.start)
        await self.jobs.advance(CursorMove(mailbox, 0, first))
        return first

    async def _take(self, move: CursorMove) -> bool:
        """Handle one message; False when the cursor was found elsewhere."""
        received = self.clock.now()
        try:
            raw = await self.inbox.fetch(move.uid, now=received)
            if raw is None:
                return await self.jobs.advance(move)
            inbound = await self.parser.parse(raw.data)
        except PermanentError as error:
            return await self._set_aside(move, "held", f"cannot be understood: {error}")
        if inbound.bounces:
            return await self._came_back(move, inbound, received)
        verdict = screen(inbound, self.rules, self.own, self.authserv_id)
        if isinstance(verdict, Ignore):
            return await self._set_aside(move, "refused", f"from {inbound.sender}: {verdict.reason}")
        return await self._accept(move, raw, inbound)

    async def _accept(self, move: CursorMove, raw: RawMessage, inbound: Inbound) -> bool:
        """Take over a mail whose sender is proven: to be answered, or to be refused once for each reason and day."""
        parsed = self.clock.now()
        thread = await self._thread(inbound)
        notice = await self._notice(raw, inbound, thread)
        history = (Stamp("received", raw.received_at), Stamp("parsed", parsed))
        message = await self.blobs.put(raw.data)
        job = new_job(raw, inbound, message, thread, notice.reason if notice else "", history)
        if notice and not await self.ledger.may_tell(job.sender, notice.kind, job.id, parsed):
            return await self._set_aside(move, "refused", f"from {job.sender}: was told today: {notice.kind}")
        if self.cc and not notice:
            job = replace(job, colleagues=colleagues(inbound, self.rules, self.own))
        result = await self.jobs.accept(job, move)
        if result == "rewound":
            return False
        if not notice:
            await self.ledger.took(job.sender, job.id, parsed)
        log.info("%s message uid=%d job=%s thread=%s", result, move.uid, job.id, job.thread)
        await self._file(move.uid, "refused" if notice else "processed")
        return True

    async def _thread(self, inbound: Inbound) -> Thread | None:
        """The thread that the mail may continue: by a token of ours, else by Message-IDs."""
        claim = claimed(inbound, self.own, self.keys)
        found = await self.jobs.thread(claim) if claim else None
        found = found or await self.jobs.thread_of(evidence(inbound))
        return found if continues(inbound, found) else None

    async def _notice(self, raw: RawMessage, inbound: Inbound, thread: Thread | None) -> Notice | None:
        """Why the mail is not answered, in words for its sender."""
        rule = rule_for(inbound, self.rules)
        if rule is None:
            return None
        now = raw.received_at
        return (
            too_large(len(raw.data), rule, self.most_mb)
            or over(await self.ledger.spent(inbound.sender, now), rule, self.limits, now)
            or (too_long(thread.turns, self.limits) if thread else None)
            or nothing_to_do(inbound, follow_up=thread is not None)
        )

    async def _came_back(self, move: CursorMove, inbound: Inbound, now: float) -> bool:
        """A bounce marks the reply that it is about; no agent sees it, and nobody gets an answer."""
        for message_id in inbound.bounces:
            job = await self.jobs.bounced(message_id, f"came back: {inbound.subject}", now)
            if job:
                log.warning("job %s: its reply %s came back", job.id, message_id)
        return await self._set_aside(move, "refused", f"from {inbound.sender}: a bounce")

    async def _set_aside(self, move: CursorMove, folder: Folder, reason: str) -> bool:
        moved = await self.jobs.advance(move)
        if moved:
            log.info("no reply to uid=%d: %s", move.uid, reason)
            await self._file(move.uid, folder)
        return moved

    async def _file(self, uid: int, folder: Folder) -> None:
        """Filing is for people to see: where it fails, the mail is taken over all the same."""
        try:
            await self.inbox.file(uid, folder)
        except TemporaryError as error:
            log.warning("uid=%d is not filed as %s: %s", uid, folder, error)
            await self.inbox.open()


def new_job(
    raw: RawMessage, inbound: Inbound, message: BlobId, thread: Thread | None, refusal: str, history: tuple[Stamp, ...]
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
        mailbox=raw.mailbox,
        uid=raw.uid,
        stage=Received(refusal),
        history=history,
    )
