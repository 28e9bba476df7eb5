"""ports.Inbox and ports.Submission in memory; tests/contracts/ holds them to the promises of the adapters."""

import asyncio
import time
from collections.abc import Sequence

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.values import Mailbox, Outgoing, RawMessage
from mailagent.demo.mailstore import Faults
from mailagent.ports import HEAD_BYTES, Folder, Head


class FakeInbox:
    """A mailbox. Tests `deliver` mail, look at `filed`, and make the server go `away` or `renumber`."""

    def __init__(self, *, moves: bool = False) -> None:
        self.away = False
        self.filed: dict[int, Folder] = {}
        self.seen: set[int] = set()
        self.fetches: list[list[int]] = []
        self.mails: dict[int, bytes] = {}
        self.arrived: dict[int, float] = {}
        self._moves = moves
        self._uidnext = 1
        self._uidvalidity = 1
        self._opened = False
        self._news = asyncio.Event()

    def deliver(self, data: bytes, at: float | None = None) -> int:
        """A mail arrives, now or then; returns its UID."""
        uid, self._uidnext = self._uidnext, self._uidnext + 1
        self.mails[uid] = data
        self.arrived[uid] = time.time() if at is None else at
        self._news.set()
        return uid

    def renumber(self) -> None:
        """The mailbox comes back under another UIDVALIDITY."""
        self._uidvalidity += 1
        self.arrived = dict(enumerate((self.arrived[uid] for uid in self.mails), 1))
        self.mails = dict(enumerate(self.mails.values(), 1))
        self._uidnext = len(self.mails) + 1
        self._opened = False
        self._news.set()

    @property
    def fetched(self) -> list[int]:
        """The messages that were read whole though they are large."""
        return [uid for uids in self.fetches for uid in uids]

    async def open(self) -> Mailbox:
        self._opened = not self.away
        return self._mailbox()

    async def first_cursor(self, start: str, now: float) -> tuple[int, float]:
        self._mailbox()
        unread = self.mails.keys() - self.seen
        if start == "all":
            return 0, 0.0
        if start == "unseen" and unread:
            return min(unread) - 1, int(self.arrived[min(unread)])
        return max(self.mails, default=0), now

    async def cursor_at(self, moment: float) -> int:
        self._mailbox()
        later = [uid for uid in self.mails if int(self.arrived[uid]) >= int(moment)]
        return min(later) - 1 if later else max(self.mails, default=0)

    async def uids_after(self, uid: int) -> list[int]:
        self._mailbox()
        return sorted(n for n in self.mails if n > uid)

    async def heads(self, uids: Sequence[int]) -> list[Head]:
        self._mailbox()
        mails = [(uid, self.mails[uid]) for uid in uids if uid in self.mails]
        return [Head(uid, len(data), data[:HEAD_BYTES]) for uid, data in mails]

    async def fetch(self, uids: Sequence[int], *, now: float) -> list[RawMessage]:
        mailbox = self._mailbox()
        self.fetches.append(list(uids))
        return [RawMessage(self.mails[uid], mailbox, uid, now) for uid in uids if uid in self.mails]

    async def file(self, uids: Sequence[int], folder: Folder) -> None:
        self._mailbox()
        for uid in uids:
            self.filed[uid] = folder
            if self._moves:
                self.mails.pop(uid, None)

    async def changed(self, timeout: float) -> None:
        try:
            await asyncio.wait_for(self._news.wait(), timeout)
        except TimeoutError:
            return
        self._news.clear()

    async def close(self) -> None:
        self._opened = False

    def _mailbox(self) -> Mailbox:
        if self.away:
            self._opened = False
        if not self._opened:
            raise TemporaryError("the server is away")
        return Mailbox("agent@mail.test", "INBOX", self._uidvalidity)


class FakeSubmission:
    """A server that takes what it is given into `sent`, and does what `faults` says; `filed` is the Sent folder, into
    which it puts copies itself if it `keeps_sent`. It takes mail when it `may_go_on`."""

    def __init__(self) -> None:
        self.keeps_sent = False
        self.may_go_on: asyncio.Event | None = None
        self.away = False
        self.faults = Faults()
        self.sent: list[Outgoing] = []
        self.filed: list[Outgoing] = []

    async def send(self, outgoing: Outgoing) -> str:
        if self.away:
            raise TemporaryError("the server is away")
        if "\n" in outgoing.recipient or "\n" in outgoing.sender:
            raise PermanentError("this is no address")
        if self.may_go_on:
            await self.may_go_on.wait()
        if reply := self.faults.data_reply:
            raise (PermanentError if reply.startswith("5") else TemporaryError)(reply)
        if self.faults.drop != "before":
            self.sent.append(outgoing)
            if self.keeps_sent:
                self.filed.append(outgoing)
        if self.faults.drop:
            raise TemporaryError("the connection was lost", uncertain=True)
        return "250 2.0.0 OK, stored"

    async def was_sent(self, outgoing: Outgoing) -> bool:
        if self.away:
            raise TemporaryError("the server is away")
        return outgoing.message_id in {mail.message_id for mail in self.filed}

    async def file_sent(self, outgoing: Outgoing) -> None:
        if not await self.was_sent(outgoing):
            self.filed.append(outgoing)
