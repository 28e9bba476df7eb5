"""Mailbox -> parse -> screen -> thread -> queue: a message is taken over once its job is stored, the cursor moved."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mailagent.core.errors import TemporaryError
from mailagent.core.job import Job, Received
from mailagent.core.thread import evidence
from mailagent.core.values import Mailbox
from mailagent.flow.admission import Admission
from mailagent.flow.reading import Aside, Found, Reading, Understood
from mailagent.ports import Clock, CursorMove, Folder, Inbox, Jobs, Ledger, Room

log = logging.getLogger(__name__)

MAX_DELAY_SECONDS = 60.0
HELD_SECONDS = 30.0
"""How soon mail that has to wait is looked at again."""

Outcome = Literal["taken", "held", "elsewhere"]
"""All was taken over; some must wait in the mailbox; the cursor was found elsewhere."""


@dataclass(frozen=True, slots=True)
class Intake:
    """One mailbox, watched. `start` is where the cursor of a mailbox never seen begins: "new", "unseen" or "all"."""

    inbox: Inbox
    reading: Reading
    admission: Admission
    jobs: Jobs
    ledger: Ledger
    clock: Clock
    start: str
    poll_seconds: float
    mails_per_hour: int
    waiting_mails: int
    room: Room

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
                    all_taken = await self.take_new(mailbox)
                    delay = 1.0
                    await self.inbox.changed(self.poll_seconds if all_taken else min(self.poll_seconds, HELD_SECONDS))
            except TemporaryError as error:
                log.warning("intake: %s; again in %.0f s", error, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_DELAY_SECONDS)

    async def take_new(self, mailbox: Mailbox) -> bool:
        """Take over every message above the cursor; False when some must wait where they are. Where the cursor is found
        elsewhere – the store lost its tail, or another daemon was here – begin again from where it stands."""
        while (outcome := await self._take_all(mailbox, await self._cursor(mailbox))) == "elsewhere":
            log.warning("the cursor of %s was moved: taken up from there", mailbox.folder)
        return outcome == "taken"

    async def _cursor(self, mailbox: Mailbox) -> int:
        known = await self.jobs.cursor(mailbox)
        if known is not None:
            return known
        now = self.clock.now()
        since = await self.jobs.since(mailbox, now)
        if since is None:
            first, since = await self.inbox.first_cursor(self.start, now)
        else:
            log.warning("%s has a new UIDVALIDITY: what may not have been taken over is read again", mailbox.folder)
            first = await self.inbox.cursor_at(since)
        return await self.jobs.begin(mailbox, first, since)

    async def _take_all(self, mailbox: Mailbox, cursor: int) -> Outcome:
        """While some mails are taken over, the next ones are read."""
        uids = await self.inbox.uids_after(cursor)
        if uids and not await self._room():
            return "held"
        ahead = self._read(uids)
        try:
            while ahead:
                found, last = await ahead
                uids = [uid for uid in uids if uid > last]
                ahead = self._read(uids)
                outcome = await self._take(mailbox, cursor, found, last)
                if outcome != "taken":
                    return outcome
                cursor = last
        finally:
            if ahead:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)
        return "taken"

    def _read(self, uids: Sequence[int]) -> "asyncio.Task[tuple[list[Found], int]] | None":
        return asyncio.create_task(self.reading.read(uids)) if uids else None

    async def _room(self) -> int:
        """How many mails may be taken over now: the others wait in the mailbox."""
        if not await self.room.free():
            log.warning("the disk is full: mail waits in the mailbox")
            return 0
        hour = self.mails_per_hour - await self.ledger.overall_last_hour(self.clock.now())
        queue = self.waiting_mails - await self.jobs.depth()
        if hour <= 0:
            log.warning("%d mails within an hour: the others wait in the mailbox", self.mails_per_hour)
        if queue <= 0:
            log.warning("%d mails wait for the agent: the others wait in the mailbox", self.waiting_mails)
        return max(0, min(hour, queue))

    async def _take(self, mailbox: Mailbox, cursor: int, found: Sequence[Found], last: int) -> Outcome:
        """Take over these messages, in groups, and with them all up to the UID `last`."""
        while cursor < last:
            room = await self._room()
            if not room:
                return "held"
            group = found[: min(room, independent(found))]
            found = found[len(group) :]
            upto = group[-1].uid if found else last
            if not await self._take_over(group, CursorMove(mailbox, cursor, upto)):
                return "elsewhere"
            cursor = upto
        return "taken"

    async def _take_over(self, group: Sequence[Found], move: CursorMove) -> bool:
        """Take over these messages in one step; False when the cursor was found elsewhere."""
        senders = {mail.inbound.sender for mail in group if isinstance(mail, Understood)}
        spent = await self.ledger.spent(senders, self.clock.now())
        judged = [
            await self.admission.judge(move.mailbox, one, spent[one.inbound.sender])
            if isinstance(one, Understood)
            else one
            for one in group
        ]
        await self._mark_returned(group)
        jobs = [one for one in judged if isinstance(one, Job)]
        news = await self.jobs.take_over(jobs, move)
        if news is None:
            return False
        answered = [(job.sender, job.id) for job in jobs if job.id in news and not _refused(job)]
        if answered:
            await self.ledger.took(answered, self.clock.now())
        for one in judged:
            _tell(one)
        await self._file(judged)
        return True

    async def _mark_returned(self, group: Sequence[Found]) -> None:
        """A bounce marks the reply that it is about, before it is taken over: nobody would look at it again."""
        bounces = [(one, message_id) for one in group if isinstance(one, Aside) for message_id in one.bounces]
        for one, message_id in bounces:
            if job := await self.jobs.bounced(message_id, f"came back: {one.reason}", self.clock.now()):
                log.warning("job %s: its reply %s came back", job.id, message_id)

    async def _file(self, judged: Sequence[Job | Aside]) -> None:
        """Filing is for people to see: where it fails, the mail is taken over all the same."""
        filed: dict[Folder, list[int]] = {}
        for one in judged:
            folder = one.folder if isinstance(one, Aside) else "refused" if _refused(one) else "processed"
            filed.setdefault(folder, []).append(one.uid)
        for folder, uids in filed.items():
            try:
                await self.inbox.file(uids, folder)
            except TemporaryError as error:
                log.warning("uids=%s are not filed as %s: %s", uids, folder, error)
                await self.inbox.open()


def independent(found: Sequence[Found]) -> int:
    """How many of the first can be judged at once. A mail that answers another, or has the sender of one before it, may
    belong to a thread, or to a count, that is there only when those before it are taken over."""
    senders = set[str]()
    for number, one in enumerate(found):
        if isinstance(one, Understood):
            if number and (one.inbound.sender in senders or evidence(one.inbound)):
                return number
            senders.add(one.inbound.sender)
    return len(found)


def _tell(one: Job | Aside) -> None:
    """Write to the log what became of a message."""
    if isinstance(one, Job):
        log.info("took over message uid=%d job=%s thread=%s", one.uid, one.id, one.thread)
    else:
        log.info("no reply to uid=%d: %s", one.uid, one.reason)


def _refused(job: Job) -> bool:
    return isinstance(job.stage, Received) and bool(job.stage.refusal)
