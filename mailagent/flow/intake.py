"""Mailbox -> parse -> screen -> thread -> queue: a message is taken over once its job is stored, the cursor moved."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.job import Job, Received, Stamp, job_id, thread_id
from mailagent.core.screen import Rule, nothing_to_do, screen
from mailagent.core.thread import continues, evidence
from mailagent.core.values import Accept, BlobId, Ignore, Inbound, Mailbox, RawMessage, Refuse, Thread
from mailagent.ports import Blobs, Clock, CursorMove, Folder, Inbox, Jobs, Parser

log = logging.getLogger(__name__)

MAX_DELAY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Intake:
    """One mailbox, watched. `start` is where the cursor of a mailbox never seen begins: "new", "unseen" or "all"."""

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
            if not await self._take(CursorMove(mailbox, cursor, uid)):
                return False
            cursor = uid
        return True

    async def _cursor(self, mailbox: Mailbox) -> int:
        known = await self.jobs.cursor(mailbox)
        if known is not None:
            return known
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
        parsed = self.clock.now()
        verdict = screen(inbound, self.rules, self.own, self.authserv_id)
        if isinstance(verdict, Ignore):
            return await self._set_aside(move, "refused", f"from {inbound.sender}: {verdict.reason}")
        job = await self._job(raw, inbound, verdict, (Stamp("received", received), Stamp("parsed", parsed)))
        result = await self.jobs.accept(job, move)
        if result == "rewound":
            return False
        log.info("%s message uid=%d job=%s thread=%s", result, move.uid, job.id, job.thread)
        await self.inbox.file(move.uid, "processed")
        return True

    async def _job(
        self, raw: RawMessage, inbound: Inbound, verdict: Accept | Refuse, history: tuple[Stamp, ...]
    ) -> Job:
        message = await self.blobs.put(raw.data)
        thread = await self.jobs.thread_of(evidence(inbound))
        if not continues(inbound, thread):
            thread = None
        refusal = verdict if isinstance(verdict, Refuse) else nothing_to_do(inbound, follow_up=thread is not None)
        return new_job(raw, inbound, message, thread, refusal.reason if refusal else "", history)

    async def _set_aside(self, move: CursorMove, folder: Folder, reason: str) -> bool:
        moved = await self.jobs.advance(move)
        if moved:
            log.info("no reply to uid=%d: %s", move.uid, reason)
            await self.inbox.file(move.uid, folder)
        return moved


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
