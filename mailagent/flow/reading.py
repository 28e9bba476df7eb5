"""Mailbox -> parse -> screen, some mails at a time: of one that nobody will answer no more is read than its header."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.parse import header_of
from mailagent.core.quota import too_large
from mailagent.core.screen import Rule, rule_for, screen
from mailagent.core.values import BlobId, Ignore, Inbound
from mailagent.ports import Blobs, Clock, Folder, Head, Inbox, Parser

T = TypeVar("T")

MOST_MAILS = 100
MOST_BYTES = 16_000_000
"""What is read at once; a message that has more is read alone."""
FRUITLESS = 10
"""After so many attempts in a row, a message that the server cannot hand over though it hands over another is left to
people."""


@dataclass(frozen=True, slots=True)
class Understood:
    """A mail that may be answered: `inbound` is without the bytes of its attachments, `message` the blob of the mail,
    or of its header alone when it has more bytes (`size`) than its sender may send."""

    uid: int
    size: int
    received_at: float
    parsed_at: float
    inbound: Inbound
    message: BlobId


@dataclass(frozen=True, slots=True)
class Aside:
    """A mail to which nobody gets a reply, where it is filed and why; `bounces` are the replies that it returns."""

    uid: int
    folder: Folder
    reason: str
    bounces: tuple[str, ...] = ()


Found = Understood | Aside


class _WithheldError(TemporaryError):
    """The server did not hand over what it was asked for."""


@dataclass(slots=True)
class Reading:
    """Reads one mailbox; `most_mb` is what a mail may have, whatever the rules say."""

    inbox: Inbox
    parser: Parser
    blobs: Blobs
    clock: Clock
    rules: Sequence[Rule]
    own: str
    authserv_id: str
    most_mb: float
    _at_once: int = field(default=MOST_MAILS, init=False)
    _stuck: int = field(default=0, init=False)
    """The UID of the message that the server did not hand over alone, and for it:"""
    _fruitless: int = field(default=0, init=False)
    _others: int = field(default=0, init=False)
    """How often another was asked for."""

    async def read(self, uids: Sequence[int]) -> tuple[list[Found], int]:
        """What the first of these messages are, as many as are worth reading at once, and the UID of the last of them;
        those that are gone are left out. TemporaryError when the server or the store is away: the next attempt is for
        the first message alone, which may be the one that they stumble over."""
        first = uids[0]
        if first != self._stuck:
            self._stuck = self._fruitless = 0
        if self._fruitless == FRUITLESS:
            return [Aside(first, "held", "the server could not hand it over")], first
        another = bool(self._stuck) and await self._hands_over_another(uids[1:MOST_MAILS])
        try:
            found = await self._read(uids[: self._at_once])
        except TemporaryError as error:
            withheld = isinstance(error, _WithheldError) and self._at_once == 1
            self._stuck, self._fruitless = first if withheld else 0, self._fruitless + (withheld and another)
            self._at_once = 1
            raise
        self._stuck, self._at_once = 0, min(2 * self._at_once, MOST_MAILS)
        return found

    async def _hands_over_another(self, others: Sequence[int]) -> bool:
        """Whether the fault is the message's: a server that hands over no other either is at fault itself. Each time it
        is asked for another one, since some of these may be stuck too."""
        if not others:
            return False
        self._others += 1
        return bool(await self.inbox.fetch([others[self._others % len(others)]], now=self.clock.now()))

    async def _read(self, uids: Sequence[int]) -> tuple[list[Found], int]:
        now = self.clock.now()
        looks = await _all(self._first_look(head, now) for head in await _handed(self.inbox.heads(uids)))
        looks, last = _that_fit(looks, uids[-1])
        whole = [head.uid for head in looks if isinstance(head, Head)]
        raws = await _handed(self.inbox.fetch(whole, now=now)) if whole else []
        found = [look for look in looks if not isinstance(look, Head)]
        found += await _all(self._whole(raw.uid, raw.data, now) for raw in raws)
        return sorted(found, key=lambda one: one.uid), last

    async def _first_look(self, head: Head, now: float) -> Found | Head:
        """What a small mail is, and a larger one by its header; the head itself when the rest must be read."""
        if head.is_whole:
            return await self._whole(head.uid, head.data, now)
        header = header_of(head.data)
        try:
            inbound = await self.parser.parse(header)
        except PermanentError as error:
            return Aside(head.uid, "held", f"cannot be understood: {error}")
        if inbound.is_report:
            return head if head.size <= self.most_mb * 1e6 else _refused(head.uid, inbound, "a report, and too large")
        verdict, rule = self._screened(head.uid, inbound), rule_for(inbound, self.rules)
        if verdict or not (rule and too_large(head.size, rule, self.most_mb)):
            return verdict or head
        return Understood(head.uid, head.size, now, self.clock.now(), inbound, await self.blobs.put(header))

    async def _whole(self, uid: int, data: bytes, now: float) -> Found:
        try:
            inbound = await self.parser.parse(data)
        except PermanentError as error:
            return Aside(uid, "held", f"cannot be understood: {error}")
        parsed_at = self.clock.now()
        if verdict := self._screened(uid, inbound):
            return verdict
        bare = replace(inbound, attachments=tuple(replace(file, data=b"") for file in inbound.attachments))
        return Understood(uid, len(data), now, parsed_at, bare, await self.blobs.put(data))

    def _screened(self, uid: int, inbound: Inbound) -> Aside | None:
        """Why nobody gets a reply, None when somebody may."""
        if inbound.bounces:
            return Aside(uid, "refused", f"from {inbound.sender}: a bounce: {inbound.subject}", inbound.bounces)
        verdict = screen(inbound, self.rules, self.own, self.authserv_id)
        return _refused(uid, inbound, verdict.reason) if isinstance(verdict, Ignore) else None


def _refused(uid: int, inbound: Inbound, reason: str) -> Aside:
    return Aside(uid, "refused", f"from {inbound.sender}: {reason}")


def _that_fit(looks: Sequence[Found | Head], last: int) -> tuple[list[Found | Head], int]:
    """Those before the first that would be too much in memory, and the UID of the last of them, `last` if all fit."""
    total, fitting = 0, list[Found | Head]()
    for look in looks:
        total += look.size if isinstance(look, Head) else 0
        if total > MOST_BYTES and fitting:
            return fitting, fitting[-1].uid
        fitting.append(look)
    return fitting, last


async def _handed(asked: Awaitable[T]) -> T:
    try:
        return await asked
    except TemporaryError as error:
        raise _WithheldError(str(error)) from error


async def _all(reading: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """All results; when one fails, the others are ended first."""
    tasks = [asyncio.ensure_future(one) for one in reading]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
